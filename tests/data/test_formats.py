"""Formats of tables: each gives the same rows, compressed or not, and a damaged file is one line."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from harness.data.reading import read_file
from harness.data.rows import to_samples
from harness.data.tables import decompress, extract_json_rows
from harness.errors import UsageError

ROWS = [{"text": f"row {i}, and a comma", "label": "good" if i % 2 else "bad"} for i in range(6)]


def write_csv(separator: str) -> bytes:
    lines = [separator.join(f'"{value}"' for value in row.values()) for row in ROWS]
    return "\n".join([separator.join(ROWS[0]), *lines]).encode()


def write_workbook(rows: list[dict[str, Any]]) -> bytes:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append([*rows[0]])
    for row in rows:
        book.active.append([*row.values()])
    made = io.BytesIO()
    book.save(made)
    return made.getvalue()


def write_arrow(kind: str) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table, made = pyarrow.Table.from_pylist(ROWS), io.BytesIO()
    if kind == "parquet":
        parquet.write_table(table, made)
        return made.getvalue()
    with (pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream)(made, table.schema) as writer:
        writer.write_table(table)
    return made.getvalue()


def encode_columns(of: Callable[[list[Any]], Any]) -> bytes:
    return json.dumps({name: of([row[name] for row in ROWS]) for name in ROWS[0]}).encode()


SPLIT = {"columns": [*ROWS[0]], "index": [*range(6)], "data": [[*row.values()] for row in ROWS]}
FORMATS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "csv": ("a.csv", lambda: write_csv(",")),
    "tsv": ("a.tsv", lambda: write_csv("\t")),
    "records": ("a.json", lambda: json.dumps(ROWS).encode()),
    "split": ("a.json", lambda: json.dumps(SPLIT).encode()),
    "columns of objects": ("a.json", lambda: encode_columns(lambda cells: dict(enumerate(cells)))),
    "columns of lists": ("a.json", lambda: encode_columns(list)),
    "wrapped": ("a.json", lambda: json.dumps({"version": 1, "data": ROWS}).encode()),
    "lines": ("a.jsonl", lambda: "\n".join(map(json.dumps, ROWS)).encode()),
    "lines as .json": ("a.json", lambda: "\n".join(map(json.dumps, ROWS)).encode()),
    "an array as .jsonl": ("a.jsonl", lambda: json.dumps(ROWS, indent=1).encode()),
    "parquet": ("a.parquet", lambda: write_arrow("parquet")),
    "arrow": ("a.arrow", lambda: write_arrow("file")),
    "arrow stream": ("a.arrow", lambda: write_arrow("stream")),
    "feather": ("a.feather", lambda: write_arrow("file")),
    "workbook": ("a.xlsx", lambda: write_workbook(ROWS)),
}


def compress_zstd(data: bytes) -> bytes:
    made: bytes = pytest.importorskip("zstandard").ZstdCompressor().compress(data)
    return made


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": compress_zstd,
}  # fmt: skip


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(name: str, packed: str, tmp_path: Path) -> None:
    """A format changes nothing, and neither does what it is compressed with."""
    file, write = FORMATS[name]
    (tmp_path / f"{file}{packed}").write_bytes(PACKED[packed](write()))
    assert read_file(tmp_path, f"{file}{packed}", "here") == ROWS


@pytest.mark.parametrize("packed", [".gz", ".bz2", ".xz", ".zst"])
def test_a_cut_or_large_file_is_one_line(packed: str, tmp_path: Path) -> None:
    """A file that ends early is refused by name, and one that unpacks to too much before it fills the memory."""
    data = PACKED[packed](json.dumps([{"text": f"{i * 7919 % 4001}"} for i in range(4000)]).encode())
    (tmp_path / f"a.json{packed}").write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match=r"a\.json.*: is not complete (gzip|bzip2|xz|zstd): .*; copy the file again$"):
        read_file(tmp_path, f"a.json{packed}", "here")
    with pytest.raises(UsageError, match=r"^x: unpacks to more than 1,000,000 bytes; split the file$"):
        decompress(PACKED[packed](b"0" * 50_000_000), "x", 1_000_000)


def test_two_frames_are_one_file() -> None:
    """Compressed files that were joined, as `cat a.gz b.gz` does, are read to the end."""
    for pack in (gzip.compress, bz2.compress, lzma.compress, compress_zstd):
        assert decompress(pack(b"one") + pack(b"two"), "x") == b"onetwo"


@pytest.mark.parametrize("name", ["a.parquet", "a.xlsx"])
def test_dates_and_decimals_are_text_in_every_format(name: str, tmp_path: Path) -> None:
    """A date is its ISO form and a decimal number its digits, so that they can be targets, slices and clusters."""
    cells = {"when": datetime(2024, 2, 3, 4, 5), "at": time(1, 2), "price": Decimal("1.50"), "of": {"day": date.min}}
    if name == "a.xlsx":
        cells = {key: cells[key] for key in ("when", "at")}
        (tmp_path / name).write_bytes(write_workbook([cells]))
    else:
        table = pytest.importorskip("pyarrow").Table.from_pylist([cells])
        pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / name)
    want = {"when": "2024-02-03T04:05:00", "at": "01:02:00", "price": "1.50", "of": {"day": "0001-01-01"}}
    rows = read_file(tmp_path, name, "here")
    assert rows == [{key: want[key] for key in cells}]
    columns = {"input": "when", "target": "price" if "price" in cells else "at"}
    [sample] = to_samples(rows, "here", columns=columns, cluster="when", slices=["at"])
    assert (sample.target, sample.cluster) == (want[columns["target"]], want["when"])


def test_a_formula_gives_its_result_or_is_refused(tmp_path: Path) -> None:
    """A workbook that no spreadsheet program computed has no results, and its line names the cell's row."""
    (tmp_path / "a.xlsx").write_bytes(write_workbook([{"a": "=1+1", "b": "x"}]))
    with pytest.raises(UsageError, match=r'a.xlsx: row 2 has the formula "=1.1" without its result'):
        read_file(tmp_path, "a.xlsx", "here")


