"""One training against control trainings on the same rows: how far it lies beyond what equal trainings scatter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from harness.stats.arrays import np, special


class ControlGap(NamedTuple):
    """A training's distance from the mean of its controls.

    The bounds are one-sided, at alpha each.
    """

    estimate: float
    lower: float
    upper: float


def compare_with_controls(value: float, controls: Sequence[float], rows_error: float, alpha: float) -> ControlGap:
    """Return the distance of a training's metric from its controls' mean.

    There must be at least two control trainings. The reach over trainings is Student's t of one more draw from the
    population of the controls, with their spread; the reach over rows is a normal quantile of `rows_error`. They are
    squared and added, as for the seeds of a recipe.
    """
    k = len(controls)
    spread = math.sqrt(float(np.var(controls, ddof=1)) * (1 + 1 / k))
    reach = math.hypot(-float(special.stdtrit(k - 1, alpha)) * spread, -float(special.ndtri(alpha)) * rows_error)
    estimate = value - math.fsum(controls) / k
    return ControlGap(estimate, estimate - reach, estimate + reach)


def cluster_error(differences: Sequence[float], weights: Sequence[float], clusters: Sequence[str]) -> float:
    """Return the standard error of a clustered weighted mean. Infinite for a single cluster."""
    total = math.fsum(weights)
    mean = math.fsum(w * d for w, d in zip(weights, differences, strict=True)) / total
    sums: dict[str, float] = {}
    for difference, weight, cluster in zip(differences, weights, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + weight * (difference - mean)
    g = len(sums)
    return math.inf if g < 2 else math.sqrt(g / (g - 1) * math.fsum(s * s for s in sums.values())) / total
