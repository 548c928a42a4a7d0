"""Prediction of the rows that decide a paired 0/1 comparison.

It is a range, as probable as the rows seen so far allow.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from itertools import accumulate
from statistics import NormalDist

from harness.stats.power import DEFAULT_POWER
from harness.stats.values import Range

PRIOR_MEAN, PRIOR_SPREAD = 0.03, 0.04  # of how much better candidates are, before any row was seen
MAX_RANGE_RATIO = 5.0  # of the upper to the lower end
RANGE_STARTS = 60  # lower ends that are tried, evenly spaced in their logarithms
MIN_PROBABILITY = 0.75  # that the number is inside the range
LOW_CHANCE = 0.1  # chance that fewer rows than the least are needed, where no such range is probable enough


def predict_rows_range(wins: int, losses: int, n: int, threshold: float, sign: int, alpha: float, most: int) -> Range:
    """Predict the range of total rows that decide a claim.

    The claim is decided to the side of `sign`, with more than n rows. The number of rows is computed for each possible
    difference and discordance, weighted by their likelihood and the prior: estimates from few rows are too uncertain by
    themselves. The upper end is infinite if no range within MAX_RANGE_RATIO and `most` has MIN_PROBABILITY.
    """
    truths = sorted(_compute_needed_rows_posterior(wins, losses, n, threshold, sign, alpha))
    rows = [needed for needed, _ in truths]
    chance = list(accumulate((weight for _, weight in truths), initial=0.0))
    for wide in range(2, int(MAX_RANGE_RATIO) + 1):
        last = max(most / wide, n + 1)
        starts = [(n + 1) * (last / (n + 1)) ** (i / (RANGE_STARTS - 1)) for i in range(RANGE_STARTS)]
        inside = [
            chance[bisect_right(rows, min(least * wide, most))] - chance[bisect_left(rows, least)] for least in starts
        ]
        if max(inside) >= MIN_PROBABILITY:
            least = starts[inside.index(max(inside))]
            return Range(least, min(least * wide, most))
    first = min(bisect_left(chance[1:], LOW_CHANCE), len(rows) - 1)
    return Range(float(rows[first]), math.inf)


def _compute_needed_rows_posterior(
    wins: int, losses: int, n: int, threshold: float, sign: int, alpha: float
) -> list[tuple[float, float]]:
    """Return needed rows with their probability, for each possible truth on the given side of the threshold."""
    changed, estimate = wins + losses, (wins - losses) / n
    error = math.sqrt(max((changed + 1) / n - estimate**2, 1e-4) / n)
    about, reach = (changed + 0.5) / n, math.sqrt(changed + 1) / n
    discordances = _space_evenly(max(about - 3 * reach, 0.2 / n), min(about + 4 * reach, 0.999), 25)
    truths = _space_evenly(estimate - 4.5 * error, estimate + 4.5 * error, 91)
    possible = [(d, t) for d in discordances for t in truths if abs(t) < 0.999 * d and sign * (t - threshold) > 0]
    if not possible:
        return [(math.inf, 1.0)]
    likely = [
        wins * math.log((d + t) / 2) + losses * math.log((d - t) / 2) + (n - changed) * math.log1p(-d)
        - ((t - PRIOR_MEAN) / PRIOR_SPREAD) ** 2 / 2
        for d, t in possible
    ]  # fmt: skip
    highest = max(likely)
    weights = [math.exp(log - highest) for log in likely]
    total = math.fsum(weights)
    risk, power = NormalDist().inv_cdf(1 - alpha), NormalDist().inv_cdf(DEFAULT_POWER)
    found = list[tuple[float, float]]()
    for (d, t), weight in zip(possible, weights, strict=True):
        null, true = max(d, abs(threshold)) - threshold**2, d - t**2  # variances of a row's difference
        needed = (risk * math.sqrt(null) + power * math.sqrt(true)) / (t - threshold)
        found.append((max(math.ceil(needed**2), n + 1.0), weight / total))
    return found


def _space_evenly(first: float, last: float, count: int) -> list[float]:
    return [first + (last - first) * i / (count - 1) for i in range(count)]
