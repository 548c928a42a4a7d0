"""The layouts of tables: CSV, JSON lines, JSON, Parquet, Arrow, workbooks, SQLite and saved data sets -> lines."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from harness.data import encodings, reading, tables
from harness.errors import UsageError
from harness.files import open_file
from harness.rows.safe_read import (
    HEAD_BYTES,
    MAGIC_BYTES,
    MAX_LINE_BYTES,
    MAX_TEXT_BYTES,
    SafeFiles,
    parse_json,
    read_head,
)
from harness.texts.escaping import printable, shorten_text
from harness.texts.json_text import DECODER

Lines = Iterator[tuple[int, Mapping[str, Any]]]
SQLITE = b"SQLite format 3\0"
SAVED, SPLITS = "state.json", "dataset_dict.json"  # of a folder that `save_to_disk` wrote
MAX_CHARACTER_BYTES = 4  # of UTF-8
MAX_COLUMNS = 10_000
CHUNK_CHARS = 1 << 20  # characters of a JSON list that are read at a time
SPACE = ("", " ", "\t", "\r", "\n", ",")  # between its items
MAX_KEYS = 6  # of an object that an error names
FORMATS_ADVICE = (
    "rows are read from lm_eval (--log_samples), Inspect, NeMo Evaluator, promptfoo, deepeval, Every Eval Ever, runs "
    "of this harness, and tables: CSV, JSON, JSON lines, Parquet, Arrow, XLSX, SQLite, save_to_disk"
)
KINDS = {  # how files begin that hold no rows
    b"%PDF": "PDF", b"\x89PNG": "PNG image", b"\xff\xd8\xff": "JPEG image", b"<!doctype": "HTML page",
    b"<html": "HTML page", b"<?xml": "XML file", b"PK": "zip file", b"\x80\x04": "pickle", b"\x80\x05": "pickle",
    b"GGUF": "GGUF model", b"\x7fELF": "program", b"\x93NUMPY": "NumPy array",
}  # fmt: skip


def is_table(path: Path, head: bytes) -> bool:
    """Return whether a file or folder could be a table.

    A file is known by its first bytes and its suffix, a folder by its files.
    """
    if path.is_dir():
        return (path / SAVED).is_file() or (path / SPLITS).is_file()
    if tables.is_binary_table(head):
        return not head.startswith(tables.ZIP) or b"xl/" in head or tables.file_suffix(path.name) in (".xlsx", ".xlsm")
    if head.startswith(SQLITE):
        return True
    known = encodings.detect_unicode(head)
    if b"\0" in head and not known.startswith("utf-16"):
        return False
    text = head.decode(known or "utf-8", "replace").lstrip("\ufeff").lstrip()
    first = text.partition("\n")[0]
    named = tables.file_suffix(path.name) in reading.TABLES
    return text[:1] in ("{", "[") or (bool(text) and named) or any(one in first for one in ",\t;|")


def describe_unreadable(path: Path, head: bytes) -> str:
    """Return the error for a path without readable rows.

    It names the apparent type, and the formats that can be read.
    """
    if path.is_dir():
        names = sorted(one.name for one in path.iterdir())
        what = f"is a folder with {', '.join(map(_shorten_name, names[:MAX_KEYS]))}" if names else "is an empty folder"
        lacks = "; lm_eval logs rows with --log_samples" if any(n.startswith("results_") for n in names) else ""
        return f"{printable(str(path))}: {what}, which contains no rows in a known format{lacks}; {FORMATS_ADVICE}"
    start = head.lstrip().lower()
    kind = next((kind for magic, kind in KINDS.items() if start.startswith(magic.lower())), "")
    text = "a text without columns" if b"\0" not in head else "a binary file"
    what = f"looks like {_add_article(kind) if kind else text}" if head.strip() else "is empty"
    return f"{printable(str(path))}: {what}, which contains no rows in a known format; {FORMATS_ADVICE}"


def read_lines(files: SafeFiles, path: Path, table: str = "") -> Lines:
    """Yield the rows of a table with their numbers. Raises UsageError with the place of what cannot be read."""
    if path.is_dir():
        return _iterate_saved_dataset_rows(files, path)
    head = read_head(path)
    if head.startswith(SQLITE):
        return _iterate_sqlite_lines(files.read_bytes(path), path, table)
    if tables.is_binary_table(head):
        return enumerate(tables.iterate_binary_table(files.read_bytes(path), f"{path}", MAX_TEXT_BYTES), 1)
    text = head.decode(_detect_encoding(head, path), "replace").lstrip("\ufeff").lstrip()
    if text[:1] == "[":
        return _iterate_streamed_json_array(files, path, _detect_encoding(head, path))
    if text[:1] == "{" and not _is_json_lines(text, files, path):
        return _iterate_document_rows(_decode_text(files.read_bytes(path), path), path)
    if text[:1] != "{":
        return _iterate_csv_lines(files, path, head)
    plain = _detect_encoding(head, path) == "utf-8"
    return (
        files.read_json_lines(path)
        if plain
        else _iterate_decoded_json_lines(_decode_text(files.read_bytes(path), path), path)
    )


def _detect_encoding(head: bytes, path: Path) -> str:
    """Return the encoding of a text by its first bytes: UTF-8 where they are ASCII, a guess where they are no Unicode.

    Raises UsageError where several encodings are as likely.
    """
    whole = head if len(head) < HEAD_BYTES else head[: head.rfind(b"\n") + 1] or head[:-MAX_CHARACTER_BYTES]
    return encodings.detect_encoding(whole, f"{path}", 'save the file as "CSV UTF-8"')


def find_guessed_encoding(path: Path) -> str:
    """Return the encoding in which the rows of a file are read, if it is a guess. Else an empty text."""
    if path.is_dir():
        return ""
    head = read_head(path)
    if head.startswith(SQLITE) or tables.is_binary_table(head):
        return ""
    found = _detect_encoding(head, path)
    return "" if found.startswith("utf-") else found


def _decode_text(data: bytes, path: Path) -> str:
    encoding = _detect_encoding(data[:HEAD_BYTES], path)
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        what = f"is not {encoding.upper()}: {error.reason} at byte {error.start}"
        raise UsageError(f'{path}: {what}; save it as "CSV UTF-8", or as UTF-8') from None


def _is_json_lines(text: str, files: SafeFiles, path: Path) -> bool:
    """Return whether a text is JSON Lines and no single document.

    That is, it begins with an object on a line of its own, and more text follows.
    """
    first, end, rest = text.partition("\n")
    if not text.startswith("{") or not first.strip("{ \r"):
        return False
    if not end:  # a line that is longer than what was looked at
        with open_file(path, follow=True) as f:
            source = io.BytesIO(files.read_bytes(path)) if tables.is_compressed(f.peek(MAGIC_BYTES)) else f  # type: ignore[attr-defined]
            return b"{" in source.readline(MAX_LINE_BYTES) and bool(source.read(64).strip())
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return rest.lstrip().startswith("{")
    return bool(rest.strip())


def _iterate_decoded_json_lines(text: str, path: Path) -> Lines:
    """Yield the objects of JSON lines in another encoding than UTF-8."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path} line {number:,}"
            yield number, _require_object(parse_json(line, where, "; lines are never skipped"), path, number)


