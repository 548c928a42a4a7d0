"""Tango's score of a difference of paired shares, and its distribution when the hypothesis is true.

b rows only the candidate got right, c only the baseline, n in all; d0 is the difference under the
hypothesis. Counts may be arrays of one shape, and fractions of rows where they are effective ones.
Source: Tango 1998, Statistics in Medicine 17:891.
"""

from __future__ import annotations

import math
from typing import Any


def fitted_p(b: int, c: int, n: int, d0: float) -> tuple[float, float]:
    """Return how probable a score as high, and one as low, is if the difference is d0, all else as fitted."""
    import numpy as np
    from scipy.special import gammaln, xlogy

    q = float(np.clip(losses_fitted(b, c, n, d0), max(0.0, -d0), (1 - d0) / 2))
    changed = 2 * q + d0
    # tables outside of these have a probability below 1e-9 in all
    reach = 7 * math.sqrt(n * changed * (1 - changed)) + 10
    totals = np.arange(max(math.floor(n * changed - reach), 0), min(math.ceil(n * changed + reach), n) + 1)
    losses = np.concatenate([np.arange(k + 1) for k in totals]).astype(np.float64)
    wins = np.repeat(totals, totals + 1) - losses
    same = n - wins - losses
    ways = gammaln(n + 1) - gammaln(wins + 1) - gammaln(losses + 1) - gammaln(same + 1)
    logs = xlogy(wins, q + d0) + xlogy(losses, q) + xlogy(same, max(1 - changed, 0.0))
    chance = np.exp(ways + logs)
    z, seen = statistic(wins, losses, n, d0), float(statistic(b, c, n, d0))
    high_p, low_p = float(chance[z >= seen - 1e-9].sum()), float(chance[z <= seen + 1e-9].sum())
    return min(high_p, 1.0), min(low_p, 1.0)


def fitted_bound(b: int, c: int, n: int, d0: float, alpha: float) -> float:
    """Return the lower bound of the difference: on the same side of d0 as the verdict, by bisection."""
    passed = fitted_p(b, c, n, d0)[0] <= alpha
    estimate = (b - c) / n
    below, above = (d0, estimate) if passed else (-1.0, min(d0, estimate))
    if above <= -1:
        return -1.0
    while above - below > 1e-6:
        middle = (below + above) / 2
        if fitted_p(b, c, n, middle)[0] <= alpha:
            below = middle
        else:
            above = middle
    return above if passed else below


def losses_fitted(b: Any, c: Any, n: Any, d0: float) -> Any:
    """Return the share of rows only the baseline gets right, fitted under H0; q + d0 is the candidate's."""
    import numpy as np

    linear = -b - c + (2 * n - b + c) * d0
    constant = -c * d0 * (1 - d0)
    q = (np.sqrt(np.maximum(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    return np.maximum(q, max(0.0, -d0))


def statistic(b: Any, c: Any, n: Any, d0: float) -> Any:
    """Return the score statistic of H0: difference = d0; 0 where the data say nothing."""
    import numpy as np

    q = losses_fitted(b, c, n, d0)
    variance = n * (2 * q + d0 * (1 - d0))
    distance = b - c - n * d0
    known = variance > 1e-12
    z = distance / np.sqrt(np.where(known, variance, 1.0))
    return np.where(known, z, np.where(np.abs(distance) > 1e-9, np.copysign(np.inf, distance), 0.0))


def bound(b: float, c: float, n: float, z: float) -> float:
    """Return the difference at which the score statistic, which falls as the difference grows, equals z."""
    from scipy.optimize import brentq

    edge = 1 - 1e-12
    if statistic(b, c, n, -edge) <= z:
        return -1.0
    if statistic(b, c, n, edge) >= z:
        return 1.0
    return float(brentq(lambda d: float(statistic(b, c, n, d)) - z, -edge, edge, xtol=1e-12))
