"""The tests of 0/1 rows on arrays, with scipy: what the plain Python of `harness.stats` is compared with."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy import optimize, special
from scipy import stats as distributions

from harness.gates.paired_rows_needed import LOW_CHANCE, MAX_RANGE_RATIO, MIN_PROBABILITY, PRIOR_MEAN, PRIOR_SPREAD
from harness.stats.power import DEFAULT_POWER, EXACT_COUNTS, EXACT_ROWS
from harness.stats.shares import MAX_LEVEL_RATIO, MIN_SMOOTH_ROWS
from harness.stats.significance import RELATIVE_TOLERANCE, is_significant
from harness.stats.unconditional import MOST_ROWS, SHARE_POINTS
from harness.stats.values import PValues, Range

Floats = Ints = Any


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


@lru_cache(maxsize=256)
def is_midp_valid(n: int, alpha: float) -> bool:
    """Return whether McNemar's mid-p keeps its level on n rows.

    Its size may be at most MAX_LEVEL_RATIO times alpha, for any share of rows that differ. It is summed over the number
    of rows that differ; from MIN_SMOOTH_ROWS on that number varies so much that losses at one are gains at the next.
    """
    smooth = max(MIN_SMOOTH_ROWS, 2 * (NormalDist().inv_cdf(1 - alpha) / (MAX_LEVEL_RATIO - 1)) ** 2)
    shares = np.unique(np.concatenate([np.geomspace(0.1, 1, 200), np.linspace(0, 1, 200)[1:]])) * min(smooth / n, 1.0)
    changed = np.arange(min(n, math.ceil(smooth + 8 * math.sqrt(smooth))) + 1)
    wrong = distributions.binom.sf(_find_min_conditional_wins(changed, alpha, mid=True) - 1, changed, 0.5)
    return float((distributions.binom.pmf(changed, n, shares[:, None]) @ wrong).max()) <= MAX_LEVEL_RATIO * alpha


def _find_min_conditional_wins(changed: Ints, alpha: float, *, mid: bool) -> Ints:
    wins = np.asarray(distributions.binom.isf(alpha * (1 + RELATIVE_TOLERANCE), changed, 0.5), dtype=np.intp) + 1
    if mid:
        tail = distributions.binom.sf(wins - 1, changed, 0.5) + distributions.binom.pmf(wins - 1, changed, 0.5) / 2
        wins -= is_significant(tail, alpha)
    return wins


def min_mcnemar_wins(changed: Ints, n: int, alpha: float) -> Ints:
    """Return the fewest wins that prove a difference by McNemar's test."""
    if n > MOST_ROWS:
        return _find_min_conditional_wins(changed, alpha, mid=is_midp_valid(n, alpha))
    significant = is_significant(tabulate_p(n), alpha)  # the more wins of k, the smaller the p-value
    return np.array([k + 1 - significant[np.arange(k + 1), k - np.arange(k + 1)].sum() for k in changed], dtype=np.intp)


def pairs_power(difference: float, margin: float, discordance: float, n: int, alpha: float) -> float:
    """Return the power of the paired test on n 0/1 rows.

    It is the chance that a difference of `difference` is proven to be above `-margin`. `discordance` is the share of
    rows on which the two differ. It is summed over the tables of outcomes on which the gate's test, McNemar's at margin
    0 and else Tango's, proves it. Raises ValueError for a difference larger than the discordance.
    """
    if not abs(difference) <= discordance <= 1:
        raise ValueError(f"a difference of {difference:g} is impossible with a discordance of {discordance:g}")
    # tables outside of these have a probability below 1e-9 in all
    middle, reach = n * discordance, 7 * math.sqrt(n * discordance * (1 - discordance)) + 10
    changed = np.arange(max(math.floor(middle - reach), 0), min(math.ceil(middle + reach), n) + 1)
    share = (discordance + difference) / 2 / discordance if discordance else 0.5
    proves = distributions.binom.sf(min_wins(changed, n, margin, alpha) - 1, changed, share)
    return float((distributions.binom.pmf(changed, n, discordance) * proves).sum())


