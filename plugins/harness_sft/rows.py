"""Training rows: of one shape, whole, and split the same way for the same seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import UsageError

SHAPES = (("prompt", "completion"), ("messages",), ("text",))
Row = dict[str, Any]


def select_columns(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return what is trained on of each row, and its number (from 1) as "row".

    Raises UsageError, with row numbers, when there is no row, one has none of the shapes, or they are mixed.
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
    tools = any(row.get("tools") for row in rows)  # TRL renders them with the chat template
    columns += ("tools",) if tools else ()
    return [{column: row.get(column) for column in columns} | {"row": i} for i, row in enumerate(rows, 1)]


def split_rows(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Hold out a share of the rows, at least one if the share is above zero; raises UsageError if none is left."""
    count = max(1, round(share * len(rows))) if share else 0
    if count >= len(rows):
        raise UsageError(f"validation: holds out {count} of {len(rows)} rows; lower it or give more data")
    # S311: a reproducible split, not a secret
    held = set(random.Random(seed).sample(range(len(rows)), count))  # noqa: S311
    return [row for i, row in enumerate(rows) if i not in held], [row for i, row in enumerate(rows) if i in held]


def name_rows(numbers: Sequence[int]) -> str:
    """Name rows: "row 3", or "rows 3, 5, 8, 9, 12 and 40 more"."""
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
