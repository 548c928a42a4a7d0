"""A run -> report.json and back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from harness.errors import UsageError
from harness.records.run import Run
from harness.reports.places import placed
from harness.texts.secrets import hide, struck

FORMAT = 2  # of report.json; raised when an older reader would misread
END, SUM = "\n}\n", ',\n "sha256": "'  # how it ends, and its last key: the digest of all before it
CHANGED = "is not as a run wrote it: what it says is not verified; look at the rows, or harness verify the export"
READ = (1, 2)  # 1 has no training, shown, memory or changes, counts no rows won and lost, and tells of absolute paths


def to_json(run: Run) -> str:
    """Write a run as JSON; what plugins tell is struck as their options are, and no path is absolute."""
    facts = {name: struck(told) for name, told in run.facts.items()}
    text = dumps({"format": FORMAT, **placed(dataclasses.asdict(run) | {"facts": facts}, run)})
    return f'{text.removesuffix(END)}{SUM}{hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()}"{END}'


def dumps(value: Any) -> str:
    """Write a value as JSON without secrets; numbers that are not finite become null: JSON has no words for them."""
    return json.dumps(plain(value), indent=1, ensure_ascii=False, default=str, allow_nan=False) + "\n"


def read_run(folder: Path) -> Run:
    """Read the run in a folder (or its report.json), which becomes the run's own.

    What somebody changed since gets a warning that says so. Raises UsageError when there is none, or of another format.
    """
    path = folder / "report.json" if folder.is_dir() else folder
    try:
        text = path.read_text("utf-8")
        data = json.loads(text, parse_int=_int)
    except OSError as error:
        where = folder if not folder.exists() else path
        raise UsageError(f"{where}: no report can be read: {error.strerror}; name a folder in reports/") from None
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise UsageError(f"{path}: no report can be read: {why}; name a folder in reports/") from None
    if not isinstance(data, dict) or data.pop("format", None) not in READ:
        raise UsageError(f"{path}: is not a report of this version of the harness")
    data.pop("sha256", None)
    try:
        found: Run = made(Run, data, "it")
    except (TypeError, ValueError) as error:
        what = f"is not a report of this version of the harness: {error}"
        raise UsageError(f"{path}: {what}; name a folder in reports/") from None
    if not _as_written(text):
        found = dataclasses.replace(found, edited=True, warnings=[f"{path.name} {CHANGED}", *found.warnings])
    return dataclasses.replace(found, folder=str(path.parent)) if found.folder else found


def _as_written(text: str) -> bool:
    """Return whether a report is what a run wrote: its last key says the sha256 of all before it."""
    body, _, told = text.removesuffix(f'"{END}').rpartition(SUM)
    return hashlib.sha256(f"{body}{END}".encode()).hexdigest() == told


def made(want: Any, value: Any, place: str) -> Any:
    """Return plain data as what it was; raises TypeError with the place of what is something else."""
    origin, args = get_origin(want), get_args(want)
    if origin in (Union, UnionType):
        kinds = [a for a in args if a is not type(None)]
        return None if value is None else made(kinds[0], value, place)
    if want is float and type(value) is int:
        return float(value)
    if dataclasses.is_dataclass(want) and isinstance(value, dict) and isinstance(want, type):
        hints = _hints(want)
        if strange := [key for key in value if key not in hints]:
            raise TypeError(f'{place} has "{strange[0]}"')
        return want(**{key: made(hints[key], v, f'"{key}"') for key, v in value.items()})
    if origin is not None and origin is not Literal:
        return _many(origin, args, value, place)
    fits = want is Any or (value in args if origin is Literal else type(value) is want)
    if isinstance(want, type) and issubclass(want, StrEnum) and isinstance(value, str):
        return want(value)
    if not fits:
        raise TypeError(f"{place} is {json.dumps(value):.40}")
    return value


def _many(origin: Any, args: tuple[Any, ...], value: Any, place: str) -> Any:
    if issubclass(origin, Mapping) and isinstance(value, dict):
        nan = args[1] is float  # which JSON has no word for
        return {key: math.nan if nan and v is None else made(args[1], v, place) for key, v in value.items()}
    if origin is tuple and args[-1] is not Ellipsis and isinstance(value, list) and len(value) == len(args):
        return tuple(made(kind, v, place) for kind, v in zip(args, value, strict=True))
    if issubclass(origin, Sequence) and isinstance(value, list):
        return (list if origin is list else tuple)(made(args[0], v, place) for v in value)
    raise TypeError(f"{place} is {json.dumps(value):.40}")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _int(digits: str) -> int:
    """Return a whole number; raises ValueError where it is none that anything was counted to."""
    if len(digits) > 19:
        raise ValueError(f"holds a number of {len(digits)} digits")
    return int(digits)


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: without secrets, and null for a number that is not finite."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return hide(value) if isinstance(value, str) else value
