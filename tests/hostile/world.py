"""The valid folders from which hostile ones are made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from harness.testing import ROWS, SUITE
from harness.testing.judge import StubJudge
from tests.helpers.suites import REAL, TEXTS, run_commands

GATES = """
[[gate]]
id = "better"
metric = "qa.exact_match"
versus = "base"
better_by = 0.0

[[gate]]
id = "perfect"
metric = "qa.exact_match"
min = 0.99
severity = "warn"
"""
JUDGED = """
[[eval]]
name = "tone"
use = "judge"
mode = "rubric"
criteria = { right = "It is right." }
data = "test.jsonl"
limit = 4
backend = "openai"
model = "stub-judge"
max_new_tokens = 20
trust_judge = true
base_url = "URL"
"""
REAL_SUITE = REAL.replace(
    'metric = "fluency.perplexity"\nallow_approximate = true\nmax = 1e9',
    'metric = "qa.exact_match"\nversus = "base"\nworse_by_at_most = 0.9',
)
FOLDERS = {
    "run": "reports/run",
    "export": "exports/fake",
    "published": "published",
    "bundle": "bundle",
    "model": "exports/merged",  # of a real model, and its adapter's
    "adapter": "exports/adapter",
}
CANARY = "canary-content-4f1c"  # of the file and the variable that no command may tell
VARIABLE, MODULE = "CANARY_API_KEY", "canary_module"


def make_world(folder: Path) -> Path:
    """Make each kind of folder below `theirs`, and what is the user's below `yours`."""
    yours, real, theirs = folder / "yours", folder / "yours/real", folder / "theirs"
    _run_fakes(yours)
    _run_real_model(real)
    bundle = next((yours / "reports").glob("*/gate"))
    sources = {
        "run": yours / "run",
        "export": yours / "exports/fake",
        "published": yours / "published",
        "bundle": bundle,
        "model": real / "exports/merged",
        "adapter": real / "exports/adapter",
    }
    for kind, source in sources.items():
        shutil.copytree(source, theirs / FOLDERS[kind])
    site = folder / "site"
    site.mkdir()
    (site / f"{MODULE}.py").write_text("", "utf-8")
    return folder


def _run_fakes(folder: Path) -> None:
    """Run, export, publish and gate fakes, one evaluation of which has a judge."""
    folder.mkdir(parents=True)
    with StubJudge("fair") as judge:
        suite = SUITE.replace("min = 0.5", "min = 0.5\n" + GATES) + JUDGED.replace("URL", judge.openai_url)
        run_commands(folder, "run suite.toml -q", "keygen release", "sign exports/fake --key release.key", suite=suite)
    next((folder / "reports").iterdir()).rename(folder / "run")
    gate = "gate run#base run#merged --metric qa:exact_match --better-by 0 --allow dtype"
    run_commands(folder, "publish exports/fake team/fake --to published", gate)
    labels = [{"id": row["id"], "label": 1} for row in ROWS[:4]]
    (folder / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels), "utf-8")


def _run_real_model(folder: Path) -> None:
    """Export a tiny model, whose answers are short, and its adapter, with fingerprints."""
    from harness_lora import lora
    from tests.helpers.adapters import make_adapter
    from tests.helpers.llamas import build, make_speaker

    base = make_speaker(build(folder / "tiny"), [40, 41, 42])
    make_adapter(base, lora(), folder / "made", 0.02)
    files = {"test.jsonl": ROWS[:6], "texts.jsonl": TEXTS}
    run_commands(folder, "run suite.toml -q --candidate made", suite=REAL_SUITE, files=files)
