"""Answers as models write them, each with what a careful person would give it: answers.jsonl beside this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import harness_domain
from harness import Sample
from harness.internals import chat
from tests.helpers.answers import score_answer

ROWS = [json.loads(line) for line in (Path(__file__).parent / "answers.jsonl").read_text("utf-8").splitlines()]
TOOLS: list[dict[str, Any]] = [
    {"name": "get_weather", "parameters": {"properties": {"city": {"type": "string"}, "days": {"default": 1}}}},
    {"name": "now"},
    {"name": "parse_json", "parameters": {"properties": {"text": {"type": "string"}, "strict": {"type": "boolean"}}}},
]


def _make_case_param(number: int, row: dict[str, Any]) -> Any:
    marks = [pytest.mark.xfail(reason=row["fails"])] if "fails" in row else []
    return pytest.param(row, id=f"{number}-{row['evaluator']}", marks=marks)


@pytest.mark.parametrize("row", [_make_case_param(number, row) for number, row in enumerate(ROWS, 1)])
def test_as_a_careful_person_scores_it(row: dict[str, Any]) -> None:
    """Each answer has the score that a person gives it who knows the options; those that have not are marked."""
    assert _score_case(row) == row["want"]


def test_there_are_enough() -> None:
    """At least 150 answers, of which at most five are scored otherwise."""
    assert len(ROWS) >= 150
    assert sum("fails" in row for row in ROWS) <= 5


def _score_case(row: dict[str, Any]) -> dict[str, float]:
    """Score a row as collection would make it: targets of some evaluators are JSON, and numbers are texts."""
    use, target = row["evaluator"], row["target"]
    if use in ("json", "tool_calls"):
        target = json.dumps(target)
    elif not isinstance(target, list):
        target = str(target)
    asked: Any = "?"
    if use == "tool_calls":
        asked = chat.join_arguments([{"role": "user", "content": "?"}], {"tools": TOOLS})
    options = row["options"] | ({"folder": Path()} if use == "json" else {})
    sample = Sample("x", asked, target, {"target": row["target"]})
    values = score_answer(getattr(harness_domain, use), row["answer"], sample, **options).values
    return {name: values[name] for name in row["want"]}
