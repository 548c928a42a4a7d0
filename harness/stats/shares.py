"""Tests of shares of independent 0/1 rows: one against a number, or two on the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

from harness.stats import binomials, rule_of_three, unconditional
from harness.stats import tango as score
from harness.stats.inputs import check_counts, check_level
from harness.stats.result import Test
from harness.stats.significance import is_significant
from harness.stats.values import Bounds, PValues

MAX_LEVEL_RATIO = 1.2  # times alpha that McNemar's mid-p may be wrong over all rows, so that it is taken
MIN_SMOOTH_ROWS = 300  # rows that differ, on average, from which on its size is hardly more than alpha


def binomial(successes: int, n: int, threshold: float, alpha: float) -> Test:
    """Test a share of independent 0/1 rows against a number, exactly.

    The bounds invert the same test: Clopper, Pearson 1934, Biometrika 26:404.
    """
    check_counts(n, successes)
    check_level(threshold, alpha)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it must be a proportion from 0 to 1")
    successes, n = int(successes), int(n)  # sums of 0.0 and 1.0 arrive as floats
    lower, upper = binomials.clopper_pearson(successes, n, alpha)
    p_pass, p_fail = binomials.tail(successes, n, threshold), binomials.tail(n - successes, n, 1 - threshold)
    return Test(successes / n, lower, upper, p_pass, p_fail, "exact binomial", n)


def wilson(successes: int, n: int, alpha: float) -> Bounds:
    """Return Wilson's score bounds of a share, one-sided at alpha each: for display, it decides nothing.

    Source: Wilson 1927, Journal of the American Statistical Association 22:209.
    """
    check_counts(n, successes)
    check_level(0.0, alpha)
    p, z = successes / n, _compute_upper_normal_quantile(alpha)
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Bounds(max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0))


def mcnemar(wins: int, losses: int, n: int, alpha: float, levels: Sequence[float] = ()) -> Test:
    """Test whether a candidate is right more often than a baseline.

    Both answer the same rows, and the rows that differ decide. `wins` counts rows only the candidate got right,
    `losses` those only the baseline did. McNemar 1947, Psychometrika 12:153: up to `unconditional.MOST_ROWS` rows the
    exact unconditional test. Of more, given the number that differ, by the mid-p of the binomial (Fagerland, Lydersen,
    Laake 2013, BMC Medical Research Methodology 13:91) where that holds at alpha and at all other `levels` at which its
    p-values will be read, see `is_midp_valid`, else by the exact one. The bounds are Tango's, moved to 0 where they
    would contradict it.
    """
    check_counts(n, wins, losses)
    check_level(0.0, alpha)
    wins, losses, n = int(wins), int(losses), int(n)
    if n <= unconditional.MOST_ROWS:
        kind = "unconditional"
        p_pass, p_fail = unconditional.exact_p(wins, losses, n), unconditional.exact_p(losses, wins, n)
    else:
        mid = all(is_midp_valid(n, level) for level in {alpha, *levels})
        kind, (p_pass, p_fail) = "mid-p" if mid else "exact", _compute_mcnemar_p_values(wins, losses, mid=mid)
    lower, upper = (
        score.invert_statistic(wins, losses, n, z)
        for z in (_compute_upper_normal_quantile(alpha), -_compute_upper_normal_quantile(alpha))
    )
    lower = max(lower, 0.0) if is_significant(p_pass, alpha) else min(lower, 0.0)
    upper = min(upper, 0.0) if is_significant(p_fail, alpha) else max(upper, 0.0)
    return Test((wins - losses) / n, lower, upper, p_pass, p_fail, f"McNemar {kind}", n)


def _compute_mcnemar_p_values(wins: int, losses: int, *, mid: bool) -> PValues:
    """Return the p-values of McNemar's test given how many rows differ."""
    if not wins + losses:
        return PValues(1.0, 1.0)
    p_pass, p_fail = (binomials.tail(k, wins + losses, 0.5) for k in (wins, losses))
    half = 0.5 * (p_pass + p_fail - 1) if mid else 0.0  # both tails have the chance of just these wins in them
    return PValues(p_pass - half, p_fail - half)


