"""A metric against that of a baseline on the same rows: `versus` with `better_by` or `worse_by_at_most`."""

from __future__ import annotations

import math
from typing import Literal

from harness.records.claims.gate import BestCase, ClaimType, Gate, Oriented
from harness.records.metrics import Metric
from harness.texts.numbers import format_limit


class Difference(ClaimType):
    """Claim of superiority or non-inferiority to a baseline.

    The candidate is better by more than a margin, or worse by less than one.
    """

    name = "difference"
    keys = ("versus better_by", "versus worse_by_at_most")

    def matches(self, gate: Gate) -> bool:
        """Return whether a gate is of this kind. One with `max_failures` is not, though it may have a baseline."""
        return gate.max_failures is None and super().matches(gate)

    def find_mistakes(self, gate: Gate) -> list[str]:
        found = super().find_mistakes(gate)
        try:
            if not (gate.margin >= 0 if gate.better_by is not None else gate.margin <= 0) or math.isinf(gate.margin):
                found.append("a margin must be 0 or more; its direction is that of the metric")
        except ValueError as error:
            found.append(f'a margin is "{error}"; give a number in the metric\'s units, or a share such as "2%"')
        return found

    def find_metric_mistakes(self, gate: Gate, metric: Metric, rows: int | None) -> list[str]:
        found = super().find_metric_mistakes(gate, metric, rows)
        try:
            size = abs(gate.margin)
        except ValueError:
            return found  # told by `mistakes`
        key, share = "better_by" if gate.better_by is not None else "worse_by_at_most", gate.relative or metric.is_log
        shrinks = (metric.better == "lower") == (key == "better_by")  # the claim is about a smaller value
        if metric.is_share and not share and size >= 1:
            found.append(f"{key} is {size:g}, but {metric.name} is a proportion; write 2 points as 0.02")
        elif metric.is_log and not gate.relative and size >= 1:
            what = f'if that is intended, write "{size:.0%}"'
            found.append(f"{key} is {size:g}; for a perplexity that means {size:.0%}; {what}")
        elif share and shrinks and size >= 1:
            found.append(f"{key} is {size:.0%}, which would leave a {metric.name} of 0 or less; lower it")
        if gate.cap is None or not gate.cap > 0 or metric.combine:
            return found
        unit = abs(self.oriented(gate, metric)[1])
        if gate.relative and not metric.is_log:
            found.append("cap: is in the metric's units, but the margin is a share; write the margin in units, too")
        elif gate.cap <= unit:
            why = f"a margin of {unit:.3g} is not below it, so no row could decide; raise the cap"
            found.append(f"cap is {gate.cap:g}, and {why}")
        return found

    def claim_text(self, gate: Gate) -> str:
        if gate.worse_by_at_most is not None:
            return f"worse than {gate.versus} by at most {format_limit(gate.worse_by_at_most)}"
        return f"better than {gate.versus}" + (f" by {format_limit(gate.better_by)}" if gate.margin else "")

    def threshold(self, gate: Gate) -> float:
        return gate.margin

    def sign(self, gate: Gate, better: str) -> Literal[1, -1]:
        return -1 if better == "lower" else 1

    def oriented(self, gate: Gate, metric: Metric) -> Oriented:
        """Return sign, margin and factor of the claim.

        A relative margin becomes a factor on the baseline, so that nothing is divided.
        """
        sign = 1 if metric.better == "higher" else -1
        if metric.is_log:
            return Oriented(sign, sign * math.log1p(sign * gate.margin), 1.0)
        return Oriented(sign, 0.0, 1 + sign * gate.margin) if gate.relative else Oriented(sign, gate.margin, 1.0)

    def implies(self, gate: Gate, claim: Gate, metric: Metric) -> bool:
        """Return whether its margin is as large as the claim's.

        The units must be the same. Shares compare only if the metric is never negative: a larger share of a negative
        value is not more.
        """
        if gate.margin == claim.margin and gate.relative == claim.relative:
            return True
        never_negative = metric.is_share or metric.is_log or metric.is_count
        units = metric.is_log or (gate.relative == claim.relative and (not gate.relative or never_negative))
        return units and gate.margin >= claim.margin

    def best_case(self, gate: Gate, metric: Metric) -> BestCase | None:
        """Return the best case of a margin.

        Every row is won, or, if the candidate may be worse, none is lost.
        """
        closed = metric.is_share and not metric.combine and not gate.relative
        if gate.worse_by_at_most is not None and (closed or gate.cap is not None):
            margin = math.log1p(abs(gate.margin)) if metric.is_log else abs(gate.margin)
            claim = f"worse_by_at_most = {format_limit(gate.worse_by_at_most)}"
            unless = f"unless the model is better than {gate.versus}"
            return BestCase(claim, 1 - margin / (1.0 if gate.cap is None else gate.cap), unless, "where no row changes")
        if not closed or gate.cap is not None:
            return None
        even = f"even if {gate.versus} is worse on every row"
        alike = f"where {gate.versus} is worse on every row"
        return BestCase(f"better_by = {gate.better_by:g}", (1 + gate.margin) / 2, even, alike)
