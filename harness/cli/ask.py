"""`harness ask`: what the base and the models made of it answer to one prompt."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.options import (
    add_candidate_option,
    add_override_option,
    add_plugin_option,
    parse_run_options,
    set_command,
)
from harness.document import Document, to_plain_data
from harness.errors import UsageError
from harness.texts.counts import count_noun

if TYPE_CHECKING:
    from harness.cli.screen import Screen
    from harness.pipeline.asking import Answers, ModelReply

ENDINGS = {  # of an answer, in words
    "eos": "ended by itself", "stop": "ended at a stop string", "tool": "ended with a tool call",
    "length": "cut at max_new_tokens", "context": "cut at the context", "limit": "cut by the server",
}  # fmt: skip


def ask(parser: ArgumentParser) -> None:
    """ask the base, the adapter and the merged model one prompt"""
    examples = ("harness ask suite.toml 'What is the capital of Peru?'", "harness ask exports/qa < prompt.txt")
    set_command(parser, _run_ask, *examples)
    what = "a suite, whose recipe was trained by harness run, or an export"
    parser.add_argument("suite", type=Path, metavar="SUITE_OR_EXPORT", help=what)
    prompt = "what stands in the template of the suite's first eval that generates (default: read from stdin)"
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help=prompt)
    add_candidate_option(parser)
    parser.add_argument("--base", default="", metavar="MODEL", help="your copy of the base of an export, asked as well")
    add_plugin_option(parser)
    add_override_option(parser)


def _run_ask(args: Namespace) -> Document[Answers]:
    from harness.cli.terminal import Terminal
    from harness.pipeline.asking import ask_export, ask_suite

    prompt = args.prompt if args.prompt is not None else sys.stdin.read().removesuffix("\n")
    if not prompt.strip():
        raise UsageError("the prompt is empty; give a text behind the suite, or on stdin")
    terminal = Terminal()
    try:
        if args.suite.is_dir():
            if args.candidate or args.overrides:
                raise UsageError(f"{args.suite}: is a folder; --candidate and --set need a suite")
            found = ask_export(args.suite, prompt, args.base, args.plugins)
        elif args.base:
            raise UsageError(f"{args.suite}: is a suite, which names its base; remove --base")
        else:
            args.cache = False
            found = ask_suite(args.suite, prompt, parse_run_options(args))
    finally:
        terminal.clear_progress()
    return Document(found, partial(_print_answers, terminal), to_data=_convert_answers)


def _convert_answers(found: Answers) -> dict[str, Any]:
    question = found.question
    replies = [reply._asdict() for reply in found.replies]
    generation = to_plain_data(question.how)
    asked = {"eval": question.evaluation, "prompt": question.prompt}
    return {**asked, "notes": found.notes, "replies": replies, "generation": generation}


def _print_answers(screen: Screen, found: Answers) -> None:
    """Print the prompt, then each model's answer.

    The prompt is printed once for consecutive models that were sent the same tokens.
    """
    where = f'as eval "{found.question.evaluation}" asks' if found.question.evaluation else "as it is"
    before: object = ()
    for reply in found.replies:
        if reply.prompt_tokens != before:
            before = reply.prompt_tokens
            _print_prompt(screen, reply, where, found)
        told = [count_noun(reply.tokens, "token")] if reply.tokens is not None else []
        told += [ENDINGS[reply.finish_reason]] if reply.finish_reason in ENDINGS else []
        screen.print_line(f"{reply.subject}  {', '.join([*told, f'{reply.seconds:.1f} s'])}", "bold")
        screen.print_lines(reply.text or "(empty)")
    for note in found.notes:
        screen.print_line(f"note: {note}", "yellow")


def _print_prompt(screen: Screen, reply: ModelReply, where: str, found: Answers) -> None:
    if reply.prompt_tokens is None:
        prompt = found.question.prompt
        screen.print_line(f"prompt  {where}", "bold")
        screen.print_lines(
            prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)
        )
        return
    screen.print_line(f"prompt  {count_noun(len(reply.prompt_tokens), 'token')}, {where}", "bold")
    screen.print_lines("|".join(token.replace("\n", "\\n") for token in reply.prompt_tokens))
