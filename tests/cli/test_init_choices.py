"""Rows with choices of their own: the right one is found as the evaluator finds it, or the row is left out."""

from __future__ import annotations

from typing import Any

import pytest

from harness.data.layouts import Layout, find_layout

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


def test_numbers_count_from_1_if_one_is_the_number_of_choices() -> None:
    """Taken as numbers from 0, all but the last choice would be the wrong one. A row with 0 counts from 0."""
    assert [row["completion"] for row in read(1, 2, 3, "a dog").rows] == [*TEXTS, "a dog"]
    assert [row["completion"] for row in read(0, 1, 2, 3).rows] == [*TEXTS, ""]


@pytest.mark.parametrize(
    "row",
    [
        {"goal": "Which?", "sol1": "a cat", "sol2": "a dog", "label": 1},
        {"question": "Which?", "opa": "a cat", "opb": "a dog", "opc": "a cow", "opd": "", "cop": 1},
        {"Question": "Which?", "Option A": "a cat", "Option B": "a dog", "Correct Answer": "B"},
        {"prompt": "Which?", "A": "a cat", "B": "a dog", "C": "a cow", "answer": "B"},
        {"context": "Pets.", "question": "Which?", "answerA": "a cat", "answerB": "a dog", "label": "B"},
        {"startphrase": "It is", "ending0": "a cat", "ending1": "a dog", "ending2": "a cow", "label": 1},
        {"question": "Which?", "options": {"A": "a cat", "B": "a dog"}, "answer_idx": "B"},
        {"question": "Which?", "options": {"A": "a cat", "B": "a dog"}, "answer": "a dog", "answer_idx": "B"},
        {"question": "Which?", "choices": [{"label": "x", "text": "a cat"}, {"label": "y", "text": "a dog"}],
         "answerKey": "y"},
        {"question": "Which?", "distractor1": "a cat", "distractor2": "a cow", "correct_answer": "a dog"},
        {"question": "Which?", "incorrect_answers": ["a cat", "a cow"], "correct_answer": "a dog"},
        {"Question": "Which?", "Incorrect Answer 1": "a cat", "Incorrect Answer 2": "a cow",
         "Correct Answer": "a dog"},
    ],
    ids=lambda row: " ".join(row),
)  # fmt: skip
def test_choices_are_found_in_each_form(row: dict[str, Any]) -> None:
    """In a column for each, by label, or as the wrong ones beside the right one."""
    found = find_layout([row])
    assert found is not None and (found.kind, found.refused) == ("choice", {})
    assert found.rows[0]["completion"] == "a dog"
    assert {"a cat", "a dog"} <= {*found.rows[0]["choices"]} <= {*TEXTS}
    assert {*row} - found.used <= {"answer_idx"}


@pytest.mark.parametrize(
    "row",
    [
        {"question": "What is 3 + 4?", "a": 3, "b": 4, "answer": 7},
        {"sentence": "It is warm.", "option1": "", "option2": "", "label": 1},
        {"text": "It is warm.", "sentence": "It is.", "a": "x", "label": "A"},
    ],
    ids=lambda row: " ".join(row),
)
def test_other_columns_are_no_choices(row: dict[str, Any]) -> None:
    """Columns with short names count as choices if most answers name one of them."""
    assert find_layout([row]) is None


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
