"""McNemar's exact unconditional test, for few rows.

The statistic (b - c)/√(b + c) is referred to all tables of outcomes, not only to those with as many changes. Tables are
ordered by how probable a statistic as high is with the estimated share of rows that differ, and the p-value is the
largest probability of a table as extreme over all shares: E+M, Lloyd 2008, Australian & New Zealand Journal of
Statistics 50:329. Conditional tests lose power when few rows change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from harness.stats import binomials
from harness.stats.significance import RELATIVE_TOLERANCE, is_significant

MOST_ROWS = 100  # above it the mid-p is as powerful, and its size hardly more than alpha
SHARE_POINTS = 400  # of rows that differ, at which the p-value is taken to be largest
SMALLEST = 1e-300  # estimate that is searched
TIE = 1e-9  # by which a statistic may lie below another and still counts as high


@lru_cache(maxsize=10_000)
def exact_p(wins: int, losses: int, n: int) -> float:
    """Return the exact p-value of more wins than losses in n rows."""
    tables = _list_tables(n)
    return tables.largest_probability(tables.fewest_wins(tables.estimate_p(wins + losses, wins)))


@lru_cache(maxsize=100)
def min_wins(n: int, alpha: float) -> tuple[int, ...]:
    """Return the fewest wins with a p-value of at most alpha for each number of changed rows, from 0 to n.

    One more than the changed rows if none do. The p-value rises with the estimate that orders the tables, so that the
    largest significant estimate is searched.
    """
    tables = _list_tables(n)
    low, high = 0.0, 1.0
    significant, other = tuple(k + 1 for k in range(n + 1)), (0,) * (n + 1)
    while sum(significant) - sum(other) > 1 and high - low > RELATIVE_TOLERANCE * high > SMALLEST:
        middle = math.sqrt(low * high) if low else high / 8
        fewest = tables.fewest_wins(middle)
        if is_significant(tables.largest_probability(fewest), alpha):
            low, significant = middle, fewest
        else:
            high, other = middle, fewest
    return significant


@lru_cache(maxsize=8)
def _list_tables(n: int) -> _Tables:
    return _Tables(n)


@dataclass(frozen=True)
class _Tables:
    """All tables of n rows."""

    n: int

    @cached_property
    def _tails(self) -> list[list[float]]:
        """The probability of at least so many wins, by changed rows and wins from 0 to one more than them."""
        found = list[list[float]]()
        for changed in range(self.n + 1):
            ways, total = [0], 0
            for wins in range(changed, -1, -1):
                total += math.comb(changed, wins)
                ways.append(total)
            found.append([count / 2**changed for count in reversed(ways)])
        return found

    @cached_property
    def _chances(self) -> list[list[float]]:
        """The probability of each number of changed rows, at each of the shares."""
        steps = (math.pi / 2 * i / (SHARE_POINTS - 1) for i in range(SHARE_POINTS))
        return [binomials.probabilities(range(self.n + 1), self.n, math.sin(step) ** 2) for step in steps]

    @cached_property
    def _roots(self) -> list[float]:
        return [math.sqrt(k) for k in range(self.n + 1)]

    @cached_property
    def _estimates(self) -> dict[tuple[int, int], float]:
        return {}

    @cached_property
    def _estimated_chances(self) -> list[list[float]]:
        """The probability of each number of changed rows, where as many are expected as there were."""
        return [binomials.probabilities(range(self.n + 1), self.n, k / self.n) for k in range(self.n + 1)]

    def estimate_p(self, changed: int, wins: int) -> float:
        """Return the probability of a statistic as high, where rows differ as often as they did in this table."""
        if (changed, wins) not in self._estimates:
            score = (2 * wins - changed) / (self._roots[changed] or 1.0) - TIE
            chances, total = self._estimated_chances[changed], 0.0
            for k, root in enumerate(self._roots):
                fewest = math.ceil((score * root + k) / 2) if k else score > 0  # without changes the statistic is 0
                total += chances[k] * self._tails[k][min(max(fewest, 0), k + 1)]
            self._estimates[changed, wins] = total
        return self._estimates[changed, wins]

    def fewest_wins(self, estimate: float) -> tuple[int, ...]:
        """Return the fewest wins with an estimate as low, for each number of changed rows: it falls as wins rise."""
        limit, found, wins = estimate * (1 + RELATIVE_TOLERANCE), list[int](), 0
        for changed in range(self.n + 1):
            while wins <= changed and self.estimate_p(changed, wins) > limit:
                wins += 1
            while wins > 0 and self.estimate_p(changed, wins - 1) <= limit:
                wins -= 1
            found.append(wins)
        return tuple(found)

    def largest_probability(self, fewest: Sequence[int]) -> float:
        """Return the probability of so many wins or more, at the share of changed rows where it is largest."""
        high = [tail[wins] for tail, wins in zip(self._tails, fewest, strict=True)]
        return min(max(math.fsum(map(float.__mul__, chances, high)) for chances in self._chances), 1.0)
