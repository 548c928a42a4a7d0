"""The rows of a run that a person wants to see: those that changed, those that failed, with every answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from harness.artifacts import shapes
from harness.artifacts.attestation import LOCK
from harness.artifacts.folders import FolderError, ForeignFolder
from harness.errors import UsageError, did_you_mean
from harness.records.run import ItemResult, Run
from harness.records.verdicts import Verdict
from harness.reports.run_folder import answer_of, iterate_rows, metric_value, prompt_of
from harness.texts.counts import count_noun
from harness.texts.json_text import MALFORMED
from harness.texts.numbers import format_metric

ORDER = {"lost": 0, "wrong": 1, "won": 2, "right": 3, "": 4}


class CorrectnessMetric(NamedTuple):
    """The metric that separates right rows from wrong, and its baseline."""

    metric: str
    baseline: str | None


class LostAndWon(NamedTuple):
    """How many rows a gate lost and won."""

    lost: int
    won: int


@dataclass(frozen=True)
class DisplayRow:
    """A row as it is shown: what became of it, and what each subject made of it."""

    change: str  # lost, won, failed, wrong, right, or nothing where that is not known
    id: str
    prompt: str
    target: str
    answers: tuple[tuple[str, str], ...]  # subject, and its answer or its numbers


@dataclass(frozen=True)
class RowList:
    """Rows of an eval, told apart by a metric: how many `there` are of those that were wanted, of how many."""

    eval: str
    metric: str
    rows: list[DisplayRow]
    there: int
    of: int
    tells_right: bool = True  # whether the metric says of a row that it is right or wrong


def read_changed_rows(run: Run, folder: Path, verdict: Verdict) -> list[DisplayRow]:
    """Return the rows that a gate lost and won, worst first.

    For a gate without a baseline, return the rows that failed it. Raises UsageError if the folder's rows are not those
    of the verdict.
    """
    evaluation, _, metric = verdict.metric.partition(".")
    if not verdict.n or verdict.method == "point":
        return []
    try:
        chosen = [("lost", i) for i in verdict.lost] + [("won", i) for i in verdict.won]
        if not verdict.versus:
            chosen = [
                ("failed", i)
                for i in _list_failed_row_ids(verdict, metric, iterate_rows(folder, verdict.candidate, evaluation))
            ]
        return _read_display_rows(
            folder, evaluation, metric, [s for s in (verdict.versus, verdict.candidate) if s], chosen
        )
    except MALFORMED:
        what = f'its rows differ from those that changed for "{verdict.gate}" on {verdict.candidate}'
        raise UsageError(f"{folder}: {what}; run the suite again") from None


def read_all_rows(run: Run, folder: Path, evaluation: str, *, wrong: bool = False, most: int | None = None) -> RowList:
    """Return an eval's rows with all subjects' answers, lost ones first.

    `wrong` keeps only wrong rows, `most` limits their number. The candidate is the one that an export names, else the
    last one measured. Raises UsageError if there is no such eval or its rows cannot be read.
    """
    if not (reports := [r for r in run.results if r.eval == evaluation and r.outcome == "done"]):
        known = dict.fromkeys(r.eval for r in run.results if r.outcome == "done")
        raise UsageError(f'{folder}: has no rows of an eval "{evaluation}"{did_you_mean(evaluation, known)}')
    subjects = dict.fromkeys(r.subject for r in reports)
    candidate = next((e.candidate for e in run.exports if e.candidate in subjects), reports[-1].subject)
    others = [s for s in subjects if s != candidate]
    report = next(r for r in reports if r.subject == candidate)
    metric, against = correctness_metric(run, candidate, evaluation)
    before = [against] if against in subjects else others[:1]
    try:
        theirs = {row["id"]: row.get(metric) for s in before for row in iterate_rows(folder, s, evaluation)}
        ours = {row["id"]: row.get(metric) for row in iterate_rows(folder, candidate, evaluation)}
        changes = [(_classify_row_change(report, metric, value, theirs.get(i)), i) for i, value in ours.items()]
        wanted = sorted((c for c in changes if not wrong or c[0] in ("lost", "wrong")), key=lambda c: ORDER[c[0]])
        found = _read_display_rows(folder, evaluation, metric, [*others, candidate], wanted[:most])
    except MALFORMED:
        raise UsageError(f"{folder}: the rows of {evaluation} cannot be read; run the suite again") from None
    return RowList(evaluation, metric, found, len(wanted), len(changes), any(change for change, _ in changes))


def correctness_metric(run: Run, candidate: str, evaluation: str) -> CorrectnessMetric:
    """Return the metric that separates right rows from wrong ones.

    It is that of the candidate's first gate with a baseline on this eval, else of its first gate, else the eval's first
    metric. The baseline is the gate's.
    """
    mine = [v for v in run.verdicts if (v.candidate, v.metric.partition(".")[0]) == (candidate, evaluation)]
    if chosen := next((v for v in mine if v.versus), next(iter(mine), None)):
        return CorrectnessMetric(chosen.metric.partition(".")[2], chosen.versus)
    report = next((r for r in run.results if (r.subject, r.eval, r.outcome) == (candidate, evaluation, "done")), None)
    return CorrectnessMetric((next(iter(report.metrics), "") if report else ""), None)


def read_private_evals(folder: Path) -> frozenset[str]:
    """Return the private evals that the run's lock names.

    Raises UsageError if the lock cannot be read, since it is unknown then which evals are private.
    """
    try:
        evals = ForeignFolder(folder).read_record(LOCK, shapes.LOCK)["suite"]["evals"]
    except FolderError:
        raise UsageError(f"{folder / LOCK}: cannot be read; run the suite again") from None
    return frozenset(e["name"] for e in evals if e.get("private"))


def count_lost_and_won(verdict: Verdict) -> LostAndWon:
    """Count the rows a gate lost and won, including unlisted ones."""
    return LostAndWon(verdict.lost_count, verdict.won_count)


def format_failed_rows(verdict: Verdict, failed: int) -> str:
    """Format the number of failed rows in words.

    With several slices the total is left out, since the verdict counts the rows of one.
    """
    return (
        f"{count_noun(failed, 'row')} failed"
        if verdict.where
        else f"{failed:,} of {count_noun(verdict.n, 'row')} failed"
    )


def _list_failed_row_ids(verdict: Verdict, metric: str, ours: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the ids of rows that fail a claim, worst first."""
    if (about := verdict.terms) is None:
        return []  # which way its claim is cannot be told
    values = {r["id"]: metric_value(r, metric) for r in ours if metric in r and about.applies_to_row(r["doc"])}
    return sorted((i for i, value in values.items() if about.fails(value)), key=lambda i: about.sign * values[i])


