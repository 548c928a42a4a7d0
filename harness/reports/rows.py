"""The rows of a run that a person wants to see: those that changed, those that failed, with every answer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.artifacts.attestation import LOCK
from harness.errors import UsageError, did_you_mean
from harness.records.gates import Verdict
from harness.records.run import Report, Run
from harness.reports.run_folder import read_rows
from harness.texts.counts import counted

Rows = Mapping[str, Mapping[str, Any]]  # of one item, by id
SLICES = re.compile(r" on (\S+=.*?)(?: without rows that leak)?$")  # in a claim
ORDER = {"lost": 0, "wrong": 1, "won": 2, "right": 3, "": 4}


@dataclass(frozen=True)
class Shown:
    """A row as it is shown: what became of it, and what each subject made of it."""

    change: str  # lost, won, failed, wrong, right, or nothing where that is not known
    id: str
    prompt: str
    target: str
    answers: tuple[tuple[str, str], ...]  # subject, and its answer or its numbers


def changed_rows(run: Run, folder: Path, verdict: Verdict) -> list[Shown]:
    """Return the rows that a gate lost and won, or where it compares with nothing those that failed it, worst first.

    Raises UsageError where the folder's rows are not those of the verdict.
    """
    evaluation, _, metric = verdict.metric.partition(".")
    if not verdict.n or verdict.method == "point":
        return []
    ours = read_rows(folder, verdict.candidate, evaluation)
    sides = {verdict.candidate: ours}
    if verdict.versus:
        sides = {verdict.versus: read_rows(folder, verdict.versus, evaluation), **sides}
    try:
        chosen = [("lost", i) for i in verdict.lost] + [("won", i) for i in verdict.won]
        if not verdict.versus:
            chosen = [("failed", i) for i in _failed(verdict, metric, ours)]
        return [_row(run, change, i, evaluation, metric, sides) for change, i in chosen]
    except (LookupError, TypeError, ValueError, AttributeError):
        what = f'its rows are not those that changed for "{verdict.gate}" on {verdict.candidate}'
        raise UsageError(f"{folder}: {what}; run the suite again") from None


def all_rows(run: Run, folder: Path, evaluation: str) -> list[Shown]:
    """Return all rows of an eval with the answers of all subjects, what the candidate lost first.

    The candidate is what ships, or the last that was measured. Raises UsageError where there is no such eval, or its
    rows cannot be read.
    """
    reports = [r for r in run.reports if r.eval == evaluation and r.outcome == "done"]
    if not reports:
        known = dict.fromkeys(r.eval for r in run.reports if r.outcome == "done")
        raise UsageError(f'{folder}: holds no rows of an eval "{evaluation}"{did_you_mean(evaluation, known)}')
    sides = {r.subject: read_rows(folder, r.subject, evaluation) for r in reports}
    shipped = [e.candidate for e in run.exports if e.candidate in sides]
    candidate = shipped[0] if shipped else reports[-1].subject
    baseline = next((s for s in sides if s != candidate), "")
    report = next(r for r in reports if r.subject == candidate)
    metric = next(iter(report.metrics), "")
    try:
        found = []
        sides = {**{s: rows for s, rows in sides.items() if s != candidate}, candidate: sides[candidate]}
        for i in sides[candidate]:
            change = _change(report, metric, sides[candidate].get(i), sides.get(baseline, {}).get(i))
            found.append(_row(run, change, i, evaluation, metric, sides))
    except (LookupError, TypeError, ValueError, AttributeError):
        raise UsageError(f"{folder}: the rows of {evaluation} cannot be read; run the suite again") from None
    return sorted(found, key=lambda row: ORDER[row.change])


def private_evals(folder: Path) -> frozenset[str]:
    """Return the evals whose rows no one may see outside, as the run's lock names them.

    Raises UsageError where the lock cannot be read: what is private is not known then.
    """
    try:
        evals = json.loads((folder / LOCK).read_text("utf-8"))["suite"]["evals"]
        return frozenset(e["name"] for e in evals if e.get("private"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UsageError(f"{folder / LOCK}: cannot be read; run the suite again") from None


def lost_and_won(verdict: Verdict) -> tuple[int, int]:
    """Return how many rows a gate lost and won, also those that are not listed; older reports count only these."""
    return verdict.lost_count or len(verdict.lost), verdict.won_count or len(verdict.won)


def failed_rows(verdict: Verdict, failed: int) -> str:
    """Return how many rows failed, in words; of several slices a verdict counts the rows of one."""
    return f"{counted(failed, 'row')} failed" if verdict.slices else f"{failed:,} of {counted(verdict.n, 'row')} failed"


def _failed(verdict: Verdict, metric: str, ours: Rows) -> list[str]:
    """Return the ids of the rows on the wrong side of a claim about a number, the worst first."""
    if told := SLICES.search(verdict.claim):
        parts = [part.partition("=") for part in told[1].split(" and ")]
        ours = {i: row for i, row in ours.items() if any(_is_in(row["doc"], *part) for part in parts)} or ours
    values = {i: float(row.get("nats", {}).get(metric, row[metric])) for i, row in ours.items() if metric in row}
    if verdict.claim.startswith("fails on"):
        sign, limit = 1.0, 1.0
    else:
        sign, limit = (1.0 if verdict.claim.startswith("at least") else -1.0), float(verdict.threshold or 0.0)
    failed = [i for i, value in values.items() if sign * (value - limit) < 0]
    return sorted(failed, key=lambda i: sign * values[i])


def _is_in(doc: Mapping[str, Any], column: str, _: str, value: str) -> bool:
    """Return whether a row is in the slice COLUMN=VALUE."""
    return value == "*" or (column in doc and str(doc[column]) == value)


def _change(report: Report, metric: str, ours: Any, theirs: Any) -> str:
    """Return what became of a row that is right or wrong; of other numbers nothing can be said."""
    best = 1.0 if report.better.get(metric) == "higher" else 0.0
    mine, other = (row.get(metric) if row else None for row in (ours, theirs))
    if mine not in (0.0, 1.0):
        return ""
    if mine == best:
        return "won" if other not in (best, None) else "right"
    return "lost" if other == best else "wrong"


def _row(run: Run, change: str, key: str, evaluation: str, metric: str, sides: Mapping[str, Rows]) -> Shown:
    row = list(sides.values())[-1][key]  # the candidate's
    answers = []
    for subject, rows in sides.items():
        if key in rows:
            report = next((r for r in run.reports if (r.subject, r.eval) == (subject, evaluation)), None)
            answers.append((subject, _answer(rows[key], metric, report, rows)))
    return Shown(change, key, _text(row["arguments"][0][0]), _text(row["target"]), tuple(answers))


def _answer(row: Mapping[str, Any], metric: str, report: Report | None, rows: Rows) -> str:
    """Return what was answered, or where nothing was the row's numbers; nats a token as the perplexity they are."""
    said = row["resps"][0][0]
    if said is not None:
        return _text(said)
    told = []
    for name in dict.fromkeys([metric, *row["metrics"]]):
        if isinstance(value := row.get(name), (int, float)):
            told.append(f"{name} {math.exp(value) if _is_logarithm(name, report, rows) else value:.4g}")
    return ", ".join(told)


def _is_logarithm(name: str, report: Report | None, rows: Rows) -> bool:
    """Return whether a metric is the exponential of its rows' mean, as a perplexity is."""
    if report is None or not (whole := report.metrics.get(name)) or whole <= 0:
        return False
    pairs = [(float(r[name]), float(r["weights"].get(name, r["weight"]))) for r in rows.values() if name in r]
    total = math.fsum(w for _, w in pairs)
    mean = math.fsum(v * w for v, w in pairs) / total if total else math.nan
    return math.isclose(mean, math.log(whole), rel_tol=1e-6, abs_tol=1e-9)


def _text(value: Any) -> str:
    """Return a prompt, a target or an answer as text: of a chat its last turn."""
    if isinstance(value, Sequence) and not isinstance(value, str) and value and isinstance(value[-1], Mapping):
        value = value[-1].get("content") or ""
    return str(value).strip()
