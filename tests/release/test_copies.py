"""Exports that make other weights: candidates of their own, which ship on verdicts of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from harness.release.verify import verify_export
from harness.testing import ROWS, SUITE, TRAIN, Project, write_fake
from tests.helpers.suites import CLOSE, COPY, EXPORTER, WHOLE


@pytest.fixture
def suite(project: Project) -> Project:
    """A project that ships a merged model and a copy of it."""
    return project.write({"suite.toml": WHOLE, "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": EXPORTER})


def count_export_calls(suite: Project) -> int:
    """Count how often the exporter was called."""
    path = suite.folder / "called"
    return len(path.read_text("utf-8").splitlines()) if path.exists() else 0


def read_weights(suite: Project, name: str) -> bytes:
    """Return the weights of an export."""
    return (suite.folder / f"exports/{name}/model/model.safetensors").read_bytes()


@pytest.mark.slow
def test_copy_is_a_candidate_that_ships_on_its_own_verdicts(suite: Project) -> None:
    """It is made once its parent was evaluated, judged against it on the same rows, and shipped as it was evaluated."""
    outcome = suite.run()
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.verdict("floor", "fewer") == outcome.verdict("close", "fewer") == "PASS"
    run = outcome.report
    assert [(v.candidate, v.versus) for v in run.verdicts if v.gate == "close"] == [("fewer", "merged")]
    assert [(e.candidate, e.written) for e in run.exports] == [("merged", True), ("fewer", True)]
    [made] = (suite.folder / "cache/trained").glob("*/fewer-*/model.safetensors")
    assert read_weights(suite, "fewer") == made.read_bytes() != read_weights(suite, "fake")
    assert not (suite.folder / "exports/fewer/model/harness-copy.json").exists()


@pytest.mark.slow
def test_copy_carries_evidence_of_its_own(suite: Project) -> None:
    """Manifest, claims and card name the copy, what it was made of and how; verify passes."""
    suite.run()
    export = suite.folder / "exports/fewer"
    found = verify_export(export)
    assert (found.ok, found.candidate, found.steps["gates"]) == (True, "fewer", "2 gates passed")
    manifest = json.loads((export / "evidence/manifest.json").read_text("utf-8"))
    parent = json.loads((suite.folder / "exports/fake/evidence/manifest.json").read_text("utf-8"))
    assert manifest["made_of"] == {"candidate": "merged", "weights": parent["weights"]}
    assert "made_of" not in parent
    card = (export / "README.md").read_text("utf-8")
    assert 'made by "fewer" of merged' in card
    assert "lost 0.02" in card
    assert "| close | qa.exact_match worse than merged by at most 0.3 | PASS |" in card


@pytest.mark.slow
def test_failed_copy_does_not_hold_its_parent_up(suite: Project) -> None:
    """A copy that lost too much exits 1 and is not shipped; the merged model ships all the same."""
    outcome = suite.run("--set", "export.1.loses=0.8")
    assert outcome.code == 1
    assert outcome.verdict("close", "fewer") == "FAIL"
    assert [e.written for e in outcome.report.exports] == [True, False]
    assert "not exported: fewer" in outcome.out
    assert verify_export(suite.folder / "exports/fake").ok
    assert not (suite.folder / "exports/fewer").exists()


@pytest.mark.parametrize(("skill", "code"), [(0.1, 1), (0.5, 6)])
def test_copy_of_what_did_not_pass_is_not_made(suite: Project, skill: float, code: int) -> None:
    """Whether the parent failed or proved nothing, its copy is skipped: it could not ship."""
    suite.write({"suite.toml": WHOLE.replace("min = 0.5", 'min = 0.5\non = ["merged", "fewer"]')})
    outcome = suite.run("--set", f"train.skill={skill}")
    assert (outcome.code, count_export_calls(suite)) == (code, 0)
    skipped = next(r for r in outcome.report.results if r.subject == "fewer")
    assert skipped.outcome == "skipped"
    assert not (suite.folder / "exports").exists()


def test_copy_ships_only_if_its_parent_may(suite: Project) -> None:
    """A copy that is all it must be does not ship where a gate of its parent has no verdict."""
    parents = '[[gate]]\nid = "parent floor"\nmetric = "qa2.exact_match"\nmin = 0.5\non = ["merged"]\n'
    again = '[[eval]]\nname = "qa2"\nuse = "exact_match"\ndata = "test.jsonl"\n'
    outcome = suite.write({"suite.toml": WHOLE + again + parents}).run("-k", "fewer or merged and qa and not qa2")
    [told] = [e for e in outcome.report.exports if e.candidate == "fewer"]
    assert not told.written
    assert 'gate "parent floor" has no verdict on merged' in told.reasons


BROKEN = {
    "refuses": "no such copy can be made",
    "crashes": "ValueError: half a byte",
    "writes nothing": "harnessfile.py:7: fewer wrote no files into its output folder",
    "another template": 'has a chat template that differs from that of "merged"',
    "code": "model.py: files of this type are not allowed; allowed are",
}


@pytest.mark.parametrize("how", BROKEN)
def test_copy_that_cannot_be_made_is_an_error_of_its_own(suite: Project, how: str) -> None:
    """Its gates are ERROR, nothing half-written is left, and its parent ships."""
    outcome = suite.run("--set", f"export.1.breaks={how}")
    assert outcome.code == 6
    assert (outcome.verdict("floor", "fewer"), outcome.verdict("floor")) == ("ERROR", "PASS")
    assert [e.written for e in outcome.report.exports] == [True, False]
    assert BROKEN[how] in outcome.report.exports[1].reasons[0]
    assert not list((suite.folder / "cache/trained").glob("*/*fewer*"))


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [("interrupts", 2), ("full", 4)])
def test_what_ends_the_run_ends_it_in_a_copy_too(suite: Project, how: str, code: int) -> None:
    """Ctrl-C and a full disk are no matter of one copy: nothing ships, and nothing half-written is left."""
    outcome = suite.run("--set", f"export.1.breaks={how}")
    assert outcome.code == code
    assert not (suite.folder / "exports").exists()
    assert not list((suite.folder / "cache/trained").glob("*/*fewer*"))
    assert suite.run().code == 0


def test_copy_with_its_parents_weights_is_none(suite: Project) -> None:
    """An exporter that changes nothing is told so: the comparison would be of a model with itself."""
    outcome = suite.run("--set", "export.1.loses=0.0")
    assert outcome.code == 6
    assert 'is bit-identical to "merged", so nothing was converted' in outcome.out


def test_copy_is_loaded_with_the_options_it_needs(suite: Project) -> None:
    """What `open_options` says goes to the loader, for the copy alone; a loader that refuses it is an ERROR."""
    outcome = suite.run("--set", "export.1.opens=false")
    assert outcome.code == 6
    assert "unexpected keyword argument 'shut'" in outcome.report.exports[1].reasons[0]
    assert outcome.verdict("floor") == "PASS"


def test_what_can_be_seen_early_is_told_before_training(suite: Project) -> None:
    """`export.check` looks at the base, before anything slow."""
    outcome = suite.run("--set", "export.1.breaks=early")
    assert outcome.code == 4
    assert 'export "exports/fewer": cannot copy such a model as base' in outcome.err
    assert not (suite.folder / "cache/trained").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_killed_while_copying_goes_on(suite: Project) -> None:
    """A kill in the exporter leaves no copy; the next run keeps what was trained, and a finished copy is kept too."""
    (suite.folder / "kill").touch()
    words = ["run", "suite.toml", "-q", "-p", "harness.testing"]
    code = "import sys; from harness.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=suite.folder, env=os.environ, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert not (suite.folder / "exports").exists()
    (suite.folder / "kill").unlink()
    outcome = suite.run()
    assert (outcome.code, count_export_calls(suite)) == (0, 2)
    assert "reused" in outcome.out
    assert len(list((suite.folder / "cache/trained").glob("*/*fewer-*"))) == 1
    assert (suite.run().code, count_export_calls(suite)) == (0, 2)
    assert (suite.run("--set", "export.1.loses=0.03").code, count_export_calls(suite)) == (0, 3)


@pytest.mark.slow
def test_everything_shows_copies(suite: Project) -> None:
    """Collection lists their items and gates, the plan says whether they are there, -k chooses them with parents."""
    listed = suite.run("--collect-only").out
    assert "suite.toml::fewer::qa  60 rows\n    floor: qa.exact_match at least 0.5\n    close: " in listed
    assert "fewer: to be created" in suite.harness("plan", "suite.toml", "--out", "reports").out
    outcome = suite.run("-k", "fewer")
    assert (outcome.code, outcome.verdict("close", "fewer")) == (6, "PASS")
    assert "fewer: exists, " in suite.harness("plan", "suite.toml", "--out", "reports").out
    lock = json.loads(next(suite.folder.glob("reports/*/suite.lock.json")).read_text("utf-8"))
    assert {g["id"]: g["candidates"] for g in lock["gates"]} == {
        "floor": ["adapter", "merged", "fewer"],
        "close": ["fewer"],
    }


@pytest.mark.slow
def test_two_copies_of_one_kind(suite: Project) -> None:
    """Each has the name that the suite gives it, and its own verdicts."""
    second = COPY.replace("exports/fewer", "exports/fewest") + 'name = "fewest"\nloses = 0.8\n'
    outcome = suite.write({"suite.toml": WHOLE + second}).run()
    assert outcome.code == 1
    assert (outcome.verdict("close", "fewer"), outcome.verdict("close", "fewest")) == ("PASS", "FAIL")
    assert [e.written for e in outcome.report.exports] == [True, True, False]


@pytest.mark.slow
def test_candidate_made_elsewhere_is_copied(suite: Project) -> None:
    """Each model that comes from elsewhere has a copy of its own, whatever its recipe."""
    for skill, calls_so_far in ((0.95, 1), (0.9, 2)):
        model = suite.folder / f"model-{skill}"
        outcome = suite.run("--candidate", str(write_fake(model, skill)))
        assert (outcome.code, count_export_calls(suite)) == (0, calls_so_far)


DRIFT = """
[[eval]]
name = "moved"
use = "latency"
data = "test.jsonl"
against = "parent"
[[gate]]
id = "fast"
metric = "moved.latency_ratio"
allow_approximate = true
max = 50
"""
MISTAKES = {
    "a name that is taken": (COPY, COPY + 'name = "merged"', 'name "merged" is taken'),
    "the name of a baseline": (COPY, COPY + 'name = "released"', 'name "released" is taken'),
    "a name that is none": (COPY, COPY + 'name = "a b"', 'name is "a b"; use only letters'),
    "two copies of one name": (COPY, COPY + COPY.replace("exports/fewer", "x"), 'name "fewer" is taken'),
    "a name for what is no copy": (
        'to = "exports/fake"',
        'to = "exports/fake"\nname = "x"',
        '"name" names a converted copy, but "',
    ),
    "a copy of an adapter": (
        COPY,
        COPY + 'from = "adapter"',
        '" converts whole models, and "adapter" is not one; use from = "merged"',
    ),
    "a copy of a copy": (
        COPY,
        COPY + COPY.replace("exports/fewer", "x") + 'from = "fewer"',
        'export "x": no candidate "fewer"; known: "adapter", "merged"',
    ),
    "a copy without a gate": (
        WHOLE,
        SUITE.replace("min = 0.5", 'min = 0.5\non = ["merged"]') + COPY,
        'no blocking gate is on "fewer"; add one, since nothing ships without a gate',
    ),
    "a copy of what is not gated": (
        "min = 0.5",
        'min = 0.5\non = ["adapter"]',
        (
            'no blocking gate is on "fewer" except against "merged", which has no gate itself; add one, '
            "since nothing ships without a gate"
        ),
    ),
    "a parent of what has none": (
        CLOSE,
        CLOSE + 'on = ["merged"]\n',
        ('versus is "parent", but "merged" is not a converted copy; remove "on", or name copies in it'),
    ),
    "a parent without copies": (COPY, "", 'versus is "parent", but no [[export]] of the suite converts the model'),
    "an eval of a parent without copies": (COPY, DRIFT, 'against is "parent", which is not a model of the suite'),
    "a subject named parent": (
        COPY,
        COPY + "[subject.parent]\nshots = 1",
        'the name "parent" is reserved; choose another',
    ),
    "early and a parent": (
        'slices = ["kind"]',
        'stop = "early"',
        'eval "qa" stops early, but the copy\'s parent may have answered fewer rows',
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_about_copies(suite: Project, case: str) -> None:
    """Each is told at collection, and nothing runs."""
    old, new, says = MISTAKES[case]
    assert old in WHOLE
    outcome = suite.write({"suite.toml": WHOLE.replace(old, new, 1)}).run("--collect-only")
    assert outcome.code == 4
    assert says in outcome.err


@pytest.mark.slow
def test_claims_about_parents_are_about_copies_alone(suite: Project) -> None:
    """A gate on an eval against the parent is not put to other candidates."""
    text = WHOLE.replace("[[export]]", f"{DRIFT}[[export]]", 1)
    outcome = suite.write({"suite.toml": text}).run()
    assert outcome.code == 0, outcome.out
    assert [v.candidate for v in outcome.report.verdicts if v.gate == "fast"] == ["fewer"]


@pytest.mark.slow
def test_waiver_of_a_gate_against_the_parent_counts(suite: Project) -> None:
    """A gate that only copies meet is waived as it stands in the suite, and the waiver holds where it is judged."""
    suite.write({"suite.toml": WHOLE.replace('use = "fewer"', 'use = "fewer"\nloses = 0.6')})
    assert suite.run().code == 1
    words = ("--reason", "known", "--until", "2999-01-01", "--by", "me", "--suite", str(suite.folder / "suite.toml"))
    assert suite.harness("waive", "close", *words).code == 0
    outcome = suite.run()
    assert next(v for v in outcome.report.verdicts if v.gate == "close").waiver
