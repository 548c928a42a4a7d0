"""Tango's score of a difference of paired shares, and its distribution.

The distribution is that under the hypothesis. b rows only the candidate got right, c only the baseline, n in all; d0 is
the difference under the hypothesis. Counts may be fractions of rows where they are effective ones. `ratio` has the
score of many tables at once. Source: Tango 1998, Statistics in Medicine 17:891.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from harness.stats import binomials
from harness.stats.significance import is_significant
from harness.stats.values import PValues

TIE = 1e-9  # by which a score may lie below another and still counts as high
BOUND_STEP = 1e-6  # to which a bound is searched


def exact_p(b: int, c: int, n: int, d0: float) -> PValues:
    """Return the exact p-values of Tango's score at difference d0.

    They are the probabilities of a score as high, and of one as low, with all else as fitted.
    """
    return PValues(exact_tail(b, c, n, d0), exact_tail(c, b, n, -d0))


@lru_cache(maxsize=10_000)
def exact_tail(b: int, c: int, n: int, d0: float) -> float:
    """Return the probability of a score as high.

    Summed over how many rows may have changed: the score rises with wins, so for each number the tables that count are
    a tail of the binomial distribution.
    """
    q = min(max(fit_losses(b, c, n, d0), max(0.0, -d0)), (1 - d0) / 2)
    changed = min(2 * q + d0, 1.0)
    numbers = binomials.likely_counts(n, changed)
    share = min((q + d0) / changed, 1.0) if changed else 0.5
    fewest = min_tango_wins(numbers, n, d0, score_statistic(b, c, n, d0) - TIE)
    chances = binomials.probabilities(numbers, n, changed)
    total = math.fsum(map(float.__mul__, chances, binomials.tails(numbers, fewest, share)))
    return min(total, 1.0)


def min_tango_wins(changed: Iterable[int], n: int, d0: float, z: float) -> list[int]:
    """Return the fewest wins with a score of at least z for each number of changed rows, which must ascend.

    One more than the changed rows if none do. The score rises with wins, and the fewest hardly change from one number
    to the next, where each search begins.
    """
    found = list[int]()
    wins = 0
    for k in changed:
        if not found:
            wins = _bisect_wins(k, n, d0, z)
        while wins <= k and score_statistic(wins, k - wins, n, d0) < z:
            wins += 1
        while wins > 0 and score_statistic(wins - 1, k - wins + 1, n, d0) >= z:
            wins -= 1
        found.append(wins)
    return found


def _bisect_wins(changed: int, n: int, d0: float, z: float) -> int:
    low, high = 0, changed + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if score_statistic(middle, changed - middle, n, d0) >= z else (middle + 1, high)
    return low


def exact_bound(b: int, c: int, n: int, d0: float, alpha: float) -> float:
    """Return the lower bound of the difference: on the same side of d0 as the verdict, by bisection."""
    passed = is_significant(exact_tail(b, c, n, d0), alpha)
    estimate = (b - c) / n
    below, above = (d0, estimate) if passed else (-1.0, min(d0, estimate))
    if above <= -1:
        return -1.0
    while above - below > BOUND_STEP:
        middle = (below + above) / 2
        below, above = (middle, above) if is_significant(exact_tail(b, c, n, middle), alpha) else (below, middle)
    return above if passed else below


def fit_losses(b: float, c: float, n: float, d0: float) -> float:
    """Fit the share of rows only the baseline gets right under H0.

    The share only the candidate gets right is larger by d0.
    """
    linear = -b - c + (2 * n - b + c) * d0
    constant = -c * d0 * (1 - d0)
    q = (math.sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    return max(q, -d0, 0.0)


def score_statistic(b: float, c: float, n: float, d0: float) -> float:
    """Return the score statistic of H0: difference = d0; 0 where the data say nothing."""
    variance = n * (2 * fit_losses(b, c, n, d0) + d0 * (1 - d0))
    distance = b - c - n * d0
    if variance > 1e-12:
        return distance / math.sqrt(variance)
    return math.copysign(math.inf, distance) if abs(distance) > 1e-9 else 0.0


def invert_statistic(b: float, c: float, n: float, z: float) -> float:
    """Return the difference at which the score statistic equals z.

    The statistic falls as the difference grows.
    """
    low, high = -1 + 1e-12, 1 - 1e-12
    if score_statistic(b, c, n, low) <= z:
        return -1.0
    if score_statistic(b, c, n, high) >= z:
        return 1.0
    while high - low > 1e-13:
        middle = (low + high) / 2
        low, high = (middle, high) if score_statistic(b, c, n, middle) > z else (low, middle)
    return (low + high) / 2
