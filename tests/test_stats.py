"""The statistics, held against independent references: statsmodels, published examples, enumeration, simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom, norm
from statsmodels.api import OLS, WLS
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.proportion import binom_test, proportion_confint

from harness import stats
from harness.stats import Test

ALPHA = 0.05


def passes(test: Test) -> bool:
    return test.p_pass <= ALPHA


def fails(test: Test) -> bool:
    return test.p_fail <= ALPHA


# ------------------------------------------------------------------ one share


@pytest.mark.parametrize(("successes", "n", "threshold"), [(0, 10, 0.2), (7, 10, 0.5), (83, 100, 0.8), (50, 50, 0.95)])
def test_binomial_is_statsmodels_exact_test(successes: int, n: int, threshold: float) -> None:
    """A share against a number is the exact binomial test, with Clopper and Pearson's bounds."""
    test = stats.binomial(successes, n, threshold, ALPHA)
    low, high = proportion_confint(successes, n, 2 * ALPHA, "beta")
    assert test.p_pass == pytest.approx(binom_test(successes, n, threshold, "larger"))
    assert test.p_fail == pytest.approx(binom_test(successes, n, threshold, "smaller"))
    # at 0 and n the two-sided interval of statsmodels is one-sided already, as ours are
    assert test.lower == pytest.approx(low)
    assert test.upper == pytest.approx(high)
    assert (test.lower > threshold) == passes(test)


def test_a_perfect_score_does_not_prove_perfection() -> None:
    """50 of 50 proves more than 0.94, not 0.95, and never 1.0."""
    assert passes(stats.binomial(50, 50, 0.94, ALPHA))
    assert not passes(stats.binomial(50, 50, 0.95, ALPHA))
    perfect = stats.binomial(50, 50, 1.0, ALPHA)
    assert (perfect.p_pass, perfect.p_fail) == (1.0, 1.0)
    assert fails(stats.binomial(49, 50, 1.0, ALPHA))


def test_wilson_is_statsmodels() -> None:
    """The interval for display is Wilson's."""
    for successes, n in [(0, 12), (5, 12), (12, 12), (830, 1000)]:
        low, high = proportion_confint(successes, n, 2 * ALPHA, "wilson")
        assert stats.wilson(successes, n, ALPHA) == pytest.approx((low, high), abs=1e-12)


# ------------------------------------------------------------------ two paired shares


@pytest.mark.parametrize(("wins", "losses", "n"), [(6, 16, 161), (12, 2, 50), (5, 0, 20), (9, 9, 40)])
def test_mcnemar_is_statsmodels_exact_test(wins: int, losses: int, n: int) -> None:
    """At margin 0 the smaller of the two p-values is half of the exact two-sided one."""
    test = stats.mcnemar(wins, losses, n, ALPHA)
    both = n - wins - losses
    two_sided = reference_mcnemar([[both, wins], [losses, 0]], exact=True).pvalue
    assert min(1.0, 2 * min(test.p_pass, test.p_fail)) == pytest.approx(two_sided)
    assert test.p_pass == pytest.approx(binom.sf(wins - 1, wins + losses, 0.5))


def test_mcnemar_bounds_agree_with_its_verdict() -> None:
    """A bound is on the right side of 0 exactly when the exact test says so."""
    for wins in range(0, 14):
        for losses in range(0, 14):
            test = stats.mcnemar(wins, losses, 40, ALPHA)
            assert (test.lower > 0) == passes(test)
            assert (test.upper < 0) == fails(test)


@pytest.mark.parametrize(
    ("wins", "losses", "n", "alpha", "low", "high"),
    [
        (6, 16, 161, 0.025, -0.1240, -0.0054),  # Cavo 2012 in Fagerland, Lydersen, Laake: Categorical data, ch. 8
        (1, 7, 21, 0.025, -0.517, -0.026),  # Bentur 2009, the same chapter
        (28, 25, 618, 0.05, -0.0148, 0.0247),  # R, PropCIs::scoreci.mp(25, 28, 618, 0.90)
    ],
)
def test_tango_gives_the_published_intervals(
    wins: int, losses: int, n: int, alpha: float, low: float, high: float
) -> None:
    """Inverting the score test gives the intervals in the literature."""
    test = stats.tango(wins, losses, n, 0.02, alpha)
    assert test.lower == pytest.approx(low, abs=5.1e-4 if n == 21 else 5.1e-5)
    assert test.upper == pytest.approx(high, abs=5.1e-4 if n == 21 else 5.1e-5)


