"""The valid folders from which hostile ones are made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from harness.testing import SUITE
from tests.helpers.suites import run_commands

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
CANARY = "canary-content-4f1c"  # of the file and the variable that no command may tell
VARIABLE, MODULE = "CANARY_API_KEY", "canary_module"


def make_world(folder: Path) -> Path:
    """Make a run, an export, a published folder and a bundle below `theirs`, and what is the user's below `yours`."""
    yours, theirs = folder / "yours", folder / "theirs"
    yours.mkdir(parents=True)
    suite = SUITE.replace("min = 0.5", "min = 0.5\n" + GATES)
    run_commands(yours, "run suite.toml -q", "keygen release", "sign exports/fake --key release.key", suite=suite)
    next((yours / "reports").iterdir()).rename(yours / "run")
    gate = "gate run#base run#merged --metric qa:exact_match --better-by 0 --allow dtype"
    run_commands(yours, "publish exports/fake team/fake --to published", gate)
    bundle = next((yours / "reports").glob("*/gate"))
    (yours / "labels.jsonl").write_text(json.dumps({"id": "q1", "label": 1}) + "\n", "utf-8")
    for source, name in (
        (yours / "run", "reports/run"),
        (yours / "exports/fake", "exports/fake"),
        (yours / "published", "published"),
        (bundle, "bundle"),
    ):
        shutil.copytree(source, theirs / name)
    site = folder / "site"
    site.mkdir()
    (site / f"{MODULE}.py").write_text("", "utf-8")
    return folder
