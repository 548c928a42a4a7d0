"""Answers of tables: several that count, and worked ones that end in a number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from harness.data.turns import format_value, parse_json_cell

ALTERNATIVES = ("answer", "answers", "target", "targets")  # columns of lists of which any answer counts
NO_LABEL = "none"  # of a row with an empty list of labels
FINAL_NUMBER = re.compile(r"\n#### *\$?([-+]?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?)\s*\Z")


def list_accepted_answers(value: Any, column: str) -> list[str] | None:
    """Return the different answers of a cell that lists those that count, as SQuAD, TriviaQA and NQ-Open do.

    None for any other list or object: several labels of a row are no alternatives.
    """
    given = parse_json_cell(value) if isinstance(value, str) else value
    if isinstance(given, dict) and {"text", "answer_start"} <= given.keys():  # SQuAD
        given = given["text"]
    elif isinstance(given, dict) and {"value", "aliases"} <= given.keys():  # TriviaQA
        given = [given["value"], *given["aliases"]] if isinstance(given["aliases"], list) else None
    elif not (isinstance(value, list) and column.strip().lower() in ALTERNATIVES):
        return None
    if not isinstance(given, list) or any(isinstance(text, (dict, list)) for text in given):
        return None
    return [*dict.fromkeys(text for one in given if (text := format_value(one)))]


def list_label_sets(values: Sequence[Any], column: str) -> list[list[str]] | None:
    """Return the labels of each cell of a column of lists, of which all are right at once.

    None for other columns, and for those of alternatives. Labels with a comma are none.
    """
    cells = [parse_json_cell(value) for value in values]
    if not any(isinstance(cell, list) for cell in cells) or column.strip().lower() in ALTERNATIVES:
        return None
    found = []
    for cell in cells:
        listed = cell if isinstance(cell, list) else [] if cell in (None, "") else [cell]
        labels = [format_value(label) for label in listed]
        if any(isinstance(label, (dict, list)) for label in listed) or any("," in label for label in labels):
            return None
        found.append([*dict.fromkeys(filter(None, labels))])
    return found


def find_final_number(text: str) -> str:
    """Return the number that GSM8K's answers end with, after "####", without separators of thousands; else nothing."""
    found = FINAL_NUMBER.search(text)
    return found[1].replace(",", "") if found else ""
