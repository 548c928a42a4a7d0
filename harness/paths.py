"""Where the harness keeps what it can make again, and how it writes without leaving halves."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 22  # bytes copied at a time
OLD = ".old"


def cache_dir() -> Path:
    """Return the user's cache folder (`HARNESS_CACHE`, else `XDG_CACHE_HOME`/harness), made if need be."""
    fallback = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "harness"
    folder = Path(os.environ.get("HARNESS_CACHE") or fallback)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is whole or not there: temporary file, fsync, rename.

    Half a surrogate pair, which UTF-8 cannot hold, is written as JSON escapes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as f:
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
    line = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
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
    """Yield a temporary folder beside `final`; put it in its place when the block ends well, else remove it.

    A folder that was there before stays until the new one is whole, also when the process is killed; what a killed
    one left behind is removed by the next.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    _sweep(final)
    work = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.{platform.node()}-{os.getpid()}."))
    old = work.with_name(work.name + OLD)
    try:
        yield work
        work.chmod(0o755)
        if final.exists() and not _exchange(work, final):
            final.rename(old)
        if not final.exists():
            work.rename(final)
    except BaseException:
        if old.exists() and not final.exists():
            old.rename(final)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; say whether this system and file system can."""
    import ctypes

    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _sweep(final: Path) -> None:
    """Remove what processes of this machine left beside a folder that are no more; bring back what they had moved."""
    mine = re.compile(rf"\.{re.escape(final.name)}\.{re.escape(platform.node())}-(\d+)\.\w+({re.escape(OLD)})?")
    for path in sorted(final.parent.iterdir()):
        found = mine.fullmatch(path.name)
        if found and not _alive(int(found[1])):
            if found[2] and not final.exists():
                path.rename(final)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def read_facts(note: Path) -> dict[str, Any]:
    """Return the facts that a plugin noted beside what it made; it owes us none."""
    try:
        told = json.loads(note.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(told.get("facts", {})) if isinstance(told, dict) else {}
