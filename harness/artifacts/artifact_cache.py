"""Integrity of cached artifacts, and removal of old ones.

One run makes an artifact while the others wait for it. An artifact that differs from its note is set aside and made
again. Also lists the entries of the cache by kind, size and last use, so that room can be made without touching those
in use.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.artifacts.digests import digest_value, file_digests, hash_file
from harness.errors import UsageError
from harness.files import NO_LINK, is_sole_user, write_text
from harness.portable.locks import lock_file, try_lock, unlock_file

NOTES = "made"  # the folder beside made folders with a note for each: names, sizes and sha256 of its files
KINDS = {  # folders of the cache, and what one entry of each is
    "trained": "adapters, merged models and copies",
    "models": "models, downloaded or converted",
    "wheels": "packages with models",
    "checks": "findings of checks",
    "preflight": "plans that passed",
    "probed": "candidates that were inspected",
    "measured": "time and memory of training and evaluation",
    "lm_eval": "names of tasks",
}
ANSWERS = "responses.sqlite"
Warn = Callable[[str], None]


@contextmanager
def lock_work_folder(work: Path, tell: Warn) -> Iterator[None]:
    """Lock a work folder against other runs.

    Waits for a run that holds the lock; `tell` then gets one line. The lock ends with the process.
    """
    work.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(f"{work}.lock", os.O_RDWR | os.O_CREAT | NO_LINK, 0o600)
    try:
        if try_lock(handle) is False:
            tell(f'another run is creating this in "{work}"; waiting for it')
            lock_file(handle)
        yield
        unlock_file(handle)  # closing does not where a child has the file open
    finally:
        os.close(handle)


def is_intact(folder: Path, warn: Warn) -> bool:
    """Return whether a made folder exists and matches its note. Set it aside if it differs."""
    if not os.path.lexists(folder):
        return False
    if why := _find_integrity_error(folder):
        set_aside(folder, why, warn)
        _make_note_path(folder).unlink(missing_ok=True)
    return not why


def is_sealed(folder: Path) -> bool:
    """Return whether there is a note on a folder."""
    return _make_note_path(folder).is_file()


def seal_folder(folder: Path, final: Path | None = None) -> None:
    """Record sizes and digests of a folder's files.

    This is the last step of making it. `final` is its later place, if it is to be renamed.
    """
    write_sealed_json(_make_note_path(final or folder), file_digests(folder))


def write_sealed_json(path: Path, value: Any) -> None:
    """Write a JSON value so that damage to it shows."""
    write_text(path, json.dumps({"value": value, "sha256": digest_value(value)}, indent=1))


def read_sealed_json(path: Path, warn: Warn) -> Any:
    """Read a sealed JSON value. None if it is missing, or if it is damaged and so set aside."""
    why = "its digest does not match"
    try:
        found = json.loads(path.read_text("utf-8"))
        if digest_value(found["value"]) == found["sha256"]:
            return found["value"]
    except FileNotFoundError:
        return None
    except OSError as error:
        why = f"it cannot be read: {error.strerror}"
    except (ValueError, TypeError, LookupError, RecursionError):
        pass
    set_aside(path, why, warn)
    return None


def set_aside(path: Path, why: str, warn: Warn) -> None:
    """Rename a damaged cache entry, and warn. Raises UsageError if it cannot be renamed."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    try:
        path.rename(aside)
    except OSError as error:
        reason = f"{why}, and it cannot be renamed: {error.strerror}; remove it"
        raise UsageError(f'cache "{path}": {reason}') from None
    warn(f'cache "{path}": {why}; it was renamed to "{aside.name}", and is created again')


def _make_note_path(folder: Path) -> Path:
    return folder.parent / NOTES / f"{folder.name}.json"


def _find_integrity_error(folder: Path) -> str:
    """Describe how a folder differs from its note.

    Empty if it does not. Names and sizes are compared before digests, since they are cheap.
    """
    if not isinstance(note := read_sealed_json(_make_note_path(folder), lambda _: None), dict):
        return "the list of its files is missing"
    if folder.is_symlink() or not folder.is_dir():
        return "it is not a folder"
    try:
        there = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
        if other := sorted(note.keys() ^ there.keys()):
            return f'file "{other[0]}" {"is missing" if other[0] in note else "was added"}'
        for name, path in there.items():
            if path.lstat().st_size != note[name]["size"]:
                return f'the size of "{name}" has changed'
        for name, path in there.items():
            if hash_file(path).sha256 != note[name]["sha256"]:
                return f'the content of "{name}" has changed'
    except OSError as error:
        return f'"{error.filename or folder}" cannot be read: {error.strerror or error}'
    except ValueError:
        return "its weights cannot be read as such"
    except (LookupError, TypeError):
        return "the list of its files is damaged"
    return ""


@dataclass(frozen=True)
class Entry:
    """One thing that can be made again: its files, bytes, and when one of them was last read or written."""

    kind: str
    paths: Sequence[Path]
    bytes: int
    used: float

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.paths[0].name}" if self.kind in KINDS else self.paths[0].name


def list_entries(cache: Path) -> list[Entry]:
    """List the removable entries of a cache, longest unused first.

    The ledger of attempts is never among them.
    """
    answers = [p for p in (cache / f"{ANSWERS}{tail}" for tail in ("", "-wal", "-shm")) if p.exists()]
    found = [_make_entry("answers", answers)]
    found += [_make_entry("damaged", [p]) for p in cache.glob(f"{Path(ANSWERS).stem}.damaged-*")]
    for kind in KINDS:
        folder = cache / kind
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name != NOTES and path.suffix != ".lock":
                note = folder / NOTES / f"{path.name}.json"
                found.append(_make_entry(kind, [p for p in (path, note, folder / f"{path.name}.lock") if p.exists()]))
    return sorted((e for e in found if e), key=lambda e: e.used)


def select_removable(found: Sequence[Entry], days: float | None, most: int | None) -> list[Entry]:
    """Select the entries that an age or size limit removes.

    These are the entries unused for more than `days`, then the longest unused ones until at most `most` bytes are left.
    `found` has the longest unused ones first.
    """
    gone = [e for e in found if days is not None and time.time() - e.used > days * 86400]
    left = [e for e in found if e not in gone]
    while most is not None and left and sum(e.bytes for e in left) > most:
        gone.append(left.pop(0))
    return gone


def remove_entries(cache: Path, gone: Sequence[Entry]) -> None:
    """Remove entries. Raises UsageError where another process uses the cache, and where something cannot be removed."""
    if not is_sole_user(cache):
        raise UsageError(
            f'cache "{cache}": is in use by another harness process; wait for that to end, '
            "since it still reads these files"
        )
    for entry in gone:
        for path in entry.paths:
            try:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            except OSError as error:
                raise UsageError(f'cache "{path}": cannot be removed: {error.strerror}') from None


def _make_entry(kind: str, paths: Sequence[Path]) -> Entry | None:
    size, used = 0, 0.0
    for path in paths:
        inside = path.is_dir() and not path.is_symlink()
        for file in (p for p in path.rglob("*") if p.is_symlink() or not p.is_dir()) if inside else (path,):
            with suppress(OSError):
                about = file.lstat()
                size, used = size + about.st_size, max(used, about.st_atime, about.st_mtime)
    return Entry(kind, paths, size, used) if paths else None
