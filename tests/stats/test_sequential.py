"""Stopping early: the wealth of Waudby-Smith and Ramdas, its verdicts and its confidence sequence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.simulate import log_wealths
from harness.stats import eprocess, hypothesis_tests
from harness.stats.eprocess import EProcess

ALPHA = 0.05
RANGE = (-1.0, 1.0)


def compute_log_wealth(x: list[float], m: float) -> list[float]:
    """The martingale of arXiv:2010.09686, a row at a time: the mean wealth of six gamblers who bet constant shares."""
    gamblers = [1.0] * 6
    logs = []
    for row in x:
        for i, bet in enumerate((0.06, 0.1, 0.16, 0.27, 0.45, 0.75)):
            gamblers[i] *= 1 + bet / m * (row - m)
        logs.append(math.log(sum(gamblers) / 6))
    return logs


def test_the_wealth_is_that_of_gamblers() -> None:
    """Every row multiplies each gambler's wealth by 1 + bet·(x - m), which is a fair game if the mean is m."""
    x = np.random.default_rng(0).beta(2, 1, 60)
    for rows, at_once in zip((x, 1 - x), log_wealths(np.stack([x, 1 - x]), 0.55), strict=True):
        wealth = eprocess.log_wealth(rows.tolist(), 0.55)
        assert wealth == pytest.approx(compute_log_wealth(rows.tolist(), 0.55))
        assert wealth == pytest.approx(at_once.tolist())  # the twin of simulations
    worst = [eprocess.log_wealth([row], 0.3)[0] for row in (0.0, 1.0)]
    assert 0.7 * math.exp(worst[0]) + 0.3 * math.exp(worst[1]) == pytest.approx(1.0)


@pytest.mark.slow
def test_at_the_boundary_either_verdict_is_rarer_than_alpha_at_every_stopping_time() -> None:
    """2000 runs of 400 rows, looked at after every one: neither side crosses in more than 5 % of them."""
    x = np.random.default_rng(1).choice([0.0, 0.5, 1.0], (2000, 400), p=[0.06, 0.9, 0.04])
    m = 0.49  # a margin of 2 points, and a truth of -2 points
    for wealth in (log_wealths(x, m), log_wealths(1 - x, 1 - m)):
        assert (wealth.max(-1) >= math.log(1 / ALPHA)).mean() <= ALPHA


def test_a_clear_improvement_is_decided_with_less_than_half_of_the_rows() -> None:
    """5 points better at a 2-point margin: 1000 rows are there, fewer than 500 are needed on average."""
    rng = np.random.default_rng(2)
    used = []
    for _ in range(20):
        process = EProcess(-0.02, ALPHA, RANGE)
        test = process.update(rng.choice([-1.0, 0.0, 1.0], 50, p=[0.025, 0.9, 0.075]))
        while test.p_pass > ALPHA and test.n < 1000:
            test = process.update(rng.choice([-1.0, 0.0, 1.0], 50, p=[0.025, 0.9, 0.075]))
        used.append(test.n)
    assert np.mean(used) < 500
    assert test.method == "e-process"


def test_chunks_do_not_matter() -> None:
    """Rows few by few, or all at once: the same wealth and verdict; more looks never widen the interval."""
    rows = np.random.default_rng(3).choice([-1.0, 0.0, 1.0], 300, p=[0.05, 0.85, 0.1])
    one, many = EProcess(-0.02, ALPHA, RANGE), EProcess(-0.02, ALPHA, RANGE)
    whole = one.update(rows)
    for at in range(0, 300, 7):
        last = many.update(rows[at : at + 7])
    for name in ("estimate", "p_pass", "p_fail", "n"):
        assert getattr(last, name) == pytest.approx(getattr(whole, name))
    assert whole.lower <= last.lower < last.upper <= whole.upper


def test_a_verdict_is_never_taken_back() -> None:
    """Once the claim is proven, terrible rows neither unprove it nor refute it."""
    process = EProcess(-0.02, ALPHA, RANGE)
    assert process.update([1.0] * 40).p_pass <= ALPHA
    later = process.update([-1.0] * 400)
    assert later.p_pass <= ALPHA
    assert later.p_fail > ALPHA
    assert later.estimate < -0.5


def test_the_mirror_image_gets_the_mirrored_verdict() -> None:
    """Swapping candidate and baseline turns proof into refutation."""
    rows = np.random.default_rng(4).choice([-1.0, 0.0, 1.0], 200, p=[0.05, 0.7, 0.25])
    one = EProcess(0.05, ALPHA, RANGE).update(rows)
    other = EProcess(-0.05, ALPHA, RANGE).update(-rows)
    assert (one.p_pass, one.p_fail) == pytest.approx((other.p_fail, other.p_pass))
    assert (one.lower, one.upper) == pytest.approx((-other.upper, -other.lower))


def test_the_confidence_sequence_covers_and_closes_in() -> None:
    """The interval holds the truth while rows come in, never grows, and agrees with the verdict."""
    rng = np.random.default_rng(5)
    process = EProcess(0.6, ALPHA, (0.0, 1.0))
    width = 1.0
    for _ in range(20):
        test = process.update(rng.beta(6, 2, 50))
        assert test.lower <= 0.75 <= test.upper
        assert test.upper - test.lower <= width
        width = test.upper - test.lower
        assert (test.lower >= 0.6) == (test.p_pass <= ALPHA)
    assert width < 0.12


def test_ties_decide_only_what_the_rule_of_three_would() -> None:
    """Models that never differ on 100 rows prove nothing at 2 points; on 400 they do."""
    process = EProcess(-0.02, ALPHA, RANGE)
    first = process.update([0.0] * 100)
    assert (first.p_pass > ALPHA) and (first.p_fail > ALPHA)
    assert process.update([0.0] * 300).p_pass <= ALPHA
    assert not hypothesis_tests.tango(0, 0, 100, 0.02, ALPHA).p_pass <= ALPHA


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: EProcess(0.0, ALPHA, RANGE, clustered=True), "clusters"),
        (lambda: EProcess(0.0, ALPHA, None), "no known range"),
        (lambda: EProcess(0.0, ALPHA, (0.0, math.inf)), "no known range"),
        (lambda: EProcess(1.0, ALPHA, (0.0, 1.0)), "within"),
        (lambda: EProcess(math.nan, ALPHA, (0.0, 1.0)), "within"),
        (lambda: EProcess(0.5, 0.0, (0.0, 1.0)), "alpha"),
        (lambda: EProcess(0.5, ALPHA, (0.0, 1.0)).update([math.nan]), "range"),
        (lambda: EProcess(0.5, ALPHA, (0.0, 1.0)).update([1.5]), "range"),
        (lambda: EProcess(0.5, ALPHA, (0.0, 1.0)).update([]), "at least one"),
    ],
)
def test_what_cannot_be_stopped_early_is_refused(call: object, says: str) -> None:
    """Clusters, unbounded scores, NaN, no rows: an error with the reason, never a verdict."""
    with pytest.raises(ValueError, match=says):
        call()  # type: ignore[operator]
