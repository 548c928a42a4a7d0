"""A fork that runs one command line again and again, watched by the guard, each time on another folder."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import resource
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.hostile import guard
from tests.hostile.world import CANARY

MAX_SECONDS, MAX_BYTES = 10.0, 1_500_000_000
PAGES = ("/", "/run/run", "/run/run/events", "/compare?runs=run&runs=run", "/label/run")


@dataclass(frozen=True)
class Call:
    """What a process runs, and what it may touch."""

    words: Sequence[str]
    folder: Path  # the working directory
    output: Path  # of what it prints
    environment: Mapping[str, str]
    modules: Path  # appended to the search path
    read: Sequence[Path]
    write: Sequence[Path]
    theirs: Path
    server: str


class Ended(NamedTuple):
    """How a call ended."""

    in_time: bool
    code: int
    violation: str
    peak_bytes: int  # of memory beyond what the process began with
    seconds: float
    opened: frozenset[str]  # files below the folder
    calls: int  # of the process, with this one


class Process:
    """A fork in which a command line is called, once for each folder that is put in its place."""

    def __init__(self, call: Call) -> None:
        self.calls = 0
        self.shared_bytes = read_memory()
        receiving, self.orders = os.pipe()
        reading, sending = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            try:
                os.close(self.orders)
                os.close(reading)
                _serve(call, receiving, sending)
            finally:
                os._exit(97)
        os.close(receiving)
        os.close(sending)
        self.replies = os.fdopen(reading, "rb")
        self.is_alive = True

    def call(self) -> Ended:
        """Run the command line on the folder as it is now."""
        self.calls += 1
        started = time.monotonic()
        os.write(self.orders, b"!")
        in_time = bool(select.select([self.replies], [], [], MAX_SECONDS)[0])
        reply = self.replies.readline() if in_time else b""
        seconds = time.monotonic() - started
        if reply.startswith(b"{"):
            report = json.loads(reply)
            peak = report["peak"] - self.shared_bytes
            return Ended(True, report["code"], "", peak, seconds, frozenset(report["opened"]), self.calls)
        status, peak = self._reap()
        code = os.waitstatus_to_exitcode(status)
        return Ended(
            in_time, code, reply.decode("utf-8", "replace"), peak - self.shared_bytes, seconds, frozenset(), self.calls
        )

    def close(self) -> None:
        """End the process."""
        if self.is_alive:
            self._reap()

    def _reap(self) -> tuple[int, int]:
        """End the process if it has not ended, and return its status and its peak of memory."""
        os.close(self.orders)
        handle = os.pidfd_open(self.child)
        if not select.select([handle], [], [], 1)[0]:
            os.kill(self.child, signal.SIGKILL)
        os.close(handle)
        _, status, usage = os.wait4(self.child, 0)
        self.replies.close()
        self.is_alive = False
        return status, usage.ru_maxrss * 1024


def _serve(call: Call, orders: int, replies: int) -> None:
    """Call the command line each time a byte comes, until no more can come."""
    from harness.cli.main import main

    sys.dont_write_bytecode = True  # the first import of a module writes beside it, which is no finding
    descriptor = os.open(call.output, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    streams = (
        os.fdopen(0, closefd=False),
        os.fdopen(1, "w", 1, "utf-8", closefd=False),
        os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False),
    )
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "OMP_NUM_THREADS") if name in os.environ}
    sys.path = [*(path for path in sys.path if path), str(call.modules)]
    modules = sys.path
    limit = _read_address_space() + 2 * MAX_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    watch = guard.Guard(call.read, call.write, call.theirs, call.server, replies)
    watch.install()
    while True:
        watch.asleep = True
        if not os.read(orders, 1):
            os._exit(0)
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        sys.stdin, sys.stdout, sys.stderr = streams
        sys.path = [*modules]
        tempfile.tempdir = None
        os.environ.clear()
        os.environ.update({**kept, **call.environment})
        os.chdir(call.folder)
        watch.opened.clear()
        watch.asleep = False
        if call.server == "listens":
            threading.Thread(target=_ask_pages, args=(call.output,), daemon=True).start()
        try:
            code = int(main(call.words))
        except SystemExit as stop:
            code = int(stop.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        watch.asleep = True
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        with os.fdopen(replies, "wb", closefd=False) as file:
            file.write(json.dumps({"code": code, "peak": peak, "opened": sorted(watch.opened)}).encode() + b"\n")


def read_memory() -> int:
    """Return the bytes in memory of this process, which a fork of it shares."""
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * resource.getpagesize()


def _read_address_space() -> int:
    return int(Path("/proc/self/statm").read_text("utf-8").split()[0]) * resource.getpagesize()


def _ask_pages(output: Path) -> None:
    """Ask `harness view` for its pages, then end it."""
    found = None
    while not found:
        time.sleep(0.02)
        with contextlib.suppress(OSError):
            found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", os.pread(1, 1000, 0).decode())
    port, token = int(found[1]), found[2]
    for page in PAGES:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
            connection.request("GET", page, headers={"Cookie": f"harness-view-{port}={token}"})
            reply = connection.getresponse()
            data = b"" if page.endswith("/events") else reply.read()
            if reply.status == 500:
                os.write(2, b"Traceback (most recent call last): status 500 of " + page.encode() + b"\n")
            os.write(2, b"" if CANARY.encode() not in data else CANARY.encode())
            connection.close()
    os.kill(os.getpid(), signal.SIGINT)
