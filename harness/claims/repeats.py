"""Rows that ask what others ask: copies count once, and what was answered otherwise the next time is a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.claims.gate import Gate
from harness.records.about import Note
from harness.records.metrics import Metric
from harness.records.samples import Sample, Score

Scores = Mapping[str, Score]  # by id of row


@dataclass(frozen=True)
class Repeats:
    """How many rows were left out as copies of others, and how many are in a cluster with rows that ask the same."""

    copies: int = 0
    joined: int = 0

    def notes(self, rows: int) -> list[Note]:
        """Return what is said of them, for so many rows that are left."""
        copies = [Note("copies", {"copies": self.copies, "of": rows + self.copies})] if self.copies else []
        return copies + ([Note("joined", {"rows": self.joined})] if self.joined else [])


def distinct(
    rows: Sequence[Sample], gate: Gate, metric: Metric, results: Sequence[Scores]
) -> tuple[list[Sample], Repeats]:
    """Return rows without copies, those of one question in one cluster, and how many there are of both.

    A copy asks the same and scored the same, on all sides, in the same slices. What counts rows counts all of them.
    """
    if gate.kind.counts or metric.is_count or metric.is_agreement:
        return list(rows), Repeats()
    keys = [s.key for s in rows if s.key]
    if len({*keys}) == len(keys):  # which of millions of rows is quickly seen
        return list(rows), Repeats()
    groups: dict[str, dict[Any, list[Sample]]] = {}
    columns = [name.partition("=")[0] for name in gate.slices]
    for s in rows:
        if s.key:
            scored = [_scored(scores[s.id], metric) for scores in results]
            told = (*scored, *(str(s.row.get(name)) for name in columns))
            groups.setdefault(s.key, {}).setdefault(told, []).append(s)
    copies = {s.id for told in groups.values() for same in told.values() for s in same[1:]}
    kept = [s for s in rows if s.id not in copies]
    several = [[same[0] for same in told.values()] for told in groups.values() if len(told) > 1]
    if several:
        names = _joined([[s.cluster or s.id for s in group] for group in several])
        kept = [replace(s, cluster=names.get(s.cluster or s.id, s.cluster)) for s in kept]
    return kept, Repeats(len(copies), sum(map(len, several)))


def _scored(score: Score, metric: Metric) -> tuple[Any, ...]:
    """Return what a row scored on a metric, or on all of them where it is made from rows as a whole."""
    if metric.combine or metric.name not in score.values:
        return (score.answer, *sorted(score.values.items()), *sorted(score.weights.items()), score.weight)
    return score.values[metric.name], score.weight_of(metric.name)


def _joined(groups: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return a name for every cluster in the groups, one for those that groups connect."""
    names: dict[str, str] = {}

    def find(name: str) -> str:
        while names.setdefault(name, name) != name:
            name = names[name]
        return name

    for group in groups:
        for other in group[1:]:
            names[find(other)] = find(group[0])
    return {name: find(name) for name in list(names)}
