"""Several tests at one risk: of the gates in a group, of slices, of attempts, and of looks at more and more rows.

Of the rows that there may ever be a share is looked at each time, and the risk is spent in proportion: alpha times that
share by then (Lan, DeMets 1983, Biometrika 70:659). What earlier looks spent is known from the joint normal
distribution of the estimates, whose increments are independent (Armitage, McPherson, Rowe 1969, Journal of the Royal
Statistical Society A 132:235). Python's standard library alone, for who verifies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist

DENSITY_POINTS = 240  # of the density of the estimates that went on
GRID_DEVIATIONS = 8.0  # standard deviations
MIN_GROWTH = 0.02  # of the rows by which a look must have grown so that the density is followed


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for being several: at most alpha of families with a false claim reject one.

    Whatever their dependence. Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must be from 0 to 1; got {list(p_values)}")
    adjusted, worst, count = [1.0] * len(p_values), 0.0, len(p_values)
    for rank, i in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (count - rank) * p_values[i]))
        adjusted[i] = worst
    return adjusted


def attempt_alpha(alpha: float, attempt: int) -> float:
    """Return the level of attempt k: alpha·6/(π²k²), which sums to alpha over all attempts there may ever be.

    Bonferroni's inequality with the shares of Σ 1/k² = π²/6 (Euler 1735).
    """
    return alpha * 6 / (math.pi**2 * attempt**2)


def interim_levels(rows: Sequence[int], most: int, alpha: float) -> list[float]:
    """Return the significance levels of successive interim analyses.

    `rows` are their total numbers of rows, `most` the rows that there will ever be. Raises ValueError unless each
    analysis has more rows than the one before, and none more than `most`.
    """
    if not rows or rows[0] < 1 or rows[-1] > most or any(b <= a for a, b in pairwise(rows)):
        raise ValueError(f"sizes of interim analyses must increase, to at most {most} rows; got {list(rows)}")
    return list(_compute_spending_levels(tuple(rows), most, alpha))


@lru_cache(maxsize=64)
def _compute_spending_levels(rows: tuple[int, ...], most: int, alpha: float) -> tuple[float, ...]:
    normal, found = NormalDist(), list[float]()
    before, so_far = 0.0, 0.0
    grid: list[tuple[float, float]] = []  # places of the sum of what was seen, and how probable those that went on are
    for n in rows:
        time, upto = n / most, alpha * n / most
        share, grown = upto - so_far, time - before
        if not grid or grown < MIN_GROWTH * time:
            level = share  # by Bonferroni's inequality, which costs nothing where hardly any rows came
        else:
            low, high = (
                grid[0][0],
                GRID_DEVIATIONS,
            )  # of the bound that those who went on exceed with a probability of the share
            root = math.sqrt(grown)
            for _ in range(60):
                middle = (low + high) / 2
                beyond = math.fsum(p * (0.5 * math.erfc((middle - u) / root / math.sqrt(2))) for u, p in grid)
                low, high = (middle, high) if beyond > share else (low, middle)
            level = 1 - normal.cdf(high / math.sqrt(time))
        found.append(level)
        bound = normal.inv_cdf(1 - level) * math.sqrt(time)
        grid, before, so_far = _advance_walk_density(grid, grown, time, bound), time, upto
    return tuple(found)


def _advance_walk_density(
    grid: Sequence[tuple[float, float]], grown: float, time: float, bound: float
) -> list[tuple[float, float]]:
    """Advance the density of the estimates that stay below the bound.

    Returns places with their probabilities, weighted by Simpson's rule.
    """
    low = -GRID_DEVIATIONS * math.sqrt(time)
    step = (bound - low) / DENSITY_POINTS
    places = [low + i * step for i in range(DENSITY_POINTS + 1)]
    weights = [step / 3 * (1 if i in (0, DENSITY_POINTS) else 4 if i % 2 else 2) for i in range(DENSITY_POINTS + 1)]
    before = grid or [(0.0, 1.0)]
    root, pdf = math.sqrt(grown), NormalDist().pdf
    density = [math.fsum(p * pdf((x - u) / root) for u, p in before) / root for x in places]
    return [(x, w * f) for x, w, f in zip(places, weights, density, strict=True)]
