"""Power: what a gate can prove, against enumeration, simulation, statsmodels and the tables of the design."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.power import TTestPower

from bench import plan_rates
from harness.planning.resampling import EmpiricalRows
from harness.stats import hypothesis_tests, power, tango

ALPHA = 0.05


def test_power_of_a_share_is_summed_over_all_outcomes() -> None:
    """88 rows: as often as `stats.binomial` proves it, over every number of right answers."""
    for n, truth, threshold in ((88, 0.9, 0.8), (50, 0.99, 0.95), (20, 0.5, 0.5)):
        proves = [k for k in range(n + 1) if hypothesis_tests.binomial(k, n, threshold, ALPHA).p_pass <= ALPHA]
        want = float(binom.pmf(proves, n, truth).sum())
        assert power.share_power(truth, threshold, n, ALPHA) == pytest.approx(want)
    assert power.share_power(1.0, 1.0, 1000, ALPHA) == 0.0  # perfection cannot be proven


@pytest.mark.slow
def test_power_at_margin_0_is_mcnemars() -> None:
    """Summed over every number of rows that differ and every number won of them."""
    n, discordance, difference = 60, 0.2, 0.1
    want = sum(
        binom.pmf(k, n, discordance) * binom.pmf(b, k, 0.75)
        for k in range(1, n + 1)
        for b in range(k + 1)
        if hypothesis_tests.mcnemar(b, k - b, n, ALPHA).p_pass <= ALPHA
    )
    assert power.pairs_power(difference, 0.0, discordance, n, ALPHA) == pytest.approx(want)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "discordance", "margin"), [(50, 0.1, 0.05), (60, 0.05, 0.02), (200, 0.1, 0.05)])
def test_power_at_a_margin_is_tangos(n: int, discordance: float, margin: float) -> None:
    """Summed over every table that `stats.tango` proves it on, for equal models; of many rows to half a point."""
    exact = 0.0
    for k in range(n + 1):
        chance = binom.pmf(k, n, discordance)
        if chance > 1e-4:
            proves = [b for b in range(k + 1) if tango.exact_p(b, k - b, n, -margin)[0] <= ALPHA]
            exact += chance * binom.pmf(proves, k, 0.5).sum()
    assert power.pairs_power(0.0, margin, discordance, n, ALPHA) == pytest.approx(exact, abs=0.005)


@pytest.mark.parametrize(
    ("margin", "discordance", "rows"), [(0.01, 0.1, 6183), (0.02, 0.1, 1546), (0.03, 0.2, 1374), (0.05, 0.2, 495)]
)
def test_rows_needed_are_the_table_of_the_design(margin: float, discordance: float, rows: int) -> None:
    """Not worse by more than m, equal models, power 80 %: near (z+z)²·discordance/m², a little above it."""
    needed = power.search_rows(lambda n: power.pairs_power(0.0, margin, discordance, n, ALPHA))
    assert needed is not None
    assert rows <= needed <= 1.05 * rows


def test_power_of_a_mean_is_statsmodels() -> None:
    """The noncentral t, one-sided."""
    want = TTestPower().power(0.2, 120, ALPHA, alternative="larger")
    assert power.mean_power(0.55, 0.5, 0.25, 120, ALPHA) == pytest.approx(want)
    assert power.mean_power(0.55, 0.5, 0.25, 1, ALPHA) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    [
        "binomial, n = 88",
        "McNemar, n = 60",
        "share in 10 clusters",
        "pairs in 20 clusters of Zipf",
        "score, Beta(1, 0.1), n = 50",
        "mean, log-normal(0.8), n = 50",
        "perplexity, t(4), n = 50",
    ],
)
def test_power_that_is_told_is_how_often_gates_pass(where: str) -> None:
    """Rows drawn afresh and judged one by one pass as often as the plan says: 3 points, and two standard errors."""
    rng, cell = np.random.default_rng(8), plan_rates.find(where)
    assert cell.told(rng, known=20_000) == pytest.approx(cell.seen(rng, 500), abs=3 + 2 * 2.5)


@pytest.mark.parametrize("where", ["pairs in 20 clusters of Zipf", "mean, log-normal(0.8), n = 50", "McNemar, n = 60"])
def test_power_is_0_where_the_risk_is_approximate_and_the_gate_blocks(where: str) -> None:
    """A verdict of approximate risk does not pass a gate that blocks; one that warns has its power."""
    case = plan_rates.find(where).case(np.random.default_rng(8), 1000)
    passes = {}
    for severity, allowed in (("block", False), ("block", True), ("warn", False)):
        gate = replace(case.gate, severity=severity, allow_approximate=allowed)
        passes[severity, allowed] = replace(case, gate=gate).chance
    assert passes["block", True] == passes["warn", False] > 0.05
    assert passes["block", False] == (passes["block", True] if "McNemar" in where else 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "where", ["share in 20", "pairs in 40", "score, Beta(1, 0.1), n = 50", "perplexity, t(4), n = 50"]
)
def test_what_is_searched_for_has_the_power_asked_for(where: str) -> None:
    """The rows that are told make the claim 80 % sure when they are drawn, and so does the claim that is told."""
    case = plan_rates.find(where).case(np.random.default_rng(4), 5000)
    rows = case.needed()
    assert rows is not None
    assert case.power(case.truth, case.bound, rows / case.n) == pytest.approx(0.8, abs=0.05)
    if case.minimum_detectable is not None:
        assert case.power(case.minimum_detectable, case.bound) == pytest.approx(0.8, abs=0.05)


def test_all_cells_of_the_page_are_found_by_their_names() -> None:
    """There are more than 24, of every kind of test; what is more than 3 points off is bold."""
    names = [cell.where for cell in plan_rates.list_cells()]
    assert len(set(names)) == len(names) > 24
    assert plan_rates.mark(50.0, 54.0) == "**50.0**"
    assert plan_rates.mark(50.0, 52.0) == "50.0"


def test_correlation_within_clusters_is_found_in_an_earlier_run() -> None:
    """Of 2,000 clusters of 1 to 8 rows, Dirichlet-multinomial with 0.3, the analysis of variance finds 0.3."""
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(2000), rng.integers(1, 9, 2000))
    ours, theirs, ones = plan_rates.make_binary_draw(0.7, 0.1, 0.3, 0.3)(rng, clusters)
    labels = tuple(str(c) for c in clusters)
    for values in (ours, ours - theirs):
        found = EmpiricalRows(tuple(values.tolist()), tuple(ones.tolist()), labels, None).icc
        assert found == pytest.approx(0.3, abs=0.03)
    assert EmpiricalRows((0.0, 1.0), (1.0, 1.0), None, None).icc is None


def test_design_effect() -> None:
    """Equal clusters of m rows: 1 + (m - 1)·icc."""
    assert power.design_effect([5] * 20, 0.25) == pytest.approx(2.0)
    assert power.design_effect([1] * 20, 0.25) == 1.0


def test_the_smallest_margin_has_the_power_asked_for() -> None:
    """Bisection finds where the power crosses 80 %, and says None where no margin has it."""
    found = power.search_power(lambda m: power.pairs_power(0.0, m, 0.2, 500, ALPHA), 0.0, 0.5)
    assert found == pytest.approx(0.05, abs=0.001)
    assert power.pairs_power(0.0, found, 0.2, 500, ALPHA) >= 0.8
    assert power.search_power(lambda m: power.pairs_power(0.0, m, 0.2, 5, ALPHA), 0.0, 0.05) is None
    assert power.search_rows(lambda n: 0.5) is None


def test_a_formula_is_moved_to_what_is_drawn() -> None:
    """A formula that promises too much leads to the rows that are needed, in two steps."""
    needed = power.search_with_correction(
        power.search_rows,
        lambda n: power.normal_deviate(0.1, math.sqrt(0.2 / n), ALPHA),
        lambda n: NormalDist().cdf(power.normal_deviate(0.1, math.sqrt(0.3 / n), ALPHA)),
    )
    assert needed == pytest.approx((1.645 + 0.842) ** 2 * 0.3 / 0.01, abs=3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: power.pairs_power(0.3, 0.02, 0.1, 100, ALPHA),
        lambda: power.mean_power(0.5, 0.4, 0.0, 100, ALPHA),
        lambda: power.mean_power(0.5, 0.4, math.nan, 100, ALPHA),
    ],
)
def test_impossible_assumptions_are_errors(call: object) -> None:
    """More difference than discordance, a spread of nothing: an error, not a power."""
    with pytest.raises(ValueError, match=r"impossible|must"):
        call()  # type: ignore[operator]
