"""Tests of rows that are in clusters of several kinds, none of them nested in another, such as documents and questions.

The variance of a mean is that of its clusters, summed over the kinds: whatever two rows have in common is in one of
the sums, and nothing that is in both is taken out. Where few rows share a cluster of a kind that sum counts what rows
have by themselves twice; so much of it is subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.stats import cluster_means, means, ratio
from harness.stats.arrays import Floats, np
from harness.stats.cluster_means import Statistic, cluster_bootstrap, jackknife_error
from harness.stats.inputs import Clusters, check_level, groups_of, rows_of
from harness.stats.ratio import Ratio
from harness.stats.result import Judged, Test, all_agree, floats, weakest
from harness.stats.unseen import Support


def crossed_t(
    values: Sequence[float],
    weights: Sequence[float],
    clusterings: Sequence[Clusters],
    threshold: float,
    alpha: float,
    *,
    support: Support | None = None,
) -> Test:
    """Test a weighted mean Σwv/Σw against a number, of rows in clusters of several kinds; see `cluster_t`.

    Each kind's tests must agree, with the error of `crossed_variance` in place of that of its own clusters, and with
    its own degrees of freedom, so that those of the fewest clusters count.
    """
    v, w = rows_of(values, weights, support)
    check_level(threshold, alpha)
    kinds = [_summed(v, w, clusters) for clusters in clusterings]
    mean = float((w * v).sum() / w.sum())
    kind, parts = cluster_means.kind_of(v, w, support, clustered=True), list[Judged]()
    for of in stretched_to_sum([of for of, _ in kinds], [share for _, share in kinds], _summed(v, w, None)[0].error):
        if of.varies():
            tests = means.asked(of, kind, alpha, discordance=(v * v).mean(), support=support, near=threshold)
            parts += [(*test.bounds(alpha), *floats(test.p(threshold))) for test in tests]
    parts = parts or [all_agree(mean, of.weights, threshold, alpha, support) for of, _ in kinds]
    rules = [float(ratio.effective(of.weights)) for of, _ in kinds if ratio.uneven(of.weights)]
    counts = tuple(of.clusters for of, _ in kinds)
    return Test(mean, *weakest(parts, support), "crossed t", len(v), min(counts), min(rules, default=None), counts)


def crossed_variance(variances: Sequence[Floats], shares: Sequence[Floats], rows: Floats) -> Floats:
    """Return the variance (...) of a mean of rows in clusters of several kinds, from that of each kind alone.

    The sum, without what rows have by themselves (variance `rows`) as often as it is in there too often: for each kind
    but one, by the share of rows that are in a cluster of that kind alone, and never less than the largest of them.
    `shares` are those of the rows that share a cluster. With nothing subtracted it is an upper bound in expectation;
    with all of it, it is Cameron, Gelbach and Miller's 2011, Journal of Business and Economic Statistics 29:238.
    """
    most = np.maximum.reduce(list(variances))
    alone = sum((1 - share for share in shares), np.float64(0)) - (1 - np.maximum.reduce(list(shares)))
    return np.asarray(np.maximum(sum(variances, np.float64(0)) - alone * rows, most))


def stretched_to_sum(kinds: Sequence[Ratio], shares: Sequence[Floats], rows_error: Floats) -> list[Ratio]:
    """Return the mean in each kind of clusters, all of them with the error of `crossed_variance`."""
    variance = crossed_variance([of.error**2 for of in kinds], shares, rows_error**2)
    return [ratio.stretched(of, variance) for of in kinds]


def crossed_bootstrap(
    statistic: Statistic,
    clusterings: Sequence[Clusters],
    threshold: float,
    alpha: float,
    *,
    support: Support | None = None,
) -> Test:
    """Test any statistic of rows in clusters of several kinds, by `cluster_bootstrap` with the sum of the variances."""
    errors = [jackknife_error(statistic, clusters) for clusters in clusterings]
    error = math.sqrt(sum(e**2 for e in errors))
    known = error if math.isfinite(error) and error > 0 else None
    tests = [cluster_bootstrap(statistic, c, threshold, alpha, support=support, error=known) for c in clusterings]
    judged = weakest([(t.lower, t.upper, t.p_pass, t.p_fail) for t in tests], support)
    counts = tuple(t.clusters or 0 for t in tests)
    return Test(tests[0].estimate, *judged, "crossed bootstrap", tests[0].n, min(counts), crossed=counts)


def _summed(v: Floats, w: Floats, clusters: Clusters | None) -> tuple[Ratio, Floats]:
    """Return the mean in clusters, and the share of the weight that is in clusters of several rows."""
    groups, count = groups_of(clusters, len(v))
    sums = np.bincount(groups, w * v, minlength=count).astype(np.float64)
    weight = np.bincount(groups, w, minlength=count).astype(np.float64)
    share = w[np.bincount(groups, w > 0, minlength=count)[groups] > 1].sum() / w.sum()
    return ratio.ratio(sums[weight > 0], weight[weight > 0]), np.asarray(share)
