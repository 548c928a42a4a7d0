"""D7-keys: what a chat template does not write of a row is told by its name, on the templates of real models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2")
import jinja2

from harness.records.findings import Finding, TrainingRow
from harness_checks.batches import find_unread
from tests.helpers.late import import_late

import_late("trl")

CALL = {"type": "function", "function": {"name": "find", "arguments": {"thing": "anvil"}}}
TOOL = {"type": "function", "function": {"name": "find", "description": "Find.", "parameters": {}}}
Turns = list[dict[str, Any]]


def make_turns(*answers: dict[str, Any]) -> Turns:
    """Return a conversation with these answers."""
    found: Turns = []
    for i, answer in enumerate(answers):
        found += [
            {"role": "user", "content": f"Where is {i}?"},
            {"role": "assistant", "content": f"Room {i}.", **answer},
        ]
    return found


def find_unread_keys(name: str, row: Mapping[str, Any], raw: Mapping[str, Any] | None = None) -> dict[str, Finding]:
    """Return what is told of sixteen such rows under a template that TRL has, by the beginning of the line."""
    (folder,) = find_spec("trl").submodule_search_locations  # type: ignore[union-attr, misc]
    text = (Path(folder) / "chat_templates" / f"{name}.jinja").read_text("utf-8")
    given = {"trim_blocks": True, "lstrip_blocks": True, "extensions": ["jinja2.ext.loopcontrols"]}
    environment = jinja2.Environment(**given)
    environment.filters["tojson"] = lambda value, **_: json.dumps(value)
    environment.globals["raise_exception"] = lambda message: 1 / 0
    template = environment.from_string(text)

    def write(messages: Any, opened: bool, given: Mapping[str, Any]) -> str | None:
        try:
            return str(template.render(messages=messages, add_generation_prompt=opened, bos_token="<s>", **given))
        except Exception:
            return None

    rows = [TrainingRow(i, "train.jsonl", row, raw or row) for i in range(1, 17)]
    return {f.what: f for f in find_unread(rows, text, write)}


THOUGHT = {"reasoning_content": "It is big."}
INSIDE = {"content": "<think>\nIt is big.\n</think>\n\nRoom 1."}
HEALTHY: dict[str, tuple[str, dict[str, Any]]] = {
    "no keys": ("qwen3", {"messages": make_turns({}, {})}),
    "a thought in the last turn": ("qwen3", {"messages": make_turns({}, THOUGHT)}),
    "a thought in the content of the last turn": ("qwen3", {"messages": make_turns({}, INSIDE)}),
    "calls and tools": ("qwen2_5", {"messages": make_turns({"tool_calls": [CALL]}), "tools": [TOOL]}),
    "no thinking": (
        "qwen3",
        {
            "prompt": make_turns({})[:1],
            "completion": make_turns({})[1:],
            "chat_template_kwargs": {"enable_thinking": False},
        },
    ),
    "marks of turns": ("qwen2_5", {"messages": make_turns({"weight": 0}, {"train": True})}),
    "keys that hold nothing": ("phi3", {"messages": make_turns({"tool_calls": None, "name": ""})}),
}


@pytest.mark.parametrize("case", HEALTHY)
def test_what_is_written_is_no_finding(case: str) -> None:
    """Thoughts, calls, tools and arguments that the template writes are not told of."""
    name, row = HEALTHY[case]
    assert find_unread_keys(name, row) == {}


def test_a_key_with_another_name_is_told_with_the_template_s_own() -> None:
    """`thinking` is what Qwen3's template calls reasoning_content."""
    (found,) = find_unread_keys("qwen3", {"messages": make_turns({"thinking": "It is big."})}).values()
    assert found.what == '16 of 16 rows: the chat template does not render "thinking"'
    assert (found.severity, found.fix) == ("warning", 'rename it "reasoning_content", which the template renders')
    assert found.evidence[0] == "row 1, message 2"
    assert found.rows == {"training data": [str(i) for i in range(1, 17)]}


def test_keys_that_no_template_name_saves() -> None:
    """Thoughts under a template without them, calls and tools under Phi-3's; names and ids are a note."""
    (found,) = find_unread_keys("qwen2_5", {"messages": make_turns(THOUGHT)}).values()
    assert found.what == '16 of 16 rows: the chat template does not render "reasoning_content"'
    row = {"messages": make_turns({"tool_calls": [CALL], "name": "x"}), "tools": [TOOL]}
    kinds = {f.what.rpartition(" ")[2]: f.severity for f in find_unread_keys("phi3", row).values()}
    assert kinds == {'"tool_calls"': "error", '"tools"': "warning", '"name"': "note"}


@pytest.mark.parametrize(("thought", "key"), [(THOUGHT, "reasoning_content"), (INSIDE, "content")])
def test_thoughts_of_earlier_turns(thought: dict[str, str], key: str) -> None:
    """Where they are learnt it is a warning with the first place; in a prompt they are left out as in use."""
    both = make_turns(thought, {name: value.replace("big", "small") for name, value in thought.items()})
    (found,) = find_unread_keys("qwen3", {"messages": both}).values()
    assert found.what == f'the chat template omits "{key}", or a part of it, in 16 of 32 messages'
    assert (found.severity, found.evidence[0]) == ("warning", "row 1, message 2")
    row = {"prompt": both[:-1], "completion": both[-1:]}
    assert [f.severity for f in find_unread_keys("qwen3", row).values()] == ["note"] * (key != "content")


def test_a_system_column() -> None:
    """What stands beside the messages and is in none of them is not trained on; the same text in one of them is."""
    row = {"messages": make_turns({})}
    (found,) = find_unread_keys("qwen2_5", row, {**row, "system": "Be brief."}).values()
    assert "with the role" in found.fix
    assert (
        find_unread_keys(
            "qwen2_5",
            {"messages": [{"role": "system", "content": "Be brief."}, *make_turns({})]},
            {"system": "Be brief."},
        )
        == {}
    )
