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
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.artifacts.attestation import EVIDENCE, MANIFEST
from harness.errors import UsageError
from harness.files import append_line, copy_range, exclusive, folder_in_place, lines_of
from harness.release.policy import Policy
from harness.release.verify import Verified, verify

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
    found = verify(export, policy, last=current(export))
    if not found.ok:
        return found, None
    to = _folder(export) / found.root[:16]
    with _alone(export):
        if not to.is_dir():
            try:
                with folder_in_place(to) as work:
                    shutil.copytree(export, work, dirs_exist_ok=True, copy_function=_copy)
            except OSError as error:
                raise UsageError(f"{to}: cannot be written: {error.strerror}; nothing was promoted") from None
        kept = verify(to, policy, last=current(export))
        if kept.ok and kept.root != found.root:
            raise UsageError(f"{to}: is not what was verified, root {found.root[:16]}; remove it and promote again")
        released = _stack(export)
        if kept.ok and (not released or released[-1].root != found.root):
            _record(export, kept, to, back=False)
    return kept, to


def go_back(export: Path, policy: Policy | None = None) -> tuple[Verified, Path]:
    """Record the release before the last one as the release again, if it still is what it was.

    Raises UsageError when there is none.
    """
    _before(export)
    with _alone(export):
        to = _folder(export) / _before(export).root[:16]
        found = verify(to, policy)
        if found.ok:
            _record(export, found, to, back=True)
    return found, to


def history(export: Path) -> list[Promotion]:
    """Return the record of an export's promotions, the oldest first; raises UsageError when it cannot be read."""
    path, where = _folder(export) / RECORD, f"{_folder(export) / RECORD}"
    found = []
    try:
        for number, line in enumerate(lines_of(path.read_bytes()) if path.exists() else [], 1):
            where = f"{path}:{number}"
            found += [_promotion(json.loads(line))] if line.strip() else []
    except (OSError, TypeError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise UsageError(f"{where}: cannot be read: {why}; it is written by harness promote alone") from None
    _standing(found, path)
    return found


def current(export: Path) -> Path | None:
    """Return the folder of what is released in an export's name, or None when nothing was promoted."""
    released = _stack(export)
    return _folder(export) / released[-1].root[:16] if released else None


def first(export: Path) -> Path | None:
    """Return the folder of what was promoted first, or None."""
    released = history(export)
    return _folder(export) / released[0].root[:16] if released else None


def _stack(export: Path) -> list[Promotion]:
    """Return the releases that stand."""
    return _standing(history(export), _folder(export) / RECORD)


def _standing(lines: Sequence[Promotion], record: Path) -> list[Promotion]:
    """Return the releases that stand: each promotion adds one, each way back ends at one that stood before."""
    standing: list[Promotion] = []
    for line in lines:
        if not line.back:
            standing.append(line)
            continue
        for _ in standing[1:]:
            standing.pop()
            if standing[-1].root == line.root:
                break
        else:
            what = f"goes back to {line.root[:16]} at {line.at}, which was not the release before"
            raise UsageError(f"{record}: {what}; it is written by harness promote alone")
    return standing


def _before(export: Path) -> Promotion:
    """Return the last release with other bytes than the present one; raises UsageError when there is none."""
    released = _stack(export)
    others = [line for line in released if line.root != released[-1].root]
    if not others:
        raise UsageError(f"{_folder(export) / RECORD}: names no release before the last one; there is no way back")
    return others[-1]


@contextmanager
def _alone(export: Path) -> Iterator[None]:
    """Lock an export against other promotions; raises UsageError where its record cannot be written."""
    record = _folder(export) / RECORD
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(record))
        except OSError as error:
            raise UsageError(f"{record}: cannot be written: {error.strerror}") from None
        yield


def _promotion(line: Any) -> Promotion:
    """Return a line of the record; raises TypeError or ValueError when it is none."""
    if not isinstance(line, dict):
        raise TypeError("is no object")
    found = Promotion(**line)
    texts = [v for k, v in asdict(found).items() if k not in ("signed_by", "back")]
    named = isinstance(found.signed_by, list) and all(isinstance(s, str) for s in found.signed_by)
    if not named or not isinstance(found.back, bool) or not all(isinstance(v, str) for v in texts):
        raise TypeError("a field is of another type")
    if not re.fullmatch("[0-9a-f]{64}", found.root):
        raise ValueError("root is no sha256")
    return found


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
