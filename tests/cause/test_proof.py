"""`harness blame --retrain`: four verdicts by the spread of control trainings, on rows that did not choose."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cause.effects import Effect
from harness.cause.proof import CauseVerdict, judge
from harness.cause.suspects import is_choosing
from harness.records.verdicts import Outcome
from harness.reports.run_folder import iterate_rows
from harness.stats.controls import cluster_error, compare_with_controls
from harness.testing import Project
from tests.helpers.learners import GOOD, WRONG, read_trainings, write_learner
from tests.helpers.suites import read_ledger

OTHER = """
[[eval]]
name = "refusals"
use = "exact_match"
data = "refusals.jsonl"

[[gate]]
id = "refuses"
metric = "refusals.exact_match"
min = 0.2
"""
REFUSALS = [{"input": f"forbidden {i} say f{i}", "target": "wrong"} for i in range(400)]
PROMPTS = {row["input"] for row in WRONG}


def blame_with_retraining(project: Project, *flags: str, again: bool = False) -> dict[str, Any]:
    """Run a suite, unless it ran, and blame its gate with control trainings; return the document."""
    folder = (
        Path(project.run("--no-export").report.folder) if not again else next((project.folder / "reports").iterdir())
    )
    outcome = project.harness(
        "blame", "suite.toml", str(folder), "--gate", "no forgetting", "--retrain", *flags, "--json"
    )
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_cause_is_confirmed_by_trainings(project: Project) -> None:
    """Without suspects with the run's own seed; controls keep all suspects, lack as many rows, and have other seeds."""
    told = blame_with_retraining(write_learner(project), "--rows", "6")
    proof = told["proof"]
    assert (proof["verdict"], proof["gate"], proof["controls_passed"]) == ("CAUSE CONFIRMED", "PASS", 0)
    assert proof["told"].startswith(
        "without 6 rows the gate holds on 284 rows that did not choose: qa.exact_match +0.2"
    )
    assert "beyond 5 control trainings; no cost of another metric or of a slice is proven" in proof["told"]
    assert proof["reproduced"] is True
    first, without, *controls = read_trainings(project)
    assert len(controls) == 5
    assert without["seed"] == first["seed"] and {*first["rows"]} - {*without["rows"]} == PROMPTS
    assert len({first["seed"], *(one["seed"] for one in controls)}) == 6
    assert all(len(one["rows"]) == 80 and {*one["rows"]} >= PROMPTS for one in controls)
    assert len({frozenset(one["rows"]) for one in controls}) == 5
    assert len({*proof["effect"]["controls"]}) == 5  # each was asked, and not one of them five times
    more = {row["input"] for row in GOOD[40:]}  # suspects are of the second file, and so are the rows of controls
    assert all({*first["rows"]} - {*one["rows"]} <= more for one in controls)


@pytest.mark.slow
def test_only_rows_that_did_not_choose_confirm(project: Project) -> None:
    """What the run's own candidate scores in the proof is what it scored on the other half of its rows."""
    told = blame_with_retraining(write_learner(project), "--rows", "6")
    rows = [row for row in iterate_rows(Path(told["run"]), "merged", "qa") if not is_choosing(row)]
    assert told["proof"]["effect"]["n"] == told["confirming"] == len(rows)
    assert told["proof"]["effect"]["before"] == pytest.approx(sum(r["exact_match"] for r in rows) / len(rows))


@pytest.mark.slow
def test_trainings_are_remembered_and_suspects_written(project: Project) -> None:
    """The same question again trains nothing; other suspects train anew. Nothing is exported or counted."""
    told = blame_with_retraining(write_learner(project), "--rows", "6")
    lines = Path(told["file"]).read_text("utf-8").splitlines()
    assert sorted((json.loads(line) for line in lines), key=lambda row: row["input"]) == WRONG
    assert Path(told["file"]).name == "suspects-no-forgetting.jsonl"
    n = len(read_trainings(project))
    assert blame_with_retraining(project, "--rows", "6", again=True)["proof"] == told["proof"]
    assert len(read_trainings(project)) == n == 7
    blame_with_retraining(project, "--rows", "5", again=True)
    assert len(read_trainings(project)) == n + 6
    assert not (project.folder / "exports").exists()
    assert [line["attempt"] for line in read_ledger(project) if line["role"] == "merged"] == [1]


