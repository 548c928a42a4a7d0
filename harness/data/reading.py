"""Rows from files and data sets of the Hub.

Every wrong line is reported with its place.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from harness.data import tables
from harness.data.encodings import MAX_RIVALS, detect_encoding, detect_unicode, guess_encodings
from harness.errors import Mistakes, UsageError, missing_modules_message
from harness.schema import MAX_DEPTH, format_toml, is_deep
from harness.texts.escaping import shorten_repr
from harness.texts.json_text import read_json
from harness.texts.shortening import shorten_to_line

Row = dict[str, Any]
FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".xlsx")
OTHER_SUFFIXES = (".ndjson", ".feather", ".xlsm")  # other suffixes of these
BINARY = {".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Arrow", ".xlsx": "XLSX", ".xlsm": "XLSX"}
TABLES = {".csv": ",", ".tsv": "\t"}  # and what parts their columns unless a suite says so
SEPARATORS = (",", ";", "\t", "|")
WORKBOOKS = (".xls", ".ods", ".numbers")
MAX_MESSAGE_CHARS = 300  # characters of what a library says
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\n')  # Excel's first line
SNIFFED_CHARS = 100_000  # characters of a table, and bytes of its encoding, by which both are detected
ESCAPE = "; in TOML a \\ in double quotes begins an escape: write / or single quotes"
UNCLOSED_QUOTE_ADVICE = (
    "; check for a missing closing quote, double the quotes inside a field, or write the rows as .jsonl"
)
OBJECTS = re.compile(r"\s*\[\s*\{")  # how a JSON list of objects begins, whatever the file is called
ROW = re.compile(r"\brow [0-9]+")
SHOWN_ERRORS = 20  # invalid rows of a source that are reported one by one


def read_file(
    folder: Path, source: str, where: str, separator: str | None = None, encoding: str | None = None
) -> list[Row]:
    """Return the rows of the file `source` in `folder`. Raises UsageError with the place of mistakes."""
    path = find_file(folder, source, where)
    data = read_bytes(path, where)
    if tables.is_binary_table(data):
        return _to_plain_rows(tables.read_binary_table(data, f"{path}"))
    if (suffix := tables.file_suffix(path.name)) in BINARY:
        raise UsageError(f"{path}: is not valid {BINARY[suffix]}; check its name, or copy the file again")
    text = decode_text(data, path, encoding, where)
    if suffix in TABLES:
        return _parse_csv(text, path, separator, where)
    if OBJECTS.match(text) or (suffix == ".json" and not _is_json_lines(text)):
        return _require_list_of_objects(tables.extract_json_rows(_parse_json_line(text, f"{path}")), path)
    lines = ((n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip())
    return _require_list_of_objects([_parse_json_line(line, f"{path}:{n}") for n, line in lines], path)


def read_bytes(path: Path, where: str) -> bytes:
    """Return a file's content, decompressed. Raises UsageError if it cannot be read."""
    try:
        return tables.decompress(path.read_bytes(), f"{path}")
    except OSError as error:
        raise UsageError(f"{where}: {path}: cannot be read: {error.strerror}") from None


def _is_json_lines(text: str) -> bool:
    """Return whether a text looks like JSON Lines.

    Many .json files of the Hub are. Only the first line is parsed.
    """
    first, _, rest = text.lstrip().partition("\n")
    if not (first.startswith("{") and rest.strip()):
        return False
    with suppress(ValueError, RecursionError):
        json.loads(first)
        return True
    return False


def is_file_name(name: str) -> bool:
    """Return whether a file name has a supported suffix."""
    return tables.file_suffix(name) in (*FILES, *OTHER_SUFFIXES)


