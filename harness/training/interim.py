"""Interim analyses of a model in training: gates on its select rows, with their risk spent over the planned looks.

Each look is another model on the same rows, so that a test of how rows come in does not protect it. With K looks each
gate is tested at alpha / K: by Bonferroni's inequality the chance that a gate whose claim is true at every look is ever
refuted is at most alpha, however the looks depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from harness.collection.collection import Task
from harness.gates.decide import decide
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample
from harness.records.verdicts import Outcome, Verdict
from harness.stats import power
from harness.suite.tables import Suite, gate_alpha
from harness.texts.numbers import format_metric

Results = Mapping[str, Result]


@dataclass(frozen=True)
class Look:
    """Results of one look at a model in training.

    `verdicts` are in the order of the gates, `metrics` by EVAL.METRIC, and `score` chooses the checkpoint.
    """

    step: int
    verdicts: tuple[Verdict, ...]
    metrics: Mapping[str, float]
    score: float
    refuted: tuple[str, ...]  # guards that are proven broken


def count_looks(max_steps: int, every_steps: int) -> int:
    """Return the number of looks of a training: one every so many steps, and one at its end."""
    return -(-max_steps // every_steps)


class InterimAnalysis:
    """Gates of a suite over a training's looks, against the base.

    Model and base are evaluated on the same rows. A guard is a blocking gate that the base keeps: it must not get worse
    than the base, or the base passes it. Only a refuted guard can end a training; other gates are goals, which need not
    be reached yet.
    """

    def __init__(self, suite: Suite, tasks: Mapping[str, Task], base: Results, looks: int) -> None:
        self.suite, self.tasks, self.base, self.looks = suite, tasks, base, looks
        self.guards = tuple(gate for gate in suite.gates if self._is_guard(gate))
        blocking = [gate for gate in suite.gates if gate.blocking]
        goals = [gate for gate in blocking if gate not in self.guards]
        self.by = (goals or blocking or list(suite.gates))[0].metric  # what chooses among checkpoints

    def metric(self, name: str) -> Metric:
        """Return the metric of an EVAL.METRIC."""
        evaluation, _, metric = name.partition(".")
        return self.tasks[evaluation].metrics[metric]

    def look(self, step: int, results: Results, metrics: Mapping[str, float]) -> Look:
        """Decide every gate on the model's results after a step. Each is tested at its share of the risk."""
        verdicts = tuple(
            self._decide_gate(gate, results, self._find_gate_alpha(gate) / self.looks) for gate in self.suite.gates
        )
        guards = {gate.id for gate in self.guards}
        refuted = tuple(v.gate for v in verdicts if v.gate in guards and v.outcome is Outcome.FAIL)
        return Look(step, verdicts, dict(metrics), metrics[self.by], refuted)

    def is_better(self, score: float, best: float | None) -> bool:
        """Return whether a score is better than the best before it."""
        if math.isnan(score):
            return False
        sign = 1 if self.metric(self.by).better == "higher" else -1
        return best is None or sign * score > sign * best

    def bounds(self, verdict: Verdict) -> dict[str, float]:
        """Return a verdict's estimate and bounds in the metric's units. Missing ones are left out."""
        metric, found = self.metric(verdict.metric), {}
        for name in ("estimate", "lower", "upper"):
            value = getattr(verdict, name)
            if value is not None and math.isfinite(value):
                found[name] = metric.from_test_scale(value, change=bool(verdict.versus))
        return {name: value for name, value in found.items() if value is not None}

    def describe_power(self) -> list[str]:
        """Describe each guard's power to detect twice its margin.

        The rows for a power of 80 % are added if there are too few. Guards other than a plain comparison of a share of
        rows get their number of rows only.
        """
        return [self._describe_gate_power(gate) for gate in self.guards]

    def _describe_gate_power(self, gate: Gate) -> str:
        metric, rows = self.metric(gate.metric), len(self._select_rows_of_gate(gate))
        plain = metric.is_share and gate.versus and not gate.relative and not gate.slice and gate.margin
        if not plain:
            return f"{gate.id}: {rows} rows"
        alpha, margin = self._find_gate_alpha(gate) / self.looks, -gate.margin
        seen = partial(_compute_loss_power, 2 * margin, margin, alpha)
        chance = seen(rows)
        loss = f"a loss of {format_metric(2 * margin)} (twice the margin)"
        text = f"{gate.id}: {rows} rows see {loss} in {chance:.0%} of looks"
        if chance >= power.DEFAULT_POWER:
            return text
        needed = power.search_rows(seen, rows)
        return f"{text}; {power.DEFAULT_POWER:.0%} needs {needed:,} rows" if needed else text

    def _is_guard(self, gate: Gate) -> bool:
        metric = self.metric(gate.metric)
        tested = not (gate.kind.counts or metric.is_count or metric.is_agreement)
        if not (gate.blocking and tested):
            return False
        if gate.versus:
            return gate.worse_by_at_most is not None
        return self._decide_gate(gate, self.base, self._find_gate_alpha(gate)).outcome is Outcome.PASS

    def _decide_gate(self, gate: Gate, results: Results, alpha: float) -> Verdict:
        base = self.base[gate.eval] if gate.versus else None
        metric = self.metric(gate.metric)
        return decide(gate, metric, results[gate.eval], base, self._select_rows_of_gate(gate), alpha, name="training")

    def _select_rows_of_gate(self, gate: Gate) -> Sequence[Sample]:
        return self.tasks[gate.eval].rows_of(gate.metric_name, select=True) or ()

    def _find_gate_alpha(self, gate: Gate) -> float:
        return gate_alpha(gate, self.suite)


def _compute_loss_power(loss: float, margin: float, alpha: float, rows: int) -> float:
    """Return the power to prove a loss greater than a margin. Rows are 0 or 1."""
    return power.pairs_power(loss, -margin, max(power.DISCORDANCE, loss), rows, alpha)
