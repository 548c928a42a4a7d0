"""Evidence folders and policies before `verify`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from harness.artifacts.attestation import CLAIMS, EVIDENCE, GATES, LOCK, MANIFEST, SERVED, statement_bytes
from harness.release.signing import load_signer
from harness.release.signing import make_envelope as enveloped_by
from harness.release.verify import verify_export
from tests.fuzz.breaking import TOML_VALUES, VALUES, draw_json_edits, draw_line_edits, draw_text_edits, dump_json
from tests.fuzz.driving import fuzz, run_harness
from tests.helpers.suites import run_commands

pytest.importorskip("securesystemslib", reason="the extra `sign` is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fuzzed export")]

NAMES = st.sampled_from([MANIFEST, LOCK, GATES, CLAIMS])
POLICY = """
suites = ["fake"]
threshold = 1
gates = ["floor"]
max_age_days = 30.0
max_attempts = 3
waivers = false
ignored = []
plugins = ["harness sha256:0000000000000000000000000000000000000000000000000000000000000000"]
harness = ["0.1.0"]
all_of = ["fake"]
data = {qa = "0000000000000000000000000000000000000000000000000000000000000000"}

[[claim]]
metric = "qa.exact_match"
min = 0.5
slice = "kind=*"

[[key]]
name = "release"
keyid = "KEYID"
public = "PUBLIC"
scheme = "ed25519"
"""
ODD = st.one_of(
    st.tuples(
        st.sampled_from(
            [
                "suites",
                "threshold",
                "gates",
                "stages",
                "max_age_days",
                "max_attempts",
                "waivers",
                "keyid",
                "data",
                "plugins",
                "ignored",
                "all_of",
                "min",
                "versus",
                "better_by",
                "slice",
            ]
        ),
        st.sampled_from(TOML_VALUES),
    ).map(" = ".join),
    st.sampled_from(["[key]", "[[key]]", "[key.a]", "[[suites]]", "[claim]", "[[claim]]", "[data]"]),
    st.text(max_size=12),
)


@pytest.fixture(scope="module")
def signed(world: Path) -> Path:
    """A world with a signed export and the policy that it meets."""
    run_commands(world, "run suite.toml -q", "keygen release", "sign exports/fake --key release.key")
    (world / "policy.toml").write_text('suites = ["fake"]\n' + (world / "release.pub").read_text("utf-8"), "utf-8")
    assert run_harness("verify", "exports/fake", "--policy", "policy.toml")[0] == 0
    return world


def changed(folder: Path, name: str, data: bytes) -> bool:
    """Put a file into a copy of the export; return whether it differs from what was there."""
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / "exports/fake", copy)
    path = copy / EVIDENCE / name
    before = path.read_bytes()
    path.write_bytes(data)
    return before != data


def read_document(path: Path) -> Any:
    return (
        [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        if path.suffix == ".jsonl"
        else json.loads(path.read_text("utf-8"))
    )


@fuzz(NAMES, st.data())
def test_structure(name: str, data: Any, signed: Path) -> None:
    """JSON of the evidence with values replaced is refused under a policy, and told in a line without one."""
    several = name.endswith("l")
    found = data.draw(draw_json_edits(read_document(signed / f"exports/fake/{EVIDENCE}/{name}"), 2))
    text = "".join(dump_json(x) + "\n" for x in found) if several and isinstance(found, list) else dump_json(found)
    differs = changed(signed, name, text.encode("utf-8", "surrogatepass"))
    assert run_harness("verify", "copy")[0] in (0, 7)
    code = run_harness("verify", "copy", "--policy", "policy.toml")[0]
    assert code == 7 or not differs or (name == CLAIMS and code == 0)


@fuzz(NAMES, st.data())
def test_bytes(name: str, data: Any, signed: Path) -> None:
    """Evidence with pieces cut out or put in is refused under a policy."""
    text = (signed / f"exports/fake/{EVIDENCE}/{name}").read_text("utf-8")
    differs = changed(signed, name, data.draw(draw_text_edits(text)))
    code = run_harness("verify", "copy", "--policy", "policy.toml")[0]
    assert code == 7 or not differs or (name == CLAIMS and code == 0)


@fuzz(st.sampled_from(["config.json", "model.safetensors", "skill.json", "generation_config.json"]), VALUES)
def test_model_files(name: str, value: Any, signed: Path) -> None:
    """Files of the model that were written over, or put beside it, are refused."""
    changed(signed, MANIFEST, (signed / f"exports/fake/{EVIDENCE}/{MANIFEST}").read_bytes())
    path, data = signed / "copy/model" / name, dump_json(value).encode("utf-8", "surrogatepass")
    alike = path.is_file() and path.read_bytes() == data
    path.write_bytes(data)
    assert run_harness("verify", "copy")[0] == (0 if alike else 7)


@fuzz(st.booleans(), st.data())
def test_statements_of_what_is_served(enveloped: bool, data: Any, signed: Path) -> None:
    """A statement with values replaced, or pieces cut out, is told in a line, and unsigned is taken by no policy."""
    told = {
        "layers": {"ids": {"verdict": "same", "reason": "x", "seen": "count", "numbers": {}}},
        "ended": "2026-01-01",
    }
    told |= {"runtime": {"kind": "vllm", "name": "vLLM", "version": "0.3"}}
    root = verify_export(signed / "exports/fake").root
    text = statement_bytes(SERVED, [{"name": "fake", "digest": {"sha256": root}}], told)
    found = data.draw(draw_json_edits(json.loads(text), 2))
    made = dump_json(found).encode("utf-8", "surrogatepass")
    odd = enveloped_by(made, load_signer(signed / "release.key")).to_json_line().encode() if enveloped else made
    (signed / "odd.json").write_bytes(odd)
    assert run_harness("verify", "exports/fake", "--served", "odd.json")[0] in (0, 4, 7)
    demands = (signed / "policy.toml").read_text("utf-8") + '\n[served]\nlayers = ["ids"]\nruntimes = ["vllm>=0.1"]\n'
    (signed / "wants.toml").write_text(demands, "utf-8")
    code = run_harness("verify", "exports/fake", "--policy", "wants.toml", "--served", "odd.json")[0]
    assert code in (4, 7) or (enveloped and code == 0)


@fuzz(
    draw_text_edits(POLICY, TOML_VALUES)
    | draw_line_edits(POLICY, ODD).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_policies(policy: bytes, signed: Path) -> None:
    """A policy of anything is told in lines, or put to the export."""
    key = (signed / "release.pub").read_text("utf-8")
    keyid, public = (line.split('"')[1] for line in key.splitlines() if line.startswith(("keyid", "public")))
    (signed / "odd.toml").write_bytes(policy.replace(b"KEYID", keyid.encode()).replace(b"PUBLIC", public.encode()))
    run_harness("verify", "exports/fake", "--policy", "odd.toml")
