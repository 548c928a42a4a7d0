"""Power of a gate, its smallest margin, and the rows it needs.

This is before any row is scored. `truth`, `threshold` and `difference` are turned so that larger is better, as in
`hypothesis_tests`; all at a one-sided level alpha. Independent 0/1 rows are summed over their outcomes here, all others
are drawn many at once by `harness plan`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist

from harness.stats import binomials, shares, tango
from harness.stats.arrays import distributions
from harness.stats.significance import is_significant

DISCORDANCE = 0.2  # share of rows on which two models differ, where nothing better is known
DEFAULT_POWER = 0.8
MOST_ROWS = 10_000_000
# rows, and numbers of changed rows, up to which Tango's score has its exact distribution
EXACT_ROWS, EXACT_COUNTS = 100, 60


@lru_cache(maxsize=20_000)  # gates on equal rows are asked the same
def share_power(truth: float, threshold: float, n: int, alpha: float) -> float:
    """Return the power of the exact binomial test on n rows.

    It is the chance that a share of `truth` is proven to be above `threshold`.
    """
    if n < 1 or not 0 <= threshold < 1:
        return 0.0
    return binomials.tail(min_right(n, threshold, alpha), n, truth)


@lru_cache(maxsize=20_000)
def pairs_power(difference: float, margin: float, discordance: float, n: int, alpha: float) -> float:
    """Return the power of the paired test on n 0/1 rows.

    It is the chance that a difference of `difference` is proven to be above `-margin`. `discordance` is the share of
    rows on which the two differ. It is summed over the tables of outcomes on which the gate's test, McNemar's at margin
    0 and else Tango's, proves it. Raises ValueError for a difference larger than the discordance.
    """
    if not abs(difference) <= discordance <= 1:
        raise ValueError(f"a difference of {difference:g} is impossible with a discordance of {discordance:g}")
    changed = binomials.likely_counts(n, discordance)
    share = (discordance + difference) / 2 / discordance if discordance else 0.5
    chances = binomials.probabilities(changed, n, discordance)
    proves = binomials.tails(changed, min_wins(changed, n, margin, alpha), share)
    return math.fsum(map(float.__mul__, chances, proves))


def min_right(n: int, threshold: float, alpha: float) -> int:
    """Return the fewest right answers that prove a share above `threshold`. n + 1 if none do."""
    return binomials.min_successes(n, threshold, alpha)


def min_wins(changed: Sequence[int], n: int, margin: float, alpha: float) -> list[int]:
    """Return the fewest wins that prove a difference above `-margin`.

    There is one number for each number of `changed` rows of n, which must ascend; one more than those if none do. Of
    more than EXACT_ROWS rows, and EXACT_COUNTS numbers, Tango's score is taken as normal, which changes power by less
    than a point.
    """
    if margin == 0:
        return shares.min_mcnemar_wins(changed, n, alpha)
    wins = tango.min_tango_wins(changed, n, -margin, NormalDist().inv_cdf(1 - alpha))
    if n > EXACT_ROWS and len(changed) > EXACT_COUNTS:
        return wins
    return [_find_min_exact_wins(k, w, n, margin, alpha) for k, w in zip(changed, wins, strict=True)]


@lru_cache(maxsize=20_000)
def _find_min_exact_wins(changed: int, wins: int, n: int, margin: float, alpha: float) -> int:
    """Return the fewest wins significant by Tango's exact distribution.

    The search starts from `wins`, those by the normal one.
    """

    def proves(w: int) -> bool:
        return bool(is_significant(tango.exact_tail(w, changed - w, n, -margin), alpha))

    while wins <= changed and not proves(wins):
        wins += 1
    while wins > 0 and proves(wins - 1):
        wins -= 1
    return wins


def mean_power(truth: float, threshold: float, spread: float, n: int, alpha: float) -> float:
    """Return the power of the one-sided t-test of a mean.

    It is the chance that a mean of `truth` is proven to be above `threshold` on n rows or clusters. `spread` is the
    standard deviation of a single one; raises ValueError unless it is positive. Noncentral t: Johnson, Welch 1940,
    Biometrika 31:362.
    """
    if n < 2:
        return 0.0
    if not spread > 0:
        raise ValueError(f"spread is {spread:g}; it must be more than 0")
    critical = distributions.t.isf(alpha, n - 1)
    return float(distributions.nct.sf(critical, n - 1, (truth - threshold) / spread * math.sqrt(n)))


def design_effect(sizes: Sequence[int], icc: float) -> float:
    """Return the factor by which clusters increase the rows needed.

    1 + (Σm²/Σm - 1)·icc for clusters of sizes m and an intra-class correlation. Source: Kish 1965, Survey Sampling,
    8.2; if sizes vary, the mean size is that over rows.
    """
    return 1 + (sum(m * m for m in sizes) / sum(sizes) - 1) * icc


def search_power(power: Callable[[float], float], least: float, most: float) -> float | None:
    """Return the argument at which increasing power reaches DEFAULT_POWER.

    It is searched between `least` and `most`, to 1e-5 of `most`; None if even `most` has less power.
    """
    if power(most) < DEFAULT_POWER:
        return None
    low, high = least, most
    while high - low > 1e-5 * most:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= DEFAULT_POWER else (middle, high)
    return high


def search_rows(power: Callable[[float], float], start: int = 2) -> int | None:
    """Return the fewest rows with a power of DEFAULT_POWER.

    Power must grow with rows; the search begins at `start`. None above MOST_ROWS.
    """
    high = max(start, 2)
    while power(high) < DEFAULT_POWER:
        high *= 2
        if high > MOST_ROWS:
            return None
    low = high // 2
    while low > 1 and power(low) >= DEFAULT_POWER:
        high, low = low, low // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= DEFAULT_POWER else (middle, high)
    return high


def normal_deviate(distance: float, error: float, alpha: float) -> float:
    """Return a normal estimate's power as a normal deviate. The estimate is `distance` above its bound."""
    return distance / error - NormalDist().inv_cdf(1 - alpha)


def search_with_correction(
    search: Callable[[Callable[[float], float]], float | None],
    formula: Callable[[float], float],
    drawn: Callable[[float], float],
    steps: int = 3,
) -> float | None:
    """Run `search` on a formula shifted to agree with simulated power.

    The formula gives normal deviates. Power takes long to draw, so it is drawn only where the formula points.
    """

    def moved(by: float) -> float | None:
        return search(lambda x: NormalDist().cdf(formula(x) + by))

    found = moved(0.0)
    for _ in range(steps):
        if found is None:
            return None
        found = moved(power_to_deviate(drawn(found), least=1e-3) - formula(found))
    return found


def power_to_deviate(power: float, least: float = 1e-15) -> float:
    """Return power as a normal deviate, clipped to that of `least`."""
    return NormalDist().inv_cdf(min(max(power, least), 1 - least))
