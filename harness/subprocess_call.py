"""A question to a module in a process of its own: what lies on the disk, looked at by one that did not write it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from harness.errors import CheckFailedError, UsageError
from harness.texts.numbers import format_duration

SIGN = "progress: "  # begins a line that is no answer yet
Heard = Callable[[str, int, int], None]  # what, done and total
QUIET_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def call_module(
    module: str, question: Mapping[str, Any], lost: str, *, seconds: float | None = None, heard: Heard | None = None
) -> dict[str, Any]:
    """Run a module in a subprocess and return its facts.

    The module calls `serve_call`, which reads the question as JSON from stdin. `heard` gets (what, done, total) of each
    `report_progress`. Raises the CheckFailedError that the module reports; and UsageError, which begins with `lost`, if
    there is no answer, or none within `seconds`.
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **QUIET_ENVIRONMENT}
    last, ends = "", time.monotonic() + (seconds or threading.TIMEOUT_MAX)
    with tempfile.TemporaryFile("w+") as asked, tempfile.TemporaryFile("w+", errors="replace") as errors:
        asked.write(json.dumps(question))
        asked.seek(0)
        pipes: Any = {"stdin": asked, "stdout": subprocess.PIPE, "stderr": errors}
        with subprocess.Popen([sys.executable, "-P", "-m", module], text=True, env=env, **pipes) as done:
            timer = threading.Timer(seconds or threading.TIMEOUT_MAX, done.kill)
            timer.start()
            try:
                for line in done.stdout or ():
                    if line.startswith(SIGN):
                        heard and heard(*json.loads(line.removeprefix(SIGN)))
                    else:
                        last = line.strip() or last
            except BaseException:
                done.kill()
                raise
            finally:
                timer.cancel()
        errors.seek(0)
        said = errors.read()
    if time.monotonic() >= ends:
        raise UsageError(f"{lost}: the subprocess did not end within {format_duration(seconds)}")
    try:
        told = json.loads(last)
    except ValueError:
        why = said.strip().rpartition("\n")[2] or f"it ended with exit code {done.returncode}"
        if done.returncode < 0:
            late = done.returncode == -getattr(signal, "SIGXCPU", 0)
            why = "it took too long" if late else f"it was killed by signal {-done.returncode}, as when memory runs out"
        raise UsageError(f"{lost}: the subprocess failed: {why}") from None
    if "finding" in told:
        raise CheckFailedError(told["finding"])
    return dict(told["facts"])


def report_progress(what: str, done: int, total: int) -> None:
    """Give a sign of life, in the process that is asked."""
    print(SIGN + json.dumps([what, done, total]), flush=True)


def serve_call(look: Callable[..., Mapping[str, Any]]) -> None:
    """Be the process: call a function with the question's fields, and print as the last line what came of it."""
    try:
        print(json.dumps({"facts": look(**json.load(sys.stdin))}))
    except (CheckFailedError, UsageError) as error:
        print(json.dumps({"finding": str(error)}))
