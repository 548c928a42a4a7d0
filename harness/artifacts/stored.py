"""What lies in the cache: how much of which kind, used when, and how to make room without touching what is in use."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.artifacts.kept import NOTES
from harness.errors import UsageError
from harness.files import alone

KINDS = {  # folders of the cache, and what one entry of each is
    "trained": "adapters, merged models and copies",
    "models": "models, fetched or converted",
    "wheels": "packages with models",
    "checks": "findings of checks",
    "preflight": "plans that passed",
    "probed": "candidates that were looked at",
    "measured": "what training and evaluating take",
    "lm_eval": "names of tasks",
}
ANSWERS = "responses.sqlite"


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


def entries(cache: Path) -> list[Entry]:
    """Return what is in a cache and could be removed, the longest unused first; never the ledger of attempts."""
    stem = Path(ANSWERS).stem
    found = [
        _entry("answers", [p for p in (cache / f"{ANSWERS}{tail}" for tail in ("", "-wal", "-shm")) if p.exists()])
    ]
    found += [_entry("damaged", [p]) for p in cache.glob(f"{stem}.damaged-*")]
    for kind in KINDS:
        folder = cache / kind
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name != NOTES and path.suffix != ".lock":
                note = folder / NOTES / f"{path.name}.json"
                found.append(_entry(kind, [p for p in (path, note, folder / f"{path.name}.lock") if p.exists()]))
    return sorted((e for e in found if e), key=lambda e: e.used)


def to_remove(found: Sequence[Entry], days: float | None, most: int | None, now: float | None = None) -> list[Entry]:
    """Return the entries unused for so many days, and then the longest unused ones until the rest has `most` bytes."""
    now = time.time() if now is None else now
    gone = [e for e in found if days is not None and now - e.used > days * 86400]
    left = [e for e in found if e not in gone]
    while most is not None and left and sum(e.bytes for e in left) > most:
        gone.append(left.pop(0))
    return gone


def remove(cache: Path, gone: Sequence[Entry]) -> None:
    """Remove entries. Raises UsageError where another process uses the cache, and where something cannot be removed."""
    if not alone(cache):
        raise UsageError(f'cache "{cache}": another harness uses it; wait for it to end, for what it reads must stay')
    for entry in gone:
        for path in entry.paths:
            try:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            except OSError as error:
                raise UsageError(f'cache "{path}": cannot be removed: {error.strerror}') from None


def _entry(kind: str, paths: Sequence[Path]) -> Entry | None:
    size, used = 0, 0.0
    for path in paths:
        for file in _files(path):
            with suppress(OSError):
                about = file.lstat()
                size, used = size + about.st_size, max(used, about.st_atime, about.st_mtime)
    return Entry(kind, paths, size, used) if paths else None


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir() and not path.is_symlink():
        yield from (p for p in path.rglob("*") if p.is_symlink() or not p.is_dir())
    else:
        yield path
