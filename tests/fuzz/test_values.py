"""Rows, schemas and answers of the evaluators of numbers, JSON and calls of tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from harness import Sample
from harness.internals import chat
from harness_domain import json as documents
from harness_domain import numeric, tool_calls
from tests.fuzz.breaking import VALUES, draw_json_edits, draw_text_edits, dump_json
from tests.fuzz.driving import fuzz, run_harness
from tests.helpers.answers import Says

CALLS = [{"name": "f", "arguments": {"x": 1}}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"default": 1}}}}}]
ASKED = [{"role": "user", "content": "?"}]
ANSWERED = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
ROWS: list[dict[str, Any]] = [
    {"id": "a", "messages": ASKED, "tools": TOOLS, "target": CALLS},
    {"id": "b", "messages": [*ASKED, ANSWERED], "tools": TOOLS},
    {"id": "c", "input": "1 + 1?", "target": 2},
]
SCHEMA = {"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["a"]}
SUITE = """
[suite]
name = "v"

[model]
use = "fake"
path = "base"

[[eval]]
name = "v"
use = "USE"
data = "rows.jsonl"
"""
MARKS = (
    *("<function=f>", "<function=", "</function>", "<parameter=x>", "</parameter>", "<parameter="),
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "```json\n", "```", ";", "f(x=1)"),
    *(
        json.dumps(CALLS),
        json.dumps(CALLS[0]),
        "1,234.5",
        "-",
        "1/0",
        "×10^",
        "e9",
        "½",
        "$",
        "%",
        "NaN",
        "{",
        "]",
        '"',
    ),
)


@pytest.mark.slow
@fuzz(draw_json_edits(ROWS), st.sampled_from(["numeric", "json", "tool_calls", "regression"]))
def test_rows_of_values(rows: Any, use: str, world: Path) -> None:
    """Rows of anything are accepted, or told by their id."""
    lines = "".join(f"{dump_json(row)}\n" for row in rows) if isinstance(rows, list) else dump_json(rows)
    (world / "rows.jsonl").write_text(lines, "utf-8", "surrogatepass")
    (world / "values.toml").write_text(SUITE.replace("USE", use), "utf-8")
    run_harness("run", "values.toml", "--collect-only", "-p", "harness.testing")


@pytest.mark.slow
@fuzz(draw_json_edits(SCHEMA).map(dump_json) | draw_text_edits(dump_json(SCHEMA)) | VALUES.map(dump_json))
def test_schemas(data: str | bytes, world: Path) -> None:
    """A schema of anything is one, or told in a line; nothing is fetched."""
    content = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    (world / "schema.json").write_bytes(content)
    (world / "rows.jsonl").write_text('{"input": "?", "target": {"a": 1}}\n', "utf-8")
    (world / "values.toml").write_text(SUITE.replace("USE", "json") + 'schema = "schema.json"\n', "utf-8")
    run_harness("run", "values.toml", "--collect-only", "-p", "harness.testing")


@fuzz(
    st.lists(st.sampled_from(MARKS) | st.text(max_size=4) | VALUES.map(dump_json), max_size=10).map("".join),
    st.sampled_from(["auto", "hermes", "xml", "mistral", "llama3", "python", "json"]),
    st.sampled_from(["whole", "fence", "first"]),
)
def test_answers(answer: str, form: str, find: str) -> None:
    """Whatever a model says, every metric of the row is from 0 to 1."""
    model, asked = Says(answer), chat.join_arguments(ASKED, {"tools": TOOLS})
    found = [
        *numeric(model, [Sample("1", "?", "$5")], units={"$": 1.0}),
        *numeric(model, [Sample("1", "?", "5")]),
        *documents(model, [Sample("1", "?", '{"a": 1}')], folder=Path(), find=find, schema=SCHEMA),
        *tool_calls(model, [Sample("1", asked, json.dumps(CALLS))], format=form),  # type: ignore[arg-type]
    ]
    assert all(0 <= value <= 1 for score in found for value in score.values.values())
