"""What is released is what somebody promoted, and there is a way back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.release.releases import current_release, first_release, promotion_history
from harness.testing import SUITE, Project
from tests.helpers.exports import reseal

TO = "exports/fake"
COMPARED = SUITE.replace("min = 0.5", 'versus = "released"\nworse_by_at_most = 0.2')


@pytest.fixture
def suite(passed: Project) -> Project:
    """A project with one export, of skill 0.9."""
    return passed


def export(suite: Project, skill: float) -> bytes:
    """Export another model, and return its weights."""
    assert suite.run("--set", f"train.skill={skill}").code == 0
    return (suite.folder / TO / "model/model.safetensors").read_bytes()


def read_weights(folder: Path | None) -> bytes:
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
    assert read_weights(current_release(Path(TO))) == before


def test_promoting_twice_records_once(suite: Project) -> None:
    """The release is what it is, however often it is said."""
    assert suite.harness("promote", TO).code == suite.harness("promote", TO).code == 0
    assert len(promotion_history(Path(TO))) == 1


@pytest.mark.slow
def test_released_is_what_was_promoted(suite: Project) -> None:
    """A better export that nobody promoted is not what the next candidate is compared with."""
    suite.harness("promote", TO)
    export(suite, 0.99)
    suite.write({"suite.toml": COMPARED})
    outcome = suite.run("--set", "train.skill=0.95", "--no-export")
    assert outcome.verdict("floor") == "PASS"
    assert outcome.report.digests["released"] == promotion_history(Path(TO))[0].weights
    suite.write({"suite.toml": SUITE})
    export(suite, 0.99)
    suite.harness("promote", TO)
    suite.write({"suite.toml": COMPARED})
    assert suite.run("--set", "train.skill=0.6", "--no-export").verdict("floor", "adapter") == "FAIL"


@pytest.mark.slow
def test_way_back(suite: Project) -> None:
    """Back goes one release at a time, is recorded like everything, and ends at the first."""
    made = [(suite.folder / TO / "model/model.safetensors").read_bytes()]
    suite.harness("promote", TO)
    for skill in (0.93, 0.96):
        made.append(export(suite, skill))
        suite.harness("promote", TO)
    for expected in (made[1], made[0]):
        assert suite.harness("promote", TO, "--back").code == 0
        assert read_weights(current_release(Path(TO))) == expected
    outcome = suite.harness("promote", TO, "--back")
    assert (outcome.code, "names no release before the last one to go back to" in outcome.err) == (4, True)
    assert read_weights(first_release(Path(TO))) == made[0]
    listed = suite.harness("promote", TO, "--list").out.splitlines()
    assert [line.split("  ")[1].split()[0] for line in listed] == ["promoted"] * 3 + ["back"] * 2
    assert suite.harness("promote", TO).code == 0  # the newest again
    assert read_weights(current_release(Path(TO))) == made[2]


@pytest.mark.slow
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
    kept = first_release(Path(TO))
    assert kept
    (kept / "model/config.json").write_text("{ }", "utf-8")
    assert suite.harness("promote", TO, "--back").code == 7
    assert [line.back for line in promotion_history(Path(TO))] == [False, False]


def test_broken_record_is_one_line(suite: Project) -> None:
    """A record that somebody edited is told, not guessed at."""
    suite.harness("promote", TO)
    record = suite.folder / f"{TO}.releases/releases.jsonl"
    record.write_text(json.dumps({"root": "x"}) + "\n", "utf-8")
    outcome = suite.harness("promote", TO)
    assert outcome.code == 4
    assert "; only harness promote may write it" in outcome.err


def record(suite: Project) -> Path:
    return suite.folder / f"{TO}.releases/releases.jsonl"


@pytest.mark.slow
def test_promoted_at_once_is_recorded_once(suite: Project) -> None:
    """Whoever comes second finds that it is the release already; the way back leads to other bytes."""
    before = (suite.folder / TO / "model/model.safetensors").read_bytes()
    suite.harness("promote", TO)
    export(suite, 0.96)
    code = "import sys; from harness.cli.main import main; sys.exit(main(sys.argv[1:]))"
    runs = [subprocess.Popen([sys.executable, "-c", code, "promote", TO], cwd=suite.folder) for _ in range(4)]
    assert [run.wait() for run in runs] == [0] * 4
    assert [line.back for line in promotion_history(Path(TO))] == [False, False]
    assert suite.harness("promote", TO, "--back").code == 0
    assert read_weights(current_release(Path(TO))) == before


@pytest.mark.slow
def test_release_that_was_recorded_twice_is_gone_back_from_at_once(suite: Project) -> None:
    """In a record that has one promotion twice the way back leads past both, and then there is none."""
    before = (suite.folder / TO / "model/model.safetensors").read_bytes()
    suite.harness("promote", TO)
    export(suite, 0.96)
    suite.harness("promote", TO)
    lines = record(suite).read_text("utf-8").split("\n")
    record(suite).write_text("\n".join([lines[0], lines[0], lines[1], lines[1], ""]), "utf-8")
    assert suite.harness("promote", TO, "--back").code == 0
    assert read_weights(current_release(Path(TO))) == before
    outcome = suite.harness("promote", TO, "--back")
    assert (outcome.code, "names no release before the last one to go back to" in outcome.err) == (4, True)


def make_rollback_line(root: str, good: str) -> str:
    return json.dumps({**json.loads(good), "root": root, "back": True}) + "\n"


ODD = {
    "one way back too many": lambda good: good + good.replace("false", "true"),
    "a way back at first": lambda good: good.replace("false", "true"),
    "a way back to what never was": lambda good: good + good + make_rollback_line("f" * 64, good),
    "a list": lambda good: good + "[]\n",
    "a number": lambda good: good + "7\n",
    "a number of 5,000 digits": lambda good: good + '{"root": ' + "9" * 5000 + "}\n",
    "lists 100,000 deep": lambda good: good + "[" * 100_000 + "\n",
    "a root that leads elsewhere": lambda good: good.replace('"root": "', '"root": "../../'),
    "a root that is a number": lambda good: '{"root": 7, ' + good.partition(", ")[2],
    "back in words": lambda good: good.replace("false", '"no"'),
    "a field too many": lambda good: good.replace('"back"', '"more": 1, "back"'),
    "half a line": lambda good: good + good[:40] + "\n",
}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("flags", [[], ["--back"], ["--list"]])
def test_odd_records_are_one_line(suite: Project, case: str, flags: list[str]) -> None:
    """Whatever somebody wrote into a record: one line and exit 4, and nothing is added to it."""
    suite.harness("promote", TO)
    odd = ODD[case](record(suite).read_text("utf-8"))
    record(suite).write_text(odd, "utf-8")
    outcome = suite.harness("promote", TO, *flags)
    assert (outcome.code, outcome.err.count("\n")) == (4, 1), outcome.err
    assert "releases.jsonl" in outcome.err
    assert record(suite).read_text("utf-8") == odd


def test_record_that_is_not_utf8_is_one_line(suite: Project) -> None:
    """As every other record that cannot be read; a run that compares with the release says so too."""
    suite.harness("promote", TO)
    record(suite).write_bytes(b"\xff\n")
    suite.write({"suite.toml": COMPARED})
    for outcome in (suite.harness("promote", TO), suite.run()):
        assert (outcome.code, outcome.err.count("\n")) == (4, 1), outcome.err


def sign_export(suite: Project) -> Project:
    """Sign the export, with a policy beside it that wants the signature."""
    pytest.importorskip("securesystemslib", reason="the extra `sign` is not installed")
    assert suite.harness("keygen", "release").code == 0
    suite.write({"policy.toml": 'suites = ["fake"]\n' + (suite.folder / "release.pub").read_text("utf-8")})
    assert suite.harness("sign", TO, "--key", "release.key").code == 0
    return suite


def test_signature_that_came_later_is_kept(suite: Project) -> None:
    """What was promoted unsigned is promoted by a policy once it is signed; the record tells by whom."""
    assert suite.harness("promote", TO).code == 0
    outcome = sign_export(suite).harness("promote", TO, "--policy", "policy.toml")
    assert (outcome.code, outcome.err) == (0, "")
    assert "signatures: by " in outcome.out
    assert ", was by nobody" in outcome.out
    assert [line.signed_by for line in promotion_history(Path(TO))] == [[], ["release"]]
    assert suite.harness("verify", str(current_release(Path(TO))), "--policy", "policy.toml").code == 0
    assert suite.harness("promote", TO, "--policy", "policy.toml").code == 0
    assert len(promotion_history(Path(TO))) == 2  # nothing new was kept


def test_newest_evidence_is_kept(suite: Project) -> None:
    """The same weights, judged again, are released by the evidence of today; that of before does not come back."""
    seen = []
    for year in (2021, 2022, 2020):
        reseal(suite.folder / TO, started=f"{year}-01-01T00:00:00+00:00")
        assert suite.harness("promote", TO).code == 0
        kept = current_release(Path(TO))
        assert kept
        seen.append(json.loads((kept / "evidence/manifest.json").read_text("utf-8"))["started"][:4])
    assert seen == ["2021", "2022", "2022"]
    assert [line.started[:4] for line in promotion_history(Path(TO))] == ["2021", "2022"]


@pytest.mark.slow
def test_what_changed_is_told(suite: Project) -> None:
    """Gates and numbers against the last release, a line each; nothing is said of a first one."""
    first = suite.harness("promote", TO).out
    assert first.count("\n") == 1
    text = SUITE.replace("min = 0.5", "min = 0.4") + '\n[[gate]]\nid = "hope"\nmetric = "qa.exact_match"\nmin = 0.1\n'
    suite.write({"suite.toml": text})
    export(suite, 0.95)
    told = suite.harness("promote", TO).out.splitlines()
    claims = '"floor" claims qa.exact_match at least 0.4, was qa.exact_match at least 0.5'
    assert told[1] == f'gates: "hope" is new; {claims}'
    assert told[2].startswith('numbers: "floor" 0.')
    assert ", was 0." in told[2]
    assert len(told) == 3
    assert suite.harness("promote", TO, "--back").out.splitlines()[1].startswith('gates: "hope" was removed')


@pytest.mark.slow
def test_history_marks_the_run_that_was_promoted(suite: Project) -> None:
    """Runs of the same weights are not released by one promotion."""
    assert suite.run().code == suite.run().code == 0
    days = [f"2026-11-0{day}T00:00:00+00:00" for day in (1, 2, 3)]  # really they began within a second
    for day, path in zip(days, sorted(suite.folder.glob("reports/*/report.json")), strict=True):
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "started": day}), "utf-8")
    reseal(suite.folder / TO, started=days[1])
    assert suite.harness("promote", TO).code == 0
    told = suite.harness("history", str(suite.folder / "suite.toml"), "--out", str(suite.folder / "reports"))
    assert told.out.count("released on ") == 1
