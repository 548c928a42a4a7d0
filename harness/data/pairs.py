"""Rows of answers that somebody judged, for trainers that learn from these: pairs, or answers with a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.data import reading
from harness.data.rows import Row, extras, follow, listed
from harness.errors import Mistakes, UsageError, did_you_mean

PAIR = ("chosen", "rejected")


def to_judged_rows(
    rows: Sequence[Row], names: Sequence[str], columns: Mapping[str, str], where: str, common: Mapping[str, Any]
) -> list[Row]:
    """Return the columns that a trainer asks for of each row, such as prompt, chosen and rejected.

    `columns` maps these names to the data's, `common` has template arguments of all rows. A question or an input is a
    prompt; the prompt of two conversations is what both begin with. Between texts stands what does in evaluation.
    Raises UsageError, with the number of the row, where a column is not there.
    """
    mistakes = Mistakes()
    for name, column in columns.items():
        if name not in names:
            mistakes.add(where, f'columns: "{name}" is not trained on{did_you_mean(name, names)}')
        elif any(column not in row for row in rows):
            mistakes.add(where, f'no column "{column}" for {name}; its columns are {listed(rows[0])}')
    mistakes.raise_if_any()
    named = [_named(row, names, columns) for row in rows]
    want = f"want {', '.join(names[:-1])} and {names[-1]}; map the columns with columns = {{...}}"
    for name in names:
        if lacking := [i for i, row in enumerate(named) if name not in row]:
            there = listed(rows[lacking[0]])
            raise UsageError(f'{where}: row {lacking[0]} has {there} and no "{name}" ({len(lacking)} rows); {want}')
    made = []
    for i, (row, own) in enumerate(zip(rows, named, strict=True)):
        try:
            taken = follow({name: own[name] for name in names})
            made.append(taken | extras(i, {**row, "prompt": taken["prompt"]}, columns, where, common))
        except UsageError as error:
            mistakes.found += error.messages
    reading.shorten(mistakes, where)
    mistakes.raise_if_any()
    return made


def _named(row: Row, names: Sequence[str], columns: Mapping[str, str]) -> Row:
    """Return a row under the names of what is trained on."""
    found = {**row, **{name: row[column] for name, column in columns.items()}}
    asked = next((found[name] for name in ("prompt", "question", "input") if name in found), None)
    found |= {"prompt": asked} if asked is not None else {}
    return found | (split_pair(found) if set(PAIR) <= {*names} & found.keys() else {})


def split_pair(row: Mapping[str, Any]) -> Row:
    """Return prompt, chosen and rejected of two conversations that both hold the prompt; nothing of other rows.

    The answers begin where the two part. Where they part in what is asked, the rejected one stays whole.
    """
    prompt, one, two = row.get("prompt"), row["chosen"], row["rejected"]
    if not (isinstance(one, list) and isinstance(two, list) and one) or _is_answer(one):  # nothing is asked
        return {}
    last = min(len(one), len(two)) - 1
    same = next((i for i in range(last) if one[i] != two[i]), max(last, 0))
    if isinstance(prompt, list) and prompt != one[: len(prompt)]:
        return {}
    if not (_is_answer(one[same : same + 1]) and _is_answer(two[same : same + 1])):
        return {"prompt": one[:-1], "chosen": one[-1:], "rejected": two}
    return {"prompt": one[:same], "chosen": one[same:], "rejected": two[same:]}


def _is_answer(messages: Sequence[Any]) -> bool:
    return bool(messages) and isinstance(messages[0], Mapping) and messages[0].get("role") == "assistant"
