"""The tests behind the gates: a claim `theta > threshold`, larger is better, at a one-sided level alpha.

A caller turns the number so that larger is better, and reads two p-values: `p_pass <= alpha` proves
the claim, `p_fail <= alpha` refutes it, neither is inconclusive. What cannot be judged (nothing varies,
one cluster) is inconclusive, never proven; what is not a number raises ValueError.

rows independent?  0/1          a mean, a perplexity    a metric with its own combine
yes                binomial     cluster_t(…, None, …)   cluster_bootstrap, each row a cluster
yes, paired        tango        paired_ratio            cluster_bootstrap
yes, margin 0      mcnemar      sign_flip               cluster_bootstrap
clusters           cluster_t or paired_ratio            cluster_bootstrap

How often each is wrong, measured: docs/statistics.md, by `make simulate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, ClassVar

from harness.stats import means, ratio
from harness.stats import tango as pairs
from harness.stats.means import RESAMPLED_CLUSTERS, Support

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.stats.ratio import Floats, Ratio

VERSION = 2  # raised whenever the same rows come to other numbers
FEW_CLUSTERS = 20  # below this a verdict on clusters deserves a warning, whatever the test
EXACT_ROWS = 500  # up to this many rows Tango's statistic is referred to its exact distribution
FLIPPED = 16  # up to this many clusters all 2^G signs are tried, above it FLIPS random ones
FLIPS, UNFLIPPED = 4999, 2e-5  # and the level below which so many would be needed that the t decides alone
RESAMPLES, MOST_RESAMPLES = 2000, 20_000  # of a metric that is made from all rows at once
T_METHODS = ("t", "cluster t", "ratio estimator", "cluster bootstrap", "sign flips")
Statistic = Callable[[Sequence[int]], float]


@dataclass(frozen=True)
class Test:
    """One claim tested: an estimate, its bounds, and how surprising the data are on either side of the claim.

    `lower` and `upper` are one-sided bounds at alpha each, together a 1 - 2·alpha interval, on the
    scale of the estimate (infinite when nothing can be said). `p_pass` is the p-value of
    H0: theta <= threshold (small: the claim is proven), `p_fail` that of H0: theta >= threshold.
    `effective` is as how many the clusters count, where they are very uneven.
    """

    estimate: float
    lower: float
    upper: float
    p_pass: float
    p_fail: float
    method: str
    n: int
    clusters: int | None = None
    effective: float | None = None

    __test__: ClassVar[bool] = False  # pytest must not collect it where a test imports it


def binomial(successes: int, n: int, threshold: float, alpha: float) -> Test:
    """Test a share of independent 0/1 rows against a number; bounds are Clopper and Pearson's."""
    from scipy.special import betaincinv

    _check_counts(n, successes)
    _check_level(threshold, alpha)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}, want a proportion from 0 to 1")
    successes, n = int(successes), int(n)  # sums of 0.0 and 1.0 arrive as floats
    lower = float(betaincinv(successes, n - successes + 1, alpha)) if successes else 0.0
    upper = float(betaincinv(successes + 1, n - successes, 1 - alpha)) if successes < n else 1.0
    p_pass, p_fail = _tail(successes, n, threshold), _tail(n - successes, n, 1 - threshold)
    return Test(successes / n, lower, upper, p_pass, p_fail, "exact binomial", n)


def _tail(successes: int, n: int, p: float) -> float:
    """Return the chance of so many successes or more of n, each of chance p, as the incomplete beta function."""
    from scipy.special import betainc

    return float(betainc(successes, n - successes + 1, p)) if successes else 1.0


def wilson(successes: int, n: int, alpha: float) -> tuple[float, float]:
    """Return Wilson's score bounds of a share, one-sided at alpha each: for display, it decides nothing."""
    _check_counts(n, successes)
    _check_level(0.0, alpha)
    p, z = successes / n, _z(alpha)
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)


