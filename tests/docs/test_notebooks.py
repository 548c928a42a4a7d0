"""Every notebook of docs/examples, cell by cell, on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


@pytest.mark.pages
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.name)
def test_cells_run_from_top_to_bottom(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As somebody runs them who opened the notebook in a clone; on a CPU its models are tiny."""
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cells = json.loads(path.read_text("utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), path.name, "exec"), names)
    measured = json.loads(Path("reports/gpu/measured.json").read_text("utf-8"))
    assert {part["part"] for part in measured["parts"] if "found" in part} >= {"doctor", "qlora", "whole", "adapters"}
