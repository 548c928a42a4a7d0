"""An attempt is a candidate with the set of blocking claims on some questions, and nothing else is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.pipeline.attempt import AttemptClaims, make_attempt
from harness.pipeline.ledger import Ledger
from harness.pipeline.session import Options, prepare_collection
from harness.records.samples import Result, Score
from harness.testing import ROWS, SUITE, TRAIN, Project
from tests.helpers.suites import read_ledger

ROOT = Path(__file__).parents[2]
SECOND = SUITE.replace(
    "[[gate]]",
    '[[eval]]\nname = "more"\nuse = "contains"\ndata = "test.jsonl"\n\n'
    '[[gate]]\nid = "second"\nmetric = "more.contains"\nmin = 0.4\n\n[[gate]]',
    1,
)
OTHER = '\n[[gate]]\nid = "other"\nmetric = "qa.exact_match"\nmin = 0.4\n'


@pytest.fixture
def suite(project: Project) -> Project:
    return project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN})  # type: ignore[dict-item]


def gate_and_list_attempts(suite: Project, text: str, *flags: str) -> set[int]:
    """Gate one model, the same each time, and return the attempts of all gates on it."""
    suite.write({"suite.toml": text})
    outcome = suite.run("--candidate", str(suite.folder / "base"), "-p", "no:checks", *flags)
    return {v.attempt for v in outcome.report.verdicts}


def test_gates_that_must_all_pass_are_one_attempt(suite: Project) -> None:
    """Two evaluations on one file, in one run: nothing adds up, and nothing is said of attempts."""
    suite.write({"suite.toml": SECOND})
    outcome = suite.run("--candidate", str(suite.folder / "base"), "-p", "no:checks")
    assert {v.gate: v.attempt for v in outcome.report.verdicts} == {"floor": 1, "second": 1}
    assert "may add up to" not in outcome.out
    assert [line["eval"] for line in read_ledger(suite) if line["role"] == "merged"]


def test_the_same_candidate_and_claims_again_are_the_same_attempt(suite: Project) -> None:
    """Run again, under other names of suite, eval and gate."""
    assert gate_and_list_attempts(suite, SECOND) == {1}
    assert gate_and_list_attempts(suite, SECOND) == {1}
    renamed = SECOND.replace('"qa', '"quiz').replace('"floor"', '"least"').replace('name = "fake"', 'name = "x"', 1)
    assert gate_and_list_attempts(suite, renamed) == {1}


CHOSEN = {
    "another metric": SUITE.replace("exact_match", "contains"),
    "another margin": SUITE.replace("min = 0.5", "min = 0.45"),
    "another template": SUITE.replace("slices =", 'template = "Do this: {input}!"\nslices ='),
    "another slice": SUITE.replace("min = 0.5", 'min = 0.5\nslice = "kind=a"\nmin_n = 20'),
    "another seed": SUITE.replace("[model]", "seed = 18\n\n[model]", 1),
    "another gate": SUITE + OTHER,
    "another risk": SUITE.replace("min = 0.5", "min = 0.5\nalpha = 0.1"),
}


@pytest.mark.parametrize("case", CHOSEN)
def test_what_is_chosen_on_the_same_questions_is_a_new_attempt(suite: Project, case: str) -> None:
    """The same model under another claim on the rows that were seen, and the first claim keeps its number."""
    assert CHOSEN[case] != SUITE
    assert gate_and_list_attempts(suite, SUITE) == {1}
    assert gate_and_list_attempts(suite, CHOSEN[case]) == {2}
    assert gate_and_list_attempts(suite, SUITE) == {1}


def test_a_gate_that_only_warns_is_no_claim(suite: Project) -> None:
    """What blocks nothing chooses nothing."""
    assert gate_and_list_attempts(suite, SUITE) == {1}
    warns = '\n[[gate]]\nid = "hope"\nmetric = "qa.exact_match"\nmin = 0.99\nseverity = "warn"\n'
    assert gate_and_list_attempts(suite, SUITE + warns) == {1}


@pytest.mark.slow
def test_the_best_of_several_candidates_counts_them(suite: Project) -> None:
    """Three candidates at the same claims are three attempts."""
    found = [suite.run("--set", f"train.skill={skill}").report.verdicts for skill in (0.7, 0.8, 0.9)]
    assert [{v.attempt for v in verdicts} for verdicts in found] == [{1}, {2}, {3}]


def test_a_first_run_of_the_demo_is_attempt_1(tmp_path: Path) -> None:
    """Three evaluations of the demo ask the phrases that confirm, and are one attempt; so is the rest."""
    collection = prepare_collection(ROOT / "suites/domain.toml", Options())
    claims, log = AttemptClaims(collection), Ledger(tmp_path / "attempts.jsonl", pytest.fail)
    assert claims.overlapping_evals["chapter"] == {"chapter", "choice", "answers"}
    for name, task in collection.tasks.items():
        scores = tuple(Score(s.id, {name: i / 7}) for i, s in enumerate(task.samples or ()))
        look = make_attempt(claims, "merged", name, "w", "b", Result("merged", name, scores, {}, "w"))
        with log.lock():
            standing = log.number_attempt(look)
            log.record(standing, look, collection.suite, "merged", name)
        assert standing.number == 1, name
    assert len(log.read_entries()) >= 5


TABLE = "id,input,score,other\n" + "".join(f"q{i},question {i},{int(i % 9 > 0)},{int(i % 7 > 0)}\n" for i in range(90))
OF_ROWS = """
[suite]
name = "rows"

[rows.candidate]
path = "candidate.csv"
"""


def make_rows_tables(column: str, least: float) -> str:
    text = f'\n[[eval]]\nname = "{column}"\nuse = "rows"\nmetric = "{column}"\nbetter = "higher"\n'
    return f'{text}\n[[gate]]\nid = "{column}"\nmetric = "{column}.{column}"\nmin = {least}\n'


@pytest.mark.parametrize(
    ("text", "attempt"),
    [
        (make_rows_tables("score", 0.5) + make_rows_tables("other", 0.5), 1),
        (make_rows_tables("score", 0.6) + make_rows_tables("other", 0.5), 2),
        (make_rows_tables("score", 0.5), 2),
    ],
    ids=["the same", "another margin", "fewer gates"],
)
def test_rows_of_another_tool_are_counted_alike(project: Project, text: str, attempt: int) -> None:
    """Two columns of one file that must both pass are one attempt, and another margin on them a second."""
    first = make_rows_tables("score", 0.5) + make_rows_tables("other", 0.5)
    assert run_and_list_attempts(project, first) == {1}
    assert run_and_list_attempts(project, text) == {attempt}


def run_and_list_attempts(project: Project, text: str) -> set[Any]:
    project.write({"suite.toml": OF_ROWS + text, "candidate.csv": TABLE})
    outcome = project.harness("run", "suite.toml", "--json")
    assert outcome.code == 0, outcome.err
    import json

    return {v["parts"]["attempt"]["number"] for r in json.loads(outcome.out)["run"]["results"] for v in r["verdicts"]}
