"""Tests of rows in crossed clusters of several kinds.

No kind is nested in another, as with documents and questions. The variance of a mean is that of its clusters, summed
over the kinds: a covariance of two rows is in at least one of the sums, and a part that is in two of them is not
subtracted. Where few rows share a cluster of a kind, the rows' own variance is counted twice; that much is subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.stats import cluster_means, mean_tests, ratio
from harness.stats.arrays import Floats, np
from harness.stats.cluster_means import Statistic, cluster_bootstrap, jackknife_error
from harness.stats.inputs import Clusters, as_groups, as_rows, check_level, sum_weights
from harness.stats.ratio import Ratio
from harness.stats.result import Judged, Test, combine_weakest, equal_values_test, to_floats
from harness.stats.rule_of_three import Support

# sum of the squared shares of rows in clusters of several, above which a kind is tested by itself
MIN_SHARED_WEIGHT = 0.01


@dataclass(frozen=True)
class CrossedMean:
    """A mean in clusters of one kind.

    `share` is the share of the weight in clusters of several rows, `crowding` the sum of the squared shares of these
    clusters: how much rests on few of them.
    """

    of: Ratio
    share: float
    crowding: float


def crossed_t(
    values: Sequence[float],
    weights: Sequence[float],
    clusterings: Sequence[Clusters],
    threshold: float,
    alpha: float,
    *,
    support: Support | None = None,
) -> Test:
    """Test a weighted mean Σwv/Σw of rows in crossed clusters.

    See `cluster_t`. The tests of the kind with the fewest clusters use the error of `crossed_variance` in place of
    their own. Those of another kind must agree where much rests on few of its clusters, since these may be uneven or
    skewed in ways that no sum shows.
    """
    v, w = as_rows(values, weights, support)
    check_level(threshold, alpha)
    kinds = [crossed_mean(v, w, clusters) for clusters in clusterings]
    mean = float((w * v).sum() / w.sum())
    kind, parts = cluster_means.classify_rows(v, w, support, clustered=True), list[Judged]()
    for of in decisive_means(kinds, crossed_mean(v, w, None).of.error):
        if of.varies():
            tests = mean_tests.select_tests(
                of, kind, alpha, discordance=(v * v).mean(), support=support, near=threshold
            )
            parts += [(*test.bounds(alpha), *to_floats(test.p(threshold))) for test in tests]
    parts = parts or [equal_values_test(mean, one.of.weights, threshold, alpha, support) for one in kinds]
    rules = [float(ratio.effective_clusters(one.of.weights)) for one in kinds if ratio.are_uneven(one.of.weights)]
    counts = tuple(one.of.clusters for one in kinds)
    return Test(
        mean, *combine_weakest(parts, support), "crossed t", len(v), min(counts), min(rules, default=None), counts
    )


def crossed_variance(kinds: Sequence[CrossedMean], rows: Floats) -> Floats:
    """Return the variance (...) of a mean of rows in crossed clusters.

    It is the sum of the variances of each kind alone, less the rows' own variance `rows` as often as the sum counts it
    too often: for each kind but that with the largest share of rows in shared clusters, by the share of rows that are
    alone in their cluster. It is never less than the largest of the variances. With nothing subtracted it is an upper
    bound in expectation; with all of it, it is Cameron, Gelbach and Miller's 2011, Journal of Business and Economic
    Statistics 29:238.
    """
    variances, shares = [one.of.error**2 for one in kinds], [one.share for one in kinds]
    alone = sum(1 - share for share in shares) - (1 - max(shares))
    return np.asarray(np.maximum(sum(variances) - alone * rows, np.maximum.reduce(variances)))


def decisive_means(kinds: Sequence[CrossedMean], rows_error: Floats) -> list[Ratio]:
    """Return the means that are tested: in the fewest clusters with the error of all kinds, in crowded ones as is."""
    variance, fewest = crossed_variance(kinds, rows_error**2), min(one.of.clusters for one in kinds)
    found = [ratio.stretch_residuals(one.of, variance) for one in kinds if one.of.clusters == fewest]
    return found + [one.of for one in kinds if one.of.clusters > fewest and one.crowding > MIN_SHARED_WEIGHT]


def crossed_bootstrap(
    statistic: Statistic,
    clusterings: Sequence[Clusters],
    threshold: float,
    alpha: float,
    *,
    support: Support | None = None,
) -> Test:
    """Test any statistic of rows in crossed clusters.

    `cluster_bootstrap` runs for each kind with the sum of the kinds' jackknife variances; the weakest result counts.
    """
    errors = [jackknife_error(statistic, clusters) for clusters in clusterings]
    error = math.sqrt(sum(e**2 for e in errors))
    known = error if math.isfinite(error) and error > 0 else None
    tests = [cluster_bootstrap(statistic, c, threshold, alpha, support=support, error=known) for c in clusterings]
    judged = combine_weakest([(t.lower, t.upper, t.p_pass, t.p_fail) for t in tests], support)
    counts = tuple(t.clusters or 0 for t in tests)
    return Test(tests[0].estimate, *judged, "crossed bootstrap", tests[0].n, min(counts), crossed=counts)


def crossed_mean(v: Floats, w: Floats, clusters: Clusters | None) -> CrossedMean:
    """Return a weighted mean of rows in clusters of one kind.

    Values are (..., rows), weights (rows,). Without clusters each row is its own.
    """
    groups, count = as_groups(clusters, v.shape[-1])
    member = np.zeros((count, v.shape[-1])) if v.ndim > 1 else None
    weight = sum_weights(groups, w, count)
    several = np.bincount(groups, w > 0, minlength=count) > 1
    if member is None:
        sums = np.bincount(groups, w * v, minlength=count).astype(np.float64)
    else:  # of many data sets
        member[groups, np.arange(len(groups))] = 1.0
        sums = (w * v) @ member.T
    counted, of_several = weight > 0, weight[several] / w.sum()
    of = ratio.estimate_ratio(sums[..., counted], weight[counted])
    return CrossedMean(of, float(of_several.sum()), float((of_several**2).sum()))
