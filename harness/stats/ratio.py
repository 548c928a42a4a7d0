"""A mean of clusters with its error: Σs/Σw, studentised, and corrected for skewness in two ways.

The arrays hold one number per cluster on their last axis and may have axes before it, so that a
simulation judges many data sets in one call. Rows without clusters are clusters of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from harness.stats import tango
from harness.stats.arrays import Bools, Floats, np, special
from harness.stats.values import Bounds

RESAMPLES = 1999
SEED = 20101  # of all resamples: fixed, so that a verdict does not change when nothing changed, nor by another try
# of `guarded_t`, chosen by simulation
GUARD_FLOOR, GUARD_SLOPE, GUARD_CLUSTERS, GUARD_CEILING = 0.5, 28.0, 12, 12.0
UNEVEN_GUARD_FLOOR, FEW_GUARD_FLOOR = 1.5, 1.0  # in a known range: of very uneven clusters, of few that vary
GUARD_EXPONENT = 4  # in a known range: of the unevenness of other clusters
SIZE_GUARD_SLOPE, SIZE_GUARD_CEILING = 3.0, 1.5  # in the correlation of size and mean above that of chance
# clusters of equal size: uneven ones that count as fewer pass falsely more often where sizes are drawn
MIN_EFFECTIVE_CLUSTERS = 20.0
COMBINED_GUARD = (0.0, 8.0)  # GUARD_FLOOR and GUARD_SLOPE of the jackknife of a metric made from all rows at once
MIN_MIXED_EVENNESS = 0.28  # and as fewer than this so uneven that a few rule the mean, whatever their rows are
MIN_EVENNESS = 0.6  # clusters that count as fewer than this share of their number are very uneven
MIN_RESAMPLED_LEVEL = 4 / (RESAMPLES + 1)  # level below which so many resamples say nothing
MAX_P_ERROR = 1e-3  # standard error of a resampled p-value
DECIDED_ERRORS = 4.0  # standard errors between it and alpha, beyond which no more is drawn


@dataclass(frozen=True)
class Ratio:
    """Σs/Σw over G clusters: estimate, standard error, skewness divided by √G, and what they were made from."""

    estimate: Floats  # (...)
    error: Floats  # (...)
    skew: Floats  # (...)
    residuals: Floats  # (..., G)
    weights: Floats  # (..., G) or (G,)

    @property
    def clusters(self) -> int:
        return int(self.weights.shape[-1])

    def varies(self) -> Bools:
        """Return which data sets have clusters that differ beyond rounding."""
        scale = np.abs(self.estimate[..., None] * self.weights) + np.abs(self.residuals)
        return np.asarray(np.abs(self.residuals).max(-1) > 1e-12 * scale.max(-1))


def estimate_ratio(sums: Floats, weights: Floats) -> Ratio:
    """Return the ratio Σs/Σw with its jackknife error.

    Sums and weights are (..., G), at least two of positive weight. error² = (G-1)/G·Σ(r/(1-h))²/(Σw)² with r = s -
    w·estimate and h = w/Σw; for clusters of equal weight G/(G-1)·Σr²/(Σw)², statsmodels' cluster-robust one. Source:
    MacKinnon, Nielsen, Webb 2023, Journal of Econometrics 232:272 (CV3), which recommends it for few or uneven
    clusters. The skewness is Σr³'s, unbiased for normal data. Clusters are sorted by weight and sum, so that no number
    depends on the order in which they came.
    """
    count = sums.shape[-1]
    total = weights.sum(-1)
    estimate = sums.sum(-1) / total
    residuals = sums - estimate[..., None] * weights
    residuals, weights = _sort_residuals_by_weight(
        residuals, weights, np.where(_compute_skewness(residuals) < -1e-9, -1.0, 1.0)
    )
    left = residuals / (1 - weights / total[..., None])
    error = np.sqrt((count - 1) / count * (left**2).sum(-1)) / total
    unbiased = math.sqrt(count * (count - 1)) / (count - 2) if count > 2 else 0.0
    return Ratio(estimate, error, _compute_skewness(residuals) * unbiased / math.sqrt(count), residuals, weights)


def _compute_skewness(residuals: Floats) -> Floats:
    """Return the skewness (...) of residuals (..., G). 0 if none varies."""
    square = (residuals**2).mean(-1)
    known = square > 0
    return np.asarray(np.where(known, (residuals**3).mean(-1) / np.where(known, square, 1.0) ** 1.5, 0.0))


def _sort_residuals_by_weight(residuals: Floats, weights: Floats, sign: Floats) -> tuple[Floats, Floats]:
    """Sort residuals and weights (..., G) by weight, then by residual.

    Residuals are descending for data sets with a sign (...) of -1.
    """
    if (weights == weights.flat[0]).all():
        return sign[..., None] * np.sort(sign[..., None] * residuals, -1), weights
    order = np.lexsort(np.broadcast_arrays(sign[..., None] * residuals, weights))
    return np.take_along_axis(residuals, order, -1), np.take_along_axis(
        np.broadcast_to(weights, order.shape), order, -1
    )


def stretch_residuals(of: Ratio, variance: Floats) -> Ratio:
    """Stretch residuals to a given variance (...) of the estimate. It must be above 0."""
    factor = np.sqrt(variance) / np.where(of.error > 0, of.error, 1.0)
    return replace(of, error=np.sqrt(variance), residuals=of.residuals * factor[..., None])


def draw_resamples(draw: Callable[[int], Floats], p: Callable[[Floats], tuple[Floats, Floats]], alpha: float) -> Floats:
    """Draw batches of resamples (..., B) until the p-values are decided.

    `draw` makes the batch of a given number. Drawing ends once both p-values can be told from alpha, or have a standard
    error below MAX_P_ERROR.
    """
    drawn = [draw(0)]
    while (error := math.sqrt(alpha * (1 - alpha) / sum(d.shape[-1] for d in drawn))) > MAX_P_ERROR:
        if min(abs(float(x) - alpha) for x in p(np.concatenate(drawn, -1))) > DECIDED_ERRORS * error:
            break
        drawn.append(draw(len(drawn)))
    return np.concatenate(drawn, -1)


def skewed_t(of: Ratio, threshold: float) -> tuple[Floats, Floats]:
    """Return p_pass and p_fail of Σs/Σw against a number: Student's t after Hall's transformation.

    g = T + aT²/3 + a²T³/27 + a/6 with a = skewness/√G takes the first term of the skewness out of T, and
    rises with T. Source: Hall 1992, Journal of the Royal Statistical Society B 54:221. Assumes independent
    clusters with a finite third moment; what the rows did not show (a rare disaster) it cannot know.
    """
    t = (of.estimate - threshold) / np.where(of.error > 0, of.error, 1.0)
    g = t + of.skew * t**2 / 3 + of.skew**2 * t**3 / 27 + of.skew / 6
    return special.stdtr(of.clusters - 1, -g), special.stdtr(of.clusters - 1, g)


def skewed_bounds(of: Ratio, alpha: float) -> Bounds:
    """Return the one-sided bounds that invert `skewed_t`. They are at alpha each, of one data set."""
    critical = -float(special.stdtrit(of.clusters - 1, alpha))
    estimate, error, a = float(of.estimate), float(of.error), float(of.skew)

    def inverse(g: float) -> float:
        return g if abs(a) < 1e-9 else 3 / a * (math.cbrt(1 + a * (g - a / 6)) - 1)

    return Bounds(estimate - error * inverse(critical), estimate - error * inverse(-critical))


def guarded_t(
    of: Ratio, threshold: float, least: Any = GUARD_FLOOR, steep: Any = GUARD_SLOPE, *, alike: Any = None
) -> tuple[Floats, Floats]:
    """Return p_pass and p_fail of Σs/Σw, guarded against an unseen tail.

    The cluster that contradicts the claim most is counted κ times more, then Student's t with the error of `ratio` and
    Pan and Wall's 2002 degrees of freedom, Statistics in Medicine 21:1429. κ = least + steep·τ/√(n - GUARD_CLUSTERS),
    at most GUARD_CEILING, with n = `effective_clusters` and τ ≥ 0 the L-skewness of r/√w towards the bad side (Hosking
    1990, Journal of the Royal Statistical Society B 52:105), which one large row does not rule as it does a skewness.
    With `alike` a cluster is taken to be at least as large as that of a random row, Σw²/Σw, so that a small cluster's
    loss may happen to a large one: wholly where rows of a cluster are alike (1), by as much less as means of more rows
    vary less where their correlation is below 1. The constants are chosen by simulation,
    docs/explanation/statistics.md; we know no publication of it.
    """
    p = []
    for sign in (1, -1):
        estimate, error, df = _estimate_with_worst_repeated(of, sign, least, steep, alike)
        p.append(special.stdtr(df, -sign * (estimate - threshold) / np.where(error > 0, error, 1.0)))
    return p[0], p[1]


def guarded_bounds(
    of: Ratio, alpha: float, least: Any = GUARD_FLOOR, steep: Any = GUARD_SLOPE, *, alike: Any = None
) -> Bounds:
    """Return the one-sided bounds that invert `guarded_t`. They are at alpha each, of one data set."""
    (low, below, df_low), (high, above, df_high) = (
        _estimate_with_worst_repeated(of, sign, least, steep, alike) for sign in (1, -1)
    )
    return Bounds(
        float(low + below * special.stdtrit(df_low, alpha)), float(high - above * special.stdtrit(df_high, alpha))
    )


def _estimate_with_worst_repeated(
    of: Ratio, sign: int, least: Any, steep: Any, alike: Any
) -> tuple[Floats, Floats, Floats]:
    """Return estimate, error and degrees of freedom for `guarded_t`.

    The cluster that is worst for `sign` is counted κ times more.
    """
    r, w, total = of.residuals, np.broadcast_to(of.weights, of.residuals.shape), of.weights.sum(-1, keepdims=True)
    tail = np.clip(l_skewness(-sign * r / np.sqrt(w)), 0.0, 1.0)
    more = np.minimum(
        least + steep * tail / np.sqrt(np.maximum(effective_clusters(w) - GUARD_CLUSTERS, 2.0)), GUARD_CEILING
    )[..., None]
    sizes, moved = w, r
    if alike is not None:
        sizes, q = np.maximum(w, (w**2).sum(-1, keepdims=True) / total), np.asarray(alike)[..., None]
        moved = r / w * sizes * np.sqrt((q + (1 - q) / sizes) / (q + (1 - q) / w))
    worst = np.argmin(sign * moved, -1, keepdims=True)
    r_worst, w_worst = np.take_along_axis(moved, worst, -1), np.take_along_axis(sizes, worst, -1)
    whole = total + more * w_worst
    shift = more * r_worst / whole
    square = ((r - shift * w) / (1 - w / whole)) ** 2
    again = ((r_worst - shift * w_worst) / (1 - w_worst / whole)) ** 2
    count = of.clusters + more
    variance = square.sum(-1, keepdims=True) + more * again
    error = np.sqrt((count - 1) / count * variance) / whole
    spread = ((square - variance / count) ** 2).sum(-1, keepdims=True) + more * (again - variance / count) ** 2
    df = np.minimum(_compute_degrees_of_freedom(variance, spread, count), count - 1)
    return of.estimate + shift[..., 0], error[..., 0], df[..., 0]


def pan_wall(of: Ratio) -> Floats:
    """Return Pan and Wall's degrees of freedom of the error.

    2·E(V)²/Var(V) of V = Σa², a the jackknife's residuals, at most G - 1: few where few clusters hold all the
    variation. Source: Pan, Wall 2002, Statistics in Medicine 21:1429.
    """
    square = (of.residuals / (1 - of.weights / of.weights.sum(-1, keepdims=True))) ** 2
    spread = ((square - square.mean(-1, keepdims=True)) ** 2).sum(-1)
    return np.clip(_compute_degrees_of_freedom(square.sum(-1), spread, np.float64(of.clusters)), 1e-3, of.clusters - 1)


def _compute_degrees_of_freedom(variance: Floats, spread: Floats, count: Any) -> Floats:
    flat = spread <= 1e-12 * variance**2
    return np.asarray(np.where(flat, count - 1, 2 * variance**2 / np.where(flat, 1.0, spread * count / (count - 1))))


def bound_correlation(of: Ratio, variance: Floats) -> Floats:
    """Return an upper bound (...) of the intra-cluster correlation.

    It is two standard errors above the estimate, for rows with a variance (...) and weight 1: Σr² is variance·((1 -
    ρ)Σw + ρΣw²) on average.
    """
    w, square = np.broadcast_to(of.weights, of.residuals.shape), of.residuals**2 / np.maximum(variance, 1e-9)[..., None]
    more = np.maximum((w * (w - 1)).sum(-1), 1e-9)
    found = np.clip((square - w).sum(-1) / more, 0.0, 1.0)
    apart = square - w - found[..., None] * w * (w - 1)
    return np.asarray(np.clip((square - w).sum(-1) / more + 2 * np.sqrt((apart**2).sum(-1)) / more, 0.0, 1.0))


def effective_clusters(weights: Floats) -> Floats:
    """Return how many clusters of equal weight would say as much: (Σw)²/Σw² (Kish 1965, Survey Sampling, 11.7)."""
    return np.asarray(weights.sum(-1) ** 2 / (weights**2).sum(-1))


def are_uneven(weights: Floats) -> Bools:
    """Return whether few clusters dominate the mean and its error.

    That is where the effective number of clusters is below MIN_EVENNESS of their number.
    """
    return np.asarray(effective_clusters(weights) < MIN_EVENNESS * weights.shape[-1])


def has_few_drawn_sizes(counted_as: float | None) -> bool:
    """Return whether the effective number of uneven clusters is too small.

    Below MIN_EFFECTIVE_CLUSTERS they keep no level of 6 % where sizes are drawn, too: 7.1 % at 30 clusters of
    lognormal(0.8) size that lose in proportion to it (bench/dependence_rates.py).
    """
    return counted_as is not None and counted_as < MIN_EFFECTIVE_CLUSTERS


def l_skewness(x: Floats) -> Floats:
    """Return the sample L-skewness (...) of x (..., n).

    It is from -1 to 1 (0: symmetric, 1/3: exponential), and 1 for fewer than three values. Source: Hosking 1990,
    Journal of the Royal Statistical Society B 52:105, unbiased probability-weighted moments.
    """
    n = x.shape[-1]
    if n < 3:
        return np.ones(x.shape[:-1])
    x, rank = np.sort(x, -1), np.arange(n)
    b0, b1 = x.mean(-1), (x * rank).mean(-1) / (n - 1)
    b2 = (x * (rank * (rank - 1))).mean(-1) / ((n - 1) * (n - 2))
    scale = 2 * b1 - b0
    return np.asarray((6 * b2 - 6 * b1 + b0) / np.where(scale > 0, scale, 1.0))


def share_t(of: Ratio, threshold: float, low: float = 0.0) -> tuple[Floats, Floats]:
    """Return p_pass and p_fail of a share of clustered 0/1 rows.

    The share and its threshold are counted from `low`, -1 for a share less 1. Wilson's score on the rows that would
    have the same error if they were independent, n* = p(1 - p)/error², with Student's t(G - 1) for the normal quantile.
    n* is Korn and Graubard's 1998, Survey Methodology 24:193; Wilson's score on it Franco, Little, Louis, Slud 2019,
    Journal of Survey Statistics and Methodology 7:334.
    """
    p0, (p, n) = threshold - low, _compute_effective_share_rows(of, low)
    spread = math.sqrt(max(p0 * (1 - p0), 0.0))
    with np.errstate(divide="ignore"):
        z = (p - p0) * np.sqrt(n) / spread if spread else np.copysign(np.inf, p - p0)
    return special.stdtr(of.clusters - 1, -z), special.stdtr(of.clusters - 1, z)


def share_bounds(of: Ratio, alpha: float, low: float = 0.0) -> Bounds:
    """Return the one-sided bounds that invert `share_t`. They are at alpha each, of one data set."""
    p, n = (float(x) for x in _compute_effective_share_rows(of, low))
    square = float(special.stdtrit(of.clusters - 1, alpha)) ** 2 / n
    centre, reach = p + square / 2, math.sqrt(square * (p * (1 - p) + square / 4))
    return Bounds(low + (centre - reach) / (1 + square), low + (centre + reach) / (1 + square))


def _compute_effective_share_rows(of: Ratio, low: float) -> tuple[Floats, Floats]:
    """Return the share, and how many independent rows have the same error."""
    p = of.estimate - low
    return p, p * (1 - p) / np.where(of.error > 0, of.error, 1.0) ** 2


def pairs_t(of: Ratio, threshold: float, discordance: Any) -> tuple[Floats, Floats]:
    """Return p_pass and p_fail of a clustered difference of paired shares.

    Tango's score on the effective rows: as many as would have the same error if they were independent, (discordance -
    difference²)/error². Student's t with `pan_wall`'s degrees of freedom replaces the normal distribution, since few
    clusters hold all rows that differ; `share_t`'s idea, for which we know no publication.
    """
    z, df = score_statistics(*_compute_effective_pair_counts(of, discordance), threshold), pan_wall(of)
    return special.stdtr(df, -z), special.stdtr(df, z)


def score_statistics(wins: Floats, losses: Floats, n: Any, d0: float) -> Floats:
    """Return `tango.score_statistic` of many tables at once."""
    linear = -wins - losses + (2 * n - wins + losses) * d0
    constant = -losses * d0 * (1 - d0)
    q = (np.sqrt(np.maximum(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * np.maximum(q, max(-d0, 0.0)) + d0 * (1 - d0))
    distance = wins - losses - n * d0
    known = variance > 1e-12
    z = distance / np.sqrt(np.where(known, variance, 1.0))
    return np.asarray(np.where(known, z, np.where(np.abs(distance) > 1e-9, np.copysign(np.inf, distance), 0.0)))


def pairs_bounds(of: Ratio, alpha: float, discordance: float) -> Bounds:
    """Return the one-sided bounds that invert `pairs_t`. They are at alpha each, of one data set."""
    wins, losses, n = (float(x) for x in _compute_effective_pair_counts(of, discordance))
    reach = -float(special.stdtrit(pan_wall(of), alpha))
    return Bounds(tango.invert_statistic(wins, losses, n, reach), tango.invert_statistic(wins, losses, n, -reach))


def _compute_effective_pair_counts(of: Ratio, discordance: Any) -> tuple[Floats, Floats, Floats]:
    """Return effective numbers of wins, losses and rows.

    That many independent rows have the same difference and error.
    """
    variance = np.maximum(discordance - of.estimate**2, 1e-12)
    n = variance / np.where(of.error > 0, of.error, 1.0) ** 2
    return n * (discordance + of.estimate) / 2, n * (discordance - of.estimate) / 2, n


def bootstrap_t(of: Ratio, batch: int = 0) -> Floats:
    """Return studentised deviations of resampled clusters from the estimate.

    A batch is (..., RESAMPLES), with one more in all but the first. This is the reference distribution of (estimate -
    truth)/error that the clusters themselves suggest; second-order correct for skewness. Infinite where all drawn
    clusters agree but not on the estimate, NaN where nothing can be said. Source: Efron, Tibshirani 1993, An
    Introduction to the Bootstrap, 12.5; for clusters Cameron, Gelbach, Miller 2008, Review of Economics and Statistics
    90:414.
    """
    count = of.clusters
    drawn = _draw_cached_cluster_counts(count) if not batch else _draw_cluster_counts_of_batch(count, batch)
    r, w = of.residuals, of.weights
    one = float(w.flat[0])
    alike = one.is_integer() and bool((w == one).all())  # sums of whole numbers are exact in any order
    total, weights = (one * count, one**2 * count) if alike else (w @ drawn, (w**2) @ drawn)
    sums, square = r @ drawn, (r**2) @ drawn
    least = 1e-11 * (r**2).sum(-1)[..., None]
    shift = sums / total
    part = 2 * shift
    part *= sums if alike and one == 1 else (r * w) @ drawn
    square -= part
    np.square(shift, out=part)
    part *= weights
    square += part
    np.multiply(np.abs(shift, out=part), total, out=part)
    shift[part <= np.sqrt(least)] = 0.0
    square[square <= least] = 0.0
    square *= count
    square /= count - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        np.sqrt(square, out=square)
        square /= total
        shift /= square
    return np.asarray(shift)


def bootstrap_p(of: Ratio, drawn: Floats, threshold: float) -> tuple[Floats, Floats]:
    """Return p_pass and p_fail from `drawn` deviations. Ties and NaN count against both."""
    t = ((of.estimate - threshold) / np.where(of.error > 0, of.error, 1.0))[..., None]
    size = drawn.shape[-1] + 1
    return (1 + (~(drawn < t)).sum(-1)) / size, (1 + (~(drawn > t)).sum(-1)) / size


def bootstrap_bounds(of: Ratio, drawn: Floats, alpha: float) -> Bounds:
    """Return the one-sided bounds that invert `bootstrap_p`. They are at alpha each, of one data set."""
    allowed = math.floor(alpha * (len(drawn) + 1) + 1e-9) - 1
    if allowed < 0:
        return Bounds(-math.inf, math.inf)
    highest = np.sort(np.where(np.isnan(drawn), math.inf, drawn))[::-1][allowed]
    lowest = np.sort(np.where(np.isnan(drawn), -math.inf, drawn))[allowed]
    estimate, error = float(of.estimate), float(of.error)
    return Bounds(estimate - error * float(highest), estimate - error * float(lowest))


def worst_rows(of: Ratio, support: tuple[float, float], batch: int = 0) -> Floats:
    """Return a batch of resampled means that include a worst cluster.

    It is (2, ..., RESAMPLES), with one more in all but the first batch: for either side of a mean of clusters, or of
    independent rows, in a known range. The Bayesian bootstrap (Rubin 1981, Annals of Statistics 9:130) with one more
    cluster, the worst possible, as large as the largest. For 0/1 rows it is Clopper and Pearson's test, and where no
    cluster varies nearly `rule_of_three.unseen_p`. That it is never wrong more than alpha of the time is Gaffke's
    conjecture of w·(v - threshold), unproven but without a counterexample: Learned-Miller, Thomas 2019,
    arXiv:1905.06208. Where disasters are rare it proves more than `skewed_t` can.
    """
    drawn = worst_row_draws(of.clusters, batch)
    worst = of.weights.max(-1)[..., None] * drawn[0]
    sums, weight = (of.residuals + of.estimate[..., None] * of.weights) @ drawn[1:], of.weights @ drawn[1:]
    weight += worst
    low, high = support[0] * worst, support[1] * worst
    for side in (low, high):
        side += sums
        side /= weight
    return np.stack([low, high])


def worst_mean_p(means: Floats, threshold: Any) -> tuple[Floats, Floats]:
    """Return p_pass and p_fail from the means of `worst_rows`. `threshold` is one number, or one a data set (...)."""
    (low, high), size, limit = means, means.shape[-1] + 1, np.asarray(threshold)[..., None]
    return (1 + (low <= limit).sum(-1)) / size, (1 + (high >= limit).sum(-1)) / size


def worst_mean_bounds(means: Floats, alpha: float, support: tuple[float, float]) -> Bounds:
    """Return the one-sided bounds that invert `worst_mean_p`. They are at alpha each, of one data set."""
    low, high = means
    allowed = math.floor(alpha * (low.shape[-1] + 1) + 1e-9) - 1
    return (
        Bounds(*support) if allowed < 0 else Bounds(float(np.sort(low)[allowed]), float(np.sort(high)[::-1][allowed]))
    )


@lru_cache(maxsize=4)
def worst_row_draws(count: int, batch: int = 0) -> Floats:
    """Draw weights of the worst cluster and of `count` others.

    They are (count + 1, RESAMPLES), with one more in all but the first batch, and uniform on those that sum to 1.
    """
    drawn = np.random.default_rng(_make_seed(count, 1, batch)).exponential(size=(count + 1, RESAMPLES + bool(batch)))
    weights: Floats = drawn / drawn.sum(0)
    weights.setflags(write=False)
    return weights


@lru_cache(maxsize=4)
def _draw_cached_cluster_counts(count: int) -> Floats:
    """Return how often each of `count` clusters is drawn, (count, RESAMPLES)."""
    drawn = _draw_cluster_counts_of_batch(count, 0)
    drawn.setflags(write=False)
    return drawn


def _draw_cluster_counts_of_batch(count: int, batch: int) -> Floats:
    """Return a batch of `_draw_cached_cluster_counts`.

    All batches but the first have one more resample: so many and one, a p-value's denominator, are round.
    """
    rng = np.random.default_rng(_make_seed(count, 2, batch))
    drawn: Floats = rng.multinomial(count, [1 / count] * count, size=RESAMPLES + bool(batch)).T.astype(np.float64)
    return drawn


def _make_seed(count: int, use: int, batch: int) -> list[int]:
    return [SEED, count, use, *([batch] if batch else [])]
