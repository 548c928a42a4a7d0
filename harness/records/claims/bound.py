"""A metric against a number: `min` and `max`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from harness.records.claims.gate import BestCase, ClaimTerms, ClaimType, Gate
from harness.records.metrics import Metric
from harness.texts.numbers import format_limit


class Bound(ClaimType):
    """Claim that a metric is at least or at most a number."""

    name = "bound"
    keys = ("min", "max")

    def find_metric_mistakes(self, gate: Gate, metric: Metric, rows: int | None) -> list[str]:
        name, found = metric.name, []
        for key, bound in (("min", gate.min), ("max", gate.max)):
            if bound is None:
                continue
            if metric.is_share and not 0 <= bound <= 1:
                meant = f"; did you mean {bound / 100:g}?" if 1 < bound <= 100 else ""
                found.append(f"{key} is {bound:g}, but {name} is a proportion from 0 to 1{meant}")
            if metric.is_log and bound < 1:
                found.append(f"{key} is {bound:g}, but a perplexity is 1 or more")
            if metric.is_count and bound < 0:
                found.append(f"{key} is {bound:g}, but {name} is a count")
            if metric.is_agreement and not -1 <= bound < 1:
                found.append(f"{key} is {bound:g}, but {name} is an agreement, from -1 to 1")
        return [*found, *super().find_metric_mistakes(gate, metric, rows), *_iterate_trivial_bound_errors(gate, metric)]

    def claim_text(self, gate: Gate) -> str:
        return f"at most {format_limit(gate.max)}" if gate.min is None else f"at least {format_limit(gate.min)}"

    def threshold(self, gate: Gate) -> float:
        return gate.max or 0.0 if gate.min is None else gate.min

    def sign(self, gate: Gate, better: str) -> Literal[1, -1]:
        return -1 if gate.min is None else 1

    def fails(self, terms: ClaimTerms, value: float) -> bool:
        return terms.sign * (value - terms.to_test_scale(terms.threshold)) < 0

    def implies(self, gate: Gate, claim: Gate, metric: Metric) -> bool:
        """Return whether this bound is as strict as the claim's."""
        if gate.min is not None:
            return claim.min is not None and gate.min >= claim.min
        return gate.max is not None and claim.max is not None and gate.max <= claim.max

    def best_case(self, gate: Gate, metric: Metric) -> BestCase | None:
        """Return the best case of a share.

        Every row is right for `min`, and wrong for `max`.
        """
        if not metric.is_share or metric.combine:
            return None
        if gate.min is not None:
            return BestCase(f"min = {gate.min:g}", gate.min, "even if every row is right", "where every row is right")
        return BestCase(
            f"max = {gate.max:g}", 1 - (gate.max or 0.0), "even if it is 0 on every row", "where it is 0 on every row"
        )


def _iterate_trivial_bound_errors(gate: Gate, metric: Metric) -> Iterator[str]:
    """Yield mistakes that make a bound trivial or unprovable.

    They lie in `cap`, or in the range of a row's value.
    """
    if not metric.is_of_rows or metric.is_share or metric.combine:
        return
    for key, bound in (("min", gate.min), ("max", gate.max)):
        if bound is None or (metric.is_log and bound <= 0):
            continue
        limit = metric.to_test_scale(bound)
        if gate.cap is not None and 0 < gate.cap <= abs(limit):
            yield (f"cap is {gate.cap:g}, and {key} is {limit:.3g} in each row's units; raise the cap above that")
        low, high = metric.row_range if gate.range is None or len(gate.range) != 2 else gate.row_range(metric)
        if not low < limit < high:
            where = f"outside or at an end of their range {low:g} to {high:g}"
            yield f"{key} is {limit:.3g} in each row's units, {where}"
