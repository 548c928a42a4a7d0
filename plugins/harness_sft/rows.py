"""Training rows: of one shape, whole, and split the same way for the same seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness import GROUP, HELD_OUT, UsageError, chat
from harness_sft.turns import mark_error

SHAPES = (("prompt", "completion"), ("messages",), ("text",))
Row = dict[str, Any]


def select_columns(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return what is trained on of each row, its number (from 1) as "row", and the marks it has.

    Raises UsageError, with row numbers, when there is no row, one has no shape or odd marks, or they are mixed.
    """
    if not rows:
        raise UsageError("[train] data: has no rows")
    shapes = [_shape(row) for row in rows]
    if None in shapes:
        numbers = [i for i, shape in enumerate(shapes, 1) if shape is None]
        raise UsageError(
            f"[train] data: {name_rows(numbers)}: want prompt and completion, or messages, or text, and not empty; "
            "map the columns with columns = {...}"
        )
    if len(set(shapes)) > 1:
        numbers = [i for i, shape in enumerate(shapes, 1) if shape != shapes[0]]
        raise UsageError(f"[train] data: {name_rows(numbers)}: of another shape than row 1; train on one shape")
    _, columns = shapes[0] or ("", ())
    found = take_columns(rows, columns)
    if odd := {row["row"]: why for row in found if (why := mark_error(row))}:
        raise UsageError(f"[train] data: {name_rows([*odd])}: {next(iter(odd.values()))}")
    return found


def take_columns(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[Row]:
    """Return these columns of each row, with template arguments where any row has them, its number and its marks."""
    given = {name for name in (chat.TOOLS, chat.ARGUMENTS) if any(row.get(name) for row in rows)}
    blank: dict[str, Any] = {chat.TOOLS: None, chat.ARGUMENTS: {}}
    marks = [{mark: row[mark] for mark in (GROUP, HELD_OUT) if mark in row} for row in rows]
    numbered = enumerate(zip(rows, marks, strict=True), 1)
    return [
        {column: row.get(column) for column in columns}
        | {name: row.get(name) or blank[name] for name in blank if name in given}
        | {"row": i}
        | more
        for i, (row, more) in numbered
    ]


Select = Callable[[Sequence[Mapping[str, Any]]], list[Row]]


def as_dataset(rows: Sequence[Row]) -> Any:
    """Return rows as a Dataset that keeps messages and tools as they are: a table gives an object the keys of all."""
    from datasets import Dataset, Features, Json, Value

    types = {str: Value("string"), int: Value("int64"), bool: Value("bool")}
    return Dataset.from_list(rows, features=Features({c: types.get(type(v), Json()) for c, v in rows[0].items()}))


def split_rows(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Hold out the rows that are marked so, or a share of them, at least one if the share is above zero.

    Rows of one group or with one prompt stay together, so what is held out is new; groups are drawn by the seed, and
    one that would exceed the share is passed over. Raises UsageError when nothing is left on one side.
    """
    held = {i for i, row in enumerate(rows) if row.get(HELD_OUT)}
    if share and held:
        raise UsageError("validation: there is validation_data as well; remove one of them")
    if share:
        count = max(1, round(share * len(rows)))
        groups = _groups(rows)
        random.Random(seed).shuffle(groups)  # noqa: S311 -- a reproducible split, not a secret
        for group in groups:
            if len(held) + len(group) <= count:
                held.update(group)
        if not held or len(held) == len(rows):
            raise UsageError(
                f"validation: holds out {count} of {len(rows)} rows in {len(groups)} groups; "
                "choose another share or give more data"
            )
    bare = [{k: v for k, v in row.items() if k not in (GROUP, HELD_OUT)} for row in rows]
    return [row for i, row in enumerate(bare) if i not in held], [row for i, row in enumerate(bare) if i in held]


def split_by(
    recipe: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], seed: int, select: Select = select_columns
) -> tuple[list[Row], list[Row]]:
    """Return the rows that a recipe trains on, and those it holds out; raises UsageError as `split_rows` does."""
    kept, held_out = split_rows(select(rows), recipe["validation"], seed)
    if recipe["patience"] and not held_out:
        raise UsageError("patience: there are no validation rows to judge by; set validation or validation_data")
    return kept, held_out


def _groups(rows: Sequence[Row]) -> list[list[int]]:
    """Return the numbers of rows that belong together: of one group, or with one prompt that is not most rows'."""
    asked = [repr(_question(row)) for row in rows]
    often = {prompt for prompt, n in Counter(asked).items() if n > max(3, len(rows) / 2)}
    root = list(range(len(rows)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = i = root[root[i]]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, (row, prompt) in enumerate(zip(rows, asked, strict=True)):
        keys = [("prompt", prompt if prompt not in often else repr(row | {"row": 0}))]
        keys += [("group", str(row[GROUP]))] if GROUP in row else []
        for key in keys:
            root[find(i)] = find(first.setdefault(key, i))
    found: dict[int, list[int]] = {}
    for i in range(len(rows)):
        found.setdefault(find(i), []).append(i)
    return list(found.values())


def _question(row: Row) -> Any:
    """Return what is asked: the prompt, all messages but the last, or the whole of a text."""
    messages = row.get("messages")
    return messages[:-1] if messages else row.get("prompt", row.get("text", row["row"]))


def name_rows(numbers: Sequence[int]) -> str:
    """Return the names of rows: "row 3", or "rows 3, 5, 8, 9, 12 and 40 more"."""
    first = ", ".join(map(str, numbers[:5]))
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"row{'s' if len(numbers) > 1 else ''} {first}{more}"


def _shape(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...]] | None:
    """Return "text" or "chat" and the columns of the first shape the row has, or None."""
    for columns in SHAPES:
        values = [row.get(c) for c in columns]
        if columns != ("messages",) and all(isinstance(v, str) for v in values) and values[-1]:
            return "text", columns
        if columns != ("text",) and all(_is_chat(v) for v in values):
            return "chat", columns
    return None


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, Mapping) and "role" in m for m in value)
