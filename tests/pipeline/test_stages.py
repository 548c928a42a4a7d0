"""Stages as functions of a run: where they lay their work, what ends a run, and what is left of a trial."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

import harness
from harness.hookspec import hookimpl
from harness.pipeline.artifacts import Artifacts
from harness.pipeline.lifecycle import run_to_end, start_run
from harness.pipeline.record import StageStop
from harness.pipeline.run import Options, open_run, prepare_collection, run_stages
from harness.pipeline.run_context import RunContext
from harness.records.run import ItemResult, Run
from harness.records.verdicts import Outcome, Verdict
from harness.testing import ROWS, SUITE, Project

OPTIONS = Options(plugins=("harness.testing",))
SWEEP = '\n[sweep]\n"train.skill" = [0.3, 0.9]\nby = "qa.exact_match"\n'


def test_a_run_lies_where_its_session_says(suite: Project) -> None:
    """One that looks ahead names the folders that a run makes afterwards, and nothing else is made."""
    places = Artifacts(open_run(Path("suite.toml"), OPTIONS).session)
    assert not places.work.exists()
    assert suite.run().code == 0
    made = {p for p in places.work.iterdir() if p.is_dir() and p.name != "made"}
    assert made == {places.adapter, places.merged("original")}


def test_no_stage_changes_a_session(suite: Project) -> None:
    """A session is frozen, and is after a run of all its stages what it was before."""
    run = start_run(prepare_collection(Path("suite.toml"), OPTIONS), OPTIONS)
    session, before = run.session, dict(vars(run.session))
    found = run_to_end(run, run_stages)
    assert (found.exit_code, vars(session)) == (0, before)
    assert run.adjudicator.verdicts == tuple(found.verdicts)
    with pytest.raises(FrozenInstanceError):
        session.collection = before["collection"]  # type: ignore[misc]


@pytest.mark.parametrize(("stop", "code"), [(StageStop(), 5), (StageStop(harness.errors.ExitCode.FAILED, "broken"), 1)])
def test_a_stage_that_stops_ends_the_run(suite: Project, stop: StageStop, code: int) -> None:
    """By the code it gives, else by the verdicts there are; every item and export is accounted for."""
    run = start_run(prepare_collection(Path("suite.toml"), OPTIONS), OPTIONS)
    found = run_to_end(run, lambda _: stop)
    assert (found.exit_code, found.problem) == (code, stop.why)
    assert {r.outcome for r in found.results} == {"skipped"}
    assert "the run ended before it was reached" in found.exports[0].reasons


def test_a_record_decides_nothing(suite: Project) -> None:
    """A report with a PASS that the adjudicator did not give is shown, and neither ships nor ends with 0."""
    run = start_run(prepare_collection(Path("suite.toml"), OPTIONS), OPTIONS)
    verdict = Verdict("floor", "merged", Outcome.PASS, "so it says", "qa.exact_match", "at least 0.5", True)

    def claims(run: RunContext) -> None:
        run.record.add(ItemResult("suite.toml::merged::qa", "merged", "qa", "done", verdicts=(verdict,)))

    found = run_to_end(run, claims)
    assert found.verdicts == [verdict]
    assert (found.exit_code, found.exports[0].written) == (5, False)


SWALLOWS = """
from pathlib import Path
from harness import Finding, hookimpl
from harness.testing import write_fake

def swallows(ref, adapter, rows, out: Path, *, progress, seed, flag):
    try:
        flag("T1", Finding("error", "the loss is not finite"))
    except Exception:
        pass
    write_fake(out, 0.6)
    return out

@hookimpl
def harness_trainers():
    return {"swallows": swallows}
"""


def test_a_trainer_that_goes_on_after_its_error_trained_for_nothing(suite: Project) -> None:
    """An error that a trainer tells of ends the run after it, whatever the trainer makes of the exception."""
    suite.write(
        {"suite.toml": SUITE.replace('use = "fake"\ndata', 'use = "swallows"\ndata'), "harnessfile.py": SWALLOWS}
    )
    outcome = suite.run()
    assert outcome.code == 1
    assert outcome.report.problem == "1 error found by checks; harness explain T1 explains the first"
    assert {r.outcome for r in outcome.report.results if r.subject != "base"} == {"skipped"}
    assert not (suite.folder / "exports/fake").exists()


TOUCHES = """
from pathlib import Path
from harness import hookimpl
from harness.testing import write_fake

def touches(ref, adapter, rows, out: Path, *, progress, seed):
    Path(ref.path, "tokenizer.json").write_text("another")
    write_fake(out, 0.9)
    return out

@hookimpl
def harness_trainers():
    return {"touches": touches}
"""


def test_an_adapter_is_taken_from_where_it_was_trained(suite: Project) -> None:
    """Also where the base's folder holds another file by then, by which the recipe would have another digest."""
    text = SUITE.replace('use = "fake"\ndata', 'use = "touches"\ndata')
    outcome = suite.write({"suite.toml": text, "harnessfile.py": TOUCHES}).run()
    assert (outcome.code, outcome.verdict("floor", "adapter")) == (0, "PASS")


class Watches:
    """A listener that keeps what it was shown at every trial."""

    def __init__(self) -> None:
        self.shown: list[Run] = []

    @hookimpl
    def harness_trial(self, run: Run) -> None:
        self.shown.append(run)


@pytest.mark.slow
def test_what_was_shown_of_a_sweep_stays_as_it_was(suite: Project) -> None:
    """The record grows by new records: what a listener kept of the first trial has one trial and no choice."""
    text = SUITE.replace('data = "test.jsonl"', 'data = "test.jsonl"\nselect = "select.jsonl"') + SWEEP
    rows = [{**row, "id": f"s{i}", "input": f"select {i} say w{i}"} for i, row in enumerate(ROWS)]
    suite.write({"suite.toml": text, "select.jsonl": rows})
    watches = Watches()
    found = harness.run("suite.toml", plugins=OPTIONS.plugins, listeners=(watches,))
    assert found.sweep and found.sweep.chosen == 0.9
    assert [len(run.sweep.trials) for run in watches.shown if run.sweep] == [1, 2]
    assert [run.sweep.chosen for run in watches.shown if run.sweep] == [None, None]
    assert found.facts["training"] == watches.shown[1].facts["training"]
