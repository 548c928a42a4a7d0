"""The statistics, held against independent references: statsmodels, published examples, enumeration, simulation."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import beta, binom, multinomial, norm, permutation_test, skew, t, ttest_1samp
from statsmodels.api import OLS, WLS
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import binom_test, proportion_confint

from bench import dependence_rates
from harness.stats import cluster_means, hypothesis_tests, mean_tests, power, ratio, shares, tango, unconditional
from harness.stats.hypothesis_tests import Test
from tests.helpers.speed import count_loop_rounds

ALPHA = 0.05


def does_pass(test: Test) -> bool:
    return test.p_pass <= ALPHA


def does_fail(test: Test) -> bool:
    return test.p_fail <= ALPHA


# ------------------------------------------------------------------ one share


@pytest.mark.parametrize(("successes", "n", "threshold"), [(0, 10, 0.2), (7, 10, 0.5), (83, 100, 0.8), (50, 50, 0.95)])
def test_binomial_is_statsmodels_exact_test(successes: int, n: int, threshold: float) -> None:
    """A share against a number is the exact binomial test, with Clopper and Pearson's bounds."""
    test = hypothesis_tests.binomial(successes, n, threshold, ALPHA)
    low, high = proportion_confint(successes, n, 2 * ALPHA, "beta")
    assert test.p_pass == pytest.approx(binom_test(successes, n, threshold, "larger"))
    assert test.p_fail == pytest.approx(binom_test(successes, n, threshold, "smaller"))
    # at 0 and n the two-sided interval of statsmodels is one-sided already, as ours are
    assert test.lower == pytest.approx(low)
    assert test.upper == pytest.approx(high)
    assert (test.lower > threshold) == does_pass(test)


def test_a_perfect_score_does_not_prove_perfection() -> None:
    """50 of 50 proves more than 0.94, not 0.95, and never 1.0."""
    assert does_pass(hypothesis_tests.binomial(50, 50, 0.94, ALPHA))
    assert not does_pass(hypothesis_tests.binomial(50, 50, 0.95, ALPHA))
    perfect = hypothesis_tests.binomial(50, 50, 1.0, ALPHA)
    assert (perfect.p_pass, perfect.p_fail) == (1.0, 1.0)
    assert does_fail(hypothesis_tests.binomial(49, 50, 1.0, ALPHA))


def test_wilson_is_statsmodels() -> None:
    """The interval for display is Wilson's."""
    for successes, n in [(0, 12), (5, 12), (12, 12), (830, 1000)]:
        low, high = proportion_confint(successes, n, 2 * ALPHA, "wilson")
        assert hypothesis_tests.wilson(successes, n, ALPHA) == pytest.approx((low, high), abs=1e-12)


# ------------------------------------------------------------------ two paired shares


@pytest.mark.parametrize(("wins", "losses", "n"), [(6, 16, 161), (12, 2, 150), (5, 0, 120), (9, 9, 140)])
def test_mcnemar_is_statsmodels_exact_test_less_half_of_what_was_seen(wins: int, losses: int, n: int) -> None:
    """At margin 0 the smaller exact p-value is half of the two-sided one; mid-p counts what was seen by half."""
    test = hypothesis_tests.mcnemar(wins, losses, n, ALPHA)
    both = n - wins - losses
    two_sided = reference_mcnemar([[both, wins], [losses, 0]], exact=True).pvalue
    seen = binom.pmf(wins, wins + losses, 0.5)
    assert test.method == "McNemar mid-p"
    assert min(1.0, 2 * (min(test.p_pass, test.p_fail) + seen / 2)) == pytest.approx(two_sided)
    assert test.p_pass == pytest.approx(binom.sf(wins - 1, wins + losses, 0.5) - seen / 2)
    exact = hypothesis_tests.mcnemar(wins, losses, n, ALPHA, [ALPHA / i for i in range(1, 30)])
    assert (exact.method, exact.p_pass - test.p_pass) == ("McNemar exact", pytest.approx(seen / 2))


@pytest.mark.parametrize("alpha", [0.05, 0.025, 0.0304, 0.01])
def test_mid_p_is_taken_where_it_is_wrong_six_times_in_five_at_most(alpha: float) -> None:
    """Its size over all rows, whatever share of them differs, is at most 1.2 alpha just where it is taken."""
    wins, changed = np.meshgrid(np.arange(251), np.arange(251))
    seen = binom.pmf(wins, changed, 0.5)  # 0 where more won than changed
    mid = binom.sf(wins - 1, changed, 0.5) - seen / 2
    wrong = np.where(mid <= alpha, seen, 0.0).sum(axis=1)
    for n in (*range(2, 40), 60, 100, 250):
        sizes = binom.pmf(np.arange(n + 1), n, np.linspace(0.005, 1, 200)[:, None]) @ wrong[: n + 1]
        assert shares.is_midp_valid(n, alpha) is bool(sizes.max() <= 1.2 * alpha), n


@pytest.mark.parametrize("n", [4, 5, 12, 40, 67, 100])
@pytest.mark.parametrize("alpha", [0.1, 0.05, 0.01])
def test_mcnemar_on_few_rows_is_never_wrong_more_often_than_alpha(n: int, alpha: float) -> None:
    """Summed over all tables, whatever share of the rows differs, the unconditional test's size is at most alpha."""
    few = np.array(shares.min_mcnemar_wins(range(n + 1), n, alpha))
    wrong = binom.sf(few - 1, np.arange(n + 1), 0.5)
    sizes = binom.pmf(np.arange(n + 1), n, np.linspace(0.0005, 1, 2000)[:, None]) @ wrong
    assert sizes.max() <= alpha * (1 + 1e-6)


def test_mcnemar_on_few_rows_orders_tables_by_what_lloyd_says() -> None:
    """Each p-value is the largest probability of the tables whose estimated one is as small, by brute force."""
    n = 6
    tables = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    score = {(b, c): (b - c) / math.sqrt(max(b + c, 1)) for b, c in tables}

    def chance(chosen: list[tuple[int, int]], shares_that_differ: Sequence[float]) -> np.ndarray:
        return sum(binom.pmf(b + c, n, shares_that_differ) * binom.pmf(b, b + c, 0.5) for b, c in chosen)

    estimated = {own: chance([t for t in tables if score[t] >= score[own] - 1e-9], [sum(own) / n])[0] for own in tables}
    for own in tables:
        extreme = [t for t in tables if estimated[t] <= estimated[own] * (1 + 1e-9)]
        assert unconditional.exact_p(*own, n) == pytest.approx(chance(extreme, np.linspace(0, 1, 1001)).max(), abs=2e-5)


def test_few_changes_on_few_rows_prove_more_than_given_how_many_they_are() -> None:
    """On 40 rows of which a tenth differs four wins are proof; the conditional test needs five."""
    assert hypothesis_tests.mcnemar(4, 0, 40, ALPHA).p_pass <= ALPHA < 0.5**4
    assert power.pairs_power(0.07, 0.0, 0.1, 40, ALPHA) == pytest.approx(0.413, abs=0.002)  # it was 29.0 %


