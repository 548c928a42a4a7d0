"""Tests of a recipe's mean over crossed rows and seeds.

Both are random, and all seeds have the same rows. A test of rows says how far that mean could lie from that on other
rows, and Student's t of the runs how far from that of other seeds. The two reaches are squared and added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from harness.stats.arrays import Floats, np, special
from harness.stats.result import Test
from harness.stats.significance import is_significant

BISECTION_STEPS = 80  # halvings of an interval in which a bound or a p-value is looked for


def add_seed_spread(rows: Test, runs: Sequence[float], threshold: float, alpha: float, *, rate: float | None) -> Test:
    """Widen a test of the mean over seeds by the runs' spread.

    There must be at least two runs. A bound is where |estimate - bound| = sqrt(rows² + seeds²), with `rows` the reach
    of the test over rows and `seeds` that of `seed_reach`. Of normal effects it is wrong at most as often as alpha
    says: Banerjee 1960, Sankhya 22:357. The luck of a seed on single rows is in both and in neither subtracted, so that
    it is more than safe where runs hardly differ. `rate` is the candidate's proportion, turned so that larger is
    better, and None for a metric that is no proportion. At a level other than alpha the p-values take the reach over
    rows to be a normal quantile's.
    """
    error, found = math.sqrt(float(np.var(runs, ddof=1)) / len(runs)), list[tuple[float, float]]()
    for side, bound, p in ((1, rows.lower, rows.p_pass), (-1, rows.upper, rows.p_fail)):
        own = None if rate is None else rate if side > 0 else 1 - rate
        reach, away = side * (rows.estimate - bound), side * (rows.estimate - threshold)
        p = max(
            p, _solve_p_by_bisection(reach, away, error * float(_compute_spread_ratio(own, away)), len(runs), alpha)
        )
        far = _compute_bound_distance(reach, error, len(runs), alpha, own)
        far = min(far, away) if is_significant(p, alpha) else max(far, away)
        found.append((rows.estimate - side * far, p))
    (lower, p_pass), (upper, p_fail) = found
    return replace(rows, lower=lower, upper=upper, p_pass=p_pass, p_fail=p_fail)


def seed_reach(error: Any, seeds: int, alpha: float, rate: Any, away: Any) -> Floats:
    """Return the reach of the mean over seeds below its estimate.

    It is (...), for a bound `away` from the estimate: Student's t with the `error` of the mean of `seeds` runs. The
    spread of a proportion is in proportion to p(1 - p), as that of equal steps in log-odds is, and taken at the bound
    where it is larger there: near 1, runs that went well lie closer together than worse ones would.
    """
    return np.asarray(-special.stdtrit(seeds - 1, alpha) * error * _compute_spread_ratio(rate, away))


def _compute_spread_ratio(rate: Any, away: Any) -> Floats:
    """Return the relative spread of runs at a proportion `rate - away`.

    It is relative to that at `rate`, and at least 1; 1 without a rate.
    """
    if rate is None:
        return np.ones(np.shape(away))
    there = np.clip(rate - away, 0.0, 1.0)
    here = np.maximum(rate * (1 - np.asarray(rate)), 1e-9)
    return np.asarray(np.maximum(there * (1 - there) / here, 1.0))


def _compute_bound_distance(rows: float, error: float, seeds: int, alpha: float, rate: float | None) -> float:
    """Return how far a bound lies from the estimate."""

    def summed(away: float) -> float:
        return math.hypot(rows, float(seed_reach(error, seeds, alpha, rate, away)))

    low = math.hypot(rows, float(seed_reach(error, seeds, alpha, None, 0.0)))
    if rate is None or not math.isfinite(low):
        return low
    high = summed(max(rate - 0.5, 0.0))  # where the spread is largest
    for _ in range(BISECTION_STEPS):
        away = (low + high) / 2
        low, high = (away, high) if summed(away) > away else (low, away)
    return high


def _solve_p_by_bisection(rows: float, away: float, error: float, seeds: int, alpha: float) -> float:
    """Return the p-value of the summed reach of rows and seeds.

    It is the level at which that reach equals the distance of the estimate from the threshold.
    """
    if away <= 0 or not math.isfinite(rows):
        return 1.0
    normal, low, high = rows / -float(special.ndtri(alpha)), 0.0, 0.5
    for _ in range(BISECTION_STEPS):
        level = (low + high) / 2
        far = math.hypot(normal * float(special.ndtri(level)), error * float(special.stdtrit(seeds - 1, level)))
        low, high = (level, high) if far > away else (low, level)
    return high
