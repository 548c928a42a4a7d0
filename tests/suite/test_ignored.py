"""Errors of checks that are ignored: to look on is free, to ship takes a name, a reason and a date, told everywhere."""

from __future__ import annotations

import base64
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.release.verify import verify_export
from harness.suite.waivers import read_waivers
from harness.testing import ROWS, SUITE, TRAIN, Project
from tests.helpers.exports import reseal
from tests.helpers.suites import make_waive_command, run_commands

TODAY = datetime.now(UTC).date()
LEAKING = [*TRAIN, *({"input": r["input"], "target": r["target"]} for r in ROWS)]
FILES: dict[str, Any] = {"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": LEAKING}
SAYS = "waived by ada until 2999-12-31: known"


@pytest.fixture
def suite(project: Project) -> Project:
    """A project that trains on all the rows it is judged on."""
    return project.write(FILES)


@pytest.fixture(scope="module")
def leaked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which it has shipped, with a waiver, and with code that did not come with the harness."""
    files = {**FILES, "harnessfile.py": '"""Nothing."""\n'}
    return run_commands(
        tmp_path_factory.mktemp("leaks"), make_waive_command("D10-exact"), "run suite.toml -q", suite=SUITE, files=files
    )


def waive(suite: Project, code: str = "D10-exact", until: str = "2999-12-31") -> int:
    return suite.harness(*make_waive_command(code, until).split()).code


def test_an_ignored_leak_ships_nothing(suite: Project) -> None:
    """All rows of the evaluation are trained on: who ignores that sees the verdicts, and what would let it ship."""
    outcome = suite.run("--ignore", "D10-exact")
    assert (outcome.code, outcome.verdict("floor")) == (6, "PASS")
    said = f"D10-exact was ignored without a waiver; harness waive D10-exact --suite {suite.folder}/suite.toml --by"
    assert f"nothing ships: {said}" in outcome.out
    assert f"because {said}" in outcome.out
    assert not (suite.folder / "exports").exists()


@pytest.mark.slow
def test_a_reason_in_the_suite_is_no_waiver(suite: Project) -> None:
    """`[checks] ignore` has a reason, and neither a name nor a date."""
    suite.write({"suite.toml": SUITE + '\n[checks]\nignore = { D10 = "known" }\n'})
    assert suite.run().code == 6
    assert waive(suite) == 0
    assert suite.run().code == 0


def test_a_failed_gate_outranks_what_was_ignored(suite: Project) -> None:
    """Nothing ships for two reasons, and the exit code is that of the worse."""
    suite.write({"suite.toml": SUITE.replace("min = 0.5", "min = 0.99")})
    outcome = suite.run("--ignore", "D10-exact")
    assert outcome.code == 1
    assert "D10-exact was ignored without a waiver" in outcome.out


def test_an_ignored_warning_needs_no_waiver(suite: Project) -> None:
    """What would not have stopped the run is ignored as before."""
    warning = (
        "from harness import Finding, hookimpl\n\ndef quiet(rows):\n    yield Finding('warning', 'too quiet')\n\n"
        "@hookimpl\ndef harness_checks():\n    return {'X1': quiet}\n"
    )
    suite.write({"train.jsonl": TRAIN, "harnessfile.py": warning})
    assert suite.run("--ignore", "X1").code == 0


def test_a_waived_finding_is_in_every_output(leaked: Path) -> None:
    """Report, page, card, manifest and claims have name, reason and date."""
    report = json.loads(next(leaked.glob("reports/*/report.json")).read_text("utf-8"))
    assert f"D10-exact was ignored, {SAYS}" in report["conclusions"]
    (flag,) = (f for f in report["findings"] if f["code"] == "D10-exact")
    assert (flag["severity"], flag["ignored"], flag["waiver"]["by"]) == ("error", SAYS, "ada")
    export = leaked / "exports/fake"
    assert f"- **D10-exact** (ignored): {SAYS}" in (export / "README.md").read_text("utf-8")
    told = [{"check": "D10-exact", "by": "ada", "reason": "known", "until": "2999-12-31"}]
    assert json.loads((export / "evidence/manifest.json").read_text("utf-8"))["ignored"] == told
    assert read_release_predicate(export)["ignored"] == told
    found = verify_export(export)
    assert found.ok
    assert f'check "D10-exact" failed and was ignored, {SAYS}' in found.notes


def test_terminal_and_markdown_tell_of_a_waived_finding(suite: Project) -> None:
    """The last sentence counts it, and a line has name, reason and date."""
    assert waive(suite) == 0
    outcome = suite.run()
    assert outcome.code == 0
    assert "merged may ship: 1 of 1 gate passed, one failed check is waived" in outcome.out
    assert f"D10-exact was ignored, {SAYS}" in outcome.out
    markdown = suite.harness("report", str(outcome.report.folder), "--markdown").out
    assert "one failed check is waived" in markdown
    assert "waived by ada until" in markdown


def test_manifest_says_that_nothing_was_ignored(passed: Project) -> None:
    """An empty list is said, so that a policy can ask for it."""
    export = passed.folder / "exports/fake"
    assert json.loads((export / "evidence/manifest.json").read_text("utf-8"))["ignored"] == []
    assert read_release_predicate(export)["ignored"] == []


def test_code_of_others_is_named(leaked: Path) -> None:
    """Card and claims name what ran and did not come with the harness."""
    export = leaked / "exports/fake"
    named = {p["name"]: p["distribution"] for p in read_release_predicate(export)["plugins"]}
    assert named["harnessfile.py"] is None
    assert not {"harness", "checks", "hf"} & named.keys()
    assert "Code from outside the harness took part in it:" in (export / "README.md").read_text("utf-8")


def test_plugins_that_were_left_out_are_named(suite: Project) -> None:
    """Without the checks nothing looks for a leak: that ships, and report and card say so."""
    outcome = suite.run("-p", "no:checks")
    assert outcome.code == 0
    said = "lugins were blocked in this run: -p no:checks"
    assert f"p{said}" in outcome.out
    assert f"P{said}" in (suite.folder / "exports/fake/README.md").read_text("utf-8")


def test_expired_waiver_of_a_finding_is_refused(leaked: Path, tmp_path: Path) -> None:
    """As that of a gate: from the day after its last one the export is not verified."""
    found = verify_export(leaked / "exports/fake", now=datetime(3000, 1, 1, 12, tzinfo=UTC))
    assert found.refused.endswith('check "D10-exact" failed and was ignored, and its waiver expired on 2999-12-31')


def test_claims_are_about_what_was_ignored(leaked: Path, tmp_path: Path) -> None:
    """Who takes it out of the manifest alone makes claims about another export."""
    export = shutil.copytree(leaked / "exports/fake", tmp_path / "export")
    claims = (export / "evidence/claims.intoto.jsonl").read_bytes()
    reseal(export, ignored=[])
    (export / "evidence/claims.intoto.jsonl").write_bytes(claims)
    assert "is about another export, or about the evidence of another run" in verify_export(export).refused


CHANGED = {
    "another base": ["model.path=good"],
    "other training rows": ["train.data=more.jsonl"],
    "another recipe": ["train.skill=0.8"],
    "other rows of an eval": ["eval.0.limit=50"],
}


@pytest.mark.parametrize("case", CHANGED)
def test_waiver_of_a_finding_is_for_one_suite(suite: Project, case: str) -> None:
    """What is trained, on which rows, and what is asked: a change of any makes the waiver void, and is said."""
    suite.write({"more.jsonl": LEAKING})
    assert waive(suite) == 0
    (change,) = CHANGED[case]
    outcome = suite.run("--set", change)
    assert outcome.code == 4  # the leak stops the run again
    assert "is for another suite with the same words: its model, [adapter], [train] or an eval changed" in outcome.out
    assert "does not count" in outcome.out


def test_gates_and_places_leave_the_waiver_of_a_finding(suite: Project) -> None:
    """What no check looks at may change."""
    assert waive(suite) == 0
    assert suite.run("--set", "gate.0.min=0.6", "--set", "export.0.to=exports/other").code == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [({"until": "2026-01-31"}, "expired on 2026-01-31"), ({"digest": ""}, "is for another suite")],
)
def test_void_waivers_of_findings(suite: Project, change: dict[str, str], told: str) -> None:
    """An expired one, or one without a digest, lets nothing through."""
    assert waive(suite) == 0
    path = suite.folder / "suite.waivers.jsonl"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **change}) + "\n", "utf-8")
    outcome = suite.run()
    assert outcome.code == 4
    assert f"{told}" in outcome.out


@pytest.mark.slow
def test_waiver_of_a_finding_is_for_no_gate(suite: Project) -> None:
    """A gate with the name of a waived check is not waived by it, nor a check by the waiver of such a gate."""
    suite.write({"train.jsonl": TRAIN})
    assert waive(suite, "D10") == 0
    suite.write({"suite.toml": SUITE.replace('"floor"', '"D10"').replace("min = 0.5", "min = 0.99")})
    assert suite.run().code == 1
    assert waive(suite, "D10") == 0
    assert read_waivers(suite.folder / "suite.toml")[1].claim == "qa.exact_match at least 0.99"
    suite.write(
        {
            "train.jsonl": LEAKING,
            "suite.waivers.jsonl": (suite.folder / "suite.waivers.jsonl").read_text("utf-8").splitlines()[1] + "\n",
        }
    )
    assert suite.run().code == 4


def test_waiver_of_a_finding_that_was_not_needed_is_told(suite: Project) -> None:
    """The leak is gone, so the waiver can go."""
    suite.write({"train.jsonl": TRAIN})
    assert waive(suite) == 0
    outcome = suite.run()
    assert outcome.code == 0
    assert 'the waiver of ada for "D10-exact" was not needed' in outcome.out
    assert "ignored" not in outcome.out


@pytest.mark.parametrize("code", ["D99", "", "train-test-leek"])
def test_codes_that_no_check_has(suite: Project, code: str) -> None:
    """One line, exit 4, and nothing is written."""
    words = ("--suite", "suite.toml", "--reason", "r", "--until", str(TODAY + timedelta(days=1)), "--by", "ada")
    outcome = suite.harness("waive", code, *words)
    assert outcome.code == 4
    assert f'suite.toml: there is no gate "{code}"' in outcome.err
    assert not list(suite.folder.glob("*.waivers.jsonl"))


def read_release_predicate(export: Path) -> dict[str, Any]:
    """Return what the release statement of an export says."""
    lines = (export / "evidence/claims.intoto.jsonl").read_text("utf-8").splitlines()
    statements = [json.loads(base64.b64decode(json.loads(line)["payload"])) for line in lines]
    return next(s["predicate"] for s in statements if s["predicateType"].startswith("urn:finetune-harness"))  # type: ignore[no-any-return]
