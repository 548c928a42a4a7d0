"""`--github`, and by itself in a job of GitHub Actions: annotations, a summary, and no command in what models say."""

from __future__ import annotations

import argparse
import os
import re
import stat
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

TELLING = ("run", "check", "plan", "selftest", "show", "judge", "verify")  # commands that print texts of models
PLACE = re.compile(r"(?P<file>[^:\n]+\.toml)(?::(?P<line>\d+))?: (?P<what>.*)")


def in_job(args: argparse.Namespace) -> bool:
    """Return whether a job of GitHub Actions is to be told."""
    return bool(getattr(args, "github", False)) or os.environ.get("GITHUB_ACTIONS") == "true"


@contextmanager
def commands_stopped(args: argparse.Namespace) -> Iterator[Callable[[Sequence[str]], None]]:
    """Keep the runner from obeying what is printed, which holds texts of models; yield what adds our own commands."""
    token, ours = uuid.uuid4().hex, list[str]()
    stopped = in_job(args) and str(getattr(args, "documented", "")).partition(" ")[0] in TELLING and not _redirected()
    if stopped:
        print(f"::stop-commands::{token}", flush=True)
    try:
        yield ours.extend
    finally:
        if stopped:
            print(f"::{token}::")
        for command in ours if in_job(args) else ():  # the runner reads both streams
            print(command, file=sys.stdout if stopped else sys.stderr)


def _redirected() -> bool:
    """Return whether stdout is a file, which no runner reads and in which our commands would stand."""
    try:
        return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def mistakes(messages: Sequence[str]) -> list[str]:
    """Return annotations of the mistakes of a command line, at the line of the suite where they name one."""
    from harness.reports.github import annotation, at_most

    found = []
    for message in messages:
        place = PLACE.match(message)
        line = int(place["line"]) if place and place["line"] else None
        found.append(annotation("error", place["what"] if place else message, place["file"] if place else "", line))
    return at_most(found)
