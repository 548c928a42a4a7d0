"""Template arguments: what a chat template is given beside the messages, such as tools, or whether a model may think.

They stand on the first message of a prompt, under `ARGUMENTS`, so that whatever keeps, digests or remembers a prompt
holds them as well; what renders the messages takes them off.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import UsageError
from harness.texts.escaping import shorten_repr

ARGUMENTS, TOOLS = "chat_template_kwargs", "tools"  # columns of a row; the first is also a key of a suite's tables
SYSTEM_ROLES = ("system", "developer")
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
RESERVED_ARGUMENTS = (  # how messages are rendered and tokenised is not a row's to say
    "conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize",
    "sanitize_control_tokens", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs", "processor_kwargs",
)  # fmt: skip


def split_arguments(messages: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Split the template arguments off the messages."""
    found: dict[str, Any] = {}
    for message in messages:
        given = message.get(ARGUMENTS)
        found |= given if isinstance(given, Mapping) else {}
    return [{k: v for k, v in message.items() if k != ARGUMENTS} for message in messages], found


def join_arguments(messages: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages with template arguments on the first of them."""
    found = [dict(message) for message in messages]
    if arguments and found:
        found[0][ARGUMENTS] = dict(arguments)
    return found


def template_arguments(row: Mapping[str, Any], common: Mapping[str, Any], used: Sequence[str] = ()) -> dict[str, Any]:
    """Return the template arguments of a row: those of its table, then its own, then its tools.

    `used` names the row's columns that mean something else. Raises UsageError on what no template can be given, and on
    images and the like, which would be left out.
    """
    for column in MEDIA:
        if column not in used and row.get(column):
            raise UsageError(f'has "{column}", which prompts cannot contain here; remove such rows, or drop the column')
    found = dict(common)
    own, tools = (_parse_json_or_keep(row.get(name)) if name not in used else None for name in (ARGUMENTS, TOOLS))
    if own is not None and not isinstance(own, Mapping):
        raise UsageError(f'has {shorten_repr(own)} as its "{ARGUMENTS}"; it must be an object')
    found |= {name: value for name, value in (own or {}).items() if value is not None}
    if tools:
        if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
            raise UsageError(f'has {shorten_repr(tools)} as its "{TOOLS}"; give a list of objects, or drop the column')
        found[TOOLS] = tools
    if refused := [name for name in found if name in RESERVED_ARGUMENTS]:
        raise UsageError(f'has "{refused[0]}" in {ARGUMENTS}, which the harness sets itself; remove it')
    return found


def training_template_arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a training row's template arguments, including its tools."""
    return {**(row.get(ARGUMENTS) or {}), **({TOOLS: row[TOOLS]} if row.get(TOOLS) else {})}


def find_media(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the type of the first content part that is not text. Empty if there is none."""
    contents = (message.get("content") for message in messages)
    parts = (part for content in contents if isinstance(content, list) for part in content)
    return next((str(part.get("type")) for part in parts if part.get("type") != "text"), "")


def _parse_json_or_keep(value: Any) -> Any:
    """Parse JSON text, or return the value unchanged."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
