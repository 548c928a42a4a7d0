"""Stopping early: as few rows as the gates need, in a random order, at the stated risk."""

from __future__ import annotations

import json

import pytest

from harness.stats.eprocess import interim_sizes
from harness.testing import SUITE, TRAIN, Project

ROWS = [{"id": f"q{i}", "input": f"question {i} say w{i}", "target": f"w{i}", "kind": "ab"[i % 2]} for i in range(600)]
EARLY = SUITE.replace('slices = ["kind"]', 'slices = ["kind"]\nstop = "early"')
BETTER = EARLY.replace("min = 0.5", 'versus = "base"\nbetter_by = 0.0')


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with 600 rows whose gate may be decided early."""
    return project.write({"suite.toml": BETTER, "test.jsonl": ROWS, "train.jsonl": TRAIN})


@pytest.mark.slow
def test_a_clear_improvement_is_decided_on_few_rows(suite: Project) -> None:
    """The base answers every row, the candidates as many as the gate needs, and the saving is shown."""
    outcome = suite.run()
    assert outcome.code == 0
    rows = {r.subject: r.n for r in outcome.report.results}
    assert rows["base"] == 600
    assert 0 < rows["merged"] <= 300
    assert rows["merged"] in interim_sizes(600)
    assert f"stopped early at {rows['merged']} of 600 rows" in outcome.out
    verdict = next(v for v in outcome.report.verdicts if v.candidate == "merged")
    assert (verdict.method, verdict.n, verdict.outcome) == ("e-process", rows["merged"], "PASS")


@pytest.mark.slow
def test_the_looks_are_in_the_lock(suite: Project) -> None:
    """After how many rows it may stop is written down before there is a candidate: 64, twice as many each time, all."""
    assert suite.run().code == 0
    [lock] = suite.folder.glob("reports/*/suite.lock.json")
    assert json.loads(lock.read_text("utf-8"))["looks"] == {"qa": [64, 128, 256, 512, 600]}
    assert (interim_sizes(1), interim_sizes(64), interim_sizes(65)) == ([1], [64], [64, 65])


@pytest.mark.slow
def test_a_clear_harm_is_decided_on_few_rows(suite: Project) -> None:
    """A candidate that is far worse fails as early."""
    outcome = suite.run("--set", "train.skill=0.05")
    assert (outcome.code, outcome.verdict("floor", "adapter")) == (1, "FAIL")
    assert next(r.n for r in outcome.report.results if r.subject == "adapter") < 300


@pytest.mark.slow
def test_what_cannot_be_decided_asks_every_row(suite: Project) -> None:
    """A candidate like its baseline is asked everything and stays inconclusive."""
    outcome = suite.run("--set", "train.skill=0.303")
    assert outcome.verdict("floor") == "INCONCLUSIVE"
    assert next(r.n for r in outcome.report.results if r.subject == "merged") == 600


@pytest.mark.slow
def test_every_gate_of_an_eval_must_be_decided(suite: Project) -> None:
    """A second, harder claim on the same rows goes on asking."""
    few = suite.run().report.results[-1].n
    suite.write({"suite.toml": f'{BETTER}\n[[gate]]\nid = "high"\nmetric = "qa.exact_match"\nmin = 0.85\n'})
    outcome = suite.run()
    assert outcome.report.results[-1].n > few
    assert [outcome.verdict(g) for g in ("floor", "high")] == ["PASS", "PASS"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('stop = "early"', 'stop = "early"\ncluster = "kind"', "rows in clusters are not independent"),
        ('id = "floor"', 'id = "floor"\nslice = "kind=a"', "all rows of a slice are needed"),
        ('id = "floor"', 'id = "floor"\nestimand = "questions"', "the gate is about questions"),
        ("better_by = 0.0", 'better_by = "2%"', "its margin is relative"),
        ('use = "exact_match"', 'use = "perplexity"\nof = "completion"', "no known range"),
        ('metric = "qa.exact_match"', 'metric = "other.exact_match"', 'stop = "early" needs a gate on this eval'),
        ('stop = "early"', 'stop = "soon"', '"stop" is "soon"; it must be "end" or "early" or a list of strings'),
    ],
)
def test_what_cannot_stop_early_is_a_mistake(suite: Project, old: str, new: str, says: str) -> None:
    """Claims that need all rows are told at collection."""
    text = BETTER.replace(old, new)
    if "perplexity" in new:
        text = text.replace("qa.exact_match", "qa.perplexity")
    outcome = suite.write({"suite.toml": text}).run("--collect-only")
    assert (outcome.code, says in outcome.err) == (4, True), outcome.err


@pytest.mark.slow
def test_stop_strings_are_the_evaluators(suite: Project) -> None:
    """A list under `stop` is what an answer ends at, as before."""
    text = SUITE.replace('slices = ["kind"]', 'stop = ["x"]')
    outcome = suite.write({"suite.toml": text}).run("-p", "no:checks")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.report.results[-1].n == 600
