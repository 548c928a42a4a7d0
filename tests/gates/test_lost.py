"""Values that were lost count against whatever a gate claims."""

from __future__ import annotations

import pytest

from harness.gates.decide import decide
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample, Score
from harness.records.verdicts import Outcome, Verdict
from harness.stats.hypothesis_tests import binomial, tango

WINS = Metric("wins", "higher", "proportion")
FAULTS = Metric("faults", "lower", "proportion")


def make_result(values: list[float | None], name: str = "merged", metric: str = "wins") -> Result:
    """Return 0/1 rows; of None the value was lost."""
    scores = []
    for i, value in enumerate(values):
        lost = {"weights": {metric: 0.0}, "lost": (metric,)} if value is None else {}
        scores.append(Score(str(i), {metric: 0.0 if value is None else value}, **lost))  # type: ignore[arg-type]
    return Result(name, "chat", tuple(scores), {}, f"digest of {name}")


def decide_gate(claim: dict[str, object], metric: Metric, ours: Result, theirs: Result | None = None) -> Verdict:
    gate = Gate("g", f"chat.{metric.name}", "suite.toml", **claim)  # type: ignore[arg-type]
    samples = [Sample(str(i)) for i in range(len(ours.scores))]
    return decide(gate, metric, ours, theirs, samples, 0.05, name="merged")


def make_values(right: int, wrong: int, lost: int) -> list[float | None]:
    return [1.0] * right + [0.0] * wrong + [None] * lost


@pytest.mark.parametrize(
    ("claim", "metric", "worst", "best"),
    [
        ({"min": 0.5}, WINS, 60, 66),
        ({"max": 0.5}, WINS, 66, 60),
        ({"max": 0.5}, FAULTS, 66, 60),
    ],
)
def test_a_claim_about_a_number(claim: dict[str, object], metric: Metric, worst: int, best: int) -> None:
    """Lost rows are the worst there are where a claim is proven, and the best where it is refuted."""
    found = decide_gate(claim, metric, make_result(make_values(60, 54, 6), metric=metric.name))
    prove, refute = (binomial(right, 120, 0.5, 0.05) for right in (worst, best))
    p = (prove.p_pass, refute.p_fail) if "min" in claim else (prove.p_fail, refute.p_pass)
    assert (found.p_pass, found.p_fail) == pytest.approx(p)
    assert found.n == 120
    assert found.estimate == pytest.approx(60 / 114)
    few, many = (binomial(right, 120, 0.5, 0.05) for right in (60, 66))
    assert (found.lower, found.upper) == pytest.approx((few.lower, many.upper))


def test_a_claim_about_a_baseline() -> None:
    """A row that the candidate lost a value of is one that it lost; one that the baseline did is one that it won."""
    ours = make_values(100, 20, 0)
    theirs = list(ours)
    ours[0] = theirs[1] = None
    claim: dict[str, object] = {"versus": "base", "worse_by_at_most": 0.05}
    found = decide_gate(claim, WINS, make_result(ours), make_result(theirs, "base"))
    assert found.p_pass == pytest.approx(tango(0, 1, 120, 0.05, 0.05).p_pass)
    assert found.p_fail == pytest.approx(tango(1, 0, 120, 0.05, 0.05).p_fail)


@pytest.mark.slow
def test_a_judge_that_refuses_on_what_is_bad_does_not_pass_more_often() -> None:
    """2 % of 300 rows lost, all of them answers that people would not prefer: 5 % at most, where it was 9 %."""
    from scipy.stats import binom

    def passed(right: int) -> bool:
        return decide_gate({"min": 0.5}, WINS, make_result(make_values(right, 294 - right, 6))).outcome is Outcome.PASS

    fewest = next(right for right in range(150, 200) if passed(right))
    assert binom.sf(fewest - 1, 300, 0.5) <= 0.05
    without = next(right for right in range(147, 200) if binom.sf(right - 1, 294, 0.5) <= 0.05)
    assert binom.sf(without - 1, 300, 0.5) > 0.09


def test_what_is_told_is_of_the_rows_that_are_known() -> None:
    """Value, baseline and estimate are of one set of rows, so whoever verifies comes to the same."""
    ours, theirs = make_values(100, 20, 0), make_values(80, 40, 0)
    ours[0] = theirs[119] = None
    found = decide_gate({"versus": "base", "better_by": 0.0}, WINS, make_result(ours), make_result(theirs, "base"))
    assert (found.value, found.baseline) == pytest.approx((99 / 118, 79 / 118))
    assert found.value is not None and found.baseline is not None
    assert found.estimate == pytest.approx(found.value - found.baseline)
