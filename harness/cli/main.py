"""The entry point: words in, exit code out."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

from harness.cli import signals, streams
from harness.cli.guard import guarded
from harness.cli.parser import parser
from harness.cli.streams import say
from harness.errors import ExitCode, UsageError, of_the_machine
from harness.texts.shown import shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; a mistake of the user is one line on stderr."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        args = parser(words).parse_args(words)
    except UsageError as error:
        return _refused(error)
    try:
        with signals.as_interrupts(), streams.outliving_their_reader():
            return _ended(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED


def _ended(args: argparse.Namespace) -> int:
    """Run a command; whatever it raises but an interruption has an exit code, and that of success is no exception's."""
    try:
        return int(guarded(args.command, args))
    except UsageError as error:
        return _refused(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a bug of ours, or a plugin's sys.exit(), has an exit code of its own
        if full := of_the_machine(error):
            say(f"error: {full}", sys.stderr)
            return ExitCode.USAGE
        print(shown(traceback.format_exc(), lines=True), end="", file=sys.stderr)
        return ExitCode.INTERNAL


def _refused(error: UsageError) -> int:
    for message in error.messages:
        say(f"error: {message}", sys.stderr)
    return ExitCode.USAGE
