"""Paths of this machine in what a run writes down: relative, or with the name of a variable in front.

A report is sent and compared, and says where things lie to those who have the folder, not who ran it where.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.records.run import Run

CONTENT = frozenset({"won", "lost", "won_ids", "lost_ids", "rows", "shown", "items", "deselected"})  # of the data


def placed(value: Any, run: Run) -> Any:
    """Return plain data of a run with no absolute path into its folders, the user's home or temporary files.

    What lies in the folder of the suite, of the reports or in the current one is relative to it. Names of rows, and
    rows that are shown, stay as they are.
    """
    return _placed(value, _replacer(run))


def placed_text(text: str, run: Run) -> str:
    """Return one text as `placed` does."""
    return _replacer(run)(text)


def _placed(value: Any, replace: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return replace(value) if "/" in value or "\\" in value else value
    if isinstance(value, Mapping):
        return {k: v if k in CONTENT else _placed(v, replace) for k, v in value.items()}
    return [_placed(v, replace) for v in value] if isinstance(value, (list, tuple)) else value


def _replacer(run: Run) -> Callable[[str], str]:
    """Return what replaces the paths in a text, the longest first."""
    names = _names(run)
    if not names:
        return lambda text: text
    longest = sorted(names, key=len, reverse=True)
    # Not in the middle of another path; a name goes on with letters, digits, dots and dashes.
    pattern = re.compile(rf"(?:(?<![\w/.~-])|(?<=://))({'|'.join(map(re.escape, longest))})(/|(?![\w.-]))")

    def one(found: re.Match[str]) -> str:
        name = names[found[1]]
        return f"{name}{found[2]}" if name else "" if found[2] else "."

    return lambda text: pattern.sub(one, text)


def _names(run: Run) -> dict[str, str]:
    """Return what stands for each folder, as it is named and where it really is; nothing: paths become relative."""
    places: dict[Path, str] = {Path(tempfile.gettempdir()): "$TMPDIR", Path.home(): "~"}
    if sys.prefix != sys.base_prefix:
        places[Path(sys.prefix)] = "$VIRTUAL_ENV"
    places[Path(__file__).parents[2]] = ""
    if cache := os.environ.get("HARNESS_CACHE"):
        places[Path(cache).absolute()] = "$HARNESS_CACHE"
    here = Path.cwd()
    beside = [Path(run.path).absolute().parent, *([Path(run.folder).absolute().parent] if run.folder else [])]
    places |= {folder: "" for folder in beside if not folder.is_relative_to(here)} | {here: ""}
    found: dict[str, str] = {}
    for place, name in places.items():
        found |= {str(p): name for p in (place, place.resolve()) if len(p.parts) > 1}
    return found
