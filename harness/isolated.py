"""A question to a module in a process of its own: what lies on the disk, looked at by one that did not write it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from harness.errors import CheckFailed, UsageError

QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def ask(module: str, question: Mapping[str, Any], lost: str, *, seconds: float | None = None) -> dict[str, Any]:
    """Run a module that calls `answer`, with the question as JSON on its stdin, and return the facts.

    Raises the CheckFailed that it tells; and UsageError, which begins with `lost`, when it comes to no answer, in
    `seconds` where they are given.
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **QUIET}
    command = [sys.executable, "-P", "-m", module]
    asked = json.dumps(question)
    try:
        done = subprocess.run(command, input=asked, capture_output=True, text=True, env=env, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise UsageError(f"{lost} in {seconds:g} s by a process of its own") from None
    try:
        told = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError:
        why = done.stderr.strip().rpartition("\n")[2] or f"it ended with {done.returncode}"
        if done.returncode < 0:
            late = done.returncode == -signal.SIGXCPU
            why = "it took too long" if late else f"it was killed by signal {-done.returncode}, as when memory runs out"
        raise UsageError(f"{lost} in a process of its own: {why}") from None
    if "finding" in told:
        raise CheckFailed(told["finding"])
    return dict(told["facts"])


def answer(look: Callable[..., Mapping[str, Any]]) -> None:
    """Be the process: call a function with the question's fields, and print as the last line what came of it."""
    try:
        print(json.dumps({"facts": look(**json.load(sys.stdin))}))
    except (CheckFailed, UsageError) as error:
        print(json.dumps({"finding": str(error)}))
