"""What one evaluation tells of a candidate: its weights, what its rows ask, and what they scored.

A row is known by what it asks (`harness.data.identity`), not by its id, its place or which eval of which suite asked
it, so that a question is recognised when it is put again in other words. See docs/decisions/0061-attempts.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from harness.collection.plan import Plan, Task
from harness.records.samples import Result

Role = Literal["adapter", "merged", "conversion"]
Row = tuple[str, ...]  # the keys of one row
SHARE = 10  # rows are met again when one in so many of the smaller set is
ROOTS = (".git", "pyproject.toml")  # what lies in the folder of a project


@dataclass(frozen=True)
class Look:
    """One evaluation of one candidate; `scores` by row, empty as long as they are not known.

    `base` is the digest of the model it was made of, `project` that of rows which every project has, `most` how many
    rows there will ever be, where that is declared.
    """

    role: Role
    weights: str
    rows: frozenset[Row]
    scores: Mapping[Row, Sequence[str]] = dataclasses.field(default_factory=dict)
    base: str = ""
    project: str = ""
    most: int | None = None

    @cached_property
    def digest(self) -> str:
        """The digest of the set of rows: of the file that holds it."""
        return rows_digest(self.rows)

    def scored(self, rows: frozenset[Row] | None = None) -> str:
        """Return the digest of the scores, of some of the rows or of all; empty where they are not known."""
        if not self.scores:
            return ""
        chosen = self.rows if rows is None else rows
        return _sha256(sorted([*row, *self.scores.get(row, ())] for row in chosen))


def look_of(plan: Plan, candidate: str, name: str, weights: str, base: str, result: Result | None) -> Look:
    """Return what an eval tells of a candidate, or would tell."""
    task = plan.tasks[name]
    project = project_of(plan.suite.path) if task.brings_rows else ""
    rows, scores = frozenset(filter(None, task.keys)), scores_of(task, result) if result else {}
    return Look(role_of(plan, candidate), weights, rows, scores, base, project, task.spec.rows_at_most)


def tells(task: Task) -> bool:
    """Return whether an eval tells of a candidate by rows, gated or not: all do but those that count."""
    return any(not m.is_count for m in task.metrics.values()) and any(task.keys)


def role_of(plan: Plan, candidate: str) -> Role:
    """Return what a candidate is of; models of one role are attempts at the same question."""
    if candidate in plan.suite.copies:
        return "conversion"
    return "adapter" if candidate == "adapter" else "merged"


def scores_of(task: Task, result: Result) -> dict[Row, tuple[str, ...]]:
    """Return what each row scored, whatever rows and metrics are called; labels stand beside every row."""
    scores = {s.id: s for s in result.scores}
    labels = [_sha256(dataclasses.asdict(found)) for found in result.labels]
    found: dict[Row, list[str]] = {}
    for sample, row in zip(task.samples or (), task.keys, strict=True):
        if row and (score := scores.get(sample.id)) is not None:
            found.setdefault(row, []).extend(sorted(repr(float(v)) for v in score.values.values()))
    return {row: (*sorted(values), *labels) for row, values in found.items()}


def meets(one: frozenset[Row], other: frozenset[Row]) -> bool:
    """Return whether two sets of rows have so many in common that a look at one tells of the other."""
    small, large = sorted((one, other), key=len)
    keys = {key for row in large for key in row}
    return bool(small) and SHARE * sum(not keys.isdisjoint(row) for row in small) >= len(small)


def project_of(suite: Path) -> str:
    """Return the name of the project that a suite lies in: of the folder with its repository, or its own."""
    folder = suite.absolute().parent
    return next((f.name for f in (folder, *folder.parents) if any((f / r).exists() for r in ROOTS)), folder.name)


def rows_text(rows: Iterable[Row]) -> str:
    """Write rows as a file holds them, the keys of one on a line, sorted."""
    return "".join(f"{' '.join(row)}\n" for row in sorted(rows))


def rows_read(text: str) -> frozenset[Row]:
    """Return the rows that a file holds."""
    return frozenset(tuple(line.split()) for line in text.splitlines())


def rows_digest(rows: Iterable[Row]) -> str:
    """Return the sha256 of a set of rows, 64 hex digits: that of the file which holds them."""
    return hashlib.sha256(rows_text(rows).encode()).hexdigest()


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
