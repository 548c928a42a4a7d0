"""Failures of the machinery that hide losses prove nothing, however rows without a score are counted."""

from __future__ import annotations

import random

import pytest

from harness import Gate, Outcome
from harness.plugins import load_plugins
from harness.rows.records import RawMetric, RawRow, RawRows
from harness.rows.suites import judge_rows, make_rows_suite

TIMES, ROWS = 60, 400
NONE: dict[str, float] = {}


def draw_runs(seed: int, lost: float, hidden: float) -> dict[str, RawRows]:
    """Return a base, and a candidate that loses a share of its rows, and has no score of a share of these."""
    rng, sides = random.Random(seed), {"base": list[RawRow](), "candidate": list[RawRow]()}
    for i in range(ROWS):
        right = rng.random() < 0.8
        worse = right and rng.random() < lost / 0.8
        better = not right and rng.random() < 0.1
        fails = worse and rng.random() < hidden
        ours = float(better or (right and not worse))
        sides["base"].append(RawRow(f"q-{i}", False, f"{i:032x}", "", {"acc": float(right)}))
        state = ("error", "Timeout", NONE) if fails else ("scored", "", {"acc": ours})
        sides["candidate"].append(RawRow(f"q-{i}", False, f"{i:032x}", "", state[2], state[0], state[1]))  # type: ignore[arg-type]
    return {side: RawRows("tool", side, "task", {"acc": RawMetric("higher")}, rows) for side, rows in sides.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("missing", "hidden", "passes"), [("refuse", 0.8, 0), ("wrong", 0.8, 0), ("refuse", 0.0, 3)])
def test_a_worse_candidate_does_not_pass(missing: str, hidden: float, passes: int) -> None:
    """A candidate 5 points worse passes a limit of 2 points as seldom as the risk says, with hidden losses never."""
    gate = Gate("no-worse", versus="base", worse_by_at_most=0.02)
    suite = make_rows_suite(gate, {"base": "", "candidate": ""}, {"missing": missing}, 0.05)
    plugins, drawn = load_plugins(None), ({"rows": draw_runs(seed, 0.07, hidden)} for seed in range(TIMES))
    found = [judge_rows(suite, plugins, runs=rows, attempts={}).verdicts[0] for rows in drawn]
    assert sum(v.outcome is Outcome.PASS for v in found) <= passes
    assert all(
        v.outcome is Outcome.ERROR and "ended in an error" in v.why for v in found if hidden and missing == "refuse"
    )
