"""A comparison has two sides: what guards the candidate guards what it is compared with."""

from __future__ import annotations

import json

from harness.artifacts.attestation import EVIDENCE, MANIFEST
from harness.release.policy import Policy
from harness.release.verify import verify
from harness.testing import ROWS, SUITE, TRAIN, Project

COMPARES = SUITE.replace("min = 0.5", 'versus = "base"\nbetter_by = 0.05')


def test_remembered_answers_of_the_baseline_count(project: Project) -> None:
    """New weights are never remembered, a base always is: its answers are those that could be put there."""
    project.write({"suite.toml": COMPARES, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    policy = Policy(["fake"], remembered=False, threshold=0)
    assert project.run().code == 0
    export = project.folder / "exports/fake"
    assert json.loads((export / EVIDENCE / MANIFEST).read_text("utf-8"))["answers"]["remembered"] == 0
    for path in (project.folder / "cache/trained").iterdir():  # another training, of which nothing is remembered
        path.rename(path.with_name(f"{path.name}.old"))
    assert project.run("--set", "train.skill=0.97").code == 0
    answers = json.loads((export / EVIDENCE / MANIFEST).read_text("utf-8"))["answers"]
    assert answers == {"asked": 2 * len(ROWS), "remembered": len(ROWS)}
    found = verify(export, policy)
    assert f"{len(ROWS)} answers were remembered of an earlier run" in found.refused
    assert project.run("--set", "train.skill=0.97", "--no-cache").code == 0
    assert json.loads((export / EVIDENCE / MANIFEST).read_text("utf-8"))["answers"]["remembered"] == 0