def score_by_optimisation(wins: int, losses: int, n: int, d0: float) -> float:
    """The score statistic from its definition: maximise the multinomial likelihood under H0 numerically."""

    def nll(q: float) -> float:
        cells = (q + d0, q, 1 - 2 * q - d0)
        counts = (wins, losses, n - wins - losses)
        return -sum(k * math.log(max(p, 1e-300)) for k, p in zip(counts, cells, strict=True) if k)

    bounds = (max(0.0, -d0), (1 - d0) / 2)
    q = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return (wins - losses - n * d0) / math.sqrt(n * (2 * q + d0 - d0 * d0))


@pytest.mark.parametrize(("wins", "losses", "n"), [(6, 16, 161), (1, 7, 21), (0, 3, 50), (4, 0, 50), (30, 28, 400)])
@pytest.mark.parametrize("margin", [-0.03, 0.01, 0.05, 0.2])
def test_tango_is_the_score_test_of_the_constrained_likelihood(wins: int, losses: int, n: int, margin: float) -> None:
    """The closed form agrees with maximising the likelihood under the hypothesis by brute force."""
    z = score_by_optimisation(wins, losses, n, -margin)
    test = stats.tango(wins, losses, n, margin, ALPHA)
    assert test.p_pass == pytest.approx(norm.sf(z), rel=1e-4)
    assert test.p_fail == pytest.approx(norm.cdf(z), rel=1e-4)


def test_tango_bounds_agree_with_its_verdict() -> None:
    """The lower bound is above -margin exactly when the test passes, for every table of 24 rows."""
    for wins in range(25):
        for losses in range(25 - wins):
            test = stats.tango(wins, losses, 24, 0.1, ALPHA)
            assert -1 <= test.lower <= test.estimate <= test.upper <= 1
            assert (test.lower > -0.1) == passes(test)
            assert (test.upper < -0.1) == fails(test)


def test_two_models_that_never_differ_on_50_rows_prove_little() -> None:
    """No discordant pair at n = 50 and a margin of 2 points is z = 1.01: inconclusive; at n = 200 it is proven."""
    test = stats.tango(0, 0, 50, 0.02, ALPHA)
    assert norm.isf(test.p_pass) == pytest.approx(1.01, abs=0.005)
    assert not passes(test)
    assert not fails(test)
    assert test.lower < -0.02 < 0 < test.upper
    assert passes(stats.tango(0, 0, 200, 0.02, ALPHA))
    assert stats.tango(0, 0, 50, 0.0, ALPHA).p_pass == 0.5
    assert (stats.mcnemar(0, 0, 50, ALPHA).p_pass, stats.mcnemar(0, 0, 50, ALPHA).p_fail) == (1.0, 1.0)


def false_pass_rate(n: int, discordance: float, margin: float) -> float:
    """P(pass) at the boundary, difference = -margin, summed over all tables that matter."""
    rate = 0.0
    for changed in range(n + 1):
        p = binom.pmf(changed, n, discordance)
        if p < 1e-9:
            continue
        wins = np.arange(changed + 1)
        chance = binom.pmf(wins, changed, (discordance - margin) / 2 / discordance)
        z = [stats._tango_z(int(b), changed - int(b), n, -margin) for b in wins]
        rate += p * chance[norm.sf(z) <= ALPHA].sum()
    return float(rate)


def test_tango_lets_a_model_at_the_boundary_pass_as_often_as_it_may() -> None:
    """Exact false-pass rates, by enumeration of every table, are under 1.2 alpha, and not far below alpha."""
    assert false_pass_rate(50, 0.10, 0.05) == pytest.approx(0.0341, abs=0.0001)
    assert false_pass_rate(50, 0.10, 0.02) == pytest.approx(0.0549, abs=0.0001)
    assert false_pass_rate(200, 0.10, 0.05) == pytest.approx(0.0490, abs=0.0001)
    assert false_pass_rate(248, 0.20, 0.06) == pytest.approx(0.0487, abs=0.0001)


