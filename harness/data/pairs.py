"""Rows of answers that somebody judged, for trainers that learn from these: pairs, or answers with a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.data import reading
from harness.data.rows import Row, _extras
from harness.errors import Mistakes, UsageError

PAIR = ("chosen", "rejected")


def to_judged_rows(
    rows: Sequence[Row], names: Sequence[str], columns: Mapping[str, str], where: str, common: Mapping[str, Any]
) -> list[Row]:
    """Return the columns that a trainer asks for of each row, such as prompt, chosen and rejected.

    `columns` maps these names to the data's, `common` has template arguments of all rows. A question or an input is a
    prompt; the prompt of two conversations is what both begin with. Raises UsageError, with the number of the row,
    where a column is not there.
    """
    mistakes, made = Mistakes(), []
    for i, row in enumerate(rows):
        named = {**row, **{name: row[column] for name, column in columns.items() if column in row}}
        asked = next((named[name] for name in ("prompt", "question", "input") if name in named), None)
        named |= {"prompt": asked} if asked is not None else {}
        named |= split_pair(named) if set(PAIR) <= {*names} & named.keys() else {}
        try:
            if lacking := [name for name in names if name not in named]:
                here = ", ".join(f'"{c}"' for c in row)
                want = f"{', '.join(names[:-1])} and {names[-1]}"
                raise UsageError(f'{where}: row {i} has {here} and no "{lacking[0]}"; want {want}')
            taken = {name: named[name] for name in names}
            made.append(taken | _extras(i, {**row, "prompt": taken["prompt"]}, columns, where, common))
        except UsageError as error:
            mistakes.found += error.messages
    reading.shorten(mistakes, where)
    mistakes.raise_if_any()
    return made


def split_pair(row: Mapping[str, Any]) -> Row:
    """Return prompt, chosen and rejected of two conversations that both hold the prompt; nothing of other rows.

    The answers begin where the two part. Where they part in what is asked, the rejected one stays whole.
    """
    prompt, one, two = row.get("prompt"), row["chosen"], row["rejected"]
    if not (isinstance(one, list) and isinstance(two, list) and _asks(one)):
        return {}
    last = min(len(one), len(two)) - 1
    same = next((i for i in range(last) if one[i] != two[i]), max(last, 0))
    if isinstance(prompt, list) and prompt != one[: len(prompt)]:
        return {}
    if not (_is_answer(one[same : same + 1]) and _is_answer(two[same : same + 1])):
        return {"prompt": one[:-1], "chosen": one[-1:], "rejected": two}
    return {"prompt": one[:same], "chosen": one[same:], "rejected": two[same:]}


def _asks(messages: Sequence[Any]) -> bool:
    """Return whether messages begin with what is asked, not with the answer to it."""
    return bool(messages) and not _is_answer(messages)


def _is_answer(messages: Sequence[Any]) -> bool:
    return bool(messages) and isinstance(messages[0], Mapping) and messages[0].get("role") == "assistant"