def _iterate_document_rows(text: str, path: Path) -> Lines:
    """Yield the rows of a JSON document that is no list."""
    found = parse_json(text, f"{path}")
    rows = tables.extract_json_rows(found)
    if isinstance(rows, dict):
        held = [v for v in rows.values() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)]
        keyed = [v for v in rows.values() if isinstance(v, dict) and len(v) > 1 and all(map(_is_object, v.values()))]
        if len(held) == 1:
            rows = held[0]
        elif not held and len(keyed) == 1 and {"configs"}.isdisjoint(rows):  # a row under each key, as of OpenCompass
            rows = [{"id": key, **row} for key, row in keyed[0].items()]
        else:
            rows = rows if {"results", "configs"} <= rows.keys() else [rows]
    if not isinstance(rows, list):
        lacks = "the results of lm_eval without rows; run it with --log_samples and name its folder"
        raise UsageError(f"{path}: is {lacks if isinstance(rows, dict) else 'a JSON value without rows'}")
    yield from ((number, _require_object(row, path, number)) for number, row in enumerate(rows, 1))


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _iterate_streamed_json_array(files: SafeFiles, path: Path, encoding: str) -> Lines:
    """Yield the objects of a JSON list as it is read.

    Neither the objects nor, unless compressed, their text are all in memory. Raises UsageError with the number of an
    invalid row.
    """
    number, place, buffer = 0, 0, ""
    with files.open_content(path) as content:
        text = _open_text(content, encoding)
        try:
            buffer = text.read(CHUNK_CHARS).lstrip("\ufeff \t\r\n")[1:]  # behind the bracket
            while True:
                while buffer[place : place + 1] in SPACE and (place < len(buffer) or (more := text.read(CHUNK_CHARS))):
                    buffer, place = (buffer, place + 1) if place < len(buffer) else (more, 0)
                if buffer[place : place + 1] == "]" and not (buffer[place + 1 :] + text.read()).strip():
                    return
                number += 1
                found, place, buffer = _decode_next_json_value(buffer, place, text)
                if isinstance(found, dict) and {"row", "row_idx"} <= found.keys():  # as the Hub's viewer gives them
                    found = found["row"]
                yield number, _require_object(found, path, number)
        except RecursionError:
            why = "it is nested too deeply"
        except UnicodeDecodeError:
            why = "it is not UTF-8"
        except ValueError as error:
            cut = "the list is cut; wait if the file is still being written" if place >= len(buffer) - 1 else str(error)
            why = "a number has thousands of digits" if "digits" in str(error) else shorten_text(cut, 80)
        raise UsageError(f"{path} row {number:,}: cannot be read; rows are never skipped ({why})")


