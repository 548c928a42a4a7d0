"""What readers of all formats make of a file in the same way: keys of questions, facts, and the sum check."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from harness import Sample, UsageError, did_you_mean, digest_of
from harness.internals import keyed, shorten, shown, struck
from harness_rows.guard import Files, why_of
from harness_rows.records import RawRows, Wanted

EXACT = 1e-9  # by which a tool's own number may differ from that of its rows


def refusing(read: Callable[[Any, Path, Wanted], RawRows]) -> Callable[[Any, Path, Wanted], RawRows]:
    """Make a reader refuse a file that has the keys of its tool, and under them what that tool never writes."""

    @wraps(read)
    def strictly(reader: Any, path: Path, want: Wanted) -> RawRows:
        try:
            return read(reader, path, want)
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
            what = f"is not what {reader.name} writes ({type(error).__name__}: {shorten(str(error), 60)})"
            raise UsageError(f"{path}: {what}; write it anew with a version that is known") from None

    return strictly


def content_of(asked: Any, wanted: Any, **beside: Any) -> str:
    """Return what tells a question from others: a text or a chat, the answers that are wanted, lists."""
    plain = isinstance(asked, str) or (isinstance(asked, list) and all(isinstance(m, dict) for m in asked))
    targets = [str(t) for t in wanted] if isinstance(wanted, list) else str("" if wanted is None else wanted)
    row = {name: value for name, value in beside.items() if value}
    sample = Sample("", asked if plain else json.dumps(asked, sort_keys=True), targets, row)
    return keyed([sample], None)[0].key


def prompt_of(sent: Any) -> str:
    """Return the digest of what was sent to a model, "" where that is not known."""
    return digest_of(sent) if sent else ""


def fact(value: Any) -> str:
    """Return a setting as a text by which two runs are compared, "" where there is none; an empty table is one."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, sort_keys=True)


def facts_of(**told: Any) -> dict[str, str]:
    """Return the facts of a run that its file tells, under their names; `_` stands for a space."""
    return {name.replace("_", " "): text for name, value in struck(told).items() if (text := fact(value))}


def why(error: Any) -> str:
    """Return what a tool says of an error, without secrets; of a table its message."""
    return shown(why_of(error.get("message") or error if isinstance(error, dict) else error))


def called(name: Any) -> str:
    """Return a name of a file as an error shows it."""
    return shorten(shown(str(name)), 60)


def about(columns: Mapping[str, Any], want: Wanted, where: str) -> dict[str, Any]:
    """Return cluster and slices of a row, from the columns that a user names. Raises UsageError at one that is not."""

    def text(name: str) -> str:
        if name not in columns:
            raise UsageError(f'{where}: has no column "{name}"{did_you_mean(name, columns)}')
        return fact(columns[name]) or str(columns[name])

    cluster, slices = want.columns.get("cluster", ""), want.columns.get("slice", [])
    names = [slices] if isinstance(slices, str) else slices
    found: dict[str, Any] = {"slices": {n: text(n) for n in names if n}}
    return found | ({"cluster": text(cluster)} if isinstance(cluster, str) and cluster else {})


SAY = {"task": "--metric TASK:NAME", "prompt": "--metric TASK:NAME", "provider": "#LABEL", "subject": "#SUBJECT"}


def one_of(found: Sequence[str], wanted: str, path: Path, what: str, say: str = "") -> str:
    """Return the one of its name, or the only one. Raises UsageError with all of them."""
    names = list(dict.fromkeys(found))
    if wanted in names or (len(names) == 1 and not wanted):
        return wanted or names[0]
    if wanted:
        raise UsageError(f'{path}: has no {what} "{called(wanted)}"{did_you_mean(wanted, names)}')
    some, say = ", ".join(map(called, names[:8])), shown(say or SAY[what])
    raise UsageError(f"{path}: holds rows of {len(names)} {what}s ({some}); name one with {say}")


def only(files: Files, path: Path, *patterns: str) -> Path:
    """Return a file, or the only one of a folder. Raises UsageError where there are several."""
    found = [one for pattern in patterns for one in files.listed(pattern)] if path.is_dir() else [path]
    if len(found) != 1:
        raise UsageError(f"{path}: holds {len(found)} runs; name one of its files, such as {found[-1].name}")
    return found[0]


def numbered(keys: Iterable[Any]) -> bool:
    """Return whether names are places: whole numbers, one and all."""
    return all(isinstance(k, int) or str(k).isdecimal() for k in keys)


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def is_equal(ours: float, theirs: float, exact: float = EXACT) -> bool:
    return math.isclose(ours, theirs, rel_tol=EXACT, abs_tol=exact)


def agreed(where: str, ours: float, theirs: Any, exact: float = EXACT) -> float | None:
    """Return the tool's own number. Raises UsageError where its rows give another."""
    if isinstance(theirs, bool) or not isinstance(theirs, (int, float)):
        return None
    if not is_equal(ours, theirs, exact):
        what = "the file is cut, or of another run"
        raise UsageError(f"{where}: the rows give {ours:.10g}, the file says {theirs:.10g}; {what}")
    return float(theirs)
