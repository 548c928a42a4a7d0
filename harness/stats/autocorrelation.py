"""Whether neighbouring rows say alike things: rows that are taken to be independent and stand as they came."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

MIN_ROWS = 20  # for an estimate
MAX_DRAWN_ROWS = 2_000  # other than the most frequent value; above it, the normal distribution is used
MANY_ROWS = 500  # other than the most frequent value, above which it is used if there are
MANY_NEIGHBOURS = 80  # expected pairs of neighbours that both carry the variance
RANDOM_ORDERS = 999  # of the rows, drawn at random
ENOUGH_AS_HIGH = 10  # orders with as high a correlation, after which no more are drawn
SEED = 20102


class Autocorrelation(NamedTuple):
    """Lag-1 autocorrelation of rows and its permutation p-value."""

    correlation: float
    p: float


def lag_one_correlation(values: Sequence[float]) -> Autocorrelation | None:
    """Return the lag-1 autocorrelation of rows and its p-value.

    The p-value is the share of other orders of the rows with as high a correlation: the permutation test of Wald,
    Wolfowitz 1943, Annals of Mathematical Statistics 14:378, drawn until enough have (Besag, Clifford 1991, Biometrika
    78:301). Its normal approximation is used where very many rows have another than the most frequent value, or many of
    which MANY_NEIGHBOURS are expected side by side. None for fewer than MIN_ROWS rows, and if nothing varies.
    """
    n = len(values)
    if n < MIN_ROWS:
        return None
    usual = Counter(values).most_common(1)[0][0]
    others = {place: value - usual for place, value in enumerate(values) if value != usual}
    mean = math.fsum(others.values()) / n
    size = math.fsum(x * x for x in others.values()) - n * mean * mean
    largest = max(map(abs, values))
    if not size > 1e-24 * n * max(1.0, largest * largest):
        return None
    observed = _sum_neighbours(others, n, mean)
    constant = (n - 1) * mean * mean - 2 * n * mean * mean  # of the centred sum, in any order
    correlation = (observed + constant) / size
    crowded = len(others) > MANY_ROWS and (
        _count_effective_rows([value - usual - mean for value in values]) ** 2 >= MANY_NEIGHBOURS * n
    )
    if crowded or len(others) > MAX_DRAWN_ROWS:
        return Autocorrelation(correlation, NormalDist().cdf(-(correlation * n + 1) / math.sqrt(n)))
    rng = random.Random(f"{SEED} {n}")  # noqa: S311
    apart = list(others.values())
    as_high = 0
    for drawn in range(1, RANDOM_ORDERS + 1):
        places = rng.sample(range(n), len(apart))
        as_high += _sum_neighbours(dict(zip(places, apart, strict=True)), n, mean) >= observed - 1e-12 * size
        if as_high == ENOUGH_AS_HIGH:
            return Autocorrelation(correlation, as_high / drawn)
    return Autocorrelation(correlation, (1 + as_high) / (RANDOM_ORDERS + 1))


def _count_effective_rows(deviations: Sequence[float]) -> float:
    """Return how many rows carry the variance, their inverse participation ratio: few in a heavy tail."""
    largest = max(map(abs, deviations))
    squares = [(x / largest) ** 2 for x in deviations]
    return math.fsum(squares) ** 2 / math.fsum([x * x for x in squares])


def _sum_neighbours(others: dict[int, float], n: int, mean: float) -> float:
    """Return the part of the centred sum of products of neighbours that depends on the order.

    `others` are the values at their places, counted from the most frequent one.
    """
    products = math.fsum([value * others[place + 1] for place, value in others.items() if place + 1 in others])
    return products + mean * (others.get(0, 0.0) + others.get(n - 1, 0.0))
