"""Two large files read at a time: the second by a process of its own, which hands its rows over as columns."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace
from itertools import islice
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness import subprocess_call
from harness.errors import CheckFailedError, UsageError
from harness.rows.readers import read_run_rows, split_label
from harness.rows.records import RawRow, RawRows, Wanted
from harness.rows.wording import CALLER, Caller

LARGE_FILE_BYTES = 1 << 25  # bytes, from which a process of its own is worth its start
MAX_FILES = 1000  # of a folder, that are looked at for its size


def read_sides(paths: Sequence[str], wants: Sequence[Wanted]) -> list[RawRows]:
    """Read the rows of one or two sides.

    Two large files are read at the same time, one in another process. Raises UsageError.
    """
    places = [split_label(path)[0] for path in paths] if len(paths) > 1 else []
    looked = [islice(place.rglob("*"), MAX_FILES) if place.is_dir() else [place] for place in places]
    if min((sum(f.stat().st_size for f in some if f.is_file()) for some in looked), default=0) < LARGE_FILE_BYTES:
        return [read_run_rows(path, want) for path, want in zip(paths, wants, strict=True)]
    with TemporaryDirectory() as folder, ThreadPoolExecutor(1) as beside:
        into = Path(folder, "rows")
        question = {"path": paths[-1], "want": _convert_to_json(wants[-1]), "into": str(into), "caller": CALLER.get()}
        asked = beside.submit(
            subprocess_call.call_module, "harness.rows.sides", question, f"{paths[-1]}: cannot be read"
        )
        found = [read_run_rows(paths[0], wants[0])]
        try:
            asked.result()
        except CheckFailedError as error:  # what the other process says of the file
            raise UsageError(str(error)) from None
        run, columns = pickle.loads(into.read_bytes())  # noqa: S301 (written by the process above)
    rows = list(map(RawRow, *columns))
    del columns
    for theirs, own in zip(found[-1].rows, rows, strict=False):  # of what both were asked in one order, one copy
        own.key = theirs.key if own.key == theirs.key else own.key
        own.content = theirs.content if own.content == theirs.content else own.content
        own.input = theirs.input if own.input == theirs.input else own.input
        own.target = theirs.target if own.target == theirs.target else own.target
    return [*found, replace(run, rows=rows)]


def _convert_to_json(want: Wanted) -> dict[str, Any]:
    return {**asdict(want), "texts": None if want.texts is None else sorted(want.texts)}


def _read_rows_into_pickle(path: str, want: dict[str, Any], into: str, caller: Caller) -> Mapping[str, Any]:
    """Pickle the rows of a file, one column per field."""
    gc.disable()
    CALLER.set(caller)
    texts = want.pop("texts")
    run = read_run_rows(path, Wanted(**want, texts=None if texts is None else frozenset(texts)))
    with Path(into).open("wb") as f:
        columns = [list(map(attrgetter(one.name), run.rows)) for one in fields(RawRow)]
        pickle.dump((replace(run, rows=()), columns), f)
    return {}


if __name__ == "__main__":
    subprocess_call.serve_call(_read_rows_into_pickle)
