"""What few rows of scores cannot prove is told before they are bought, with the ways out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.planning.few_rows import describe_few_rows
from harness.planning.power import GatePower
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric

F1 = Metric("f1", "higher", "proportion")
GATE = Gate("g", "e.f1", versus="base", worse_by_at_most=0.05)


def make_gate_power(rows: int, gate: Gate = GATE, metric: Metric = F1, **changes: Any) -> GatePower:
    clusters = tuple(f"c{i}" for i in range(rows))
    return replace(GatePower(gate, metric, clusters, None, 0.05, None, None), **changes)


def test_a_margin_that_few_rows_cannot_prove_has_its_ways_out() -> None:
    """Twenty unchanged rows prove 13.9 points; a cap of 0.35 would let them prove five, or a share of 14 %."""
    told = describe_few_rows(make_gate_power(20))
    assert told == (
        "if scores are not 0 or 1, 20 rows prove no margin below 0.14, even if none changes; instead declare or "
        "claim: cap = 0.35, where no row differs by more; or worse_by_more_than with on_at_most = 0.14, a claim "
        "about the share of rows"
    )


def test_what_the_ways_out_promise_is_true() -> None:
    """With the cap, or as a share, unchanged rows prove it."""
    from harness.stats import hypothesis_tests

    assert hypothesis_tests.cluster_t([0.0] * 20, [1.0] * 20, None, -0.05, 0.05, support=(-0.35, 0.35)).p_pass <= 0.05
    assert hypothesis_tests.binomial(20, 20, 1 - 0.14, 0.05).p_pass <= 0.05


@pytest.mark.parametrize(
    "made",
    [
        make_gate_power(60),
        make_gate_power(20, replace(GATE, versus=None, worse_by_at_most=None, min=0.8)),
        make_gate_power(20, replace(GATE, worse_by_at_most="5%")),
        make_gate_power(20, GATE, Metric("seconds", "lower", "mean")),
        make_gate_power(20, replace(GATE, worse_by_at_most=0.2)),
    ],
    ids=["enough rows", "a number", "a share of the baseline", "no range", "a large margin"],
)
def test_nothing_is_told_where_it_is_not_so(made: GatePower) -> None:
    """Of many rows, of one model, and of what has no range."""
    assert describe_few_rows(made) == ""


def test_a_gain_has_a_limit_too() -> None:
    """Twenty rows prove no gain below 16 points on a range of two."""
    told = describe_few_rows(make_gate_power(20, replace(GATE, worse_by_at_most=None, better_by=0.0)))
    assert "20 rows prove no gain below about 0.16; instead" in told
    assert "cap" not in told
