"""Which rows failed a gate is read from its claim as data, whatever its words are."""

from __future__ import annotations

from typing import Any

import pytest

from harness.gates.decide import decide
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample, Score
from harness.records.verdict_text import format_sample_size
from harness.records.verdicts import Verdict
from harness.reports.rows import _list_failed_row_ids

KINDS = ("a", "research and development", "50% off")


def judge_values(metric: Metric, values: list[float], **claim: Any) -> Verdict:
    samples = [Sample(str(i), row={"kind": KINDS[i % 3]}) for i in range(len(values))]
    ours = Result("merged", "e", tuple(Score(str(i), {"m": v}) for i, v in enumerate(values)), {}, "digest")
    return decide(Gate("g", "e.m", **claim), metric, ours, None, samples, 0.05, name="merged")


def make_rows(values: list[float]) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "m": v, "metrics": ["m"], "weight": 1.0, "weights": {}, "doc": {"kind": KINDS[i % 3]}}
        for i, v in enumerate(values)
    ]


@pytest.mark.parametrize(("better", "wrong"), [("higher", 0.0), ("lower", 1.0)])
def test_failures_are_those_of_the_verdict(better: Any, wrong: float) -> None:
    """Under max_failures the rows that are listed are those that were counted, where less is better too."""
    values = [wrong if i < 6 else 1.0 - wrong for i in range(60)]
    found = judge_values(Metric("m", better, "proportion"), values, max_failures=5)
    assert found.estimate == 6
    assert _list_failed_row_ids(found, "m", make_rows(values)) == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_slice_are_its_own(kind: str) -> None:
    """A value may hold any word: "and", "%", "=" part nothing."""
    values = [0.0, 0.0, 0.0, *[1.0] * 87]
    found = judge_values(Metric("m", "higher", "proportion"), values, min=0.99, slice=f"kind={kind}", min_n=10)
    assert _list_failed_row_ids(found, "m", make_rows(values)) == [str(KINDS.index(kind))]


def test_a_bound_of_a_perplexity_is_one_of_its_rows() -> None:
    """Rows hold nats, the claim a perplexity."""
    values = [0.5 + i / 100 for i in range(90)]
    found = judge_values(Metric("m", "lower", "perplexity"), values, max=2.0)
    assert len(_list_failed_row_ids(found, "m", make_rows(values))) == sum(v > 0.6931471805599453 for v in values)


def test_everywhere_the_same_rows_would_decide() -> None:
    """The reason, its data and who asks for it alone say one number."""
    found = judge_values(Metric("m", "higher", "proportion"), [1.0, 0.0] * 40, min=0.45)
    assert found.outcome == "INCONCLUSIVE" and format_sample_size(found) and format_sample_size(found) in found.why
