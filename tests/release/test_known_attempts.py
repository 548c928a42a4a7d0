"""A release says what its ledger of attempts was, and a policy may want that it went on from the last release's."""

from __future__ import annotations

import json

import pytest

from harness.testing import ROWS, SUITE, TRAIN, Project

pytest.importorskip("securesystemslib", reason="the extra `sign` is not installed")

TO = "exports/fake"
BEGAN = "attempts before this run are unknown: the ledger began with it"
LEDGER = "cache/attempts.jsonl"


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with one export and a key."""
    project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    assert project.run().code == 0
    assert project.harness("keygen", "release").code == 0
    return project


def promote(suite: Project, ledger: str) -> tuple[int, str]:
    """Sign the export and release it by a policy; return the exit code and what was said on stderr."""
    policy = f'suites = ["fake"]\nledger = "{ledger}"\n' + (suite.folder / "release.pub").read_text("utf-8")
    suite.write({"policy.toml": policy})
    assert suite.harness("sign", TO, "--key", "release.key").code == 0
    outcome = suite.harness("promote", TO, "--policy", "policy.toml")
    return outcome.code, outcome.err


def retrain(suite: Project, skill: float) -> None:
    """Export another model."""
    assert suite.run("--set", f"train.skill={skill}").code == 0


@pytest.mark.slow
def test_manifest_tells_of_the_ledger(suite: Project) -> None:
    """Every line that there was, by its digest, the last ones, and whether it began with this run."""
    told = [json.loads((suite.folder / TO / "evidence/manifest.json").read_text("utf-8"))["ledger"]]
    retrain(suite, 0.95)
    told.append(json.loads((suite.folder / TO / "evidence/manifest.json").read_text("utf-8"))["ledger"])
    assert [t["began"] for t in told] == [True, False]
    assert told[0]["ledgers"] == told[1]["ledgers"]
    assert set(told[0]["heads"]) < set(told[0]["lines"]) < set(told[1]["lines"])


@pytest.mark.slow
@pytest.mark.parametrize(("ledger", "code"), [("any", 0), ("first", 0), ("known", 7)])
def test_ledger_may_begin_with_the_first_release(suite: Project, ledger: str, code: int) -> None:
    """Where a policy says so; where it says nothing, who verifies is told."""
    found, said = promote(suite, ledger)
    assert (found, BEGAN in said) == (code, code == 7)
    assert (BEGAN in suite.harness("verify", TO).out + suite.harness("verify", TO).err) is True


@pytest.mark.slow
@pytest.mark.parametrize(("ledger", "code"), [("any", 0), ("first", 7), ("known", 7)])
def test_ledger_that_began_again_is_told_by_the_last_release(suite: Project, ledger: str, code: int) -> None:
    """Somebody moved the attempts away between two releases: the second one's ledger lacks what the first one's had."""
    assert promote(suite, "first")[0] == 0
    (suite.folder / LEDGER).unlink()
    retrain(suite, 0.95)
    found, said = promote(suite, ledger)
    told = "attempts may be missing: the last release's ledger has a line that is missing here"
    assert (found, told in said) == (code, code == 7)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["record", "evidence"])
def test_a_damaged_record_of_releases_is_no_empty_one(suite: Project, damage: str) -> None:
    """Who breaks a line of the record, or removes what was released, does not begin the ledger again."""
    assert promote(suite, "first")[0] == 0
    kept = suite.folder / f"{TO}.releases"
    (suite.folder / LEDGER).unlink()
    retrain(suite, 0.95)
    assert promote(suite, "first")[0] == 7
    if damage == "record":
        (kept / "releases.jsonl").write_text("{\n", "utf-8")
    else:
        next(kept.glob("*/evidence/manifest.json")).unlink()
    refused = suite.harness("verify", TO, "--policy", "policy.toml")
    assert refused.code == 7 and 'the policy requires ledger = "first"' in refused.err


@pytest.mark.slow
def test_ledger_that_went_on_is_known(suite: Project) -> None:
    """What was moved to another place with its rows goes on as it was."""
    assert promote(suite, "first")[0] == 0
    retrain(suite, 0.95)
    assert promote(suite, "known") == (0, "")


@pytest.mark.slow
def test_an_older_ledger_is_not_the_last_one(suite: Project) -> None:
    """Attempts that were made after a copy was taken are missing from the copy."""
    copy = (suite.folder / LEDGER).read_bytes()
    retrain(suite, 0.95)
    assert promote(suite, "known")[0] == 0
    (suite.folder / LEDGER).write_bytes(copy)
    retrain(suite, 0.97)
    found, said = promote(suite, "known")
    assert (found, "attempts may be missing" in said) == (7, True)


def test_unknown_demand_is_one_line(suite: Project) -> None:
    """A policy that wants what there is not is a mistake, not a demand that is always met."""
    found, said = promote(suite, "knwon")
    assert (found, said.count("\n"), "ledger" in said) == (4, 1, True)
