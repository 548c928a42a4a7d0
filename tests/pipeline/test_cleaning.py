"""[train] drop_leaks and harness check --write-clean: what D10 and D11 name is taken out, counted and told."""

from __future__ import annotations

import json

import pytest

from harness.testing import ROWS as TEST
from harness.testing import SUITE, TRAIN, Project

BAD = [
    {"input": TEST[0]["input"].upper(), "target": "x"},  # a row of the test, and once more
    {"input": TEST[0]["input"].upper(), "target": "x"},
    {"input": TEST[0]["input"], "target": "another answer"},  # which is found when the first are gone
    TRAIN[0],
    {"input": "Where is it?", "target": ""},
]


@pytest.fixture
def suite(project: Project) -> Project:
    """A project of fakes whose training rows leak, are doubled, and lack an answer."""
    return project.write({"suite.toml": SUITE, "test.jsonl": TEST, "train.jsonl": [*TRAIN, *BAD]})


@pytest.mark.slow
def test_rows_that_leak_are_taken_out(suite: Project) -> None:
    """A run and a check tell how many are taken out and why, and train on the others."""
    assert suite.harness("check", "suite.toml").code == 4
    outcome = suite.harness("check", "suite.toml", "--set", "train.drop_leaks=true")
    assert f"drop_leaks: 5 of {len(TRAIN) + 5} rows are removed: D10-exact 3, D11-duplicate 1" in outcome.out
    assert outcome.code == 0
    run = suite.run("--set", "train.drop_leaks=true")
    assert run.code == 0
    assert any("rows are removed" in warning for warning in run.report.warnings)
    kept = suite.harness("check", "suite.toml", "--set", "train.drop_leaks=true", "--ignore", "D11")
    assert "5 of" not in kept.out  # what is ignored does not count


def test_clean_rows_are_written_once(suite: Project) -> None:
    """The file holds the rows as they were read; one that is there is not written over."""
    assert suite.harness("check", "suite.toml", "--write-clean", "clean.jsonl").code == 0
    text = (suite.folder / "clean.jsonl").read_text("utf-8")
    assert [json.loads(line) for line in text.splitlines()] == TRAIN
    outcome = suite.harness("check", "suite.toml", "--write-clean", "clean.jsonl")
    assert (
        outcome.code,
        '--write-clean "clean.jsonl": exists already; name a new file' in outcome.out + outcome.err,
    ) == (4, True)
    assert (suite.folder / "clean.jsonl").read_text("utf-8") == text


def test_no_row_is_left(suite: Project) -> None:
    """A training of nothing but leaks is one line."""
    suite.write({"train.jsonl": TEST})
    outcome = suite.run("--set", "train.drop_leaks=true")
    assert outcome.code == 4
    assert "[train] drop_leaks: all" in outcome.out + outcome.err
