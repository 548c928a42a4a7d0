"""Files and data sets of the Hub -> rows; every wrong line is told by its place."""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.errors import Mistakes, UsageError
from harness.files import read_text
from harness.schema import DEEPEST, is_deep

Row = dict[str, Any]
FILES = (".jsonl", ".json", ".csv", ".parquet")
LONGEST = 300  # characters of what a library says
SHOWN = 20  # wrong rows of a source that are told one by one


def read_file(folder: Path, source: str, where: str) -> list[Row]:
    """Return the rows of the file `source` in `folder`. Raises UsageError with the place of mistakes."""
    try:
        path = (folder / Path(source).expanduser()).resolve()
        path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f'{where}: data "{source[:100]}" is no path: {why}; name a file') from None
    if path.suffix not in FILES:
        known = "a file (" + ", ".join(FILES) + "), hub:NAME:SPLIT, or what a plugin's harness_read_samples knows"
        raise UsageError(f'{where}: data "{source}" is unknown; want {known}')
    if not path.is_file():
        raise UsageError(f'{where}: data "{source}" is not there; looked for {path}')
    if path.suffix == ".parquet":
        return _read_parquet(path, where)
    text = read_text(path, encoding="utf-8-sig", where=f"{where}: ")
    if path.suffix == ".csv":
        return _read_csv(text, path)
    if path.suffix == ".json":
        return _rows_of(_parse(text, f"{path}"), path)
    lines = ((n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip())
    return _rows_of([_parse(line, f"{path}:{n}") for n, line in lines], path)


def sliced(source: str, where: str) -> tuple[str, slice | None]:
    """Return a source without the slice that it ends in, and the slice; raises UsageError where that is none."""
    name, bracket, inner = source.removesuffix("]").rpartition("[")
    if not (source.endswith("]") and bracket and ":" in inner):
        return source, None
    numbers = inner.split(":")
    right = all(re.fullmatch("(-?[0-9]{1,18})?", n) for n in numbers)
    if not right or len(numbers) > 3 or numbers[2:] in (["0"], ["-0"]):
        raise UsageError(f'{where}: data "{source}": "[{inner}]" is no slice; want one as Python has, such as "[:960]"')
    return name, slice(*(int(n) if n else None for n in numbers))


def read_hub(source: str, where: str) -> list[Row]:
    """Read `hub:NAME[/CONFIG]:SPLIT`; a name with two slashes ends in a configuration."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise UsageError(f"{where}: reading hub: data needs pip install 'finetune-harness[hf]'") from None
    name, _, split = source.removeprefix("hub:").partition(":")
    parts = name.split("/")
    config = parts.pop() if len(parts) > 2 else None
    try:
        rows: Iterable[Row] = load_dataset("/".join(parts), config, split=split or "train")
        return _bare([dict(row) for row in rows])
    except Exception as error:  # the library raises a dozen kinds; what helps is the name and its last line
        why = textwrap.shorten(str(error), LONGEST, placeholder=" …")
        raise UsageError(f'{where}: data "{source}" cannot be read: {why}; is the network there?') from None


def shorten(mistakes: Mistakes, where: str) -> None:
    """Keep the first mistakes in the rows of one source, and count the others."""
    if len(mistakes.found) > SHOWN:
        mistakes.found[SHOWN:] = [f"{where}: and {len(mistakes.found) - SHOWN} rows more like these"]


def _parse(text: str, place: str) -> Any:
    try:
        found = json.loads(text)
        if "\\ud" in text.lower():  # an escape that may be half of a pair, which no encoding can write
            json.dumps(found, ensure_ascii=False).encode()
        if text.count("[") + text.count("{") > DEEPEST and is_deep(found):
            raise RecursionError
        return found
    except UnicodeEncodeError:
        raise UsageError(f"{place}: holds half of a character (a lone surrogate); write the text again") from None
    except RecursionError:
        raise UsageError(f"{place}: is nested too deeply to be a row, want at most {DEEPEST} in each other") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"{place}: not valid JSON: {error.msg} at column {error.colno}; is the file whole?") from None
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        raise UsageError(f"{place}: holds a whole number of thousands of digits; write it as text") from None


def _rows_of(found: Any, path: Path) -> list[Row]:
    if not isinstance(found, list):
        raise UsageError(f"{path}: holds {type(found).__name__}, want a list of objects")
    odd = next((i for i, row in enumerate(found) if not isinstance(row, dict)), None)
    if odd is not None:
        raise UsageError(f"{path}: row {odd} is {found[odd]!r:.40}, want an object")
    return found


def _read_csv(text: str, path: Path) -> list[Row]:
    """Return the rows of a CSV file under its header's names; every row has as many fields as the header."""
    mistakes, rows = Mistakes(), []
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = next((names for names in reader if names), [])
        if twice := [name for name, n in Counter(header).items() if n > 1]:
            what = f'the column "{twice[0]}" stands twice in the header; rename one'
            raise UsageError(f"{path}:{reader.line_num}: {what}")
        for fields in reader:
            if fields and len(fields) != len(header):
                what = f"has {len(fields)} fields, and the header {len(header)}; is a comma or a quote missing?"
                mistakes.add(f"{path}:{reader.line_num}", what)
            elif fields:
                rows.append(dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise UsageError(f"{path}:{reader.line_num}: not valid CSV: {error}; write the rows as .jsonl") from None
    shorten(mistakes, f"{path}")
    mistakes.raise_if_any()
    return rows


def _read_parquet(path: Path, where: str) -> list[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(f"{where}: reading .parquet needs pip install 'finetune-harness[hf]'") from None
    try:
        rows: list[Row] = _bare(pyarrow.parquet.read_table(path).to_pylist())
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        why = textwrap.shorten(str(error), LONGEST, placeholder=" …")
        raise UsageError(f"{path}: not valid parquet: {why}") from None
    return rows


def _bare(rows: list[Row]) -> list[Row]:
    """Take the keys off that a table gave objects in a row because others have them: null, but for a `content`."""

    def inner(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: inner(v) for k, v in value.items() if v is not None or k == "content"}
        return [inner(v) for v in value] if isinstance(value, list) else value

    return [{column: inner(value) for column, value in row.items()} for row in rows]
