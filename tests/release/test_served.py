"""A statement of what answers: taken where it is about the export and shows what the policy wants, else refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.attestation import SERVED, STATEMENT, statement_bytes
from harness.errors import UsageError
from harness.release.policy import ServedDemands, read_policy
from harness.release.served import CHECKS
from harness.release.signing import load_signer, make_envelope, sign_export
from harness.release.verify import VerifiedExport, verify_export
from harness.testing import SUITE, Project
from tests.helpers.suites import run_commands

pytest.importorskip("securesystemslib", reason="the extra `sign` is not installed")

IDS = {"verdict": "same", "reason": "the same tokens", "seen": "/tokenize", "numbers": {}}
LAYERS = {"ids": IDS, "stops": {**IDS, "seen": "behaviour"}, "logprobs": {**IDS, "verdict": "unknown"}}
RUNTIME = {"kind": "vllm", "name": "vLLM", "version": "0.32.0", "model": "support"}
HOST = hashlib.sha256(b"10.0.0.7:8000").hexdigest()
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed export, and a second key."""
    lines = ("run suite.toml -q", "keygen release", "keygen other", "sign exports/fake --key release.key")
    return run_commands(tmp_path_factory.mktemp("served"), *lines, suite=SUITE)


def write_statement(folder: Path, key: str = "release", **changes: Any) -> Path:
    """Write a statement about the export, signed by a key where one is named."""
    root = verify_export(folder / "exports/fake").root
    told = {"layers": LAYERS, "runtime": RUNTIME, "endpoint": {"name": "inside"}, "longest": 248}
    told |= {"reference": {"dtype": "float32", "arithmetic": "bf16"}}
    told |= {"ended": (NOW - timedelta(days=changes.pop("age", 0))).isoformat()}
    subject = [{"name": "fake", "digest": {"sha256": changes.pop("root", root)}}]
    made = statement_bytes(SERVED, subject, {**told, **changes})
    path = folder / "fake.served.jsonl"
    signed = make_envelope(made, load_signer(folder / f"{key}.key")).to_json_line() if key else made.decode()
    path.write_text(signed + "\n", "utf-8")
    return path


def verify_with_demands(folder: Path, demands: str, path: Path | None) -> VerifiedExport:
    policy = folder / "policy.toml"
    text = f'suites = ["fake"]\n\n[served]\n{demands}\n' if demands else 'suites = ["fake"]\n'
    policy.write_text(text + (folder / "release.pub").read_text("utf-8"), "utf-8")
    return verify_export(folder / "exports/fake", read_policy(policy), served=path)


@pytest.mark.parametrize(
    ("demands", "changes", "says"),
    [
        ('layers = ["ids", "stops"]\nruntimes = ["vllm>=0.30"]\nmax_age_days = 7', {}, ""),
        ("", {}, ""),
        ('layers = ["ids"]', {"root": "0" * 64}, "is about root 0000000000000000, but this export has"),
        ('layers = ["ids"]', {"key": "other"}, "is not signed with a key of the policy"),
        ('layers = ["ids"]', {"key": ""}, "is not signed with a key of the policy"),
        (
            'layers = ["ids", "logprobs"]',
            {},
            ('served: layer "logprobs" is "unknown", but the policy requires "same" ([served] layers)'),
        ),
        (
            'layers = ["answers"]',
            {},
            'layer "answers" is "not checked", but the policy requires "same" ([served] layers)',
        ),
        (
            'layers = ["ids"]',
            {"layers": {"ids": {**IDS, "seen": "count"}}},
            '"ids" was compared by count only, which the policy does not allow without by_count',
        ),
        ('layers = ["ids"]\nby_count = true', {"layers": {"ids": {**IDS, "seen": "count"}}}, ""),
        ('layers = ["ids"]', {"layers": {**LAYERS, "lora": {**IDS, "verdict": "differs"}}}, '"lora" differs'),
        ('layers = ["ids"]\nmax_age_days = 7', {"age": 8}, "the statement is 8 days old, but the policy allows 7 days"),
        ('layers = ["ids"]', {"age": -2}, ", which is in the future"),
        ('layers = ["ids"]\nruntimes = ["vllm>=0.33", "ollama"]', {}, "vllm 0.32.0 answered, but the policy requires"),
        (
            'layers = ["ids"]\nendpoint = "inside"\nmodel = ["support", "qa"]\narithmetic = "bf16"\nlongest = 248',
            {},
            "",
        ),
        ('layers = ["ids"]\nendpoint = "10.0.0.7:8000"', {"endpoint": {"sha256": HOST}}, ""),
        ('layers = ["ids"]\nendpoint = "10.0.0.8:8000"', {"endpoint": {"sha256": HOST}}, "([served] endpoint)"),
        (
            'layers = ["ids"]\nendpoint = "inside"',
            {"endpoint": {}},
            "served: endpoint unknown answered, but the policy requires inside ([served] endpoint)",
        ),
        (
            'layers = ["ids"]\nmodel = "qa"',
            {},
            ('served: model is "support", but the policy requires qa ([served] model)'),
        ),
        ('layers = ["ids"]\nmodel = ""', {"runtime": {"kind": "vllm", "name": "vLLM"}}, "([served] model)"),
        (
            'layers = ["ids"]\narithmetic = "bf16"',
            {"reference": {"arithmetic": "q8"}},
            'arithmetic is "q8", but the policy requires',
        ),
        ('layers = ["ids"]\narithmetic = "bf16"', {"reference": {}}, "([served] arithmetic)"),
        ('layers = ["ids"]\nlongest = 249', {}, "has 248 tokens, but the policy requires 249 ([served] longest)"),
        (
            'layers = ["ids"]\nlongest = 1',
            {"longest": None},
            "has 0 tokens, but the policy requires 1 ([served] longest)",
        ),
    ],
)
def test_a_statement_is_taken_or_refused(once: Path, demands: str, changes: dict[str, Any], says: str) -> None:
    """Each demand of [served] is met by a good statement, and refused, with its key, where one thing is not."""
    found = verify_with_demands(once, demands, write_statement(once, **changes))
    assert (found.ok, says in found.refused) == (not says, True), found.refused
    assert found.refused.startswith("served: ") or not says