def find_file(folder: Path, source: str, where: str) -> Path:
    """Resolve `source`, relative to `folder`, to a readable data file.

    Raises UsageError if it is not a path, does not exist, or has an unsupported format.
    """
    try:
        path = (folder / Path(source).expanduser()).resolve()
        there, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f'{where}: data "{source[:100]}" is not a path: {why}; name a file') from None
    if "://" in source:
        what = "is a URL; download it and name the file"
    elif is_folder:
        what = "is a folder; name a file in it"
    elif path.suffix.lower() in WORKBOOKS:
        what = 'is a spreadsheet; save its sheet as "CSV UTF-8" and name that file'
    elif not is_file_name(path.name):
        known = "a file (" + ", ".join(FILES) + ", or one of these compressed), hub:NAME:SPLIT, or a source of a plugin"
        what = f"is unknown; name {known}"
    elif there:
        return path
    else:  # "data\train.csv" in quotes holds a tab and "rain.csv"
        what = f"does not exist; looked for {path}{'' if source.isprintable() else ESCAPE}"
    raise UsageError(f'{where}: data "{source}" {what}')


def decode_text(data: bytes, path: Path, encoding: str | None, where: str) -> str:
    """Decode the content of a file, as UTF-8 by default.

    A BOM is dropped. Raises UsageError if the encoding is unknown or does not fit.
    """
    try:
        with io.TextIOWrapper(io.BytesIO(data), encoding or "utf-8-sig") as text:
            return text.read().removeprefix("\ufeff")
    except UnicodeError as error:
        why = f"{error.reason} at byte {error.start}" if isinstance(error, UnicodeDecodeError) else str(error)
        names = [detect_unicode(data)] if detect_unicode(data) else guess_encodings(data)[:MAX_RIVALS]
        likely = " or ".join(f'"{name}"' for name in names)
        instead = f'write encoding = {likely} beside data, or save the file as "CSV UTF-8"'
        raise UsageError(f"{where}: {path}: is not {(encoding or 'utf-8').upper()}: {why}; {instead}") from None
    except (LookupError, ValueError):
        use = 'use "utf-8", "utf-16", "cp1252", or another that Python knows'
        raise UsageError(f"{where}: encoding {format_toml(encoding)} is unknown; {use}") from None


def detect_format(path: Path, where: str, separator: str | None, encoding: str | None) -> dict[str, str]:
    """Return the encoding of a file and the separator of a table.

    Given values are kept, missing ones detected. Empty for binary tables. Raises UsageError if the file is not text.
    """
    data = read_bytes(path, where)
    suffix = tables.file_suffix(path.name)
    if tables.is_binary_table(data) or suffix in BINARY:
        return {}
    encoding = encoding or detect_encoding(data, f"{path}", "name it with --encoding")
    text = decode_text(data, path, encoding, where)[:SNIFFED_CHARS]
    if "\0" in text:
        raise UsageError(f'{where}: {path}: is not text; save it as "CSV UTF-8" and name that file')
    found = {"separator": separator or detect_separator(text)} if suffix in TABLES else {}
    return {"encoding": encoding, **found}


def detect_separator(text: str) -> str:
    """Return the separator that fits most of the first rows.

    It fits a row with as many fields as the header. A first line such as `sep=;` decides.
    """
    if told := SEPARATOR_LINE.match(text):
        return told[1]

    def fits(separator: str) -> tuple[float, int]:
        try:
            header, *rows = [r for r in islice(csv.reader(text.split("\n"), delimiter=separator), 50) if r]
        except (csv.Error, ValueError):
            return 0, 0
        share = sum(len(row) == len(header) for row in rows) / max(1, len(rows))
        return (share, len(header)) if len(header) > 1 else (0, 0)

    return max(SEPARATORS, key=fits)


def split_slice(source: str, where: str) -> tuple[str, slice | None]:
    """Split a trailing slice off a source. Raises UsageError if the slice is invalid."""
    name, bracket, inner = source.removesuffix("]").rpartition("[")
    if not (source.endswith("]") and bracket and ":" in inner):
        return source, None
    numbers = inner.split(":")
    right = all(re.fullmatch("(-?[0-9]{1,18})?", n) for n in numbers)
    if not right or len(numbers) > 3 or numbers[2:] in (["0"], ["-0"]):
        raise UsageError(
            f'{where}: data "{source}": "[{inner}]" is not a slice; write it as in Python, for instance "[:960]"'
        )
    return name, slice(*(int(n) if n else None for n in numbers))


