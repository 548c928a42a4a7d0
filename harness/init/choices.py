"""Rows with choices of their own, as MMLU, ARC, RACE and HellaSwag have them -> multiple choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from harness.data.choices import find_choice_index
from harness.errors import UsageError
from harness.init.turns import format_value, parse_json_cell

Row = dict[str, Any]
QUESTIONS = ("question", "question_stem", "query", "ctx", "prompt", "input")
CONTEXTS = ("context", "passage", "article")
CHOICES = ("choices", "options", "endings")
ANSWERS = ("answerkey", "answer", "label", "gold", "target")
CONTINUED = "ctx"  # a text that the choices continue, instead of a question that they answer


class ChoiceColumns(NamedTuple):
    """The columns of a question with choices. `context` is empty if there is none."""

    context: str
    question: str
    choices: str
    answer: str


class ChoiceRow(NamedTuple):
    """A row's prompt, choices and right choice. `refused` says why it cannot be used."""

    prompt: str
    choices: list[str]
    right: str
    refused: str


def find_choice_columns(rows: Sequence[Row], names: Mapping[str, str]) -> ChoiceColumns | None:
    """Return the columns of rows with choices. `names` maps names in small letters to the table's."""
    context, question, choices, answer = (
        next((names[n] for n in some if n in names), "") for some in (CONTEXTS, QUESTIONS, CHOICES, ANSWERS)
    )
    if not (question and choices and answer) or not any(_read_choices(row.get(choices))[0] for row in rows):
        return None
    return ChoiceColumns(context, question, choices, answer)


def read_choice_rows(rows: Sequence[Row], columns: ChoiceColumns) -> list[ChoiceRow]:
    """Return the rows as prompts with choices.

    The answer is the label, the text, the letter from A or the number from 0 of a choice, as in the evaluator
    `multiple_choice`. Raises UsageError if the answers are numbers from 1.
    """
    read = [(*_read_choices(row.get(columns.choices)), format_value(row.get(columns.answer))) for row in rows]
    numbers = [(int(a), len(t)) for t, labels, a in read if a.isdecimal() and a not in (*labels, *t)]
    if any(number == count for number, count in numbers) and all(number for number, _ in numbers):
        raise UsageError(f'"{columns.answer}" numbers the choices from 1; write numbers from 0, letters, or the text')
    return [_make_choice_row(row, columns, *one) for row, one in zip(rows, read, strict=True)]


def _make_choice_row(row: Row, columns: ChoiceColumns, texts: list[str], labels: list[str], answer: str) -> ChoiceRow:
    question, context = format_value(row.get(columns.question)), format_value(row.get(columns.context))
    asked = question if columns.question.strip().lower() == CONTINUED else f"Question: {question}\nAnswer:"
    index = find_choice_index(answer, texts, labels)
    refused = "whose answer is none of its choices" if index is None else ""
    if not question:
        refused = "without a question"
    elif len({*texts}) < max(2, len(texts)) or "" in texts:
        refused = "without two or more different choices"
    return ChoiceRow("\n".join(filter(None, (context, asked))), texts, "" if index is None else texts[index], refused)


def _read_choices(value: Any) -> tuple[list[str], list[str]]:
    """Return the texts of a cell's choices, and their labels if there are any."""
    given = parse_json_cell(value)
    texts, labels = (given.get("text"), given.get("label")) if isinstance(given, dict) else (given, None)
    if not isinstance(texts, list):
        return [], []
    return [format_value(text) for text in texts], [format_value(one) for one in labels or ()]
