"""Formats of tables: compressed files, layouts of JSON, Parquet, Arrow and workbooks -> rows."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import IO, Any, cast

from harness.errors import UsageError, missing_modules_message
from harness.texts.shortening import shorten_to_line

Row = dict[str, Any]
MAX_BYTES = 1 << 32  # of a file, decompressed
CHUNK, ZSTD_CHUNK = 1 << 20, 1 << 12  # bytes that are decompressed at a time, and bytes of zstd that are
COMPRESSED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
ZIP, PARQUET, ARROW, STREAM = b"PK\3\4", b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
BATCH_ROWS, MIN_CELL_BYTES = 1024, 16  # rows that are unpacked at a time, and bytes that a cell counts at least
MAX_MESSAGE_CHARS = 300  # characters of a library's message
WRAPPERS = ("data", "rows", "examples", "instances")  # keys of an object under which tools write the rows
FORMULA = "save the workbook in a spreadsheet program, which stores the results, or save the sheet as CSV"


def file_suffix(name: str) -> str:
    """Return a file's suffix in lower case, without the compression's."""
    path = PurePath(name.lower())
    return PurePath(path.stem).suffix if path.suffix in COMPRESSED_SUFFIXES else path.suffix


def is_compressed(data: bytes) -> bool:
    """Return whether a file is compressed, by its first bytes."""
    return data.startswith((*MAGIC,))


def decompress(data: bytes, where: str, limit: int = MAX_BYTES) -> bytes:
    """Decompress the content of a gzip, zstd, bzip2 or xz file.

    The format is detected from the first bytes; other content is returned unchanged. Raises UsageError if the file is
    truncated or damaged, or unpacks to more than `limit` bytes.
    """
    kind = next((name for magic, name in MAGIC.items() if data.startswith(magic)), "")
    if not kind:
        return data
    parts, size = list[bytes](), 0
    try:
        with _open_compressed(kind, data, where) as stream:
            while part := stream.read(CHUNK):
                size += len(part)
                if size > limit:
                    raise UsageError(f"{where}: unpacks to more than {limit:,} bytes; split the file")
                parts.append(part)
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise UsageError(f"{where}: is not complete {kind}: {_shorten_error(error)}; copy the file again") from None
    return b"".join(parts)


def decompress_start(data: bytes, where: str) -> bytes:
    """Decompress the first bytes of a possibly compressed file."""
    kind = next((name for magic, name in MAGIC.items() if data.startswith(magic)), "")
    if not kind:
        return data
    with suppress(EOFError, OSError, zlib.error, lzma.LZMAError):
        if kind == "gzip":
            return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, CHUNK)
        if kind == "zstd":
            reader, parts = _ZstdReader(data, where), list[bytes]()
            with suppress(EOFError):
                while sum(map(len, parts)) < CHUNK and (part := reader.read()):
                    parts.append(part)
            return b"".join(parts)
        return (bz2.BZ2Decompressor() if kind == "bzip2" else lzma.LZMADecompressor()).decompress(data, CHUNK)
    return b""


def _open_compressed(kind: str, data: bytes, where: str) -> IO[bytes]:
    if kind == "zstd":
        return cast(IO[bytes], _ZstdReader(data, where))
    stream = io.BytesIO(data)
    if kind == "gzip":
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    return bz2.BZ2File(stream) if kind == "bzip2" else lzma.LZMAFile(stream)


class _ZstdReader(io.RawIOBase):
    """A reader of consecutive zstd frames.

    Raises EOFError if the last frame is truncated, as `gzip` does.
    """

    def __init__(self, data: bytes, where: str) -> None:
        try:
            import zstandard
        except ModuleNotFoundError:
            raise UsageError(f"{where}: is compressed by zstd, which {missing_modules_message('zstandard')}") from None
        self._library, self._input = zstandard, io.BytesIO(data)
        self._frame = zstandard.ZstdDecompressor().decompressobj()

    def read(self, size: int = -1) -> bytes:
        while piece := self._input.read(ZSTD_CHUNK):
            if self._frame.eof:
                self._frame = self._library.ZstdDecompressor().decompressobj()
            try:
                found: bytes = self._frame.decompress(piece)
            except self._library.ZstdError as error:
                raise OSError(str(error)) from None
            if unused := self._frame.unused_data:
                self._input.seek(-len(unused), io.SEEK_CUR)
            if found:
                return found
        if not self._frame.eof:
            raise EOFError("it ends before its last frame does")
        return b""


def is_binary_table(data: bytes) -> bool:
    """Return whether the first bytes are of Parquet, Arrow or zip. A workbook is a zip file."""
    return data.startswith((PARQUET, ARROW, STREAM, ZIP))


def read_binary_table(data: bytes, where: str, limit: int = MAX_BYTES) -> list[Row]:
    """Return the rows of a Parquet, Arrow or .xlsx file. See `iterate_binary_table`."""
    return list(iterate_binary_table(data, where, limit))


def iterate_binary_table(data: bytes, where: str, limit: int = MAX_BYTES) -> Iterator[Row]:
    """Yield the rows of a Parquet, Arrow or .xlsx file.

    Parquet and Arrow are converted about a thousand rows at a time. Raises UsageError if the file is damaged or too
    large, or if the module that reads it is not installed.
    """
    if data.startswith(ZIP):
        yield from read_workbook(data, where, limit)
        return
    kind = "Parquet" if data.startswith(PARQUET) else "Arrow"
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UsageError(f"{where}: is {kind}, which {missing_modules_message('pyarrow')}") from None
    size, source = 0, pyarrow.BufferReader(data)
    try:
        if kind == "Parquet":
            batches = pyarrow.parquet.ParquetFile(source).iter_batches(batch_size=BATCH_ROWS)
        elif data.startswith(ARROW):
            opened = pyarrow.ipc.open_file(source)
            batches = map(opened.get_batch, range(opened.num_record_batches))
        else:
            batches = pyarrow.ipc.open_stream(source)
        for batch in batches:
            size += max(batch.nbytes, MIN_CELL_BYTES * batch.num_rows * batch.num_columns)  # of nulls, which take none
            if size > limit:
                raise UsageError(f"{where}: unpacks to more than {limit:,} bytes; remove columns or rows")
            _require_unique_columns(batch.schema.names, where)
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield from batch.slice(start, BATCH_ROWS).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, IndexError) as error:
        raise UsageError(f"{where}: not valid {kind}: {_shorten_error(error)}; copy the file again") from None


def read_workbook(data: bytes, where: str, limit: int = MAX_BYTES) -> list[Row]:
    """Return the rows of a workbook's only filled sheet.

    The first row names the columns. Cells are text, numbers, Booleans or dates (as ISO 8601); a formula counts as its
    stored result. Raises UsageError for several filled sheets, formulas without a result, cells without a column name,
    and damaged files.
    """
    try:
        import openpyxl
        from openpyxl.utils.exceptions import InvalidFileException
    except ModuleNotFoundError:
        what = f"is a workbook, which {missing_modules_message('openpyxl')}, or save the sheet as CSV UTF-8"
        raise UsageError(f"{where}: {what}") from None
    try:
        members = zipfile.ZipFile(io.BytesIO(data)).infolist()
        if sum(member.file_size for member in members) > limit:
            raise UsageError(f"{where}: unpacks to more than {limit:,} bytes; save the sheet as CSV UTF-8")
        if not any(member.filename.startswith("xl/") for member in members):
            raise UsageError(f"{where}: is a zip file, not a workbook; unpack it and name the file")
        values, formulas = (
            openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=only) for only in (True, False)
        )
        filled = [name for name in values.sheetnames if next(_iterate_filled_rows(values[name]), None)]
        if len(filled) > 1:
            sheets = ", ".join(f'"{name}"' for name in filled)
            raise UsageError(f"{where}: has several sheets with rows ({sheets}); save the one you need as CSV UTF-8")
        if not filled:
            return []
        return _read_sheet_rows(values[filled[0]], formulas[filled[0]], where)
    except (zipfile.BadZipFile, InvalidFileException, zlib.error, EOFError, OSError) as error:
        raise UsageError(f"{where}: is not a complete workbook: {_shorten_error(error)}; copy the file again") from None
    except (KeyError, ValueError, TypeError, AttributeError, SyntaxError) as error:  # of openpyxl, at odd XML
        raise UsageError(
            f"{where}: the workbook cannot be read: {_shorten_error(error)}; save the sheet as CSV"
        ) from None


def _iterate_filled_rows(sheet: Any) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield the number and the cells of each non-empty row."""
    for number, cells in enumerate(sheet.iter_rows(values_only=True) if hasattr(sheet, "iter_rows") else (), 1):
        if any(cell is not None for cell in cells):
            yield number, cells


