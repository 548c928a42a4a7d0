"""Turns of a conversation, as training data writes them -> messages of a suite."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from harness.data import chat
from harness.errors import UsageError, did_you_mean
from harness.texts.escaping import shorten_text
from harness.texts.missing import MISSING_VALUES

Row = dict[str, Any]
SPEAKERS = {  # of ShareGPT, in small letters -> roles of messages
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "model": "assistant", "bot": "assistant", "system": "system", "tool": "tool", "observation": "tool",
    "function_call": "function_call",
}  # fmt: skip
READ_KEYS = ("role", "from", "content", "value")
KEPT_KEYS = ("tool_calls", "name", "tool_call_id", "weight", "train", "reasoning_content", "reasoning", "thinking")
TURN_LISTS = "give a list of messages with role and content, or of turns with from and value"


def to_messages(value: Any, index: int) -> list[Row]:
    """Convert a conversation to messages with role and content.

    Raises UsageError, naming the row, if it is malformed.
    """
    if isinstance(value, list) and value and all(isinstance(turn, str) for turn in value):  # LIMA's
        return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(value)]
    if isinstance(value, list) and value and all(map(_is_exchange, value)):  # Capybara's
        return [message for turn in value for message in _split_exchange(turn)]
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        shown = shorten_text(str(value), 40)
        raise UsageError(f"row {index + 1} has {json.dumps(shown)} as its conversation; {TURN_LISTS}")
    try:
        return [to_message(turn) for turn in value]
    except UsageError as error:
        raise UsageError(f"row {index + 1} {error}") from None


def _is_exchange(turn: Any) -> bool:
    return isinstance(turn, dict) and {"input", "output"} <= turn.keys()


def _split_exchange(turn: Row) -> list[Row]:
    return [
        {"role": "user", "content": format_value(turn["input"])},
        {"role": "assistant", "content": format_value(turn["output"])},
    ]


def to_message(turn: Row) -> Row:
    """Convert an OpenAI or ShareGPT turn to a message. Raises UsageError if its speaker is missing or unknown."""
    speaker, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if not isinstance(speaker, str):
        raise UsageError(f'has a turn without "role" or "from"; {TURN_LISTS}')
    if (role := SPEAKERS.get(speaker.lower(), speaker if speaker == "developer" else "")) == "":
        raise UsageError(
            f'has a turn from "{shorten_text(speaker, 40)}", which is unknown{did_you_mean(speaker, SPEAKERS)}'
        )
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "\n".join(str(part.get("text")) for part in content)
    elif not (isinstance(content, list) and all(isinstance(part, dict) for part in content)) and content is not None:
        content = content if isinstance(content, str) else format_value(content)
    others = {k: v for k, v in turn.items() if k in KEPT_KEYS and v is not None}
    if role == "function_call":
        calls = _parse_function_calls(content)
        if calls:
            return {"role": "assistant", "content": "", "tool_calls": calls}
    if isinstance(others.get("tool_calls"), list):
        others["tool_calls"] = [_parse_arguments(call) for call in others["tool_calls"]]
        content = "" if content is None else content
    return {"role": role, "content": content, **others}


def _parse_function_calls(content: Any) -> list[Row]:
    """Return ShareGPT's function calls, as messages have them. Empty where they are no JSON with a name."""
    parsed = parse_json_cell(content)
    calls = parsed if isinstance(parsed, list) else [parsed]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        return []
    return [_parse_arguments({"type": "function", "function": call}) for call in calls]


def _parse_arguments(call: Any) -> Any:
    """Return a call of a tool with its arguments as an object, which OpenAI writes as JSON text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    arguments = parse_json_cell(function["arguments"] or "{}")
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call


def is_turn(value: Any) -> bool:
    """Return whether a value has the keys of a message or of a ShareGPT turn."""
    keys = value.keys() if isinstance(value, dict) else set[str]()
    return keys >= {"from", "value"} or ("role" in keys and bool({"content", "tool_calls"} & keys))


def read_text_or_turns(value: Any, index: int) -> str | list[Row]:
    """Return messages where a value holds turns, else its text, unchanged."""
    parsed = parse_json_cell(value)
    turns = [parsed] if isinstance(parsed, dict) else parsed
    if isinstance(turns, list) and turns and all(map(is_turn, turns)):
        return to_messages(turns, index)
    return value if isinstance(value, str) else format_value(value)


def to_answer_turns(value: str | list[Row]) -> list[Row]:
    return value if isinstance(value, list) else [{"role": "assistant", "content": value.strip()}]


def read_history(value: Any, index: int) -> list[Row]:
    """Return earlier turns as messages; raises UsageError, naming the row, where they have another form."""
    if format_value(value).lower() in MISSING_VALUES:
        return []
    turns = parse_json_cell(value)
    if isinstance(turns, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
        texts = [format_value(text) for turn in turns for text in turn]
        return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    if isinstance(turns, list) and all(map(is_turn, turns)):
        return to_messages(turns, index)
    want = "give [[question, answer], ...] or messages"
    raise UsageError(f"row {index + 1} has {quote_start(value)} as its history; {want}")


def read_tools(value: Any, index: int) -> list[Row]:
    """Return the tools of a row; raises UsageError, naming the row, where they are no objects."""
    if format_value(value).lower() in MISSING_VALUES:
        return []
    tools = parse_json_cell(value)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise UsageError(
            f"row {index + 1} has {quote_start(value)} as its tools; give a list of objects, or drop the column"
        )
    return tools


def read_template_arguments(row: Row, names: Mapping[str, str], index: int) -> Row:
    """Return a row's tools and template arguments, where it has some."""
    arguments = parse_json_cell(row.get(names.get(chat.ARGUMENTS, "")))
    found = {chat.TOOLS: read_tools(row.get(names.get(chat.TOOLS, "")), index), chat.ARGUMENTS: arguments}
    return {name: value for name, value in found.items() if value and isinstance(value, (list, dict))}


