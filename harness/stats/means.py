"""Which tests must agree on a mean of clusters: of one data set, as in a gate, or of many, as in a simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from harness.stats import ratio

if TYPE_CHECKING:
    from harness.stats.ratio import Floats, Ratio

Kind = Literal["share", "pairs", "score", "ratio"]
Support = tuple[float, float]
P = tuple["Floats", "Floats"]
SILENT = 0.8  # times alpha: the share of resamples without a cluster that varies, above which they say nothing
RESAMPLED_CLUSTERS = 500  # above this the bootstrap adds nothing to the closed form


@dataclass(frozen=True)
class Asked:
    """A test: p_pass and p_fail of every data set against a number, and the bounds of one data set at a level."""

    p: Callable[[float], P]
    bounds: Callable[[float], tuple[float, float]]


def asked(
    of: Ratio, kind: Kind, alpha: float, *, discordance: Any = None, support: Support | None = None
) -> list[Asked]:
    """Return the tests of which the weakest counts at a level.

    `kind` is what the rows are: in clusters and in a `support` one wide ("share"), differences of 0/1 rows in clusters
    ("pairs", with the `discordance` of every data set), in any other `support` ("score"), or any others ("ratio").
    """
    if kind == "ratio" or support is None:
        return [_guarded(of, ratio.LEAST)]
    if kind == "share":
        low = support[0]
        first = Asked(lambda t: ratio.share_t(of, t, low), lambda a: ratio.share_bounds(of, a, low))
    elif kind == "pairs":
        first = Asked(lambda t: ratio.pairs_t(of, t, discordance), lambda a: ratio.pairs_bounds(of, a, discordance))
    else:
        first = Asked(partial(ratio.skewed_t, of), partial(ratio.skewed_bounds, of))
    return [first, *_beside(of, alpha, support)]


def _guarded(of: Ratio, least: float) -> Asked:
    return Asked(lambda t: ratio.guarded_t(of, t, least), lambda a: ratio.guarded_bounds(of, a, least))


def _beside(of: Ratio, alpha: float, support: Support) -> list[Asked]:
    """Return the test that must agree: whole clusters resampled, or a guarded t where these say nothing.

    They do not where they are very uneven, where alpha is small, and where so few of them vary that many resamples hold
    none of these; then nothing is proven that clusters of which none varies would not prove.
    """
    import numpy as np

    uneven = np.broadcast_to(ratio.uneven(of.weights), of.estimate.shape)
    guarded = _guarded(of, ratio.UNEVEN_LEAST)
    if alpha < ratio.FINEST or uneven.all():
        return [guarded]
    drawn = ratio.bootstrap_t(of) if of.clusters <= RESAMPLED_CLUSTERS else None
    if drawn is None:
        return [test for test in (_where(uneven, guarded),) if test]
    scarce = ~uneven & ((~np.isfinite(drawn)).mean(-1) > SILENT * alpha)
    resampled = Asked(partial(ratio.bootstrap_p, of, drawn=drawn), lambda a: ratio.bootstrap_bounds(of, a, drawn))
    mute = uneven | scarce
    found = (_where(~mute, resampled), _where(mute, guarded), _where(scarce, _unseen(of, support)))
    return [test for test in found if test]


def _where(some: Any, test: Asked) -> Asked | None:
    """Return a test of some data sets, which asks nothing of the others, or None where there are none."""
    import numpy as np

    def p(threshold: float) -> P:
        up, down = test.p(threshold)
        return np.where(some, up, 0.0), np.where(some, down, 0.0)

    return test if some.all() else Asked(p, test.bounds) if some.any() else None


def _unseen(of: Ratio, support: Support) -> Asked:
    """Return what the clusters that agree with the median one allow: a disaster that none of them showed."""
    import numpy as np

    median = np.median(of.estimate[..., None] + of.residuals / of.weights, -1)  # of (..., G)
    low, high = support

    def bounds(alpha: float) -> tuple[float, float]:
        kept = alpha ** (1 / of.clusters)
        return low + float(median - low) * kept, high - float(high - median) * kept

    return Asked(lambda t: rule_of_three(median, of.clusters, t, support), bounds)


def judged(
    of: Ratio,
    kind: Kind,
    alpha: float,
    *,
    discordance: Floats | None = None,
    rows: Floats | None = None,
    support: Support = (0.0, 1.0),
) -> Callable[[float], P]:
    """Return what gives p_pass and p_fail of every data set against a number, as `cluster_t` does one by one.

    With the `rows` themselves they are independent, see `cluster_t`.
    """
    import numpy as np

    known = None if kind == "ratio" else (-1.0, 1.0) if kind == "pairs" else support
    tests, varies = asked(of, kind, alpha, discordance=discordance, support=known), of.varies()

    def p(threshold: float) -> P:
        parts, alike = [test.p(threshold) for test in tests], rule_of_three(of.estimate, of.clusters, threshold, known)
        if rows is not None:
            parts.append(alike)
        found = [np.maximum.reduce([part[i] for part in parts]) for i in (0, 1)]
        if rows is not None and of.clusters <= RESAMPLED_CLUSTERS:
            found = list(map(np.minimum, found, ratio.worst_row_p(rows, threshold, support)))
        return np.where(varies, found[0], alike[0]), np.where(varies, found[1], alike[1])

    return p


def rule_of_three(value: Any, count: int, threshold: float, support: Support | None) -> P:
    """Return p_pass and p_fail where all of `count` clusters have the same value; 1 where their range is not known.

    If the mean were at most the threshold, at least a share u = (value - threshold)/(value - lowest) of clusters would
    differ, and none of `count` would show it with probability (1 - u)^count (Hanley, Lippman-Hand 1983, JAMA
    249:1743). For shares this is the exact binomial of
    `count` rows, all right.
    """
    import numpy as np

    value = np.asarray(value, dtype=np.float64)
    if support is None:
        return np.ones_like(value), np.ones_like(value)
    low, high = support
    with np.errstate(all="ignore"):
        up = np.where(value > threshold, (max(threshold - low, 0.0) / (value - low)) ** count, 1.0)
        down = np.where(value < threshold, (max(high - threshold, 0.0) / (high - value)) ** count, 1.0)
    return up, down
