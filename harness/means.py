"""The p-values of `stats.cluster_t` for many data sets at once, for simulations: power, and the tables of the docs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from harness import ratio, stats

if TYPE_CHECKING:
    from harness.ratio import Floats, Ratio

Kind = Literal["share", "pairs", "score", "ratio"]


def p_values(
    of: Ratio,
    threshold: float,
    kind: Kind,
    *,
    discordance: Floats | None = None,
    rows: Floats | None = None,
    support: stats.Support = (0.0, 1.0),
) -> tuple[Floats, Floats]:
    """Return p_pass and p_fail of every data set, as `stats.cluster_t` does one by one.

    `kind` is what the rows are: in clusters and in a `support` one wide ("share"), differences of 0/1 rows in clusters
    ("pairs", with the `discordance` of every data set), in any other `support` ("score"; independent ones with the
    `rows` themselves), or any others ("ratio").
    """
    import numpy as np

    if kind == "ratio":
        parts = [ratio.guarded_t(of, threshold)]
    elif kind == "share":
        parts = [ratio.share_t(of, threshold, support[0])]
    elif kind == "pairs":
        parts = [ratio.pairs_t(of, threshold, discordance)]
    else:
        parts = [ratio.skewed_t(of, threshold)]
    if kind != "ratio":
        parts.append(_beside(of, threshold))
    alike = _agreeing(of, threshold, (-1.0, 1.0) if kind == "pairs" else None if kind == "ratio" else support)
    p_pass, p_fail = (np.maximum.reduce([p[i] for p in parts]) for i in (0, 1))
    if rows is not None:
        p_pass, p_fail = np.maximum(p_pass, alike[0]), np.maximum(p_fail, alike[1])
        if of.clusters <= stats.RESAMPLED_CLUSTERS:
            other = ratio.worst_row_p(rows, threshold, support)
            p_pass, p_fail = np.minimum(p_pass, other[0]), np.minimum(p_fail, other[1])
    varies = of.varies()
    return np.where(varies, p_pass, alike[0]), np.where(varies, p_fail, alike[1])


def _beside(of: Ratio, threshold: float) -> tuple[Floats, Floats]:
    """Return the p-values of the test that must agree: of whole clusters resampled, guarded where they are uneven."""
    import numpy as np

    uneven = np.broadcast_to(ratio.uneven(of.weights), of.estimate.shape)
    p_pass, p_fail = np.zeros(of.estimate.shape), np.zeros(of.estimate.shape)
    if uneven.any():
        p_pass, p_fail = (np.where(uneven, p, 0.0) for p in ratio.guarded_t(of, threshold, ratio.UNEVEN_LEAST))
    if of.clusters <= stats.RESAMPLED_CLUSTERS and not uneven.all():
        even = ratio.bootstrap_p(of, threshold, ratio.bootstrap_t(of))
        p_pass, p_fail = np.where(uneven, p_pass, even[0]), np.where(uneven, p_fail, even[1])
    return p_pass, p_fail


def _agreeing(of: Ratio, threshold: float, support: stats.Support | None) -> tuple[Floats, Floats]:
    """Return the rule of three's p-values; 1 where the range of the values is not known."""
    import numpy as np

    if support is None:
        return np.ones_like(of.estimate), np.ones_like(of.estimate)
    (low, high), mean = support, of.estimate
    with np.errstate(all="ignore"):
        up = np.where(mean > threshold, ((threshold - low) / (mean - low)) ** of.clusters, 1.0)
        down = np.where(mean < threshold, ((high - threshold) / (high - mean)) ** of.clusters, 1.0)
    return up, down