def _read_sheet_rows(sheet: Any, formulas: Any, where: str) -> list[Row]:
    rows, names, written = list[Row](), list[str](), dict(_iterate_filled_rows(formulas))
    for number, cells in _iterate_filled_rows(sheet):
        for column, source in enumerate(written.get(number, ())):
            if isinstance(source, str) and source.startswith("=") and (len(cells) <= column or cells[column] is None):
                what = f'has the formula "{source[:40]}" without its result'
                raise UsageError(f"{where}: row {number} {what}; {FORMULA}")
        if not names:
            last = max(i for i, cell in enumerate(cells) if cell is not None) + 1
            names = ["" if cell is None else str(cell).strip() for cell in cells[:last]]
            if "" in names:
                raise UsageError(f"{where}: column {names.index('') + 1} has no name in row {number}; write one there")
            _require_unique_columns(names, where)
            continue
        if any(cell is not None for cell in cells[len(names) :]):
            raise UsageError(f"{where}: row {number} has more cells than row 1 has names; name every column")
        padded = (*cells, *[None] * len(names))[: len(names)]
        rows.append({name: to_plain_cell(value) for name, value in zip(names, padded, strict=True)})
    return rows


def to_plain_cell(value: Any) -> Any:
    """Return a cell as JSON could hold it: a date or a time in ISO 8601, a decimal number and a duration as text."""
    if isinstance(value, (date, time)):
        return value.isoformat()
    return str(value) if isinstance(value, (Decimal, timedelta)) else value