def read_hub(source: str, where: str) -> list[Row]:
    """Read `hub:NAME[/CONFIG]:SPLIT`; a name with two slashes ends in a configuration."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise UsageError(f"{where}: hub: data {missing_modules_message('datasets')}") from None
    name, _, split = source.removeprefix("hub:").partition(":")
    parts = name.split("/")
    config = parts.pop() if len(parts) > 2 else None
    try:
        return _to_plain_rows([dict(row) for row in load_dataset("/".join(parts), config, split=split or "train")])
    except Exception as error:  # the library raises a dozen kinds; what helps is the name and its last line
        why = shorten_to_line(error, MAX_MESSAGE_CHARS)
        raise UsageError(
            f'{where}: data "{source}" cannot be read: {why}; check the name and the network connection'
        ) from None


def limit_mistakes(mistakes: Mistakes, where: str) -> None:
    """Merge mistakes that differ only in their row number.

    The first SHOWN_ERRORS are kept, the rest counted.
    """
    same = Counter(ROW.sub("row", message) for message in mistakes.messages)
    first = {ROW.sub("row", message): message for message in reversed(mistakes.messages)}
    mistakes.messages = [
        f"{message} ({same[key]:,} such rows)" if same[key] > 1 else message for key, message in [*first.items()][::-1]
    ]
    if len(mistakes.messages) > SHOWN_ERRORS:
        mistakes.messages[SHOWN_ERRORS:] = [f"{where}: {len(mistakes.messages) - SHOWN_ERRORS} more rows like these"]


def _parse_json_line(text: str, place: str) -> Any:
    try:
        found = read_json(text, constants=True)  # NaN is no value, which whoever looks at the cell says
        if "\\ud" in text.lower():  # an escape that may be half of a pair, which no encoding can write
            json.dumps(found, ensure_ascii=False).encode()
        if text.count("[") + text.count("{") > MAX_DEPTH and is_deep(found):
            raise RecursionError
        return found
    except UnicodeEncodeError:
        raise UsageError(f"{place}: contains half a character (a lone surrogate); replace that text") from None
    except RecursionError:
        raise UsageError(f"{place}: is nested more than {MAX_DEPTH} levels deep; flatten it") from None
    except json.JSONDecodeError as error:
        place += f":{error.lineno}" if "\n" in text.strip() else ""
        raise UsageError(
            f"{place}: not valid JSON: {error.msg} at column {error.colno}; correct it, or "
            "check that the file is complete"
        ) from None
    except ValueError as error:
        if "digits" not in str(error):
            raise UsageError(f"{place}: {error}; keep one of them") from None
        # Python reads no whole number of more than 4,300 digits
        raise UsageError(f"{place}: contains an integer of thousands of digits; write it as text") from None


def _require_list_of_objects(found: Any, path: Path) -> list[Row]:
    if not isinstance(found, list):
        raise UsageError(f"{path}: contains a {type(found).__name__}; it must be a list of objects")
    if odd := next((n for n, row in enumerate(found, 1) if not isinstance(row, dict)), 0):
        raise UsageError(f"{path}: row {odd} is {shorten_repr(found[odd - 1], 40)}; it must be an object")
    return found


def _parse_csv(text: str, path: Path, separator: str | None, where: str) -> list[Row]:
    """Parse a CSV file into rows named by its header.

    Every row must have as many fields as the header. A first line `sep=;`, which Excel writes and reads, is not a row
    and names the separator.
    """
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise UsageError(f"{where}: separator is {format_toml(separator)}; give one character")
    told = SEPARATOR_LINE.match(text)
    parts = separator or (told[1] if told else TABLES[tables.file_suffix(path.name)])
    mistakes, rows, header = Mistakes(), list[Row](), list[str]()
    joined: list[tuple[str, list[str]]] = []  # what is wrong if lines in a field are rows, and how such rows end
    last = 0
    try:
        for first, last, lines, fields in _iterate_csv_records(
            text[told.end() if told else 0 :], parts, 1 + bool(told)
        ):
            if not header:
                header = fields
                _require_valid_csv_header(header, f"{path}:{last}")
                continue
            ends = _find_unclosed_quote_endings(lines, fields, parts, len(header)) if last > first else None
            if ends is not None:
                joined.append((f"{path}: lines {first} to {last} form one row{UNCLOSED_QUOTE_ADVICE}", ends))
            if len(fields) == len(header):
                rows.append(dict(zip(header, fields, strict=True)))
            elif ends is None:
                missing = f"check for a missing {separator_name(parts)} or quote"
                mistakes.add(f"{path}:{last}", f"has {len(fields)} fields, but the header has {len(header)}; {missing}")
    except csv.Error as error:
        far = f" (from line {last + 1} on; check for a missing closing quote)" if "field limit" in str(error) else ""
        raise UsageError(
            f"{path}:{last + 1}: not valid CSV: {error}{far}; correct it, or write the rows as .jsonl"
        ) from None
    known = {row[header[-1]] for row in rows} if joined else set()
    mistakes.messages += [what for what, ends in joined if not ends or known.issuperset(ends)]
    if len(mistakes.messages) > max(SHOWN_ERRORS, len(rows)):  # one cause
        mistakes.messages = [f"{mistakes.messages[0]} ({len(mistakes.messages) - 1:,} more rows like this)"]
    limit_mistakes(mistakes, f"{path}")
    mistakes.raise_errors()
    return rows


def _iterate_csv_records(text: str, separator: str, first: int) -> Iterator[tuple[int, int, list[str], list[str]]]:
    """Yield each non-empty row with its line numbers.

    Items are the numbers of its first and last line, these lines, and its fields. The list of lines is reused.
    """
    lines: list[str] = []

    def taken() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            lines.append(line)
            yield line

    for fields in csv.reader(taken(), delimiter=separator):
        if fields:
            yield first, first + len(lines) - 1, lines, fields
        first += len(lines)
        lines.clear()


def _require_valid_csv_header(header: list[str], place: str) -> None:
    named = Counter(filter(None, header))  # a workbook saved as CSV may end in columns without a name
    if twice := [name for name, n in named.items() if n > 1]:
        raise UsageError(f'{place}: the column "{twice[0]}" occurs twice in the header; rename one')
    if len(header) == 1 and (other := next((one for one in SEPARATORS if one in header[0]), "")):
        instead = f"if the separator is a {separator_name(other)}, write separator = {json.dumps(other)} beside data"
        raise UsageError(f"{place}: the header is a single column, {format_toml(header[0])}; {instead}")


def _find_unclosed_quote_endings(lines: list[str], fields: list[str], separator: str, columns: int) -> list[str] | None:
    """Return the last fields of lines swallowed by an unclosed quote.

    None if the field is ordinary text. Empty if the quote certainly is unclosed, because text follows the closing quote
    or the file ends before it, and for tables that do not have two columns.
    """
    try:
        list(csv.reader(lines, delimiter=separator, strict=True))
    except csv.Error:
        return []
    inner = [line for field in fields for line in field.split("\n")[1:-1]]
    if not inner or any(line.count(separator) != columns - 1 for line in inner):
        return None
    return [line.rpartition(separator)[2] for line in inner] if columns == 2 else []


def separator_name(separator: str) -> str:
    """Return a separator's name, such as "comma"."""
    return {",": "comma", ";": "semicolon", "\t": "tab"}.get(separator, f'"{separator}"')


def _to_plain_rows(rows: list[Row]) -> list[Row]:
    """Drop nested null values, except for `content`, and write dates and decimal numbers as text.

    A table gives every object the keys of all rows' objects, with null for missing values.
    """

    def inner(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: inner(v) for k, v in value.items() if v is not None or k == "content"}
        return [inner(v) for v in value] if isinstance(value, list) else tables.to_plain_cell(value)

    return [{column: inner(value) for column, value in row.items()} for row in rows]
