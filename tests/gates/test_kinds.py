"""A new kind of gate is one class and one line: it is judged, written, foreseen and verified as those of the core."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import pytest

from harness.collection.collection import Collection, Item, Task
from harness.gates.decide import decide
from harness.gates.min_rows import find_unprovable_error
from harness.planning.aa_record import AaRecord
from harness.planning.gate_power import forecast_gates
from harness.planning.history import History
from harness.records.claims.gate import KINDS, BestCase, ClaimType, Gate, Units
from harness.records.metrics import Metric
from harness.records.models import ModelRef
from harness.records.samples import Result, Sample, Score
from harness.records.suite_header import SuiteTable
from harness.records.verdicts import Outcome, Verdict
from harness.release.recomputation import find_verdict_difference
from harness.stats import hypothesis_tests
from harness.suite import tables

SECONDS = Metric("seconds", "lower", "mean")
ALPHA = 0.05
MEDIAN = "median time"


class MedianAtMost(ClaimType):
    """The median of rows is at most a number, by a sign test."""

    name = "bound"
    keys = ("max",)

    def matches(self, gate: Gate) -> bool:
        return gate.id == MEDIAN

    def find_metric_mistakes(self, gate: Gate, metric: Metric, rows: int | None) -> list[str]:
        found = super().find_metric_mistakes(gate, metric, rows)
        return [*found, f"{metric.name} has no median"] if metric.is_share else found

    def claim_text(self, gate: Gate) -> str:
        return f"a median of at most {gate.max:g}"

    def threshold(self, gate: Gate) -> float:
        return gate.max or 0.0

    def sign(self, gate: Gate, better: str) -> Literal[1, -1]:
        return -1

    def test(self, gate: Gate, metric: Metric, units: Units, alpha: float) -> hypothesis_tests.Test:
        values = sorted(-s.values[metric.name] for s in units[0])
        below = sum(v > -(gate.max or 0.0) for v in values)
        signs = hypothesis_tests.binomial(below, len(values), 0.5, alpha)
        # the most of the smallest that a median can be above, by the binomial distribution
        skip = max((k for k in range(len(values) // 2) if _tail(k, len(values)) <= alpha), default=0)
        ends = values[skip], values[-1 - skip]
        return hypothesis_tests.Test(median(values), *ends, signs.p_pass, signs.p_fail, "sign test", len(values))

    def best_case(self, gate: Gate, metric: Metric) -> BestCase:
        return BestCase(f"a median of {gate.max:g}", 0.5, "even if every row is below it")


def _tail(k: int, n: int) -> float:
    return hypothesis_tests.binomial(n - k, n, 0.5, ALPHA).p_pass


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.records.claims.gate.KINDS", [*KINDS, MedianAtMost()])


GATE = Gate(MEDIAN, "e.seconds", max=1.0)


SAMPLES = tuple(Sample(f"r{i}") for i in range(44))


def judge_seconds(values: Sequence[float], gate: Gate = GATE) -> Verdict:
    rows = SAMPLES[: len(values)]
    scores = tuple(Score(s.id, {"seconds": v}) for s, v in zip(rows, values, strict=True))
    return decide(gate, SECONDS, Result("merged", "e", scores, {}, "digest"), None, rows, ALPHA, name="merged")


FAST = [0.5 + i / 100 for i in range(40)] + [1000.0] * 4


def test_it_is_judged_by_its_own_test() -> None:
    """The mean of these rows is far above the number, and their median below it for certain."""
    verdict = judge_seconds(FAST)
    assert (verdict.outcome, verdict.method, verdict.estimate) == (Outcome.PASS, "sign test", median(FAST))
    assert verdict.lower is not None and verdict.upper is not None
    assert verdict.lower < median(FAST) < verdict.upper < 1.0
    assert judge_mean().outcome is not Outcome.PASS
    assert judge_seconds([v + 2 for v in FAST]).outcome is Outcome.FAIL
    assert judge_seconds([0.9, 1.1] * 10).outcome is Outcome.INCONCLUSIVE


def judge_mean() -> Verdict:
    return judge_seconds(FAST, replace(GATE, id="mean time"))


def test_its_claim_is_written_and_checked() -> None:
    """Words, data and mistakes come from the class, what all kinds share from the core."""
    clean = replace(GATE, clean_only=True)
    assert clean.claim() == "a median of at most 1 without leaked rows"
    terms = clean.terms(SECONDS)
    assert (terms.kind, terms.sign, terms.threshold, terms.scale) == ("bound", -1, 1.0, "mean")
    assert not GATE.find_mistakes()
    assert not GATE.find_metric_mistakes(SECONDS)
    assert GATE.find_metric_mistakes(Metric("acc", "higher", "proportion")) == ["acc has no median"]
    assert 'a gate makes one claim; give one: "min"' in replace(GATE, min=0.1).find_mistakes()[0]
    assert "at most 1" in replace(GATE, id="mean time").claim()


def test_what_rows_cannot_prove_is_foreseen() -> None:
    """Four rows prove nothing about a median, five do."""
    rows = [Sample(str(i)) for i in range(5)]
    told = "4 rows cannot prove a median of 1, even if every row is below it; at least 5 are needed"
    assert find_unprovable_error(GATE, SECONDS, rows[:4], ALPHA) == told
    assert find_unprovable_error(GATE, SECONDS, rows, ALPHA) == ""


def test_no_power_is_told_that_is_anothers(tmp_path: Path) -> None:
    """The forecast says that it does not know how often such a test proves a claim."""
    spec = tables.Eval("e", "seconds", "")
    about = SuiteTable("s", alpha=ALPHA)
    suite = tables.Suite(tmp_path / "suite.toml", about, tables.Model("base", ""), None, None,
                         None, {}, (spec,), (GATE,), (), (), "digest")  # fmt: skip
    plugins: Any = None
    task = Task(spec, test_no_power_is_told_that_is_anothers, {"seconds": SECONDS}, SAMPLES)
    collection = Collection(suite, plugins, {"e": task}, ("base",), ("merged",), (Item("s", "merged", "e"),))
    (asked,) = forecast_gates(collection, History(tmp_path, collection), {}, AaRecord(collection, ModelRef("base", "")))
    assert (asked.odds.power, asked.odds.missing) == (None, "the power of its test is unknown")


@pytest.mark.parametrize(
    "changed", [{}, {"estimate": 0.1}, {"outcome": "FAIL"}, {"p_pass": 0.2}, {"claim": "at most 1"}]
)
def test_its_verdict_is_verified(changed: dict[str, Any]) -> None:
    """Evidence that says something else than the class on its rows is refused."""
    again = json.loads(json.dumps(asdict(judge_seconds(FAST))))
    assert bool(find_verdict_difference(again | changed, again)) is bool(changed)
