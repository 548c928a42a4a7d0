"""`--github`, and by itself in a job of GitHub Actions: annotations, a summary, and no command in what models say."""

from __future__ import annotations

import os
import re
import stat
import sys
import uuid
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.hookspec import hookimpl
from harness.records.run import Run
from harness.suite.lines import gate_lines
from harness_ci.github import annotation, annotations_of, at_most, write_summary
from harness_ci.markdown import run_markdown

TELLING = ("run", "check", "plan", "selftest", "show", "judge", "verify")  # commands that print texts of models
PLACE = re.compile(r"(?P<file>[^:\n]+\.toml)(?::(?P<line>\d+))?: (?P<what>.*)")


class Job:
    """A command in a job: while it is open the runner obeys nothing of what is printed, which holds texts of models.

    It listens to the runs of the command, and annotates them and its mistakes when it closes, if it was concluded.
    """

    def __init__(self, args: Namespace) -> None:
        stops = str(getattr(args, "documented", "")).partition(" ")[0] in TELLING and not _redirected()
        self.token = uuid.uuid4().hex if stops else ""
        self.of_runs: list[str] = []
        self.annotations: list[str] = []

    def __enter__(self) -> Job:
        if self.token:
            print(f"::stop-commands::{self.token}", flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.token:
            print(f"::{self.token}::")
        for command in self.annotations:  # the runner reads both streams
            print(command, file=sys.stdout if self.token else sys.stderr)

    @hookimpl
    def harness_run_finish(self, run: Run) -> None:
        self.of_runs += annotations_of(run, gate_lines(Path(run.path)))
        try:
            write_summary(run_markdown(run, Path(run.folder) if run.folder else None))
        except OSError as error:
            self.of_runs.append(annotation("warning", f"the summary cannot be written: {error.strerror}"))

    def conclude(self, mistakes: Sequence[str]) -> None:
        """Annotate the mistakes of the command line, at the line of the suite where they name one, and its runs."""
        self.annotations = [*at_most([*_located(mistakes)]), *self.of_runs]


def _redirected() -> bool:
    """Return whether stdout is a file, which no runner reads and in which our commands would stand."""
    try:
        return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def _located(messages: Sequence[str]) -> Iterator[str]:
    for message in messages:
        place = PLACE.match(message)
        line = int(place["line"]) if place and place["line"] else None
        yield annotation("error", place["what"] if place else message, place["file"] if place else "", line)
