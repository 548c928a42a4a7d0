"""Tango's score of a difference of paired shares, and its distribution.

The distribution is that under the hypothesis. b rows only the candidate got right, c only the baseline, n in all; d0 is
the difference under the hypothesis. Counts may be arrays of one shape, and fractions of rows where they are effective
ones. Source: Tango 1998, Statistics in Medicine 17:891.
"""

from __future__ import annotations

import math
from typing import Any

from harness.stats.arrays import np, optimize, special
from harness.stats.significance import is_significant
from harness.stats.values import PValues


def exact_p(b: int, c: int, n: int, d0: float) -> PValues:
    """Return the exact p-values of Tango's score at difference d0.

    They are the probabilities of a score as high, and of one as low, with all else as fitted. Summed over how many rows
    may have changed: the score rises with wins, so for each number the tables that count are a tail of the binomial
    distribution.
    """
    q = float(np.clip(fit_losses(b, c, n, d0), max(0.0, -d0), (1 - d0) / 2))
    changed = 2 * q + d0
    # numbers outside of these have a probability below 1e-9 in all
    reach = 7 * math.sqrt(n * changed * (1 - changed)) + 10
    least, most = max(math.floor(n * changed - reach), 0), min(math.ceil(n * changed + reach), n)
    k = np.arange(least, most + 1, dtype=np.float64)
    ways = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    chance = np.exp(ways + special.xlogy(k, changed) + special.xlogy(n - k, max(1 - changed, 0.0)))
    share, seen = min((q + d0) / changed, 1.0) if changed else 0.5, float(score_statistic(b, c, n, d0))
    high = chance @ _compute_binomial_tail(min_tango_wins(k, n, d0, seen - 1e-9), k, share)
    low = chance @ (1 - _compute_binomial_tail(min_tango_wins(k, n, d0, seen + 1e-9), k, share))
    return PValues(min(float(high), 1.0), min(float(low), 1.0))


def min_tango_wins(k: Any, n: int, d0: float, z: float) -> Any:
    """Return the fewest wins with a score of at least z.

    There is one number (k,) for each number of changed rows (k,); k + 1 if none do.
    """
    low, high = np.zeros_like(k), k + 1
    while (low < high).any():  # the score rises with wins
        middle = (low + high) // 2
        hit = (score_statistic(middle, k - middle, n, d0) >= z) | (low >= high)
        low, high = np.where(hit, low, middle + 1), np.where(hit, middle, high)
    return low


def _compute_binomial_tail(wins: Any, k: Any, share: float) -> Any:
    """Return the probability of at least so many wins, (k,).

    There are k changed rows (k,), each a win with probability `share`.
    """
    inside = np.clip(wins, 1, np.maximum(k, 1))
    return np.where(wins <= 0, 1.0, np.where(wins > k, 0.0, special.betainc(inside, k - inside + 1, share)))


def exact_bound(b: int, c: int, n: int, d0: float, alpha: float) -> float:
    """Return the lower bound of the difference: on the same side of d0 as the verdict, by bisection."""
    passed = is_significant(exact_p(b, c, n, d0)[0], alpha)
    estimate = (b - c) / n
    below, above = (d0, estimate) if passed else (-1.0, min(d0, estimate))
    if above <= -1:
        return -1.0
    while above - below > 1e-6:
        middle = (below + above) / 2
        below, above = (middle, above) if is_significant(exact_p(b, c, n, middle)[0], alpha) else (below, middle)
    return above if passed else below


def fit_losses(b: Any, c: Any, n: Any, d0: float) -> Any:
    """Fit the share of rows only the baseline gets right under H0.

    The share only the candidate gets right is larger by d0.
    """
    linear = -b - c + (2 * n - b + c) * d0
    constant = -c * d0 * (1 - d0)
    q = (np.sqrt(np.maximum(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    return np.maximum(q, max(0.0, -d0))


def score_statistic(b: Any, c: Any, n: Any, d0: float) -> Any:
    """Return the score statistic of H0: difference = d0; 0 where the data say nothing."""
    q = fit_losses(b, c, n, d0)
    variance = n * (2 * q + d0 * (1 - d0))
    distance = b - c - n * d0
    known = variance > 1e-12
    z = distance / np.sqrt(np.where(known, variance, 1.0))
    return np.where(known, z, np.where(np.abs(distance) > 1e-9, np.copysign(np.inf, distance), 0.0))


def invert_statistic(b: float, c: float, n: float, z: float) -> float:
    """Return the difference at which the score statistic equals z.

    The statistic falls as the difference grows.
    """
    edge = 1 - 1e-12
    if score_statistic(b, c, n, -edge) <= z:
        return -1.0
    if score_statistic(b, c, n, edge) >= z:
        return 1.0
    return float(optimize.brentq(lambda d: float(score_statistic(b, c, n, d)) - z, -edge, edge, xtol=1e-12))
