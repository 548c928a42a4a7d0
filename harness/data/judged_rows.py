"""Rows of preference trainers: pairs of answers, or answers with a label."""

from __future__ import annotations

from collections.abc import Sequence

from harness.data import reading
from harness.data.column_names import PROMPTS
from harness.data.layouts import WANTED
from harness.data.rows import (
    ANSWERS,
    Arguments,
    Columns,
    Row,
    Rows,
    answers_as_continuations,
    quote_names,
    read_answer,
    training_template_arguments,
)
from harness.data.turns import split_preference_pair
from harness.errors import Mistakes, UsageError, did_you_mean


def to_judged_rows(rows: Rows, names: Sequence[str], columns: Columns, where: str, common: Arguments) -> list[Row]:
    """Return rows with the columns that a preference trainer needs.

    `columns` maps these names, such as prompt, chosen and rejected, to the data's; `common` has the template arguments
    of all rows. A question or an input serves as the prompt; the prompt of two conversations is their common beginning.
    Texts are joined as in evaluation. Raises UsageError for an unknown column, or one that a row, given by its number,
    lacks.
    """
    mistakes = Mistakes()
    for name, column in columns.items():
        if name not in names:
            mistakes.add(where, f'columns: "{name}" is not used by this trainer{did_you_mean(name, names)}')
        elif any(column not in row for row in rows):
            mistakes.add(where, f'there is no column "{column}" for {name}; the columns are {quote_names(rows[0])}')
    mistakes.raise_errors()
    named = []
    for row in rows:
        found = {**row, **{name: row[column] for name, column in columns.items()}}
        asked = next((found[name] for name in PROMPTS if name in found), None)
        found |= {"prompt": asked} if asked is not None else {}
        named.append(
            found | (split_preference_pair(found) if {"chosen", "rejected"} <= {*names} & found.keys() else {})
        )
    want = f"rows need {', '.join(names[:-1])} and {names[-1]}; map the columns with columns = {{...}}"
    for name in names:
        if lacking := [n for n, row in enumerate(named, 1) if name not in row]:
            there = quote_names(rows[lacking[0] - 1])
            raise UsageError(
                f'{where}: row {lacking[0]} has {there} and no "{name}" ({len(lacking)} such rows); {want}'
            )
    made = []
    for number, (row, own) in enumerate(zip(rows, named, strict=True), 1):
        with mistakes.collecting():
            taken = answers_as_continuations(_read_judged_row({name: own[name] for name in names}))
            about = {**row, "prompt": taken["prompt"]}
            made.append(taken | training_template_arguments(number, about, columns, where, common))
    reading.limit_mistakes(mistakes, where)
    mistakes.raise_errors()
    return made


def _read_judged_row(row: Row) -> Row:
    """Return a row for a preference trainer with its answers as text or messages, and its label as true or false."""
    read = {name: read_answer(row[name], row) for name in ANSWERS if name in row}
    label = row.get("label")
    return {**row, **read} | ({"label": WANTED.get(label.lower(), label)} if isinstance(label, str) else {})
