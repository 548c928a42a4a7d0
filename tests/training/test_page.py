"""The how-to page and the script of docs/examples that it shows."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import parse_blocks
from tests.helpers.loops import make_training_rows, write_loop_suite

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs/examples/gate_while_training.py"
PAGE = ROOT / "docs/how-to/gate-while-training.md"


def list_python_blocks() -> list[str]:
    return [block.text for block in parse_blocks(PAGE, ROOT) if block.language == "python"]


def test_page_shows_the_script() -> None:
    """The page shows the example as it is."""
    assert list_python_blocks()[0].strip() == SCRIPT.read_text("utf-8").strip()


@pytest.mark.slow
def test_script(tiny_model: Path, tmp_path: Path) -> None:
    """The example trains the tiny model, looks at it three times, and names what confirms."""
    import json

    suite = write_loop_suite(tmp_path / "suite", tiny_model)
    rows = tmp_path / "rows.jsonl"
    wanted = [{name: row[name] for name in ("prompt", "completion")} for row in make_training_rows()]
    rows.write_text("\n".join(map(json.dumps, wanted)))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(tiny_model), str(suite), str(rows)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "look 3 of 3" in done.stderr
    assert f"harness run {suite} --candidate out/checkpoint-" in done.stderr


@pytest.mark.slow
def test_plugin_of_axolotl(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin of the page is one of axolotl's `BasePlugin`, and returns the callback for its trainer."""
    pytest.importorskip("transformers")
    text = list_python_blocks()[1]
    base = types.ModuleType("axolotl.integrations.base")

    class BasePlugin:  # the method that it overrides, as axolotl 0.19.0 calls it
        def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
            return []

    base.BasePlugin = BasePlugin  # type: ignore[attr-defined]
    for name, module in (("axolotl", None), ("axolotl.integrations", None), ("axolotl.integrations.base", base)):
        monkeypatch.setitem(sys.modules, name, module or types.ModuleType(name))
    names: dict[str, Any] = {}
    exec(compile(ast.parse(text), PAGE.name, "exec"), names)
    [callback] = names["GatePlugin"]().add_callbacks_post_trainer(None, None)
    assert type(callback).__name__ == "GateCallback"


def test_importing_harness_imports_no_torch() -> None:
    """Neither `harness` nor `harness.training` imports a library until the callback itself is asked for."""
    code = "import harness, harness.training, sys; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
