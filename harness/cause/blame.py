"""`harness blame`: open the suite of a run again, and name suspects among its training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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


def find_suspects(folder: Path, asked: BlameQuestion, options: Options) -> Blame:
    """Find suspects by text alone, in seconds. Nothing is loaded or trained. Raises UsageError."""
    report = read_run(folder)
    folder = folder if folder.is_dir() else folder.parent
    run = open_again(report, folder, options)
    verdict = find_verdict(report, folder, asked.gate, run.collection.recipe)
    split, rows = split_rows(folder, verdict), trained_rows(run.collection)
    most, scores = _resolve_suspect_count(asked, len(rows)), score_rows(rows, split.lost)
    groups = rank_groups(rows, scores, asked.by) if asked.by else rank_groups(rows, scores)
    if asked.by and not groups:
        raise UsageError(f"--by {','.join(asked.by)}: no group of at most half of the training rows reads like them")
    suspects = suspects_of(groups[0], rows, scores) if asked.by else rank_rows(rows, scores, most)
    return Blame(run, folder, verdict, split, suspects, groups, len(rows))


def open_again(report: Run, folder: Path, options: Options) -> RunContext:
    """Open the suite that a run ran, with its options. Raises UsageError where it is another now, or trains nothing."""
    told = report.invocation
    if report.selecting or told.get("--candidate"):
        raise UsageError(f"{folder}: its run trained nothing and gated it; blame needs the run of a suite with [train]")
    named: Any = {"overrides": told.get("--set", ()), "limit": told.get("--limit")}
    plugins = (*told.get("-p", ()), *options.plugins)
    options = replace(options, plugins=tuple(dict.fromkeys(plugins)), overrides=tuple(named["overrides"]))
    options = replace(options, limit=named["limit"], ignore=tuple(told.get("--ignore", ())), counts=False)
    places = [Path(report.path), *(parent / report.path for parent in folder.absolute().parents)]
    if not (there := [path for path in places if path.is_file()]):
        raise UsageError(f'{folder}: its suite "{report.path}" is not here; run harness blame in the suite\'s folder')
    run = open_run(there[0], options)
    if run.suite.digest != report.digest:
        raise UsageError(f"{there[0]}: has changed since {folder}; run the suite again")
    if not run.suite.trains or not run.collection.training:
        raise UsageError(f"{there[0]}: trains nothing, so no training row can be the cause")
    if run.suite.sweep:
        raise UsageError(f"{there[0]}: has a [sweep]; run it again with the chosen value in place of [sweep]")
    return run


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
