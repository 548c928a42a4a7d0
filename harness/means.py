"""The p-values of `stats.cluster_t` for many data sets at once, for simulations: power, and the tables of the docs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from harness import ratio, stats

if TYPE_CHECKING:
    from harness.ratio import Floats, Ratio

Kind = Literal["share", "pairs", "score", "ratio"]


def p_values(
    of: Ratio, threshold: float, kind: Kind, *, discordance: Floats | None = None, rows: Floats | None = None
) -> tuple[Floats, Floats]:
    """Return p_pass and p_fail of every data set, as `stats.cluster_t` does one by one.

    `kind` is what the rows are: 0/1 in clusters ("share"), differences of such ("pairs", with the `discordance` of
    every data set), independent values in [0, 1] ("score", with the `rows` themselves), or any others ("ratio").
    """
    import numpy as np

    resampled = of.clusters <= stats.RESAMPLED_CLUSTERS
    if kind == "share":
        parts = [ratio.share_t(of, threshold)]
    elif kind == "pairs":
        parts = [ratio.pairs_t(of, threshold, discordance)]
    else:
        parts = [ratio.skewed_t(of, threshold)]
    if resampled:
        parts.append(ratio.bootstrap_p(of, threshold, ratio.bootstrap_t(of)))
    alike = _agreeing(of, threshold, kind)
    p_pass, p_fail = (np.maximum.reduce([p[i] for p in parts]) for i in (0, 1))
    if kind == "score":
        p_pass, p_fail = np.maximum(p_pass, alike[0]), np.maximum(p_fail, alike[1])
    if rows is not None and resampled:
        other = ratio.worst_row_p(rows, threshold, ratio.worst_row_draws(of.clusters), (0.0, 1.0))
        p_pass, p_fail = np.minimum(p_pass, other[0]), np.minimum(p_fail, other[1])
    varies = of.varies()
    return np.where(varies, p_pass, alike[0]), np.where(varies, p_fail, alike[1])


def _agreeing(of: Ratio, threshold: float, kind: Kind) -> tuple[Floats, Floats]:
    """Return the rule of three's p-values; 1 where the range of the values is not known."""
    import numpy as np

    if kind == "ratio":
        return np.ones_like(of.estimate), np.ones_like(of.estimate)
    low = -1.0 if kind == "pairs" else 0.0
    mean = of.estimate
    with np.errstate(divide="ignore", invalid="ignore"):
        up = np.where(mean > threshold, ((threshold - low) / (mean - low)) ** of.clusters, 1.0)
        down = np.where(mean < threshold, ((1 - threshold) / (1 - mean)) ** of.clusters, 1.0)
    return up, down
