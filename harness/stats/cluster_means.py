"""Tests of rows in clusters, each counted as one observation.

They are about a weighted mean, the difference of two means on the same rows, and a metric that is computed from all
rows at once, for which whole clusters are resampled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from harness.stats import mean_tests, ratio
from harness.stats.arrays import Floats, np, special
from harness.stats.inputs import Clusters, as_groups, as_rows, check_level, require_finite, sum_weights
from harness.stats.mean_tests import RESAMPLED_CLUSTERS
from harness.stats.ratio import Ratio
from harness.stats.result import Judged, Test, combine_weakest, equal_values_test, to_floats
from harness.stats.rule_of_three import Support
from harness.stats.significance import is_significant

MAX_EXACT_CLUSTERS = 16  # up to this many clusters all 2^G signs are tried, above it FLIPS random ones
FLIPS, UNFLIPPED = 4999, 2e-5  # and the level below which so many would be needed that the t decides alone
RESAMPLES, MOST_RESAMPLES = 2000, 20_000  # at least, and at most
Statistic = Callable[[Sequence[int]], float]  # of the numbers of rows, repeated as drawn


def cluster_t(
    values: Sequence[float],
    weights: Sequence[float],
    clusters: Clusters | None,
    threshold: float,
    alpha: float,
    *,
    support: Support | None = None,
) -> Test:
    """Test a weighted mean Σwv/Σw against a number.

    Rows of one cluster count as one observation. There is one value, weight and cluster per row; without clusters each
    row is its own. For a perplexity: nats per token, weighted by tokens, and a threshold in nats. `support` is the
    range a value can have.

    Student's t with the error of `ratio.estimate_ratio` is wrong up to 28 % of the time where 5 % is meant, when the
    clusters are few and skewed. Where no range is known, `ratio.guarded_t` decides. Of rows in a known range two tests
    must agree, the weaker one counts: the t corrected for skewness or, in clusters, for rows from 0 to 1 and for
    differences of 0/1 rows, Wilson's and Tango's scores on the effective number of rows; and the bootstrap-t of whole
    clusters or, where these are very uneven or alpha is under `ratio.MIN_RESAMPLED_LEVEL`, `ratio.guarded_t`. Of
    independent rows in a known range, a disaster that none of n rows showed is allowed for, too. The Bayesian bootstrap
    with a worst row may prove more than these can. Where nothing varies only the rule of three is left.
    """
    v, w = as_rows(values, weights, support)
    groups, count = as_groups(clusters, len(v))
    check_level(threshold, alpha)
    sums = np.bincount(groups, w * v, minlength=count).astype(np.float64)
    weight = sum_weights(groups, w, count)
    counted = weight > 0
    mean, sums, weight = float(sums.sum() / weight.sum()), sums[counted], weight[counted]
    method = "cluster t" if clusters is not None else "t" if np.ptp(w) == 0 else "ratio estimator"
    of = ratio.estimate_ratio(sums, weight) if len(sums) > 1 else None
    if of is None or not of.varies():
        parts = [equal_values_test(mean, weight, threshold, alpha, support)]
    else:
        kind = classify_rows(v, w, support, clustered=clusters is not None)
        tests = mean_tests.select_tests(of, kind, alpha, discordance=(v * v).mean(), support=support, near=threshold)
        if support and clusters is None:
            tests.append(mean_tests.unseen_rows_test(of, support))
        parts = [(*test.bounds(alpha), *to_floats(test.p(threshold))) for test in tests]
    judged = combine_weakest(parts, support)
    if support and of and of.varies() and mean_tests.has_worst_row(of, alpha, independent=clusters is None):
        worst = mean_tests.worst_row_test(
            of, support, alpha, threshold
        )  # the narrower bounds and the smaller p-values of the two count
        bounds, p = worst.bounds(alpha), to_floats(worst.p(threshold))
        judged = max(judged[0], bounds[0]), min(judged[1], bounds[1]), min(judged[2], p[0]), min(judged[3], p[1])
    rule = float(ratio.effective_clusters(weight)) if ratio.are_uneven(weight) else None
    return Test(mean, *judged, method, len(v), count if clusters is not None else None, rule)


def classify_rows(v: Floats, w: Floats, support: Support | None, *, clustered: bool) -> mean_tests.Kind:
    """Classify rows for `mean_tests.select_tests`. Values and weights are (rows,)."""
    if support is None or not clustered or np.ptp(w) > 0:  # independent, or rows that do not count alike
        return "ratio" if support is None else "score"
    pairs = support == (-1.0, 1.0) and bool(np.isin(v, (-1.0, 0.0, 1.0)).all())
    return "share" if support[1] - support[0] == 1 else "pairs" if pairs else "score"


def paired_ratio(
    cand_values: Sequence[float],
    base_values: Sequence[float],
    weights: Sequence[float],
    clusters: Clusters | None,
    threshold: float,
    alpha: float,
    *,
    support: Support | None = None,
) -> Test:
    """Test the difference Σw(c - b)/Σw of paired weighted means.

    It is tested as by `cluster_t`. For a perplexity the values are nats per token, the weights tokens, and the
    difference is the log of the ratio of the two perplexities: "2 %" is a threshold of log(1.02). `support` is the
    range of a difference. Raises ValueError unless there are as many candidate as baseline values.
    """
    if len(cand_values) != len(base_values):
        raise ValueError(
            f"the samples are paired, but there are {len(cand_values)} candidate values and {len(base_values)} "
            "baseline values"
        )
    differences = [c - b for c, b in zip(cand_values, base_values, strict=True)]
    return cluster_t(differences, weights, clusters, threshold, alpha, support=support)


def sign_flip(
    cand_values: Sequence[float],
    base_values: Sequence[float],
    clusters: Clusters | None,
    alpha: float,
    *,
    support: Support | None = None,
) -> Test:
    """Test whether a candidate's mean exceeds a baseline's on paired rows.

    The margin is 0; this is to scores as McNemar's test is to 0/1 rows. If the two models do not differ, each cluster's
    difference could as well have had the other sign: the share of sign patterns with as large a sum is an exact
    p-value. It is over all 2^G patterns up to MAX_EXACT_CLUSTERS clusters and, above that, over the observed pattern
    and FLIPS random ones, or as many as a small alpha takes (Phipson, Smyth 2010, SAGMB 9:39). Above RESAMPLED_CLUSTERS
    clusters, and for alpha below UNFLIPPED, `paired_ratio` decides alone.

    The claim is about means, which skewed differences can break, so `paired_ratio` must agree. The bounds are its own,
    widened to 0 where the combined p-value is not significant.
    """
    test = paired_ratio(cand_values, base_values, [1.0] * len(cand_values), clusters, 0.0, alpha, support=support)
    groups, count = as_groups(clusters, len(cand_values))
    if count > RESAMPLED_CLUSTERS or alpha < UNFLIPPED:
        return test
    sums = np.bincount(groups, np.subtract(cand_values, base_values), minlength=count).astype(np.float64)
    p_pass, p_fail = (
        max(test.p_pass, _compute_sign_flip_p(sums, alpha)),
        max(test.p_fail, _compute_sign_flip_p(-sums, alpha)),
    )
    lower = test.lower if is_significant(p_pass, alpha) else min(test.lower, 0.0)
    upper = test.upper if is_significant(p_fail, alpha) else max(test.upper, 0.0)
    return replace(test, lower=lower, upper=upper, p_pass=p_pass, p_fail=p_fail, method="sign flips")


def _compute_sign_flip_p(sums: Floats, alpha: float) -> float:
    """Return the share of sign patterns with at least the observed sum. `sums` is (G,)."""
    sums = np.sort(sums[sums != 0])
    count, size = len(sums), np.abs(sums).sum()
    if count <= MAX_EXACT_CLUSTERS:
        patterns = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return float(((1 - 2 * patterns) @ sums >= sums.sum() - 1e-12 * size).mean())
    rng, least = np.random.default_rng([ratio.SEED, count, 3]), max(FLIPS, math.ceil(4 / alpha))

    def draw(_: int) -> Floats:
        flips = (min(FLIPS, least - at) for at in range(0, least, FLIPS))
        signs = (rng.integers(0, 2, (some, count)) * 2 - 1 for some in flips)
        return np.concatenate([some @ sums >= sums.sum() - 1e-12 * size for some in signs])

    def p(above: Floats) -> Floats:
        return np.asarray((1 + above.sum()) / (len(above) + 1))

    return float(p(ratio.draw_resamples(draw, lambda above: (p(above),) * 2, alpha)))


def cluster_bootstrap(
    statistic: Statistic, clusters: Clusters, threshold: float, alpha: float, *, support: Support | None = None,
    error: float | None = None,
) -> Test:  # fmt: skip
    """Test any statistic of the rows by resampling whole clusters.

    The test is conservative with few clusters. `statistic(rows)` gets row numbers, repeated as drawn. Two methods must
    agree, the weaker one counts: (1) the percentile bootstrap, widened for few clusters (Hesterberg 2015, The American
    Statistician 69:371, "expanded percentile": its normal quantile becomes sqrt(G/(G-1)) times that of t(G - 1)),
    because plain percentiles are too narrow; (2) `ratio.guarded_t` on the delete-one-cluster jackknife's pseudo-values,
    because a percentile interval collapses where most resamples look alike. A resample without a finite value counts
    against both verdicts. There are as many resamples as the tail of a small alpha takes, up to MOST_RESAMPLES; a tail
    beyond those is the normal distribution's with their mean and spread. `support`: see `cluster_t`; only for a mean.
    If a standard `error` is given, deviations are stretched to it.
    """
    groups, count = as_groups(clusters, len(clusters))
    check_level(threshold, alpha)
    rows = [np.flatnonzero(groups == g).tolist() for g in range(count)]
    estimate = require_finite("the statistic of all rows", statistic(range(len(groups))))
    # the share of resamples beyond the expanded percentile bound
    tail = float(special.ndtr(math.sqrt(count / max(count - 1, 1)) * special.stdtrit(max(count - 1, 1), alpha)))
    most = min(max(RESAMPLES, math.ceil(100 / alpha)), MOST_RESAMPLES)
    resamples = most if 4 / most > tail else max(RESAMPLES, math.ceil(4 / tail))
    without = _compute_leave_one_out_values(statistic, rows)
    jackknife = _make_pseudo_value_ratio(np.array(without), estimate) if count > 1 else None
    rows, stretch = _sort_clusters_by_size(statistic, rows, without, estimate), 1.0
    if error is not None and jackknife is not None and jackknife.varies() and math.isfinite(float(jackknife.error)):
        stretch, jackknife = error / float(jackknife.error), ratio.stretch_residuals(jackknife, np.asarray(error**2))
    rng = np.random.default_rng([ratio.SEED, count, 4])

    def draw(_: int) -> Floats:
        draws = (rng.integers(0, count, size=count) for _ in range(resamples))
        drawn = np.array([statistic([row for g in draw for row in rows[g]]) for draw in draws], dtype=float)
        return np.asarray(estimate + stretch * (drawn - estimate))

    def expanded_p(drawn: Floats) -> tuple[Floats, Floats]:
        if count == 1 or (drawn == estimate).all():
            return np.ones(()), np.ones(())
        sides = (drawn, threshold), (-drawn, -threshold)
        up, down = (np.asarray(_compute_expanded_percentile_p(*side, count)) for side in sides)
        return up, down

    drawn = ratio.draw_resamples(draw, expanded_p, alpha)
    finite_draws = drawn[np.isfinite(drawn)]
    spread = float(finite_draws.std()) if len(finite_draws) else 0.0
    if (
        jackknife is None
        or (drawn == estimate).all()
        or (not jackknife.varies() and spread <= 1e-12 * max(1.0, abs(estimate)))
    ):
        judged = equal_values_test(estimate, np.ones(count), threshold, alpha, support)
    else:
        lower, upper = _compute_expanded_lower_bound(drawn, tail), -_compute_expanded_lower_bound(-drawn, tail)
        expanded = lower, upper, *to_floats(expanded_p(drawn))
        judged = combine_weakest(
            [expanded, _compute_jackknife_bounds_and_p(jackknife, estimate, spread, threshold, alpha)], None
        )
    return Test(estimate, *judged, "cluster bootstrap", len(groups), count)


def _compute_jackknife_bounds_and_p(
    of: Ratio, estimate: float, spread: float, threshold: float, alpha: float
) -> Judged:
    """Return bounds and p-values from the jackknife's pseudo-values.

    If their error is not finite, the bounds are infinite and the p-values 1. Leaving one out changes nothing in a
    median with tied middle rows: a t with the standard error of the resamples, `spread`, is used there.
    """
    if not of.varies():
        df, t = of.clusters - 1, (estimate - threshold) / spread
        reach = -float(special.stdtrit(df, alpha)) * spread
        return estimate - reach, estimate + reach, float(special.stdtr(df, -t)), float(special.stdtr(df, t))
    if not math.isfinite(float(of.error)):
        return -math.inf, math.inf, 1.0, 1.0
    bounds = ratio.guarded_bounds(of, alpha, *ratio.COMBINED_GUARD)
    return (*bounds, *to_floats(ratio.guarded_t(of, threshold, *ratio.COMBINED_GUARD)))


def jackknife_error(statistic: Statistic, clusters: Clusters) -> float:
    """Return the delete-one-cluster jackknife's standard error of a statistic.

    It is infinite for a single cluster, and if the statistic without one is not finite.
    """
    groups, count = as_groups(clusters, len(clusters))
    rows = [np.flatnonzero(groups == g).tolist() for g in range(count)]
    if count < 2:
        return math.inf
    return float(
        _make_pseudo_value_ratio(
            np.array(_compute_leave_one_out_values(statistic, rows)), statistic(range(len(groups)))
        ).error
    )


def _compute_leave_one_out_values(statistic: Statistic, rows: list[list[int]]) -> list[float]:
    """Return the statistic without each cluster. NaN for a single cluster."""
    if len(rows) == 1:
        return [math.nan]
    return [statistic([row for own in rows if own is not left for row in own]) for left in rows]


def _sort_clusters_by_size(
    statistic: Statistic, rows: list[list[int]], without: Sequence[float], estimate: float
) -> list[list[int]]:
    """Sort clusters by size, influence and own statistic.

    Their names do not count, so they cannot change the resamples.
    """

    def alone(own: list[int]) -> float:
        try:
            return statistic(own)
        except (ArithmeticError, LookupError, ValueError):  # of so few rows there may be none
            return 0.0

    keys = [(len(own), abs(out - estimate), alone(own)) for own, out in zip(rows, without, strict=True)]
    known = [tuple(x if math.isfinite(x) else 0.0 for x in key) for key in keys]
    return [rows[i] for i in sorted(range(len(rows)), key=known.__getitem__)]


def _compute_expanded_percentile_p(drawn: Floats, threshold: float, count: int) -> float:
    """Return the p-value that inverts the lower expanded percentile bound.

    It is the level at which that bound reaches the threshold. `drawn` is (resamples,).
    """
    against = int((~(np.isfinite(drawn) & (drawn > threshold))).sum())
    z = -float(special.ndtri((1 + against) / (len(drawn) + 1)))
    if not against:  # a tail beyond all of them, down to the least chance that a resample has
        z = max(z, min(float((drawn.mean() - threshold) / drawn.std()), -float(special.ndtri(float(count) ** -count))))
    return float(special.stdtr(count - 1, -z * math.sqrt((count - 1) / count)))


def _compute_expanded_lower_bound(drawn: Floats, tail: float) -> float:
    """Return the lower bound that inverts `_compute_expanded_percentile_p`.

    It is an order statistic or, beyond all resamples, a normal quantile.
    """
    allowed = math.floor(tail * (len(drawn) + 1) + 1e-9) - 1
    low = np.sort(np.where(np.isfinite(drawn), drawn, -math.inf))
    if allowed >= 0:
        return float(low[allowed])
    return float(min(low[0], low.mean() + special.ndtri(tail) * low.std())) if math.isfinite(low[0]) else -math.inf


def _make_pseudo_value_ratio(without: Floats, estimate: float) -> Ratio:
    """Return the jackknife's pseudo-values as a mean of clusters, (G,).

    Its error is infinite if the statistic without a cluster is not finite.
    """
    count = len(without)
    r = (count - 1) * (estimate - np.where(np.isfinite(without), without, estimate))
    error = math.sqrt(float((r**2).sum()) / count / (count - 1)) if np.isfinite(without).all() else math.inf
    value, spread, skew = (np.asarray(x, dtype=np.float64) for x in (estimate, error, 0.0))
    return ratio.Ratio(value, spread, skew, r, np.ones(count))
