"""`harness blame`: open the suite of a run again, and name suspects among its training rows."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.cause.suspects import (
    MAX_SUSPECT_SHARE,
    SplitRows,
    Suspect,
    SuspectGroup,
    find_verdict,
    rank_groups,
    rank_rows,
    score_rows,
    split_rows,
    suspects_of,
    trained_rows,
)
from harness.errors import UsageError
from harness.pipeline.run import open_run
from harness.pipeline.run_context import RunContext
from harness.pipeline.session import Options
from harness.records.run import Run
from harness.records.verdicts import Verdict
from harness.reports.report_json import read_run
from harness.suite.reader import read_suite
from harness.texts.escaping import printable


@dataclass(frozen=True)
class BlameQuestion:
    """The options of `harness blame`.

    They name a gate, and the suspects as a number or share of rows, or as the best group of some kinds.
    """

    gate: str
    rows: int | None = None
    share: float | None = None
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Blame:
    """The suspects for a gate's lost rows, with their run."""

    run: RunContext
    folder: Path
    verdict: Verdict
    rows: SplitRows
    suspects: Sequence[Suspect]
    groups: Sequence[SuspectGroup]
    trained: int


def find_suspects(suite: Path, folder: Path, asked: BlameQuestion, options: Options) -> Blame:
    """Find suspects of a suite's run by text alone, in seconds. Nothing is loaded or trained. Raises UsageError."""
    report = read_run(folder)
    folder = folder if folder.is_dir() else folder.parent
    run = open_suite_of_run(suite, report, folder, options)
    verdict = find_verdict(report, folder, asked.gate, run.collection.recipe)
    split, rows = split_rows(folder, verdict), trained_rows(run.collection)
    most, scores = _resolve_suspect_count(asked, len(rows)), score_rows(rows, split.lost)
    groups = rank_groups(rows, scores, asked.by) if asked.by else rank_groups(rows, scores)
    if asked.by and not groups:
        raise UsageError(f"--by {','.join(asked.by)}: no group of at most half of the training rows reads like them")
    suspects = suspects_of(groups[0], rows, scores) if asked.by else rank_rows(rows, scores, most)
    return Blame(run, folder, verdict, split, suspects, groups, len(rows))


def open_suite_of_run(path: Path, report: Run, folder: Path, options: Options) -> RunContext:
    """Open the suite that the user names, with the user's options.

    The run folder is another's: nothing that it says is opened, imported or passed on. Raises UsageError, before any
    plugin is imported, if the run ran another suite or had other options, or trained nothing.
    """
    if report.selecting or "--candidate" in report.invocation:
        raise UsageError(f"{folder}: its run trained nothing and gated it; blame needs the run of a suite with [train]")
    suite = read_suite(path, options.overrides)
    if suite.digest != report.digest:
        raise UsageError(f"{path}: differs from the suite of {folder}; {_suggest_options(report)}")
    if options.limit != report.invocation.get("--limit"):
        raise UsageError(f"{folder}: its run had another --limit; {_suggest_options(report)}")
    if not suite.trains:
        raise UsageError(f"{path}: trains nothing, so no training row can be the cause")
    if suite.sweep:
        raise UsageError(f"{path}: has a [sweep]; run it again with the chosen value in place of [sweep]")
    run = open_run(path, replace(options, counts=False))
    if not run.collection.training:
        raise UsageError(f"{path}: trains nothing, so no training row can be the cause")
    return run


def _suggest_options(report: Run) -> str:
    """Return what to do about a run with other options than the command's."""
    overrides, limit = report.invocation.get("--set"), report.invocation.get("--limit")
    flags = [f"--set {shlex.quote(text)}" for text in overrides or () if isinstance(text, str)]
    flags += [f"--limit {limit}"] if isinstance(limit, int) else []
    return f"the run was made with {printable(' '.join(flags))}" if flags else "run the suite again"


def _resolve_suspect_count(asked: BlameQuestion, trained: int) -> int:
    """Return how many rows are suspects. Raises UsageError where that is none, or too many."""
    if asked.share is not None:
        if not 0 < asked.share <= MAX_SUSPECT_SHARE:
            raise UsageError(f"--share is {asked.share:g}; it must be above 0 and at most {MAX_SUSPECT_SHARE:g}")
        return max(1, round(asked.share * trained))
    rows = min(10, int(MAX_SUSPECT_SHARE * trained)) if asked.rows is None else asked.rows
    if not 1 <= rows <= MAX_SUSPECT_SHARE * trained:
        raise UsageError(f"--rows is {rows}; it must be from 1 to half of the {trained} training rows")
    return rows
