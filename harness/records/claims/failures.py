"""How many rows fail: `max_failures`, which is counted, and nothing is inferred."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from harness.records.claims.gate import ClaimTerms, ClaimType, Gate, Oriented, Units
from harness.records.metrics import Metric
from harness.records.samples import Score
from harness.stats import hypothesis_tests
from harness.texts.numbers import format_limit


class Failures(ClaimType):
    """At most so many rows are wrong: by a metric that is 0 or 1, or worse than a number or baseline by over a cap."""

    name = "failures"
    keys = ("max_failures",)
    counts = True

    def find_mistakes(self, gate: Gate) -> list[str]:
        found = super().find_mistakes(gate)
        if gate.max_failures is not None and gate.max_failures < 0:
            found.append(f"max_failures is {gate.max_failures}; it must be 0 or more")
        if gate.versus is not None and gate.cap is None:
            found.append('"max_failures" with "versus" counts rows that lose more than a cap; add "cap"')
        if gate.range is not None or gate.allow_approximate:
            found.append('"max_failures" is an exact count without a risk; remove "range" and "allow_approximate"')
        if gate.slice:
            found.append('"max_failures" counts over all rows; remove "slice"')
        if gate.estimand != "rows":
            found.append('"max_failures" counts rows; remove "estimand"')
        if gate.clean_only:
            found.append('"max_failures" counts over all rows, leaked ones included; remove "clean_only"')
        return found

    def find_metric_mistakes(self, gate: Gate, metric: Metric, rows: int | None) -> list[str]:
        found = super().find_metric_mistakes(gate, metric, rows)
        if gate.cap is None and (not metric.is_share or metric.combine):
            found.append(f"max_failures counts rows of a 0/1 metric, but {metric.name} is a {metric.scale}")
        if rows is not None and (gate.max_failures or 0) >= rows:
            found.append(f"max_failures is {gate.max_failures}, but there are only {rows} rows; lower it")
        return found

    def claim_text(self, gate: Gate) -> str:
        most = gate.max_failures or 0
        rows = "no row" if not most else "at most one row" if most == 1 else f"at most {most} rows"
        if gate.cap is None:
            return f"fails on {rows}"
        than = f"than {gate.versus} " if gate.versus else ""
        return f"worse {than}by more than {format_limit(gate.cap)} on {rows}"

    def threshold(self, gate: Gate) -> float:
        return gate.max_failures or 0

    def sign(self, gate: Gate, better: str) -> Literal[1, -1]:
        return -1 if better == "lower" else 1

    def fails(self, terms: ClaimTerms, value: float) -> bool:
        return terms.is_share and value != (1.0 if terms.sign > 0 else 0.0)

    def oriented(self, gate: Gate, metric: Metric) -> Oriented:
        """Return that fewer are better."""
        return Oriented(-1, -float(gate.max_failures or 0), 1.0)

    def implies(self, gate: Gate, claim: Gate, metric: Metric) -> bool:
        """Return whether it lets as few rows fail."""
        return (gate.max_failures or 0) <= (claim.max_failures or 0)  # of one cap, which `Gate.covers` looks at

    def test(self, gate: Gate, metric: Metric, units: Units, alpha: float) -> hypothesis_tests.Test:
        """Count the failed rows, or clusters with a failed row.

        The bounds of their share are those of Clopper, Pearson 1934, Biometrika 26:404. Raises ValueError if there is
        one row or one cluster, or if a value is not 0/1.
        """
        (ours, theirs, clusters), name, bad = units, metric.name, 0.0 if metric.better == "higher" else 1.0
        if len(ours) < 2:
            raise ValueError("there is only one row, which proves nothing about others")
        if gate.cap is None and (odd := find_fractional_score(name, ours)):
            raise ValueError(f"{odd}; max_failures needs a 0/1 metric")
        failed = (
            _flag_rows_beyond_cap(gate.cap, metric, ours, theirs) if gate.cap else [s.values[name] == bad for s in ours]
        )
        groups = clusters or [s.id for s in ours]
        count = len(set(groups))
        if count == 1:
            raise ValueError(f"all {len(groups)} rows are in one cluster, which proves nothing about other clusters")
        share = hypothesis_tests.binomial(len({u for u, f in zip(groups, failed, strict=True) if f}), count, 0.5, alpha)
        p = (0.0, 1.0) if sum(failed) <= (gate.max_failures or 0) else (1.0, 0.0)
        seen = count if clusters else None
        return hypothesis_tests.Test(
            -float(sum(failed)), -share.upper, -share.lower, *p, "failures counted", len(ours), seen
        )


def _flag_rows_beyond_cap(
    cap: float, metric: Metric, ours: Sequence[Score], theirs: Sequence[Score] | None
) -> list[bool]:
    """Return which rows are worse by more than a cap: than the baseline's, or by themselves."""
    sign, name = 1 if metric.better == "lower" else -1, metric.name
    others = [0.0] * len(ours) if theirs is None else [t.values[name] for t in theirs]
    return [sign * (o.values[name] - t) > cap for o, t in zip(ours, others, strict=True)]


def find_fractional_score(name: str, scores: Iterable[Score]) -> str:
    """Describe the first row without a 0/1 score. Empty if there is none."""
    odd = next((s for s in scores if s.values.get(name, 0) not in (0, 1)), None)
    return f'{name} of row "{odd.id}" is {odd.values[name]:g}' if odd else ""