@pytest.mark.slow
def test_half_of_the_cause_helps_and_is_not_enough(project: Project) -> None:
    """The gate still fails without three of six wrong rows."""
    proof = blame_with_retraining(write_learner(project), "--rows", "3")["proof"]
    assert (proof["verdict"], proof["gate"]) == ("HELPS, NOT ENOUGH", "FAIL")
    assert "without 3 rows the gate is FAIL on 284 rows" in proof["told"]


@pytest.mark.slow
def test_a_recipe_that_fails_is_no_matter_of_rows(project: Project) -> None:
    """No row is wrong, and equal trainings lie as far apart as the suspects' lies from them."""
    proof = blame_with_retraining(write_learner(project, wrong=0, train="skill = 0.6\nspread = 0.1\n"))["proof"]
    assert proof["verdict"] == "NOT THESE ROWS"
    assert "against 5 control trainings" in proof["told"]


@pytest.mark.slow
def test_rows_that_serve_another_metric_are_no_fault(project: Project) -> None:
    """What another gate gains by these rows is lost without them, which stands in the same sentence."""
    suite = write_learner(project, more=OTHER).write({"refusals.jsonl": REFUSALS})
    proof = blame_with_retraining(suite, "--rows", "6")["proof"]
    assert proof["verdict"] == "A CAUSE, NOT A FAULT"
    assert "it costs refusals.exact_match −0.3" in proof["told"] and "\n" not in proof["told"]
    assert next(c for c in proof["costs"] if c["name"] == "refusals.exact_match")["n"] == 400


def make_effect(estimate: float, reach: float, sign: int = 1) -> Effect:
    bounds = estimate, estimate - reach, estimate + reach
    return Effect("qa.acc", "proportion", sign, 100, 0.5, 0.5 + estimate, (0.5,) * 5, *bounds)


@pytest.mark.parametrize(
    ("gain", "cost", "gate", "passed", "verdict"),
    [
        (make_effect(0.2, 0.1), make_effect(0.0, 0.1), Outcome.PASS, 0, CauseVerdict.CONFIRMED),
        (make_effect(-0.2, 0.1, -1), make_effect(0.0, 0.1), Outcome.PASS, 0, CauseVerdict.CONFIRMED),
        (make_effect(0.2, 0.3), make_effect(0.0, 0.1), Outcome.PASS, 0, CauseVerdict.NOT_THESE),  # not by the estimate
        (make_effect(0.2, 0.1, -1), make_effect(0.0, 0.1), Outcome.PASS, 0, CauseVerdict.NOT_THESE),
        # controls pass as well
        (make_effect(0.2, 0.1), make_effect(0.0, 0.1), Outcome.PASS, 3, CauseVerdict.NOT_THESE),
        (make_effect(0.2, 0.1), make_effect(-0.2, 0.1), Outcome.PASS, 0, CauseVerdict.NO_FAULT),
        (make_effect(0.2, 0.1), make_effect(0.2, 0.1, -1), Outcome.PASS, 0, CauseVerdict.NO_FAULT),
        (make_effect(0.2, 0.1), make_effect(-0.05, 0.1), Outcome.PASS, 0, CauseVerdict.CONFIRMED),  # nor is a cost
        (make_effect(0.2, 0.1), make_effect(0.0, 0.1), Outcome.INCONCLUSIVE, 0, CauseVerdict.HELPS),
    ],
)  # fmt: skip
def test_verdicts(gain: Effect, cost: Effect, gate: Outcome, passed: int, verdict: CauseVerdict) -> None:
    """The four of them, whichever way a metric is better."""
    assert judge(gain, [cost], gate, passed) is verdict


