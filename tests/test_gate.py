"""Gates: which test, which verdict, and what is an error."""

from __future__ import annotations

import math

import pytest

from harness.gate import Gate, Outcome, Verdict, judge, ships
from harness.result import Metric, Result, Sample, Score

ACC = Metric("acc", "higher", "proportion")
LOSS = Metric("loss", "lower", "mean")
PPL = Metric("ppl", "lower", "perplexity")


def result(values: list[float], name: str = "merged", metric: str = "acc", weight: float = 1.0) -> Result:
    scores = tuple(Score(str(i), {metric: v}, weight) for i, v in enumerate(values))
    return Result(name, "e", scores, {}, f"digest of {name}")


def gate(**claim: object) -> Gate:
    metric = claim.pop("metric", "e.acc")
    return Gate("g", str(metric), "suite.toml", **claim)  # type: ignore[arg-type]


def verdict(claim: Gate, metric: Metric, ours: Result | None, theirs: Result | None = None, **kw: object) -> Verdict:
    rows = len(ours.scores) if ours else 3
    samples = kw.pop("samples", [Sample(str(i)) for i in range(rows)])
    return judge(claim, metric, ours, theirs, samples, 0.05, name="merged")  # type: ignore[arg-type]


def ones(right: int, n: int) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


@pytest.mark.parametrize(("right", "outcome"), [(80, "PASS"), (50, "FAIL"), (63, "INCONCLUSIVE")])
def test_floor(right: int, outcome: str) -> None:
    """A proportion against a number is an exact binomial test, and says when it does not know."""
    found = verdict(gate(min=0.65), ACC, result(ones(right, 100)))
    assert (found.outcome, found.method) == (outcome, "exact binomial")


@pytest.mark.parametrize(("wrong", "outcome"), [(2, "PASS"), (60, "FAIL")])
def test_ceiling(wrong: int, outcome: str) -> None:
    """`max` on a proportion is the same test on the other side, told on the metric's own scale."""
    found = verdict(gate(max=0.2), ACC, result(ones(wrong, 100)))
    assert found.outcome == outcome
    assert found.estimate == pytest.approx(wrong / 100)
    assert found.lower < found.estimate < found.upper  # type: ignore[operator]


def test_margin_zero_is_mcnemar_and_counts_flips() -> None:
    """Better than the baseline on the same rows: exact McNemar, with the rows that changed both ways."""
    ours, theirs = result(ones(60, 100)), result([0.0] * 2 + ones(38, 98), "base")
    found = verdict(gate(versus="base", better_by=0.0), ACC, ours, theirs)
    assert (found.outcome, found.method) == ("PASS", "McNemar exact")
    assert (len(found.won), len(found.lost)) == (22, 0)


def test_margin_is_tango_and_few_rows_prove_nothing() -> None:
    """Two identical models on 50 rows do not prove "no worse by 2 points"; a bootstrap would say they do."""
    ours, theirs = result(ones(25, 50)), result(ones(25, 50), "base")
    found = verdict(gate(versus="base", worse_by_at_most=0.02), ACC, ours, theirs)
    assert (found.outcome, found.method) == ("INCONCLUSIVE", "Tango score")
    assert found.rows_needed is not None
    assert found.rows_needed > 50


def test_lower_is_better_is_oriented() -> None:
    """A loss that falls is better, without a sign in the suite."""
    ours, theirs = result([1.0 + 0.01 * (i % 7) for i in range(200)], metric="loss"), None
    theirs = result([1.5 + 0.02 * (i % 5) for i in range(200)], "base", "loss")
    found = verdict(gate(metric="e.loss", versus="base", better_by=0.2), LOSS, ours, theirs)
    assert found.outcome is Outcome.PASS
    assert found.estimate is not None
    assert found.estimate < 0


def test_perplexity_margins_are_relative() -> None:
    """Half of the base's perplexity is a fall of log 2 nats a token; a tenth more is no pass at two percent."""
    theirs = result([2.0 + 0.1 * (i % 3) for i in range(100)], "base", "ppl", weight=10)
    nats = [s.values["ppl"] for s in theirs.scores]
    half = result([v - 0.8 + 0.01 * (i % 2) for i, v in enumerate(nats)], metric="ppl", weight=10)
    worse = result([v + 0.1 + 0.01 * (i % 2) for i, v in enumerate(nats)], metric="ppl", weight=10)
    claim = gate(metric="e.ppl", versus="base", better_by=0.5)
    assert verdict(claim, PPL, half, theirs).outcome is Outcome.PASS
    assert (
        verdict(gate(metric="e.ppl", versus="base", worse_by_at_most=0.02), PPL, worse, theirs).outcome is Outcome.FAIL
    )


