"""Rows that could be read in two ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.data.rows import NAMES, Columns


def find_ambiguous_row(
    rows: Sequence[Mapping[str, Any]], columns: Columns, template: str | None, *, training: bool
) -> str:
    """Describe the first row that can be read in two ways.

    Empty if `columns` and the template settle the reading of every row. A `text` beside an input and a target is a
    second reading in training only: evaluations never use it. An input or a target beside messages is one in evaluation
    only: training on messages reads neither.
    """
    if "text" in columns or "messages" in columns:
        return ""
    chosen = {*columns, *(["input"] if template else [])}
    for number, row in enumerate(rows, 1):
        if what := _describe_ambiguous_readings(
            [name for name, value in row.items() if value is not None], chosen, training
        ):
            return f"row {number} {what}"
        if not (training or chosen & NAMES.keys()) and (what := _describe_second_question(row)):
            return f"row {number} {what}"
    return ""


def _describe_second_question(row: Mapping[str, Any]) -> str:
    """Name the column that asks or answers something else than the messages, or return an empty text."""
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], Mapping):
        return ""
    last = messages[-1]
    answer = last.get("content") if last.get("role") == "assistant" else None
    for ours, names in NAMES.items():
        name = next((n for n in (ours, *names) if row.get(n) is not None), "")
        if name and (ours == "input" or (answer and str(row[name]).strip() != str(answer).strip())):
            one = f'has "messages" and "{name}", either of which could be its {ours}'
            return f'{one}; {_suggest_columns({"messages": "messages"})}, or {ours} = "{name}"'
    return ""


def _describe_ambiguous_readings(there: Sequence[str], chosen: set[str], training: bool) -> str:
    """Describe the two readings that these columns allow. Empty if there is only one."""
    for ours, names in NAMES.items():
        found = [name for name in names if name in there]
        if ours not in chosen and ours not in there and len(found) > 1:
            advice = _suggest_columns({ours: found[0]})
            return f'has "{found[0]}" and "{found[1]}", either of which could be its {ours}; {advice}'
    if chosen & NAMES.keys():
        return ""
    pair = {ours: next((n for n in (ours, *names) if n in there), "") for ours, names in NAMES.items()}
    readings = [pair] if all(pair.values()) else []
    if {"prompt", "completion"}.issubset(there) and {"input", "target"}.intersection(there):
        readings.append({"input": "prompt", "target": "completion"})
    readings += [{name: name} for name in ("messages", *(["text"] if training else [])) if name in there]
    if len(readings) < 2:
        return ""
    one, other = (" and ".join(f'"{n}"' for n in reading.values()) for reading in readings[:2])
    return f"could be read as {one} or as {other}; {_suggest_columns(readings[0])}, or the other"


def _suggest_columns(columns: Columns) -> str:
    named = ", ".join(f'{ours} = "{name}"' for ours, name in columns.items())
    return f"choose with columns = {{ {named} }}"
