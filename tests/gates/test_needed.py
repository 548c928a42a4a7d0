"""Rows that would decide a claim: a range, and never less than the exact minimum."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.gates.sample_size import SampleSize, estimate_sample_size
from harness.stats import hypothesis_tests as stats
from harness.stats import power

ALPHA = 0.05


def estimate_needed_rows(test: stats.Test, threshold: float, discordance: float | None = None) -> SampleSize:
    found = estimate_sample_size(test, threshold, ALPHA, discordance)
    assert found is not None
    return found


def test_equal_models_need_what_the_table_of_the_design_says() -> None:
    """Discordance 10 %, margin 2 points, alpha 5 %, power 80 % need 1,565 rows; 400 tell too little for a range."""
    found = estimate_needed_rows(stats.tango(20, 20, 400, 0.02, ALPHA), -0.02, 0.1)
    assert found.rows == power.search_rows(lambda n: power.pairs_power(0.0, 0.02, 0.1, int(n), ALPHA), start=1500)
    assert found.rows == pytest.approx(1546, rel=0.02)
    assert (found.least, found.most) == (401, None)


@pytest.mark.parametrize(("discordance", "truth"), [(0.1, 0.0), (0.2, 0.02), (0.3, 0.04)])
def test_range_of_pairs_holds_the_rows_of_the_truth(discordance: float, truth: float) -> None:
    """Drawn 200 times on 150 rows with a limit of -5 points: eight of ten ranges hold what it takes, within five."""
    needs = power.search_rows(lambda n: power.pairs_power(truth, 0.05, discordance, int(n), ALPHA), start=50) or 0
    each = [(discordance + truth) / 2, (discordance - truth) / 2, 1 - discordance]
    drawn = {tuple(map(int, x)) for x in np.random.default_rng(1).multinomial(150, each, 200)}
    tests = [(stats.tango(b, c, 150, 0.05, ALPHA), (b + c) / 150) for b, c, _ in drawn]
    open_yet = [(t, d) for t, d in tests if min(t.p_pass, t.p_fail) > ALPHA and t.estimate > -0.05]
    found = [estimate_needed_rows(t, -0.05, d) for t, d in open_yet]
    told = [(n.least or 0, n.most) for n in found if n.most is not None]
    assert len(told) > 10
    assert np.mean([least <= max(needs, 151) <= most for least, most in told]) >= 0.8
    assert all(most <= 5.1 * least for least, most in told)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("test", "threshold", "discordance"),
    [
        (stats.binomial(85, 100, 0.8, ALPHA), 0.8, None),
        (stats.binomial(75, 100, 0.8, ALPHA), 0.8, None),
        (stats.mcnemar(14, 8, 100, ALPHA), 0.0, 0.22),
        (stats.mcnemar(8, 14, 100, ALPHA), 0.0, 0.22),
    ],
)
def test_rows_at_the_estimate_have_the_power_of_the_exact_test(
    test: stats.Test, threshold: float, discordance: float | None
) -> None:
    """If the estimate is the truth, they decide 80 % of the time, on either side of the threshold."""
    rows, distance = estimate_needed_rows(test, threshold, discordance).rows, abs(test.estimate - threshold)
    if discordance:
        chance = power.pairs_power(distance, 0.0, discordance, rows, ALPHA)
    else:
        low = threshold if test.estimate > threshold else 1 - threshold
        chance = power.share_power(low + distance, low, rows, ALPHA)
    assert chance == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(
    ("test", "threshold", "discordance", "least"),
    [
        (stats.binomial(30, 30, 0.95, ALPHA), 0.95, None, 59),  # 0.95^59 < 5 %
        (stats.mcnemar(4, 0, 4, ALPHA), 0.0, 1.0, 5),  # 0.5^5 < 5 %
        (stats.tango(0, 0, 50, 0.05, ALPHA), -0.05, 0.0, 59),
        (stats.tango(0, 0, 50, 0.02, ALPHA), -0.02, 0.0, 149),
    ],
)
def test_never_less_than_the_exact_tests_need(
    test: stats.Test, threshold: float, discordance: float | None, least: int
) -> None:
    """Not even where the estimate is perfect, with which an error of nothing would promise anything."""
    found = estimate_needed_rows(test, threshold, discordance)
    assert found.least is None or found.least >= least
    assert found.rows >= least
    before = least - 1
    perfect = {
        "exact binomial": lambda n: stats.binomial(n, n, threshold, ALPHA),
        "McNemar unconditional": lambda n: stats.mcnemar(n, 0, n, ALPHA),
        "Tango score": lambda n: stats.tango(0, 0, n, -threshold, ALPHA),
    }[test.method]
    assert perfect(before).p_pass > ALPHA >= perfect(least).p_pass


def test_estimate_near_the_threshold_bounds_the_rows_from_below_only() -> None:
    """Where the middle half of what the truth may be reaches over the threshold, no number is enough for sure."""
    found = estimate_needed_rows(stats.binomial(164, 200, 0.8, ALPHA), 0.8)
    assert found.least is not None
    assert found.most is None
    assert 200 < found.least < found.rows
    close = estimate_needed_rows(stats.binomial(163, 200, 0.8, ALPHA), 0.8)
    assert (close.rows > 20 * 200, close.least, close.most) == (True, None, None)


def test_range_holds_the_rows_of_the_truth() -> None:
    """One model of 0.84 against 0.8, measured 400 times on 200 rows: an estimate is wrong by a factor of ten, but the
    ranges that are told hold the rows that it takes."""
    truth = power.search_rows(lambda n: power.share_power(0.84, 0.8, int(n), ALPHA))
    rights = np.random.default_rng(0).binomial(200, 0.84, 400).tolist()
    tests = [stats.binomial(k, 200, 0.8, ALPHA) for k in rights]
    found = [n for t in tests if min(t.p_pass, t.p_fail) > ALPHA and (n := estimate_sample_size(t, 0.8, ALPHA))]
    assert truth is not None
    assert max(n.rows for n in found) > 10 * min(n.rows for n in found)
    told = [n for n in found if n.least is not None]
    assert len(told) > 100
    assert np.mean([(n.least or 0) <= truth <= (n.most or math.inf) for n in told]) > 0.9


def test_none_where_no_number_of_rows_would_do() -> None:
    """On the threshold, or with unknown spread, there is no answer."""
    assert estimate_sample_size(stats.binomial(80, 100, 0.8, ALPHA), 0.8, ALPHA) is None
    assert estimate_sample_size(stats.cluster_t([0.5] * 9, [1.0] * 9, None, 0.4, ALPHA), 0.4, ALPHA) is None
    assert estimate_sample_size(stats.compare_exact_value(3, 4), 4, ALPHA) is None
    values = [0.4, 0.6] * 10
    open_yet = stats.cluster_t(values, [1.0] * 20, None, 0.48, ALPHA)
    assert estimate_needed_rows(open_yet, 0.48).rows > 20
