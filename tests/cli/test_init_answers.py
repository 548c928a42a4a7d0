"""Answers of tables: several that count, and worked answers that end in a number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.data.accepted_answers import find_final_number, list_accepted_answers
from harness.pipeline.run import Options, prepare_collection

ROWS = 90


def make_suite(row: Callable[[int], dict[str, Any]], *options: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the parts that `harness init` makes of a table."""
    Path("a.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(ROWS)))
    assert main(["init", "mine", "--data", "a.jsonl", *options]) == 0
    assert prepare_collection(Path("mine/suite.toml"), Options()).warnings == ()
    return {
        part: [json.loads(line) for line in Path(f"mine/data/{part}.jsonl").read_text().splitlines()]
        for part in ("train", "confirm")
    }


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("value", "column", "want"),
    [
        ({"text": ["a", "b", "a"], "answer_start": [1, 2, 1]}, "answers", ["a", "b"]),
        ('{"text": ["a"], "answer_start": [1]}', "answers", ["a"]),
        ({"text": [], "answer_start": []}, "answers", []),
        ({"value": "a", "aliases": ["b", "a"], "type": "Numerical"}, "answer", ["a", "b"]),
        (["a", 2], "answer", ["a", "2"]),
        (["a", "b"], "labels", None),
        ('["a", "b"]', "answer", None),
        ({"name": "a"}, "answer", None),
        ([["a"], ["b"]], "answer", None),
        ({"text": "a", "answer_start": 1}, "answers", None),
        ({"value": "a", "aliases": "b"}, "answer", None),
        ("a", "answer", None),
    ],
)
def test_accepted_answers_are_listed(value: Any, column: str, want: list[str] | None) -> None:
    """Labels of one row are no alternatives, and text that happens to be JSON stays text."""
    assert list_accepted_answers(value, column) == want


def test_the_first_accepted_answer_is_trained_on_and_each_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """SQuAD has several annotators, and questions without an answer, which are left out."""
    texts = [[f"n {i}", f"the n {i}"] if i % 3 else [] for i in range(ROWS)]
    parts = make_suite(
        lambda i: {"context": f"Here is {i}.", "question": f"What is {i}?",
                   "answers": {"text": texts[i], "answer_start": [0] * len(texts[i])}}
    )  # fmt: skip
    assert {row["answers"] for row in parts["train"]} < {f"n {i}" for i in range(ROWS)}
    assert [row["answers"] for row in parts["confirm"]] == [texts[row["id"] - 1] for row in parts["confirm"]]
    assert "left out: 30 without an input, a label or a group" in (told := capsys.readouterr().err)
    assert "accepted: any of several answers in 60 rows" in told
    assert "constant answer" not in told + Path("mine/suite.toml").read_text()


def test_long_accepted_answers_are_scored_by_the_first() -> None:
    """A perplexity has one answer a row."""
    parts = make_suite(lambda i: {"question": f"What is {i}?", "answer": [f"{i} " * 40, f"{i} " * 41]})
    assert 'use = "perplexity"' in Path("mine/suite.toml").read_text()
    assert all(isinstance(row["answer"], str) for rows in parts.values() for row in rows)


def test_several_labels_of_a_row_are_all_learnt() -> None:
    """Each of them is meant, so that one of them alone is not right."""
    parts = make_suite(lambda i: {"text": f"t {i} of {i * 7 % 31}", "labels": [i % 3, 4] if i % 5 else []})
    labels = {row["id"]: row["labels"] for rows in parts.values() for row in rows}
    expected = {i + 1: f"{i % 3}, 4" if i % 5 else "none" for i in range(ROWS)}
    assert labels.items() <= expected.items()
    assert {*labels.values()} == {*expected.values()}


def test_worked_answers_are_trained_on_in_full_and_scored_by_their_number() -> None:
    """As lm_eval scores GSM8K."""
    parts = make_suite(lambda i: {"question": f"What is {i}?", "answer": f"{i} is {i}.\nSo\n#### {1000 + i:,}"})
    assert all("So\n#### 1,0" in row["answer"] for row in parts["train"])
    assert all(row["answer"] == str(999 + row["id"]) for row in parts["confirm"])
    suite = Path("mine/suite.toml").read_text()
    assert 'use = "numeric"\n' in suite and "stop = []" in suite and "decimal" not in suite


@pytest.mark.parametrize(
    ("text", "number"),
    [("so\n#### 7", "7"), ("so\n####-1,234,567.5 ", "-1234567.5"), ("so\n#### $20", "20"), ("so\n#### 7 apples", ""),
     ("#### 7", ""), ("so\n#### 7\nor 8", ""), ("so 7", ""), ("so\n#### 1,2", "")],
)  # fmt: skip
def test_a_final_number_is_a_number_alone(text: str, number: str) -> None:
    """Any other end leaves the answer a text."""
    assert find_final_number(text) == number
