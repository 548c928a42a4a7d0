"""The tests behind the gates: a claim `theta > threshold`, larger is better, at a one-sided level alpha.

A caller turns the number so that larger is better, and reads two p-values: `p_pass <= alpha` proves
the claim, `p_fail <= alpha` refutes it, neither is inconclusive. What cannot be judged (nothing varies,
one cluster) is inconclusive, never proven; what is not a number raises ValueError.

rows independent?  0/1          a mean, a perplexity    a metric with its own combine
yes                binomial     cluster_t(…, None, …)   cluster_bootstrap, each row a cluster
yes, paired        tango        paired_ratio            cluster_bootstrap
yes, margin 0      mcnemar      paired_ratio            cluster_bootstrap
clusters           cluster_t or paired_ratio; below FEW_CLUSTERS and for combine: cluster_bootstrap
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FEW_CLUSTERS = 20  # below this a cluster-robust standard error is too small too often
T_METHODS = ("t", "cluster t", "ratio estimator", "cluster bootstrap")
Support = tuple[float, float]
Statistic = Callable[[Sequence[int]], float]


@dataclass(frozen=True)
class Test:
    """One claim tested: an estimate, its bounds, and how surprising the data are on either side of the claim.

    `lower` and `upper` are one-sided bounds at alpha each, together a 1 - 2·alpha interval, on the
    scale of the estimate (infinite when nothing can be said). `p_pass` is the p-value of
    H0: theta <= threshold (small: the claim is proven), `p_fail` that of H0: theta >= threshold.
    """

    estimate: float
    lower: float
    upper: float
    p_pass: float
    p_fail: float
    method: str
    n: int
    clusters: int | None = None

    __test__: ClassVar[bool] = False  # pytest must not collect it where a test imports it


def binomial(successes: int, n: int, threshold: float, alpha: float) -> Test:
    """Test a share of independent 0/1 rows against a number; bounds are Clopper and Pearson's."""
    from scipy.stats import binomtest

    _check_counts(n, successes)
    _check_level(threshold, alpha)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}, want a proportion from 0 to 1")
    successes, n = int(successes), int(n)  # sums of 0.0 and 1.0 arrive as floats
    greater = binomtest(successes, n, threshold, alternative="greater")
    less = binomtest(successes, n, threshold, alternative="less")
    lower = float(greater.proportion_ci(1 - alpha).low)
    upper = float(less.proportion_ci(1 - alpha).high)
    return Test(successes / n, lower, upper, float(greater.pvalue), float(less.pvalue), "exact binomial", n)


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
    from scipy.stats import binomtest

    score = tango(wins, losses, n, 0.0, alpha)
    wins, losses = int(wins), int(losses)
    p_pass = p_fail = 1.0
    if wins + losses:
        p_pass = float(binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue)
        p_fail = float(binomtest(wins, wins + losses, 0.5, alternative="less").pvalue)
    lower = max(score.lower, 0.0) if p_pass <= alpha else min(score.lower, 0.0)
    upper = min(score.upper, 0.0) if p_fail <= alpha else max(score.upper, 0.0)
    return Test(score.estimate, lower, upper, p_pass, p_fail, "McNemar exact", n)


def tango(wins: int, losses: int, n: int, margin: float, alpha: float) -> Test:
    """Test that the difference of two paired shares is above `-margin`; bounds invert the same score test.

    The difference is (wins - losses)/n over n independent rows. Tango 1998, Statistics in Medicine 17:891.
    """
    _check_counts(n, wins, losses)
    _check_level(margin, alpha)
    if not -1 < margin < 1:
        raise ValueError(f"margin is {margin}, want a difference of proportions between -1 and 1")
    normal = NormalDist()
    z = _tango_z(wins, losses, n, -margin)
    lower = _tango_bound(wins, losses, n, _z(alpha))
    upper = _tango_bound(wins, losses, n, -_z(alpha))
    return Test((wins - losses) / n, lower, upper, normal.cdf(-z), normal.cdf(z), "Tango score", n)


