"""What is in the wheel, and what a deploy job has that installs the base dependencies alone."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_wheel_works_with_the_base_dependencies_alone(tmp_path: Path) -> None:
    """In a fresh environment without torch the command runs, plugins are listed, and a suite collects."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as z:
        top = {name.split("/")[0] for name in z.namelist()}
    assert {"harness", "harness_hf", "harness_lora", "harness_sft", "harness_export"} <= top
    assert not {"plugins", "tests", "suites"} & top
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True, capture_output=True)
    harness = tmp_path / "env/bin/harness"
    listed = subprocess.run([harness, "plugins"], check=True, capture_output=True, text=True).stdout
    assert "trainer sft  (sft)" in listed
    subprocess.run([harness, "init", str(tmp_path / "mine")], check=True, capture_output=True)
    collect = [harness, "run", "--collect-only", str(tmp_path / "mine/suite.toml")]
    assert "9 items" in subprocess.run(collect, check=True, capture_output=True, text=True).stdout
    run = subprocess.run([harness, "run", str(tmp_path / "mine/suite.toml")], capture_output=True, text=True)
    assert (run.returncode, "Traceback" in run.stderr) == (4, False)
    assert "pip install 'finetune-harness[hf]'" in run.stderr
