"""Where the harness keeps what it can make again, and how it writes without leaving halves."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 22  # bytes copied at a time


def cache_dir() -> Path:
    """Return the user's cache folder (`HARNESS_CACHE`, else `XDG_CACHE_HOME`/harness), made if need be."""
    fallback = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "harness"
    folder = Path(os.environ.get("HARNESS_CACHE") or fallback)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is whole or not there: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one JSON line to a file, in one write and on the disk when it returns. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":  # what a kill cut off must not swallow this line
            line = b"\n" + line
        os.write(handle, line)
        os.fsync(handle)
    finally:
        os.close(handle)


def copy_range(source: IO[bytes], to: IO[bytes], start: int, size: int) -> None:
    """Append `size` bytes of a file from `start` on to another, neither of them buffered, through no memory of ours.

    Where the file system can, the two share their blocks until one is written to. Raises OSError.
    """
    while size and (done := _in_kernel(source, to, start, size)):
        start, size = start + done, size - done
    source.seek(start)
    while size:
        block = source.read(min(CHUNK, size))
        if not block:
            raise OSError(errno.EIO, "a file became shorter while it was copied", source.name)
        size -= len(block)
        while block:
            block = block[to.write(block) :]


def _in_kernel(source: IO[bytes], to: IO[bytes], start: int, size: int) -> int:
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(source.fileno(), to.fileno(), size, start)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        return 0  # not between these two file systems


@contextmanager
def folder_in_place(final: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `final`; rename it there when the block ends well, else remove it.

    A folder that was there before stays until the new one is whole.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}."))
    old = work.with_name(work.name + ".old")
    try:
        yield work
        work.chmod(0o755)
        if final.exists():
            final.rename(old)
        work.rename(final)
    except BaseException:
        if old.exists() and not final.exists():
            old.rename(final)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
