"""Commands about a project: `harness init`, `harness plugins`, `harness explain` and `harness waive`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.options import Commands, command, with_harnessfile
from harness.cli.streams import say
from harness.errors import ExitCode, UsageError, did_you_mean

if TYPE_CHECKING:
    from harness.plugins import Provided


def init(args: argparse.Namespace) -> int:
    """`harness init [FOLDER]`: a suite and example data that run and pass, for a task."""
    from harness.cli.init import write_project

    paths, commands = write_project(args.folder, args.task)
    for path in paths:
        print(path)
    there = "" if args.folder == Path() else f"cd {shlex.quote(str(args.folder))} && "
    print(f"next: {there}{' && '.join(commands)}", file=sys.stderr)
    return ExitCode.OK


def plugins(args: argparse.Namespace) -> int:
    """`harness plugins [NAME]`: what may stand after `use =`, and its options."""
    from harness.plugins import load_plugins

    suite = args.suite or Path("harness.toml")
    found = load_plugins(suite, args.p).provided
    chosen = [p for p in found.values() if args.name in (None, p.name, p.plugin)]
    if not chosen:
        raise UsageError(f'no plugin provides "{args.name}"; see harness plugins')
    for provided in sorted(chosen, key=lambda p: (p.kind, p.name)):
        _print_provided(provided)
    return ExitCode.OK


def _print_provided(provided: Provided) -> None:
    import inspect

    from harness.schema import hints_of, kind, options_of, show

    print(f"{provided.kind} {provided.name}  ({provided.plugin})")
    summary = (inspect.getdoc(provided.function) or "").partition("\n")[0]
    if summary:
        print(f"    {summary}")
    named, open_ended = options_of(provided.function)
    hints = hints_of(provided.function)
    for name, parameter in named.items():
        default = "required" if parameter.default is parameter.empty else f"default {show(parameter.default)}"
        print(f"    {name}: {kind(hints.get(name, parameter.annotation))}, {default}")
    if open_ended:
        print("    … and the options of the library behind it")


def explain(args: argparse.Namespace) -> int:
    """`harness explain CODE`: why a check is there."""
    import inspect

    from harness.evaluation.checks import BUILD, title_of
    from harness.plugins import load_plugins

    found = {n: p for (kind, n), p in load_plugins(args.suite, args.p).provided.items() if kind == "check"}
    texts = {"build": BUILD} | {name: inspect.getdoc(p.function) or "" for name, p in found.items()}
    titles = {name: title for name, p in found.items() if (title := title_of(p))}
    if args.code is None:
        for name, text in texts.items():
            title = f"{titles[name]}: " if name in titles else ""
            print(f"{name:<6} {title}{text.partition(chr(10))[0]}")
        return ExitCode.OK
    codes = {title: name for name, title in titles.items()}
    name = codes.get(args.code, args.code.partition("-")[0])
    if name not in texts:
        raise UsageError(f'no check "{name}"{did_you_mean(name, [*texts, *codes])}; see harness explain')
    title = f" {titles[name]}" if name in titles else ""
    print(f"{name}{title}: {texts[name]}")
    return ExitCode.OK


def waive(args: argparse.Namespace) -> int:
    """`harness waive GATE`: let a gate be broken until a date, in writing."""
    from harness.suite.waivers import waive as add

    path, made = add(args.gate, args.reason, args.until, args.suite, args.by)
    say(f'{path}: "{made.gate}" ({made.claim}) {made.says()}')
    return ExitCode.OK


def init_parser(commands: Commands) -> None:
    """Add `harness init`."""
    from harness.cli.examples import EXAMPLES

    one = command(commands, "init", init, "write a suite and example data that run and pass")
    one.add_argument("--task", choices=EXAMPLES, default="qa", help="what the model is to do, by default qa")
    one.add_argument("folder", type=Path, nargs="?", default=Path(), metavar="FOLDER")


def plugins_parser(commands: Commands) -> None:
    """Add `harness plugins`."""
    one = command(commands, "plugins", plugins, "list what may stand after `use =`, and the options of each")
    one.add_argument("name", nargs="?", help="only what this plugin or name provides")
    with_harnessfile(one)


def explain_parser(commands: Commands) -> None:
    """Add `harness explain`."""
    one = command(commands, "explain", explain, "say why a check is there; without a code, list all")
    one.add_argument("code", nargs="?", metavar="CODE")
    with_harnessfile(one)


def waive_parser(commands: Commands) -> None:
    """Add `harness waive`."""
    one = command(commands, "waive", waive, "let a gate be broken until a date, in writing")
    one.add_argument("gate", metavar="GATE", help="the id of a gate")
    one.add_argument("--reason", required=True, metavar="TEXT", help="why it may be broken")
    one.add_argument("--until", required=True, metavar="YYYY-MM-DD", help="the last day it counts, UTC")
    one.add_argument("--suite", type=Path, metavar="SUITE", help="unless only one here or in suites/ has such a gate")
    one.add_argument("--by", metavar="NAME", help="who answers for it; you, unless you say")