def _require_unique_columns(names: Sequence[str], where: str) -> None:
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise UsageError(f'{where}: the column "{twice[0]}" occurs twice; rename one')


def extract_json_rows(value: Any) -> Any:
    """Return the rows of a JSON value in a known layout.

    The layouts are those of pandas, W&B, mlflow and data sets: a list of objects (records), {"columns": [...], "data":
    [[...]]} (split), {"column": {"0": ...}} and {"column": [...]} (columns), and an object that holds the list under
    its only key, or under "data", "rows", "examples" or "instances". Any other value is returned unchanged.
    """
    if isinstance(value, list):
        inner = [row.get("row") for row in value if isinstance(row, dict) and {"row", "row_idx"} <= row.keys()]
        return inner if inner and len(inner) == len(value) else value
    if not isinstance(value, dict) or not value:
        return value
    names, data = value.get("columns"), value.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        fits = all(isinstance(n, str) for n in names) and all(len(row) == len(names) for row in data)
        return [dict(zip(names, row, strict=True)) for row in data] if fits else value
    held = [value[key] for key in (value if len(value) == 1 else WRAPPERS) if isinstance(value.get(key), list)]
    if len(held) == 1 and all(isinstance(row, dict) for row in held[0]):
        return extract_json_rows(held[0])
    if all(isinstance(cells, dict) for cells in value.values()):
        keys = dict.fromkeys(key for cells in value.values() for key in cells)
        if all(cells.keys() == keys.keys() for cells in value.values()):
            return [{name: cells[key] for name, cells in value.items()} for key in keys]
    cells_of = list(value.values())
    if all(isinstance(cells, list) and not any(isinstance(cell, dict) for cell in cells) for cells in cells_of) and (
        len({len(cells) for cells in cells_of}) == 1
    ):
        return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
    return value


def _shorten_error(error: BaseException) -> str:
    return shorten_to_line(error, MAX_MESSAGE_CHARS) or type(error).__name__