def mcnemar(wins: int, losses: int, n: int, alpha: float) -> Test:
    """Test that a candidate is right more often than a baseline on the same rows, given the rows that differ.

    `wins` counts rows only the candidate got right, `losses` those only the baseline did. Exact and
    conditional, so its bounds are Tango's, moved to 0 where they would contradict it.
    """
    _check_counts(n, wins, losses)
    _check_level(0.0, alpha)
    wins, losses = int(wins), int(losses)
    p_pass = p_fail = 1.0
    if wins + losses:
        p_pass, p_fail = _tail(wins, wins + losses, 0.5), _tail(losses, wins + losses, 0.5)
    lower, upper = (pairs.bound(wins, losses, n, z) for z in (_z(alpha), -_z(alpha)))
    lower = max(lower, 0.0) if p_pass <= alpha else min(lower, 0.0)
    upper = min(upper, 0.0) if p_fail <= alpha else max(upper, 0.0)
    return Test((wins - losses) / n, lower, upper, p_pass, p_fail, "McNemar exact", n)


def tango(wins: int, losses: int, n: int, margin: float, alpha: float) -> Test:
    """Test that the difference of two paired shares is above `-margin`, over n independent rows.

    The difference is (wins - losses)/n, the statistic Tango's score 1998, Statistics in Medicine 17:891.
    Up to EXACT_ROWS it is referred to its exact distribution under the fitted hypothesis (Lloyd 2008,
    Australian & New Zealand Journal of Statistics 50:329, "E"), above that to the normal one, whose
    size is up to 8.7 % at 100 rows where 5 % is meant. The bounds invert the same test. Where no row differs
    the exact distribution is the rule of three, (1 - margin)^n, whatever n.
    """
    _check_counts(n, wins, losses)
    _check_level(margin, alpha)
    if not -1 < margin < 1:
        raise ValueError(f"margin is {margin}, want a difference of proportions between -1 and 1")
    b, c, n = int(wins), int(losses), int(n)
    if b == c == 0:
        return Test(0.0, *_all_agree(0.0, n, -margin, alpha, (-1.0, 1.0)), "Tango score", n)
    if n <= EXACT_ROWS:
        p_pass, p_fail = pairs.fitted_p(b, c, n, -margin)
        lower = pairs.fitted_bound(b, c, n, -margin, alpha)
        upper = -pairs.fitted_bound(c, b, n, margin, alpha)
    else:
        z = float(pairs.statistic(b, c, n, -margin))
        p_pass, p_fail = NormalDist().cdf(-z), NormalDist().cdf(z)
        lower, upper = (pairs.bound(b, c, n, z) for z in (_z(alpha), -_z(alpha)))
    return Test((b - c) / n, lower, upper, p_pass, p_fail, "Tango score", n)


