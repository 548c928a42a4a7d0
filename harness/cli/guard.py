"""Where memory is limited, a command runs in a process that is watched: some libraries end theirs without a word."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from harness.errors import MEMORY_ADVICE, ExitCode

# What C libraries print before they call exit(1) or abort(): told in our line instead.
LAST_WORDS = (b"OpenBLAS", b"libgomp", b"OMP:", b"terminate called", b"  what():", b"memory allocation of")
LAST_LINE = f"error: out of memory; {MEMORY_ADVICE}\n".encode()  # made before memory is short
FORWARDED = ("SIGTERM", "SIGHUP")


def guarded(command: Callable[[Any], int], args: Any) -> int:
    """Return what a command returns; where the address space is limited, from a process of its own.

    One that ends without Python's own end, as OpenBLAS ends it when it gets no memory, is one line and exit code 4.
    """
    if not _limited():
        return command(args)
    sys.stdout.flush()
    sys.stderr.flush()
    ended, told = os.pipe()
    heard, said = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(said, 2)
        for handle in (ended, heard, said):
            os.close(handle)
        atexit.register(os.write, told, b".")
        sys.unraisablehook = lambda _: None  # what fails at the end for want of memory is no news
        try:
            return command(args)
        except MemoryError:  # in the telling of another one
            os.write(2, LAST_LINE)
            return ExitCode.USAGE
    os.close(told)
    os.close(said)
    return _watch(child, ended, heard)


def _limited() -> bool:
    try:
        import resource
    except ModuleNotFoundError:  # not on this system
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _watch(child: int, ended: int, heard: int) -> int:
    """Pass on signals and what is said, and return the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child gets it too
    for name in FORWARDED:
        signal.signal(getattr(signal, name), lambda number, _: os.kill(child, number))
    relay = threading.Thread(target=_relay, args=(heard,), daemon=True)
    relay.start()
    _, status = os.waitpid(child, 0)
    relay.join(1.0)
    if os.read(ended, 1):
        return os.waitstatus_to_exitcode(status)
    code = os.waitstatus_to_exitcode(status)
    how = f"by signal {-code}" if code < 0 else f"with {code}"
    print(f"error: out of memory: a library ended the process {how}; {MEMORY_ADVICE}", file=sys.stderr)
    return ExitCode.USAGE


def _relay(heard: int) -> None:
    with os.fdopen(heard, "rb") as lines:
        for line in lines:
            if not line.startswith(LAST_WORDS):
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()
