"""Nothing but what passed is verified: every file, every claim, every key, every demand."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts import attestation, formats
from harness.artifacts.attestation import CLAIMS, EVIDENCE, GATES, ITEMS, LOCK, MANIFEST, MODEL, REPORT
from harness.artifacts.digests import file_digest, file_digests, root_digest
from harness.artifacts.folders import list_files
from harness.release.policy import Key, Policy, read_policy
from harness.release.verify import VerifiedExport, verify_export
from harness.testing import ROWS, SUITE, Project
from tests.helpers.exports import decide_gates_again, edit_gates, reseal, waive_gate, waive_verdict
from tests.helpers.files import F32, write
from tests.helpers.suites import run_commands

pytest.importorskip("securesystemslib", reason="the extra `sign` is not installed")

pytestmark = pytest.mark.xdist_group("signed export")

WEIGHTS = "model/model.safetensors"


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a signed export, its key and a policy, made once by the command line."""
    folder = tmp_path_factory.mktemp("signed")
    suite = SUITE + '\n[[gate]]\nid = "hope"\nmetric = "qa.exact_match"\nmin = 0.99\nseverity = "warn"\n'
    lines = ("run suite.toml -q", "keygen release", "sign exports/fake --key release.key")
    run_commands(folder, *lines, suite=suite, files={"base/chat_template.jinja": "{{ messages }}"})
    (folder / "policy.toml").write_text('suites = ["fake"]\n' + (folder / "release.pub").read_text("utf-8"), "utf-8")
    return folder


@pytest.fixture
def policy(signed: Path) -> Policy:
    """The policy that the signed export meets."""
    return read_policy(signed / "policy.toml")


@pytest.fixture
def export(signed: Path, tmp_path: Path) -> Path:
    """A copy of the signed export to break."""
    return shutil.copytree(signed / "exports/fake", tmp_path / "export")


STEPS = ["signatures", "digests", "gates", "formats", "configuration", "chat template", "attempts", "verdicts"]


def test_export_that_passed_is_verified(export: Path, policy: Policy) -> None:
    """All steps pass, and with a policy it is said who signed."""
    found = verify_export(export, policy)
    assert (found.ok, found.refused, found.signed_by) == (True, "", ["release"])
    assert list(found.steps) == STEPS


def test_without_a_policy_nothing_is_known_of_the_writer(export: Path) -> None:
    """Digests alone prove that bytes and evidence belong together, and the note says that it is no more."""
    found = verify_export(export)
    assert found.ok
    assert "bytes match the evidence, but the evidence is not authenticated" in found.notes[0]


def test_layout_is_what_the_docs_say(export: Path) -> None:
    """Nothing but the model is deployed; evidence and card lie beside it."""
    assert {p.name for p in export.iterdir()} == {MODEL, EVIDENCE, "README.md"}
    assert {p.name for p in (export / EVIDENCE).iterdir()} == {MANIFEST, LOCK, GATES, ITEMS, REPORT, CLAIMS}
    lock = json.loads((export / EVIDENCE / LOCK).read_text("utf-8"))
    assert lock["suite"]["evals"][0]["options"]["max_new_tokens"]  # a default that the suite does not say
    assert lock["data"]["qa"]["rows"] == len(ROWS)
    assert {p["name"] for p in lock["plugins"]} >= {"harness", "hf", "harness.testing"}
    report = json.loads((export / EVIDENCE / REPORT).read_text("utf-8"))
    assert lock["suite"]["digest"] == report["digest"]
    items = [json.loads(line) for line in (export / EVIDENCE / ITEMS).read_text("utf-8").splitlines()]
    assert len(items) == 3 * len(ROWS)  # base, adapter and merged
    assert items[0]["values"].keys() == {"exact_match"}
    assert "question" not in (export / EVIDENCE / ITEMS).read_text("utf-8")  # digests of texts, not texts


