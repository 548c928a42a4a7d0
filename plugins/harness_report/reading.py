"""A run folder read for a page: report.json, the lock beside it and the rows of every item, and what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from harness import ItemResult, Metric, Result, Run, Sample, Score, UsageError, read_run
from harness.internals import (
    LOCK,
    FolderError,
    ForeignFolder,
    OnScale,
    answer_of,
    correctness_metric,
    prompt_of,
    read_answers,
    rules,
    shapes,
)

Row = dict[str, Any]
Rows = Mapping[str, Row]  # by id
UNREAD_KEYS = {"doc_id", "filtered_resps", "filter", "id"}  # of a row, on every page


class RowsAgainst(NamedTuple):
    """The correctness metric of rows, and the baseline to compare with."""

    metric: str
    baseline: str


@dataclass
class LoadedRun:
    """The contents of a run folder. `missing` describes the parts that could not be read."""

    folder: Path
    run: Run
    lock: Mapping[str, Any]
    missing: list[str] = field(default_factory=list)
    rows_: dict[tuple[str, str], dict[str, Row]] = field(default_factory=dict)
    pairs: dict[tuple[str, str, str], Any] = field(default_factory=dict)  # rows that were paired before

    @property
    def rules(self) -> rules.Rules:
        """The lock and report, for comparison with another run's."""
        return rules.Rules(self.lock, self.run, self.folder)

    @property
    def suite(self) -> Mapping[str, Any]:
        return subtable(self.lock, "suite")

    @cached_property
    def evals(self) -> dict[str, Mapping[str, Any]]:
        """The suite's evaluations by name. Without a lock they are the measured ones, without settings."""
        told: dict[str, Mapping[str, Any]] = {str(e["name"]): e for e in _get_list_or_empty(self.suite, "evals")}
        return told or {name: {} for name in dict.fromkeys(r.eval for r in self.run.results)}

    def has_all_rows(self, evaluation: str) -> bool:
        """Return whether the folder has all rows of an evaluation.

        They are the candidate's rows; the folder may hold a sample instead.
        """
        report = self.report(self.ours, evaluation)
        return report is not None and len(self.rows(self.ours, evaluation)) >= report.n

    def is_private(self, evaluation: str) -> bool:
        """Return whether rows may be shown as digests only: where nothing says that they are public, they are not."""
        return evaluation in self.run.private or bool(self.evals.get(evaluation, {}).get("private", not self.suite))

    def scale(self, metric: str) -> OnScale:
        """Return the scale of EVAL.METRIC.

        It is read from the lock, or guessed from the metric's name and values.
        """
        evaluation, _, name = metric.partition(".")
        if told := subtable(subtable(subtable(self.lock, "metrics"), evaluation), name).get("scale"):
            return OnScale(str(told))
        values = [r.metrics[name] for r in self.run.results if r.eval == evaluation and name in r.metrics]
        shares = bool(values) and all(0 <= v <= 1 for v in values) and not self.is_lower(metric)
        return OnScale("perplexity" if "perplexity" in name else "proportion" if shares else "mean")

    def unit(self, metric: str) -> str:
        """Return the unit that a metric's numbers are written in: "bytes", "count" or none."""
        return "" if not self.scale(metric).is_count else "bytes" if metric.endswith("bytes") else "count"

    def is_lower(self, metric: str) -> bool:
        """Return whether less of EVAL.METRIC is better."""
        evaluation, _, name = metric.partition(".")
        return any(r.better.get(name) == "lower" for r in self.run.results if r.eval == evaluation)

    def column(self, evaluation: str) -> str:
        """Return the column by which an evaluation's rows are sliced.

        It is the evaluation's own, else one of another evaluation that its rows have too; empty if there is none.
        """
        own = _get_list_or_empty(self.evals.get(evaluation, {}), "slices")
        doc = subtable(next(iter(self.rows(self.ours, evaluation).values()), {}), "doc")
        others = [c for e in self.evals.values() for c in _get_list_or_empty(e, "slices") if c in doc]
        return str(next(iter([*own, *others]), ""))

    @cached_property
    def subjects(self) -> list[str]:
        """The evaluated subjects in order, base first. Models of a recipe's other seeds are left out."""
        done = (r.subject for r in self.run.results if r.outcome == "done")
        return [subject for subject in dict.fromkeys(done) if subject not in self.run.runs]

    @cached_property
    def ours(self) -> str:
        """The candidate that the page is about: what ships, or the last that was measured."""
        shipping = [e.candidate for e in self.run.exports if e.candidate in self.subjects]
        judged = [c for c in dict.fromkeys(v.candidate for v in self.run.verdicts) if c in self.subjects]
        return next(iter([*shipping, *judged[-1:], *self.subjects[-1:]]), "")

    @cached_property
    def parent(self) -> str:
        """The model that the candidate was made from.

        It is taken from the report's changes, else it is the adapter; empty if it was not evaluated.
        """
        found = next((c.before for c in self.run.changes if c.after == self.ours), "adapter")
        return found if found in self.subjects and found != self.ours else ""

    def report(self, subject: str, evaluation: str) -> ItemResult | None:
        found = (r for r in self.run.results if (r.subject, r.eval, r.outcome) == (subject, evaluation, "done"))
        return next(found, None)

    def against(self, evaluation: str) -> RowsAgainst:
        """Return the metric and baseline that classify an evaluation's rows."""
        metric, against = correctness_metric(self.run, self.ours, evaluation)
        return RowsAgainst(metric, against or str(self.evals.get(evaluation, {}).get("against", "base")))

    def rows(self, subject: str, evaluation: str) -> dict[str, Row]:
        """Return an item's rows by id. Empty if they cannot be read, which is noted once in `missing`."""
        key = subject, evaluation
        if key not in self.rows_:
            try:
                like = next((rows for (_, name), rows in self.rows_.items() if name == evaluation), {})
                columns = {c for e in self.evals.values() for c in _get_list_or_empty(e, "slices")}
                found = read_answers(
                    self.folder, *key, lambda row: _drop_unread_row_fields(row, like.get(str(row["id"]), {}), columns)
                )
                self.rows_[key] = {str(i): r for i, r in found.items() if isinstance(r, dict)}
            except UsageError as error:
                self.rows_[key] = {}
                self.missing.append(str(error).replace(f"{self.folder}/", "").replace(f"{self.folder}: ", ""))
        return self.rows_[key]


