"""`harness promote`: which export is the release, in an append-only record; and back to the one before.

    exports/support                      what the last run exported
    exports/support.releases/
      releases.jsonl                     a line a promotion: root digest, weights, suite, who, when
      <root, 16 digits>/                 the export as it was promoted, kept so that there is a way back

Where there is a record, the baseline `released` is what it says; without one it is the last export.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.claims import EVIDENCE, MANIFEST
from harness.errors import UsageError
from harness.paths import append_line, copy_range, folder_in_place
from harness.policy import Policy
from harness.verify import Verified, verify

SUFFIX, RECORD = ".releases", "releases.jsonl"


@dataclass(frozen=True)
class Promotion:
    """One line of the record; `back` when it goes back to what had been released before."""

    root: str
    weights: str
    suite: str
    candidate: str
    signed_by: list[str]
    by: str
    at: str  # UTC, ISO 8601
    back: bool = False


def promote(export: Path, policy: Policy | None = None) -> tuple[Verified, Path | None]:
    """Verify an export, keep a copy of it, and record it as the release; returns what `verify` found, and the copy.

    Nothing is recorded when it is refused, nor a second time when it is the release already. Raises UsageError when
    the export is not there or the copy cannot be written.
    """
    found = verify(export, policy)
    if not found.ok:
        return found, None
    to = _folder(export) / found.root[:16]
    if not to.is_dir():
        try:
            with folder_in_place(to) as work:
                shutil.copytree(export, work, dirs_exist_ok=True, copy_function=_copy)
        except OSError as error:
            raise UsageError(f"{to}: cannot be written: {error.strerror}; nothing was promoted") from None
    kept = verify(to, policy)
    released = _stack(export)
    if kept.ok and (not released or released[-1].root != found.root):
        _record(export, kept, to, back=False)
    return kept, to


def go_back(export: Path, policy: Policy | None = None) -> tuple[Verified, Path]:
    """Record the release before the last one as the release again, if it still is what it was.

    Raises UsageError when there is none.
    """
    released = _stack(export)
    if len(released) < 2:
        raise UsageError(f"{_folder(export) / RECORD}: names no release before the last one; there is no way back")
    to = _folder(export) / released[-2].root[:16]
    found = verify(to, policy)
    if found.ok:
        _record(export, found, to, back=True)
    return found, to


def history(export: Path) -> list[Promotion]:
    """Return the record of an export's promotions, the oldest first; raises UsageError when it cannot be read."""
    path = _folder(export) / RECORD
    try:
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        return [Promotion(**json.loads(line)) for line in lines]
    except (OSError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}; it is written by harness promote alone") from None


def current(export: Path) -> Path | None:
    """Return the folder of what is released in an export's name, or None when nothing was promoted."""
    released = _stack(export)
    return _folder(export) / released[-1].root[:16] if released else None


def first(export: Path) -> Path | None:
    """Return the folder of what was promoted first, or None."""
    released = history(export)
    return _folder(export) / released[0].root[:16] if released else None


def _stack(export: Path) -> list[Promotion]:
    """Return the releases that stand: each promotion adds one, each way back takes one away."""
    standing: list[Promotion] = []
    for line in history(export):
        if line.back:
            standing.pop()
        else:
            standing.append(line)
    return standing


def _record(export: Path, found: Verified, to: Path, back: bool) -> None:
    weights = json.loads((to / EVIDENCE / MANIFEST).read_text("utf-8"))["weights"]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    line = Promotion(found.root, weights, found.suite, found.candidate, found.signed_by, _user(), now, back)
    try:
        append_line(_folder(export) / RECORD, asdict(line))
    except OSError as error:
        raise UsageError(f"{_folder(export) / RECORD}: cannot be written: {error.strerror}") from None


def _folder(export: Path) -> Path:
    export = export.resolve()
    return export.with_name(export.name + SUFFIX)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())


def _copy(source: str, to: str) -> str:
    with Path(source).open("rb", buffering=0) as f, Path(to).open("wb", buffering=0) as g:
        copy_range(f, g, 0, os.fstat(f.fileno()).st_size)
    return to