@lru_cache(maxsize=256)
def is_midp_valid(n: int, alpha: float) -> bool:
    """Return whether McNemar's mid-p keeps its level on n rows.

    Its size may be at most MAX_LEVEL_RATIO times alpha, for any share of rows that differ. It is summed over the number
    of rows that differ; from MIN_SMOOTH_ROWS on that number varies so much that losses at one are gains at the next.
    """
    smooth = max(MIN_SMOOTH_ROWS, 2 * (_compute_upper_normal_quantile(alpha) / (MAX_LEVEL_RATIO - 1)) ** 2)
    most = min(n, math.ceil(smooth + 8 * math.sqrt(smooth)))
    fewest = [_find_min_conditional_wins(k, alpha, mid=True) for k in range(most + 1)]
    wrong = binomials.tails(range(most + 1), fewest, 0.5)
    # both among small shares and among all
    shares = {10 ** (i / 199 - 1) for i in range(200)} | {i / 199 for i in range(200)}
    return all(
        _compute_conditional_size(share * min(smooth / n, 1.0), n, wrong) <= MAX_LEVEL_RATIO * alpha for share in shares
    )


def _compute_conditional_size(share: float, n: int, wrong: Sequence[float]) -> float:
    """Return how often a test is wrong, from how often it is with each number of rows that differ, from 0 on."""
    likely = binomials.likely_counts(n, share)
    changed = range(likely.start, min(likely.stop, len(wrong)))
    if not changed:
        return 0.0
    return math.fsum(map(float.__mul__, binomials.probabilities(changed, n, share), wrong[changed.start :]))


def min_mcnemar_wins(changed: Sequence[int], n: int, alpha: float) -> list[int]:
    """Return the fewest wins that prove a difference by McNemar's test.

    There is one number for each number of changed rows, and one more than the changed rows if none do.
    """
    if n <= unconditional.MOST_ROWS:
        fewest = unconditional.min_wins(n, alpha)
        return [fewest[k] for k in changed]
    mid = is_midp_valid(n, alpha)
    return [_find_min_conditional_wins(k, alpha, mid=mid) for k in changed]


@lru_cache(maxsize=50_000)  # the search for a number of rows comes back to the same numbers of changes
def _find_min_conditional_wins(changed: int, alpha: float, *, mid: bool) -> int:
    """Return the fewest wins that are significant, from where the normal distribution has them."""
    wins = max(round((changed + _compute_upper_normal_quantile(alpha) * math.sqrt(changed)) / 2), 0)
    while wins <= changed and not is_significant(_compute_conditional_p(wins, changed, mid=mid), alpha):
        wins += 1
    while wins > 0 and is_significant(_compute_conditional_p(wins - 1, changed, mid=mid), alpha):
        wins -= 1
    return wins


def _compute_conditional_p(wins: int, changed: int, *, mid: bool) -> float:
    return binomials.tail(wins, changed, 0.5) - (binomials.probability(wins, changed, 0.5) / 2 if mid else 0.0)


def tango(wins: int, losses: int, n: int, margin: float, alpha: float) -> Test:
    """Test whether a difference of paired shares is above `-margin`.

    The n rows are independent, the difference is (wins - losses)/n, the statistic Tango's score 1998, Statistics in
    Medicine 17:891. It is referred to its exact distribution under the fitted hypothesis (Lloyd 2008, Australian & New
    Zealand Journal of Statistics 50:329, "E"): to the normal one its size is up to 8.7 % at 100 rows, and 8.1 % at 520
    with few that differ, where 5 % is meant. The bounds invert the same test. Where no row differs the exact
    distribution is the rule of three, (1 - margin)^n.
    """
    check_counts(n, wins, losses)
    check_level(margin, alpha)
    if not -1 < margin < 1:
        raise ValueError(f"margin is {margin}; it must be a difference of proportions between -1 and 1")
    b, c, n = int(wins), int(losses), int(n)
    if b == c == 0:
        kept = 1 - rule_of_three.rule_of_three(n, alpha)
        p_pass, p_fail = (1 - margin) ** n if margin > 0 else 1.0, (1 + margin) ** n if margin < 0 else 1.0
        return Test(0.0, kept - 1, 1 - kept, p_pass, p_fail, "Tango score", n)
    p_pass, p_fail = score.exact_p(b, c, n, -margin)
    lower = score.exact_bound(b, c, n, -margin, alpha)
    upper = -score.exact_bound(c, b, n, margin, alpha)
    return Test((b - c) / n, lower, upper, p_pass, p_fail, "Tango score", n)


def _compute_upper_normal_quantile(alpha: float) -> float:
    return NormalDist().inv_cdf(1 - alpha)
