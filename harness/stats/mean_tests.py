"""Which tests must agree on a mean of clusters: of one data set, as in a gate, or of many, as in a simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from harness.stats import ratio, rule_of_three
from harness.stats.arrays import Floats, np, optimize
from harness.stats.ratio import Ratio
from harness.stats.rule_of_three import Support

Kind = Literal["share", "pairs", "score", "ratio"]
P = tuple[Floats, Floats]
# times alpha: the share of resamples without a cluster that varies, above which they say nothing
MAX_SILENT_SHARE = 0.8
# of the grid of means in `unseen_rows_test`: standard errors beyond the estimate, and points
GRID_ERRORS, GRID_POINTS = 3.0, 16
AGAIN, MOST_AGAIN = 0.003, 0.5  # of its p-value a row more, at most, for rows that showed a disaster; by simulation
RESAMPLED_CLUSTERS = 500  # above this the bootstrap adds nothing to the closed form


@dataclass(frozen=True)
class MeanTest:
    """A test: p_pass and p_fail of every data set against a number, and the bounds of one data set at a level."""

    p: Callable[[float], P]
    bounds: Callable[[float], tuple[float, float]]


def select_tests(
    of: Ratio, kind: Kind, alpha: float, *, discordance: Any = None, support: Support | None = None,
    near: float | None = None,
) -> list[MeanTest]:  # fmt: skip
    """Return the tests that must agree on a mean.

    The weakest one counts. Of one data set there are more resamples where its p-value against `near` is close to alpha.

    `kind` describes the rows: in clusters and in a `support` one wide ("share"), differences of 0/1 rows in clusters
    ("pairs", with the `discordance` of every data set), in any other `support` ("score"), or any others ("ratio").
    """
    if kind == "ratio" or support is None:
        return [_make_guarded_t(of, ratio.GUARD_FLOOR, ratio.GUARD_SLOPE)]
    if kind == "share":
        low = support[0]
        first = MeanTest(lambda t: ratio.share_t(of, t, low), lambda a: ratio.share_bounds(of, a, low))
    elif kind == "pairs":
        first = MeanTest(lambda t: ratio.pairs_t(of, t, discordance), lambda a: ratio.pairs_bounds(of, a, discordance))
    else:
        first = MeanTest(partial(ratio.skewed_t, of), partial(ratio.skewed_bounds, of))
    variance = discordance - of.estimate**2 if kind == "pairs" else None
    return [first, *_choose_second_tests(of, alpha, support, near, variance)]


def unseen_rows_test(of: Ratio, support: Support) -> MeanTest:
    """Return a test that allows for a disaster no row showed.

    The rows are independent, and the disaster may be in the population. If a share of the worst possible value brings
    the mean down from m to the threshold, rows without it come with a chance `unseen_chance`, and with so high a mean
    with the p-value of `skewed_t` against m. The p-value is the largest product over m, with AGAIN for rows that did
    show a disaster and pass; it is at most that of the estimate as m.
    """

    def p(threshold: float) -> P:
        least = rule_of_three.unseen_p(of.estimate, of.weights, threshold, support)
        return np.minimum(least[0], most(threshold, 1)), np.minimum(least[1], most(threshold, -1))

    again = min(AGAIN * of.clusters, MOST_AGAIN)
    shares = np.linspace(0, 1, GRID_POINTS).reshape(-1, *(1,) * of.estimate.ndim)  # (M, 1, ...)
    chunks = 1 + GRID_POINTS * of.estimate.size * of.clusters // rule_of_three.CHUNK_VALUES

    def most(threshold: float, sign: int) -> Floats:
        end, side = support[sign < 0], int(sign < 0)
        far = sign * np.maximum(sign * (of.estimate + sign * GRID_ERRORS * of.error - threshold), 0.0)
        found = np.zeros(of.estimate.shape)
        for some in np.array_split(shares, min(chunks, GRID_POINTS)):
            mean = np.clip(threshold + some * far, *support)  # (M, ...)
            with np.errstate(all="ignore"):  # where there is nothing to lose NaN is as all of it
                chance = rule_of_three.unseen_chance(of.weights, 0.0, (mean - threshold) / (mean - end))
            product = chance * ratio.skewed_t(of, mean)[side] * (1 + again * (1 - chance))
            found = np.maximum(found, product.max(0))
        return found

    def bound(alpha: float, sign: int) -> float:
        end, estimate = support[sign < 0], float(of.estimate)

        def above(threshold: float) -> float:
            least = rule_of_three.unseen_p(of.estimate, of.weights, threshold, support)[int(sign < 0)]
            return float(np.minimum(least, most(threshold, sign))) - alpha

        if above(end) > 0 or above(estimate) <= 0:
            return end if above(end) > 0 else estimate
        return float(optimize.brentq(above, end, estimate, xtol=1e-12))

    return MeanTest(p, lambda alpha: (bound(alpha, 1), bound(alpha, -1)))


def has_worst_row(of: Ratio, alpha: float, *, independent: bool) -> bool:
    """Return whether `worst_row_test` may prove more than the others.

    It may for independent rows and for clusters of unequal sizes, up to RESAMPLED_CLUSTERS of them; for the latter
    alpha must be at least `ratio.MIN_RESAMPLED_LEVEL`.
    """
    if of.clusters > RESAMPLED_CLUSTERS:
        return False
    return independent or (alpha >= ratio.MIN_RESAMPLED_LEVEL and bool((of.weights.max(-1) > of.weights.min(-1)).any()))


def worst_row_test(of: Ratio, support: Support, alpha: float, near: float | None = None) -> MeanTest:
    """Return a Bayesian bootstrap test with a worst cluster.

    For clusters of unequal sizes it is no surer than `rule_of_three.unseen_p`.
    """
    median, unequal = _compute_median_cluster_mean(of)[0], np.asarray(of.weights.max(-1) > of.weights.min(-1))
    draw, p_of = partial(ratio.worst_rows, of, support), ratio.worst_mean_p
    drawn = draw() if near is None else ratio.draw_resamples(draw, partial(p_of, threshold=near), alpha)

    def p(threshold: float) -> P:
        found, least = p_of(drawn, threshold), rule_of_three.unseen_p(median, of.weights, threshold, support)
        up, down = (np.where(unequal, np.maximum(one, two), one) for one, two in zip(found, least, strict=True))
        return up, down

    def bounds(alpha: float) -> tuple[float, float]:
        found = ratio.worst_mean_bounds(drawn, alpha, support)
        if not unequal:
            return found
        least = rule_of_three.unseen_bounds(float(median), of.weights, alpha, support)
        return min(found[0], least[0]), max(found[1], least[1])

    return MeanTest(p, bounds)


def _compute_median_cluster_mean(of: Ratio) -> tuple[Floats, Floats]:
    """Return the median cluster mean, (...), and all cluster means, (..., G)."""
    value = of.estimate[..., None] + of.residuals / of.weights
    return np.asarray(np.median(value, -1)), np.asarray(value)


def _make_guarded_t(of: Ratio, least: Any, steep: Any, *, alike: Any = None) -> MeanTest:
    given: dict[str, Any] = {"least": least, "steep": steep, "alike": alike}
    return MeanTest(lambda t: ratio.guarded_t(of, t, **given), lambda a: ratio.guarded_bounds(of, a, **given))


def _choose_second_tests(
    of: Ratio, alpha: float, support: Support, near: float | None, variance: Floats | None
) -> list[MeanTest]:
    """Return the tests that must agree: whole clusters resampled, or a guarded t where these say nothing.

    They do not where clusters are very uneven, where alpha is small, and where so few vary, or such small ones, that
    many resamples hold none of these; then nothing is proven that what was not seen would not allow. Clusters of other
    sizes are guarded beside their resamples, the more the more uneven they are, and the more their size tells of their
    mean: sizes are drawn as well, and the worst that was seen may happen to one as large as that of a random row. Where
    the `variance` of rows is known, the guard is the weaker the less alike the rows of a cluster are.
    """
    rough = np.broadcast_to(1 - ratio.effective_clusters(of.weights) / of.clusters, of.estimate.shape)
    unequal, uneven = rough > 1e-12, rough > 1 - ratio.MIN_EVENNESS
    # a resample holds none of k of G clusters with a chance of (1 - k/G)^G; by weight as many vary as would be as large
    # as the cluster of a random row
    median, value = _compute_median_cluster_mean(of)
    varies = np.abs(value - median[..., None]) > 1e-12 * np.maximum(np.abs(value), 1.0)
    share = varies.mean(-1)
    weight = (varies * of.weights).sum(-1) * of.weights.sum(-1) / (of.weights**2).sum(-1)
    by_number = of.clusters * np.log1p(-np.minimum(share, 1 - 1e-15))
    scarce = np.maximum(by_number, np.where(share < 1, -weight, -np.inf)) > np.log(MAX_SILENT_SHARE * alpha)
    mute = uneven | scarce | (alpha < ratio.MIN_RESAMPLED_LEVEL)
    strength = np.where(mute, 1.0, np.minimum((2 * rough) ** ratio.GUARD_EXPONENT, 1.0))
    alike = np.ones(of.estimate.shape)
    if variance is not None:
        alike = np.where(rough > 1 - ratio.MIN_MIXED_EVENNESS, 1.0, ratio.bound_correlation(of, np.asarray(variance)))
        strength = np.where(uneven, alike * strength, strength)
    told = np.abs(_correlate_sizes(of.weights, value)) - 1 / np.sqrt(of.clusters)
    strength = np.maximum(strength, np.clip(ratio.SIZE_GUARD_SLOPE * told, 0.0, ratio.SIZE_GUARD_CEILING))
    least = np.where(uneven, ratio.UNEVEN_GUARD_FLOOR, ratio.FEW_GUARD_FLOOR)
    guarded = _make_guarded_t(of, least * strength, ratio.GUARD_SLOPE * strength, alike=alike)
    found = [
        _restrict_test_to_data_sets(mute | unequal, guarded),
        _restrict_test_to_data_sets(scarce, _make_unseen_loss_test(of, support)),
    ]
    if of.clusters <= RESAMPLED_CLUSTERS and alpha >= ratio.MIN_RESAMPLED_LEVEL and not mute.all():
        draw, p_of = partial(ratio.bootstrap_t, of), partial(ratio.bootstrap_p, of)
        drawn = draw() if near is None else ratio.draw_resamples(draw, partial(p_of, threshold=near), alpha)
        resampled = MeanTest(partial(ratio.bootstrap_p, of, drawn), partial(ratio.bootstrap_bounds, of, drawn))
        found.append(_restrict_test_to_data_sets(~mute, resampled))
    return [test for test in found if test]


def _correlate_sizes(weights: Floats, value: Floats) -> Floats:
    """Return the correlation (...) of cluster sizes and means. 0 if either does not vary."""
    x, y = weights - weights.mean(-1, keepdims=True), value - value.mean(-1, keepdims=True)
    scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.asarray((x * y).sum(-1) / np.where(scale > 0, scale, 1.0))


def _restrict_test_to_data_sets(some: Any, test: MeanTest) -> MeanTest | None:
    """Restrict a test to some data sets. The others get p-values of 0; None if there are none."""

    def p(threshold: float) -> P:
        up, down = test.p(threshold)
        return np.where(some, up, 0.0), np.where(some, down, 0.0)

    return test if some.all() else MeanTest(p, test.bounds) if some.any() else None


def _make_unseen_loss_test(of: Ratio, support: Support) -> MeanTest:
    """Return a test that allows for a disaster no cluster showed.

    It rests on the clusters that agree with the median one. For clusters of unequal sizes the observed losses count,
    too, and nothing else is assumed.
    """
    median, value = (
        np.clip(x, *support) for x in _compute_median_cluster_mean(of)
    )  # of stretched ones some are beyond it
    unequal = np.ptp(of.weights, -1) > 0
    share = of.weights / of.weights.sum(-1, keepdims=True)
    with np.errstate(all="ignore"):
        below, above = (
            np.where(unequal, (share * np.maximum(away, 0.0)).sum(-1) / np.abs(end - median), 0.0)
            for away, end in ((median[..., None] - value, support[0]), (value - median[..., None], support[1]))
        )

    def bounds(alpha: float) -> tuple[float, float]:
        return rule_of_three.unseen_bounds(float(median), of.weights, alpha, support, (float(below), float(above)))

    return MeanTest(lambda t: rule_of_three.unseen_p(median, of.weights, t, support, (below, above)), bounds)


def make_p_function(
    of: Ratio,
    kind: Kind,
    alpha: float,
    *,
    discordance: Floats | None = None,
    independent: bool = False,
    support: Support = (0.0, 1.0),
) -> Callable[[float], P]:
    """Return a function for p_pass and p_fail of every data set.

    It takes a threshold, and tests as `cluster_t` does for one data set. `independent` clusters are rows, see
    `cluster_t`.
    """
    known = None if kind == "ratio" else (-1.0, 1.0) if kind == "pairs" else support
    tests, varies = select_tests(of, kind, alpha, discordance=discordance, support=known), of.varies()

    def p(threshold: float) -> P:
        parts, alike = (
            [test.p(threshold) for test in tests],
            rule_of_three.unseen_p(of.estimate, of.weights, threshold, known),
        )
        if independent:
            parts.append(unseen_rows_test(of, known).p(threshold) if known else alike)
        found = [np.maximum.reduce([part[i] for part in parts]) for i in (0, 1)]
        if known and has_worst_row(of, alpha, independent=independent):
            some = independent | (of.weights.max(-1) > of.weights.min(-1))
            worst = worst_row_test(of, known, alpha).p(threshold)
            found = [np.where(some, np.minimum(part, other), part) for part, other in zip(found, worst, strict=True)]
        return np.where(varies, found[0], alike[0]), np.where(varies, found[1], alike[1])

    return p
