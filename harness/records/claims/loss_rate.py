"""How many rows lose how much: `worse_by_more_than` on `on_at_most`, a share that is tested exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from harness.records.claims.gate import BestCase, ClaimType, Gate, Oriented
from harness.records.metrics import Metric
from harness.records.samples import Score
from harness.texts.numbers import format_limit


class LossRate(ClaimType):
    """Claim that few rows lose much against a baseline.

    At most a share of rows loses more than an amount. Rows become 0/1 on any scale of the metric, so no range or
    variance is needed, and few rows prove more than with a mean.
    """

    name = "losses"
    keys = ("versus worse_by_more_than on_at_most",)

    def matches(self, gate: Gate) -> bool:
        return gate.on_at_most is not None or gate.worse_by_more_than is not None

    def find_mistakes(self, gate: Gate) -> list[str]:
        found = super().find_mistakes(gate)
        size, most = gate.worse_by_more_than, gate.on_at_most
        if size is None or most is None:
            found.append('"worse_by_more_than" and "on_at_most" make one claim; give both')
        if size is not None and not (size >= 0 and math.isfinite(size)):
            found.append(f"worse_by_more_than is {size:g}; it must be 0 or more, in the metric's units")
        if most is not None and not 0 < most < 1:
            meant = f"; did you mean {most / 100:g}?" if 1 < most < 100 else ""
            found.append(f"on_at_most is {most:g}; it must be a share of rows between 0 and 1{meant}")
        if gate.cap is not None or gate.range is not None or gate.allow_approximate or gate.estimand != "rows":
            what = '"cap", "range", "allow_approximate" and "estimand"'
            found.append(f'"on_at_most" is an exact claim about a share of rows; remove {what}')
        return found

    def find_metric_mistakes(self, gate: Gate, metric: Metric, rows: int | None) -> list[str]:
        found = super().find_metric_mistakes(gate, metric, rows)
        if not metric.is_of_rows or metric.combine:
            found.append(f"on_at_most counts rows, but {metric.name} has no value of each row; claim a margin")
        elif metric.is_share and (gate.worse_by_more_than or 0.0) >= 1:
            found.append(
                f"worse_by_more_than is {gate.worse_by_more_than:g}, but {metric.name} is a proportion, "
                "so no row can lose as much"
            )
        return found

    def claim_text(self, gate: Gate) -> str:
        size, most = format_limit(gate.worse_by_more_than), f"{100 * (gate.on_at_most or 0.0):g}%"
        return f"worse than {gate.versus} by more than {size} on at most {most} of rows"

    def threshold(self, gate: Gate) -> float:
        return gate.on_at_most or 0.0

    def sign(self, gate: Gate, better: str) -> Literal[1, -1]:
        return -1

    def oriented(self, gate: Gate, metric: Metric) -> Oriented:
        """Return that fewer are better."""
        return Oriented(-1, -(gate.on_at_most or 0.0), 1.0)

    def restate(self, gate: Gate, metric: Metric) -> tuple[Gate, Metric]:
        """Return the claim as a bound on a share of rows."""
        share = Metric(metric.name, "lower", "proportion")
        return replace(gate, versus=None, worse_by_more_than=None, on_at_most=None, max=gate.on_at_most), share

    def score_rows(
        self, gate: Gate, metric: Metric, ours: Sequence[Score], theirs: Sequence[Score] | None
    ) -> tuple[Sequence[Score], Sequence[Score] | None]:
        """Score each row 1 if it loses more, else 0. Its weight is 0 if both sides' weights are."""
        name, found = metric.name, list[Score]()
        for o, t in zip(ours, theirs or (), strict=True):
            lost, part = {*o.lost, *t.lost}, {**o.partly_lost, **t.partly_lost}
            counts = bool(o.weight_of(name) or t.weight_of(name) or name in lost)
            value = float(self.loses(gate, metric, o.values[name], t.values[name]))
            score = replace(o, values={name: value}, weight=float(counts), weights={})
            found.append(replace(score, lost=tuple(lost), partly_lost=part))
        return found, None

    def loses(self, gate: Gate, metric: Metric, ours: float, theirs: float) -> bool:
        """Return whether a row loses more than allowed. Rounding errors of a sum do not count."""
        loss = (theirs - ours) * (1 if metric.better == "higher" else -1)
        size = gate.worse_by_more_than or 0.0
        return loss > size + 1e-9 * max(1.0, size)

    def implies(self, gate: Gate, claim: Gate, metric: Metric) -> bool:
        """Return whether as few rows lose as little."""
        sizes = [(g.worse_by_more_than or 0.0, g.on_at_most or 0.0) for g in (gate, claim)]
        return sizes[0][0] <= sizes[1][0] and sizes[0][1] <= sizes[1][1]

    def best_case(self, gate: Gate, metric: Metric) -> BestCase | None:
        """Return that no row loses more."""
        claim = f"on_at_most = {gate.on_at_most:g}"
        return BestCase(claim, 1 - (gate.on_at_most or 0.0), "even if no row loses more", "where no row loses more")
