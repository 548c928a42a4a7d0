"""The entry point: words in, exit code out."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from harness import plugin_errors
from harness.cli import streams
from harness.cli.parser import parse_arguments as parsed
from harness.cli.signals import run_guarded, signals_as_interrupts
from harness.document import Document
from harness.errors import ExitCode, UsageError, missing_extra_error, resource_error
from harness.texts.escaping import printable
from harness.texts.printing import print_line

COMMAND = "  harness "  # how a message begins that is a command
FORMAT_VERSION = 1  # of the documents of --json; raised when what reads an older one would misread it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    A user's mistake is printed as one line on stderr.
    """
    try:
        with streams.surviving_closed_pipes():
            try:
                args = parsed(list(sys.argv[1:] if arguments is None else arguments))
            except UsageError as error:
                return _print_mistakes(error.messages)
            with signals_as_interrupts():
                return int(run_guarded(_run_command, args) if arguments is None else _run_command(args))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED


def _open_job(args: argparse.Namespace) -> AbstractContextManager[Any]:
    from harness.cli.github import GithubJob

    return GithubJob(args)


def _run_command(args: argparse.Namespace) -> int:
    """Run a command, print its document and return its exit code.

    With --json its text goes to stderr, and one JSON document to stdout. In a GitHub job the runner ignores workflow
    commands in its output.
    """
    asked = getattr(args, "github", False) or os.environ.get("GITHUB_ACTIONS") == "true"
    job: AbstractContextManager[Any] = _open_job(args) if asked else nullcontext()  # obeys nothing that models say
    document, errors = Document[Any]({}), list[str]()
    with streams.reserve_stdout(wants_json(args)) as write, job as args.job:
        try:
            document = args.command(args)
            document.print_text(document.value)
            code = int(document.exit_code)
        except UsageError as error:
            code, errors = _print_mistakes(error.messages), list(error.messages)
        except KeyboardInterrupt:
            if not wants_json(args):
                raise
            print("interrupted", file=sys.stderr)
            code, errors = ExitCode.INTERRUPTED, ["interrupted"]
        except BaseException as error:  # a bug of ours, or a plugin's sys.exit(), has an exit code of its own
            if line := resource_error(error) or plugin_errors.error_location(error) or missing_extra_error(error):
                code, errors = _print_mistakes([line]), [line]
            else:
                print(printable(traceback.format_exc(), lines=True), end="", file=sys.stderr)
                code, errors = ExitCode.INTERNAL, [f"{type(error).__name__}: {error}"]
        if args.job:
            args.job.write_annotations(errors)
        if wants_json(args):
            from harness.texts.json_text import dumps

            told = {"format": FORMAT_VERSION, "command": args.documented, "exit_code": int(code)}
            data = document.to_data(document.value)
            write(dumps({**told, **data, **({"errors": errors} if errors else {})}))
        return code


def wants_json(args: argparse.Namespace) -> bool:
    """Return whether a command writes only one JSON document to stdout."""
    return bool(getattr(args, "documented", "") and args.json)


def _print_mistakes(messages: Sequence[str]) -> int:
    for message in messages:
        if message.startswith(COMMAND):  # to be copied, so that no line is cut
            print(printable(message), file=sys.stderr)
        else:  # what is indented belongs to the line above
            print_line(message if message.startswith("  ") else f"error: {message}", sys.stderr)
    return ExitCode.USAGE