def _tango_z(b: int, c: int, n: int, d0: float) -> float:
    """Return the score statistic of H0: difference = d0; 0 where the data say nothing."""
    linear = -b - c + (2 * n - b + c) * d0
    constant = -c * d0 * (1 - d0)
    # q: the share of rows only the baseline gets right, fitted under H0; q + d0 is the candidate's
    q = (math.sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    q = max(q, 0.0, -d0)
    variance = n * (2 * q + d0 * (1 - d0))
    distance = b - c - n * d0
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _tango_bound(b: int, c: int, n: int, z: float) -> float:
    """Return the difference at which the score statistic, which falls as the difference grows, equals z."""
    from scipy.optimize import brentq

    edge = 1 - 1e-12
    if _tango_z(b, c, n, -edge) <= z:
        return -1.0
    if _tango_z(b, c, n, edge) >= z:
        return 1.0
    return float(brentq(lambda d: _tango_z(b, c, n, d) - z, -edge, edge, xtol=1e-12))


def cluster_t(
    values: Sequence[float],
    weights: Sequence[float],
    clusters: Sequence[Hashable] | None,
    threshold: float,
    alpha: float,
    *,
    support: Support | None = None,
) -> Test:
    """Test a weighted mean Σwv/Σw against a number, with a cluster-robust standard error and t(G - 1).

    One value, weight and cluster per row; without clusters each row is its own. For a perplexity:
    nats per token, weighted by tokens, and a threshold in nats. SE = sqrt(G/(G-1)·Σ_c(Σ_{i∈c} r_i)²)/Σw
    with r_i = w_i(v_i - mean): Miller 2024, arXiv:2411.00640; the linearised ratio estimator.

    Where all clusters agree there is no variance to judge by. With a `support`, the range a value can
    have, the bounds then are the rule of three's; without one nothing is proven.
    """
    import numpy as np
    from scipy.stats import t

    v, w = _rows(values, weights, support)
    groups, count = _groups(clusters, len(v))
    _check_level(threshold, alpha)
    total = float(w.sum())
    mean = float((w * v).sum()) / total
    residuals = np.bincount(groups, w * (v - mean), minlength=count)
    method = "cluster t" if clusters is not None else "t" if np.ptp(w) == 0 else "ratio estimator"
    rounding = 1e-12 * float((w * np.abs(v)).max())
    if count < 2 or float(np.abs(residuals).max()) <= rounding:
        judged = _all_agree(mean, count, threshold, alpha, support)
        return Test(mean, *judged, method, len(v), count if clusters is not None else None)
    error = math.sqrt(count / (count - 1) * float((residuals**2).sum())) / total
    reach = float(t.isf(alpha, count - 1)) * error
    ratio = (mean - threshold) / error
    p_pass, p_fail = float(t.sf(ratio, count - 1)), float(t.cdf(ratio, count - 1))
    clusters_seen = count if clusters is not None else None
    return Test(mean, mean - reach, mean + reach, p_pass, p_fail, method, len(v), clusters_seen)


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


def cluster_bootstrap(
    statistic: Statistic,
    clusters: Sequence[Hashable],
    threshold: float,
    alpha: float,
    seed: int,
    resamples: int = 2000,
    *,
    support: Support | None = None,
) -> Test:
    """Test any statistic of the rows by drawing whole clusters; conservative when they are few.

    `statistic(rows)` gets row numbers, repeated as drawn. Two methods must agree, the weaker one
    counts: (1) the percentile bootstrap, widened for few clusters (Hesterberg 2015, The American
    Statistician 69:371, "expanded percentile": its normal quantile becomes sqrt(G/(G-1)) times that of
    t(G - 1)), because plain percentiles are too narrow; (2) t(G - 1) on the delete-one-cluster
    jackknife, because a percentile interval collapses where most resamples look alike. A resample without
    a finite value counts against both verdicts. `support`: see `cluster_t`; only for a mean.
    """
    import numpy as np
    from scipy.stats import norm, t

    groups, count = _groups(clusters, len(clusters))
    _check_level(threshold, alpha)
    rows = [np.flatnonzero(groups == g).tolist() for g in range(count)]
    estimate = _finite("the statistic of all rows", statistic(range(len(groups))))
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, count, size=(resamples, count))
    drawn = np.array([statistic([row for g in draw for row in rows[g]]) for draw in draws], dtype=float)
    error = _jackknife_error(statistic, rows, estimate) if count > 1 else 0.0
    if count < 2 or error <= 1e-12 * max(1.0, abs(estimate)) or bool((drawn == estimate).all()):
        judged = _all_agree(estimate, count, threshold, alpha, support)
        return Test(estimate, *judged, "cluster bootstrap", len(groups), count)
    p_pass, p_fail = (
        max(
            _expanded_p(sign * drawn, sign * threshold, count),
            float(t.sf(sign * (estimate - threshold) / error, count - 1)),
        )
        for sign in (1, -1)
    )
    tail = float(norm.sf(math.sqrt(count / (count - 1)) * t.isf(alpha, count - 1)))
    reach = float(t.isf(alpha, count - 1)) * error
    low = float(np.quantile(np.where(np.isfinite(drawn), drawn, -math.inf), tail, method="lower"))
    high = float(np.quantile(np.where(np.isfinite(drawn), drawn, math.inf), 1 - tail, method="higher"))
    bounds = min(low, estimate - reach), max(high, estimate + reach)
    return Test(estimate, *bounds, p_pass, p_fail, "cluster bootstrap", len(groups), count)