def test_mcnemar_bounds_agree_with_its_verdict() -> None:
    """A bound is on the right side of 0 exactly when the exact test says so."""
    for wins in range(0, 14):
        for losses in range(0, 14):
            test = hypothesis_tests.mcnemar(wins, losses, 40, ALPHA)
            assert (test.lower > 0) == does_pass(test)
            assert (test.upper < 0) == does_fail(test)


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
    """Inverting the score gives the intervals in the literature, and the gate's own, exact one, is close to them."""
    z, near = norm.isf(alpha), 5.1e-4 if n == 21 else 5.1e-5
    assert tango.invert_statistic(wins, losses, n, z) == pytest.approx(low, abs=near)
    assert tango.invert_statistic(wins, losses, n, -z) == pytest.approx(high, abs=near)
    test = hypothesis_tests.tango(wins, losses, n, 0.02, alpha)
    assert (test.lower, test.upper) == pytest.approx((low, high), abs=0.6 / n)


def optimise_score(wins: int, losses: int, n: int, d0: float) -> float:
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
    z = optimise_score(wins, losses, n, -margin)
    assert float(tango.score_statistic(wins, losses, n, -margin)) == pytest.approx(z, rel=1e-4)


@pytest.mark.parametrize(("wins", "losses", "n", "margin"), [(1, 4, 15, 0.1), (0, 0, 12, 0.2), (3, 1, 20, -0.05)])
def test_the_p_value_of_tango_is_the_chance_of_as_high_a_score(wins: int, losses: int, n: int, margin: float) -> None:
    """Summing the multinomial over every table, at the fitted hypothesis, gives the p-values."""
    q = float(tango.fit_losses(wins, losses, n, -margin))
    seen = float(tango.score_statistic(wins, losses, n, -margin))
    p_pass = p_fail = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            chance = multinomial.pmf([b, c, n - b - c], n, [q - margin, q, 1 - 2 * q + margin])
            z = float(tango.score_statistic(b, c, n, -margin))
            p_pass += chance * (z >= seen - 1e-9)
            p_fail += chance * (z <= seen + 1e-9)
    test = hypothesis_tests.tango(wins, losses, n, margin, ALPHA)
    assert (test.p_pass, test.p_fail) == pytest.approx((p_pass, p_fail), abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "discordance", "margin"), [(520, 0.01, -0.01), (501, 0.012, -0.01), (600, 0.007, 0.005)])
def test_models_that_nearly_always_agree_are_judged_exactly(n: int, discordance: float, margin: float) -> None:
    """Where few of many rows differ the score is no normal one: by that 8.1 % would pass, and 8.9 % be blocked."""
    rates = [0.0, 0.0]
    for changed in range(40):
        for wins in range(changed + 1):
            chance = binom.pmf(changed, n, discordance)
            chance *= binom.pmf(wins, changed, (discordance - margin) / 2 / discordance)
            if chance > 1e-9:
                test = hypothesis_tests.tango(wins, changed - wins, n, margin, ALPHA)
                rates[0] += chance * does_pass(test)
                rates[1] += chance * (test.p_fail <= ALPHA)
    assert max(rates) < 0.051


def test_a_verdict_on_2000_rows_of_which_a_tenth_differ_is_quick() -> None:
    """With its bounds it takes no longer than some ten million additions."""
    assert count_loop_rounds(lambda: hypothesis_tests.tango(100, 100, 2000, 0.02, ALPHA)) < 10


@pytest.mark.slow
def test_tango_bounds_agree_with_its_verdict() -> None:
    """The lower bound is above -margin exactly when the test passes, for every table of 24 rows."""
    for wins in range(25):
        for losses in range(25 - wins):
            test = hypothesis_tests.tango(wins, losses, 24, 0.1, ALPHA)
            assert -1 <= test.lower <= test.estimate <= test.upper <= 1
            assert (test.lower > -0.1) == does_pass(test)
            assert (test.upper < -0.1) == does_fail(test)


def test_two_models_that_never_differ_on_50_rows_prove_little() -> None:
    """No discordant pair at n = 50 and a margin of 2 points is z = 1.01: inconclusive; at n = 200 it is proven."""
    test = hypothesis_tests.tango(0, 0, 50, 0.02, ALPHA)
    assert float(tango.score_statistic(0, 0, 50, -0.02)) == pytest.approx(1.01, abs=0.005)
    assert test.p_pass == pytest.approx(0.98**50)  # none of 50 rows lost, if 2 % are
    assert not does_pass(test)
    assert not does_fail(test)
    assert test.lower < -0.02 < 0 < test.upper
    assert does_pass(hypothesis_tests.tango(0, 0, 200, 0.02, ALPHA))
    assert hypothesis_tests.tango(0, 0, 50, 0.0, ALPHA).p_pass == 1.0
    assert (hypothesis_tests.mcnemar(0, 0, 50, ALPHA).p_pass, hypothesis_tests.mcnemar(0, 0, 50, ALPHA).p_fail) == (
        1.0,
        1.0,
    )


def compute_error_rates(n: int, discordance: float, margin: float) -> tuple[float, float]:
    """P(pass) and P(fail) at the boundary, difference = -margin, summed over all tables that matter."""
    rates = [0.0, 0.0]
    for changed in range(n + 1):
        p = binom.pmf(changed, n, discordance)
        if p < 1e-7:
            continue
        chance = binom.pmf(range(changed + 1), changed, (discordance - margin) / 2 / discordance)
        for wins in range(changed + 1):
            tails = tango.exact_p(wins, changed - wins, n, -margin)
            for side in (0, 1):
                rates[side] += p * chance[wins] * (tails[side] <= ALPHA)
    return rates[0], rates[1]


@pytest.mark.parametrize(
    ("n", "discordance", "margin", "passed", "failed"),
    [(50, 0.10, 0.05, 0.0341, 0.0289), (60, 0.10, 0.05, 0.0395, 0.0445), (50, 0.10, 0.02, 0.0406, 0.0355)],
)
def test_tango_is_wrong_as_often_as_it_may(
    n: int, discordance: float, margin: float, passed: float, failed: float
) -> None:
    """Exact error rates at the boundary; the normal score falsely blocks 8.2 % of the time in the second one."""
    assert compute_error_rates(n, discordance, margin) == pytest.approx((passed, failed), abs=1e-4)


# ------------------------------------------------------------------ means, ratios, clusters


def draw_clustered_values(seed: int, groups: int = 30) -> tuple[list[float], list[float], list[str]]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 7, groups)
    labels = [f"c{g}" for g, size in enumerate(sizes) for _ in range(size)]
    effects = {f"c{g}": rng.normal() for g in range(groups)}
    values = [1 + effects[c] + rng.normal() for c in labels]
    weights = rng.integers(1, 50, len(labels)).astype(float).tolist()
    return values, weights, labels


def estimate_cluster_ratio(values: list[float], weights: list[float], labels: list[str]) -> ratio.Ratio:
    codes = np.unique(labels, return_inverse=True)[1]
    return ratio.estimate_ratio(np.bincount(codes, np.multiply(values, weights)), np.bincount(codes, weights))