def _classify_row_change(report: ItemResult, metric: str, mine: Any, other: Any) -> str:
    """Classify a row as lost, won, right or wrong. A value other than 0 or 1 gives an empty text."""
    best = 1.0 if report.better.get(metric) == "higher" else 0.0
    if mine not in (0.0, 1.0):
        return ""
    if mine == best:
        return "won" if other not in (best, None) else "right"
    return "lost" if other == best else "wrong"


def _read_display_rows(
    folder: Path, evaluation: str, metric: str, subjects: Sequence[str], chosen: Sequence[tuple[str, str]]
) -> list[DisplayRow]:
    """Read the chosen rows with the answer of each subject.

    `chosen` holds (change, id) pairs. `subjects` ends with the candidate: prompts and targets are its own.
    """
    ids, answers = {i for _, i in chosen}, dict[str, list[tuple[str, str]]]()
    for subject in subjects:
        about: dict[str, tuple[str, str]] = {}
        asked = (row for row in iterate_rows(folder, subject, evaluation) if row["id"] in ids)
        for row in islice(asked, len(ids)):
            answers.setdefault(row["id"], []).append((subject, _format_answer(row, metric)))
            about[row["id"]] = _format_text_or_last_turn(prompt_of(row)), _format_text_or_last_turn(row["target"])
    return [DisplayRow(change, i, *about[i], tuple(answers[i])) for change, i in chosen]


def _format_answer(row: Mapping[str, Any], metric: str) -> str:
    """Format a row's answer, else its metrics, with its note."""
    said, note = answer_of(row), f" (note: {row['note']})" if row.get("note") else ""
    if said is not None:
        return _format_text_or_last_turn(said) + note
    told = {name: row.get(name) for name in (metric, *row["metrics"])}
    return ", ".join(f"{name} {format_metric(x)}" for name, x in told.items() if isinstance(x, (int, float))) + note


def _format_text_or_last_turn(value: Any) -> str:
    """Return a prompt, a target or an answer as text: of a chat its last turn."""
    if isinstance(value, Sequence) and not isinstance(value, str) and value and isinstance(value[-1], Mapping):
        value = value[-1].get("content") or ""
    return str(value).strip()
