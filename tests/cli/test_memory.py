"""Memory that runs out is one line and exit code 4, wherever it happens: no bug of ours, and no failed gate."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import resource_error

resource = pytest.importorskip("resource")
ROOT = Path(__file__).parents[2]
MAIN = "import sys; from harness.cli.main import main; sys.exit(main())"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(12, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_want_of_memory_is_known_by_its_many_names(error: Exception) -> None:
    """Python, torch, CUDA, the system and the loader of libraries each say it in their own words, also as a cause."""
    assert resource_error(error).startswith("out of memory: ")
    other = ValueError("the model cannot be opened")
    other.__cause__ = error
    assert "\n" not in resource_error(other)
    assert resource_error(other).startswith("out of memory: ")


@pytest.mark.parametrize("error", [ValueError("out of memory"), RuntimeError("shape mismatch"), OSError(2, "No file")])
def test_other_errors_are_none_of_the_machine(error: Exception) -> None:
    """What only speaks of memory, or goes wrong in another way, is told as what it is."""
    assert resource_error(error) == ""


def test_numpy_tells_it_too() -> None:
    """numpy's own error for an array that is too large is one of memory."""
    numpy = pytest.importorskip("numpy")
    with pytest.raises(MemoryError) as caught:
        numpy.ones(1 << 46)
    assert "Unable to allocate" in resource_error(caught.value)


def run_with_memory_limit(code: str, megabytes: int, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    env = {**os.environ, "HARNESS_CACHE": str(folder / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, env=env, cwd=ROOT)


@pytest.mark.parametrize("ending", ["ctypes.CDLL(None).exit(1)", "os.abort()"])
def test_a_library_that_ends_the_process_is_told(tmp_path: Path, ending: str) -> None:
    """Under a limit of memory an end without Python's own is one line, whatever code it had."""
    code = "import ctypes, os\nfrom harness.cli.signals import run_guarded\n"
    code += f"raise SystemExit(run_guarded(lambda _: {ending}, None))"
    done = run_with_memory_limit(code, 1000, tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (4, 1), done.stderr
    assert "error: out of memory: a library ended the process" in done.stderr


def test_what_a_command_returns_under_a_limit_is_returned(tmp_path: Path) -> None:
    """A gate that failed is still exit code 1, and what was printed is printed once."""
    code = (
        "from harness.cli.signals import run_guarded\nprint('once')\nraise SystemExit(run_guarded(lambda _: 1, None))"
    )
    done = run_with_memory_limit(code, 1000, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "once\n", "")


@pytest.mark.slow
@pytest.mark.parametrize(("command", "megabytes"), [("run", 64), ("run", 400), ("run", 900), ("check", 300)])
def test_a_suite_under_a_limit_of_memory(tmp_path: Path, command: str, megabytes: int) -> None:
    """Where it does not suffice there is one line and exit code 4, whichever library asks for more first."""
    pytest.importorskip("torch")
    words = ["--out", str(tmp_path / "reports"), "--no-export"] if command == "run" else []
    done = run_with_memory_limit(MAIN, megabytes, tmp_path, command, "suites/smoke.toml", *words)
    told = [line for line in (done.stderr + done.stdout).splitlines() if "out of memory" in line]
    assert done.returncode in (0, 4), done.stderr + done.stdout
    assert done.stderr.count("\n") <= 1, done.stderr
    assert done.returncode == 0 or len(told) == 1
    assert "Traceback" not in done.stderr + done.stdout
