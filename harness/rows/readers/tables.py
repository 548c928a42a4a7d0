"""Tables of any tool: a row a line, its score in a column, which may lie in another one ("metric.acc")."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from sys import intern
from typing import Any

from harness.data.cells import ColumnReader
from harness.data.column_names import SCORED, SCORES, describe_role, find_named
from harness.data.identity import question_key
from harness.data.score_words import parse_score_word
from harness.errors import UsageError, did_you_mean
from harness.rows.readers import fields as ask
from harness.rows.readers import layouts
from harness.rows.readers.layouts import Lines
from harness.rows.records import COLUMNS, SIDES, UNSET_COLUMN, RawMetric, RawRow, RawRows, State, Wanted
from harness.rows.safe_read import SafeFiles, describe_tool_error, parse_score
from harness.rows.wording import MissingOptionError, write_option
from harness.texts.escaping import printable
from harness.texts.missing import MISSING_SCORES

PIECE_ROWS = 10_000  # rows whose contents are read at a time
SHOWN_COLUMNS = 8  # names of columns in a message
HEAD_ROWS = 100  # rows by which the columns of a table are known
ERROR, MODEL = "error", "model"  # columns that say that a row has no score, and whose row it is in a long table
NO_ERROR = MISSING_SCORES | {"false", "no"}
DECIMAL_COMMA, PERCENT = re.compile(r"[+-]?(\d*),(\d+)"), re.compile(r"([+-]?[\d.,]+)\s?%")
FLOAT_ID = re.compile(r"\d+\.0+")
NO_VALUES: ask.Told = {}


class Table(ask.RowReader):
    """Reader of tables, the fallback for files of unknown tools."""

    name, keeps_budget = "table", True

    def sniff(self, path: Path, head: bytes) -> bool:
        return layouts.is_table(path, head)

    def rows(self, files: SafeFiles, path: Path, want: Wanted) -> RawRows:
        column, chosen, value = want.label.partition("=")
        lines = layouts.read_lines(files, path, "" if chosen else want.label)
        if chosen:
            lines = _iterate_matching_lines(lines, column, value, path)
        found = read_table(path, lines, want)
        if encoding := layouts.find_guessed_encoding(path):
            guess = f'{path.name} is read as "{encoding}", a guess by its letters'
            found = replace(found, notes=(*found.notes, guess))
        return replace(found, model=value, part=want.label) if chosen else found


def read_table(path: Path, lines: Lines, want: Wanted) -> RawRows:
    """Convert the lines of a table to rows.

    The lines may come from a file or from Python. Raises UsageError with the line that cannot be read, or if there are
    rows of several models.
    """
    rows, shared, columns, models = list[RawRow](), dict[Any, Any](), dict[str, str](), set[str]()
    budget, cells = ask.TextBudget(want.texts), dict[str, ColumnReader]()
    long = MODEL not in (*want.slices, *want.cluster) and "=" not in want.label
    while piece := list(islice(lines, PIECE_ROWS)):
        columns = columns or _map_roles_to_columns([line for _, line in piece[:HEAD_ROWS]], want, path)
        if long:
            models |= {_format_cell_as_text(line[MODEL]) for _, line in piece if MODEL in line}
        if want.texts is None:
            _read_other_cells(cells, [line for _, line in piece], {*_list_declared(columns, want)}, len(rows))
        rows += (made := _make_rows(path, piece, columns, want, shared))
        budget.spend(rows, len(made))
    if len(models) > 1:
        some = ", ".join(map(ask.display_name, sorted(models)[:4]))
        raise UsageError(f"{path}: has rows of {len(models)} models ({some}); name one as FILE#{MODEL}=NAME")
    if all(FLOAT_ID.fullmatch(row.key) for row in rows if row.key):  # what pandas makes of whole numbers and gaps
        for row in rows:
            row.key = row.key.partition(".")[0]
    if "input" in columns and not want.id:  # numbers may be places, where more is known of a row
        rows = ask.flag_positional_keys(rows, [row.key for row in rows])
    part = want.score if want.base_score else ""
    kept = tuple(name for name in ("input", "target") if name in columns)
    return RawRows(
        "table",
        path.stem,
        want.task or path.stem,
        {_choose_metric_name(want, columns): RawMetric()},
        rows,
        columns=kept,
        part=part,
        input_column=columns.get("input", ""),
        cells={name: reader.finish() for name, reader in cells.items()},
        columns_told=_describe_roles(columns, want),
    )


def _list_declared(columns: Mapping[str, str], want: Wanted) -> list[str]:
    """Return the columns whose rows cannot be a cluster: those that a user named, and ids and scores."""
    given = [getattr(want, name) for name in (*COLUMNS, *SIDES)]
    known = [columns.get(role, "") for role in ("id", "score")]
    named = [*filter(None, [*given, *known]), *want.cluster, *want.slices, ERROR, MODEL]
    return [*named, *(column.partition(".")[0] for column in named)]  # of "metrics.acc" the object, too


def _read_other_cells(
    cells: dict[str, ColumnReader], lines: Sequence[ask.Told], declared: set[str], before: int
) -> None:
    """Read the cells of the columns that nobody declared. `before` rows were read already."""
    for name in dict.fromkeys(chain.from_iterable(lines)):
        if name not in declared:
            cells.setdefault(str(name), ColumnReader())
    for name, reader in cells.items():
        reader.pad(before)
        values = (line.get(name) for line in lines)
        reader.extend(value if type(value) is str else _format_cell_as_text(value) for value in values)


def _describe_roles(columns: Mapping[str, str], want: Wanted) -> tuple[str, ...]:
    """Return the columns that were read, by their roles, in a line."""
    named = {role: column for role, column in columns.items() if role != column and not getattr(want, role, "")}
    known = {role: printable(column) for role, column in named.items() if role in SCORED}
    return tuple(describe_role(role, [column], "by its name") for role, column in known.items())


def _choose_metric_name(want: Wanted, columns: Mapping[str, str]) -> str:
    """Return the name of the score.

    In a table with a column for each side it is "score", unless a metric is named.
    """
    score = columns.get("score", "score")
    return want.metric or ("score" if want.base_score or score.strip().lower() in SCORES else score)


def _iterate_matching_lines(lines: Lines, column: str, value: str, path: Path) -> Lines:
    """Yield the lines of a long table with a column's value.

    Raises UsageError if none has it.
    """
    seen, found, names = dict[str, None](), False, dict[str, None]()
    for number, line in lines:
        cell = line[column] if column in line else nested_cell(line, column)
        if cell is not None and _format_cell_as_text(cell) == value:
            found = True
            yield number, line
        elif len(seen) < HEAD_ROWS and cell is not None:
            seen[_format_cell_as_text(cell)] = None
        elif not found and len(names) < HEAD_ROWS:
            names |= dict.fromkeys(map(str, line))
    if not found and not seen:
        raise UsageError(f'{path}: has no column "{ask.display_name(column)}"{did_you_mean(column, names)}')
    if not found:
        known = ", ".join(f'"{ask.display_name(one)}"' for one in [*seen][:4])
        what = f'no row has "{ask.display_name(value)}" in "{ask.display_name(column)}"'
        raise UsageError(f"{path}: {what}{did_you_mean(value, seen)}; it has {known or 'no rows'}")


def _map_roles_to_columns(lines: Sequence[ask.Told], want: Wanted, path: Path) -> dict[str, str]:
    """Return the column of each role, from the first lines.

    Raises UsageError if a column is missing.
    """
    named = {name: column for name in COLUMNS if (column := getattr(want, name)) not in ("", UNSET_COLUMN)}
    there = dict.fromkeys(chain.from_iterable(lines))
    taken = {*named.values(), *want.cluster, *want.slices, *(getattr(want, side) for side in SIDES)}
    free = [column for column in map(str, there) if column not in taken]
    unset = [role for role in SCORED if getattr(want, role) == UNSET_COLUMN]
    ways = {role: find_named(free, names) for role, names in SCORED.items() if role not in unset}
    found = {role: column for role, column in ways.items() if column is not None} | named
    if want.metric and not want.score:
        found["score"] = want.metric
    metrics = [column for column in free if column.strip().lower() in ask.METRICS]
    if "score" not in found and len(metrics) == 1:
        found["score"] = metrics[0]
    found |= dict(zip(("cluster", "second_cluster"), want.cluster, strict=False))
    for column in (*found.values(), *want.slices):
        _make_getter(column, lines, path)
    if "score" not in found:
        raise _make_missing_score_error(lines, {*found.values(), *taken}, path)
    for line in lines:
        if isinstance(_make_getter(found["score"], lines, path)(line), Mapping):
            raise _make_score_object_error(found["score"], lines, path)
    return found


def _make_missing_score_error(lines: Sequence[ask.Told], taken: Collection[str], path: Path) -> UsageError:
    """Return the error for a table without a known column of scores, with the likeliest of its columns."""
    known = dict.fromkeys(map(str, chain.from_iterable(lines)))
    columns = ", ".join(f'"{printable(column)}"' for column in [*known][:SHOWN_COLUMNS])
    likely = [column for column in list_score_columns(lines) if column not in taken]
    say = write_option("score", printable(likely[0]) if likely else "COLUMN")
    message = f'{path}: has no column "score"; name it with {say} (it has {columns})'
    if not likely:
        return UsageError(message)
    others = ", ".join(f'"{printable(column)}"' for column in likely[1:SHOWN_COLUMNS])
    reason = "the column of scores" + (f"; or {others}" if others else f", of {columns}")
    return MissingOptionError(message, name="score", value=likely[0], reason=reason)


def _make_score_object_error(column: str, lines: Sequence[ask.Told], path: Path) -> UsageError:
    """Return the error for scores that are objects, with the likeliest value in them."""
    inside = [name for name in list_score_columns(lines) if name.startswith(f"{column}.")]
    first = next((str(key) for line in lines if isinstance(line.get(column), Mapping) for key in line[column]), "KEY")
    likely = inside[0] if inside else f"{column}.{first}"
    what = f'"{printable(column)}" is an object; name a value in it'
    message = f"{path}: {what}, such as {write_option('score', printable(likely))}"
    others = ", ".join(f'"{printable(name)}"' for name in inside[1:SHOWN_COLUMNS])
    reason = f'a value in the object "{printable(column)}"' + (f"; or {others}" if others else "")
    return MissingOptionError(message, name="score", value=likely, reason=reason)


def list_score_columns(lines: Sequence[ask.Told]) -> list[str]:
    """Return the columns whose cells are all scores, the likeliest first: known metrics, right and wrong, numbers.

    Values in objects are named by a dotted path. Whole numbers of which none repeats are ids.
    """
    cells = dict[str, list[Any]]()
    for line in lines:
        for name, value in line.items():
            inner = (
                {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, Mapping) else {name: value}
            )
            for column, one in inner.items():
                cells.setdefault(str(column), []).append(one)
    ranks = dict[str, int]()
    for column, values in cells.items():
        scores = [score for value in values if (score := _parse_score_or_nan(value)) is not None]
        whole = all(score.is_integer() for score in scores)
        metric = column.lower().rpartition(".")[2] in ask.METRICS
        if not scores or any(math.isnan(score) for score in scores):
            continue
        if metric:
            ranks[column] = 0
        elif {*scores} <= {0.0, 1.0}:
            ranks[column] = 1 if len({*scores}) > 1 else 2
        elif not (whole and len({*scores}) == len(scores)):
            ranks[column] = 2
    return sorted(ranks, key=lambda column: ranks[column])


def _parse_score_or_nan(value: Any) -> float | None:
    """Return a score, None where there is none, and NaN where a cell is no score."""
    try:
        return parse_table_score(value, "")
    except UsageError:
        return math.nan


def _make_getter(column: str, lines: Sequence[ask.Told], path: Path) -> Callable[[ask.Told], Any]:
    """Return a function that reads a column or a dotted path.

    Raises UsageError if no line has it.
    """
    if any(column in line for line in lines):
        return lambda line: line.get(column)
    if "." not in column or all(nested_cell(line, column) is None for line in lines):
        nested = (f"{k}.{i}" for line in lines for k, v in line.items() if isinstance(v, Mapping) for i in v)
        known = dict.fromkeys([*(str(name) for line in lines for name in line), *nested])
        raise UsageError(f'{path}: has no column "{printable(column)}"{did_you_mean(column, known)}')
    return lambda line: nested_cell(line, column)


def nested_cell(line: ask.Told, column: str) -> Any:
    """Return the value at a dotted path through objects and lists.

    A number in the path is a position in a list. None if there is no value.
    """
    value: Any = line
    for key in column.split("."):
        if isinstance(value, list) and key.isdecimal():
            value = value[int(key)] if int(key) < len(value) else None
        else:
            value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _make_rows(
    path: Path, piece: Sequence[tuple[int, ask.Told]], columns: Mapping[str, str], want: Wanted, shared: dict[Any, Any]
) -> list[RawRow]:
    """Convert a piece of a table to rows.

    Rows share equal values, to save memory. Raises UsageError with the line of an invalid score or weight.
    """
    found, metric, slices = list[RawRow](), _choose_metric_name(want, columns), want.slices
    names = ("id", "cluster", "second_cluster", "repeat", "input", "target", "answer")
    lines = [line for _, line in piece]
    cells = [_iterate_cells(lines, columns.get(name), path) for name in names]
    scores, weights = columns["score"], columns.get("weight")
    told = _iterate_cells(lines, scores, path), _iterate_cells(lines, weights, path)
    numbers = dict[str, float | None]()
    errors = ERROR if ERROR not in (*columns.values(), *slices) and any(ERROR in line for line in lines) else ""
    for (line_number, line), score, heavy, *texts in zip(piece, *told, *cells, strict=True):
        if type(score) is str:  # of which most tables have few
            if score not in numbers:
                numbers[score] = parse_table_score(score, f"{path} line {line_number:,}")
            score = numbers[score]
        elif type(score) is not int or score not in (0, 1):
            score = parse_table_score(score, f"{path} line {line_number:,}")
        why = _format_error(line.get(errors)) if errors else ""
        state: State = "error" if why else "unscored" if score is None else "scored"
        score = score if state == "scored" else None  # an error beside a score of 0 is no answer
        if (values := shared.get(score)) is None:
            values = shared[score] = {} if score is None else {metric: float(score)}
        key, cluster, second, repeat, text, target, answer = [
            v if type(v) is str else _format_cell_as_text(v) for v in texts
        ]
        if (weight := parse_score(heavy, f"{path} line {line_number:,}") if weights else 1.0) is None:
            raise UsageError(f"{path} line {line_number:,}: has no weight; write 1, or 0 for a row that must not count")
        parts = tuple((c, _format_cell_as_text(_make_getter(c, [line], path)(line))) for c in slices) if slices else ()
        time = shared.setdefault(("repeat", repeat), len(shared)) if repeat else 0
        content = question_key(text, target) if columns.get("input") else ""
        if want.texts is not None and content not in want.texts and key not in want.texts:
            continue  # read again for its texts
        own = shared.setdefault(parts, dict(parts)) if parts else NO_VALUES
        clusters = intern(cluster), intern(second)
        found.append(RawRow(
            key, False, content, "", values, state, why, time, weight, *clusters, own, NO_VALUES, text, target, answer
        ))  # fmt: skip
    return found


def _iterate_cells(lines: Sequence[ask.Told], column: str | None, path: Path) -> Iterator[Any]:
    """Return the cells of a column, None for an unread one."""
    if column is None:
        return iter([None] * len(lines))
    plain = any(column in line for line in lines)
    get = (lambda line: line.get(column)) if plain else _make_getter(column, lines, path) if "." in column else None
    return map(get, lines) if get else iter([None] * len(lines))


def parse_table_score(value: Any, where: str) -> float | None:
    """Return a score as a number: 0.9, "0,9", "90 %", or a word or letter of right and wrong (C and I are Inspect's).

    None where there is none. Raises UsageError at anything else.
    """
    if isinstance(value, str):
        text = value.strip()
        if (word := parse_score_word(text)) is not None:
            return word
        if text.lower() in MISSING_SCORES:
            return None
        if percent := PERCENT.fullmatch(text):
            share = parse_table_score(percent[1], where)
            return None if share is None else share / 100
        comma = DECIMAL_COMMA.fullmatch(text)
        if comma and not (len(comma[2]) == 3 and comma[1].strip("0")):  # 1,234 may be more than a thousand
            value = text.replace(",", ".")
    if isinstance(value, Mapping):
        path = f"COLUMN.{printable(str(next(iter(value), 'KEY')))}"
        inside = f"an object; name a value in it, such as {write_option('score', path)}"
        raise UsageError(f"{where}: the score is {inside}")
    return parse_score(value, where)


def _format_error(value: Any) -> str:
    """Return the error in a cell as text, else empty.

    A number is a metric, not an error.
    """
    if value in (None, False, "") or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return ""
    if isinstance(value, str) and (value.strip().lower() in NO_ERROR or _is_numeric_text(value)):
        return ""
    return describe_tool_error(value) if value else ""


def _is_numeric_text(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _format_cell_as_text(value: Any) -> str:
    """Return a cell as a text: whole floats as pandas makes them without their point, objects as JSON."""
    if value is None or value != value or type(value).__name__ in ask.MISSING_TYPES:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return json.dumps(value, sort_keys=True, default=str) if isinstance(value, (dict, list)) else str(value)
