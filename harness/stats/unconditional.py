"""McNemar's exact unconditional test, for few rows.

The statistic is referred to all tables of outcomes, not only to those with as many changes.
"""

from __future__ import annotations

import math
from functools import lru_cache

from harness.stats.arrays import Floats, Ints, distributions, np, special
from harness.stats.significance import RELATIVE_TOLERANCE

MOST_ROWS = 100  # above it the mid-p is as powerful, and its size hardly more than alpha
SHARE_POINTS = 400  # of rows that differ, at which the p-value is taken to be largest


@lru_cache(maxsize=128)
def tabulate_p(n: int) -> Floats:
    """Tabulate the exact p-values of n rows.

    The array is (n + 1, n + 1), by wins and losses; impossible tables are NaN. Tables are ordered by how probable a
    statistic (b - c)/√(b + c) as high is with the estimated share of rows that differ, and the p-value is the largest
    probability of a table as extreme over all shares: E+M, Lloyd 2008, Australian & New Zealand Journal of Statistics
    50:329. Conditional tests lose power when few rows change.
    """
    changed = np.repeat(np.arange(n + 1), np.arange(1, n + 2))  # (tables,), by changes and then by wins
    wins = np.concatenate([np.arange(k + 1) for k in range(n + 1)])
    estimated = _compute_unconditional_p(n, changed, wins)
    order = np.argsort(estimated, kind="stable")
    changed, wins, estimated = changed[order], wins[order], estimated[order]
    last = np.searchsorted(estimated, estimated * (1 + RELATIVE_TOLERANCE), side="right") - 1  # of those that tie
    ways = special.gammaln(n + 1) - special.gammaln(n - changed + 1)
    ways = ways - special.gammaln(wins + 1) - special.gammaln(changed - wins + 1) - changed * math.log(2)
    p = np.zeros(len(order))
    for share in np.sin(np.linspace(0, math.pi / 2, SHARE_POINTS)) ** 2:
        chance = np.exp(ways + special.xlogy(changed, share) + special.xlogy(n - changed, 1 - share))
        np.maximum(p, np.cumsum(chance)[last], out=p)
    found: Floats = np.full((n + 1, n + 1), np.nan)
    found[wins, changed - wins] = np.minimum(p, 1.0)
    found.setflags(write=False)
    return found


def _compute_unconditional_p(n: int, changed: Ints, wins: Ints) -> Floats:
    """Return the probability of a statistic as high, (tables,).

    Rows are taken to differ as often as they did in each table.
    """
    score = (2 * wins - changed) / np.sqrt(np.maximum(changed, 1))
    p = np.zeros(len(changed))
    for k in range(n + 1):
        of_k = (2 * np.arange(k + 1) - k) / math.sqrt(max(k, 1))
        fewest = np.searchsorted(of_k, score - 1e-9)  # wins of k changes that score as high
        p += (
            distributions.binom.pmf(k, n, np.arange(n + 1) / n)[changed]
            * distributions.binom.sf(np.arange(k + 2) - 1, k, 0.5)[fewest]
        )
    return p


def min_wins(changed: Ints, n: int, alpha: float) -> Ints:
    """Return the fewest wins with a p-value of at most alpha.

    There is one number (k,) for each number of changed rows (k,) of n; changed + 1 if none do.
    """
    significant = tabulate_p(n) <= alpha * (1 + RELATIVE_TOLERANCE)  # the more wins of k, the smaller the p-value
    return np.array([k + 1 - significant[np.arange(k + 1), k - np.arange(k + 1)].sum() for k in changed], dtype=np.intp)