def cluster_t(
    values: Sequence[float],
    weights: Sequence[float],
    clusters: Sequence[Hashable] | None,
    threshold: float,
    alpha: float,
    *,
    support: Support | None = None,
) -> Test:
    """Test a weighted mean Σwv/Σw against a number; rows of one cluster count as one observation.

    One value, weight and cluster per row; without clusters each row is its own. For a perplexity:
    nats per token, weighted by tokens, and a threshold in nats. `support` is the range a value can have.

    Student's t with the error of `ratio.ratio` is wrong up to 28 % of the time where 5 % is meant, when the
    clusters are few and skewed. Where no range is known, `ratio.guarded_t` decides. Of rows in a known range two tests
    must agree, the weaker one counts: the t corrected for skewness or, in clusters, for rows from 0 to 1 and for
    differences of 0/1 rows, Wilson's and Tango's scores on the effective number of rows; and the bootstrap-t of whole
    clusters or, where these are very uneven or alpha is under `ratio.FINEST`, `ratio.guarded_t`. Of independent rows in
    a known range, a disaster that none of n rows showed is allowed for, too (the rule of three), and the Bayesian
    bootstrap with a worst row may prove what these cannot. Where nothing varies only the rule of three is left.
    """
    import numpy as np

    v, w = _rows(values, weights, support)
    groups, count = _groups(clusters, len(v))
    _check_level(threshold, alpha)
    sums = np.bincount(groups, w * v, minlength=count).astype(np.float64)
    weight = np.bincount(groups, w, minlength=count).astype(np.float64)
    counted = weight > 0
    mean, sums, weight = float(sums.sum() / weight.sum()), sums[counted], weight[counted]
    seen = count if clusters is not None else None
    method = "cluster t" if clusters is not None else "t" if np.ptp(w) == 0 else "ratio estimator"
    of = ratio.ratio(sums, weight) if len(sums) > 1 else None
    if of is None or not of.varies():
        parts = [_all_agree(mean, len(sums), threshold, alpha, support)]
    else:
        kind = _kind(v, support, lattice=clusters is not None and np.ptp(w) == 0)
        tests = means.asked(of, kind, alpha, discordance=(v * v).mean(), support=support)
        parts = [(*test.bounds(alpha), *_floats(test.p(threshold))) for test in tests]
        if support and method == "t":
            parts.append(_all_agree(mean, len(v), threshold, alpha, support))
    judged = _weakest(parts, support)
    if support and method == "t" and len(parts) > 1 and len(v) <= RESAMPLED_CLUSTERS:
        judged = _strongest(judged, _worst_row(v, threshold, alpha, support))
    lower, upper, p_pass, p_fail = judged
    rule = float(ratio.effective(weight)) if len(weight) and ratio.uneven(weight) else None
    return Test(mean, lower, upper, p_pass, p_fail, method, len(v), seen, rule)


Judged = tuple[float, float, float, float]  # lower, upper, p_pass, p_fail


