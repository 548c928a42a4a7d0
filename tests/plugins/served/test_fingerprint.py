"""The fingerprint of an export: written and signed with the rest, and compared with a server without weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.attestation import EVIDENCE, FINGERPRINT, MANIFEST
from harness.artifacts.fingerprint import read_fingerprint
from harness.testing import ROWS as SIX
from harness.testing import Project
from harness_served.fingerprint import FARTHEST_SHARE, draw_probes
from tests.helpers.gateway import FAULTS, Fault, start_gateway
from tests.helpers.late import import_late
from tests.helpers.runtimes import Runtime, run_runtime
from tests.helpers.suites import REAL, TEXTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("warm_children"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
import_late("openai")
GATE = 'metric = "qa.exact_match"\nversus = "base"\nworse_by_at_most = 0.9'
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from harness.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def exported(project: Project, tiny_model: Path) -> Path:
    """A folder with an export of a model that was merged from a LoRA, and its base."""
    from harness_lora import lora
    from tests.helpers.adapters import make_adapter

    shutil.copytree(tiny_model, project.folder / "tiny")
    make_adapter(project.folder / "tiny", lora(), project.folder / "made", 0.02)
    make_adapter(project.folder / "tiny", lora(), project.folder / "half", 0.01)
    suite = REAL.replace('metric = "fluency.perplexity"\nallow_approximate = true\nmax = 1e9', GATE)
    project.write({"suite.toml": suite, "test.jsonl": SIX[:6], "texts.jsonl": TEXTS})
    assert project.run("--candidate", str(project.folder / "made")).code == 0
    return project.folder


def look(folder: Path, runtime: Runtime, *more: str, fault: Fault | None = None) -> tuple[int, dict[str, Any]]:
    """Compare by the fingerprint in a process that has no torch."""
    words = ["parity", "exports/merged", "--fingerprint", "--arithmetic", "float32", "--json", *more]
    with run_runtime(runtime) as served, start_gateway(served.url, fault=fault) as between:
        command = [sys.executable, "-c", WITHOUT_TORCH, *words, "--runtime", between.url]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1, 6), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_fingerprint_tells_the_export_from_other_models(project: Project, exported: Path) -> None:
    """In at most 60 requests, without torch; a changed file is refused by verify and by parity."""
    export, path = exported / "exports/merged", exported / "exports/merged" / EVIDENCE / FINGERPRINT
    manifest = json.loads((export / EVIDENCE / MANIFEST).read_text("utf-8"))
    assert f"{EVIDENCE}/{FINGERPRINT}" in manifest["files"]
    assert path.stat().st_size < 200_000
    made = read_fingerprint(path.read_bytes())
    assert len(made.chat) + len(made.text) > 1500
    for dialect in ("llama.cpp", "vllm"):
        code, told = look(exported, Runtime(dialect, export / "model"))
        assert code == 0 or (code, dialect) == (6, "llama.cpp"), told  # which tells nothing of a part of a character
        assert told["fingerprint"][0]["requests"] <= 60
    base = exported / "tiny"
    for name, runtime in {
        "base": Runtime("vllm", base),
        "half": Runtime("vllm", base, adapter=exported / "half"),
        "template": Runtime("vllm", export / "model", frozenset({"template"})),
        "context": Runtime("vllm", export / "model", context=256),
    }.items():
        code, told = look(exported, runtime)
        assert code == 1, (name, told)
        says = told["fingerprint"][0]["reason"]
        assert {"template": "check template", "context": "its context is 256"}.get(name, "other weights") in says
    assert look(exported, Runtime("vllm", export / "model", context=256), "--context", "200")[0] == 0
    assert look(exported, Runtime("vllm", export / "model", frozenset({"mute"})))[0] == 6
    assert look(exported, Runtime("vllm", export / "model"), fault=FAULTS["stripped"]())[0] == 0
    path.write_bytes(path.read_bytes().replace(b"0.", b"1.", 1))
    for words in (
        ("verify", "exports/merged"),
        ("parity", "exports/merged", "--fingerprint", "--runtime", "http://x/v1"),
    ):
        outcome = project.harness(*words)
        assert outcome.code in (4, 7)
        assert "fingerprint.json" in outcome.err + outcome.out


def test_half_of_the_drawn_probes_are_those_where_the_base_is_farthest(exported: Path) -> None:
    """They come first in the file; which are drawn depends on the seed."""
    made = read_fingerprint((exported / "exports/merged" / EVIDENCE / FINGERPRINT).read_bytes())
    drawn = draw_probes(made, 1)
    first = made.text[: round(len(made.text) * FARTHEST_SHARE) + 1]
    assert sum(kind == "text" and probe in first for kind, probe in drawn) >= 10
    assert drawn != draw_probes(made, 2)