# ------------------------------------------------------------------ means, ratios, clusters


def clustered(seed: int, groups: int = 30) -> tuple[list[float], list[float], list[str]]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 7, groups)
    labels = [f"c{g}" for g, size in enumerate(sizes) for _ in range(size)]
    effects = {f"c{g}": rng.normal() for g in range(groups)}
    values = [1 + effects[c] + rng.normal() for c in labels]
    weights = rng.integers(1, 50, len(labels)).astype(float).tolist()
    return values, weights, labels


def test_cluster_t_is_statsmodels_cluster_robust_regression() -> None:
    """The weighted mean and its error are those of a regression on a constant with clustered errors."""
    values, weights, labels = clustered(0)
    codes = np.unique(labels, return_inverse=True)[1]
    for w in (weights, [1.0] * len(values)):
        model = WLS(values, np.ones(len(values)), weights=w)
        fit = model.fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
        test = stats.cluster_t(values, w, labels, 0.8, ALPHA)
        low, high = fit.conf_int(2 * ALPHA)[0]
        assert test.estimate == pytest.approx(fit.params[0])
        assert (test.lower, test.upper) == pytest.approx((low, high))
        two_sided = float(fit.t_test(([[1.0]], [0.8])).pvalue)
        assert 2 * min(test.p_pass, test.p_fail) == pytest.approx(two_sided)
        assert (test.method, test.clusters, test.n) == ("cluster t", 30, len(values))


def test_without_clusters_it_is_the_ordinary_t_test() -> None:
    """Equal weights and independent rows are the t-test of a mean."""
    values, _, _ = clustered(1)
    fit = OLS(values, np.ones(len(values))).fit()
    test = stats.cluster_t(values, [2.0] * len(values), None, 0.8, ALPHA)
    assert (test.lower, test.upper) == pytest.approx(tuple(fit.conf_int(2 * ALPHA)[0]))
    assert (test.method, test.clusters) == ("t", None)


def test_the_perplexity_test_is_the_documented_ratio_estimator() -> None:
    """Delta = sum of nats differences / tokens; r_i = difference_i - delta·tokens_i; SE = sqrt(n/(n-1)·Σr²)/Σtokens."""
    rng = np.random.default_rng(2)
    tokens = rng.integers(5, 400, 80).astype(float)
    base = rng.normal(3, 0.4, 80)
    cand = base + rng.normal(-0.02, 0.05, 80)
    test = stats.paired_ratio(cand.tolist(), base.tolist(), tokens.tolist(), None, math.log(1.02), ALPHA)
    d = (cand - base) * tokens
    delta = d.sum() / tokens.sum()
    error = math.sqrt(80 / 79 * ((d - delta * tokens) ** 2).sum()) / tokens.sum()
    assert test.estimate == pytest.approx(delta)
    assert (test.upper - test.estimate) / 1.664371 == pytest.approx(error, rel=1e-5)  # t(79) at 0.95
    assert test.method == "ratio estimator"


def test_duplicating_every_row_in_its_cluster_changes_nothing() -> None:
    """Copies of a row are no evidence: estimate, bounds and p-values stay, by t and by bootstrap."""
    values, weights, labels = clustered(3, groups=12)
    once = stats.cluster_t(values, weights, labels, 0.8, ALPHA)
    twice = stats.cluster_t(values * 2, weights * 2, labels * 2, 0.8, ALPHA)
    assert (twice.estimate, twice.lower, twice.p_pass) == pytest.approx((once.estimate, once.lower, once.p_pass))

    def mean(rows: list[int]) -> float:
        return float(np.mean([values[i % len(values)] for i in rows]))

    once = stats.cluster_bootstrap(mean, labels, 0.8, ALPHA, seed=1, resamples=300)
    twice = stats.cluster_bootstrap(mean, labels * 2, 0.8, ALPHA, seed=1, resamples=300)
    assert (twice.estimate, twice.lower, twice.p_pass) == pytest.approx((once.estimate, once.lower, once.p_pass))
    assert stats.cluster_t([1.0] * 40, [1.0] * 40, list(range(20)) * 2, 0.8, ALPHA, support=(0, 1)).p_pass == (
        stats.cluster_t([1.0] * 20, [1.0] * 20, list(range(20)), 0.8, ALPHA, support=(0, 1)).p_pass
    )


