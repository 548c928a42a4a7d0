"""The command-line parser, with commands grouped as in `harness --help`."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.cli import ask, blame, cache, doctor, gate, init, plan, release, run, selftest, verify
from harness.cli.options import Parser, add_json_option
from harness.errors import PLUGIN_ERRORS, ExitCode, UsageError, did_you_mean, missing_modules_message
from harness.version import __version__

EXIT_CODES = (
    "exit codes: 0 every blocking gate passed or is waived, 1 a gate failed, 2 interrupted, 3 "
    "internal error, 4 a mistake in suite, data or command, 5 nothing was gated, 6 inconclusive "
    "or not evaluated, 7 refused, 8 a server gave no answer"
)
COMMAND_ENTRY_POINTS = "harness.commands"  # entry points of commands that installed plugins bring
Build = Callable[[argparse.ArgumentParser], None]  # of a command, whose name is the function's
GROUPS: dict[str, tuple[Build, ...]] = {  # a plugin's command stands at the end of the group that it sets
    "start": (init.init, doctor.doctor),
    "run": (run.run, run.check, plan.plan, selftest.selftest, selftest.aa, gate.gate),
    "look": (run.show, ask.ask, blame.blame, release.explain),
    "ship": (release.waive, verify.verify, release.keygen, release.sign, release.promote, release.publish),
    "extend": (release.plugins, release.schema, cache.cache),
}
EXAMPLES = """examples:
  harness init mine && harness run mine/suite.toml
  harness show --rows --wrong"""
RUNS = ("train", "eval", "evaluate", "test")  # what others call it
SHELLS = ("bash", "zsh", "tcsh")


class _Whole(Parser):
    """The parser of all commands, grouped by purpose in its help."""

    def __init__(self) -> None:
        about = "Decide whether a fine-tuned language model may ship."
        super().__init__("harness", usage="harness COMMAND …", description=about)
        self.commands = self.add_subparsers(required=True, prog="harness", metavar="COMMAND", parser_class=Parser)
        self.groups: dict[str, list[str]] = {group: [] for group in GROUPS}

    def add(self, name: str, build: Build) -> argparse.ArgumentParser:
        """Add a command from the function that builds its parser.

        The function's docstring is the help. It adds the arguments and sets `command`, a function of the parsed
        arguments that returns a Document.
        """
        help = (inspect.getdoc(build) or "").partition("\n")[0]
        parser: argparse.ArgumentParser = self.commands.add_parser(name, help=help, description=help)
        build(parser)
        add_json_option(parser, name)
        return parser

    def format_help(self) -> str:
        helps = {a.dest: a.help or "" for a in self.commands._choices_actions}
        room = max(map(len, helps)) + 4
        lines = [f"usage: {self.usage}", "", self.description or ""]
        for group, names in self.groups.items():
            lines += ["", group]
            for name in (name for name in names if name in helps):
                lines += textwrap.wrap(f"  {name}".ljust(room) + helps[name], 80, subsequent_indent=" " * room)
        lines += ["", "harness help COMMAND explains one command, harness --version prints the version,"]
        lines += [
            f"harness --print-completion {'|'.join(SHELLS)} prints a completion script for a shell.",
            "",
            EXAMPLES,
            "",
        ]
        return "\n".join([*lines, *textwrap.wrap(EXIT_CODES, 80), ""])


def make_parser(words: Sequence[str]) -> _Whole:
    """Return the parser for a command line.

    Parsed arguments have the command's function as `command`. If the first word is none of our commands, those of
    plugins are added, each to the group that it sets as a default. Raises UsageError if one cannot be loaded, or its
    name is taken.
    """
    made = _Whole()
    made.add_argument("--version", action="version", version=f"harness {__version__}")
    made.add_argument("--print-completion", choices=SHELLS, action=_CompletionAction, help=argparse.SUPPRESS)
    own = {build.__name__: build for builders in GROUPS.values() for build in builders}
    if words and words[0] in own:  # the others' arguments cost imports that this one does without
        made.add(words[0], own[words[0]])
        return made
    for group, builders in GROUPS.items():
        made.groups[group] += [build.__name__ for build in builders]
        for build in builders:
            made.add(build.__name__, build)
    from importlib.metadata import entry_points  # it brings email and socket, which `harness verify` does without

    for point in sorted(entry_points(group=COMMAND_ENTRY_POINTS), key=lambda p: p.name):
        where = f'command "{point.name}" of {point.value}'
        if point.name in made.commands.choices:
            raise UsageError(f"{where}: this command exists already; rename it")
        try:
            brought = made.add(point.name, point.load())
        except PLUGIN_ERRORS as error:
            raise UsageError(f"{where}: cannot be loaded: {type(error).__name__}: {error}") from error
        made.groups.get(brought.get_default("group"), made.groups["extend"]).append(point.name)
    return made


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line.

    Exits after printing the help for `help` or no words, or an error for an unknown command or argument. Raises
    UsageError if an argument is not valid UTF-8, and as `make_parser` does.
    """
    for word in words:
        try:
            os.fsencode(word)
        except UnicodeEncodeError:
            raise UsageError(f"argument is not valid UTF-8: {word}") from None
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    made = make_parser(words)
    if not words:  # a line whose variable was empty is no success
        made.print_help(sys.stderr)
        made.exit(ExitCode.USAGE)
    if not words[0].startswith("-") and words[0] not in made.commands.choices:
        meant = did_you_mean("run" if words[0] in RUNS else words[0], made.commands.choices)
        made.error(f'no command "{words[0]}"{meant if "did you mean" in meant else "; see harness help"}')
    args, left = made.parse_known_args(words)
    if left:
        meant = _suggest_override(left, words) if hasattr(args, "overrides") else ""
        made.commands.choices.get(words[0], made).error(f"unrecognized arguments: {' '.join(left)}{meant}")
    return args


def _suggest_override(left: Sequence[str], words: Sequence[str]) -> str:
    """Suggest --set for an unknown option that is a suite key.

    Empty if there is no suggestion.
    """
    from harness.texts.option_names import OPTION_NAMES

    name, _, value = left[0].partition("=")
    key = name.removeprefix("--").replace("-", "_")
    if not name.startswith("--"):
        return "; quote a value with spaces: --set 'TABLE.KEY=two words'" if "--set" in words else ""
    meant = {name for name in OPTION_NAMES.values() if name.startswith(("train.", "adapter.", "model."))}
    known = {"model": "model.path", "data": "train.data"} | {name.partition(".")[2]: name for name in meant}
    where = OPTION_NAMES[key] if OPTION_NAMES.get(key) in meant else known.get(key)
    return f"; did you mean --set {where}={value or next(iter(left[1:]), '…')}?" if where else ""


class _CompletionAction(argparse.Action):
    """An argparse action that prints a shell completion script and exits.

    Raises UsageError if shtab is not installed.
    """

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        try:
            import shtab
        except ModuleNotFoundError:
            raise UsageError(f"--print-completion: {missing_modules_message('shtab')}") from None
        _add_file_completion(parser, shtab.FILE)
        print(shtab.complete(parser, str(given[1])))
        parser.exit()


def _add_file_completion(parser: argparse.ArgumentParser, how: Mapping[str, Any]) -> None:
    """Let everything that is a path be completed as one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                _add_file_completion(one, how)
        elif getattr(action.type, "__name__", "") == "Path":
            action.complete = how  # type: ignore[attr-defined]
