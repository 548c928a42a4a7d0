"""Run `harness WORDS` on a Python without what only POSIX has: modules, functions, signals and open folders.

`msvcrt` is there, as on Windows, with a lock that flock makes.
"""

from __future__ import annotations

import asyncio  # noqa: F401 (these look for fcntl and the like when they are imported, and find other ways on Windows)
import concurrent.futures  # noqa: F401
import fcntl
import getpass  # noqa: F401
import multiprocessing  # noqa: F401
import os
import shutil
import signal
import ssl  # noqa: F401
import subprocess  # noqa: F401
import sys
import tempfile  # noqa: F401
from pathlib import Path
from types import ModuleType
from typing import Any

MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
FUNCTIONS = (
    "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "WNOHANG", "chown", "copy_file_range", "fchmod", "fork", "forkpty",
    "getegid", "geteuid", "getgid", "getloadavg", "getuid", "killpg", "mkfifo", "posix_fadvise", "pread", "pwrite",
    "register_at_fork", "sched_getaffinity", "setsid", "statvfs",
)  # fmt: skip
SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL", "SIG_IGN"}


def mask_posix() -> None:
    """Take away what Windows does not have."""
    real_open, flock, modes = os.open, fcntl.flock, {1: fcntl.LOCK_EX, 2: fcntl.LOCK_EX | fcntl.LOCK_NB}

    def open_file(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if dir_fd is not None:
            raise NotImplementedError("dir_fd unavailable on this platform")
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, flags, mode)

    def lock_bytes(handle: int, mode: int, size: int) -> None:
        try:
            flock(handle, modes.get(mode, fcntl.LOCK_UN))
        except BlockingIOError:
            raise PermissionError(13, "Permission denied") from None

    msvcrt: Any = ModuleType("msvcrt")
    msvcrt.LK_UNLCK, msvcrt.LK_LOCK, msvcrt.LK_NBLCK, msvcrt.locking = 0, 1, 2, lock_bytes
    sys.modules |= {"msvcrt": msvcrt}
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in [*FUNCTIONS]:
        if hasattr(os, name):
            delattr(os, name)
    for name in [n for n in dir(signal) if n.startswith("SIG") and n.isupper() and n not in SIGNALS]:
        delattr(signal, name)
    os.open, os.supports_dir_fd = open_file, set()  # type: ignore[assignment]
    shutil._use_fd_functions = False  # type: ignore[attr-defined]


if __name__ == "__main__":
    mask_posix()
    from harness.cli.main import main

    sys.exit(main())