def test_clusters_make_the_same_rows_prove_less() -> None:
    """Rows that agree inside their clusters give a wider interval than independent ones would."""
    values = [float(g % 4 != 0) for g in range(40) for _ in range(5)]
    labels = [str(g) for g in range(40) for _ in range(5)]
    alone = stats.cluster_t(values, [1.0] * 200, None, 0.7, ALPHA)
    together = stats.cluster_t(values, [1.0] * 200, labels, 0.7, ALPHA)
    assert together.upper - together.lower > 2 * (alone.upper - alone.lower)


def test_rows_that_are_all_equal_prove_nothing_without_a_range() -> None:
    """Zero variance is not certainty: no verdict, infinite bounds, and never NaN."""
    for value in (0.1, 1.0, -3.3):
        for clusters in (None, list(range(60))):
            test = stats.cluster_t([value] * 60, [float(w) for w in range(1, 61)], clusters, value - 0.01, ALPHA)
            assert (test.p_pass, test.p_fail) == (1.0, 1.0)
            assert (test.lower, test.upper) == (-math.inf, math.inf)
    opposite = stats.cluster_t([0.3, -0.3] * 30, [1.0] * 60, [g for g in range(30) for _ in "ab"], -0.1, ALPHA)
    assert opposite.p_pass == 1.0
    assert stats.cluster_t([0.2, 0.9], [1.0, 1.0], ["a", "a"], 0.1, ALPHA).p_pass == 1.0


def test_rows_that_are_all_equal_prove_what_the_rule_of_three_allows() -> None:
    """Inside a known range, n equal clusters are n right answers of an exact binomial."""
    ones = stats.cluster_t([1.0] * 60, [1.0] * 60, list(range(60)), 0.95, ALPHA, support=(0.0, 1.0))
    exact = stats.binomial(60, 60, 0.95, ALPHA)
    assert (ones.p_pass, ones.lower, ones.upper) == pytest.approx((exact.p_pass, exact.lower, exact.upper))
    assert passes(ones)
    same = stats.paired_ratio([0.4] * 50, [0.4] * 50, [1.0] * 50, None, -0.02, ALPHA, support=(-1.0, 1.0))
    assert not passes(same)
    assert not fails(same)
    assert same.lower < -0.02 < same.upper
    zeros = stats.cluster_t([0.0] * 60, [1.0] * 60, None, 0.1, ALPHA, support=(0.0, 1.0))
    assert fails(zeros)
    assert zeros.p_fail > 0


# ------------------------------------------------------------------ bootstrap


def test_bootstrap_of_a_mean_is_close_to_cluster_t() -> None:
    """With many clusters and a smooth statistic the two methods say nearly the same."""
    values, _, labels = clustered(4, groups=60)
    t = stats.cluster_t(values, [1.0] * len(values), labels, 0.8, ALPHA)
    b = stats.cluster_bootstrap(lambda rows: float(np.mean([values[i] for i in rows])), labels, 0.8, ALPHA, seed=5)
    assert b.estimate == pytest.approx(t.estimate)
    assert b.lower == pytest.approx(t.lower, abs=0.15 * (t.upper - t.lower))
    assert b.upper == pytest.approx(t.upper, abs=0.15 * (t.upper - t.lower))
    assert (b.clusters, b.n, b.method) == (60, len(values), "cluster bootstrap")


def test_bootstrap_is_the_same_for_the_same_seed() -> None:
    """A verdict does not change when nothing changed."""
    values, _, labels = clustered(6)
    one, two = (
        stats.cluster_bootstrap(lambda rows: float(np.median([values[i] for i in rows])), labels, 0.8, ALPHA, 9, 200)
        for _ in range(2)
    )
    assert one == two


