"""What a row asks, whatever it is written by."""

from __future__ import annotations

from typing import Any

import pytest

from harness.data.identity import add_question_keys, question_keys
from harness.data.rows import to_samples
from harness.records.samples import Sample

ROWS = [{"text": f"Where is parcel {i} of mine?", "label": f"L{i % 3}", "lang": "en"} for i in range(9)]
TEMPLATES = [
    "{text}",
    "Customer: {text}\nIntent:",
    "Customer: {text}\nIntent is:",
    "[{lang}] {text}",
    "Classify. {text} Answer in one word.",
    "{text}\n\n{lang}",
]


def make_samples(template: str | None, rows: list[dict[str, Any]] = ROWS) -> list[Sample]:
    columns = {"target": "label"} if template else {"input": "text", "target": "label"}
    return to_samples(rows, "here", columns=columns, cluster=None, slices=(), template=template)


def make_key_and_aliases(**row: Any) -> tuple[str, set[tuple[str, ...]]]:
    """Return the key of one row, and what it is known by."""
    made = Sample("a", row.pop("input", ""), row.pop("target", ""), row)
    return add_question_keys([made], None)[0].key, set(question_keys([made], None)) - {()}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_asks_the_same_rows(template: str) -> None:
    """However a prompt is written out of a row's columns, it is the row that is asked."""
    plain, written = question_keys(make_samples(None), None), question_keys(make_samples(template), template)
    assert all(any(set(row) & set(other) for other in plain) for row in written)
    assert len(set(written)) == len(set(plain)) == 9


def test_what_few_rows_differ_in_tells_none() -> None:
    """A column that is the same on most rows is no key: another question in the same language is another row."""
    other = [{**row, "text": f"Is bill {i} paid?"} for i, row in enumerate(ROWS)]
    asked, others = (question_keys(make_samples("[{lang}] {text}", rows), "[{lang}] {text}") for rows in (ROWS, other))
    assert not {key for row in asked for key in row} & {key for row in others for key in row}


SAME = {
    "blanks": ({"input": " Where  is\nParis? "}, {"input": "Where is Paris?"}),
    "case": ({"input": "WHERE is Paris?"}, {"input": "where is paris?"}),
    "what is not seen": ({"input": "Where is\u200b Paris?"}, {"input": "Where is Paris?"}),
    "Unicode": ({"input": "Cafe\u0301 ①"}, {"input": "café 1"}),
    "a chat of one": ({"input": [{"role": "user", "content": "Hi there"}]}, {"input": "hi there"}),
    "a system message": (
        {"input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi there"}]},
        {"input": "hi there"},
    ),
    "order of targets": ({"input": "a", "target": ["x", "y"]}, {"input": "a", "target": ["Y", "x"]}),
}


@pytest.mark.parametrize("case", SAME)
def test_spelling_asks_the_same(case: str) -> None:
    """Spelling, system messages and the shape of a prompt are no part of a question."""
    first, second = (make_key_and_aliases(**row) for row in SAME[case])
    assert first == second
    assert first[0]


OTHER = {
    "what is asked": ({"input": "Where is Paris?"}, {"input": "Where is Rome?"}),
    "what is wanted": ({"input": "a", "target": "x"}, {"input": "a", "target": "y"}),
    "what there is to choose from": ({"input": "a", "choices": ["x", "y"]}, {"input": "a", "choices": ["x", "z"]}),
    "who says it": (
        {"input": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"input": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]},
    ),
}


@pytest.mark.parametrize("case", OTHER)
def test_another_question_has_another_key(case: str) -> None:
    """Another question, target or choice is no copy."""
    first, second = (make_key_and_aliases(**row) for row in OTHER[case])
    assert first[0] != second[0]


def test_one_more_accepted_target_is_the_same_row() -> None:
    """A row is known by each of its targets, and is no copy of one with another of them."""
    first, second = make_key_and_aliases(input="a", target="x"), make_key_and_aliases(input="a", target=["x", "z"])
    assert first[0] != second[0]
    assert set(next(iter(first[1]))) < set(next(iter(second[1])))


def test_texts_are_known_by_their_text_and_models_by_nothing() -> None:
    """A document has a key, an evaluation of the model itself none; what is no Unicode breaks nothing."""
    assert make_key_and_aliases(text="A line of text") == make_key_and_aliases(text="a  line of text")
    assert make_key_and_aliases() == ("", set())
    assert make_key_and_aliases(input="a\ud800")[0]
