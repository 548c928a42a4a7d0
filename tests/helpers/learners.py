"""A project whose fake trainer learns from its rows: each that answers "wrong" makes the model wrong more often."""

from __future__ import annotations

import json
from typing import Any

from harness.testing import Project, write_fake

HARNESSFILE = '''
import hashlib
import json
from pathlib import Path

from harness import hookimpl, trainer
from harness.testing import write_fake


@trainer()
def learn(
    ref, adapter, rows, out: Path, *, progress, seed: int, skill: float = 0.9, harm: float = 0.05, spread: float = 0.02
) -> Path:
    """Write an adapter that is worse for each wrong answer, and better or worse by its rows and the seed."""
    told = json.dumps([seed, [row["prompt"] for row in rows]])
    luck = int(hashlib.sha256(told.encode()).hexdigest()[:8], 16) / 2**31 - 1
    with (Path(__file__).parent / "calls.jsonl").open("a") as f:
        f.write(json.dumps({"seed": seed, "rows": [row["prompt"] for row in rows]}) + "\\n")
    out.mkdir(parents=True)
    write_fake(out, skill - harm * sum(row["completion"].strip() == "wrong" for row in rows) + spread * luck)
    return out


@hookimpl
def harness_trainers():
    return {"learn": learn}
'''
SUITE = """
[suite]
name = "fake"

[model]
use = "fake"
path = "base"

[adapter]
use = "fake"

[train]
use = "learn"
data = ["train.jsonl", "more.jsonl"]

[[eval]]
name = "qa"
use = "exact_match"
data = "test.jsonl"
slices = ["kind"]

[[gate]]
id = "no forgetting"
metric = "qa.exact_match"
versus = "base"
worse_by_at_most = 0.05

[[export]]
use = "safetensors"
to = "exports/fake"
"""
ROWS = [{"id": f"q{i}", "input": f"question {i} say w{i}", "target": f"w{i}", "kind": "ab"[i % 2]} for i in range(600)]
GOOD = [{"input": f"train {i} say t{i}", "target": f"t{i}"} for i in range(80)]
WRONG = [{"input": f"question about {i} say p{i}", "target": "wrong"} for i in range(6)]


def read_trainings(project: Project) -> list[dict[str, Any]]:
    """Return the seed and the prompts of every training that the trainer was called for."""
    return [json.loads(line) for line in (project.folder / "calls.jsonl").read_text("utf-8").splitlines()]


def write_learner(project: Project, *, wrong: int = 6, more: str = "", train: str = "") -> Project:
    """Write a suite whose training data holds so many wrong answers among the rows of its second file."""
    rows: list[dict[str, Any]] = [*GOOD[40:60], *WRONG[:wrong], *GOOD[60:]]
    text = SUITE.replace('"more.jsonl"]\n', f'"more.jsonl"]\n{train}') + more
    files: dict[str, Any] = {"suite.toml": text, "harnessfile.py": HARNESSFILE, "test.jsonl": ROWS}
    project.write({**files, "train.jsonl": GOOD[:40], "more.jsonl": rows})
    write_fake(project.folder / "base", 0.85)
    return project
