"""Rows with choices of their own: the right one is found as the evaluator finds it, or the row is left out."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import UsageError
from harness.init.layouts import Layout, find_layout

TEXTS = ["a cat", "a dog", "a cow"]


def read(*answers: Any, **others: Any) -> Layout:
    rows = [
        {"question": f"Which {i}?", "choices": TEXTS, "answer": answer, **others} for i, answer in enumerate(answers)
    ]
    found = find_layout(rows)
    assert found is not None and found.kind == "choice"
    return found


@pytest.mark.parametrize(
    ("answer", "right"),
    [(1, "a dog"), ("1", "a dog"), (1.0, "a dog"), ("B", "a dog"), ("a dog", "a dog"), (0, "a cat"), ("C", "a cow")],
)
def test_the_right_choice_is_found(answer: Any, right: str) -> None:
    """By its number from 0, its letter or its text; the row trains on its text."""
    [row] = read(answer).rows
    assert row == {"prompt": "Question: Which 0?\nAnswer:", "completion": right, "choices": TEXTS}


def test_a_label_goes_before_a_number() -> None:
    """Some rows of ARC have the labels 1 to 4."""
    [row] = read("1", choices={"text": TEXTS, "label": ["1", "2", "3"]}).rows
    assert row["completion"] == "a cat"


def test_numbers_from_1_are_refused() -> None:
    """Taken as numbers from 0, all but the last choice would be the wrong one."""
    with pytest.raises(UsageError, match='"answer" numbers the choices from 1; write numbers from 0'):
        read(1, 2, 3)
    assert [row["completion"] for row in read(0, 1, 2, 3).rows] == [*TEXTS, ""]


@pytest.mark.parametrize(
    ("answer", "choices", "why"),
    [
        ("D", TEXTS, "whose answer is none of its choices"),
        ("a bird", TEXTS, "whose answer is none of its choices"),
        (None, TEXTS, "whose answer is none of its choices"),
        ("A", ["a cat", "a cat"], "without two or more different choices"),
        ("A", ["a cat"], "without two or more different choices"),
        ("A", ["a cat", ""], "without two or more different choices"),
        ("A", None, "without two or more different choices"),
    ],
)
def test_other_rows_are_left_out(answer: Any, choices: Any, why: str) -> None:
    """Each with its reason."""
    good = {"question": "Which?", "choices": TEXTS, "answer": "A"}
    found = find_layout([good, {"question": "What?", "choices": choices, "answer": answer}])
    assert found is not None and found.refused == {1: why}


def test_questions_that_differ_in_their_choices_alone_are_kept() -> None:
    """Many questions of MMLU are "Which of the following is true?"."""
    rows = [{"question": "Which is true?", "choices": [f"{i}", "b"], "answer": "b"} for i in range(2)]
    found = find_layout(rows)
    assert found is not None and len({*found.asked}) == 2