def test_the_error_of_equal_clusters_is_statsmodels_cluster_robust_one() -> None:
    """Clusters of equal weight: mean and error are those of a regression on a constant with clustered errors."""
    values = np.random.default_rng(0).normal(1, 1, 90) + np.repeat(np.random.default_rng(1).normal(0, 1, 30), 3)
    labels = [f"c{i // 3}" for i in range(90)]
    codes = np.repeat(np.arange(30), 3)
    fit = OLS(values, np.ones(90)).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
    of = estimate_cluster_ratio(values.tolist(), [1.0] * 90, labels)
    assert (of.estimate, of.error) == pytest.approx((fit.params[0], fit.bse[0]))
    assert hypothesis_tests.cluster_t(values.tolist(), [1.0] * 90, labels, 0.8, ALPHA).estimate == pytest.approx(
        fit.params[0]
    )


def test_the_error_of_uneven_clusters_is_the_jackknife_of_statsmodels_fits() -> None:
    """Leaving each cluster out of a weighted regression gives the error; it is larger than the robust one."""
    values, weights, labels = draw_clustered_values(0)
    codes = np.unique(labels, return_inverse=True)[1]

    def fit(keep: np.ndarray) -> float:
        return float(WLS(np.array(values)[keep], np.ones(keep.sum()), weights=np.array(weights)[keep]).fit().params[0])

    without = np.array([fit(codes != c) for c in range(30)])
    of = estimate_cluster_ratio(values, weights, labels)
    assert of.estimate == pytest.approx(fit(codes >= 0))
    assert of.error == pytest.approx(math.sqrt(29 / 30 * ((without - of.estimate) ** 2).sum()))
    robust = WLS(values, np.ones(len(values)), weights=weights).fit(cov_type="cluster", cov_kwds={"groups": codes})
    assert robust.bse[0] < of.error < 1.15 * robust.bse[0]


def test_symmetric_rows_have_the_bounds_of_the_ordinary_t_test() -> None:
    """Without skewness the corrected t is Student's; the bootstrap-t is near, and the weaker one counts."""
    half = np.random.default_rng(1).normal(0, 1, 60)
    values = np.concatenate([1 + half, 1 - half]).tolist()
    of = ratio.estimate_ratio(np.array(values), np.ones(120))
    fit = OLS(values, np.ones(120)).fit()
    low, high = fit.conf_int(2 * ALPHA)[0]
    assert ratio.skewed_bounds(of, ALPHA) == pytest.approx((low, high))
    assert ratio.skewed_t(of, 0.8)[0] == pytest.approx(ttest_1samp(values, 0.8, alternative="greater").pvalue)
    test = hypothesis_tests.cluster_t(values, [2.0] * 120, None, 0.8, ALPHA)
    assert test.lower <= low + 1e-9
    assert test.upper >= high - 1e-9
    assert (test.lower, test.upper) == pytest.approx((low, high), abs=0.1 * (high - low))
    assert (test.method, test.clusters) == ("t", None)


def test_the_correction_for_skewness_is_halls() -> None:
    """The transformation, written from the paper, of a sample skewed by hand; and it inverts to the bounds."""
    values = np.array([0.0] * 3 + [1.0] * 27)
    of = ratio.estimate_ratio(values, np.ones(30))
    skewness = skew(values, bias=False)
    a, tt = skewness / math.sqrt(30), (0.9 - 0.85) / (values.std(ddof=1) / math.sqrt(30))
    g = tt + a * tt**2 / 3 + a**2 * tt**3 / 27 + a / 6
    assert float(of.skew) == pytest.approx(a)
    assert float(ratio.skewed_t(of, 0.85)[0]) == pytest.approx(t.sf(g, 29))
    low, high = ratio.skewed_bounds(of, ALPHA)
    assert float(ratio.skewed_t(of, low)[0]) == pytest.approx(ALPHA)
    assert float(ratio.skewed_t(of, high)[1]) == pytest.approx(ALPHA)


def test_the_perplexity_test_is_the_documented_ratio_estimator() -> None:
    """Delta = sum of nats differences / tokens; its error is near the linearised sqrt(n/(n-1)·Σr²)/Σtokens."""
    rng = np.random.default_rng(2)
    tokens = rng.integers(5, 400, 80).astype(float)
    base = rng.normal(3, 0.4, 80)
    cand = base + rng.normal(-0.02, 0.05, 80)
    test = hypothesis_tests.paired_ratio(cand.tolist(), base.tolist(), tokens.tolist(), None, math.log(1.02), ALPHA)
    d = (cand - base) * tokens
    delta = d.sum() / tokens.sum()
    error = math.sqrt(80 / 79 * ((d - delta * tokens) ** 2).sum()) / tokens.sum()
    assert test.estimate == pytest.approx(delta)
    assert (test.upper - test.lower) / 2 / t.isf(0.05, 79) == pytest.approx(error, rel=0.1)
    assert test.method == "ratio estimator"


