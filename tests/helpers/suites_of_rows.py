"""A suite without any mapping of columns, beside its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]
SUITE = """[suite]
name = "drawn"
seed = 1
alpha = 0.05
[model]
path = "tiny:llama"
[adapter]
use = "lora"
[train]
use = "{trainer}"
data = "train.jsonl"
[[eval]]
name = "answers"
use = "{use}"
data = "test.jsonl"
[merge]
base = "original"
"""


def write_suite(folder: Path, rows: list[Row], trainer: str = "sft", use: str = "exact_match") -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for name in ("train.jsonl", "test.jsonl"):
        (folder / name).write_text(text, "utf-8")
    (folder / "suite.toml").write_text(SUITE.format(trainer=trainer, use=use), "utf-8")
    return folder / "suite.toml"