def _floats(pair: tuple[Floats, Floats]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


def _weakest(parts: Sequence[Judged], support: Support | None) -> Judged:
    lower, upper = min(p[0] for p in parts), max(p[1] for p in parts)
    if support:
        lower, upper = max(lower, support[0]), min(upper, support[1])
    return lower, upper, max(p[2] for p in parts), max(p[3] for p in parts)


def _strongest(one: Judged, other: Judged) -> Judged:
    return max(one[0], other[0]), min(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def _worst_row(v: Floats, threshold: float, alpha: float, support: Support) -> Judged:
    p = _floats(ratio.worst_row_p(v, threshold, support))
    return (*ratio.worst_row_bounds(v, alpha, support), *p)


def _kind(v: Floats, support: Support | None, *, lattice: bool) -> means.Kind:
    """Return what rows are to `means.asked`; without `lattice` they are independent, or do not count alike."""
    import numpy as np

    if support is None:
        return "ratio"
    if lattice and support[1] - support[0] == 1:
        return "share"
    return "pairs" if lattice and support == (-1.0, 1.0) and bool(np.isin(v, (-1.0, 0.0, 1.0)).all()) else "score"


def paired_ratio(
    cand_values: Sequence[float],
    base_values: Sequence[float],
    weights: Sequence[float],
    clusters: Sequence[Hashable] | None,
    threshold: float,
    alpha: float,
    *,
    support: Support | None = None,
) -> Test:
    """Test Σw(c - b)/Σw, the difference of two weighted means on the same rows, as `cluster_t` does.

    For a perplexity the values are nats per token, the weights tokens, and the difference is the log
    of the ratio of the two perplexities: "2 %" is a threshold of log(1.02). `support` is the range of
    a difference.
    """
    if len(cand_values) != len(base_values):
        raise ValueError(f"{len(cand_values)} candidate values and {len(base_values)} baseline values")
    differences = [c - b for c, b in zip(cand_values, base_values, strict=True)]
    return cluster_t(differences, weights, clusters, threshold, alpha, support=support)


def sign_flip(
    cand_values: Sequence[float],
    base_values: Sequence[float],
    clusters: Sequence[Hashable] | None,
    alpha: float,
    *,
    support: Support | None = None,
) -> Test:
    """Test that a candidate's mean is above a baseline's on the same rows, margin 0; what McNemar's is to scores.

    If the two models do not differ, each cluster's difference could as well have had the other sign: the share
    of sign patterns with as large a sum is an exact p-value, over all 2^G patterns up to FLIPPED clusters, above
    that, up to RESAMPLED_CLUSTERS, over the one seen and FLIPS random ones, or as many as a small alpha takes (Phipson,
    Smyth 2010, SAGMB 9:39).
    The claim is about means, which skewed differences can break, so `paired_ratio` must agree; its are the bounds.
    """
    import numpy as np

    test = paired_ratio(cand_values, base_values, [1.0] * len(cand_values), clusters, 0.0, alpha, support=support)
    groups, count = _groups(clusters, len(cand_values))
    if count > RESAMPLED_CLUSTERS or alpha < UNFLIPPED:
        return test
    sums = np.bincount(groups, np.subtract(cand_values, base_values), minlength=count).astype(np.float64)
    p_pass, p_fail = max(test.p_pass, _flips(sums, alpha)), max(test.p_fail, _flips(-sums, alpha))
    lower = test.lower if p_pass <= alpha else min(test.lower, 0.0)
    upper = test.upper if p_fail <= alpha else max(test.upper, 0.0)
    return replace(test, lower=lower, upper=upper, p_pass=p_pass, p_fail=p_fail, method="sign flips")


def _flips(sums: Floats, alpha: float) -> float:
    """Return the share of sign patterns whose sum is at least the one seen."""
    import numpy as np

    sums = sums[sums != 0]
    count, size = len(sums), np.abs(sums).sum()
    if count <= FLIPPED:
        patterns = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return float(((1 - 2 * patterns) @ sums >= sums.sum() - 1e-12 * size).mean())
    flips, above = max(FLIPS, math.ceil(4 / alpha)), 0
    rng = np.random.default_rng([ratio.SEED, count, 3])
    for at in range(0, flips, FLIPS):
        signs = rng.integers(0, 2, (min(FLIPS, flips - at), count)) * 2 - 1
        above += int((signs @ sums >= sums.sum() - 1e-12 * size).sum())
    return (1 + above) / (flips + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for being several: at most alpha of families with a false claim reject one.

    Whatever their dependence. Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"want p-values from 0 to 1, got {list(p_values)}")
    adjusted, worst, count = [1.0] * len(p_values), 0.0, len(p_values)
    for rank, i in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (count - rank) * p_values[i]))
        adjusted[i] = worst
    return adjusted


def spent(alpha: float, attempt: int) -> float:
    """Return the level of attempt k: alpha·6/(π²k²), which sums to alpha over all attempts there may ever be."""
    return alpha * 6 / (math.pi**2 * attempt**2)


