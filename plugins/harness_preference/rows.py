"""Rows of judged answers: of one shape, whole, all of them texts or all of them messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness import HELD_OUT, UsageError
from harness_sft import Row, name_rows, take_columns

DATA = "[train] data:"


def select_pairs(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return prompt, chosen and rejected of each row; raises UsageError, with row numbers, on what is no pair."""
    return _select(rows, ("prompt", "chosen", "rejected"), "prompt, chosen and rejected")


def select_labelled(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return prompt, completion and label of each row; raises UsageError, with row numbers, on what is none."""
    found = _select(rows, ("prompt", "completion", "label"), "prompt and completion")
    odd = [row["row"] for row in found if row["label"] not in (True, False) or isinstance(row["label"], float)]
    if odd:
        label = found[odd[0] - 1]["label"]
        raise UsageError(f"{DATA} {name_rows(odd)}: the label is {label!r:.40}, want true or false")
    found = [{**row, "label": bool(row["label"])} for row in found]
    labels = {row["label"] for row in found if not row.get(HELD_OUT)}
    if len(labels) == 1:
        only = "wanted" if True in labels else "unwanted"
        raise UsageError(f"{DATA} all rows are {only} answers (label); give some of the other kind, or use sft")
    return found


def _select(rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...], what: str) -> list[Row]:
    if not rows:
        raise UsageError(f"{DATA} has no rows")
    answers = [name for name in columns if name not in ("prompt", "label")]
    kinds = [_kind(row.get("prompt"), [row.get(name) for name in answers]) for row in rows]
    if "" in kinds:
        numbers = [i for i, kind in enumerate(kinds, 1) if not kind]
        want = f"want {what}, all texts, or all messages of which the assistant's answer is the last, and not empty"
        raise UsageError(f"{DATA} {name_rows(numbers)}: {want}; map the columns with columns = {{...}}")
    if len(set(kinds)) > 1:
        numbers = [i for i, kind in enumerate(kinds, 1) if kind != kinds[0]]
        raise UsageError(f"{DATA} {name_rows(numbers)}: of another shape than row 1; train on one shape")
    return take_columns(rows, columns)


def _kind(prompt: Any, answers: Sequence[Any]) -> str:
    """Return "text" or "chat", or nothing for what is neither."""
    if isinstance(prompt, str) and prompt.strip() and all(isinstance(a, str) and a.strip() for a in answers):
        return "text"
    return "chat" if _is_chat(prompt) and all(_is_chat(a) and _ends(a) for a in answers) else ""


def _is_chat(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(m, Mapping) and "role" in m and (m.get("content") or m.get("tool_calls")) for m in value)


def _ends(messages: Sequence[Mapping[str, Any]]) -> bool:
    return bool(messages[-1]["role"] == "assistant")
