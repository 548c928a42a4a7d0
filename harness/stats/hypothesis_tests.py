"""The tests behind the gates: a claim `theta > threshold`, larger is better, at a one-sided level alpha.

A caller turns the number so that larger is better, and reads two p-values: `p_pass <= alpha` proves
the claim, `p_fail <= alpha` refutes it, neither is inconclusive. What cannot be judged (nothing varies,
one cluster) is inconclusive, never proven; what is not a number raises ValueError.

rows independent?  0/1          a mean, a perplexity    a metric with its own combine
yes                binomial     cluster_t(…, None, …)   cluster_bootstrap, each row a cluster
yes, paired        tango        paired_ratio            cluster_bootstrap
yes, margin 0      mcnemar      sign_flip               cluster_bootstrap
clusters           cluster_t or paired_ratio            cluster_bootstrap
clusters, crossed  crossed_t                            crossed_bootstrap

How often each is wrong, measured: docs/explanation/statistics.md, by `make simulate`.
"""

from __future__ import annotations

from harness.stats.cluster_means import cluster_bootstrap, cluster_t, paired_ratio, sign_flip
from harness.stats.crossed import crossed_bootstrap, crossed_t
from harness.stats.inputs import number_clusters, require_finite
from harness.stats.multiple_testing import adjust_holm, attempt_alpha
from harness.stats.ratio import has_few_drawn_sizes
from harness.stats.result import Test
from harness.stats.shares import binomial, mcnemar, tango, wilson

__all__ = (
    "METHOD_VERSION",
    "T_METHODS",
    "Test",
    "adjust_holm",
    "attempt_alpha",
    "binomial",
    "cluster_bootstrap",
    "cluster_t",
    "compare_exact_value",
    "crossed_bootstrap",
    "crossed_t",
    "has_few_drawn_sizes",
    "mcnemar",
    "number_clusters",
    "paired_ratio",
    "sign_flip",
    "tango",
    "wilson",
)  # fmt: skip
METHOD_VERSION = 2  # raised whenever the same rows come to other numbers
T_METHODS = (
    "t", "cluster t", "crossed t", "ratio estimator", "cluster bootstrap", "crossed bootstrap", "sign flips",
)  # fmt: skip


def compare_exact_value(value: float, threshold: float, n: int = 1) -> Test:
    """Compare an exact number with its budget; equality passes.

    The number may be a size that was counted over n rows. Raises ValueError if either is not finite.
    """
    require_finite("value", value)
    require_finite("threshold", threshold)
    met = value >= threshold
    return Test(value, value, value, 0.0 if met else 1.0, 1.0 if met else 0.0, "point", n)
