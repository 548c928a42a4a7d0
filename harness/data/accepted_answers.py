"""Answers of tables: several that count, and worked ones that end in a number."""

from __future__ import annotations

import re
from typing import Any

from harness.data.turns import format_value, parse_json_cell

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
    elif not (isinstance(value, list) and column.strip().lower() in ("answer", "answers", "target", "targets")):
        return None
    if not isinstance(given, list) or any(isinstance(text, (dict, list)) for text in given):
        return None
    return [*dict.fromkeys(text for one in given if (text := format_value(one)))]


def find_final_number(text: str) -> str:
    """Return the number that GSM8K's answers end with, after "####", without separators of thousands; else nothing."""
    found = FINAL_NUMBER.search(text)
    return found[1].replace(",", "") if found else ""