def test_perplexity_of_other_tokens_is_an_error() -> None:
    """Two tokenizers cannot be compared a token: the error says what can be."""
    ours, theirs = result([2.0] * 30, metric="ppl", weight=10), result([2.5] * 30, "base", "ppl", weight=12)
    found = verdict(gate(metric="e.ppl", versus="base", better_by=0.0), PPL, ours, theirs)
    assert found.outcome is Outcome.ERROR
    assert "bits_per_byte" in found.why


def test_clusters_never_use_a_test_for_independent_rows() -> None:
    """Rows of one cluster are one observation: copies of them do not make a proof."""
    samples = [Sample(str(i), cluster=str(i // 10)) for i in range(300)]
    found = verdict(gate(min=0.5), ACC, result([1.0] * 200 + [0.0] * 100), samples=samples)
    assert found.method == "cluster t"
    assert found.clusters == 30
    alone = verdict(gate(min=0.5), ACC, result([1.0] * 200 + [0.0] * 100))
    assert found.upper - found.lower > 2 * (alone.upper - alone.lower)  # type: ignore[operator]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_none_is_an_error(bad: float) -> None:
    """NaN and infinity are errors with the row named, never a pass and never a zero."""
    found = verdict(gate(min=0.1), ACC, result([1.0, bad, 1.0]))
    assert found.outcome is Outcome.ERROR
    assert '"1"' in found.why


def test_missing_results_and_baselines_are_errors() -> None:
    """No result, no baseline, no rows, a baseline that lacks rows: each an error that says so."""
    claim = gate(versus="base", better_by=0.0)
    assert "was not evaluated" in verdict(claim, ACC, None).why
    assert 'baseline "base" was not evaluated' in verdict(claim, ACC, result([1.0] * 9)).why
    assert "rows got no score" in verdict(claim, ACC, result([1.0] * 9), result([1.0] * 8, "base")).why
    assert "there are no rows" in verdict(claim, ACC, result([]), samples=[]).why


def test_same_digest_is_an_error() -> None:
    """A model compared with itself is an error, whatever its numbers say."""
    ours = result([1.0] * 50)
    found = verdict(gate(versus="base", better_by=0.0), ACC, ours, result([0.0] * 50, "merged"))
    assert found.outcome is Outcome.ERROR
    assert "very model it is compared with" in found.why


def test_slice_judges_its_rows_only() -> None:
    """A gate on a slice counts the slice's rows."""
    samples = [Sample(str(i), row={"kind": "ab"[i % 2]}) for i in range(100)]
    ours = result([1.0 if i % 2 else 0.0 for i in range(100)])
    found = verdict(gate(min=0.5, slice="kind=b"), ACC, ours, samples=samples)
    assert (found.outcome, found.n) == (Outcome.PASS, 50)


def test_ships_only_on_positive_proof() -> None:
    """Every blocking gate must have passed on this candidate; a warning may fail, silence may not."""
    block, warn = gate(min=0.1), Gate("w", "e.acc", "s", min=0.9, severity="warn")
    passed = verdict(block, ACC, result([1.0] * 50))
    assert ships([passed], [block, warn], "merged") == []
    assert ships([passed], [block], "adapter") != []
    assert ships([], [block], "merged") == ['gate "g" has no verdict on merged']
    assert ships([], [warn], "merged") == ["no blocking gate applies to merged"]


def test_budget_is_a_point() -> None:
    """A count is compared as it is: one row, no interval."""
    size = Metric("bytes", "lower", "count")
    found = verdict(gate(metric="e.bytes", max=1000), size, result([999.0], metric="bytes"))
    assert (found.outcome, found.method, found.estimate) == (Outcome.PASS, "point", 999.0)
    assert verdict(gate(metric="e.bytes", max=1000), size, result([1001.0], metric="bytes")).outcome is Outcome.FAIL
