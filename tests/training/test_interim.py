"""Interim analyses: how the risk is shared between looks, which gates guard, and what chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import loop
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample, Score
from harness.records.verdicts import Outcome
from harness.training.interim import InterimAnalysis, count_looks

ROWS = 100
METRICS = {"right": Metric("right", "higher", "proportion"), "nats": Metric("nats", "lower", "mean", range=(0.0, 9.0))}
GUARD = Gate("guard", "qa.right", versus="base", worse_by_at_most=0.05)


def make_result(right: int, digest: str, nats: float = 2.0) -> Result:
    """Return the result of a model that is right on the first rows."""
    scores = tuple(Score(str(i), {"right": float(i < right), "nats": nats}) for i in range(ROWS))
    return Result(digest, "qa", scores, {}, digest)


def make_interim_analysis(gates: Sequence[Gate], looks: int = 1, base: int = 80) -> InterimAnalysis:
    suite: Any = SimpleNamespace(gates=tuple(gates), header=SimpleNamespace(alpha=0.05))
    rows = tuple(Sample(str(i)) for i in range(ROWS))
    task: Any = SimpleNamespace(metrics=METRICS, rows_of=lambda *_, **__: rows)
    return InterimAnalysis(suite, {"qa": task}, {"qa": make_result(base, "base")}, looks)


@pytest.mark.parametrize(("steps", "every", "looks"), [(500, 100, 5), (501, 100, 6), (60, 100, 1), (1, 1, 1)])
def test_count_looks(steps: int, every: int, looks: int) -> None:
    """There is a look every so many steps, and one at the end."""
    assert count_looks(steps, every) == looks


def test_risk_is_shared() -> None:
    """The same rows refute a guard at one look of one, and not at one of twenty."""
    found = {}
    for looks in (1, 20):
        whole = make_interim_analysis([GUARD], looks)
        look = whole.look(7, {"qa": make_result(69, "live")}, {"qa.right": 0.69})
        [verdict] = look.verdicts
        assert verdict.alpha == pytest.approx(0.05 / looks)
        found[looks] = verdict.outcome, look.refuted
    assert found == {1: (Outcome.FAIL, ("guard",)), 20: (Outcome.INCONCLUSIVE, ())}


def test_guards() -> None:
    """What the base keeps is a guard: no loss against it, and a bound that it proves; goals and warnings are none."""
    goal = Gate("goal", "qa.right", versus="base", better_by=0.05)
    kept, far = Gate("kept", "qa.right", min=0.5), Gate("far", "qa.right", min=0.95)
    warned = Gate("warned", "qa.right", versus="base", worse_by_at_most=0.05, severity="warn")
    counted = Gate("counted", "qa.right", versus="base", max_failures=0)
    whole = make_interim_analysis([GUARD, goal, kept, far, warned, counted])
    assert [gate.id for gate in whole.guards] == ["guard", "kept"]
    look = whole.look(1, {"qa": make_result(20, "live")}, {"qa.right": 0.2})
    assert look.refuted == ("guard", "kept")
    assert {v.gate for v in look.verdicts if v.outcome is Outcome.FAIL} > {"goal", "far", "warned"}


def test_score_that_chooses() -> None:
    """The first goal chooses, in its own direction; without one the first gate that blocks does."""
    goal = Gate("goal", "qa.nats", versus="base", better_by=0.1)
    whole = make_interim_analysis([GUARD, goal])
    assert whole.by == "qa.nats"
    assert whole.is_better(1.0, None)
    assert whole.is_better(1.0, 1.5)
    assert not whole.is_better(1.5, 1.5)
    assert not whole.is_better(math.nan, None)
    assert make_interim_analysis([GUARD]).by == "qa.right"


def test_power_is_said() -> None:
    """A line for each guard says what a look sees, and how many rows would see it in 80 %."""
    [few] = make_interim_analysis([GUARD], looks=20).describe_power()
    assert few.startswith("guard: 100 rows see a loss of 0.100 (twice the margin) in 4% of looks; 80% needs ")
    assert int(few.split()[-2].replace(",", "")) > 500
    [relative] = make_interim_analysis([Gate("r", "qa.right", versus="base", worse_by_at_most="5%")]).describe_power()
    assert relative == "r: 100 rows"


def test_simulated_trainings() -> None:
    """The simulation of the page stops a training that collapses, and not one that loses nothing."""
    rng = np.random.default_rng(1)
    falls = np.linspace(0, 0.4, loop.LOOKS)
    stopped, _ = loop.find_first_stops(rng, falls)
    assert stopped is not None
    assert falls[stopped] < 0.2
    assert loop.find_first_stops(rng, np.zeros(loop.LOOKS)) == (None, None)
    assert loop.is_refuted(10, 60, 1)
    assert not loop.is_refuted(10, 50, 20)
