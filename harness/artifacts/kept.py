"""What was made and is kept: one run makes it, the others wait for it; what is not as it was made is set aside."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.artifacts.digests import digest_of, file_digests, hash_file
from harness.errors import UsageError
from harness.files import locked, write_text

NOTES = "made"  # the folder beside made folders with a note for each: names, sizes and sha256 of its files
Warn = Callable[[str], None]


@contextmanager
def held(work: Path, tell: Warn) -> Iterator[None]:
    """Lock a work folder against other runs, waiting for one that holds it; the process's end unlocks it.

    `tell` gets one line when there is somebody to wait for.
    """
    work.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(f"{work}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if locked(handle) is False:
            tell(f'another run makes this in "{work}"; waiting for it')
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing does not where a child has the file open
    finally:
        os.close(handle)


def fits(folder: Path, warn: Warn) -> bool:
    """Return whether a made folder is there and as it was made; set it aside if it is there and is not."""
    if not os.path.lexists(folder):
        return False
    if why := _folder_error(folder):
        set_aside(folder, why, warn)
        _note_of(folder).unlink(missing_ok=True)
    return not why


def is_sealed(folder: Path) -> bool:
    """Return whether there is a note on a folder."""
    return _note_of(folder).is_file()


def seal(folder: Path, final: Path | None = None) -> None:
    """Write down what a folder holds that is, or will be, in its place at `final`; the last step of making it."""
    keep(_note_of(final or folder), file_digests(folder))


def keep(path: Path, value: Any) -> None:
    """Write a JSON value so that damage to it shows."""
    write_text(path, json.dumps({"value": value, "sha256": digest_of(value)}, indent=1))


def read(path: Path, warn: Warn) -> Any:
    """Return a value that was kept, or None; what is damaged is set aside."""
    try:
        found = json.loads(path.read_text("utf-8"))
        if digest_of(found["value"]) == found["sha256"]:
            return found["value"]
        why = "it is not what was written"
    except FileNotFoundError:
        return None
    except OSError as error:
        why = f"it cannot be read: {error.strerror}"
    except (ValueError, TypeError, LookupError, RecursionError):
        why = "it is not what was written"
    set_aside(path, why, warn)
    return None


def set_aside(path: Path, why: str, warn: Warn) -> None:
    """Rename what is damaged, and warn. Raises UsageError when it cannot be renamed."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    try:
        path.rename(aside)
    except OSError as error:
        reason = f"{why}, and it cannot be set aside: {error.strerror}; remove it"
        raise UsageError(f'cache "{path}": {reason}') from None
    warn(f'cache "{path}": {why}; it is set aside as "{aside.name}", and made again')


def _note_of(folder: Path) -> Path:
    return folder.parent / NOTES / f"{folder.name}.json"


def _folder_error(folder: Path) -> str:
    """Return how a folder differs from what was made, or nothing: names and sizes first, for these cost nothing."""
    note = read(_note_of(folder), lambda _: None)
    if not isinstance(note, dict):
        return "there is no note of what it holds"
    if folder.is_symlink() or not folder.is_dir():
        return "it is no folder"
    try:
        there = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
        if other := sorted(note.keys() ^ there.keys()):
            return f'"{other[0]}" {"is lacking" if other[0] in note else "was not there"}'
        for name, path in there.items():
            if path.lstat().st_size != note[name]["size"]:
                return f'"{name}" has another size'
        for name, path in there.items():
            if hash_file(path).sha256 != note[name]["sha256"]:
                return f'"{name}" has other bytes'
    except OSError as error:
        return f'"{error.filename or folder}" cannot be read: {error.strerror or error}'
    except ValueError:
        return "its weights are none"
    except (LookupError, TypeError):
        return "the note of what it holds is damaged"
    return ""
