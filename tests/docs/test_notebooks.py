"""Every notebook of docs/examples, cell by cell, on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


def run_cells(path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Any]:
    """Run a notebook in a folder, as somebody does who opened it; return its names."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names: dict[str, Any] = {}
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), path.name, "exec"), names)
    return names


@pytest.mark.pages
def test_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The notebook that measures a GPU runs from top to bottom; on a CPU its models are tiny."""
    run_cells(EXAMPLES / "gpu.ipynb", monkeypatch, EXAMPLES)
    measured = json.loads(Path("reports/gpu/measured.json").read_text("utf-8"))
    assert {part["part"] for part in measured["parts"] if "found" in part} >= {"doctor", "qlora", "whole", "adapters"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_gate_while_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    """The notebook that gates a training runs from top to bottom, looks, and names what confirms."""
    pytest.importorskip("trl")
    names = run_cells(EXAMPLES / "gate_while_training.ipynb", monkeypatch, tmp_path)
    assert names["looks"][0]["step"] == 20
    assert "run: harness run reports/gate-while-training/suite.toml --candidate" in capsys.readouterr().err


def test_every_notebook_is_run() -> None:
    """No notebook of the examples is without a test here."""
    assert {path.name for path in EXAMPLES.glob("*.ipynb")} == {"gpu.ipynb", "gate_while_training.ipynb"}