def test_three_clusters_never_pass() -> None:
    """However clear the rows, three clusters are no population at 5 %."""
    values = [0.90, 0.91, 0.92]
    test = stats.cluster_bootstrap(lambda rows: float(np.mean([values[i] for i in rows])), "abc", 0.1, 0.01, seed=0)
    assert test.p_pass > 0.01
    assert test.lower < 0.9


def test_bootstrap_treats_a_broken_resample_as_evidence_against_both_verdicts() -> None:
    """A statistic that is NaN on most resamples (no row of a class drawn) cannot pass or fail because of it."""

    def fragile(rows: list[int]) -> float:
        return float(np.mean(rows)) if len(set(rows)) >= 20 else math.nan

    for threshold in (2.0, 28.0):  # far below and far above the mean of 14.5
        test = stats.cluster_bootstrap(fragile, list(range(30)), threshold, ALPHA, seed=0, resamples=400)
        assert min(test.p_pass, test.p_fail) > 0.3
        assert (test.lower, test.upper) == (-math.inf, math.inf)


def test_bootstrap_that_cannot_vary_proves_nothing() -> None:
    """One cluster, or the same value in every resample, gives no verdict."""
    assert stats.cluster_bootstrap(lambda rows: 1.0, list(range(30)), 0.5, ALPHA, 0, 50).p_pass == 1.0
    assert stats.cluster_bootstrap(lambda rows: 1.0, ["a"] * 30, 0.5, ALPHA, 0, 50).p_pass == 1.0
    known = stats.cluster_bootstrap(lambda rows: 1.0, list(range(15)), 0.8, ALPHA, 0, 50, support=(0.0, 1.0))
    assert known.p_pass == pytest.approx(0.8**15)


def test_false_passes_at_the_boundary_with_few_clusters() -> None:
    """With 8 clusters bootstrap and jackknife together stay near alpha, where plain percentiles do not."""
    rng = np.random.default_rng(7)
    passed, plain, runs = 0, 0, 300
    for _ in range(runs):
        shift = rng.normal(0, 0.15, 8)
        sizes = rng.integers(2, 9, 8)
        values = np.concatenate([rng.normal(-0.02 + s, 0.3, k) for s, k in zip(shift, sizes, strict=True)])
        labels = np.repeat(np.arange(8), sizes)
        sums = np.bincount(labels, values)

        def mean(rows: list[int], values: np.ndarray = values) -> float:
            return float(values[rows].mean())

        passed += passes(stats.cluster_bootstrap(mean, labels.tolist(), -0.02, ALPHA, seed=1, resamples=150))
        draws = rng.integers(0, 8, (300, 8))
        plain += np.mean(sums[draws].sum(1) / sizes[draws].sum(1) <= -0.02) <= ALPHA
    assert passed / runs < 1.5 * ALPHA
    assert plain > passed


def test_false_passes_of_cluster_t_at_the_boundary() -> None:
    """Forty clusters of correlated differences pass about 5 % of the time when they should not."""
    rng = np.random.default_rng(8)
    passed, runs = 0, 1500
    for _ in range(runs):
        sizes = rng.integers(1, 9, 40)
        labels = np.repeat(np.arange(40), sizes)
        values = -0.02 + rng.normal(0, 0.2, 40)[labels] + rng.choice([-0.3, 0.3], len(labels))
        passed += passes(stats.cluster_t(values, np.ones(len(labels)), labels.tolist(), -0.02, ALPHA))
    assert 0.5 * ALPHA < passed / runs < 1.3 * ALPHA


# ------------------------------------------------------------------ budgets, rows needed, bad input


def test_a_budget_is_met_or_not() -> None:
    """A size has no uncertainty: on the budget is within it, one byte over is not."""
    assert (stats.point(-100, -100).p_pass, stats.point(-100, -100).p_fail) == (0.0, 1.0)
    assert (stats.point(-101, -100).p_pass, stats.point(-101, -100).p_fail) == (1.0, 0.0)