def previous_run(kept: LoadedRun) -> LoadedRun | None:
    """Return the suite's last earlier run in a sibling folder."""
    found = rules.read_rules_before(kept.folder)
    return read_folder(found.folder) if found else None


def _drop_unread_row_fields(row: Row, like: Row, columns: set[str]) -> Row:
    """Drop the fields of a row that pages do not read.

    Values equal to those of `like`, the same row of another subject, are shared with it, since there are many rows.
    Changes `row`.
    """
    doc = subtable(row, "doc")
    row["doc"] = {c: doc[c] for c in columns & doc.keys()}
    return {intern(k): like[k] if k in like and like[k] == v else v for k, v in row.items() if k not in UNREAD_KEYS}


def read_folder(path: Path) -> LoadedRun:
    """Read a run folder, or its report.json. Raises UsageError in one line where there is no run in it."""
    run = read_run(path)
    folder = path if path.is_dir() else path.parent
    try:
        return LoadedRun(folder, run, ForeignFolder(folder).read_record(LOCK, shapes.LOCK))
    except FolderError:
        missing = "suite.lock.json cannot be read, so the configuration is unknown and no row's text is shown"
        return LoadedRun(folder, run, {}, [missing])


def row_value(row: Row, metric: str) -> float | None:
    """Return a row's numeric value of a metric. None if it has no such number. A perplexity is in nats."""
    value = subtable(row, "nats").get(metric, row.get(metric))
    return float(value) if isinstance(value, (int, float)) else None


