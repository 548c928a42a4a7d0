"""The cache folder, and atomic, locked and durable file writes."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any

from harness.errors import NO_ROOM, UsageError, disk_full_error
from harness.portable.locks import lock_file
from harness.portable.locks import try_lock as try_lock
from harness.portable.opening import NO_LINK as NO_LINK
from harness.portable.opening import close_folder as close_folder
from harness.portable.opening import open_file as open_file
from harness.portable.opening import open_folder as open_folder
from harness.portable.opening import open_for_writing as open_for_writing

HARNESSFILE = "harnessfile.py"  # beside a suite: plugins of its own
CHUNK_BYTES = 1 << 22  # bytes copied at a time
USE_LOCK = "used.lock"  # in the cache folder; held by every process that uses it
_used: dict[Path, int] = {}
OLD_SUFFIX = ".old"
CACHE_LEVELS = 8  # whose owners and modes are checked; a merged model in "trained" is three levels deep


def cache_dir() -> Path:
    """Return the user's cache folder, created if needed.

    It is `HARNESS_CACHE`, else `XDG_CACHE_HOME`/harness. Anyone with write access there decides verdicts, so that it
    raises UsageError if others than root have it, as ssh does with keys, or if the folder cannot be used.
    """
    fallback = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "harness"
    folder = Path(os.environ.get("HARNESS_CACHE") or fallback)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        why = "" if os.access(folder, os.R_OK | os.W_OK | os.X_OK) else "is not writable by this user; set"
        why = why or _find_shared_access_error(folder)
    except FileExistsError:
        why = f"is {'a broken link' if folder.is_symlink() else 'not a folder'}; remove it, or set"
    except (OSError, ValueError) as error:
        why = f"cannot be created: {getattr(error, 'strerror', None) or error}; set"
    if why:
        raise UsageError(f'cache "{folder}": {why} HARNESS_CACHE to another folder')
    _lock_cache_until_exit(folder)
    return folder


def is_sole_user(folder: Path) -> bool:
    """Return whether no other process uses a cache.

    If so, none can until this process ends. On a file system without locks this is assumed.
    """
    _lock_cache_until_exit(folder)
    return folder in _used and try_lock(_used[folder]) is not False  # a file system without locks cannot tell


def _lock_cache_until_exit(folder: Path) -> None:
    """Hold a shared lock on a cache until this process ends.

    The lock keeps others from removing entries that this process reads. Waits for a process that is removing some.
    """
    if folder in _used:
        return
    for handle in _used.values():  # a process has one cache, and a test one after the other
        os.close(handle)
    _used.clear()
    with suppress(OSError):
        _used[folder] = os.open(folder / USE_LOCK, os.O_RDWR | os.O_CREAT | NO_LINK, 0o600)
        lock_file(_used[folder], shared=True)


def _find_shared_access_error(folder: Path) -> str:
    """Return why others could write answers into a folder.

    Its owner, mode and content are checked. Empty if they are safe, and on Windows.
    """
    if not hasattr(os, "geteuid"):  # Windows, where the profile of a user is theirs alone
        return ""
    about = folder.stat()
    enter = bool(about.st_mode & 0o077)  # where nobody else may, only the owner of what lies there could write to it
    for path, own in chain([(folder, about)], _iterate_folder_stats(folder, CACHE_LEVELS if enter else 1)):
        if wrong := _find_foreign_writer_error(own, modes=enter):
            where, way = (
                "" if path == folder else f'contains "{path.relative_to(folder)}", which ',
                f"chmod go-w {path}",
            )
            if own.st_uid != os.geteuid():
                way = "remove it" if stat.S_ISREG(own.st_mode) else f"chown -R {os.geteuid()} {path}"
            return f"{where}{wrong}; {way}, or set"
    return ""


def _iterate_folder_stats(folder: Path, levels: int) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the entries below a folder with their stats, `levels` deep."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # a link to nothing, or gone
                yield Path(entry.path), entry.stat()
                if levels > 1 and entry.is_dir(follow_symlinks=False):
                    yield from _iterate_folder_stats(Path(entry.path), levels - 1)


def _find_foreign_writer_error(about: os.stat_result, *, modes: bool) -> str:
    """Return why another user could write, else an empty text.

    This user and root are trusted.
    """
    if about.st_uid not in (os.geteuid(), 0):
        return f"belongs to user {about.st_uid}, who could plant answers there"
    if modes and about.st_mode & stat.S_IWOTH:
        return "is writable by everybody"
    if modes and about.st_mode & stat.S_IWGRP and not _is_private(about.st_gid):
        return f"is writable by group {about.st_gid}"
    return ""


def _is_private(group: int) -> bool:
    """Return whether a group is this user's own.

    Many systems create such a group, with the user's name and no other member.
    """
    import grp
    import pwd

    try:
        name, members = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    return members.gr_name == name and set(members.gr_mem) <= {name}


def write_text(path: Path, text: str | Iterable[str], *, below: Path | None = None) -> None:
    """Write a file atomically, through a temporary file, fsync and rename.

    A large text may be given in pieces. The mode follows the umask. A lone surrogate, which UTF-8 cannot encode, is
    written as JSON escapes it. A link in the file's place is replaced, and folders below `below` must not be links;
    raises OSError at one.
    """
    if below is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    at = open_folder(below or path.parent, path.relative_to(below or path.parent).parent.parts, make=True)
    place = path if at is None else Path(path.name)
    work = place.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            handle = os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=at)
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as f:
                f.writelines([text] if isinstance(text, str) else text)
                f.flush()
                os.fsync(f.fileno())
            os.replace(work, place, src_dir_fd=at, dst_dir_fd=at)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(work, dir_fd=at)
            if isinstance(error, OSError):  # that of a write names no file, and the work file's name says nothing
                error.filename = str(path)
            raise
        if at is not None:
            _sync_handle(at)
    finally:
        close_folder(at)


@contextmanager
def reporting_write_errors(path: Path | str, then: str = "") -> Iterator[None]:
    """Turn an OSError of a block into a UsageError: that something cannot be written, why, and what to do `then`."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}{then}") from None