def cluster_bootstrap(
    statistic: Statistic,
    clusters: Sequence[Hashable],
    threshold: float,
    alpha: float,
    *,
    support: Support | None = None,
) -> Test:
    """Test any statistic of the rows by drawing whole clusters; conservative when they are few.

    `statistic(rows)` gets row numbers, repeated as drawn. Two methods must agree, the weaker one
    counts: (1) the percentile bootstrap, widened for few clusters (Hesterberg 2015, The American
    Statistician 69:371, "expanded percentile": its normal quantile becomes sqrt(G/(G-1)) times that of
    t(G - 1)), because plain percentiles are too narrow; (2) `ratio.guarded_t` on the delete-one-cluster
    jackknife's pseudo-values, because a percentile interval collapses where most resamples look alike. A
    resample without a finite value counts against both verdicts. There are as many resamples as the tail of a
    small alpha takes, up to MOST_RESAMPLES; a tail beyond those is the normal distribution's with their mean
    and spread.
    `support`: see `cluster_t`; only for a mean.
    """
    import numpy as np
    from scipy.special import stdtr, stdtrit

    groups, count = _groups(clusters, len(clusters))
    _check_level(threshold, alpha)
    rows = [np.flatnonzero(groups == g).tolist() for g in range(count)]
    estimate = _finite("the statistic of all rows", statistic(range(len(groups))))
    tail = _expanded_tail(alpha, count)
    most = min(max(RESAMPLES, math.ceil(100 / alpha)), MOST_RESAMPLES)
    resamples = most if 4 / most > tail else max(RESAMPLES, math.ceil(4 / tail))
    rng = np.random.default_rng([ratio.SEED, count, 4])
    draws = (rng.integers(0, count, size=count) for _ in range(resamples))
    drawn = np.array([statistic([row for g in draw for row in rows[g]]) for draw in draws], dtype=float)
    of = _jackknife(statistic, rows, estimate) if count > 1 else None
    same = drawn[np.isfinite(drawn)]
    spread = float(same.std()) if len(same) else 0.0
    if of is None or bool((drawn == estimate).all()) or (not of.varies() and spread <= 1e-12 * max(1.0, abs(estimate))):
        judged = _all_agree(estimate, count, threshold, alpha, support)
        return Test(estimate, *judged, "cluster bootstrap", len(groups), count)
    p, bounds = (1.0, 1.0), (-math.inf, math.inf)
    if not of.varies():  # a median, whose middle rows tie: leaving one out tells nothing
        t = (estimate - threshold) / spread
        p, reach = (float(stdtr(count - 1, -t)), float(stdtr(count - 1, t))), -float(stdtrit(count - 1, alpha)) * spread
        bounds = estimate - reach, estimate + reach
    elif math.isfinite(float(of.error)):
        p, bounds = (
            _floats(ratio.guarded_t(of, threshold, *ratio.COMBINED)),
            ratio.guarded_bounds(of, alpha, *ratio.COMBINED),
        )
    p_pass = max(_expanded_p(drawn, threshold, count), p[0])
    p_fail = max(_expanded_p(-drawn, -threshold, count), p[1])
    low, high = _expanded_bound(drawn, tail), -_expanded_bound(-drawn, tail)
    ends = min(low, bounds[0]), max(high, bounds[1])
    return Test(estimate, *ends, p_pass, p_fail, "cluster bootstrap", len(groups), count)


def _expanded_tail(alpha: float, count: int) -> float:
    """Return the share of resamples beyond the expanded percentile bound at a level, of so many clusters."""
    from scipy.special import ndtr, stdtrit

    return float(ndtr(math.sqrt(count / max(count - 1, 1)) * stdtrit(max(count - 1, 1), alpha)))


def _expanded_p(drawn: Floats, threshold: float, count: int) -> float:
    """Return the level at which the lower expanded percentile bound reaches the threshold."""
    import numpy as np
    from scipy.special import ndtri, stdtr

    against = int((~(np.isfinite(drawn) & (drawn > threshold))).sum())
    z = -float(ndtri((1 + against) / (len(drawn) + 1)))
    if not against:  # a tail beyond all of them, down to the least chance that a resample has
        z = max(z, min(float((drawn.mean() - threshold) / drawn.std()), -float(ndtri(float(count) ** -count))))
    return float(stdtr(count - 1, -z * math.sqrt((count - 1) / count)))


def _expanded_bound(drawn: Floats, tail: float) -> float:
    """Return the lower bound that inverts `_expanded_p`: an order statistic, or beyond them a normal quantile."""
    import numpy as np
    from scipy.special import ndtri

    allowed = math.floor(tail * (len(drawn) + 1) + 1e-9) - 1
    low = np.sort(np.where(np.isfinite(drawn), drawn, -math.inf))
    if allowed >= 0:
        return float(low[allowed])
    return float(min(low[0], low.mean() + ndtri(tail) * low.std())) if math.isfinite(low[0]) else -math.inf