def gate_metric(kept: LoadedRun, name: str) -> Metric:
    """Return EVAL.METRIC as a gate reads it."""
    better = "lower" if kept.is_lower(name) else "higher"
    return Metric(name.partition(".")[2], better, kept.scale(name).scale)  # type: ignore[arg-type]


def gate_result(kept: LoadedRun, name: str, rows: Rows) -> Result:
    """Return rows as the candidate's Result for a gate on EVAL.METRIC."""
    (evaluation, _, metric), scores = name.partition("."), []
    for key, row in rows.items():
        value, weights = row_value(row, metric), (subtable(row, "weights").get(metric), row.get("weight"))
        weight = next((float(w) for w in weights if isinstance(w, (int, float))), 1.0)
        scores.append(Score(key, {} if value is None else {metric: value}, weight=weight))
    return Result(kept.ours, evaluation, tuple(scores), {}, kept.run.digests.get(kept.ours) or kept.run.started)


def gate_samples(rows: Rows) -> list[Sample]:
    """Return rows as Samples, with the fields that a gate reads."""
    return [
        Sample(name, cluster=row.get("cluster"), key=row.get("key", ""), second_cluster=row.get("second_cluster"))
        for name, row in rows.items()
    ]


def row_slice(row: Row, column: str) -> str:
    """Return a row's value of a column as text. Empty if it has none."""
    return str(subtable(row, "doc").get(column, "")) if column else ""


def _extract_first_nested_value(row: Row, key: str) -> Any:
    """Return the first value in a row's nested lists. None if there is none."""
    try:
        return prompt_of(row) if key == "arguments" else row[key][0][0]
    except (LookupError, TypeError):
        return None


def question_of_row(row: Row) -> tuple[Any, Any]:
    """Return the prompt and target that identify a row across runs."""
    return _extract_first_nested_value(row, "arguments"), row.get("target")


def row_answer(row: Row) -> str | None:
    """Return the answer in a row. None if the row was only scored."""
    try:
        said = answer_of(row)
    except (LookupError, TypeError):
        return None
    return None if said is None else str(said)


def row_prompt(row: Row) -> str:
    """Return a row's prompt as text, rendered if that was kept. Empty for a chat that was not rendered."""
    if isinstance(rendered := row.get("rendered"), str) and rendered:
        return rendered
    asked = _extract_first_nested_value(row, "arguments")
    return "" if asked is None or isinstance(asked, list) else str(asked)


def row_turns(row: Row) -> list[tuple[str, str]]:
    """Return the role and text of each chat message. Empty if the row's prompt is a text."""
    asked = _extract_first_nested_value(row, "arguments")
    turns = [m for m in asked if isinstance(m, dict)] if isinstance(asked, list) else []
    return [(str(m.get("role", "")), as_text(m.get("content", ""))) for m in turns]


def as_text(value: Any) -> str:
    """Return a text unchanged, any other value as indented JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)


def last_prompt_line(row: Row) -> str:
    """Return the line that identifies a row's prompt.

    It is the first line of the last paragraph, for a chat of its last message, without a label such as "Question: " at
    its start.
    """
    asked = _extract_first_nested_value(row, "arguments")
    if isinstance(asked, list):
        asked = asked[-1].get("content", "") if asked and isinstance(asked[-1], dict) else ""
    paragraphs = [p for p in str("" if asked is None else asked).split("\n\n") if p.strip()]
    line = next((x.strip() for x in (paragraphs[-1] if paragraphs else "").split("\n") if x.strip()), "")
    return re.sub(r"^[A-Z]\w{1,15}: ", "", line)


def subtable(value: object, key: str) -> Mapping[str, Any]:
    """Return a table of a table, empty where it has none."""
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _get_list_or_empty(value: object, key: str) -> list[Any]:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, list) else []
