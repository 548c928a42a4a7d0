"""Which export is the release: the record that `harness promote` writes beside an export, as it is read.

    exports/support                      what the last run exported
    exports/support.releases/
      releases.jsonl                     a line a promotion: root digest, weights, suite, who, when
      <root, 16 digits>/                 the export as it was promoted, kept so that there is a way back

Where there is a record, the baseline `released` is what it says; without one it is the last export.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.files import lines_of

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


def current(export: Path) -> Path | None:
    """Return the folder of what is released in an export's name, or None when nothing was promoted."""
    released = standing(export)
    return releases_of(export) / released[-1].root[:16] if released else None


def first(export: Path) -> Path | None:
    """Return the folder of what was promoted first, or None."""
    released = history(export)
    return releases_of(export) / released[0].root[:16] if released else None


def history(export: Path) -> list[Promotion]:
    """Return the record of an export's promotions, the oldest first; raises UsageError when it cannot be read."""
    path, where = releases_of(export) / RECORD, f"{releases_of(export) / RECORD}"
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


def standing(export: Path) -> list[Promotion]:
    """Return the releases of an export that stand, the present one last."""
    return _standing(history(export), releases_of(export) / RECORD)


def releases_of(export: Path) -> Path:
    """Return the folder of an export's releases and their record."""
    export = export.resolve()
    return export.with_name(export.name + SUFFIX)


def _standing(lines: Sequence[Promotion], record: Path) -> list[Promotion]:
    """Return the releases that stand: each promotion adds one, each way back ends at one that stood before."""
    found: list[Promotion] = []
    for line in lines:
        if not line.back:
            found.append(line)
            continue
        for _ in found[1:]:
            found.pop()
            if found[-1].root == line.root:
                break
        else:
            what = f"goes back to {line.root[:16]} at {line.at}, which was not the release before"
            raise UsageError(f"{record}: {what}; it is written by harness promote alone")
    return found


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
