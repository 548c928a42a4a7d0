"""The parser class and options shared by several commands."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from harness.document import Document
from harness.errors import ExitCode
from harness.texts.escaping import printable

if TYPE_CHECKING:
    from harness.pipeline.run import Options

PLUGIN_HELP = "load the plugin NAME; no:NAME blocks it"


class Parser(argparse.ArgumentParser):
    """A parser, and its commands', that ends as every mistake does: argparse's own 2 is our "interrupted"."""

    def __init__(self, *args: Any, **given: Any) -> None:
        given.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)  # examples are written as they are
        super().__init__(*args, **given)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"{self.prog}: error: {printable(message)}\n")


def set_command(
    parser: argparse.ArgumentParser, function: Callable[[argparse.Namespace], Document[Any]], *examples: str
) -> None:
    """Set a command's function, and the examples in its help."""
    parser.set_defaults(command=function)
    parser.epilog = "\n  ".join(["examples:", *examples])


def add_json_option(parser: argparse.ArgumentParser, name: str) -> None:
    """Add --json to a command, or to its subcommands.

    With --json a command's text goes to stderr, and its data to stdout.
    """
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in below:
        for word, one in action.choices.items():
            add_json_option(one, f"{name} {word}")
    if not below and not any("--json" in a.option_strings for a in parser._actions):
        parser.add_argument(
            "--json", action="store_true", help="print one JSON document on stdout, everything else on stderr"
        )
        parser.set_defaults(documented=name)


def parse_run_options(args: argparse.Namespace) -> Options:
    """Return the Options of a run from parsed arguments.

    Arguments have the names of the fields.
    """
    from harness.pipeline.run import Options

    given: dict[str, Any] = {f.name: getattr(args, f.name) for f in fields(Options) if hasattr(args, f.name)}
    given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return Options(**given)


def add_harnessfile_options(parser: argparse.ArgumentParser) -> None:
    """Add --suite and -p to a command that needs no suite.

    They name the plugins to load.
    """
    parser.add_argument("--suite", type=Path, metavar="SUITE", help="load the harnessfile of this suite's folder")
    add_plugin_option(parser)


def add_plugin_option(parser: argparse._ActionsContainer, help: str = PLUGIN_HELP) -> None:
    """Add -p, which loads plugins and blocks them."""
    parser.add_argument("-p", action="append", default=[], dest="plugins", metavar="NAME", help=help)


def add_worker_options(parser: argparse._ActionsContainer) -> None:
    """Add --on, which says where models answer, and --patience."""
    where = "where models run: local:N for N processes on this machine, or a plugin's backend (HARNESS_ON)"
    parser.add_argument("--on", default=os.environ.get("HARNESS_ON", ""), metavar="WORKERS", help=where)
    silent = "restart a worker that sends no heartbeat for SECONDS; loading and single rows may take six "
    silent += "times that (600, HARNESS_PATIENCE)"
    given = os.environ.get("HARNESS_PATIENCE", "600")
    parser.add_argument("--patience", type=_parse_positive_seconds, default=given, metavar="SECONDS", help=silent)


def _parse_positive_seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < (found := float(text)) < math.inf:
            return found
    raise argparse.ArgumentTypeError(f'"{text}" is not a number of seconds above 0')


def add_override_option(parser: argparse._ActionsContainer) -> None:
    """Add --set, which changes keys of the suite."""
    help = "override a value of the suite"
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="TABLE.KEY=VALUE", help=help)


def add_candidate_option(parser: argparse.ArgumentParser) -> None:
    """Add --candidate to a command that only looks ahead.

    Such a command also takes a suite for candidates without one.
    """
    parser.add_argument("--candidate", metavar="PATH", help="use this adapter or merged model as the candidate")
    parser.set_defaults(ahead=True)


def add_verbosity_options(parser: argparse._ActionsContainer) -> None:
    """Add -q and -v."""
    parser.add_argument("-q", action="count", default=0, help="print only the summary")
    parser.add_argument("-v", action="count", default=0, help="also print slices, test names and tracebacks")
