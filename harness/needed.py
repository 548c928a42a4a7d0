"""How many rows would decide a claim that these did not: a range, because the estimate is not the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from harness import proof
from harness.power import POWER, pairs_power, rows_for, share_power
from harness.stats import T_METHODS, Test

CLOSE = 20  # times the rows at hand, beyond which a claim is too close to call
MIDDLE = 0.5  # chance of the interval of the truth, at whose ends rows are needed that make the range


@dataclass(frozen=True)
class Needed:
    """Rows in all that decide a claim 80 % of the time: if the estimate is the truth, and over the middle half of what
    the truth may be, from `least` to `most`; None where its nearer end is not beyond the threshold."""

    rows: int
    least: int
    most: int | None


def rows_needed(test: Test, threshold: float, alpha: float, discordance: float | None = None) -> Needed | None:
    """Return how many rows would decide a claim; None where the estimate is the threshold, or its error is not known.

    From the power of the exact tests, else from the standard error that the bounds imply, growing with rows and with
    clusters alike; never fewer than the exact tests need at all. `discordance` is the share of rows that differ, of
    paired 0/1 rows.
    """
    distance = test.estimate - threshold
    width = test.estimate - test.lower if distance > 0 else test.upper - test.estimate
    if abs(distance) <= 1e-12 * max(1.0, abs(threshold)) or not math.isfinite(width) or width <= 0:
        return None
    if not (quantile := _quantile(test, alpha)):
        return None  # at alpha 0.5 bounds are the estimate, and tell no error
    error, sign = width / quantile, 1 if distance > 0 else -1
    at = _rows_at(test, threshold, alpha, sign, error, discordance)
    reach = sign * NormalDist().inv_cdf((1 + MIDDLE) / 2) * error
    rows, least, most = (at(test.estimate + by) for by in (0.0, reach, -reach))
    if rows is None or least is None:
        return None
    fewest = test.n + 1 if min(test.p_pass, test.p_fail) > alpha else 1
    return Needed(max(rows, fewest), max(least, fewest), None if most is None else max(most, fewest))


def _rows_at(
    test: Test, threshold: float, alpha: float, sign: int, error: float, discordance: float | None
) -> Callable[[float], int | None]:
    """Return how many rows decide the claim, by what the truth is."""

    def binomial(truth: float) -> int | None:
        p, p0 = (x if sign > 0 else 1 - x for x in (min(max(truth, 0.0), 1.0), threshold))
        return rows_for(lambda n: share_power(p, p0, int(n), alpha))

    def mcnemar(truth: float) -> int | None:
        differ = min(max(discordance or 0.0, abs(truth)), 1.0)
        return rows_for(lambda n: pairs_power(min(abs(truth), 1.0), 0.0, differ, int(n), alpha))

    def normal(truth: float) -> int | None:
        z = NormalDist()
        needed = test.n * ((z.inv_cdf(1 - alpha) + z.inv_cdf(POWER)) * error / (truth - threshold)) ** 2
        return max(math.ceil(needed), fewest)

    fewest = _tango(test, sign * threshold, alpha, sign, discordance) if test.method == "Tango score" else 1
    rows = {"exact binomial": binomial, "McNemar exact": mcnemar}.get(test.method, normal)
    return lambda truth: rows(truth) if sign * (truth - threshold) > 1e-9 else None


def _tango(test: Test, d0: float, alpha: float, sign: int, discordance: float | None) -> int:
    """Return the fewest rows that could prove a difference above d0: all of them won, or where none was, unchanged."""
    won = (discordance or 0.0) + sign * test.estimate > 1e-9
    return proof.fewest((1 + d0) / 2 if won or d0 >= 0 else 1 + d0, alpha, score=not won)


def _quantile(test: Test, alpha: float) -> float:
    """Return what the test's bounds multiplied a standard error by."""
    if test.method not in T_METHODS:
        return NormalDist().inv_cdf(1 - alpha)
    from scipy.special import stdtrit

    return -float(stdtrit((test.clusters or test.n) - 1, alpha))
