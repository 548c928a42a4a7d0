"""A statement of what answers: taken where it is about the export and shows what the policy wants, else refused."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.attestation import SERVED, STATEMENT, payload
from harness.errors import UsageError
from harness.release.policy import read_policy
from harness.release.verify import Verified, verify
from harness.testing import SUITE, Project
from harness_release.signing import enveloped, signer_of
from tests.helpers.suites import ran

pytest.importorskip("securesystemslib", reason="the extra `sign` is not installed")

IDS = {"verdict": "same", "says": "the same tokens", "seen": "/tokenize", "numbers": {}}
LAYERS = {"ids": IDS, "stops": {**IDS, "seen": "behaviour"}, "logprobs": {**IDS, "verdict": "cannot be seen"}}
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed export, and a second key."""
    lines = ("run suite.toml -q", "keygen release", "keygen other", "sign exports/fake --key release.key")
    return ran(tmp_path_factory.mktemp("served"), *lines, suite=SUITE)


def statement(folder: Path, key: str = "release", **changes: Any) -> Path:
    """Write a statement about the export, signed by a key where one is named."""
    root = verify(folder / "exports/fake").root
    told = {"layers": LAYERS, "runtime": {"kind": "vllm", "name": "vLLM", "version": "0.32.0"}}
    told |= {"ended": (NOW - timedelta(days=changes.pop("age", 0))).isoformat()}
    subject = [{"name": "fake", "digest": {"sha256": changes.pop("root", root)}}]
    made = payload(SERVED, subject, {**told, **changes})
    path = folder / "fake.served.jsonl"
    signed = enveloped(made, signer_of(folder / f"{key}.key")).line() if key else made.decode()
    path.write_text(signed + "\n", "utf-8")
    return path


def verified(folder: Path, demands: str, path: Path | None) -> Verified:
    policy = folder / "policy.toml"
    text = f'suites = ["fake"]\n\n[served]\n{demands}\n' if demands else 'suites = ["fake"]\n'
    policy.write_text(text + (folder / "release.pub").read_text("utf-8"), "utf-8")
    return verify(folder / "exports/fake", read_policy(policy), served=path)


@pytest.mark.parametrize(
    ("demands", "changes", "says"),
    [
        ('layers = ["ids", "stops"]\nruntimes = ["vllm>=0.30"]\nmax_age_days = 7', {}, ""),
        ("", {}, ""),
        ('layers = ["ids"]', {"root": "0" * 64}, "is about root 0000000000000000"),
        ('layers = ["ids"]', {"key": "other"}, "is signed by no key of the policy"),
        ('layers = ["ids"]', {"key": ""}, "is signed by no key of the policy"),
        ('layers = ["ids", "logprobs"]', {}, '"logprobs": cannot be seen, and the policy wants it the same'),
        ('layers = ["answers"]', {}, '"answers": not looked at'),
        ('layers = ["ids"]', {"layers": {"ids": {**IDS, "seen": "count"}}}, "seen by count alone"),
        ('layers = ["ids"]\nby_count = true', {"layers": {"ids": {**IDS, "seen": "count"}}}, ""),
        ('layers = ["ids"]', {"layers": {**LAYERS, "lora": {**IDS, "verdict": "differs"}}}, '"lora" differs'),
        ('layers = ["ids"]\nmax_age_days = 7', {"age": 8}, "is 8 days old, the policy allows 7"),
        ('layers = ["ids"]', {"age": -2}, "which is yet to come"),
        ('layers = ["ids"]\nruntimes = ["vllm>=0.33", "ollama"]', {}, "vllm 0.32.0 answered, the policy wants"),
    ],
)
def test_a_statement_is_taken_or_refused(once: Path, demands: str, changes: dict[str, Any], says: str) -> None:
    """Each demand of [served] is met by a good statement, and refused, with its key, where one thing is not."""
    found = verified(once, demands, statement(once, **changes))
    assert (found.ok, says in found.refused) == (not says, True), found.refused
    assert found.refused.startswith("served: ") or not says


def test_a_policy_that_wants_a_statement_takes_no_export_without(once: Path) -> None:
    """What nobody looked at is no pass."""
    assert "wants a statement of harness parity ([served])" in verified(once, 'layers = ["ids"]', None).refused


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
    with pytest.raises(UsageError, match="is no statement of harness parity"):
        verified(once, 'layers = ["ids"]', path)


@pytest.mark.parametrize(
    ("demands", "says"),
    [
        ("layers = []", "nothing is demanded"),
        ('layers = ["logprob"]', 'layers has "logprob"; did you mean "logprobs"'),
        ('layers = ["ids"]\nmax_age_days = 0', "want more than 0"),
        ('layers = ["ids"]\nby_counts = true', "by_counts"),
    ],
)
def test_mistakes_in_a_policy_are_told(once: Path, demands: str, says: str) -> None:
    """A misspelt demand would be none."""
    with pytest.raises(UsageError, match=says):
        verified(once, demands, None)


def test_the_command_says_what_answered(once: Path, project: Project) -> None:
    """`verify --served` has a line of its own; without a policy it says that nobody is known to have said so."""
    path = statement(once, key="")
    shutil.copytree(once / "exports", project.folder / "exports")
    done = project.harness("verify", "exports/fake", "--served", str(path), "--json")
    step = json.loads(done.out)["steps"]["served"]
    assert step.startswith("vLLM answered as the export on ")
    assert step.endswith("ids, stops, by whom is not known: no policy")