def test_rows_needed_for_equal_models_is_the_table_of_the_design() -> None:
    """Discordance 10 %, margin 2 points, alpha 5 %, power 80 % need about 1546 rows."""
    test = stats.tango(20, 20, 400, 0.02, ALPHA)
    needed = stats.rows_needed(test, -0.02, ALPHA)
    assert needed == pytest.approx(1546, rel=0.1)


def test_rows_needed_would_decide() -> None:
    """With the rows it asks for, and the same rates, the test decides; with a third of them it does not."""
    test = stats.binomial(85, 100, 0.8, ALPHA)
    needed = stats.rows_needed(test, 0.8, ALPHA)
    assert needed is not None
    assert passes(stats.binomial(round(0.85 * needed), needed, 0.8, ALPHA))
    assert not passes(stats.binomial(round(0.85 * needed / 3), needed // 3, 0.8, ALPHA))
    values, weights, labels = clustered(1)
    t = stats.cluster_t(values, weights, labels, 0.0, ALPHA)
    more = stats.rows_needed(t, t.estimate - 0.1, ALPHA)
    assert more is not None
    assert more > len(values)


def test_rows_needed_is_none_where_no_number_of_rows_would_do() -> None:
    """On the threshold, or with unknown spread, there is no answer."""
    assert stats.rows_needed(stats.binomial(80, 100, 0.8, ALPHA), 0.8, ALPHA) is None
    assert stats.rows_needed(stats.cluster_t([0.5] * 9, [1.0] * 9, None, 0.4, ALPHA), 0.4, ALPHA) is None
    assert stats.rows_needed(stats.point(3, 4), 4, ALPHA) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_a_number_is_an_error(bad: float) -> None:
    """NaN and infinity raise; they are never a verdict."""
    with pytest.raises(ValueError, match="finite"):
        stats.cluster_t([1.0, bad], [1.0, 1.0], None, 0.5, ALPHA)
    with pytest.raises(ValueError, match="finite"):
        stats.cluster_t([1.0, 0.0], [1.0, bad], None, 0.5, ALPHA)
    with pytest.raises(ValueError, match="finite"):
        stats.cluster_t([1.0, 0.0], [1.0, 1.0], None, bad, ALPHA)
    with pytest.raises(ValueError, match="finite"):
        stats.paired_ratio([1.0, bad], [1.0, 1.0], [1.0, 1.0], None, 0.5, ALPHA)
    with pytest.raises(ValueError, match="finite"):
        stats.point(bad, 1.0)
    with pytest.raises(ValueError, match="finite"):
        stats.cluster_bootstrap(lambda rows: bad, [1, 2, 3], 0.5, ALPHA, 0)
    with pytest.raises(ValueError, match="whole"):
        stats.binomial(bad, 10, 0.5, ALPHA)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        lambda: stats.binomial(0, 0, 0.5, ALPHA),
        lambda: stats.binomial(11, 10, 0.5, ALPHA),
        lambda: stats.binomial(5, 10, 1.5, ALPHA),
        lambda: stats.binomial(5, 10, 0.5, 0.0),
        lambda: stats.tango(6, 6, 10, 0.02, ALPHA),
        lambda: stats.tango(1, 1, 10, 1.0, ALPHA),
        lambda: stats.cluster_t([], [], None, 0.5, ALPHA),
        lambda: stats.cluster_t([1.0], [1.0, 2.0], None, 0.5, ALPHA),
        lambda: stats.cluster_t([1.0, 2.0], [0.0, 0.0], None, 0.5, ALPHA),
        lambda: stats.cluster_t([1.0, 2.0], [1.0, 1.0], ["a"], 0.5, ALPHA),
        lambda: stats.cluster_t([1.0, 2.0], [1.0, 1.0], None, 0.5, ALPHA, support=(0.0, 1.0)),
        lambda: stats.paired_ratio([1.0], [1.0, 2.0], [1.0], None, 0.5, ALPHA),
        lambda: stats.cluster_bootstrap(lambda rows: 0.5, [], 0.5, ALPHA, 0),
    ],
)
def test_empty_or_impossible_input_is_an_error(call: object) -> None:
    """No rows, more successes than rows, lengths that differ: an error, not a number."""
    with pytest.raises(ValueError, match=r"want|outside|negative|values"):
        call()  # type: ignore[operator]
