"""Call a function in a fresh process, so that its memory and its warm-up are its own.

`python -m bench.child MODULE FUNCTION JSON` calls it with a Setting and keywords, and prints as JSON what it returns
and the most memory the process had, in bytes, as `peak`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.setting import Setting

ROOT = Path(__file__).parent.parent
QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
Side = Callable[..., dict[str, Any]]


class ChildError(Exception):
    """A child process failed; the text ends with the last lines it wrote."""


def call(
    function: Side,
    setting: Setting,
    environment: Mapping[str, str] = MappingProxyType({}),
    *,
    timeout: float | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Call a module's function as `function(setting, **arguments)` in a process of its own, with more variables.

    Raises ChildError when that fails, or takes more than `timeout` seconds.
    """
    words = json.dumps({"setting": vars(setting), "arguments": arguments})
    command = [sys.executable, "-m", "bench.child", function.__module__, function.__name__, words]
    threads = {"OMP_NUM_THREADS": str(setting.threads), "MKL_NUM_THREADS": str(setting.threads)}
    found: dict[str, Any] = json.loads(run(command, {**threads, **environment}, timeout).splitlines()[-1])
    return found


def run(command: list[str], environment: dict[str, str], timeout: float | None = None) -> str:
    """Run a command in the repository and return what it printed; raises ChildError."""
    env = os.environ | QUIET | environment
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise ChildError(f"not done in {timeout:.0f} s") from None
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-20:]
        raise ChildError("\n".join([f"exit {done.returncode}: {' '.join(command[1:])}", *last]))
    return done.stdout.strip()


def main(module: str, function: str, words: str) -> None:
    """Be the child."""
    import torch

    given = json.loads(words)
    setting = Setting(**given["setting"])
    torch.set_num_threads(setting.threads)
    found = getattr(import_module(module), function)(setting, **given["arguments"])
    print(json.dumps({**found, "peak": _read_peak_memory(setting)}))


def _read_peak_memory(setting: Setting) -> int:
    """Return the most memory this process had: of the GPU where that is the device, else resident."""
    if setting.on_gpu:
        import torch

        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main(*sys.argv[1:])
