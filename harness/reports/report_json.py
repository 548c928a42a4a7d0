"""Conversion of a run to and from report.json.

A report is shared and compared, so paths of this machine become relative or start with the name of a variable: it
locates files for anyone with the folder, without revealing the user or the machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from harness.artifacts.folders import (
    MALFORMED_RECORD,
    MAX_INTEGER,
    FolderError,
    ForeignFolder,
    parse_record,
    read_named_file,
)
from harness.errors import UsageError
from harness.records.parts.part import Part
from harness.records.run import Run
from harness.records.verdict_text import deciding_result, format_why
from harness.records.verdicts import Verdict
from harness.schema import field_hints
from harness.texts.json_text import MALFORMED, dumps
from harness.texts.secrets import redact_options

FORMAT_VERSION = 1  # of report.json; raised when an older reader would misread
END, SUM = "\n}\n", ',\n "sha256": "'  # how it ends, and its last key: the digest of all before it
CHANGED_TEXT = "was changed, so its contents are not verified; look at the rows, or harness verify the export"
CONTENT = frozenset({"won", "lost", "won_ids", "lost_ids", "rows", "shown_rows", "items", "deselected"})  # of the data


def to_json(run: Run) -> str:
    """Serialize a run as JSON, ending with its own digest.

    Facts from plugins are redacted like options, and paths are made relative (see `relative_paths`).
    """
    facts = {name: redact_options(told) for name, told in run.facts.items()}
    text = dumps({"format": FORMAT_VERSION, **relative_paths(dataclasses.asdict(run) | {"facts": facts}, run)})
    return f'{text.removesuffix(END)}{SUM}{hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()}"{END}'


def read_run(folder: str | Path) -> Run:
    """Read a run from its folder or report.json.

    The folder becomes the run's own. A report edited after it was written gets a warning. Raises UsageError if there is
    none, or if it is invalid or of another format.
    """
    folder = Path(folder)
    path = folder / "report.json" if folder.is_dir() else folder
    try:
        content = ForeignFolder(folder).read(path.name) if folder.is_dir() else read_named_file(folder)
        text, data = content.decode("utf-8"), parse_record(content)
    except MALFORMED_RECORD as error:
        reason = error.problem if isinstance(error, FolderError) else " ".join(str(error).split())
        raise UsageError(f"{path}: the report cannot be read: {reason}; name a folder in reports/") from None
    if not isinstance(data, dict) or not _is_current_format_version(data.pop("format", None)):
        raise UsageError(
            f"{path}: was not written by this version of the harness; read it with the version that wrote it"
        )
    data.pop("sha256", None)
    try:
        found: Run = from_json(Run, data, "it")
        if odd := found.find_odd_name():
            raise ValueError(f"{odd} is not the name of a suite, a subject or an eval")
        datetime.fromisoformat(found.started)
        for verdict in found.verdicts:
            require_wordable(verdict)
    except (TypeError, ValueError, RecursionError) as error:
        what = f"was not written by this version of the harness: {error}"
        raise UsageError(f"{path}: {what}; name a folder in reports/") from None
    body, _, told = text.removesuffix(f'"{END}').rpartition(SUM)
    if hashlib.sha256(f"{body}{END}".encode()).hexdigest() != told:  # what a run wrote ends with it
        found = dataclasses.replace(found, edited=True, warnings=[f"{path.name} {CHANGED_TEXT}", *found.warnings])
    return dataclasses.replace(found, folder=str(path.parent)) if found.folder else found


def require_wordable(verdict: Verdict) -> None:
    """Raise ValueError if the gate of a verdict is none, or its parts cannot be put in words."""
    try:
        format_why(verdict)
        verdict.table()
        for result in (verdict, deciding_result(verdict)):
            if not all(type(count) is int for count in (result.n, result.won_count, result.lost_count)):
                raise TypeError("a number of rows is not an integer")
    except MALFORMED as error:
        raise ValueError(f'the parts of gate "{verdict.gate}" are malformed: {error}') from None


def _is_current_format_version(written: Any) -> bool:
    return type(written) is int and written == FORMAT_VERSION


def from_json(want: Any, value: Any, place: str) -> Any:
    """Convert plain JSON data back to the type `want`.

    Raises TypeError with the place of a value of another type, and ValueError at an unknown enum value.
    """
    origin, args = get_origin(want), get_args(want)
    if origin in (Union, UnionType):
        return None if value is None else _from_first_kind([a for a in args if a is not type(None)], value, place)
    if want is float and type(value) is int and abs(value) < MAX_INTEGER:
        return float(value)
    if dataclasses.is_dataclass(want) and isinstance(value, dict) and isinstance(want, type):
        hints = field_hints(want)
        constants = {f.name: f.default for f in dataclasses.fields(want) if not f.init}
        if strange := [key for key in value if key not in hints or constants.get(key, value[key]) != value[key]]:
            raise TypeError(f'{place} has "{strange[0]}"')
        return want(**{key: from_json(hints[key], v, f'"{key}"') for key, v in value.items() if key not in constants})
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        if args[1] is Part:
            return {name: from_json(Part.class_of(name, part), part, f'"{name}"') for name, part in value.items()}
        nan = args[1] is float  # which JSON has no word for
        return {key: math.nan if nan and v is None else from_json(args[1], v, place) for key, v in value.items()}
    if origin is tuple and args[-1] is not Ellipsis and isinstance(value, list) and len(value) == len(args):
        return tuple(from_json(kind, v, place) for kind, v in zip(args, value, strict=True))
    if isinstance(origin, type) and issubclass(origin, Sequence) and isinstance(value, list):
        return (list if origin is list else tuple)(from_json(args[0], v, place) for v in value)
    if isinstance(want, type) and issubclass(want, StrEnum) and isinstance(value, str):
        return want(value)
    if want is Any or (value in args if origin is Literal else type(value) is want):
        return value
    raise TypeError(f"{place} is {json.dumps(value):.40}")


def _from_first_kind(kinds: Sequence[Any], value: Any, place: str) -> Any:
    """Return plain data as the first of several types that it fits. Raises the last one's TypeError if none does."""
    for kind in kinds[:-1]:
        with suppress(TypeError):
            return from_json(kind, value, place)
    return from_json(kinds[-1], value, place)