@pytest.mark.parametrize("support", [None, (-1.0, 1.0)])
@pytest.mark.parametrize("labels", [None, [i // 4 for i in range(80)]])
@pytest.mark.parametrize("whole", [True, False])
def test_bounds_agree_with_the_verdict(
    support: tuple[float, float] | None, labels: list[int] | None, whole: bool
) -> None:
    """Whatever tests stand behind it, a bound is beyond the threshold exactly when the verdict says so."""
    rng = np.random.default_rng(11)
    seen = set()
    for _ in range(40):
        shares = rng.dirichlet([1, 1, 6])
        values = rng.choice([-1.0, 1.0, 0.0], 80, p=shares) * (1.0 if whole else rng.uniform(0.2, 1, 80))
        test = hypothesis_tests.cluster_t(values.tolist(), [1.0] * 80, labels, -0.02, ALPHA, support=support)
        assert (test.lower > -0.02) == does_pass(test)
        assert (test.upper < -0.02) == does_fail(test)
        assert test.lower <= test.estimate <= test.upper
        seen.add((does_pass(test), does_fail(test)))
    assert len(seen) == 3  # proven, refuted, and neither came up


@pytest.mark.parametrize("labels", [None, [i // 4 for i in range(80)]])
def test_swapping_candidate_and_baseline_mirrors_everything(labels: list[int] | None) -> None:
    """What is better by 3 points one way is worse by 3 points the other, by every test of two models."""
    rng = np.random.default_rng(12)
    for cand, base in [(rng.integers(0, 2, 80), rng.integers(0, 2, 80)), (rng.beta(2, 1, 80), rng.beta(1, 1, 80))]:
        c, b = cand.astype(float).tolist(), base.astype(float).tolist()
        for one, other in [
            (
                hypothesis_tests.paired_ratio(c, b, [1.0] * 80, labels, 0.03, ALPHA, support=(-1.0, 1.0)),
                hypothesis_tests.paired_ratio(b, c, [1.0] * 80, labels, -0.03, ALPHA, support=(-1.0, 1.0)),
            ),
            (hypothesis_tests.sign_flip(c, b, labels, ALPHA), hypothesis_tests.sign_flip(b, c, labels, ALPHA)),
        ]:
            assert (one.estimate, one.lower, one.upper) == pytest.approx((-other.estimate, -other.upper, -other.lower))
            assert (one.p_pass, one.p_fail) == pytest.approx((other.p_fail, other.p_pass), abs=0.02)
    for n in (40, 700):
        one, other = hypothesis_tests.tango(12, 5, n, -0.03, ALPHA), hypothesis_tests.tango(5, 12, n, 0.03, ALPHA)
        assert (one.p_pass, one.p_fail) == pytest.approx((other.p_fail, other.p_pass))
        assert (one.lower, one.upper) == pytest.approx((-other.upper, -other.lower), abs=1e-5)
        one, other = hypothesis_tests.mcnemar(12, 5, n, ALPHA), hypothesis_tests.mcnemar(5, 12, n, ALPHA)
        assert (one.p_pass, one.p_fail) == (other.p_fail, other.p_pass)


def test_turning_a_share_around_mirrors_it() -> None:
    """At least 80 % right, and at most 20 % wrong, are one claim: in clusters too, on either side of 0."""
    rng = np.random.default_rng(13)
    labels = rng.integers(0, 25, 150).tolist()
    right = (rng.random(150) < 0.88).astype(float)
    one = hypothesis_tests.cluster_t(right.tolist(), [1.0] * 150, labels, 0.8, ALPHA, support=(0.0, 1.0))
    other = hypothesis_tests.cluster_t((right - 1).tolist(), [1.0] * 150, labels, -0.2, ALPHA, support=(-1.0, 0.0))
    assert (one.lower, one.upper, one.p_pass) == pytest.approx((other.lower + 1, other.upper + 1, other.p_pass))


def test_a_share_in_clusters_of_one_is_wilsons_score() -> None:
    """On the effective rows, which without clusters are the rows (but for G/(G-1)), with t for the normal quantile."""
    right = np.array([1.0] * 90 + [0.0] * 30)
    of = ratio.estimate_ratio(right, np.ones(120))
    low, high = proportion_confint(90 * 119 / 120, 119, 2 * norm.sf(t.isf(ALPHA, 119)), "wilson")
    assert ratio.share_bounds(of, ALPHA) == pytest.approx((low, high), abs=1e-9)
    assert float(ratio.share_t(of, low)[0]) == pytest.approx(ALPHA)
    assert float(ratio.share_t(of, high)[1]) == pytest.approx(ALPHA)


def test_pairs_in_clusters_of_one_are_tangos_score() -> None:
    """The same of differences: 15 won and 9 lost of 200 rows, as Tango would say of 199."""
    d = np.array([1.0] * 15 + [-1.0] * 9 + [0.0] * 176)
    of = ratio.estimate_ratio(d, np.ones(200))
    reach, k = t.isf(ALPHA, ratio.pan_wall(of)), 199 / 200
    want = (tango.invert_statistic(15 * k, 9 * k, 199, reach), tango.invert_statistic(15 * k, 9 * k, 199, -reach))
    assert ratio.pairs_bounds(of, ALPHA, 24 / 200) == pytest.approx(want, abs=1e-9)


def test_the_bootstrap_t_resamples_whole_clusters() -> None:
    """Its quantiles are those of clusters drawn one by one and studentised by hand."""
    values, weights, labels = draw_clustered_values(9, groups=14)
    of = estimate_cluster_ratio(values, weights, labels)
    rng, by_hand = np.random.default_rng(1), []
    for _ in range(4000):
        rows = rng.integers(0, 14, 14)
        s, w = of.residuals[rows], of.weights[rows]
        shift = s.sum() / w.sum()
        error = math.sqrt(14 / 13 * ((s - shift * w) ** 2).sum()) / w.sum()
        by_hand.append(shift / error)
    for share in (0.05, 0.5, 0.95):
        assert np.quantile(ratio.bootstrap_t(of), share) == pytest.approx(np.quantile(by_hand, share), abs=0.15)


def test_the_bayesian_bootstrap_with_a_worst_row_is_clopper_and_pearson_for_shares() -> None:
    """27 of 30 right, one more row at the worst: the bounds are those of the exact binomial, but for 2000 draws."""
    of = ratio.estimate_ratio(np.array([1.0] * 27 + [0.0] * 3), np.ones(30))
    low, high = ratio.worst_mean_bounds(ratio.worst_rows(of, (0.0, 1.0)), ALPHA, (0.0, 1.0))
    assert (low, high) == pytest.approx((beta.ppf(ALPHA, 27, 4), beta.isf(ALPHA, 28, 3)), abs=0.01)


def test_a_rare_disaster_that_no_row_showed_is_allowed_for() -> None:
    """50 scores near 0.95 do not prove more than 0.9: if 5 % were 0, none of 50 would show it 8 % of the time."""
    values = [0.93 + 0.04 * (i % 5) / 4 for i in range(50)]
    known = hypothesis_tests.cluster_t(values, [1.0] * 50, None, 0.9, ALPHA, support=(0.0, 1.0))
    assert not does_pass(known)
    assert np.mean(values) * ALPHA ** (1 / 50) < known.lower < 0.9  # the rule of three at the estimate, and the claim
    assert does_pass(
        hypothesis_tests.cluster_t(values, [1.0] * 50, None, 0.9, ALPHA)
    )  # it cannot know without the range


def estimate_pass_rate(draw: Callable[[int], np.ndarray], threshold: float, runs: int = 2000) -> float:
    """Return how often a gate passes scores from -1 to 1 that are drawn, (runs, rows)."""
    rows = draw(runs)
    of = ratio.estimate_ratio(rows, np.ones_like(rows))
    p = mean_tests.make_p_function(of, "score", ALPHA, independent=True, support=(-1.0, 1.0))(threshold)
    return float((p[0] <= ALPHA).mean())


@pytest.mark.parametrize(("n", "power_of_t", "was"), [(20, 0.77, 0.01), (50, 0.79, 0.34), (100, 0.80, 0.68)])
def test_scores_on_few_rows_prove_what_disasters_leave_them(n: int, power_of_t: float, was: float) -> None:
    """Differences N(d, 0.15) against 0: 80 % of what any test could have, from 50 rows on; much more than before."""
    rng, d = np.random.default_rng(1), 2.5 * 0.15 / math.sqrt(n)
    most = min(power_of_t, ALPHA / (1 - d / (1 + d)) ** n)
    found = estimate_pass_rate(lambda runs: np.clip(rng.normal(d, 0.15, (runs, n)), -1, 1), 0.0)
    assert found > was + 0.02
    assert n < 50 or found >= 0.8 * most - 0.01


@pytest.mark.parametrize(("n", "mean"), [(20, 0.13), (50, 0.05), (100, 0.02)])
def test_scores_on_few_rows_keep_the_risk_where_disasters_are_rare(n: int, mean: float) -> None:
    """A share of the worst value brings the mean down to the claim; mostly no row shows it."""
    rng, share = np.random.default_rng(2), mean / (1 + mean)

    def draw(runs: int) -> np.ndarray:
        bulk = np.clip(rng.normal(mean, 0.15, (runs, n)), -1, 1)
        return np.where(rng.random((runs, n)) < share, -1.0, bulk)

    assert estimate_pass_rate(draw, 0.0) <= 0.06


def test_pairs_in_mixed_clusters_prove_more_where_rows_of_a_cluster_differ() -> None:
    """A tenth of 100 clusters with ten rows, the others with one: 42 and not 1 % pass; whole clusters lost do not."""
    rng, sizes = np.random.default_rng(3), np.repeat([1, 10], [90, 10])

    def passes_of(won: np.ndarray, lost: np.ndarray) -> float:
        of = ratio.estimate_ratio((won - lost).astype(float), np.broadcast_to(sizes.astype(float), won.shape))
        changed = (won + lost).sum(-1) / sizes.sum()
        return float((mean_tests.make_p_function(of, "pairs", ALPHA, discordance=changed)(-0.05)[0] <= ALPHA).mean())

    rows = rng.multinomial(np.broadcast_to(sizes, (1000, 100)), [0.1, 0.1, 0.8])
    assert passes_of(rows[..., 0], rows[..., 1]) > 0.35
    whole = rng.random((1000, 100)) < 0.05
    assert passes_of(0 * sizes, whole * sizes) <= 0.06


def test_duplicating_every_row_in_its_cluster_changes_nothing() -> None:
    """Copies of a row are no evidence: estimate, bounds and p-values stay, by t and by bootstrap."""
    values, weights, labels = draw_clustered_values(3, groups=12)
    once = hypothesis_tests.cluster_t(values, weights, labels, 0.8, ALPHA)
    twice = hypothesis_tests.cluster_t(values * 2, weights * 2, labels * 2, 0.8, ALPHA)
    assert (twice.estimate, twice.lower, twice.p_pass) == pytest.approx((once.estimate, once.lower, once.p_pass))

    def mean(rows: list[int]) -> float:
        return float(np.mean([values[i % len(values)] for i in rows]))

    once = hypothesis_tests.cluster_bootstrap(mean, labels, 0.8, ALPHA)
    twice = hypothesis_tests.cluster_bootstrap(mean, labels * 2, 0.8, ALPHA)
    assert (twice.estimate, twice.lower, twice.p_pass) == pytest.approx((once.estimate, once.lower, once.p_pass))
    assert hypothesis_tests.cluster_t(
        [1.0] * 40, [1.0] * 40, list(range(20)) * 2, 0.8, ALPHA, support=(0, 1)
    ).p_pass == (hypothesis_tests.cluster_t([1.0] * 20, [1.0] * 20, list(range(20)), 0.8, ALPHA, support=(0, 1)).p_pass)


def test_clusters_make_the_same_rows_prove_less() -> None:
    """Rows that agree inside their clusters give a wider interval than independent ones would."""
    values = [float(g % 4 != 0) for g in range(40) for _ in range(5)]
    labels = [str(g) for g in range(40) for _ in range(5)]
    alone = hypothesis_tests.cluster_t(values, [1.0] * 200, None, 0.7, ALPHA)
    together = hypothesis_tests.cluster_t(values, [1.0] * 200, labels, 0.7, ALPHA)
    assert together.upper - together.lower > 2 * (alone.upper - alone.lower)


def test_rows_that_are_all_equal_prove_nothing_without_a_range() -> None:
    """Zero variance is not certainty: no verdict, infinite bounds, and never NaN."""
    for value in (0.1, 1.0, -3.3):
        for clusters in (None, list(range(60))):
            test = hypothesis_tests.cluster_t(
                [value] * 60, [float(w) for w in range(1, 61)], clusters, value - 0.01, ALPHA
            )
            assert (test.p_pass, test.p_fail) == (1.0, 1.0)
            assert (test.lower, test.upper) == (-math.inf, math.inf)
    opposite = hypothesis_tests.cluster_t(
        [0.3, -0.3] * 30, [1.0] * 60, [g for g in range(30) for _ in "ab"], -0.1, ALPHA
    )
    assert opposite.p_pass == 1.0
    assert hypothesis_tests.cluster_t([0.2, 0.9], [1.0, 1.0], ["a", "a"], 0.1, ALPHA).p_pass == 1.0


def test_rows_that_are_all_equal_prove_what_the_rule_of_three_allows() -> None:
    """Inside a known range, n equal clusters are n right answers of an exact binomial."""
    ones = hypothesis_tests.cluster_t([1.0] * 60, [1.0] * 60, list(range(60)), 0.95, ALPHA, support=(0.0, 1.0))
    exact = hypothesis_tests.binomial(60, 60, 0.95, ALPHA)
    assert (ones.p_pass, ones.lower, ones.upper) == pytest.approx((exact.p_pass, exact.lower, exact.upper))
    assert does_pass(ones)
    same = hypothesis_tests.paired_ratio([0.4] * 50, [0.4] * 50, [1.0] * 50, None, -0.02, ALPHA, support=(-1.0, 1.0))
    assert not does_pass(same)
    assert not does_fail(same)
    assert same.lower < -0.02 < same.upper
    zeros = hypothesis_tests.cluster_t([0.0] * 60, [1.0] * 60, None, 0.1, ALPHA, support=(0.0, 1.0))
    assert does_fail(zeros)
    assert zeros.p_fail > 0


# ------------------------------------------------------------------ bootstrap


def test_bootstrap_of_a_mean_is_close_to_cluster_t() -> None:
    """With many clusters and a smooth statistic the two methods say nearly the same."""
    values, _, labels = draw_clustered_values(4, groups=60)
    t = hypothesis_tests.cluster_t(values, [1.0] * len(values), labels, 0.8, ALPHA)
    b = hypothesis_tests.cluster_bootstrap(lambda rows: float(np.mean([values[i] for i in rows])), labels, 0.8, ALPHA)
    assert b.estimate == pytest.approx(t.estimate)
    assert b.lower == pytest.approx(t.lower, abs=0.15 * (t.upper - t.lower))
    assert b.upper == pytest.approx(t.upper, abs=0.15 * (t.upper - t.lower))
    assert (b.clusters, b.n, b.method) == (60, len(values), "cluster bootstrap")


def test_bootstrap_is_the_same_every_time() -> None:
    """A verdict does not change when nothing changed."""
    values, _, labels = draw_clustered_values(6)
    one, two = (
        hypothesis_tests.cluster_bootstrap(lambda rows: float(np.median([values[i] for i in rows])), labels, 0.8, ALPHA)
        for _ in range(2)
    )
    assert one == two


def test_three_clusters_never_pass() -> None:
    """However clear the rows, three clusters are no population at 5 %."""
    values = [0.90, 0.91, 0.92]
    test = hypothesis_tests.cluster_bootstrap(lambda rows: float(np.mean([values[i] for i in rows])), "abc", 0.1, 0.01)
    assert test.p_pass > 0.01
    assert test.lower < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("attempt", [1, 6, 13, 100])
@pytest.mark.parametrize("kind", ["combine", "flips", "scores", "share", "mean"])
def test_what_is_clear_passes_at_any_attempt(kind: str, attempt: int) -> None:
    """A level that `spend` makes small can be reached: resamples grow with 1/alpha, and what is unclear stays so."""
    alpha, rng = hypothesis_tests.attempt_alpha(ALPHA, attempt), np.random.default_rng(attempt)
    values, labels = rng.uniform(0.8, 1.0, 120), list(range(40)) * 3
    zeros, ones = [0.0] * 120, [1.0] * 120

    def test(threshold: float) -> hypothesis_tests.Test:
        if kind == "combine":
            return hypothesis_tests.cluster_bootstrap(
                lambda rows: float(values[list(rows)].mean()), labels, threshold, alpha
            )
        if kind == "flips":
            return hypothesis_tests.sign_flip((values - threshold).tolist(), zeros, labels, alpha, support=(-1.0, 1.0))
        if kind == "scores":
            return hypothesis_tests.cluster_t(values.tolist(), ones, None, threshold, alpha, support=(0.0, 1.0))
        if kind == "share":
            right = [1.0] * 114 + [0.0] * 6
            return hypothesis_tests.cluster_t(right, ones, labels, threshold, alpha, support=(0.0, 1.0))
        return hypothesis_tests.cluster_t(values.tolist(), ones, labels, threshold, alpha)

    assert test(0.5).p_pass <= alpha
    assert not does_pass(test(float(values.mean()) + 0.02))


def test_a_median_whose_middle_rows_tie_is_judged() -> None:
    """Leaving one row out moves no such median, but drawing rows again does: that is no lack of variation."""
    values = np.array([1.0] * 25 + [1.1] * 10 + [1.2] * 25)
    test = hypothesis_tests.cluster_bootstrap(
        lambda rows: float(np.median(values[list(rows)])), list(range(60)), 0.5, ALPHA
    )
    assert test.p_pass <= ALPHA
    assert 0.9 < test.lower < 1.1 < test.upper < 1.3
    close = hypothesis_tests.cluster_bootstrap(
        lambda rows: float(np.median(values[list(rows)])), list(range(60)), 1.08, ALPHA
    )
    assert not does_pass(close)


def test_a_plan_asks_at_a_small_alpha_what_a_gate_asks() -> None:
    """Below the level that resamples can tell of, many data sets at once get the test that one gets."""
    values, _, labels = draw_clustered_values(5, groups=40)
    right, ones = [float(v > 0.75) for v in values], [1.0] * len(values)
    of, alpha = estimate_cluster_ratio(right, ones, labels), hypothesis_tests.attempt_alpha(ALPHA, 6)
    one = hypothesis_tests.cluster_t(right, ones, labels, 0.5, alpha, support=(0.0, 1.0))
    many = mean_tests.make_p_function(of, "share", alpha)(0.5)
    assert (one.p_pass, one.p_fail) == pytest.approx((float(many[0]), float(many[1])))
    assert one.p_pass != pytest.approx(float(mean_tests.make_p_function(of, "share", ALPHA)(0.5)[0]), rel=0.01)


def test_bootstrap_treats_a_broken_resample_as_evidence_against_both_verdicts() -> None:
    """A statistic that is NaN on most resamples (no row of a class drawn) cannot pass or fail because of it."""

    def fragile(rows: list[int]) -> float:
        return float(np.mean(rows)) if len(set(rows)) >= 20 else math.nan

    for threshold in (2.0, 28.0):  # far below and far above the mean of 14.5
        test = hypothesis_tests.cluster_bootstrap(fragile, list(range(30)), threshold, ALPHA)
        assert min(test.p_pass, test.p_fail) > 0.3
        assert (test.lower, test.upper) == (-math.inf, math.inf)


def test_bootstrap_that_cannot_vary_proves_nothing() -> None:
    """One cluster, or the same value in every resample, gives no verdict."""
    assert hypothesis_tests.cluster_bootstrap(lambda rows: 1.0, list(range(30)), 0.5, ALPHA).p_pass == 1.0
    assert hypothesis_tests.cluster_bootstrap(lambda rows: 1.0, ["a"] * 30, 0.5, ALPHA).p_pass == 1.0
    known = hypothesis_tests.cluster_bootstrap(lambda rows: 1.0, list(range(15)), 0.8, ALPHA, support=(0.0, 1.0))
    assert known.p_pass == pytest.approx(0.8**15)


@pytest.mark.slow
def test_false_passes_at_the_boundary_with_few_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 8 clusters bootstrap and jackknife together stay near alpha, where plain percentiles do not."""
    monkeypatch.setattr(cluster_means, "RESAMPLES", 150)
    monkeypatch.setattr(cluster_means, "MOST_RESAMPLES", 150)
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

        passed += does_pass(hypothesis_tests.cluster_bootstrap(mean, labels.tolist(), -0.02, ALPHA))
        draws = rng.integers(0, 8, (300, 8))
        plain += np.mean(sums[draws].sum(1) / sizes[draws].sum(1) <= -0.02) <= ALPHA
    assert passed / runs < 1.5 * ALPHA
    assert plain > passed


def test_the_guarded_t_counts_the_worst_once_more() -> None:
    """Rows with a range of their own tell the formula: by hand for one worst row, symmetric rows, G = 40."""
    rows = np.array([-1.0, 1.0] * 20)
    rows[0] = -1.5
    of, more = ratio.estimate_ratio(rows, np.ones(40)), ratio.GUARD_FLOOR
    tail = ratio.l_skewness(-of.residuals)
    more += ratio.GUARD_SLOPE * max(float(tail), 0.0) / math.sqrt(40 - ratio.GUARD_CLUSTERS)
    whole, mean = 40 + more, (rows.sum() - 1.5 * more) / (40 + more)
    square = ((rows - mean) / (1 - 1 / whole)) ** 2
    variance = square.sum() + more * square[0]
    error = math.sqrt((whole - 1) / whole * variance) / whole
    spread = ((square - variance / whole) ** 2).sum() + more * (square[0] - variance / whole) ** 2
    df = min(2 * variance**2 / (spread * whole / (whole - 1)), whole - 1)
    assert ratio.guarded_t(of, -0.4)[0] == pytest.approx(t.sf((mean + 0.4) / error, df))
    assert ratio.guarded_bounds(of, ALPHA)[0] == pytest.approx(mean - t.isf(ALPHA, df) * error)


def test_l_skewness_is_that_of_known_distributions() -> None:
    """0 of a normal, 1/3 of an exponential distribution, and its sign turns with the rows."""
    rng = np.random.default_rng(3)
    normal, exponential = rng.standard_normal(100_000), rng.exponential(size=100_000)
    assert float(ratio.l_skewness(normal)) == pytest.approx(0.0, abs=0.01)
    assert float(ratio.l_skewness(exponential)) == pytest.approx(1 / 3, abs=0.01)
    assert float(ratio.l_skewness(-exponential)) == pytest.approx(-1 / 3, abs=0.01)


def test_pan_and_walls_degrees_are_those_of_normal_rows() -> None:
    """About G - 1 where all clusters say as much, 1 where one says it all."""
    rng = np.random.default_rng(4)
    even = ratio.pan_wall(ratio.estimate_ratio(rng.standard_normal(4000), np.ones(4000)))
    assert 3500 < float(even) < 4000
    one = np.zeros(50)
    one[0] = 1.0
    assert float(ratio.pan_wall(ratio.estimate_ratio(one, np.ones(50)))) < 2.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "highest"), [("pareto", 0.075), ("lognormal", 0.075), ("normal", 0.06), ("share in uneven clusters", 0.06)]
)
def test_false_passes_where_a_tail_hides(what: str, highest: float) -> None:
    """Means of long tails and shares of very uneven clusters pass falsely about as often as they may."""
    rng, runs = np.random.default_rng(5), 1000
    sizes = np.maximum(1, np.round(60 / np.arange(1, 201)))
    tokens = np.round(rng.lognormal(4, 0.8, (runs, 60))) + 1
    if what == "share in uneven clusters":
        weights = np.broadcast_to(sizes, (runs, 200))
        right = rng.binomial(weights.astype(int), rng.beta(0.95, 0.05, (runs, 200)))
        found = mean_tests.make_p_function(ratio.estimate_ratio(right.astype(float), weights), "share", ALPHA)(0.95)
    else:
        nats = {
            "pareto": lambda: 0.5 - rng.pareto(3, (runs, 60)),
            "lognormal": lambda: np.exp(0.32) - rng.lognormal(0, 0.8, (runs, 60)),
            "normal": lambda: rng.standard_normal((runs, 60)),
        }[what]()
        found = mean_tests.make_p_function(ratio.estimate_ratio(nats * tokens, tokens), "ratio", ALPHA)(0.0)
    assert (found[0] <= ALPHA).mean() <= highest


@pytest.mark.slow
def test_false_passes_of_cluster_t_at_the_boundary() -> None:
    """Forty clusters of correlated differences pass about 5 % of the time when they should not."""
    rng = np.random.default_rng(8)
    passed, runs = 0, 1500
    for _ in range(runs):
        sizes = rng.integers(1, 9, 40)
        labels = np.repeat(np.arange(40), sizes)
        values = -0.02 + rng.normal(0, 0.2, 40)[labels] + rng.choice([-0.3, 0.3], len(labels))
        passed += does_pass(hypothesis_tests.cluster_t(values, np.ones(len(labels)), labels.tolist(), -0.02, ALPHA))
    assert 0.5 * ALPHA < passed / runs < 1.3 * ALPHA


# ------------------------------------------------------------------ sign flips, Holm


def test_sign_flips_are_scipys_permutation_test() -> None:
    """Ten pairs: the share of all 1024 sign patterns with as large a mean."""
    rng = np.random.default_rng(14)
    cand, base = rng.normal(0.4, 1, 10), rng.normal(0, 1, 10)
    want = permutation_test(
        (cand, base), lambda c, b: (c - b).mean(), permutation_type="samples", alternative="greater", n_resamples=1024
    )
    assert cluster_means._compute_sign_flip_p(cand - base, ALPHA) == pytest.approx(want.pvalue)
    test = hypothesis_tests.sign_flip(cand.tolist(), base.tolist(), None, ALPHA)
    assert test.p_pass >= want.pvalue
    assert (test.lower > 0) == does_pass(test)


def test_sign_flips_of_zeros_and_ones_are_mcnemar() -> None:
    """9 won and 2 lost: flipping signs is tossing a coin for each row that differs."""
    d = np.array([1.0] * 9 + [-1.0] * 2 + [0.0] * 30)
    assert cluster_means._compute_sign_flip_p(d, ALPHA) == pytest.approx(binom.sf(8, 11, 0.5))
    many = cluster_means._compute_sign_flip_p(
        np.array([1.0] * 30 + [-1.0] * 12), ALPHA
    )  # above 16 clusters by random signs
    assert many == pytest.approx(binom.sf(29, 42, 0.5), abs=0.003)


def test_sign_flips_of_ties_prove_nothing() -> None:
    """Models that never differ, one row, one cluster: no verdict, and flips need whole clusters."""
    same = hypothesis_tests.sign_flip([0.5] * 30, [0.5] * 30, None, ALPHA)
    assert (same.p_pass, same.p_fail) == (1.0, 1.0)
    assert hypothesis_tests.sign_flip([1.0], [0.0], None, ALPHA).p_pass == 1.0
    assert hypothesis_tests.sign_flip([1.0] * 9, [0.0] * 9, ["a"] * 9, ALPHA).p_pass == 1.0
    rng = np.random.default_rng(15)
    cand = (0.1 + rng.normal(0, 1, 40)).tolist()
    labels = list(range(40))
    once = hypothesis_tests.sign_flip(cand, [0.0] * 40, labels, ALPHA)
    twice = hypothesis_tests.sign_flip(cand * 2, [0.0] * 80, labels * 2, ALPHA)
    assert (once.p_pass, once.lower) == pytest.approx((twice.p_pass, twice.lower))


def test_holm_is_statsmodels() -> None:
    """Adjusted p-values in their own order, none below a smaller one, none above 1."""
    for p in ([0.01, 0.04, 0.03, 0.005], [0.5], [0.9, 0.8], [0.02, 0.02, 0.02]):
        assert hypothesis_tests.adjust_holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert hypothesis_tests.adjust_holm([]) == []
    with pytest.raises(ValueError, match="p-values"):
        hypothesis_tests.adjust_holm([math.nan])


# ------------------------------------------------------------------ budgets, bad input


def test_a_budget_is_met_or_not() -> None:
    """A size has no uncertainty: on the budget is within it, one byte over is not."""
    assert (
        hypothesis_tests.compare_exact_value(-100, -100).p_pass,
        hypothesis_tests.compare_exact_value(-100, -100).p_fail,
    ) == (0.0, 1.0)
    assert (
        hypothesis_tests.compare_exact_value(-101, -100).p_pass,
        hypothesis_tests.compare_exact_value(-101, -100).p_fail,
    ) == (1.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_a_number_is_an_error(bad: float) -> None:
    """NaN and infinity raise; they are never a verdict."""
    with pytest.raises(ValueError, match="finite"):
        hypothesis_tests.cluster_t([1.0, bad], [1.0, 1.0], None, 0.5, ALPHA)
    with pytest.raises(ValueError, match="finite"):
        hypothesis_tests.cluster_t([1.0, 0.0], [1.0, bad], None, 0.5, ALPHA)
    with pytest.raises(ValueError, match="finite"):
        hypothesis_tests.cluster_t([1.0, 0.0], [1.0, 1.0], None, bad, ALPHA)
    with pytest.raises(ValueError, match="finite"):
        hypothesis_tests.paired_ratio([1.0, bad], [1.0, 1.0], [1.0, 1.0], None, 0.5, ALPHA)
    with pytest.raises(ValueError, match="finite"):
        hypothesis_tests.compare_exact_value(bad, 1.0)
    with pytest.raises(ValueError, match="finite"):
        hypothesis_tests.cluster_bootstrap(lambda rows: bad, [1, 2, 3], 0.5, ALPHA)
    with pytest.raises(ValueError, match="counts must be integers of 1 or more rows"):
        hypothesis_tests.binomial(bad, 10, 0.5, ALPHA)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        lambda: hypothesis_tests.binomial(0, 0, 0.5, ALPHA),
        lambda: hypothesis_tests.binomial(11, 10, 0.5, ALPHA),
        lambda: hypothesis_tests.binomial(5, 10, 1.5, ALPHA),
        lambda: hypothesis_tests.binomial(5, 10, 0.5, 0.0),
        lambda: hypothesis_tests.tango(6, 6, 10, 0.02, ALPHA),
        lambda: hypothesis_tests.tango(1, 1, 10, 1.0, ALPHA),
        lambda: hypothesis_tests.cluster_t([], [], None, 0.5, ALPHA),
        lambda: hypothesis_tests.cluster_t([1.0], [1.0, 2.0], None, 0.5, ALPHA),
        lambda: hypothesis_tests.cluster_t([1.0, 2.0], [0.0, 0.0], None, 0.5, ALPHA),
        lambda: hypothesis_tests.cluster_t([1.0, 2.0], [1.0, 1.0], ["a"], 0.5, ALPHA),
        lambda: hypothesis_tests.cluster_t([1.0, 2.0], [1.0, 1.0], None, 0.5, ALPHA, support=(0.0, 1.0)),
        lambda: hypothesis_tests.paired_ratio([1.0], [1.0, 2.0], [1.0], None, 0.5, ALPHA),
        lambda: hypothesis_tests.cluster_bootstrap(lambda rows: 0.5, [], 0.5, ALPHA),
    ],
)
def test_empty_or_impossible_input_is_an_error(call: object) -> None:
    """No rows, more successes than rows, lengths that differ: an error, not a number."""
    with pytest.raises(ValueError, match=r"must|outside|weights|values|no rows"):
        call()  # type: ignore[operator]


@pytest.mark.parametrize(("won", "lost"), [(1, 1), (0, 1), (2, 1)])
def test_few_clusters_that_changed_prove_a_margin(won: int, lost: int) -> None:
    """Where many resamples hold no row that changed, one as good as its baseline still differs from a worse one."""
    values = [1.0] * won + [-1.0] * lost + [0.0] * (150 - won - lost)
    clusters = [i % 98 for i in range(150)]
    found = hypothesis_tests.cluster_t(values, [1.0] * 150, clusters, -0.08, 0.05, support=(-1.0, 1.0))
    assert found.p_pass <= 0.05 < found.p_fail
    assert -0.08 < found.lower < found.estimate < found.upper < 0.1
    worse = [-1.0] * 12 + [0.0] * 138
    assert hypothesis_tests.cluster_t(worse, [1.0] * 150, clusters, -0.08, 0.05, support=(-1.0, 1.0)).p_pass > 0.05


def test_a_statistic_without_a_value_on_some_resamples_counts_against_both_sides() -> None:
    """One resample in many that is not a number leaves a p-value, which is not 1."""
    values = [0.1 * i for i in range(40)]

    def mean(rows: Sequence[int]) -> float:
        return float("nan") if len(set(rows)) < 20 else sum(values[i] for i in rows) / len(rows)

    test = hypothesis_tests.cluster_bootstrap(mean, [str(i) for i in range(40)], 1.0, ALPHA)
    assert test.p_pass < 0.05 < test.p_fail


def test_names_and_order_of_clusters_choose_no_resample() -> None:
    """A median of clusters in another order, under other names, has the same bounds."""
    luck = random.Random(1)
    values = [luck.random() for _ in range(60)]
    order = luck.sample(range(60), 60)

    def median(of: list[float], rows: Sequence[int]) -> float:
        return statistics.median(of[i] for i in rows)

    one = hypothesis_tests.cluster_bootstrap(partial(median, values), [str(i // 3) for i in range(60)], 0.4, ALPHA)
    moved = [values[i] for i in order]
    other = hypothesis_tests.cluster_bootstrap(partial(median, moved), [f"z{99 - i // 3}" for i in order], 0.4, ALPHA)
    assert (one.lower, one.upper, one.p_pass) == pytest.approx((other.lower, other.upper, other.p_pass), rel=1e-12)


@pytest.mark.parametrize("support", [(0.0, 1.0), (-1.0, 1.0), None])
def test_clusters_of_equal_weight_are_equal_however_it_was_summed(support: tuple[float, float] | None) -> None:
    """0.1 + 0.2 + 0.7 and 0.7 + 0.2 + 0.1 differ by rounding: neither the order of rows nor a unit changes a test."""
    draw = np.random.default_rng(3)
    weights, clusters = np.tile([0.1, 0.2, 0.7], 30), np.repeat(np.arange(30), 3)
    values = (draw.random(90) < 0.95).astype(float) * (1 if support == (0.0, 1.0) else draw.choice([-1, 1], 90))
    order = draw.permutation(90)
    of = partial(cluster_means.cluster_t, threshold=float(values.mean()) - 0.1, alpha=ALPHA, support=support)
    one = of(values, weights, clusters.tolist())
    for other in (
        of(values[order], weights[order], clusters[order].tolist()),
        of(values, weights * 6, clusters.tolist()),
    ):
        assert (other.method, other.p_pass) == (one.method, pytest.approx(one.p_pass, abs=1e-9))
        assert (other.lower, other.upper) == pytest.approx((one.lower, one.upper), abs=1e-6)


def test_few_clusters_of_drawn_size_are_known() -> None:
    """27 lognormal clusters of sigma 0.8 are too few where sizes are drawn; 80 of them, or ten equal ones, are not."""
    sizes = np.exp(0.8 * norm.ppf((np.arange(1, 81) - 0.5) / 80))
    few = np.sort(sizes)[::-1][np.arange(0, 80, 3)[:27]]
    for weights, approximate in ((few, True), (sizes, False), (np.ones(10), False)):
        test = hypothesis_tests.cluster_t(
            np.resize([0.0, 1.0, 1.0], len(weights)).tolist(),
            weights.tolist(),
            [*map(str, range(len(weights)))],
            0.5,
            ALPHA,
            support=(0, 1),
        )
        assert hypothesis_tests.has_few_drawn_sizes(test.effective) is approximate


@pytest.mark.slow
def test_losses_in_proportion_to_drawn_sizes_pass_as_seldom_as_they_should() -> None:
    """80 clusters of lognormal size that lose in proportion to it: at most 6.5 % of 2,000 runs, where it was 10."""
    draw = dependence_rates.make_sizes_draw(np.random.default_rng(4), 80, 0.8, 0.2, 0.02, pairs=False)
    assert dependence_rates.simulate_cell("", draw, 2000).passed <= 6.5
