"""Rows with choices of their own, as MMLU, ARC, PIQA, MedQA and SciQ have them -> multiple choice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from harness.data.choices import find_choice_index
from harness.data.column_names import (
    CHOICE_ANSWERS,
    CHOICE_CONTEXTS,
    CHOICE_LISTS,
    CHOICE_QUESTIONS,
    CONTINUED_TEXTS,
    WRONG_CHOICES,
)
from harness.data.turns import format_value, parse_json_cell

Row = dict[str, Any]
NUMBERED = re.compile(r"(option|choice|ending|answer|sol|op|)([a-j]|[0-9])")  # a column for each choice
NUMBERED_WRONG = re.compile(r"(distractor|incorrectanswer|wronganswer)([0-9])")


class ChoiceColumns(NamedTuple):
    """The columns of a question with choices. `context` is empty if there is none.

    `choices` is one column of lists, or a column for each choice. `others` says that these are the wrong ones alone.
    """

    context: str
    question: str
    choices: tuple[str, ...]
    answer: str
    others: bool = False


class ChoiceRow(NamedTuple):
    """A row's prompt, choices and right choice. `refused` says why it cannot be used."""

    prompt: str
    choices: list[str]
    right: str
    refused: str


def find_choices(rows: Sequence[Row], names: Mapping[str, str]) -> tuple[ChoiceColumns, list[ChoiceRow]] | None:
    """Return the columns of rows with choices, and the rows. `names` maps names in small letters to the table's.

    Columns for each choice count if most answers name one of them.
    """
    plain = {_strip_marks(name): column for name, column in names.items()}
    context, question, answer = (
        next((plain[n] for n in some if n in plain), "") for some in (CHOICE_CONTEXTS, CHOICE_QUESTIONS, CHOICE_ANSWERS)
    )
    if not (question and answer):
        return None
    for some, others in ((CHOICE_LISTS, False), (WRONG_CHOICES, True)):
        listed = next((plain[n] for n in some if n in plain), "")
        if listed and any(_read_choices(row.get(listed))[0] for row in rows):
            columns = ChoiceColumns(context, question, (listed,), answer, others)
            return columns, _read_choice_rows(rows, columns)
    for pattern, others in ((NUMBERED, False), (NUMBERED_WRONG, True)):
        for numbered in _find_numbered_columns(plain, pattern):
            columns = ChoiceColumns(context, question, numbered, answer, others)
            read = _read_choice_rows(rows, columns)
            if 2 * sum(not one.refused for one in read) > len(rows):
                return columns, read
    return None


def _read_choice_rows(rows: Sequence[Row], columns: ChoiceColumns) -> list[ChoiceRow]:
    """Return the rows as prompts with choices.

    The answer is the label, the text, the letter from A or the number from 0 of a choice, as in the evaluator
    `multiple_choice`. Numbers count from 1 if none is 0 and one is the number of choices.
    """
    read = [(*_read_row_choices(row, columns), format_value(row.get(columns.answer))) for row in rows]
    numbers = [(int(a), len(t)) for t, labels, a in read if a.isdecimal() and a not in (*labels, *t)]
    if any(number == count for number, count in numbers) and all(number for number, _ in numbers):
        read = [(t, labels or [str(i + 1) for i in range(len(t)) if a not in t], a) for t, labels, a in read]
    return [_make_choice_row(row, columns, *one) for row, one in zip(rows, read, strict=True)]


def _strip_marks(name: str) -> str:
    return re.sub(r"[\W_]+", "", name)


def _find_numbered_columns(plain: Mapping[str, str], pattern: re.Pattern[str]) -> list[tuple[str, ...]]:
    """Return the columns that differ in their letter or number alone, two or more of them, from the first on."""
    marks = dict[str, dict[str, str]]()
    for name, column in plain.items():
        if found := pattern.fullmatch(name):
            marks.setdefault(found[1], {})[found[2]] = column
    runs = [(given, run[: len(given)]) for given in marks.values() for run in ("abcdefghij", "0123456789", "123456789")]
    return [tuple(given[mark] for mark in run) for given, run in runs if len(run) > 1 and {*given} == {*run}]


def _make_choice_row(row: Row, columns: ChoiceColumns, texts: list[str], labels: list[str], answer: str) -> ChoiceRow:
    question, context = format_value(row.get(columns.question)), format_value(row.get(columns.context))
    continued = _strip_marks(columns.question.lower()) in CONTINUED_TEXTS
    asked = question if continued else f"Question: {question}\nAnswer:"
    index = find_choice_index(answer, texts, labels)
    refused = "whose answer is none of its choices" if index is None else ""
    if not question:
        refused = "without a question"
    elif len({*texts}) < max(2, len(texts)) or "" in texts:
        refused = "without two or more different choices"
    return ChoiceRow("\n".join(filter(None, (context, asked))), texts, "" if index is None else texts[index], refused)


def _read_row_choices(row: Row, columns: ChoiceColumns) -> tuple[list[str], list[str]]:
    """Return a row's choices, and their labels if there are any. Rows may have fewer choices than columns."""
    if len(columns.choices) == 1:
        texts, labels = _read_choices(row.get(columns.choices[0]))
    else:
        texts, labels = [format_value(row.get(column)) for column in columns.choices], []
        while texts and not texts[-1]:
            texts.pop()
    return [*texts, format_value(row.get(columns.answer))] if columns.others else texts, labels


def _read_choices(value: Any) -> tuple[list[str], list[str]]:
    """Return the texts of a cell's choices, and their labels if there are any.

    A cell is a list of texts, lists of texts and labels, a list of texts with labels, or texts by label.
    """
    given = parse_json_cell(value)
    labels: Any = None
    if isinstance(given, dict) and "text" in given:
        given, labels = given["text"], given.get("label")
    elif isinstance(given, dict) and not any(isinstance(text, (dict, list)) for text in given.values()):
        given, labels = [*given.values()], [*given]
    elif isinstance(given, list) and given and all(isinstance(one, dict) and "text" in one for one in given):
        given, labels = [one["text"] for one in given], [one["label"] for one in given if "label" in one]
    if not isinstance(given, list):
        return [], []
    return [format_value(text) for text in given], [format_value(one) for one in labels or ()]