def relative_paths(value: Any, run: Run) -> Any:
    """Replace absolute paths of this machine in a run's data.

    Paths into the folder of the suite, of the reports, of the harness or the current one become relative. The user's
    home, temporary files, the virtual environment and the cache become `~` or a variable. Names of rows, and rows that
    are shown, stay as they are.
    """
    # What stands for each folder, as it is named and where it really is; nothing: paths become relative.
    places: dict[Path, str] = {Path(tempfile.gettempdir()): "$TMPDIR", Path.home(): "~"}
    if sys.prefix != sys.base_prefix:
        places[Path(sys.prefix)] = "$VIRTUAL_ENV"
    places[Path(__file__).parents[2]] = ""
    if cache := os.environ.get("HARNESS_CACHE"):
        places[Path(cache).absolute()] = "$HARNESS_CACHE"
    here = Path.cwd()
    beside = [Path(run.path).absolute().parent, *([Path(run.folder).absolute().parent] if run.folder else [])]
    places |= {folder: "" for folder in beside if not folder.is_relative_to(here)} | {here: ""}
    names: dict[str, str] = {}
    for place, name in places.items():
        names |= {str(p): name for p in (place, place.resolve()) if len(p.parts) > 1}
    if not names:
        return _replace_paths_in_texts(value, lambda text: text)
    longest = sorted(names, key=len, reverse=True)
    # Not in the middle of another path; a name goes on with letters, digits, dots and dashes.
    pattern = re.compile(rf"(?:(?<![\w/.~-])|(?<=://))({'|'.join(map(re.escape, longest))})(/|(?![\w.-]))")

    def one(found: re.Match[str]) -> str:
        name = names[found[1]]
        return f"{name}{found[2]}" if name else "" if found[2] else "."

    return _replace_paths_in_texts(value, lambda text: pattern.sub(one, text))


def _replace_paths_in_texts(value: Any, replace: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return replace(value) if "/" in value or "\\" in value else value
    if isinstance(value, Mapping):
        return {k: v if k in CONTENT else _replace_paths_in_texts(v, replace) for k, v in value.items()}
    return [_replace_paths_in_texts(v, replace) for v in value] if isinstance(value, (list, tuple)) else value
