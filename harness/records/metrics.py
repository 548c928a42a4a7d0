"""Metrics, and the decorator that declares them for evaluators."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, SupportsFloat, TypeVar

from harness import plugin_errors
from harness.records import scales
from harness.records.samples import Score
from harness.records.scales import Scale, Scaled
from harness.stats.values import Range

Better = Literal["higher", "lower"]
"""Which direction of a metric is better."""
NUMBER = (float, SupportsFloat)  # what is a float is told at once: a protocol's methods are looked up one by one


@dataclass(frozen=True)
class Metric(Scaled):
    """A number about a model: its direction, its scale, and how rows make it.

    A metric is Σw·v/Σw over the rows (exp of it for the scale "perplexity"; Σv for "count"), unless
    `combine(scores)` makes it from all rows at once (scale "other"). An "agreement" is of no row, but of Labels; where
    a metric is `labelled` they come with its result, and correct it. `range` is the least and the most that a row's
    value can be, in nats of a perplexity; either may be infinite.
    """

    name: str
    better: Better
    scale: Scale = "mean"
    combine: Callable[[Sequence[Score]], float] | None = None
    labelled: bool = False
    range: tuple[float, float] | None = None

    @property
    def row_range(self) -> Range:
        """The declared range of a row's value; infinite where none is."""
        if self.range:
            return Range(*self.range)
        return Range(0.0, 1.0) if self.is_share else Range(-math.inf, math.inf)

    def value(self, scores: Sequence[Score]) -> float:
        """Compute the metric from rows.

        NaN if there are no rows, if one lacks the metric, or if their weights sum to 0; infinite on overflow. Raises
        UsageError if `combine` does not return a number.
        """
        if self.combine:
            made = self.combine(scores) if scores else math.nan
            return float(plugin_errors.checked_return(self.combine, made, NUMBER, "a number"))
        rows = [(s.values.get(self.name, math.nan), s.weight_of(self.name)) for s in scores]
        if self.is_count:
            return math.fsum(v for v, _ in rows) if rows else math.nan
        if not (total := math.fsum(w for _, w in rows)):
            return math.nan
        mean = math.fsum(v * w for v, w in rows) / total
        try:
            return self.from_test_scale(mean)
        except OverflowError:
            return math.inf


# of all evaluators that generate: cut by a limit, with nothing said, both; a thought closed by force
ENDINGS = {name: Metric(name, "lower", "proportion") for name in ("cut", "empty", "thought_cut", "forced")}
F = TypeVar("F", bound=Callable[..., Iterable[Any]])


def metric(
    name: str,
    *,
    better: Better,
    scale: Scale = "mean",
    combine: Callable[[Sequence[Score]], float] | None = None,
    range: tuple[float, float] | None = None,
) -> Callable[[F], F]:
    """Declare a metric of an evaluator.

    Declarations may be stacked; the topmost is the evaluator's first metric. `range` holds the smallest and the largest
    possible value of a row; without it the risk of a gate on a mean is approximate. Raises ValueError for a wrong
    argument.
    """
    if better not in ("higher", "lower"):
        raise ValueError(f'metric "{name}": better is "{better}"; it must be "higher" or "lower"')
    scales.check_scale(name, scale, combines=combine is not None)
    if range is not None and (why := scales.find_range_error(scale, range, combines=combine is not None)):
        raise ValueError(f'metric "{name}": range {why}')

    def declare(evaluator: F) -> F:
        known: tuple[Metric, ...] = getattr(evaluator, "metrics", ())
        evaluator.metrics = (Metric(name, better, scale, combine, range=range), *known)  # type: ignore[attr-defined]
        return evaluator

    return declare