def min_wins(changed: Ints, n: int, margin: float, alpha: float) -> Ints:
    """Return the fewest wins that prove a difference above `-margin`.

    There is one number (k,) for each number of `changed` rows (k,) of n; changed + 1 if none do. Of more than
    EXACT_ROWS rows, and EXACT_COUNTS numbers, Tango's score is taken as normal, which changes power by less than a
    point.
    """
    if margin == 0:
        return min_mcnemar_wins(changed, n, alpha)
    wins: Ints = min_tango_wins(changed, n, -margin, NormalDist().inv_cdf(1 - alpha))
    if n > EXACT_ROWS and len(changed) > EXACT_COUNTS:
        return wins
    return np.array(
        [_find_min_exact_wins(int(k), int(w), n, margin, alpha) for k, w in zip(changed, wins, strict=True)]
    )


@lru_cache(maxsize=20_000)
def _find_min_exact_wins(changed: int, wins: int, n: int, margin: float, alpha: float) -> int:
    """Return the fewest wins significant by Tango's exact distribution.

    The search starts from `wins`, those by the normal one.
    """

    def proves(w: int) -> bool:
        return bool(is_significant(exact_p(w, changed - w, n, -margin)[0], alpha))

    while wins <= changed and not proves(wins):
        wins += 1
    while wins > 0 and proves(wins - 1):
        wins -= 1
    return wins


def predict_rows_range(wins: int, losses: int, n: int, threshold: float, sign: int, alpha: float, most: int) -> Range:
    """Predict the range of total rows that decide a claim.

    The claim is decided to the side of `sign`, with more than n rows. The number of rows is computed for each possible
    difference and discordance, weighted by their likelihood and the prior: estimates from few rows are too uncertain by
    themselves. The upper end is infinite if no range within MAX_RANGE_RATIO and `most` has MIN_PROBABILITY.
    """
    rows, weight = _compute_needed_rows_posterior(wins, losses, n, threshold, sign, alpha)
    order = np.argsort(rows)
    rows, chance = rows[order], np.zeros(len(rows) + 1)
    np.cumsum(weight[order], out=chance[1:])

    for wide in np.arange(2.0, MAX_RANGE_RATIO + 1):
        least = np.geomspace(n + 1, max(most / wide, n + 1), 60)
        inside = chance[np.searchsorted(rows, np.minimum(least * wide, most), side="right")]
        inside = inside - chance[np.searchsorted(rows, least)]
        if inside.max() >= MIN_PROBABILITY:
            found = float(least[inside.argmax()])
            return Range(found, min(found * wide, most))
    first = min(int(np.searchsorted(chance[1:], LOW_CHANCE)), len(rows) - 1)
    return Range(float(rows[first]), math.inf)


def _compute_needed_rows_posterior(
    wins: int, losses: int, n: int, threshold: float, sign: int, alpha: float
) -> tuple[Floats, Floats]:
    """Return the needed rows and their probabilities, (N,) each.

    Each belongs to a possible truth on the given side of the threshold.
    """
    changed, estimate = wins + losses, (wins - losses) / n
    error = math.sqrt(max((changed + 1) / n - estimate**2, 1e-4) / n)
    about, reach = (changed + 0.5) / n, math.sqrt(changed + 1) / n
    discordance = np.linspace(max(about - 3 * reach, 0.2 / n), min(about + 4 * reach, 0.999), 25)[:, None]
    truth = np.linspace(estimate - 4.5 * error, estimate + 4.5 * error, 91)[None, :]
    discordance, truth = np.broadcast_arrays(discordance, truth)
    possible = (np.abs(truth) < 0.999 * discordance) & (sign * (truth - threshold) > 0)
    if not possible.any():
        return np.array([math.inf]), np.ones(1)
    d, t = discordance[possible], truth[possible]
    likely = wins * np.log((d + t) / 2) + losses * np.log((d - t) / 2) + (n - changed) * np.log1p(-d)
    likely -= ((t - PRIOR_MEAN) / PRIOR_SPREAD) ** 2 / 2
    weight = np.exp(likely - likely.max())
    z = NormalDist()
    null, true = np.maximum(d, abs(threshold)) - threshold**2, d - t**2  # variances of a row's difference
    needed = (z.inv_cdf(1 - alpha) * np.sqrt(null) + z.inv_cdf(DEFAULT_POWER) * np.sqrt(true)) / (t - threshold)
    return np.maximum(np.ceil(needed**2), n + 1.0), weight / weight.sum()