def test_other_workbooks_are_one_line(tmp_path: Path) -> None:
    """Several sheets, cells beside the names, names that are missing, other zips and damage: each says what to do."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["a", "b"])
    book.create_sheet("Second").append(["c"])
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(UsageError, match=r'several sheets with rows \("Sheet", "Second"\); save the one'):
        read_file(tmp_path, "a.xlsx", "here")
    wrong: dict[str, list[list[Any]]] = {
        "row 2 has more cells than row 1 has names": [["a"], ["x", "y"]],
        "column 2 has no name in row 1; write one there": [["a", None, "b"], ["x", "y", "z"]],
        'the column "a" occurs twice; rename one': [["a", "a"], ["x", "y"]],
    }
    for what, cells in wrong.items():
        book = openpyxl.Workbook()
        for row in cells:
            book.active.append(row)
        book.save(tmp_path / "a.xlsx")
        with pytest.raises(UsageError, match=what):
            read_file(tmp_path, "a.xlsx", "here")
    whole = (tmp_path / "a.xlsx").read_bytes()
    (tmp_path / "a.xlsx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="is not a complete workbook"):
        read_file(tmp_path, "a.xlsx", "here")
    (tmp_path / "a.xlsx").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="is not valid XLSX; check its name, or copy the file again"):
        read_file(tmp_path, "a.xlsx", "here")


@pytest.mark.parametrize(
    "value", [{"a": 1}, {"columns": ["a"], "data": [[1, 2]]}, {"a": {"0": 1}, "b": {"1": 2}}, {}, 3]
)
def test_other_layouts_stay_as_they_are(value: Any) -> None:
    """What is no table of a known layout is left to the message about it."""
    assert extract_json_rows(value) == value
