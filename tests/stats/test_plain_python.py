"""The tests of 0/1 rows in plain Python, held against the same on arrays with scipy, over drawn tables."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats as distributions

from harness.gates.paired_rows_needed import predict_rows_range
from harness.stats import binomials, power, ratio, shares, tango, unconditional
from tests.helpers import tables_at_once

NINE_DIGITS = 1e-9
ROUNDING = 1e-12  # absolute: the arrays take small p-values from 1
DIFFERENCES = (-0.3, -0.1, -0.05, -0.02, -0.01, 0.0, 0.02, 0.05, 0.1, 0.5)


def draw_tables(count: int, sizes: tuple[int, ...], seed: int) -> Iterator[tuple[int, int, int]]:
    """Yield wins, losses and rows, where few rows changed and where many did."""
    luck = random.Random(seed)
    for _ in range(count):
        n = luck.choice(sizes)
        changed = (
            luck.randint(0, n) if luck.random() < 0.4 else min(n, 1 + int(n * luck.choice([0.02, 0.05, 0.1, 0.2])))
        )
        wins = luck.randint(0, changed)
        yield wins, changed - wins, n


@pytest.mark.slow
def test_tango_is_that_of_arrays() -> None:
    """Score, exact p-values and the inverted score of 2,000 tables have nine digits."""
    luck = random.Random(1)
    for wins, losses, n in draw_tables(2000, (1, 2, 5, 20, 60, 120, 400, 1500), seed=2):
        d0 = luck.choice(DIFFERENCES)
        score = float(tables_at_once.score_statistic(wins, losses, n, d0))
        assert tango.score_statistic(wins, losses, n, d0) == pytest.approx(score, rel=NINE_DIGITS)
        expected = tables_at_once.exact_p(wins, losses, n, d0)
        assert tango.exact_p(wins, losses, n, d0) == pytest.approx(expected, rel=NINE_DIGITS, abs=ROUNDING)
        for z in (1.645, -3.1):
            bound = tables_at_once.invert_statistic(wins, losses, n, z)
            assert tango.invert_statistic(wins, losses, n, z) == pytest.approx(bound, abs=NINE_DIGITS)


@pytest.mark.slow
def test_bounds_of_tango_are_those_of_arrays() -> None:
    """The same bisection comes to the same bound."""
    luck = random.Random(3)
    for wins, losses, n in draw_tables(60, (5, 20, 60, 120, 400, 1500), seed=4):
        about = wins, losses, n, luck.choice(DIFFERENCES), luck.choice([0.1, 0.05, 0.01, 1e-4])
        assert tango.exact_bound(*about) == pytest.approx(tables_at_once.exact_bound(*about), abs=NINE_DIGITS)


def test_many_tables_at_once_have_the_score_of_each() -> None:
    """The twin that simulations and clusters use."""
    tables = np.array(list(draw_tables(1000, (1, 30, 700), seed=5)), dtype=float)
    for d0 in (*DIFFERENCES, 1.0):
        scores = ratio.score_statistics(tables[:, 0], tables[:, 1], tables[:, 2], d0)
        assert scores.tolist() == pytest.approx([tango.score_statistic(*table, d0) for table in tables.tolist()])


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20, 40, 67, 100])
def test_the_unconditional_test_is_that_of_arrays(n: int) -> None:
    """Its p-values, of tables with more wins and with more losses."""
    expected = tables_at_once.tabulate_p(n)
    for wins, losses, _ in draw_tables(40, (n,), seed=n):
        assert unconditional.exact_p(wins, losses, n) == pytest.approx(expected[wins, losses], rel=NINE_DIGITS)


@pytest.mark.parametrize("n", [1, 3, 7, 20, 67, 100, 101, 150, 300, 1000, 10_000])
@pytest.mark.parametrize("alpha", [0.5, 0.1, 0.05, 0.025, 0.01, 1e-4, 1e-6])
def test_fewest_wins_of_mcnemar_are_those_of_arrays(n: int, alpha: float) -> None:
    """For every number of changed rows, by the unconditional test, the mid-p and the exact test."""
    changed = range(min(n, 800) + 1)
    expected = tables_at_once.min_mcnemar_wins(np.array(changed), n, alpha)
    assert shares.min_mcnemar_wins(changed, n, alpha) == expected.tolist()
    assert shares.is_midp_valid(n, alpha) == tables_at_once.is_midp_valid(n, alpha)


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 80, 100, 150, 1000, 20_000])
def test_power_of_pairs_is_that_of_arrays(n: int) -> None:
    """On the margin and beside it."""
    luck = random.Random(n)
    for _ in range(6):
        discordance = luck.choice([0.02, 0.1, 0.3])
        about = (
            discordance * luck.uniform(-1, 1),
            luck.choice([0.0, 0.02, 0.1]),
            discordance,
            n,
            luck.choice([0.05, 0.01]),
        )
        assert power.pairs_power(*about) == pytest.approx(
            tables_at_once.pairs_power(*about), rel=NINE_DIGITS, abs=ROUNDING
        )


@pytest.mark.slow
def test_forecasts_of_rows_are_those_of_arrays() -> None:
    """Both ends of the range, of 300 inconclusive tables."""
    luck = random.Random(6)
    for wins, losses, n in draw_tables(300, (20, 100, 400, 1500), seed=7):
        threshold = luck.choice([-0.1, -0.02, 0.0, 0.05])
        about = wins, losses, n, threshold, luck.choice([1, -1]), luck.choice([0.05, 0.01]), 20 * n
        assert predict_rows_range(*about) == pytest.approx(tables_at_once.predict_rows_range(*about), rel=NINE_DIGITS)


@pytest.mark.parametrize("share", [0.0, 1e-12, 0.003, 0.4, 0.5, 0.97, 1.0])
def test_tails_that_follow_one_another_are_those_of_scipy(share: float) -> None:
    """Wherever the fewest successes lie, also where they jump, and also tails of 1e-200."""
    luck = random.Random(8)
    for slope in (0.0, 0.05, 0.5, 0.99, 1.0):
        trials = range(luck.randint(0, 5), 700)
        fewest = [max(int(slope * n) + luck.choice([0, 0, 0, 0, 40]) * (n % 100 == 0), 0) for n in trials]
        expected = distributions.binom.sf(np.array(fewest) - 1, np.array(trials), share)
        assert binomials.tails(trials, fewest, share) == pytest.approx(expected.tolist(), rel=NINE_DIGITS, abs=1e-290)
        chances = distributions.binom.pmf(np.array(trials), 700, share)
        assert binomials.probabilities(trials, 700, share) == pytest.approx(
            chances.tolist(), rel=NINE_DIGITS, abs=1e-290
        )


def test_pairs_are_judged_without_numpy() -> None:
    """Both paired tests, their bounds and their forecasts."""
    code = """
import sys
from harness.gates.sample_size import estimate_sample_size
from harness.stats import shares
for n in (90, 2000):
    estimate_sample_size(shares.mcnemar(n // 10, n // 12, n, 0.05), 0.0, 0.05, 0.2)
    estimate_sample_size(shares.tango(9, 8, n, 0.02, 0.05), -0.02, 0.05, 0.2)
assert not {"numpy", "scipy"} & sys.modules.keys()
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