def _expanded_p(drawn: Floats, threshold: float, count: int) -> float:
    """Return the level at which the lower expanded percentile bound reaches the threshold."""
    import numpy as np
    from scipy.stats import norm, t

    against = int((~(np.isfinite(drawn) & (drawn > threshold))).sum())
    z = float(norm.isf((1 + against) / (len(drawn) + 1)))
    return float(t.sf(z * math.sqrt((count - 1) / count), count - 1))


def _jackknife_error(statistic: Statistic, rows: list[list[int]], estimate: float) -> float:
    """Return the delete-one-cluster standard error about the estimate; infinite when it cannot be had."""
    without = [
        statistic([row for g, some in enumerate(rows) if g != left for row in some]) for left in range(len(rows))
    ]
    if not all(math.isfinite(value) for value in without):
        return math.inf
    return math.sqrt((len(rows) - 1) / len(rows) * math.fsum((value - estimate) ** 2 for value in without))


def point(value: float, threshold: float, n: int = 1) -> Test:
    """Compare one exact number, such as a size counted over n rows, with its budget; on the budget is within it."""
    _finite("value", value)
    _finite("threshold", threshold)
    met = value >= threshold
    return Test(value, value, value, 0.0 if met else 1.0, 1.0 if met else 0.0, "point", n)


def rows_needed(test: Test, threshold: float, alpha: float, power: float = 0.8) -> int | None:
    """Return about how many rows in all would decide the claim if the estimate stayed as it is.

    From the standard error the bounds imply, growing with rows and with clusters alike. None when
    the estimate sits on the threshold, or nothing is known about its spread.
    """
    _check_level(threshold, alpha)
    distance = abs(test.estimate - threshold)
    width = test.estimate - test.lower if test.estimate > threshold else test.upper - test.estimate
    if distance <= 1e-12 * max(1.0, abs(threshold)) or not math.isfinite(width) or width <= 0:
        return None
    if test.method == "exact binomial":
        at = [math.sqrt(p * (1 - p)) for p in (threshold, test.estimate)]
        needed = ((_z(alpha) * at[0] + _z(1 - power) * at[1]) / distance) ** 2
    else:
        error = width / _quantile(test, alpha)
        needed = test.n * ((_z(alpha) + _z(1 - power)) * error / distance) ** 2
    open_yet = min(test.p_pass, test.p_fail) > alpha
    return max(math.ceil(needed), test.n + 1 if open_yet else 1)


def _quantile(test: Test, alpha: float) -> float:
    """Return what the test's bounds multiplied a standard error by."""
    if test.method not in T_METHODS:
        return _z(alpha)
    from scipy.stats import t

    return float(t.isf(alpha, (test.clusters or test.n) - 1))


def _all_agree(
    value: float, count: int, threshold: float, alpha: float, support: Support | None
) -> tuple[float, float, float, float]:
    """Return lower, upper, p_pass, p_fail when all of `count` clusters have the same value.

    If the mean were at most the threshold, at least a share u = (value - threshold)/(value - lowest)
    of clusters would differ, and none of `count` would show it with probability (1 - u)^count. For
    shares this is the exact binomial of `count` rows, all right.
    """
    if support is None:
        return -math.inf, math.inf, 1.0, 1.0
    low, high = support
    kept = alpha ** (1 / count)
    p_pass = p_fail = 1.0
    if value > threshold:
        p_pass = (max(threshold - low, 0.0) / (value - low)) ** count
    if value < threshold:
        p_fail = (max(high - threshold, 0.0) / (high - value)) ** count
    return low + (value - low) * kept, high - (high - value) * kept, p_pass, p_fail


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
    """Number the clusters from 0 in order of appearance; return each row's number, and how many there are."""
    import numpy as np

    if clusters is None:
        return np.arange(n), n
    known: dict[Any, int] = {}
    groups = np.array([known.setdefault(c, len(known)) for c in clusters], dtype=np.intp)
    if len(groups) != n or not n:
        raise ValueError(f"want one cluster per row, and at least one row; got {len(groups)} for {n} rows")
    return groups, len(known)


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