def _jackknife(statistic: Statistic, rows: list[list[int]], estimate: float) -> Ratio:
    """Return the jackknife's pseudo-values as a mean of clusters, of infinite error when one cannot be had."""
    import numpy as np

    count = len(rows)
    without = np.array(
        [statistic([row for g in range(count) if g != left for row in rows[g]]) for left in range(count)]
    )
    r = (count - 1) * (estimate - np.where(np.isfinite(without), without, estimate))
    error = math.sqrt(float((r**2).sum()) / count / (count - 1)) if np.isfinite(without).all() else math.inf
    value, spread, skew = (np.asarray(x, dtype=np.float64) for x in (estimate, error, 0.0))
    return ratio.Ratio(value, spread, skew, r, np.ones(count))


def point(value: float, threshold: float, n: int = 1) -> Test:
    """Compare one exact number, such as a size counted over n rows, with its budget; on the budget is within it."""
    _finite("value", value)
    _finite("threshold", threshold)
    met = value >= threshold
    return Test(value, value, value, 0.0 if met else 1.0, 1.0 if met else 0.0, "point", n)


def _all_agree(
    value: float, count: int, threshold: float, alpha: float, support: Support | None
) -> tuple[float, float, float, float]:
    """Return lower, upper, p_pass, p_fail when all of `count` clusters have the same value: the rule of three's."""
    if support is None:
        return -math.inf, math.inf, 1.0, 1.0
    (low, high), kept = support, alpha ** (1 / count)
    p = _floats(means.rule_of_three(value, count, threshold, support))
    return low + (value - low) * kept, high - (high - value) * kept, *p


def _rows(values: Sequence[float], weights: Sequence[float], support: Support | None) -> tuple[Floats, Floats]:
    import numpy as np

    v, w = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if v.ndim != 1 or v.shape != w.shape or not len(v):
        raise ValueError(f"want as many weights as values, and at least one; got {v.shape} values, {w.shape} weights")
    if not (np.isfinite(v).all() and np.isfinite(w).all()):
        raise ValueError("a value or a weight is not a finite number")
    if (w < 0).any() or not w.sum() > 0:
        raise ValueError("a weight is negative, or all of them are zero")
    if support and (v.min() < support[0] or v.max() > support[1]):
        raise ValueError(f"a value lies outside of its range {support}")
    return v, w


def _groups(clusters: Iterable[Hashable] | None, n: int) -> tuple[NDArray[np.intp], int]:
    """Return each row's cluster by its number, and how many there are; without clusters each row is its own."""
    import numpy as np

    groups = np.arange(n) if clusters is None else numbered(clusters)
    if len(groups) != n or not n:
        raise ValueError(f"want one cluster per row, and at least one row; got {len(groups)} for {n} rows")
    return groups, int(groups.max()) + 1


def numbered(clusters: Iterable[Hashable]) -> NDArray[np.intp]:
    """Return the number of each cluster, from 0 in order of appearance."""
    import numpy as np

    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(c, len(known)) for c in clusters], dtype=np.intp)


def _check_counts(n: float, *counts: float) -> None:
    if not all(float(x).is_integer() for x in (n, *counts)) or n < 1:
        raise ValueError(f"want whole numbers of rows, at least one; got {counts} of {n}")
    if min(counts) < 0 or sum(counts) > n:
        raise ValueError(f"want counts from 0 to {n} that fit together, got {counts}")


def _check_level(threshold: float, alpha: float) -> None:
    _finite("threshold", threshold)
    if not 0 < alpha <= 0.5:
        raise ValueError(f"alpha is {alpha}, want more than 0 and at most 0.5")


def _finite(what: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{what} is {value}, want a finite number")
    return float(value)


def _z(alpha: float) -> float:
    return NormalDist().inv_cdf(1 - alpha)
