"""Suites beyond `harness.testing.SUITE`, and what they need beside them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from harness.testing import ROWS, SUITE, TRAIN, Project, write_fake

Rows = list[dict[str, Any]]

# with a select split
SELECT = [{"id": f"s{i}", "input": f"choose {i} say v{i}", "target": f"v{i}", "kind": "ab"[i % 2]} for i in range(40)]
SPLIT = SUITE.replace('data = "test.jsonl"', 'data = "test.jsonl"\nselect = "select.jsonl"')
# a gate that leaves out rows which leak
CLEAN = SUITE.replace("min = 0.5", "min = 0.5\nclean_only = true")
# comparisons with what was released, and with prompting
SLIDE = """
[[gate]]
id = "no slide"
metric = "qa.exact_match"
versus = "released"
worse_by_at_most = 0.1
"""
FEWSHOT = """
[subject.fewshot]
shots = 3

[[gate]]
id = "worth it"
metric = "qa.exact_match"
versus = "fewshot"
better_by = 0.0
"""
# an exporter that makes other weights, and a suite that ships a merged model and a copy of it
EXPORTER = """
import json, os, signal
from pathlib import Path
from harness import UsageError, hookimpl
from harness.testing import write_fake

def fewer(ref, to, *, loses: float = 0.02, breaks: str = "", opens: bool = True):
    "Write a fake that lost some of its skill."
    with open("called", "a") as f:
        f.write(ref.name + "\\n")
    if breaks == "refuses":
        raise UsageError("no such copy can be made")
    if breaks == "writes nothing":
        return to
    if breaks == "interrupts":
        raise KeyboardInterrupt
    if breaks == "full":
        raise OSError(28, "No space left on device", str(to))
    if breaks == "crashes":
        raise ValueError("half a byte")
    write_fake(to, json.loads((Path(ref.path) / "skill.json").read_text())["skill"] - loses)
    if breaks == "another template":
        (to / "chat_template.jinja").write_text("{{ messages }}")
    if breaks == "code":
        (to / "model.py").write_text("pass")
    (to / "harness-copy.json").write_text(json.dumps({"facts": {"lost": loses}}))
    if Path("kill").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return to

fewer.converts = True
fewer.open_options = lambda options: {} if options.get("opens", True) else {"shut": True}

def check(model, options):
    if options.get("breaks") == "early":
        raise UsageError(f"cannot copy such a model as {model.name}")

fewer.check = check

@hookimpl
def harness_exporters():
    return {"fewer": fewer}
"""
COPY = """
[[export]]
use = "fewer"
to = "exports/fewer"
"""
CLOSE = """
[[gate]]
id = "close"
metric = "qa.exact_match"
versus = "parent"
worse_by_at_most = 0.3
"""
GATES, _, EXPORT = SUITE.partition("[[export]]")
WHOLE = f"{GATES}{CLOSE}[[export]]{EXPORT}{COPY}"
# a real model, small and random
TEXTS = [{"text": f"line {i} of some text"} for i in range(12)]
REAL = """
[suite]
name = "real"

[model]
path = "tiny"

[adapter]
use = "lora"

[[eval]]
name = "fluency"
use = "perplexity"
data = "texts.jsonl"

[[eval]]
name = "qa"
use = "exact_match"
data = "test.jsonl"
max_new_tokens = 4

[[gate]]
id = "fluent"
metric = "fluency.perplexity"
allow_approximate = true
max = 1e9

[[export]]
use = "adapter"
from = "adapter"
to = "exports/adapter"

[[export]]
use = "safetensors"
to = "exports/merged"
"""


def run_commands(
    folder: Path, *lines: str, suite: str = "", files: Mapping[str, str | Rows] | None = None, pages: bool = False
) -> Path:
    """Run command lines on fakes in a folder, with its own cache, for tests that have copies of it; return the folder.

    A suite is written there first, with rows, and `files` beside or instead of these. Of a run that does not end with 0
    the export must be there.
    """
    from harness.cli.main import main

    if suite:
        beside: dict[str, str | Rows] = {"suite.toml": suite, "test.jsonl": ROWS, "train.jsonl": TRAIN}
        Project(folder, None).write(beside | dict(files or {}))  # type: ignore[arg-type]  # nothing is captured
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.chdir(folder)
        patch.setenv("HARNESS_CACHE", str(folder / "cache"))
        for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
            patch.delenv(name, raising=False)
        if not pages:
            patch.setattr("harness_report.can_render", lambda: False)
        write_fake(folder / "base", 0.3)
        for line in lines:
            words = [*line.split(), *(("-p", "harness.testing") if line.startswith("run ") else ())]
            assert main(words) == 0 or any(folder.glob("exports/*")), said.getvalue()
    return folder


def make_waive_command(code: str, until: str = "2999-12-31") -> str:
    """Return the command that lets the errors of a check be ignored."""
    return f"waive {code} --suite suite.toml --reason known --until {until} --by ada"


def read_ledger(suite: Project) -> list[dict[str, Any]]:
    """Return the looks that a project has written down."""
    path = suite.folder / "cache/attempts.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line] if path.exists() else []
    return [line for line in lines if "rows" in line]
