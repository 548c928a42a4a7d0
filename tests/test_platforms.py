"""What runs where only training does not: Windows, and a Python without what only POSIX has."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WINDOWS = sys.platform == "win32"
HARNESS = ["-m", "harness"] if WINDOWS else [str(ROOT / "tests" / "helpers" / "as_on_windows.py")]
MASKED = f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n"
MASKED += "" if WINDOWS else "from tests.helpers.as_on_windows import mask_posix\nmask_posix()\n"
Run = Callable[..., "subprocess.CompletedProcess[str]"]
pytestmark = [] if WINDOWS else [pytest.mark.slow]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return `harness` as on Windows, in a folder with two tables."""
    for name, lost in (("base", ()), ("candidate", range(1, 400, 50))):
        with (tmp_path / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "input", "score"])
            rows.writerows([f"q-{i}", f"What is {i}?", int(i % 5 > 0 and i not in lost)] for i in range(400))
    env = {**os.environ, "HARNESS_CACHE": str(tmp_path / "cache"), "PYTHONUTF8": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *HARNESS, *words]
        return subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False
        )

    return call


def test_what_needs_no_model_runs_without_posix(run: Run, tmp_path: Path) -> None:
    """Gate, its suite, verify and show run, with the evidence that Linux writes, and count attempts under a lock."""
    words = ("base.csv", "candidate.csv", "--worse-by-at-most", "0.05", "--write-suite", "gate.toml")
    gated = run("gate", *words)
    assert (gated.returncode, gated.stderr) == (0, "") and "PASS  no-worse" in gated.stdout
    again = run("run", "gate.toml")
    assert (again.returncode, again.stderr) == (0, "") and "PASS  no-worse" in again.stdout
    (folder, _) = sorted((tmp_path / "reports").glob("gate-*Z*"))
    assert b"\r" not in (folder / "gate" / "items.jsonl").read_bytes()
    sources = ("--sources", "base.csv", "candidate.csv")
    verified = run("verify", str(folder / "gate"), *sources)
    assert (verified.returncode, verified.stderr) == (
        0,
        "",
    ) and "1 of 1 decided again from their rows" in verified.stdout
    shown = run("show", str(folder), "--rows")
    assert shown.returncode == 0 and shown.stdout.count("lost       ") >= 8
    assert run("history", "gate").returncode == 0


def test_init_writes_a_suite_without_posix(run: Run, tmp_path: Path) -> None:
    """A suite is written from an example and from a table; what runs models wants Linux or macOS, in one line."""
    assert run("init", "mine").returncode == 0
    with (tmp_path / "mood.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows([f"{i * 7919 % 1000} of {chr(97 + i % 26) * 9} {i}", ("good", "bad")[i % 2]] for i in range(300))
    made = run("init", "mood", "--data", "mood.csv")
    assert made.returncode == 0 and (tmp_path / "mood" / "suite.toml").is_file()
    if not WINDOWS:  # where torch need not be installed
        refused = run("run", "mine/suite.toml")
        assert refused.returncode == 4
        assert refused.stderr.count("\n") == 1 and "runs models, which needs Linux or macOS" in refused.stderr


def test_a_lock_of_windows_keeps_others_out(tmp_path: Path) -> None:
    """One process has a file at a time; whoever waits gets it when the other ends."""
    script = """
import os
from harness.portable import locks
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
locks.lock_file(handle)
free = os.open(sys.argv[1], os.O_RDWR)
print(locks.try_lock(free), locks.try_lock(free, shared=True), os.lseek(free, 0, os.SEEK_CUR), flush=True)
sys.stdin.readline()
locks.unlock_file(handle)
print(locks.try_lock(free, shared=True), locks.try_lock(free))
"""
    command = [sys.executable, "-c", MASKED + script, str(tmp_path / "lock")]
    done = subprocess.run(command, input="\n", capture_output=True, text=True, cwd=ROOT, check=True, timeout=60)
    assert done.stdout.split() == ["False", "False", "0", "True", "True"]


def test_the_python_functions_run_without_posix(tmp_path: Path) -> None:
    """`harness.gate` decides, and writes its folder."""
    script = """
import harness
base = {f"q-{i}": int(i % 5 > 0) for i in range(400)}
gated = harness.gate(base, base | {"q-1": 0}, worse_by_at_most=0.05)
print(gated.outcome, gated.report(sys.argv[1]).is_dir())
"""
    command = [sys.executable, "-c", MASKED + script, str(tmp_path / "reports")]
    env = {**os.environ, "HARNESS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=True, timeout=60)
    assert done.stdout.split() == ["PASS", "True"]
