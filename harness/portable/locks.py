"""Locks of open files, which end with their process: flock on Linux and macOS, a byte of the file on Windows."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


def _import_module_or_none(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


_fcntl, _msvcrt = _import_module_or_none("fcntl"), _import_module_or_none("msvcrt")
LOCKED_BYTE = 0x7FFFFFF0  # behind every byte that is written: Windows lets nobody else read a locked one
RETRY_SECONDS = 0.05


def lock_file(handle: int, *, shared: bool = False) -> None:
    """Lock an open file, waiting for its holder.

    A `shared` lock only waits for an exclusive one. Raises OSError. Windows has no shared locks here: none is taken
    there.
    """
    if _fcntl:
        _fcntl.flock(handle, _fcntl.LOCK_SH if shared else _fcntl.LOCK_EX)
    while not _fcntl and not shared and try_lock(handle) is False:
        time.sleep(RETRY_SECONDS)


def try_lock(handle: int, *, shared: bool = False) -> bool | None:
    """Lock an open file or folder without waiting.

    False if somebody holds it, with `shared` only if exclusively. None if the file system does not support such locks.
    """
    if not _fcntl:
        return _try_lock_byte(handle, shared=shared) if _msvcrt else None
    try:
        _fcntl.flock(handle, (_fcntl.LOCK_SH if shared else _fcntl.LOCK_EX) | _fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def unlock_file(handle: int) -> None:
    """Unlock a file that a child process may keep open."""
    with suppress(OSError):  # a file system without locks
        if _fcntl:
            _fcntl.flock(handle, _fcntl.LOCK_UN)
        elif _msvcrt:
            with _seek_locked_byte(handle):
                _msvcrt.locking(handle, _msvcrt.LK_UNLCK, 1)


def _try_lock_byte(handle: int, *, shared: bool) -> bool | None:
    try:
        with _seek_locked_byte(handle):
            _msvcrt.locking(handle, _msvcrt.LK_NBLCK, 1)
            if shared:  # nobody has it alone, and others may look, too
                _msvcrt.locking(handle, _msvcrt.LK_UNLCK, 1)
    except PermissionError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def _seek_locked_byte(handle: int) -> Iterator[None]:
    """Move to the byte that is locked, and back."""
    place = os.lseek(handle, 0, os.SEEK_CUR)
    os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
    try:
        yield
    finally:
        os.lseek(handle, place, os.SEEK_SET)
