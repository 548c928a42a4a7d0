"""Protection of commands from signals and from crashing native code.

Signals do the same as Ctrl-C. A command that third-party native code may end runs in a watched process, since the exit
code of such an end is no verdict. With limited memory that may be any library; Ray ends its driver when its head node
is gone.
"""

from __future__ import annotations

import atexit
import importlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from harness.errors import MEMORY_ADVICE, ExitCode
from harness.files import HARNESSFILE

# What C libraries print before they call exit(1) or abort(): told in our line instead.
LAST_WORDS = (b"OpenBLAS", b"libgomp", b"OMP:", b"terminate called", b"  what():", b"memory allocation of")
LAST_LINE = f"error: out of memory; {MEMORY_ADVICE}\n".encode()  # made before memory is short
CRASH_ADVICE = "this is not a verdict; run again, finished work is kept"
WATCHED_SIGNALS = {
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD") if hasattr(signal, name)
}
ENGINE = "vllm"  # a loader whose native code is in the process that loads
REPEAT_WINDOW_S = 1.0  # seconds in which a second is the same wish: sent to the group, and passed on by who watches
ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGTERM and SIGHUP in a block.

    A signal that is ignored (nohup) or handled already keeps its handler. A repetition within REPEAT_WINDOW_S seconds
    is dropped.
    """
    mine = threading.current_thread() is threading.main_thread()
    caught = [s for s in ENDING_SIGNALS if mine and signal.getsignal(s) is signal.SIG_DFL]
    last = -REPEAT_WINDOW_S

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before >= REPEAT_WINDOW_S:
            raise KeyboardInterrupt(signal.Signals(number).name)

    for number in caught:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def run_guarded(command: Callable[[Any], int], args: Any) -> int:
    """Run a command, in a child process if it may crash.

    It may crash if the address space is limited or third-party code runs in it. A process that ends without Python's
    own exit, as OpenBLAS ends it when it gets no memory, gives one line and exit code 4. Without fork (Windows) the
    command runs directly.
    """
    if not hasattr(os, "fork"):  # Windows, where nothing is trained
        return command(args)
    limited = _is_memory_limited()
    if not (limited or _runs_foreign_code(args)):
        return command(args)
    sys.stdout.flush()
    sys.stderr.flush()
    ended, told = os.pipe()
    heard, said = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED_SIGNALS)
    child = os.fork()
    if child == 0:
        if limited:
            os.dup2(said, 2)
            sys.unraisablehook = lambda _: None  # what fails at the end for want of memory is no news
        for handle in (ended, heard, said):
            os.close(handle)
        with suppress(Exception):  # not on this system, or not with so little memory
            import ctypes

            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        atexit.register(os.write, told, b".")
        try:
            code = int(command(args))
        except MemoryError:  # in the telling of another one
            os.write(2, LAST_LINE)
            code = ExitCode.USAGE
        os.write(told, bytes([code]))  # which stands, whatever happens to this process while it ends
        return code
    os.close(told)
    os.close(said)
    return _forward_signals_until_exit(child, ended, heard, limited=limited)


def _is_memory_limited() -> bool:
    resource = importlib.import_module("resource")  # which Windows does not have
    return bool(resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY)


def _runs_foreign_code(args: Any) -> bool:
    """Return whether a command runs code from outside the harness.

    That is a plugin's worker backend, the vLLM engine, plugins named with -p, or a harnessfile.
    """
    on, given = getattr(args, "on", ""), getattr(args, "suite", None) or []
    suites = [path for path in map(Path, given if isinstance(given, list) else [given]) if path.is_file()]
    said = [p.read_text("utf-8", "replace") for p in suites if os.access(p, os.R_OK)] + getattr(args, "overrides", [])
    # code that may end the process with 0, which is no verdict
    own = getattr(args, "plugins", []) or any((path.parent / HARNESSFILE).is_file() for path in suites)
    return bool(own) or on.partition(":")[0] not in ("", "local") or any(ENGINE in text for text in said)


def _forward_signals_until_exit(child: int, ended: int, heard: int, *, limited: bool) -> int:
    """Forward signals and stderr until the child exits.

    Returns the exit code.
    """
    relay = threading.Thread(target=_relay_stderr, args=(heard,), daemon=True)
    relay.start()
    status = 0
    while True:
        came = signal.sigwaitinfo(WATCHED_SIGNALS)
        if came.si_signo == signal.SIGCHLD:
            gone, status = os.waitpid(child, os.WNOHANG)
            if gone:
                break
        elif came.si_code <= 0:  # by a process, which knows this one alone; a terminal's come to both
            os.kill(child, came.si_signo)
    relay.join(1.0)
    first = os.read(ended, 1) if select.select([ended], [], [], 0)[0] else b""
    if first not in (b"", b"."):
        return first[0]
    code = os.waitstatus_to_exitcode(status)
    if first:
        return code
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with {code}"
    why, advice = ("out of memory: ", MEMORY_ADVICE) if limited else ("", CRASH_ADVICE)
    print(f"error: {why}a library ended the process {how}; {advice}", file=sys.stderr)
    return ExitCode.USAGE


def _relay_stderr(heard: int) -> None:
    with os.fdopen(heard, "rb") as lines:
        for line in lines:
            if not line.startswith(LAST_WORDS):
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()
