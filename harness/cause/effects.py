"""Effects of leaving out training rows.

They are measured on the gate's metric, and as costs on other metrics and on slices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.collection.collection import Collection, Task
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample, Score
from harness.records.scales import Scaled
from harness.stats.controls import cluster_error, compare_with_controls

Results = Mapping[str, Result]  # by evaluation


@dataclass(frozen=True)
class Measure:
    """A metric on some rows of an evaluation.

    `slice` names these rows; it is empty if they are all that a gate is about.
    """

    eval: str
    metric: Metric
    slice: str
    samples: Sequence[Sample]

    @property
    def name(self) -> str:
        return f"{self.eval}.{self.metric.name}" + (f" on {self.slice}" if self.slice else "")


@dataclass(frozen=True)
class Effect(Scaled):
    """The effect of leaving out suspects on one metric.

    `before`, `without` and `controls` are the metric of the run, of the training without suspects and of its controls,
    on the test scale. `estimate` is `without` minus the mean of the controls, with one-sided bounds at the gate's alpha
    each; `sign` is 1 if higher is better.
    """

    name: str
    scale: str
    sign: int
    n: int
    before: float
    without: float
    controls: tuple[float, ...]
    estimate: float
    lower: float
    upper: float

    @property
    def is_gain(self) -> bool:
        """Whether it is better than the controls, beyond their spread."""
        return (self.lower > 0) if self.sign > 0 else (self.upper < 0)

    @property
    def is_cost(self) -> bool:
        """Whether it is worse than the controls, beyond their spread."""
        return (self.upper < 0) if self.sign > 0 else (self.lower > 0)

    def format(self) -> str:
        lower, upper = self.format_test_change(self.lower), self.format_test_change(self.upper)
        return f"{self.format_test_change(self.estimate)} [{lower}, {upper}]"


def list_measures(collection: Collection, gate: Gate, tasks: Mapping[str, Task]) -> list[Measure]:
    """Return the measures: the gate's metric, other gates' metrics, then slices."""
    others = [g for g in collection.suite.gates if g.metric and g.eval in tasks and g.id != gate.id]
    found: dict[tuple[str, str, str], Measure] = {}
    for one in (gate, *others):
        task = tasks[one.eval]
        metric = task.metrics.get(one.metric_name)
        if metric is None or metric.is_agreement:
            continue
        rows = {s.id: s for part in one.rows_by_slice(task.samples or ()).values() for s in part}
        told = ", ".join(one.slices) if one.slice is not None else ""
        for measure in (
            Measure(one.eval, metric, told, [*rows.values()]),
            *_iterate_slice_measures(one.eval, metric, task),
        ):
            if measure.samples:
                found.setdefault((measure.eval, metric.name, measure.slice), measure)
    first, *rest = found.values()
    return [first, *sorted(rest, key=lambda m: bool(m.slice))]


def _iterate_slice_measures(name: str, metric: Metric, task: Task) -> Iterator[Measure]:
    """Yield the slices that an evaluation declares."""
    for column in task.spec.slices:
        parts: dict[str, list[Sample]] = {}
        for sample in task.samples or ():
            parts.setdefault(f"{column}={sample.row.get(column)}", []).append(sample)
        yield from (Measure(name, metric, told, rows) for told, rows in sorted(parts.items()) if len(parts) > 1)


def measure_effect(
    measure: Measure, before: Results, without: Results, controls: Sequence[Results], alpha: float
) -> Effect:
    """Compare the training without suspects with its controls."""
    metric, samples = measure.metric, measure.samples
    sides = [_select_scores(results[measure.eval], samples) for results in (before, without, *controls)]
    values = [metric.to_test_scale(metric.value(scores)) for scores in sides]
    found = compare_with_controls(
        values[1], values[2:], _estimate_row_standard_error(measure, sides[1], sides[2:]), alpha
    )
    sign = 1 if metric.better == "higher" else -1
    return Effect(measure.name, metric.scale, sign, len(samples), values[0], values[1], tuple(values[2:]), *found)


def restrict_rows(task: Task, ids: frozenset[str]) -> Task:
    """Return a task that asks some of its rows."""
    return replace(task, samples=tuple(s for s in task.samples or () if s.id in ids))


def _select_scores(result: Result, samples: Sequence[Sample]) -> list[Score]:
    by_id = {score.id: score for score in result.scores}
    return [by_id[sample.id] for sample in samples]


def _estimate_row_standard_error(measure: Measure, ours: Sequence[Score], controls: Sequence[Sequence[Score]]) -> float:
    """Return the row-level standard error of an effect.

    The effect is the difference from the mean of the controls. The error is 0 for a metric that is not a mean over
    rows.
    """
    metric = measure.metric
    if metric.combine or not metric.is_of_rows:
        return 0.0
    name = metric.name
    weights = [score.weight_of(name) for score in ours]
    means = [math.fsum(s.values[name] for s in row) / len(row) for row in zip(*controls, strict=True)]
    differences = [score.values[name] - mean for score, mean in zip(ours, means, strict=True)]
    return cluster_error(differences, weights, [s.cluster or s.key or s.id for s in measure.samples])
