"""Power: what a gate can prove, against enumeration, simulation, statsmodels and the tables of the design."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.power import TTestPower

from harness import pairs, power, stats

ALPHA = 0.05


def test_power_of_a_share_is_summed_over_all_outcomes() -> None:
    """88 rows: as often as `stats.binomial` proves it, over every number of right answers."""
    for n, truth, threshold in ((88, 0.9, 0.8), (50, 0.99, 0.95), (20, 0.5, 0.5)):
        proves = [k for k in range(n + 1) if stats.binomial(k, n, threshold, ALPHA).p_pass <= ALPHA]
        want = float(binom.pmf(proves, n, truth).sum())
        assert power.share_power(truth, threshold, n, ALPHA) == pytest.approx(want)
    assert power.share_power(1.0, 1.0, 1000, ALPHA) == 0.0  # perfection cannot be proven


def test_power_at_margin_0_is_mcnemars() -> None:
    """Summed over every number of rows that differ and every number won of them."""
    n, discordance, difference = 60, 0.2, 0.1
    want = sum(
        binom.pmf(k, n, discordance) * binom.pmf(b, k, 0.75)
        for k in range(1, n + 1)
        for b in range(k + 1)
        if stats.mcnemar(b, k - b, n, ALPHA).p_pass <= ALPHA
    )
    assert power.pairs_power(difference, 0.0, discordance, n, ALPHA) == pytest.approx(want)


@pytest.mark.parametrize(("n", "discordance", "margin"), [(200, 0.2, 0.05), (200, 0.1, 0.05), (400, 0.1, 0.02)])
def test_power_at_a_margin_is_near_tangos_exact_one(n: int, discordance: float, margin: float) -> None:
    """The normal formula is within two and a half points of the sum over all tables, for equal models."""
    exact = 0.0
    for k in range(n + 1):
        chance = binom.pmf(k, n, discordance)
        if chance > 1e-6:
            wins = np.arange(k + 1, dtype=float)
            proves = pairs.statistic(wins, k - wins, n, -margin) >= 1.6449
            exact += chance * binom.pmf(wins, k, 0.5)[proves].sum()
    assert power.pairs_power(0.0, margin, discordance, n, ALPHA) == pytest.approx(exact, abs=0.025)


@pytest.mark.parametrize(
    ("margin", "discordance", "rows"), [(0.01, 0.1, 6183), (0.02, 0.1, 1546), (0.03, 0.2, 1374), (0.05, 0.2, 495)]
)
def test_rows_needed_are_the_table_of_the_design(margin: float, discordance: float, rows: int) -> None:
    """Not worse by more than m, equal models, power 80 %: near (z+z)²·discordance/m², a little above it."""
    needed = power.rows_for(lambda n: power.pairs_power(0.0, margin, discordance, n, ALPHA))
    assert needed is not None
    assert rows <= needed <= 1.05 * rows


def test_power_of_a_mean_is_statsmodels() -> None:
    """The noncentral t, one-sided."""
    want = TTestPower().power(0.2, 120, ALPHA, alternative="larger")
    assert power.mean_power(0.55, 0.5, 0.25, 120, ALPHA) == pytest.approx(want)
    few = power.mean_power(0.55, 0.5, 0.25, 120, ALPHA, clusters=6)
    assert few < want
    assert power.mean_power(0.55, 0.5, 0.25, 120, ALPHA, clusters=1) == 0.0


def test_power_of_a_clustered_mean_is_what_simulation_finds() -> None:
    """40 clusters of 1 to 8 rows with correlation 0.3: the design effect gives the power of `cluster_t`."""
    rng = np.random.default_rng(0)
    passed = 0
    effects = []
    for _ in range(300):
        sizes = rng.integers(1, 9, 40)
        labels = np.repeat(np.arange(40), sizes)
        rows = 0.12 + math.sqrt(0.3) * 0.4 * rng.normal(size=40)[labels]
        rows += math.sqrt(0.7) * 0.4 * rng.normal(size=len(labels))
        passed += stats.cluster_t(rows.tolist(), [1.0] * len(rows), labels.tolist(), 0.0, ALPHA).p_pass <= ALPHA
        effects.append(len(rows) / power.design_effect(sizes.tolist(), 0.3))
    assert power.mean_power(0.12, 0.0, 0.4, float(np.mean(effects)), ALPHA, 40) == pytest.approx(passed / 300, abs=0.07)


def test_design_effect_and_effective_rows() -> None:
    """Equal clusters of m rows: 1 + (m - 1)·icc; equal weights: the rows themselves."""
    assert power.design_effect([5] * 20, 0.25) == pytest.approx(2.0)
    assert power.design_effect([1] * 20, 0.25) == 1.0
    assert power.effective_rows([3.0] * 20) == pytest.approx(20)
    assert power.effective_rows([1.0, 0.0, 0.0]) == 1.0


def test_the_smallest_margin_has_the_power_asked_for() -> None:
    """Bisection finds where the power crosses 80 %, and says None where no margin has it."""
    found = power.smallest_margin(lambda m: power.pairs_power(0.0, m, 0.2, 500, ALPHA), 0.5)
    assert found == pytest.approx(0.05, abs=0.001)
    assert power.pairs_power(0.0, found, 0.2, 500, ALPHA) >= 0.8
    assert power.smallest_margin(lambda m: power.pairs_power(0.0, m, 0.2, 5, ALPHA), 0.05) is None
    assert power.rows_for(lambda n: 0.5) is None


def test_five_gates_of_80_percent_pass_together_a_third_of_the_time() -> None:
    """Independent ones: 0.8^5; however they depend, between none at all and the least of them."""
    assert power.joint_power([0.8] * 5) == pytest.approx((0.32768, 0.0, 0.8))
    assert power.joint_power([0.9, 0.95]) == pytest.approx((0.855, 0.85, 0.9))
    assert power.joint_power([]) == (1.0, 1.0, 1.0)


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
    with pytest.raises(ValueError, match=r"fit|want"):
        call()  # type: ignore[operator]
