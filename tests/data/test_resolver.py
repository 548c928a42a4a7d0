"""What columns are for: one answer at every door that reads rows of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.data.resolver import resolve_suite_rows, resolve_table
from harness.pipeline.run import Options, prepare_collection
from tests.helpers.suites_of_rows import write_suite

Row = dict[str, Any]


def make_turns(i: int) -> list[Row]:
    return [{"role": "user", "content": f"ask {i}"}, {"role": "assistant", "content": f"say {i}"}]


LAYOUTS: dict[str, tuple[Any, str, Any, str]] = {  # a row, its line, its prompt and its answer
    "chinese": (lambda i: {"问题": f"问 {i}", "答案": f"答 {i}"}, 'input: "问题", by its name', "问 3", "答 3"),
    "text and label": (
        lambda i: {"text": f"word {i} of many", "mood": "ab"[i % 2]}, 'label: "mood", by its name', "word 3 of many",
        "b",
    ),
    "unknown names": (
        lambda i: {"left": f"word {i} of many", "right": f"{i}"}, 'label: "right", the other column',
        "word 3 of many", "3",
    ),
    "alpaca": (
        lambda i: {"instruction": f"do {i}", "input": "", "output": f"done {i}"},
        'layout: Alpaca (instruction, input → output); prompt "instruction", "input", answer "output"',
        [{"role": "user", "content": "do 3"}], "done 3",
    ),
    "sharegpt": (
        lambda i: {"conversations": [{"from": "human", "value": f"ask {i}"}, {"from": "gpt", "value": f"say {i}"}]},
        'layout: ShareGPT; messages "conversations"', [{"role": "user", "content": "ask 3"}], "say 3",
    ),
    "system and question": (
        lambda i: {"system": "Be brief.", "question": f"ask {i}", "answer": f"say {i}"},
        'layout: system, question → answer; prompt "question", answer "answer", system "system"',
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "ask 3"}], "say 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_suite_reads_the_layouts_that_init_reads(name: str, tmp_path: Path) -> None:
    """Training and evaluation read a table without any mapping, and say what `init` says of it."""
    make, line, prompt, answer = LAYOUTS[name]
    rows = [make(i) for i in range(40)]
    collection = prepare_collection(write_suite(tmp_path, rows), Options())
    sample = collection.tasks["answers"].samples[3]  # type: ignore[index]
    assert (sample.input, sample.target) == (prompt, answer)
    (trained,) = [row for i, row in enumerate(collection.training or ()) if i == 3]
    assert answer in str(trained)
    assert str(prompt if isinstance(prompt, str) else prompt[-1]["content"]) in str(trained)
    assert [reading for reading in collection.readings if "[train]" in reading and reading.endswith(line)]
    said = resolve_table(rows, {}, lambda *_: pytest.fail("asked")).describe()
    places = {reading.rpartition(f": {one}")[0] for one in said for reading in collection.readings if one in reading}
    assert len(said) <= 6
    assert len(places) == 2, "each door says each line"


def test_names_of_a_suite_say_nothing() -> None:
    """Rows with a suite's own columns, or with declared ones, are left as they are."""
    own: list[list[Row]] = [
        [{"input": "a", "target": "b", "label": "c"}], [{"prompt": "a", "completion": "b"}],
        [{"messages": make_turns(1)}], [{"text": "a"}, {"text": "b"}],
        [{"question": "a", "choices": ["b"], "answer": 0}],
        [{"question": "a"}, {"question": "b"}],
    ]  # fmt: skip
    for rows in own:
        resolved = resolve_suite_rows(rows, {}, None)
        assert resolved.rows is rows
        assert not resolved.lines
    rows = [{"问题": "a", "答案": "b"}] * 3
    assert resolve_suite_rows(rows, {"input": "答案"}, None).rows is rows
    assert resolve_suite_rows(rows, {}, "{问题}").rows is rows


def test_columns_that_have_another_role_are_not_taken() -> None:
    """A slice or a cluster that a suite names is no label."""
    rows: list[Row] = [{"text": f"word {i} of many", "category": "ab"[i % 2]} for i in range(40)]
    assert resolve_suite_rows(rows, {}, None).rows[0]["target"] == "a"
    assert resolve_suite_rows(rows, {}, None, kept=["category"]).rows is rows


def test_a_row_that_a_layout_cannot_use_is_named(tmp_path: Path) -> None:
    """A row without an answer is not left out in silence."""
    rows = [LAYOUTS["alpaca"][0](i) for i in range(40)]
    rows[4]["output"] = ""
    with pytest.raises(Exception, match=r"row 5 is one without an input or an answer \(1 such rows\)"):
        prepare_collection(write_suite(tmp_path, rows), Options())
