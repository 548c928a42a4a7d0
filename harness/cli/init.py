"""`harness init`: a small project that runs and passes as it is, to be changed into one's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from harness.cli.examples import EXAMPLES
from harness.errors import UsageError
from harness.files import write_text
from harness.plugins import load_plugins
from harness.suite.json_schema import json_schema

SCHEMA = "suite.schema.json"


def write_project(folder: Path, task: str) -> tuple[list[Path], Sequence[str]]:
    """Write the suites and rows of a task, and return their paths and the commands that run them in the folder.

    Beside them lies the suites' JSON Schema, which editors read. Raises UsageError when one of the files is there
    already.
    """
    example = EXAMPLES[task]()
    taken = [name for name in (*example.files, SCHEMA) if (folder / name).exists()]
    if taken:
        raise UsageError(f"{folder / taken[0]}: is there already; choose an empty folder")
    for name, text in example.files.items():
        write_text(folder / name, f"#:schema {SCHEMA}\n{text}" if name.endswith(".toml") else text)
    made = json_schema(load_plugins(folder / "suite.toml"))
    write_text(folder / SCHEMA, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    return [folder / name for name in (*example.files, SCHEMA)], example.commands