def test_a_policy_that_wants_a_statement_takes_no_export_without(once: Path) -> None:
    """What nobody looked at is no pass."""
    assert (
        "the policy requires a statement of harness parity ([served]); add --served FILE"
        in verify_with_demands(once, 'layers = ["ids"]', None).refused
    )


# a statement whose time is none: in UTC its year would be 0
EARLY = f'''{{"_type": "{STATEMENT}", "predicateType": "{SERVED}", "subject": [{{"digest": {{"sha256": "0"}}}}],
"predicate": {{"layers": {{}}, "runtime": {{}}, "ended": "0001-01-01T00:00:00+23:00"}}}}'''


@pytest.mark.parametrize(
    "text", [EARLY, "", "{}", "[1]", '{"_type": 1}', '{"payload": "e30=", "signatures": []}', "\N{BULLET}"]
)
def test_what_is_no_statement_is_a_mistake(once: Path, text: str) -> None:
    """Another file in its place is one line, and no refusal of the export."""
    path = once / "other.jsonl"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=": is not a statement of harness parity:"):
        verify_with_demands(once, 'layers = ["ids"]', path)


@pytest.mark.parametrize(
    ("demands", "says"),
    [
        ("layers = []", r"\[served\]: layers is empty, so nothing is required; name some, such as ids"),
        ('layers = ["ids"]\nlongest = 0', "; it must be 1 token or more"),
        ('layers = ["logprob"]', 'layers has "logprob"; did you mean "logprobs"'),
        ('layers = ["ids"]\nmax_age_days = 0', "it must be more than 0 and at most 36525 days"),
        ('layers = ["ids"]\nby_counts = true', "by_counts"),
    ],
)
def test_mistakes_in_a_policy_are_told(once: Path, demands: str, says: str) -> None:
    """A misspelt demand would be none."""
    with pytest.raises(UsageError, match=says):
        verify_with_demands(once, demands, None)


def test_the_command_says_what_answered(once: Path, project: Project) -> None:
    """`verify --served` has a line of its own; without a policy it says that nobody is known to have said so."""
    path = write_statement(once, key="")
    shutil.copytree(once / "exports", project.folder / "exports")
    done = project.harness("verify", "exports/fake", "--served", str(path), "--json")
    step = json.loads(done.out)["steps"]["served"]
    assert step.startswith("vLLM answered as the export on ")
    assert 'ids, stops; endpoint inside, model "support", bf16 arithmetic, longest conversation 248 tokens; ' in step
    assert step.endswith("signer unknown: no policy")


def test_every_demand_on_what_is_served_is_checked() -> None:
    """A key that nobody looks at would be a demand that everything meets."""
    assert CHECKS.keys() == {f.name for f in fields(ServedDemands)}


def write_two_statements(folder: Path, **changes: Any) -> Path:
    """Write one file with a statement by each of two keys."""
    first = write_statement(folder).read_text("utf-8")
    path = write_statement(folder, key="other", **changes)
    path.write_text(first + path.read_text("utf-8"), "utf-8")
    return path


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (write_statement, "is signed by release; the policy requires 2 (threshold) and awaits "),
        (write_two_statements, ""),
        (
            lambda folder: write_two_statements(folder, runtime={**RUNTIME, "model": "another"}),
            "has statements about several endpoints",
        ),
        (lambda folder: write_two_statements(folder, layers={"ids": {**IDS, "verdict": "differs"}}), '"ids" differs'),
    ],
)
def test_as_many_keys_sign_a_statement_as_sign_an_export(once: Path, given: Any, says: str) -> None:
    """`threshold` is of whatever a policy has signed: one of two needed keys is not enough."""
    policy = once / "two.toml"
    head = 'suites = ["fake"]\nthreshold = 2\n\n[served]\nlayers = ["ids"]\n\n'
    policy.write_text(head + "\n".join((once / f"{k}.pub").read_text("utf-8") for k in ("release", "other")), "utf-8")
    path = given(once)
    found = verify_export(once / "exports/fake", replace(read_policy(policy), threshold=1), served=path)
    assert found.ok or says
    project = shutil.copytree(once / "exports/fake", once / "twice", dirs_exist_ok=True)
    sign_export(project, once / "other.key")
    found = verify_export(project, read_policy(policy), served=path)
    assert (found.ok, says in found.refused) == (not says, True), found.refused
