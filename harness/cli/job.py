"""A job of GitHub Actions as a listener of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.hookspec import hookimpl
from harness.records.run import Run
from harness.reports.github import annotation, annotations_of, write_summary
from harness.reports.markdown import run_markdown
from harness.suite.lines import gate_lines


class Job:
    """A listener that tells a job of a run: a summary, and annotations in `args.annotations` for the end."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    @hookimpl
    def harness_run_finish(self, run: Run) -> None:
        before = getattr(self.args, "annotations", [])  # of suites that ran before it
        self.args.annotations = [*before, *annotations_of(run, gate_lines(Path(run.path)))]
        try:
            write_summary(run_markdown(run, Path(run.folder) if run.folder else None))
        except OSError as error:
            self.args.annotations.append(annotation("warning", f"the summary cannot be written: {error.strerror}"))
