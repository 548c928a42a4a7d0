"""A table of one's own: CSV, TSV, JSON lines or Parquet, a row a line, its score in a column."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from sys import intern
from typing import Any

from harness.data.identity import question_key
from harness.errors import UsageError, did_you_mean
from harness.rows.readers import fields as ask
from harness.rows.records import COLUMNS, RawMetric, RawRow, RawRows, State, Wanted
from harness.rows.safe_read import BOM, WHOLE, SafeFiles, parse_score
from harness.texts.escaping import printable

Lines = Iterator[tuple[int, ask.Told]]
PIECE = 10_000  # rows whose contents are told at a time
DEFAULTS = ("id", "score", "input", "target")  # columns that are read where a table has them and nobody says others
MOST_COLUMNS = 10_000
BATCH, CELL = 1024, 16  # rows that are unpacked at a time, and the bytes that a cell counts at least
NONE: ask.Told = {}


class Table(ask.RowReader):
    """Reads tables; whatever nobody else knows and looks like one."""

    name = "table"

    def sniff(self, path: Path, head: bytes) -> bool:
        """Return whether it begins as Parquet, as an object of JSON, or as a header with commas or tabs does."""
        text = head.removeprefix(BOM).lstrip()
        first = text.partition(b"\n")[0]
        return head.startswith(b"PAR1") or text[:1] == b"{" or (b"\0" not in head and (b"," in first or b"\t" in first))

    def rows(self, files: SafeFiles, path: Path, want: Wanted) -> RawRows:
        with path.open("rb") as f:
            head = f.read(4096).removeprefix(BOM).lstrip()
        if head.startswith(b"PAR1"):
            return read_table(path, _parquet(files.read_bytes(path), path), want)
        return read_table(
            path, files.read_json_lines(path) if head[:1] == b"{" else _csv(files.read_bytes(path), path), want
        )


def read_table(path: Path, lines: Lines, want: Wanted) -> RawRows:
    """Return the rows of a table, whatever it was read from. Raises UsageError with the line of what cannot be read."""
    rows, shared, columns = list[RawRow](), dict[Any, Any](), dict[str, str]()
    while piece := list(islice(lines, PIECE)):
        columns = columns or _columns(piece[0][1], want, path)
        rows += _made(path, piece, columns, want, shared)
    if not want.id:  # names that all are numbers name nothing, unless their column was named
        rows = ask.flag_positional_keys(rows, [row.key for row in rows])
    metric = want.metric or want.score or "score"
    return RawRows("table", path.stem, want.task or path.stem, {metric: RawMetric()}, rows)


def _csv(data: bytes, path: Path) -> Lines:
    """Yield the lines of a file with a header; all fields are texts, so that "0001" stays what it is."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from None
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in header else ",", strict=True)
    try:
        names = next(reader, [])
        if twice := [name for name, n in Counter(names).items() if n > 1] or names[MOST_COLUMNS:]:
            raise UsageError(f'{path} line 1: the column "{printable(twice[0])}" occurs twice, or there are too many')
        for fields in reader:
            if fields and len(fields) != len(names):
                what = (
                    f"has {len(fields)} fields, but the header has {len(names)}; check for a "
                    "missing quote, or a comma in 1,5"
                )
                raise UsageError(f"{path} line {reader.line_num:,}: {what}")
            if fields:
                yield reader.line_num, dict(zip(names, fields, strict=True))
    except csv.Error as error:
        raise UsageError(
            f"{path} line {reader.line_num:,}: not valid CSV: {error}; correct it, since lines are never skipped"
        ) from None


def _parquet(data: bytes, path: Path) -> Lines:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UsageError(
            f"{path}: a Parquet file needs pyarrow; pip install pyarrow, or write the table as CSV"
        ) from None
    try:
        count, unpacked = 0, 0
        for batch in pyarrow.parquet.ParquetFile(io.BytesIO(data)).iter_batches(batch_size=BATCH):
            unpacked += max(batch.nbytes, CELL * batch.num_rows * batch.num_columns)
            if unpacked > WHOLE:
                raise UsageError(f"{path}: unpacks to more than {WHOLE:,} bytes; remove columns or rows")
            yield from enumerate(batch.to_pylist(), count + 1)
            count += batch.num_rows
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UsageError(
            f"{path}: not valid Parquet: {printable(str(error))[:100]}; check that the file is complete"
        ) from None


def _columns(line: ask.Told, want: Wanted, path: Path) -> dict[str, str]:
    named = {name: column for name in COLUMNS if (column := getattr(want, name))}
    found = {name: name for name in DEFAULTS if name in line} | named
    if want.metric and not want.score:
        found["score"] = want.metric
    found |= dict(zip(("cluster", "second_cluster"), want.cluster, strict=False))
    for column in (*found.values(), *want.slices):
        if column not in line:
            raise UsageError(f'{path}: has no column "{printable(column)}"{did_you_mean(column, map(str, line))}')
    if "score" not in found:
        columns = ", ".join(f'"{printable(str(c))}"' for c in [*line][:8])
        raise UsageError(f'{path}: has no column "score"; name it with --score COLUMN (it has {columns})')
    return found


def _made(
    path: Path, piece: Sequence[tuple[int, ask.Told]], columns: Mapping[str, str], want: Wanted, shared: dict[Any, Any]
) -> list[RawRow]:
    """Return some lines as rows; what many rows have in common they share."""
    found, metric, slices = [], want.metric or columns["score"], want.slices
    told: list[Any] = [columns.get(name) for name in ("id", "cluster", "second_cluster", "repeat", "input", "target")]
    scores, weights = columns["score"], columns.get("weight")
    for line_number, line in piece:
        score = line.get(scores)
        if type(score) is not int or score not in (0, 1):  # as most are
            score = parse_score(score, f"{path} line {line_number:,}")
        if (values := shared.get(score)) is None:
            values = shared[score] = {} if score is None else {metric: float(score)}
        key, cluster, second, repeat, text, target = [v if type(v) is str else _text(v) for v in map(line.get, told)]
        if (weight := parse_score(line.get(weights), f"{path} line {line_number:,}") if weights else 1.0) is None:
            raise UsageError(f"{path} line {line_number:,}: has no weight; write 1, or 0 for a row that must not count")
        parts = tuple((c, _text(line.get(c))) for c in slices) if slices else ()
        time = shared.setdefault(("repeat", repeat), len(shared)) if repeat else 0
        state: State = "unscored" if score is None else "scored"
        content = question_key(text, target) if told[4] else ""
        own = shared.setdefault(parts, dict(parts)) if parts else NONE
        clusters = intern(cluster), intern(second)
        found.append(RawRow(key, False, content, "", values, state, "", time, weight, *clusters, own, NONE))
    return found


def _text(value: Any) -> str:
    return "" if value is None else str(value)
