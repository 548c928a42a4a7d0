"""Workers that `--on` names: child processes, or a plugin's workers.

Child processes communicate over pipes; each has its own GPUs, or one thread.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import IO, Any

from harness.errors import UsageError, did_you_mean
from harness.plugins import Plugins
from harness.texts.escaping import shorten_text
from harness.workers.gpus import assign_gpus, worker_environment
from harness.workers.protocol import (
    Worker,
    WorkerLostError,
    Workers,
    describe_workers,
    is_heartbeat,
    read_message,
    write_message,
)

LOCAL, KIND, PYTHON = "local", "workers", "python"
GRACE_S = 5.0  # seconds that a process has to end by itself


class LocalWorkers:
    """`--on local:N`: N child processes of this interpreter, or of another; `local:NxG` gives each G GPUs."""

    def __init__(self, place: str, python: str | None = None) -> None:
        self.said, self.elsewhere, self.python = f"local:{place}", python is not None, python or sys.executable
        if not (found := re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", place)):
            what = 'give a number of workers, such as "local:2", or "local:2x4" with four GPUs each'
            raise UsageError(f"{describe_workers(self.said)}: {what}")
        self.count, self.started, self._workers = int(found[1]), 0, dict[int, ChildWorker]()  # by place
        self.gpus = (
            [] if place == "1" else assign_gpus(describe_workers(self.said), self.count, python, int(found[2] or 0))
        )

    def start(self) -> list[Worker]:
        """Start the processes."""
        return [self.restart() for _ in range(self.count)]

    def restart(self) -> Worker:
        """Start a worker on the GPU of one that ended.

        A single worker has all GPUs, as this process would.
        """
        self.started += 1
        free = [i for i in range(self.count) if i not in self._workers or self._workers[i].has_ended]
        place = free[0] if free else self.started % self.count
        environment = worker_environment(self.gpus[place] if self.gpus else None, ours=not self.elsewhere)
        worker = self._workers[place] = ChildWorker(self.python, f"worker {self.started}", environment)
        return worker


class ChildWorker:
    """A process that answers messages."""

    beats = True

    def __init__(self, python: str, name: str, environment: dict[str, str]) -> None:
        self.name, self.python, self._ended, self._killed = name, python, "", False
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the process
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)  # a pipe that nobody reads holds nobody up
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        own: Any = {"start_new_session": True}  # Ctrl-C is the driver's, and what it starts ends with it
        try:
            command = [python, "-m", __package__]
            self._process: subprocess.Popen[bytes] = subprocess.Popen(command, env=environment, **pipes, **own)
        except OSError as error:
            self._errors.close()
            raise UsageError(f'python "{python}": {error.strerror}; name the interpreter of an environment') from None

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def send(self, message: str, hear: Callable[[str], None] = lambda _: None) -> Future[str]:
        """Send a message. Its future holds the reply, or raises WorkerLostError."""
        return self._thread.submit(self._send_and_await_reply, message, hear)

    def _send_and_await_reply(self, message: str, hear: Callable[[str], None]) -> str:
        assert self._process.stdin and self._process.stdout
        try:
            write_message(self._process.stdin, message)
            while (reply := read_message(self._process.stdout)) is not None:
                if not is_heartbeat(reply):
                    return reply
                hear(reply)
        except ValueError as error:
            self._kill(f"{error}, so it was stopped")
        except OSError:
            pass  # how it ended says why
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        code, words = self._process.returncode, ""  # and the last that it said
        left = f"exited with code {code}" if code else "it closed its output"
        if code and code < 0:
            known = {s.value: s.name for s in signal.Signals}
            left = f"was killed by {known.get(-code, f'signal {-code}')}"
        with suppress(OSError, ValueError):
            self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 10_000))
            lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
            words = f": {shorten_text(lines[-1])}" if lines else ""
        raise WorkerLostError(f"{self._ended or left}{words}")

    def close(self, why: str = "it was stopped") -> None:
        """End the process and all that it started."""
        self._kill(why)
        self._thread.shutdown(wait=True)
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]

    def _kill(self, why: str) -> None:
        if not self._killed:  # once: what is gone may have left its number
            self._killed, self._ended = True, why if self._process.poll() is None else ""
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def parse_workers(on: str, plugins: Plugins, options: Mapping[str, Any]) -> Workers | None:
    """Parse `--on NAME:PLACE` into workers, without starting them.

    None stands for this process. A model with a `python` among its options needs a process of that interpreter in any
    case. Raises UsageError for an unknown backend or place, and if there are too few GPUs or cores.
    """
    python = options.get(PYTHON)
    name, _, place = on.partition(":")
    if not on:
        return LocalWorkers("1", python) if python else None
    if name == LOCAL:
        return LocalWorkers(place, python)
    known = [LOCAL, *(n for kind, n in plugins.provided if kind == KIND)]
    if name not in known:
        raise UsageError(f"{describe_workers(on)}: is not a worker backend{did_you_mean(name, known)}")
    made: Workers = plugins.find(KIND, name).function(place, python=python)
    return made
