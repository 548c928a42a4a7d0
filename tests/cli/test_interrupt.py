"""Ctrl-C and kill -9 while really training: nothing is lost, nothing is half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SUITE = Path(__file__).parents[2] / "suites/smoke.toml"
FLAGS = ("-q", "-k", "adapter", "--set", "train.max_steps=120", "--set", "train.save_steps=5")


def start(folder: Path, python: Path) -> subprocess.Popen[str]:
    """Start the smoke suite in a process of its own, with a cache and reports of its own."""
    hears = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # also when run in the background
    code = f"{hears}; import sys; from harness.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [str(python), "-c", code, "run", str(SUITE), "--out", str(folder / "reports"), *FLAGS]
    env = {**os.environ, "HARNESS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the training has written a whole checkpoint."""
    until = time.monotonic() + 240
    while not list(folder.glob("cache/trained/*/checkpoints/checkpoint-*/harness-checkpoint.json")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "no checkpoint came"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_stopped_training_goes_on(tmp_path: Path, warm: Path, stop: signal.Signals) -> None:
    """After Ctrl-C (exit 2) or kill -9 the next run goes on from the checkpoint and finishes the adapter."""
    first = start(tmp_path, warm / "python")
    wait_for_checkpoint(tmp_path, first)
    first.send_signal(stop)
    out = first.communicate(timeout=120)[0]
    assert first.returncode == (2 if stop is signal.SIGINT else -9)
    assert "Traceback" not in out
    assert not list(tmp_path.glob("cache/trained/*/adapter"))
    if stop is signal.SIGINT:
        (report,) = tmp_path.glob("reports/*/report.json")
        assert any(r["outcome"] == "done" for r in json.loads(report.read_text("utf-8"))["results"])
    second = start(tmp_path, warm / "python")
    out = second.communicate(timeout=240)[0]
    assert second.returncode == 6  # a part of the suite, so not 0; but nothing failed
    assert "INTERNAL" not in out
    (note,) = tmp_path.glob("cache/trained/*/adapter/harness-adapter.json")
    assert json.loads(note.read_text("utf-8"))["facts"]["steps"] == 120
