"""The test of a metric that is made from all rows at once: whole clusters are drawn again."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

from harness.stats import ratio
from harness.stats.arrays import Floats, np, special
from harness.stats.inputs import check_level, finite, groups_of
from harness.stats.ratio import Ratio
from harness.stats.result import Judged, Test, all_agree, floats, weakest
from harness.stats.unseen import Support

RESAMPLES, MOST_RESAMPLES = 2000, 20_000  # at least, and at most
Statistic = Callable[[Sequence[int]], float]  # of the numbers of rows, repeated as drawn


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
    groups, count = groups_of(clusters, len(clusters))
    check_level(threshold, alpha)
    rows = [np.flatnonzero(groups == g).tolist() for g in range(count)]
    estimate = finite("the statistic of all rows", statistic(range(len(groups))))
    # the share of resamples beyond the expanded percentile bound
    tail = float(special.ndtr(math.sqrt(count / max(count - 1, 1)) * special.stdtrit(max(count - 1, 1), alpha)))
    drawn = _resampled(statistic, rows, alpha, tail)
    jackknife = _jackknife(statistic, rows, estimate) if count > 1 else None
    finite_draws = drawn[np.isfinite(drawn)]
    spread = float(finite_draws.std()) if len(finite_draws) else 0.0
    alike = bool((drawn == estimate).all())
    if jackknife is None or alike or (not jackknife.varies() and spread <= 1e-12 * max(1.0, abs(estimate))):
        judged = all_agree(estimate, np.ones(count), threshold, alpha, support)
    else:
        lower, upper = _expanded_bound(drawn, tail), -_expanded_bound(-drawn, tail)
        expanded = lower, upper, _expanded_p(drawn, threshold, count), _expanded_p(-drawn, -threshold, count)
        judged = weakest([expanded, _jackknifed(jackknife, estimate, spread, threshold, alpha)], None)
    return Test(estimate, *judged, "cluster bootstrap", len(groups), count)


def _resampled(statistic: Statistic, rows: list[list[int]], alpha: float, tail: float) -> Floats:
    """Return the statistic of resamples of whole clusters, (resamples,), as many as the tail of a level takes."""
    count = len(rows)
    most = min(max(RESAMPLES, math.ceil(100 / alpha)), MOST_RESAMPLES)
    resamples = most if 4 / most > tail else max(RESAMPLES, math.ceil(4 / tail))
    rng = np.random.default_rng([ratio.SEED, count, 4])
    draws = (rng.integers(0, count, size=count) for _ in range(resamples))
    return np.array([statistic([row for g in draw for row in rows[g]]) for draw in draws], dtype=float)


def _jackknifed(of: Ratio, estimate: float, spread: float, threshold: float, alpha: float) -> Judged:
    """Return what the jackknife's pseudo-values show, nothing where their error cannot be had.

    Of a median, whose middle rows tie, leaving one out tells nothing: there it is a t with the resamples' error.
    """
    if not of.varies():
        df, t = of.clusters - 1, (estimate - threshold) / spread
        reach = -float(special.stdtrit(df, alpha)) * spread
        return estimate - reach, estimate + reach, float(special.stdtr(df, -t)), float(special.stdtr(df, t))
    if not math.isfinite(float(of.error)):
        return -math.inf, math.inf, 1.0, 1.0
    bounds = ratio.guarded_bounds(of, alpha, *ratio.COMBINED)
    return (*bounds, *floats(ratio.guarded_t(of, threshold, *ratio.COMBINED)))


def _expanded_p(drawn: Floats, threshold: float, count: int) -> float:
    """Return the level at which the lower expanded percentile bound reaches the threshold; drawn (resamples,)."""
    against = int((~(np.isfinite(drawn) & (drawn > threshold))).sum())
    z = -float(special.ndtri((1 + against) / (len(drawn) + 1)))
    if not against:  # a tail beyond all of them, down to the least chance that a resample has
        z = max(z, min(float((drawn.mean() - threshold) / drawn.std()), -float(special.ndtri(float(count) ** -count))))
    return float(special.stdtr(count - 1, -z * math.sqrt((count - 1) / count)))


def _expanded_bound(drawn: Floats, tail: float) -> float:
    """Return the lower bound that inverts `_expanded_p`: an order statistic, or beyond them a normal quantile."""
    allowed = math.floor(tail * (len(drawn) + 1) + 1e-9) - 1
    low = np.sort(np.where(np.isfinite(drawn), drawn, -math.inf))
    if allowed >= 0:
        return float(low[allowed])
    return float(min(low[0], low.mean() + special.ndtri(tail) * low.std())) if math.isfinite(low[0]) else -math.inf


def _jackknife(statistic: Statistic, rows: list[list[int]], estimate: float) -> Ratio:
    """Return the jackknife's pseudo-values as a mean of clusters, (G,), of infinite error when one cannot be had."""
    count = len(rows)
    without = np.array(
        [statistic([row for g in range(count) if g != left for row in rows[g]]) for left in range(count)]
    )
    r = (count - 1) * (estimate - np.where(np.isfinite(without), without, estimate))
    error = math.sqrt(float((r**2).sum()) / count / (count - 1)) if np.isfinite(without).all() else math.inf
    value, spread, skew = (np.asarray(x, dtype=np.float64) for x in (estimate, error, 0.0))
    return ratio.Ratio(value, spread, skew, r, np.ones(count))