def append_line(path: Path, value: Mapping[str, Any], *, below: Path | None = None) -> None:
    """Append one JSON line to a file, whole and synced to disk.

    A line that a kill cut off at the file's end, and that was never acknowledged, is removed first. Raises OSError,
    also if the path is a link, and leaves the file as it was.
    """
    line = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    if below is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    handle = open_for_writing(path, os.O_RDWR | os.O_APPEND, below=below)
    try:
        size = os.fstat(handle).st_size
        if size and _read_at(handle, 1, size - 1) != b"\n":
            written = _read_at(handle, size, 0)
            size = sum(len(one) + 1 for one in split_json_lines(written))
            line = line if size <= len(written) else b"\n" + line
            os.ftruncate(handle, min(size, len(written)))
        try:
            if os.write(handle, line) < len(line):  # a disk that is full takes a part, and calls it no error
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        except OSError as error:
            error.filename = str(path)
            os.ftruncate(handle, min(size, os.fstat(handle).st_size))
            raise
    finally:
        os.close(handle)


def _read_at(handle: int, size: int, start: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(handle, size, start)
    os.lseek(handle, start, os.SEEK_SET)
    return os.read(handle, size)


def split_json_lines(data: bytes) -> list[bytes]:
    """Return the lines of a JSON Lines file.

    A last line without a line end is dropped unless it is JSON: a kill cut it off.
    """
    *lines, last = data.split(b"\n")
    try:
        json.loads(last)
    except (ValueError, RecursionError):
        return lines
    return [*lines, last]


@contextmanager
def hold_exclusively(path: Path, *, below: Path | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file in a block.

    The file is created if needed. Waits for other holders. Raises OSError.
    """
    if below is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    handle = open_for_writing(path, os.O_RDWR, below=below)
    try:
        lock_file(handle)
        yield
    finally:
        os.close(handle)


def copy_range(source: IO[bytes], to: IO[bytes], start: int, size: int) -> None:
    """Append `size` bytes of a file, from `start`, to another.

    Both files must be unbuffered. The kernel copies if it can, and the file system may let the two share blocks until
    one is written to; else the copy is in chunks of CHUNK_BYTES. Raises OSError.
    """
    while size and hasattr(os, "copy_file_range"):
        try:
            done = os.copy_file_range(source.fileno(), to.fileno(), size, start)
        except OSError as error:
            if error.errno in (*NO_ROOM, errno.EIO):
                raise
            break  # not between these two file systems
        if not done:
            break
        start, size = start + done, size - done
    source.seek(start)
    while size:
        if not (block := source.read(min(CHUNK_BYTES, size))):
            raise OSError(errno.EIO, "a file became shorter while it was copied", source.name)
        size -= len(block)
        while block:
            block = block[to.write(block) :]


@contextmanager
def replace_folder(final: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `final` after the block.

    It is synced to disk first, and removed if the block raises. A previous folder stays until the new one is complete,
    even if the process is killed; leftovers of a killed process are removed by the next call. Raises OSError.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned_work_folders(final)
    work, handle = _make_locked_work_folder(final)
    old = work.with_name(work.name + OLD_SUFFIX)
    try:
        yield work
        for here, _, names in os.walk(work):
            for path in (Path(here, name) for name in names):
                if path.is_file() and not path.is_symlink():
                    _sync_path(path)
            _sync_path(Path(here))
        if final.exists() and not _exchange_folders(work, final):
            final.rename(old)
        if not final.exists():
            work.rename(final)
        _sync_path(final.parent)
    except BaseException as error:
        if old.exists() and not final.exists():
            old.rename(final)
        if disk_full_error(error):  # as told by a library that does not say where, or of a file that is gone by then
            number = getattr(error, "errno", None) or errno.ENOSPC
            raise OSError(number, os.strerror(number), str(final)) from error
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        os.close(handle)


def _make_locked_work_folder(final: Path) -> tuple[Path, int]:
    """Create a locked work folder beside `final`.

    Also returns the handle that holds the lock. A lock ends with its process, in any container and on any machine; a
    process id does not tell that.
    """
    while True:
        work = final.with_name(f".{final.name}.{secrets.token_hex(8)}")
        work.mkdir()
        try:
            handle = os.open(work, os.O_RDONLY)
        except FileNotFoundError:  # another's sweep came between
            continue
        if try_lock(handle) is not False and work.exists():
            return work, handle
        os.close(handle)


def _sync_path(path: Path) -> None:
    """Return when a file or a folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        _sync_handle(handle)
    finally:
        os.close(handle)


def _sync_handle(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot sync a folder
            raise


def _exchange_folders(one: Path, other: Path) -> bool:
    """Swap two folders in one step, and return whether it succeeded.

    The system and the file system must support it.
    """
    import ctypes

    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _remove_abandoned_work_folders(final: Path) -> None:
    """Remove work folders that no process holds any more.

    A folder that was moved aside is restored if its place is empty.
    """
    mine = re.compile(rf"\.{re.escape(final.name)}\.[0-9a-f]{{16}}({re.escape(OLD_SUFFIX)})?")
    left = {p.name.removesuffix(OLD_SUFFIX) for p in final.parent.iterdir() if mine.fullmatch(p.name)}
    for work in sorted(final.with_name(name) for name in left):
        try:
            handle = os.open(work, os.O_RDONLY)
        except FileNotFoundError:
            handle = -1  # it took its place, and what had been there is left
        except OSError:  # another user's
            continue
        if handle < 0 or try_lock(handle):
            old = work.with_name(work.name + OLD_SUFFIX)
            if old.exists() and not final.exists():
                old.rename(final)
            shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
        if handle >= 0:
            os.close(handle)


def read_text(path: Path, *, encoding: str = "utf-8", where: str = "", hint: str = "") -> str:
    """Read a user's text file.

    Raises UsageError if it is not UTF-8, or cannot be read, then with the hint.
    """
    try:
        return path.read_text(encoding)
    except OSError as error:
        raise UsageError(f"{where}{path}: cannot be read: {error.strerror}{hint}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from None


def read_facts(note: Path) -> dict[str, Any]:
    """Return the facts that a plugin noted beside its output.

    Empty if there are none or they are invalid, since a plugin owes none.
    """
    try:
        told = json.loads(note.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(told.get("facts", {})) if isinstance(told, dict) else {}
