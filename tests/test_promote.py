"""What is released is what somebody promoted, and there is a way back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.promote import current, first, history
from harness.testing import Project
from tests.test_suite import ROWS, SUITE, TRAIN

TO = "exports/fake"
COMPARED = SUITE.replace("min = 0.5", 'versus = "released"\nworse_by_at_most = 0.2')


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with one export, of skill 0.9."""
    project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    assert project.run().code == 0
    return project


def export(suite: Project, skill: float) -> bytes:
    """Export another model, and return its weights."""
    assert suite.run("--set", f"train.skill={skill}").code == 0
    return (suite.folder / TO / "model/model.safetensors").read_bytes()


def weights(folder: Path | None) -> bytes:
    """Return the weights of a release."""
    assert folder
    return (folder / "model/model.safetensors").read_bytes()


def test_promoted_export_outlives_the_next_one(suite: Project) -> None:
    """The next export takes the place of the last, and what was promoted is still the release."""
    before = (suite.folder / TO / "model/model.safetensors").read_bytes()
    outcome = suite.harness("promote", TO)
    assert outcome.code == 0
    assert "released: merged of suite fake" in outcome.out
    assert export(suite, 0.95) != before
    assert weights(current(Path(TO))) == before


def test_promoting_twice_records_once(suite: Project) -> None:
    """The release is what it is, however often it is said."""
    assert suite.harness("promote", TO).code == suite.harness("promote", TO).code == 0
    assert len(history(Path(TO))) == 1


def test_released_is_what_was_promoted(suite: Project) -> None:
    """A better export that nobody promoted is not what the next candidate is compared with."""
    suite.harness("promote", TO)
    export(suite, 0.99)
    suite.write({"suite.toml": COMPARED})
    outcome = suite.run("--set", "train.skill=0.95", "--no-export")
    assert outcome.verdict("floor") == "PASS"
    assert outcome.report.digests["released"] == history(Path(TO))[0].weights
    suite.write({"suite.toml": SUITE})
    export(suite, 0.99)
    suite.harness("promote", TO)
    suite.write({"suite.toml": COMPARED})
    assert suite.run("--set", "train.skill=0.6", "--no-export").verdict("floor", "adapter") == "FAIL"


def test_way_back(suite: Project) -> None:
    """Back goes one release at a time, is recorded like everything, and ends at the first."""
    made = [(suite.folder / TO / "model/model.safetensors").read_bytes()]
    suite.harness("promote", TO)
    for skill in (0.93, 0.96):
        made.append(export(suite, skill))
        suite.harness("promote", TO)
    for expected in (made[1], made[0]):
        assert suite.harness("promote", TO, "--back").code == 0
        assert weights(current(Path(TO))) == expected
    outcome = suite.harness("promote", TO, "--back")
    assert (outcome.code, "there is no way back" in outcome.err) == (4, True)
    assert weights(first(Path(TO))) == made[0]
    listed = suite.harness("promote", TO, "--list").out.splitlines()
    assert [line.split("  ")[1].split()[0] for line in listed] == ["promoted"] * 3 + ["back"] * 2
    assert suite.harness("promote", TO).code == 0  # the newest again
    assert weights(current(Path(TO))) == made[2]


def test_what_is_refused_is_not_promoted(suite: Project) -> None:
    """A changed export exits 7 and leaves no record; so does a release that was changed where it is kept."""
    broken = shutil.copytree(suite.folder / TO, suite.folder / "exports/broken")
    (broken / "model/config.json").write_text("{ }", "utf-8")
    outcome = suite.harness("promote", "exports/broken")
    assert (outcome.code, outcome.out) == (7, "")
    assert not (suite.folder / "exports/broken.releases").exists()
    suite.harness("promote", TO)
    export(suite, 0.93)
    suite.harness("promote", TO)
    kept = first(Path(TO))
    assert kept
    (kept / "model/config.json").write_text("{ }", "utf-8")
    assert suite.harness("promote", TO, "--back").code == 7
    assert [line.back for line in history(Path(TO))] == [False, False]


def test_broken_record_is_one_line(suite: Project) -> None:
    """A record that somebody edited is told, not guessed at."""
    suite.harness("promote", TO)
    record = suite.folder / f"{TO}.releases/releases.jsonl"
    record.write_text(json.dumps({"root": "x"}) + "\n", "utf-8")
    outcome = suite.harness("promote", TO)
    assert outcome.code == 4
    assert "it is written by harness promote alone" in outcome.err
