"""`harness aa`: how often rows and verdicts of one model differ by chance."""

from __future__ import annotations

import json

import pytest

from harness.errors import ExitCode
from harness.planning.equal_runs import EqualRuns, VerdictFlips
from harness.testing import ROWS, SUITE, TRAIN, CommandOutcome, Project
from tests.helpers.sampling import HARNESSFILE

GATES = """
[[gate]]
id = "kept"
metric = "qa.exact_match"
versus = "base"
worse_by_at_most = 0.15

[[gate]]
id = "better"
metric = "qa.exact_match"
versus = "base"
better_by = 0.0
"""


def compare(project: Project, suite: str, *words: str) -> CommandOutcome:
    """Run the command on a suite whose models sample."""
    suite = suite.replace('use = "fake"\npath', 'use = "sampling"\npath')
    project.write({"suite.toml": suite, "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": HARNESSFILE})
    return project.harness("aa", "suite.toml", "-p", "harness.testing", *words)


def test_greedy_answers_do_not_differ(project: Project) -> None:
    """A model that answers by the prompt alone has equal rows in every run, so nothing can be compared."""
    done = compare(project, SUITE + GATES, "--runs", "3")
    assert done.code == 0, done.err
    assert "3 runs of the base, each with another seed and its rows in another order" in done.out
    assert "qa.exact_match  0.300 to 0.300; no row differs between two runs" in done.out
    assert "kept: PASS 100.0% of 400 pairs; wrong 0.0% (alpha 0.05); at the margin " in done.out


def test_sampled_answers_differ_by_their_seed(project: Project) -> None:
    """Row flips are counted over all pairs of runs, and a gate is wrong on equal models no more often than its risk."""
    sampled = SUITE.replace('data = "test.jsonl"', 'data = "test.jsonl"\ntemperature = 0.7\nrepeats = 2')
    done = compare(project, sampled + GATES, "--runs", "4", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    [mean] = [row for row in found["rows"] if row["metric"] == "qa.exact_match"]
    # two of two values in {0, 1/2, 1} by chance 0.3: they differ with probability 1 - Σ p² = 0.566
    assert mean["rows"] == 60 and len({*mean["values"]}) > 1 and mean["share"] == pytest.approx(0.566, abs=0.12)
    gates = {gate["gate"]: gate for gate in found["gates"]}
    assert gates["floor"]["wrong"] is None and gates["floor"]["outcomes"] == {"FAIL": 1.0}
    assert gates["better"]["wrong"] <= 0.1 and 0 < gates["kept"]["at_margin"] <= 0.1
    assert gates["kept"]["outcomes"]["PASS"] > gates["kept"]["at_margin"]
    assert not [*project.folder.glob("reports/*")]


def test_a_gate_that_is_wrong_too_often_fails_the_command() -> None:
    """Exit 1 says that a gate is wrong on equal models, or at its margin, more often than its risk."""

    def exit_code(wrong: float | None, at_margin: float | None) -> ExitCode:
        return EqualRuns(8, (), (VerdictFlips("g", 0.05, 400, {}, wrong, at_margin),), ()).exit_code

    assert exit_code(0.08, None) == exit_code(None, None) == exit_code(0.0, 0.08) == ExitCode.OK
    assert exit_code(0.09, None) == exit_code(0.0, 0.09) == ExitCode.FAILED


@pytest.mark.parametrize(
    ("suite", "words", "says"),
    [
        (SUITE, ("--runs", "1"), "--runs is 1; it must be 2 or more"),
        (SUITE.replace("[[gate]]", "[[gates]]"), (), 'unknown table "gates"'),
        (
            SUITE.replace('"exact_match"\n', '"latency"\n')
            .replace("qa.exact_match", "qa.seconds")
            .replace("min", "max"),
            (),
            "has no gate on an evaluation that can be repeated",
        ),
    ],
)
def test_what_cannot_be_repeated_is_refused(project: Project, suite: str, words: tuple[str, ...], says: str) -> None:
    """A mistake is one line before the base is loaded."""
    done = compare(project, suite, *words)
    assert done.code == 4 and says in done.err