def add_system_message(prompt: Any, system: str, *, alone: bool = False) -> Any:
    """Put a system text before a prompt, as a message before messages that have none. `alone` needs no prompt."""
    if isinstance(prompt, str):
        return "\n".join(filter(None, (system, prompt))) if prompt or alone else prompt
    if not system or not prompt or take_system_messages(prompt):
        return prompt
    return [{"role": "system", "content": system}, *prompt]


def take_system_messages(messages: Sequence[Row]) -> list[Row]:
    return [m for m in messages if m["role"] in chat.SYSTEM_ROLES]


def join_text(value: str | Sequence[Row]) -> str:
    """Return a text, or the contents of messages as one text."""
    if isinstance(value, str):
        return value.strip()
    return "\n".join(text for m in value for text in (format_value(m.get("content")), format_calls(m)) if text)


def format_calls(message: Row) -> str:
    """Return the calls of tools in a message as JSON: their names and arguments."""
    return json.dumps(list_calls(message), ensure_ascii=False) if message.get("tool_calls") else ""


def list_calls(message: Row) -> list[Row]:
    """Return the names and arguments of the calls of tools in a message."""
    calls = [call for call in message.get("tool_calls") or () if isinstance(call, dict)]
    functions = [call.get("function", call) for call in calls]
    return [{"name": one.get("name"), "arguments": one.get("arguments", {})} for one in functions]


def format_value(value: Any) -> str:
    """Return a value as text: numbers as people write them, objects and lists as JSON, null as nothing."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.0f}" if value.is_integer() else str(value)
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None or value != value else str(value).strip()


def quote_start(value: Any) -> str:
    return json.dumps(shorten_text(format_value(value), 40), ensure_ascii=False)


def parse_json_cell(value: Any) -> Any:
    """Parse a table cell that holds a JSON list or object. Any other value is returned unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def list_unread_keys(rows: Sequence[Row], columns: Collection[str]) -> list[str]:
    """Return the keys of turns that messages are made without."""
    cells = (parse_json_cell(row.get(column)) for column in columns for row in rows)
    turns = (turn for cell in cells for turn in (cell if isinstance(cell, list) else [cell]) if is_turn(turn))
    found = dict.fromkeys(key for turn in turns for key, value in turn.items() if value is not None)
    return [key for key in found if key not in (*READ_KEYS, *KEPT_KEYS)]


def split_preference_pair(row: Mapping[str, Any]) -> Row:
    """Split two conversations into prompt, chosen and rejected answer.

    Both hold the prompt, and the answers begin where the two differ. If they differ within the question, the rejected
    conversation stays whole. Empty for other rows.
    """
    prompt, one, two = row.get("prompt"), row["chosen"], row["rejected"]
    if not (isinstance(one, list) and isinstance(two, list) and one) or _has_leading_assistant_message(
        one
    ):  # nothing is asked
        return {}
    last = min(len(one), len(two)) - 1
    same = next((i for i in range(last) if one[i] != two[i]), max(last, 0))
    if isinstance(prompt, list) and prompt != one[: len(prompt)]:
        return {}
    if not (
        _has_leading_assistant_message(one[same : same + 1]) and _has_leading_assistant_message(two[same : same + 1])
    ):
        return {"prompt": one[:-1], "chosen": one[-1:], "rejected": two}
    return {"prompt": one[:same], "chosen": one[same:], "rejected": two[same:]}


def _has_leading_assistant_message(messages: Sequence[Any]) -> bool:
    return bool(messages) and isinstance(messages[0], Mapping) and messages[0].get("role") == "assistant"
