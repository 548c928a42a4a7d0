"""[train] drop: rows that stand in a file are left out, and the next run is a further attempt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.testing import Project
from tests.helpers.learners import GOOD, WRONG, read_trainings, write_learner
from tests.helpers.suites import read_ledger

DROP = 'drop = "suspects.jsonl"\n'


@pytest.mark.slow
def test_what_blame_wrote_is_dropped_in_a_further_attempt(project: Project) -> None:
    """From the gate that failed to the one that passes; the ledger counts both."""
    folder = write_learner(project).run("--no-export").report.folder
    blamed = project.harness(
        "blame",
        "suite.toml",
        folder,
        "--gate",
        "no forgetting",
        "--rows",
        "6",
        "--retrain",
        "--json",
        "--controls",
        "5",
    )
    file = Path(json.loads(blamed.out)["file"])
    write_learner(project, train=f'drop = "{file.relative_to(project.folder).as_posix()}"\n')
    outcome = project.run("--no-export")
    assert (outcome.code, outcome.verdict("no forgetting")) == (0, "PASS"), outcome.out + outcome.err
    assert "6 of 86 training rows are left out" in " ".join(outcome.out.split())
    assert [line["attempt"] for line in read_ledger(project) if line["role"] == "merged"] == [1, 2]
    assert len(read_trainings(project)) == 7  # the proof's training without suspects is that of this recipe


def test_every_copy_is_dropped_and_the_file_may_name_a_row_twice(project: Project) -> None:
    """Rows are told by what they hold, whatever file they stand in, and in whatever order their columns are."""
    turned = [dict(reversed(row.items())) for row in (GOOD[0], GOOD[50], GOOD[0])]
    suite = write_learner(project, train=DROP).write({"suspects.jsonl": turned})
    suite.write({"train.jsonl": [*GOOD[:40], GOOD[0]]})
    outcome = suite.harness("check", "suite.toml")
    assert '[train] drop "suspects.jsonl": 3 of 87 training rows are left out' in outcome.out, outcome.out + outcome.err


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([*WRONG, {"input": "no", "target": "row"}], "row 7 is not in the training data (1 such rows)"),
        ([*WRONG, *GOOD], "names all 86 training rows; leave some to train on"),
        ([], "has no rows"),
    ],
)
def test_a_file_of_other_rows_is_a_mistake(project: Project, rows: list[dict[str, str]], why: str) -> None:
    """Before anything is trained; a file that is not there is one, too."""
    suite = write_learner(project, train=DROP)
    assert "suspects.jsonl" in suite.harness("check", "suite.toml").err
    outcome = suite.write({"suspects.jsonl": rows}).harness("check", "suite.toml")
    assert (outcome.code, why in outcome.err) == (4, True), outcome.err


def test_validation_rows_stay(project: Project) -> None:
    """Only what is trained on is dropped."""
    suite = write_learner(project, train=DROP + 'validation_data = "held.jsonl"\n')
    suite.write({"suspects.jsonl": WRONG, "held.jsonl": [{"input": "held", "target": "out"}]})
    text = (
        (project.folder / "harnessfile.py")
        .read_text("utf-8")
        .replace("seed: int,", "seed: int, validation: float = 0.0,")
    )
    outcome = suite.write({"harnessfile.py": text}).harness("check", "suite.toml")
    assert "6 of 86 training rows are left out" in outcome.out, outcome.err
