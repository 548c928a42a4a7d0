"""The binomial distribution in plain Python, held against scipy."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy.stats import binom

from harness.stats import binomials

NINE_DIGITS = 1e-9
SHARES = st.just(0.0) | st.floats(1e-150, 1)  # below, scipy's own derivative overflows
TRIALS = st.sampled_from([1, 2, 5, 30, 100, 1_000, 10_000, 1_000_000])


@given(TRIALS, SHARES, st.floats(-8, 8))
def test_probability_and_tail_are_those_of_scipy(trials: int, share: float, deviations: float) -> None:
    """Near the mean and far from it, both have nine digits and more."""
    spread = (trials * share * (1 - share)) ** 0.5
    successes = min(max(round(trials * share + deviations * spread), 0), trials)
    probability = binom.pmf(successes, trials, share)
    tail = special.betainc(successes, trials - successes + 1, share) if successes else 1.0
    assert binomials.probability(successes, trials, share) == pytest.approx(probability, rel=NINE_DIGITS, abs=1e-290)
    assert binomials.tail(successes, trials, share) == pytest.approx(tail, rel=NINE_DIGITS, abs=1e-290)


@pytest.mark.parametrize("share", [5e-324, 2.2250738585072014e-308, 1e-200])
def test_tiny_shares_have_no_success(share: float) -> None:
    """Also where scipy overflows."""
    assert (binomials.probability(0, 30, share), binomials.tail(0, 30, share)) == (1.0, 1.0)
    assert binomials.tail(1, 30, share) == pytest.approx(30 * share, rel=NINE_DIGITS, abs=1e-290)


@given(TRIALS, st.floats(0, 1), st.sampled_from([0.5, 0.1, 0.05, 0.01, 1e-4, 1e-9]))
def test_bounds_of_a_share_are_those_of_scipy(trials: int, part: float, alpha: float) -> None:
    """Clopper and Pearson's bounds are quantiles of the beta distribution."""
    successes = round(part * trials)
    lower = special.betaincinv(successes, trials - successes + 1, alpha) if successes else 0.0
    upper = 1 - special.betaincinv(trials - successes, successes + 1, alpha) if successes < trials else 1.0
    assert binomials.clopper_pearson(successes, trials, alpha) == pytest.approx((lower, upper), rel=NINE_DIGITS)


@given(TRIALS, st.floats(0.001, 0.999), st.sampled_from([0.5, 0.05, 0.01, 1e-6]))
def test_fewest_successes_are_those_of_scipy(trials: int, share: float, alpha: float) -> None:
    """Their tail is at most alpha, and that of one success fewer is not."""
    fewest = binomials.min_successes(trials, share, alpha)
    assert binom.sf(fewest - 1, trials, share) <= alpha * (1 + NINE_DIGITS)
    assert not fewest or binom.sf(fewest - 2, trials, share) > alpha * (1 - NINE_DIGITS)


def test_a_share_is_tested_without_numpy() -> None:
    """One share of 0/1 rows, its bounds and its power load neither numpy nor scipy."""
    code = (
        "import sys; from harness.stats import power, shares; shares.binomial(83, 100, 0.8, 0.05); "
        "power.share_power(0.9, 0.8, 200, 0.05); assert not {'numpy', 'scipy'} & sys.modules.keys()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
