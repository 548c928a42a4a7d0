"""Whether neighbouring rows say alike things: rows that are taken to be independent and stand as they came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

from harness.stats.arrays import np

MIN_ROWS = 20  # for an estimate
MAX_EXACT_ROWS = 5_000  # above it, the normal distribution is used
RANDOM_ORDERS = 999  # of the rows, drawn at random
SEED = 20102


class Autocorrelation(NamedTuple):
    """Lag-1 autocorrelation of rows and its permutation p-value."""

    correlation: float
    p: float


def lag_one_correlation(values: Sequence[float]) -> Autocorrelation | None:
    """Return the lag-1 autocorrelation of rows and its p-value.

    The p-value is the share of other orders of the rows with as high a correlation: the permutation test of Wald,
    Wolfowitz 1943, Annals of Mathematical Statistics 14:378, and above MAX_EXACT_ROWS rows its normal approximation.
    None for fewer than MIN_ROWS rows, and if nothing varies.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x - x.mean()
    n, size = len(x), float(x @ x)
    if n < MIN_ROWS or not size > 1e-24 * n * max(1.0, float(np.abs(values).max()) ** 2):
        return None
    seen = float(x[:-1] @ x[1:])
    if n > MAX_EXACT_ROWS:
        return Autocorrelation(seen / size, NormalDist().cdf(-(seen / size * n + 1) / math.sqrt(n)))
    rng, above = np.random.default_rng([SEED, n]), 0
    for _ in range(RANDOM_ORDERS):
        other = rng.permutation(x)
        above += float(other[:-1] @ other[1:]) >= seen - 1e-12 * size
    return Autocorrelation(seen / size, (1 + above) / (RANDOM_ORDERS + 1))