def _decode_next_json_value(buffer: str, place: int, text: IO[str]) -> tuple[Any, int, str]:
    """Decode the next JSON value, reading on until it is complete.

    Returns the value, its end, and the buffer that the end refers to.
    """
    while True:
        try:
            return *DECODER.raw_decode(buffer, place), buffer
        except json.JSONDecodeError:
            if not (more := text.read(max(CHUNK_CHARS, len(buffer) - place))):
                raise
            buffer, place = buffer[place:] + more, 0


def _open_text(content: IO[bytes], encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(content, "utf-8-sig" if encoding == "utf-8" else encoding, newline="")


def _require_object(found: Any, path: Path, number: int) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        what = f"is {_add_article(type(found).__name__)}, not an object"
        raise UsageError(f"{path} row {number:,}: {what}; write each row as an object")
    return found


def _iterate_csv_lines(files: SafeFiles, path: Path, head: bytes) -> Lines:
    """Yield the rows of a CSV file with a header.

    All fields are texts, so that "0001" stays as it is.
    """
    encoding = _detect_encoding(head, path)
    begins = head.decode(encoding, "ignore").removeprefix("\ufeff").replace("\r\n", "\n")[: reading.SNIFFED_CHARS]
    separator, marked = reading.detect_separator(begins), bool(reading.SEPARATOR_LINE.match(begins))
    try:
        with files.open_content(path) as content:
            text = _open_text(content, encoding)
            if marked:
                text.readline()
            yield from _iterate_csv_rows(text, path, separator, 1 + marked)
    except UnicodeDecodeError:
        _decode_text(files.read_bytes(path), path)  # which says where
        raise


def _iterate_csv_rows(text: IO[str], path: Path, separator: str, first: int) -> Lines:
    """Yield the rows of a CSV text as dicts by header.

    `first` is the line number of the header. Raises UsageError with the line of an error.
    """
    reader = csv.reader(text, delimiter=separator, strict=True)
    try:
        names = next(reader, [])
        named = Counter(filter(None, names))  # a workbook saved as CSV may end in columns without a name
        if twice := [name for name, n in named.items() if n > 1] or names[MAX_COLUMNS:]:
            what = f'the column "{printable(twice[0])}" occurs twice, or there are too many (at most {MAX_COLUMNS:,})'
            raise UsageError(f"{path} line {first}: {what}")
        for fields in reader:
            number = reader.line_num + first - 1
            if fields and len(fields) != len(names):
                what = f"has {len(fields)} fields, but the header has {len(names)}"
                comma = ", or a comma in 1,5" if separator == "," else ""
                raise UsageError(f"{path} line {number:,}: {what}; check for a missing quote{comma}")
            if fields:
                yield number, dict(zip(names, fields, strict=True))
    except csv.Error as error:
        raise UsageError(
            f"{path} line {reader.line_num:,}: not valid CSV: {error}; correct it, since lines are never skipped"
        ) from None


def _iterate_sqlite_lines(data: bytes, path: Path, table: str) -> Lines:
    """Yield the rows of a database's only or named table.

    Raises UsageError if there is no such table, or the file is damaged.
    """
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.deserialize(data)
            named = "select name from sqlite_master where type in ('table', 'view') and name not like 'sqlite_%'"
            names = [name for (name,) in database.execute(f"{named} order by name")]
            if table not in names and (table or len(names) != 1):
                some = ", ".join(f'"{_shorten_name(name)}"' for name in names[:MAX_KEYS]) or "none"
                raise UsageError(f"{path}: is SQLite with the tables {some}; name one as FILE#TABLE")
            chosen = (table or names[0]).replace('"', '""')
            cursor = database.execute(f'select * from "{chosen}"')  # noqa: S608 (a name of the database, in quotes)
            columns = [column[0] for column in cursor.description]
            yield from ((n, dict(zip(columns, row, strict=True))) for n, row in enumerate(cursor, 1))
        except (sqlite3.Error, OverflowError) as error:
            raise UsageError(f"{path}: not valid SQLite: {shorten_text(str(error), 80)}; copy the file again") from None


def _iterate_saved_dataset_rows(files: SafeFiles, folder: Path) -> Lines:
    """Yield the rows of a folder that `save_to_disk` of datasets wrote."""
    if not (folder / SAVED).is_file():
        splits = ", ".join(map(_shorten_name, files.read_json(folder / SPLITS)["splits"]))
        raise UsageError(f"{folder}: has the splits {splits}; name the folder of one")
    number = 0
    for part in files.read_json(folder / SAVED)["_data_files"]:
        path = folder / Path(part["filename"]).name
        for row in tables.iterate_binary_table(files.read_bytes(path), f"{path}", MAX_TEXT_BYTES):
            number += 1
            yield number, row


def _shorten_name(name: Any) -> str:
    return shorten_text(printable(str(name)), 40)


def _add_article(kind: str) -> str:
    return f"{'an' if kind[:1] in 'aeioAEIHX' and kind else 'a'} {kind}"