def test_claims_are_in_toto_statements(export: Path) -> None:
    """Three statements about the root digest, first unsigned and then signed, with numbers in decimal."""
    envelopes = attestation.read_envelopes((export / EVIDENCE / CLAIMS).read_text("utf-8"))
    assert [len(e.signatures) for e in envelopes] == [0, 0, 0, 1, 1, 1]
    result, release = (json.loads(e.payload) for e in envelopes[:2])
    model = {n.removeprefix("model/"): file_digest(export / n) for n in list_files(export) if n.startswith("model/")}
    assert result["subject"] == release["subject"] == [{"name": "fake", "digest": {"sha256": root_digest(model)}}]
    assert result["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert (result["predicate"]["result"], result["predicate"]["passedTests"]) == ("WARNED", ["floor"])
    assert result["predicate"]["warnedTests"] == ["hope"]
    floor = release["predicate"]["gates"]["floor"]
    assert (floor["threshold"], floor["n"]) == ("0.5", str(len(ROWS)))
    assert float(floor["estimate"]) > 0.5


def test_signing_twice_adds_nothing(signed: Path, export: Path) -> None:
    """A second signature with the same key would say nothing new, and one with another key is a line of its own."""
    from harness.release.signing import generate_key, sign_export

    before = (export / EVIDENCE / CLAIMS).read_text("utf-8")
    sign_export(export, signed / "release.key")
    assert (export / EVIDENCE / CLAIMS).read_text("utf-8") == before
    private, public = generate_key(export.parent / "second")
    sign_export(export, private)
    assert (export / EVIDENCE / CLAIMS).read_text("utf-8").startswith(before)
    both = (signed / "policy.toml").read_text("utf-8") + public.read_text("utf-8")
    (export.parent / "both.toml").write_text("threshold = 2\n" + both, "utf-8")
    assert verify_export(export, read_policy(export.parent / "both.toml")).signed_by == ["release", "second"]
    assert (
        "the policy requires 2 (threshold)"
        in verify_export(signed / "exports/fake", read_policy(export.parent / "both.toml")).refused
    )


def flip(rng: random.Random, path: Path) -> None:
    """Change one bit pattern of one byte."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
    path.write_bytes(data)


def rename(rng: random.Random, path: Path) -> None:
    """Give a file another name."""
    path.rename(path.with_name(rng.choice([f"x{path.name}", path.name.upper() + "~", f"{path.stem}.bak"])))


def add(rng: random.Random, path: Path) -> None:
    """Put a file or a folder beside another."""
    new = path.with_name(f"{rng.randrange(1 << 30)}{rng.choice(['.json', '.py', '.safetensors', '', '.jinja'])}")
    if rng.random() < 0.2:
        new.mkdir()
    else:
        new.write_bytes(rng.randbytes(rng.randrange(20)))


def delete(rng: random.Random, path: Path) -> None:
    """Remove a file."""
    path.unlink()


def link(rng: random.Random, path: Path) -> None:
    """Put a link to the very same bytes in place of a file or its folder."""
    real = path.parents[rng.randrange(2)] if path.parent.name in (MODEL, EVIDENCE) and rng.random() < 0.3 else path
    if real.name not in (MODEL, EVIDENCE):
        real = path
    moved = path.parents[2] / f"elsewhere-{real.name}"
    real.rename(moved)
    real.symlink_to(moved)


def truncate(rng: random.Random, path: Path) -> None:
    """Cut a file short."""
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


EDITS: list[Callable[[random.Random, Path], None]] = [flip, flip, flip, rename, add, delete, link, truncate]


@pytest.mark.slow
def test_a_thousand_edits_are_refused(signed: Path, policy: Policy, tmp_path: Path) -> None:
    """Whatever is done to an export, in its model, its card or its evidence: a key that is trusted did not say that."""
    rng = random.Random(20261124)
    kept, work = signed / "exports/fake", tmp_path / "x" / "export"
    names = [*list_files(kept)]
    for number in range(1000):
        shutil.rmtree(work.parent, ignore_errors=True)
        shutil.copytree(kept, work)
        name, edit = rng.choice(names), rng.choice(EDITS)
        edit(rng, work / name)
        found = verify_export(work, policy)
        assert not found.ok, (number, edit.__name__, name)
        assert "\n" not in found.refused
        assert found.refused


@pytest.mark.slow
def test_edits_of_the_model_are_refused_without_a_policy(signed: Path, tmp_path: Path) -> None:
    """What is deployed is compared with the evidence even where nobody is trusted."""
    rng = random.Random(3)
    kept, work = signed / "exports/fake", tmp_path / "x" / "export"
    names = [name for name in list_files(kept) if name != f"{EVIDENCE}/{CLAIMS}"]
    for number in range(100):
        shutil.rmtree(work.parent, ignore_errors=True)
        shutil.copytree(kept, work)
        name, edit = rng.choice(names), rng.choice(EDITS)
        edit(rng, work / name)
        assert not verify_export(work).ok, (number, edit.__name__, name)


def edit_lock(export: Path, change: Callable[[Any], None]) -> None:
    """Change the lock in place."""
    path = export / EVIDENCE / LOCK
    lock = json.loads(path.read_text("utf-8"))
    change(lock)
    path.write_text(json.dumps(lock), "utf-8")
    reseal(export)


def put(name: str, data: str | bytes) -> Callable[[Path], None]:
    """Return an edit that writes a file into the model's folder."""

    def edit(export: Path) -> None:
        path = export / MODEL / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        reseal(export)

    return edit


def edit_index(weight_map: Any) -> Callable[[Path], None]:
    """Return an edit that writes an index of shards."""
    return put("model.safetensors.index.json", json.dumps({"weight_map": weight_map}))


def edit_tensors(header: Any, to: str = WEIGHTS, **options: Any) -> Callable[[Path], None]:
    """Return an edit that puts another weights file in place."""

    def edit(export: Path) -> None:
        write(export / to, header, **options)
        reseal(export)

    return edit


def both(*edits: Callable[[Path], None]) -> Callable[[Path], None]:
    """Return the edit that makes one after the other."""

    def edit(export: Path) -> None:
        for one in edits:
            one(export)

    return edit


def make_text_edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Return an edit of a file of the evidence as text."""

    def edit(export: Path) -> None:
        path = export / EVIDENCE / name
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), "utf-8")
        reseal(export, weights=json.loads((export / EVIDENCE / MANIFEST).read_text("utf-8"))["weights"])

    return edit


def make_extra_file_edit(name: str) -> Callable[[Path], None]:
    """Return an edit that puts a file beside the model, and into the manifest."""

    def edit(export: Path) -> None:
        (export / name).write_text("x", "utf-8")
        reseal(export)

    return edit


CLAIM = "qa.exact_match at least 0.5"
WAIVER = {"gate": "floor", "claim": CLAIM, "reason": "launch", "by": "kim", "added": "2026-01-01", "digest": ""}
DECEITS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a gate that failed": (lambda e: edit_gates(e, outcome="FAIL"), 'gates: gate "floor" is FAIL'),
    "a gate that is inconclusive": (lambda e: edit_gates(e, outcome="INCONCLUSIVE"), '"floor" is INCONCLUSIVE'),
    "a verdict on another candidate": (lambda e: edit_gates(e, candidate="adapter"), 'gate "floor" was decided on other weights'),  # noqa: E501
    "a verdict on other weights": (lambda e: edit_gates(e, digest="0" * 64), 'gate "floor" was decided on other weights'),  # noqa: E501
    "a verdict on no weights": (lambda e: edit_gates(e, digest=""), 'gate "floor" was decided on other weights'),
    "an expired waiver": (
        lambda e: waive_verdict(e, {**WAIVER, "until": "2026-01-31"}, outcome="FAIL"),
        ", and its waiver expired on 2026-01-31",
    ),
    "two outcomes under one key": (
        make_text_edit(GATES, '"outcome": "PASS"', '"outcome": "FAIL", "outcome": "PASS"'),
        '" occurs twice',
    ),
    "two thresholds under one key": (make_text_edit(LOCK, '"min": ', '"min": 0.99, "min": '), '" occurs twice'),
    "a format that is nearly one": (lambda e: reseal(e, format=1.0), "has format 1.0"),
    "a program beside the model": (make_extra_file_edit("run.py"), '"run.py" is not a file of an export'),
    "a page in the evidence": (make_extra_file_edit("evidence/x.html"), '"evidence/x.html" is not a file of an export'),
    "a waiver without a date": (lambda e: waive_verdict(e, WAIVER, outcome="FAIL"), "malformed"),
    "a gate without a verdict": (
        lambda e: edit_lock(e, lambda lock: lock["gates"].append({**lock["gates"][0], "id": "other"})),
        'gate "other" has no verdict',
    ),
    "no gate at all": (lambda e: edit_lock(e, lambda lock: lock.update(gates=[])), "no blocking gate is on"),
    "another chat template": (put("chat_template.jinja", "{{ evil }}"), "chat template: "),
    "two chat templates": (
        both(
            put("chat_template.jinja", "{{ messages }}"),
            put("tokenizer_config.json", json.dumps({"chat_template": "{{ other }}"})),
        ),
        "is in two files that differ",
    ),
    "a pickle": (put("adapter_model.bin", b"\x80\x04."), "adapter_model.bin: files of this type are not allowed; allowed are"),  # noqa: E501
    "a pickle under another name": (put("vocab.txt", b"\x80\x04."), "vocab.txt: is an archive, a pickle or a program, despite its name"),  # noqa: E501
    "code": (put("modeling.py", "import os"), "modeling.py: files of this type are not allowed; allowed are"),
    "a file without a suffix": (put("payload", "x"), "payload: files of this type are not allowed; allowed are"),
    "auto_map": (put("config.json", '{"auto_map": {"AutoModel": "m.M"}}'), '"auto_map" makes a loader run code'),
    "a nested auto_map": (put("config.json", '{"a": [{"auto_map": {"A": "m.M"}}]}'), '"auto_map" makes a loader run code'),  # noqa: E501
    "trust_remote_code": (put("tokenizer_config.json", '{"trust_remote_code": true}'), '"trust_remote_code" makes a loader'),  # noqa: E501
    "CVE-2026-4372": (put("config.json", '{"_attn_implementation_internal": "a/b"}'), "makes a loader run code"),
    "a kernel from the Hub": (put("config.json", '{"attn_implementation": "a/b"}'), '" makes a loader download a kernel; remove it'),  # noqa: E501
    "tokenizer_kwargs": (put("adapter_config.json", '{"tokenizer_kwargs": {"a": 1}}'), '"tokenizer_kwargs" makes a loader'),  # noqa: E501
    "PEFT's auto_mapping": (put("adapter_config.json", '{"auto_mapping": {"a": 1}}'), '"auto_mapping" makes a loader'),
    "a remote base": (put("adapter_config.json", '{"base_model_name_or_path": "a/b"}'), (": names a base model to download; remove the name, since whoever deploys an adapter "  # noqa: E501
        "chooses its base")),
    "a key twice": (put("config.json", '{"a": 1, "a": 2}'), '" occurs twice'),
    "a configuration that is none": (put("config.json", "{"), "config.json: is not JSON"),
    "an index that leads out": (edit_index({"w": "../../secret.safetensors"}), "is not a file in the same folder"),
    "an index with an absolute path": (edit_index({"w": "/etc/passwd"}), "is not a file in the same folder"),
    "an index of nothing": (edit_index({"w": "other.safetensors"}), "is not a file in the same folder"),
    "an index with a tensor too many": (
        edit_index({"w": "model.safetensors", "v": "model.safetensors"}), '"v" is not in',
    ),
    "an index without a map": (edit_index([]), "has no weight_map"),
    "an index with an empty map": (edit_index({}), "has no weight_map"),
    "truncated safetensors": (edit_tensors({"w": F32}, data=b"1234"), "is truncated"),
    "overlapping offsets": (edit_tensors({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}), "overlaps another"),
    "bytes that no tensor names": (edit_tensors({"w": F32}), "bytes that belong to no tensor"),
    "an index with a tensor too few": (
        both(edit_tensors({"w": F32, "v": {**F32, "data_offsets": [8, 16]}}), edit_index({"w": "model.safetensors"})),
        ': lacks the tensor "v", which model.safetensors holds',
    ),
    "a tensor in two files": (
        both(
            edit_tensors({"w": F32}, data=bytes(8)), edit_tensors({"w": F32}, data=bytes(8), to="model/b.safetensors")
        ),
        'tensor "w" is also in',
    ),
    "a GGUF file that is none": (
        both(lambda e: (e / WEIGHTS).unlink(), put("model.gguf", b"GGML1234")),
        'does not begin with "GGUF"',
    ),
    "a GGUF file beside other weights": (put("model.gguf", b"GGML1234"), "and other weights; keep only the files of the model that you mean"),  # noqa: E501
    "a baseline of other weights": (
        lambda e: edit_lock(e, lambda lock: lock["subjects"].update(base="0" * 64)),
        "base::qa was evaluated on weights that differ from those in suite.lock.json",
    ),
    "a manifest of the future": (lambda e: reseal(e, format=99), "has format 99"),
    "a root that is another's": (lambda e: reseal(e, root="0" * 64), "the root digest of model/ differs from the manifest's"),  # noqa: E501
}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--sources", "base.csv", "candidate.csv"), "--sources is for gated rows, and this is an export"),
        (("--seed", "3"), "--seed chooses the rows of --replay; add --replay N"),
    ],
)
def test_options_that_an_export_has_no_use_for_are_refused(
    words: tuple[str, ...], told: str, export: Path, project: Project
) -> None:
    """They are mistakes in the command, and say nothing about the export."""
    outcome = project.harness("verify", str(export), *words)
    assert (outcome.code, told in outcome.err) == (4, True), outcome.err


@pytest.mark.parametrize("case", DECEITS)
def test_deceits_that_fit_together_are_refused(case: str, signed: Path, export: Path, project: Project) -> None:
    """Where evidence and files agree, the content decides; with a policy the missing signature: exit 7, one line."""
    edit, told = DECEITS[case]
    edit(export)
    before = file_digests(export)
    for words, why in (
        ((), told),
        (
            ("--policy", str(signed / "policy.toml")),
            ("claim https://in-toto.io/attestation/test-result/v0.1 is signed by no key of the policy"),
        ),
    ):
        outcome = project.harness("verify", str(export), *words)
        assert (outcome.code, outcome.err.count("\n")) == (7, 1), outcome.err
        assert outcome.err.startswith(f"refused: {export}: ")
        assert why in outcome.err
    assert file_digests(export) == before


def refute_floor(export: Path) -> None:
    """Let all answers of the candidate be wrong, and the verdicts say so."""
    path = export / EVIDENCE / ITEMS
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    wrong = [{**row, "values": {"exact_match": 0.0}} if row["item"] == "merged::qa" else row for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in wrong), "utf-8")
    decide_gates_again(export)


def test_waiver_in_force_is_taken_and_told(export: Path) -> None:
    """A waiver stands for a verdict until its last day, and is never silent."""
    until = datetime.now(UTC).date() + timedelta(days=1)
    refute_floor(export)
    waive_gate(export, {**WAIVER, "until": until.isoformat()})
    found = verify_export(export)
    assert found.ok
    assert f'gate "floor" is waived until {until}: launch' in found.notes


@pytest.mark.parametrize("other", [{"gate": "other"}, {"claim": "qa.exact_match at least 0.1"}])
def test_a_waiver_of_another_claim_does_not_count(export: Path, other: dict[str, str]) -> None:
    """It names the gate and what that claims."""
    until = datetime.now(UTC).date() + timedelta(days=1)
    refute_floor(export)
    waive_verdict(export, {**WAIVER, "until": until.isoformat(), **other})
    assert "its waiver is for another claim" in verify_export(export).refused


NAMES = ["../out", "/etc/passwd", "a//b", "./a", "a\\b", "c:a", "model/a.", "model/a ", "a\nb"]


@pytest.mark.parametrize("name", NAMES)
def test_path_tricks_in_the_manifest(name: str, export: Path) -> None:
    """A manifest that names what lies elsewhere is refused before anything is opened."""
    path = export / EVIDENCE / MANIFEST
    manifest = json.loads(path.read_text("utf-8"))
    manifest["files"][name] = {"size": 1, "sha256": "0" * 64}
    path.write_text(json.dumps(manifest), "utf-8")
    assert "in the manifest is not a plain relative name" in verify_export(export).refused


def test_names_that_differ_in_case_alone(export: Path) -> None:
    """On another system they are one file."""
    put("CONFIG.json", "{}")(export)
    assert (
        '"model/config.json" and "model/CONFIG.json" differ only in upper and lower case'
        in verify_export(export).refused
    )


MALFORMED = ["null", "[]", "{}", '{"format": 1}', '{"format": 1, "files": []}', "[" * 100_000, "\x00", ""]


@pytest.mark.parametrize("name", [MANIFEST, LOCK, GATES, CLAIMS])
@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_evidence_is_one_line(name: str, text: str, export: Path, policy: Policy) -> None:
    """Whatever a file of the evidence holds, it is refused without a traceback."""
    (export / EVIDENCE / name).write_text(text, "utf-8")
    for found in (verify_export(export), verify_export(export, policy)):
        assert found.refused
        assert "\n" not in found.refused
    if name != CLAIMS and name != MANIFEST:
        reseal_quietly(export)
        assert not verify_export(export).ok


def reseal_quietly(export: Path) -> None:
    """Reseal what can be; malformed evidence has no statements."""
    try:
        reseal(export)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return


def test_evidence_of_another_run(signed: Path, export: Path, policy: Policy, project: Project) -> None:
    """A file, or all, of the evidence of another run speaks of other bytes, even if it was signed."""
    from harness.release.signing import sign_export

    other = shutil.copytree(signed / "exports/fake", export.parent / "other")
    put("config.json", '{"other": 1}')(other)
    sign_export(other, signed / "release.key")
    assert verify_export(other, policy).ok
    for name in (MANIFEST, CLAIMS):
        broken = shutil.copytree(export, export.parent / f"with-{name}")
        shutil.copy(other / EVIDENCE / name, broken / EVIDENCE / name)
        assert not verify_export(broken, policy).ok
    shutil.rmtree(export / EVIDENCE)
    shutil.copytree(other / EVIDENCE, export / EVIDENCE)
    outcome = project.harness("verify", str(export), "--policy", str(signed / "policy.toml"))
    assert (outcome.code, outcome.err.count("\n")) == (7, 1)
    assert '"model/config.json" has 2 bytes' in outcome.err


DEMANDS: dict[str, tuple[dict[str, Any], str]] = {
    "another suite": ({"suites": ["other"]}, 'suite "fake"'),
    "another stage": ({"stages": ["adapter"]}, "is merged, but the policy requires adapter (stages)"),
    "a gate that is not there": ({"gates": ["safe"]}, 'gates: gate "safe" has no verdict on merged (gates)'),
    "a gate that only warns and did not pass": ({"gates": ["hope"]}, 'gate "hope" is'),
    "no waivers": ({"waivers": False, "gates": ["hope"]}, 'gate "hope" is'),
    "fewer attempts": (
        {"max_attempts": 0},
        'gate "floor" was attempted 1 times, but the policy allows 0 (max_attempts)',
    ),
    "a key that is not in it": (
        {"keys": (Key("k", "0" * 64, "other"),)},
        "claim https://in-toto.io/attestation/test-result/v0.1 is signed by no key of the policy",
    ),
}


@pytest.mark.parametrize("case", DEMANDS)
def test_demands_of_a_policy(case: str, export: Path, policy: Policy) -> None:
    """What the deployer demands beyond the suite's own gates is refused with its name."""
    change, told = DEMANDS[case]
    found = verify_export(export, dataclasses.replace(policy, **change))
    assert told in found.refused


def test_age(export: Path, policy: Policy) -> None:
    """Old evidence is refused where the policy says so, and evidence from the future always."""
    aged = dataclasses.replace(policy, max_age_days=30)
    now = datetime.now(UTC)
    assert verify_export(export, aged, now + timedelta(days=29)).ok
    assert (
        "was created 31 days ago, but the policy allows 30 days (max_age_days)"
        in verify_export(export, aged, now + timedelta(days=31, hours=1)).refused
    )
    assert "in the future" in verify_export(export, policy, now - timedelta(days=1)).refused


def test_wrong_signature_is_not_overlooked(export: Path, policy: Policy) -> None:
    """A signature under a trusted key's name that the key did not make is refused, also beside a right one."""
    path = export / EVIDENCE / CLAIMS
    lines = path.read_text("utf-8").splitlines()
    envelope = attestation.read_envelopes(lines[-1] + "\n")[0]
    forged = attestation.Envelope(envelope.payload, {k: bytes(64) for k in envelope.signatures})
    path.write_text("\n".join([*lines, forged.to_json_line()]) + "\n", "utf-8")
    assert "signatures" in verify_export(export, policy).refused
    assert verify_export(export).ok  # nothing is known of signatures without a policy


BAD_POLICIES = {
    "no TOML": ("suites = [", "not valid TOML"),
    "no suites": ("threshold = 1", '"suites" is missing'),
    "no key": ('suites = ["a"]', "has no [[key]]"),
    "an unknown key": (
        'suites = ["a"]\nmax_age = 3',
        'unknown key "max_age"; did you mean "max_age_days"?',
    ),
    "a threshold nobody can meet": (
        'suites = ["a"]\nthreshold = 2\n[[key]]\nkeyid="a"\npublic="{0}"',
        "it must be 1 to 1",
    ),
    "a threshold of none": ('suites = ["a"]\nthreshold = 0\n[[key]]\nkeyid="a"\npublic="{0}"', "it must be 1 to 1"),
    "one key twice": (
        'suites = ["a"]\n[[key]]\nkeyid="a"\npublic="{0}"\n[[key]]\nkeyid="b"\npublic="{0}"',
        f'two [[key]] tables have public "{"0" * 64}"; remove one',
    ),
    "a key that is none": ('suites = ["a"]\n[[key]]\nkeyid="a"\npublic="xyz"', '": public must be 64 hex digits'),
    "another scheme": ('suites = ["a"]\n[[key]]\nkeyid="a"\nscheme="rsa"\npublic="{0}"', 'it must be "ed25519"'),
}


NUMBERS = {
    "max_age_days": ["nan", "inf", "-inf", "-1", "0", "1e10", "1e400", f"1{'0' * 400}", "0x" + "f" * 5000],
    "max_attempts": ["0", "-1", "10000000", f"1{'0' * 400}", "0x" + "f" * 5000, "1.5", "nan"],
    "recomputed": ["nan", "inf", "-0.1", "1.01", "2", f"1{'0' * 400}"],
    "threshold": ["0", "-1", "2", f"1{'0' * 400}", "nan", "1.0", "0x" + "f" * 5000],
    "waivers": ["1", "nan"],
    "cached_answers": ["0", "nan"],
    "suites": ["1", "0x" + "f" * 5000, f"[{'9' * 400}]"],
}
WRONG_NUMBERS = [(k, v) for k, values in NUMBERS.items() for v in [*values, '"1"', "[1]", "1979-05-27"]]
WRONG_NUMBERS += [(k, "true") for k in ("max_age_days", "max_attempts", "recomputed", "threshold")]


@pytest.mark.parametrize(("key", "value"), WRONG_NUMBERS, ids=lambda x: x[:12])
def test_a_policy_is_told_its_wrong_numbers(key: str, value: str, export: Path, project: Project) -> None:
    """What is no number, or none that can be meant, is named by its key: exit 4, one short line."""
    suites = "" if key == "suites" else 'suites = ["fake"]\n'
    text = f'{suites}{key} = {value}\n[[key]]\nkeyid = "a"\npublic = "{"0" * 64}"\n'
    project.write({"policy.toml": text})
    outcome = project.harness("verify", str(export), "--policy", "policy.toml")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (4, "", 1), outcome.err
    assert outcome.err.startswith("error: policy.toml: ")
    assert key in outcome.err
    assert len(outcome.err) < 200


def test_a_gate_that_a_policy_names_must_pass(export: Path, policy: Policy) -> None:
    """A waiver covers a gate of the suite; what the deployer names must have passed itself."""
    until = (datetime.now(UTC).date() + timedelta(days=1)).isoformat()
    refute_floor(export)
    waive_gate(export, {**WAIVER, "until": until})
    unsigned = dataclasses.replace(policy, threshold=0)
    assert verify_export(export, unsigned).ok
    found = verify_export(export, dataclasses.replace(unsigned, gates=["floor"]))
    assert found.refused == 'gates: gate "floor" is FAIL, but the policy requires it to pass'


@pytest.mark.parametrize("case", BAD_POLICIES)
def test_wrong_policies_are_mistakes(case: str, export: Path, project: Project) -> None:
    """A policy that cannot be meant is a mistake of the command (exit 4), not a verdict on the export."""
    text, told = BAD_POLICIES[case]
    project.write({"policy.toml": text.format("0" * 64)})
    outcome = project.harness("verify", str(export), "--policy", "policy.toml")
    assert (outcome.code, told in outcome.err, outcome.out) == (4, True, "")
    assert all(line.startswith("error: policy.toml") for line in outcome.err.splitlines())


def test_command_line(signed: Path, export: Path, project: Project) -> None:
    """`verify` exits 0 or 7, and 4 when there is nothing to verify; --json is data on stdout."""
    words = ("verify", str(export), "--policy", str(signed / "policy.toml"))
    outcome = project.harness(*words, "--json")
    assert (outcome.code, json.loads(outcome.out)["ok"]) == (0, True)
    assert "verified: merged of suite fake" in project.harness(*words).out
    (export / MODEL / "model.safetensors").unlink()
    outcome = project.harness(*words, "--json")
    assert outcome.code == 7
    assert json.loads(outcome.out)["refused"] == 'digests: "model/model.safetensors" is missing'
    assert "refused: " in outcome.err
    assert project.harness("verify", "nowhere").code == 4
    assert project.harness("verify", str(export), "--policy", "nowhere.toml").code == 4


@pytest.mark.slow
def test_verify_is_light(signed: Path, export: Path) -> None:
    """Torch, numpy and the network stay out of it."""
    code = f"""
import sys
from harness.cli.main import main
code = main(["verify", {str(export)!r}])
heavy = {{"torch", "transformers", "numpy", "rich", "socket", "ssl", "urllib.request", "subprocess"}} & set(sys.modules)
assert not heavy, heavy
assert main(["verify", {str(export)!r}, "--policy", {str(signed / "policy.toml")!r}]) == 0
assert not {{"torch", "transformers", "numpy", "rich"}} & set(sys.modules)
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_keys_are_never_overwritten(project: Project) -> None:
    """`keygen` over an existing file is a mistake, and the private half is its owner's alone."""
    assert project.harness("keygen", "mine").code == 0
    before = (project.folder / "mine.key").read_bytes()
    assert (project.folder / "mine.key").stat().st_mode & 0o777 == 0o600
    outcome = project.harness("keygen", "mine")
    assert (outcome.code, ": exists already; keys are never overwritten, so choose another name" in outcome.err) == (
        4,
        True,
    )
    assert (project.folder / "mine.key").read_bytes() == before
    (project.folder / "other.pub").write_text("x", "utf-8")
    assert project.harness("keygen", "other").code == 4
    assert not (project.folder / "other.key").exists()


def test_a_key_that_others_can_read_signs_nothing(export: Path, project: Project) -> None:
    """As ssh does with keys: one line that says what to do."""
    key = export.parent / "open.key"
    assert project.harness("keygen", str(key.with_suffix(""))).code == 0
    key.chmod(0o644)
    outcome = project.harness("sign", str(export), "--key", str(key))
    assert (outcome.code, f"others than its owner can read or write it; chmod 600 {key}" in outcome.err) == (4, True)


def test_what_is_not_signed(signed: Path, export: Path, project: Project) -> None:
    """A missing key, a public key, another's export and a leaked token: one line, exit 4, nothing written."""
    before = (export / EVIDENCE / CLAIMS).read_bytes()
    for key, told in (("nowhere", "cannot be read"), (signed / "release.pub", "is not a private key in PEM")):
        outcome = project.harness("sign", str(export), "--key", str(key))
        assert (outcome.code, told in outcome.err) == (4, True), outcome.err
    (export / "README.md").write_text("token hf_" + "a" * 34, "utf-8")
    outcome = project.harness("sign", str(export), "--key", str(signed / "release.key"))
    assert (outcome.code, "is not signed: digests" in outcome.err) == (4, True)
    assert (export / EVIDENCE / CLAIMS).read_bytes() == before
    reseal(export)
    outcome = project.harness("sign", str(export), "--key", str(signed / "release.key"))
    assert (outcome.code, "README.md:1: looks like a Hugging Face token" in outcome.err) == (4, True)


def test_sniffing_knows_what_real_models_hold(tmp_path: Path) -> None:
    """Files that models come with are allowed."""
    write(tmp_path / "model.safetensors", {"w": F32}, bytes(8))
    for name in ("LICENSE", "NOTICE.txt", "merges.txt", "USE_POLICY.md", "tokenizer.model"):
        (tmp_path / name).write_text("#version: 0.2\n", "utf-8")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"auto_map": 3}}}), "utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"attn_implementation": "sdpa", "auto_map": None}), "utf-8")
    assert formats.check_files(tmp_path) == "8 files"
    assert formats.check_configuration(tmp_path) == "2 configurations"


def test_verified_is_plain_data() -> None:
    """What --json prints has these keys, for the scripts that read them."""
    keys = {"folder", "ok", "refused", "root", "suite", "candidate", "signed_by", "steps", "notes"}
    keys |= {"unchecked", "unable", "missing", "recorded", "read"}
    assert keys == asdict(VerifiedExport("x")).keys()
