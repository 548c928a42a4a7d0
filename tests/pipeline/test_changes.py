"""What merging changed is told, on the rows that the adapter and the merged model were both asked."""

from __future__ import annotations

import json

import pytest

from harness.records.changes import Change
from harness.testing import ROWS, SUITE, CommandOutcome, Project
from tests.helpers.suites import EXPORTER

LOSES = SUITE.replace('[adapter]\nuse = "fake"', '[adapter]\nuse = "fake"\nloses = 0.3')


def read_right_rows(outcome: CommandOutcome, subject: str) -> set[str]:
    """Return the rows that a subject got right, from its file."""
    [path] = outcome.folder.glob(f"reports/*/{subject}/samples_qa_*.jsonl")
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return {row["id"] for row in rows if row["exact_match"]}


def test_merge_that_costs_rows_is_told(suite: Project) -> None:
    """The rows are those that only the adapter got right, each by name, and the sentence counts them."""
    outcome = suite.write({"suite.toml": LOSES}).run()
    [change] = outcome.report.changes
    lost = read_right_rows(outcome, "adapter") - read_right_rows(outcome, "merged")
    assert len(lost) > 10
    assert (change.before, change.after, change.eval, change.metric) == ("adapter", "merged", "qa", "exact_match")
    assert (set(change.lost_ids), change.lost, change.won, change.n) == (lost, len(lost), 0, 60)
    assert change.estimate == pytest.approx((change.ours or 0) - (change.theirs or 0)) == -len(lost) / 60
    assert change.lower is not None and change.upper is not None
    assert change.lower < -len(lost) / 60 < change.upper < 0
    [told] = [c for c in outcome.report.conclusions if "merging" in c]
    assert told.startswith(f"merging broke qa.exact_match on {len(lost)} rows and fixed 0 (")
    assert told in " ".join(outcome.out.split())


def test_the_interval_is_a_gate_s(suite: Project) -> None:
    """A gate against the same baseline, on the same rows at the same risk, comes to the same numbers."""
    gate = '\n[[gate]]\nid = "copy"\nmetric = "qa.exact_match"\nversus = "merged"\nbetter_by = 0.0\nseverity = "warn"\n'
    copies = '\n[[export]]\nname = "fewer"\nuse = "fewer"\nto = "exports/fewer"\nloses = 0.3\n'
    text = SUITE + copies + gate.replace('"merged"', '"parent"').replace("[[gate]]", '[[gate]]\non = ["fewer"]')
    outcome = suite.write({"suite.toml": text, "harnessfile.py": EXPORTER}).run()
    [change] = [c for c in outcome.report.changes if c.after == "fewer"]
    [verdict] = [v for v in outcome.report.verdicts if v.gate == "copy"]
    assert (change.estimate, change.lower, change.upper) == (verdict.estimate, verdict.lower, verdict.upper)
    assert (change.won, change.lost) == (verdict.won_count, verdict.lost_count) == (0, len(verdict.lost))
    assert any(c.startswith("making fewer of merged broke qa.exact_match on") for c in outcome.report.conclusions)


def test_merge_that_changes_nothing_is_not_told(suite: Project) -> None:
    """The rows are compared all the same, and no conclusion speaks of them."""
    run = suite.run().report
    assert run.changes == (
        Change("qa", "exact_match", run.changes[0].theirs, run.changes[0].theirs, 60, scale="proportion",
               before="adapter", after="merged"),
    )  # fmt: skip
    assert not any("merging" in c for c in run.conclusions)


def test_few_changes_are_told_as_no_difference(suite: Project) -> None:
    """Where the interval covers zero the sentence counts the rows and claims nothing."""
    run = suite.write({"suite.toml": LOSES.replace("0.3", "0.02", 1), "test.jsonl": ROWS}).run().report
    [change] = run.changes
    assert 0 < change.lost < 4
    [told] = [c for c in run.conclusions if "merging" in c]
    assert told.startswith(f"merging changed qa.exact_match on {change.lost} rows, {change.lost} lost and 0 won, which")