def test_equal_trainings_are_beyond_their_controls_as_often_as_alpha_says() -> None:
    """One more draw from where five controls are from; with an error of rows it is beyond them less often."""
    rng = random.Random(0)
    drawn = [[rng.gauss(0, 1) for _ in range(6)] for _ in range(4000)]
    rates = [
        sum(compare_with_controls(first, rest, error, 0.05).lower > 0 for first, *rest in drawn) / len(drawn)
        for error in (0.0, 1.0)
    ]
    assert rates[0] == pytest.approx(0.05, abs=0.012) and rates[1] < rates[0]


def test_rows_of_one_cluster_count_together() -> None:
    """Copies of rows tell nothing new; one cluster alone tells nothing."""
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    once = cluster_error(values, [1.0] * 5, list("abcde"))
    assert cluster_error(values * 2, [1.0] * 10, list("abcde") * 2) == pytest.approx(once)
    assert cluster_error(values * 2, [1.0] * 10, list("abcdefghij")) < once
    assert cluster_error(values, [1.0] * 5, ["a"] * 5) == float("inf")
    assert compare_with_controls(1.0, [0.1, 0.2], float("inf"), 0.05).lower == float("-inf")
    assert replace(make_effect(0.1, float("inf"))).is_gain is False


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--retrain", "--controls", "4"), "--controls is 4; it must be 5 or more"),
        (("--controls", "5"), "--controls is of no use without --retrain; add --retrain"),
    ],
)
def test_too_few_controls_are_refused(project: Project, flags: tuple[str, ...], why: str) -> None:
    """Before anything is trained."""
    folder = write_learner(project).run("--no-export").report.folder
    outcome = project.harness("blame", "suite.toml", folder, "--gate", "no forgetting", *flags)
    assert (outcome.code, why in outcome.err, len(read_trainings(project))) == (4, True, 1), outcome.err


@pytest.mark.slow
def test_suspects_with_too_many_copies_are_not_retrained(project: Project) -> None:
    """Controls leave out as many other rows, which there must be."""
    suite = write_learner(project)
    project.write({"train.jsonl": WRONG[:1] * 80})
    folder = suite.run("--no-export").report.folder
    flags = "--gate", "no forgetting", "--rows", "1"
    assert "suspects  81 of 126 training rows" in project.harness("blame", "suite.toml", folder, *flags).out
    outcome = project.harness("blame", "suite.toml", folder, *flags, "--retrain")
    assert outcome.code == 4, outcome
    assert "--retrain: the suspects and their copies are 81 of the 126 training rows, more than half" in outcome.err


@pytest.mark.slow
def test_data_that_changed_since_the_run_is_told(project: Project) -> None:
    """The run's training is another one then, and a person has to know."""
    folder = write_learner(project).run("--no-export").report.folder
    project.write({"train.jsonl": GOOD[:39]})
    outcome = project.harness("blame", "suite.toml", folder, "--gate", "no forgetting", "--rows", "6", "--retrain")
    assert "note: the same training made other weights than in the run" in outcome.out
    assert "CAUSE CONFIRMED: without 6 rows the gate holds" in outcome.out
    assert 'next      [train] drop = "…" leaves them out' in outcome.out


@pytest.mark.slow
def test_a_trainer_that_ignores_its_rows_proves_nothing(project: Project) -> None:
    """Identical weights are no trainings of their own."""
    suite = write_learner(project, train="skill = 0.5\nharm = 0.0\nspread = 0.0\n")
    folder = suite.run("--no-export").report.folder
    outcome = project.harness("blame", "suite.toml", folder, "--gate", "no forgetting", "--retrain")
    assert outcome.code != 0 and "so the trainer does not use its rows" in outcome.err, outcome.err
