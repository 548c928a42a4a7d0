"""Results of tests, and the combination of tests that must agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.stats import rule_of_three
from harness.stats.arrays import Floats
from harness.stats.rule_of_three import Support
from harness.stats.values import PValues

Judged = tuple[float, float, float, float]  # lower, upper, p_pass, p_fail


@dataclass(frozen=True)
class Test:
    """One claim tested: an estimate, its bounds, and how surprising the data are on either side of the claim.

    `lower` and `upper` are one-sided bounds at alpha each, together a 1 - 2·alpha interval, on the
    scale of the estimate (infinite when nothing can be said). `p_pass` is the p-value of
    H0: theta <= threshold (small: the claim is proven), `p_fail` that of H0: theta >= threshold.
    `effective` is as how many the clusters count, where they are very uneven. Where rows are in clusters of several
    kinds, `clusters` is how many there are of the kind that has fewest, and `crossed` how many of each.
    """

    estimate: float
    lower: float
    upper: float
    p_pass: float
    p_fail: float
    method: str
    n: int
    clusters: int | None = None
    effective: float | None = None
    crossed: tuple[int, ...] = ()

    __test__: ClassVar[bool] = False  # pytest must not collect it where a test imports it


def to_floats(pair: tuple[Floats, Floats]) -> PValues:
    """Return two p-values, arrays of shape (), as numbers."""
    return PValues(float(pair[0]), float(pair[1]))


def combine_weakest(parts: Sequence[Judged], support: Support | None) -> Judged:
    """Combine tests that must agree.

    Returns the wider bounds, inside the support, and the larger p-values.
    """
    lower, upper = min(p[0] for p in parts), max(p[1] for p in parts)
    if support:
        lower, upper = max(lower, support[0]), min(upper, support[1])
    return lower, upper, max(p[2] for p in parts), max(p[3] for p in parts)


def equal_values_test(value: float, weights: Floats, threshold: float, alpha: float, support: Support | None) -> Judged:
    """Test clusters that all have the same value. Weights are (G,); see `rule_of_three.unseen_p`."""
    if support is None:
        return -math.inf, math.inf, 1.0, 1.0
    return (
        *rule_of_three.unseen_bounds(value, weights, alpha, support),
        *to_floats(rule_of_three.unseen_p(value, weights, threshold, support)),
    )
