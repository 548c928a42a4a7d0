"""At most a share of rows loses more than so much: exact, whatever the scale of the metric."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest

from harness.gates.decide import decide
from harness.gates.min_rows import find_unprovable_error
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample, Score
from harness.records.verdicts import Outcome, Verdict
from harness.release.recomputation import find_verdict_difference
from harness.stats import hypothesis_tests

ALPHA = 0.05
F1 = Metric("f1", "higher", "proportion")
SECONDS = Metric("seconds", "lower", "mean")
GATE = Gate("few lose", "e.f1", versus="base", worse_by_more_than=0.2, on_at_most=0.1)


def judge(
    losses: Sequence[float], gate: Gate = GATE, metric: Metric = F1, clusters: Sequence[str] | None = None
) -> Verdict:
    """Return the verdict on rows that lose so much."""
    sign = 1 if metric.better == "higher" else -1
    ids = [f"r{i}" for i in range(len(losses))]
    samples = tuple(Sample(i, cluster=clusters[k] if clusters else None) for k, i in enumerate(ids))
    base = 0.9 if metric.is_share else 3.0
    sides = [[base - sign * loss for loss in losses], [base] * len(losses)]
    ours, theirs = (
        Result(name, "e", tuple(Score(i, {metric.name: v}) for i, v in zip(ids, side, strict=True)), {}, name)
        for name, side in zip(("merged", "base"), sides, strict=True)
    )
    return decide(gate, metric, ours, theirs, samples, ALPHA, name="merged")


def test_rows_that_lose_more_are_counted_and_tested_exactly() -> None:
    """Of 60 rows two lose more than 0.2: the binomial test of 2 of 60 against a tenth, both ways."""
    found = judge([0.5, 0.21, 0.2, 0.1, -0.1] + [0.0] * 55)
    exact = hypothesis_tests.binomial(58, 60, 0.9, ALPHA)
    assert (found.estimate, found.value, found.method) == (pytest.approx(2 / 60), pytest.approx(2 / 60), exact.method)
    assert (found.p_pass, found.p_fail) == (exact.p_pass, exact.p_fail)
    assert (found.lower, found.upper) == pytest.approx((1 - exact.upper, 1 - exact.lower))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert judge([0.0] * 29).outcome is Outcome.PASS  # 0.9^29 < 5 %
    assert judge([0.0] * 28).outcome is Outcome.INCONCLUSIVE
    assert judge([0.5] * 12 + [0.0] * 40).outcome is Outcome.FAIL


def test_it_proves_what_a_mean_on_few_rows_cannot() -> None:
    """Differences near 0 on 29 rows prove no margin of five points, and that at most a tenth loses 0.2."""
    noise = [0.08 * (i % 5 - 2) / 2 for i in range(29)]
    mean = Gate("mean", "e.f1", versus="base", worse_by_at_most=0.05)
    assert judge(noise, mean).outcome is Outcome.INCONCLUSIVE
    assert judge(noise).outcome is Outcome.PASS


def test_a_metric_without_a_range_has_an_exact_risk_of_it() -> None:
    """Seconds have no worst value, but the share of rows that are slower by one has."""
    gate = replace(GATE, metric="e.seconds", worse_by_more_than=1.0)
    found = judge([0.5] * 20 + [0.0] * 30, gate, SECONDS)
    assert (found.outcome, found.risk) == (Outcome.PASS, "exact")
    assert judge([1.5] * 20 + [0.0] * 30, gate, SECONDS).outcome is Outcome.FAIL


def test_rows_of_a_cluster_count_as_one() -> None:
    """Forty rows in four clusters are four observations."""
    found = judge([0.0] * 40, clusters=[f"c{i % 4}" for i in range(40)])
    assert (found.outcome, found.units) == (Outcome.INCONCLUSIVE, 4)


def test_its_claim_is_written() -> None:
    """The sentence says how much, on how many rows, and against whom."""
    assert GATE.claim() == "worse than base by more than 0.2 on at most 10% of rows"
    assert "share of rows 0.033 [0.006, 0.101], n=60" in judge([0.5, 0.21] + [0.0] * 58).why
    told = "20 rows cannot prove on_at_most = 0.1, even if no row loses more; at least 29 are needed"
    assert find_unprovable_error(GATE, F1, [Sample(str(i)) for i in range(20)], ALPHA) == told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"on_at_most": None}, "give both"),
        ({"worse_by_more_than": None}, "give both"),
        ({"versus": None}, '"versus" needs'),
        ({"on_at_most": 5.0}, "did you mean 0.05?"),
        ({"on_at_most": 0.0}, "between 0 and 1"),
        ({"worse_by_more_than": -0.1}, "must be 0 or more"),
        ({"cap": 0.5}, "exact claim"),
        ({"min": 0.5}, "a gate makes one claim"),
        ({"worse_by_at_most": 0.1}, "a gate makes one claim"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], told: str) -> None:
    """Each missing or foreign key has its sentence."""
    assert any(told in found for found in replace(GATE, **changes).find_mistakes())


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        (Metric("seconds", "lower", "other", lambda rows: 0.0), "has no value of each row"),
        (Metric("size", "lower", "count"), "has no value of each row"),
    ],
)
def test_it_needs_rows(metric: Metric, told: str) -> None:
    """What is made from all rows at once, or counted, has no rows that lose."""
    assert any(told in found for found in GATE.find_metric_mistakes(metric))


def test_a_stricter_claim_implies_a_looser_one() -> None:
    """Fewer rows that lose less imply more that lose more, and nothing else."""
    assert GATE.implies(replace(GATE, on_at_most=0.2, worse_by_more_than=0.3), F1)
    assert not GATE.implies(replace(GATE, on_at_most=0.05), F1)
    assert not GATE.implies(replace(GATE, worse_by_more_than=0.1), F1)


@pytest.mark.parametrize(
    "changes", [{}, {"estimate": 0.01}, {"outcome": "FAIL"}, {"threshold": 0.2}, {"claim": "worse"}]
)
def test_its_verdict_is_verified(changes: dict[str, Any]) -> None:
    """Evidence that says another number than its rows is refused."""
    again = json.loads(json.dumps(asdict(judge([0.0] * 40))))
    assert bool(find_verdict_difference(again | changes, again)) is bool(changes)
