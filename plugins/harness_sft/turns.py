"""Turns that are context and not learnt: `weight = 0` (OpenAI's format of rows), `train = false` (axolotl's)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from harness import chat

MARKS = {"weight": "0 or 1", "train": "true or false"}
OTHER = "\N{OBJECT REPLACEMENT CHARACTER}"  # what no turn begins with


def turns_of(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the messages of a row, the answer among them; none of a row of texts."""
    asked, answered = row.get("messages", row.get("prompt")), row.get("completion")
    return [*asked, *(answered if isinstance(answered, list) else [])] if isinstance(asked, list) else []


def is_context(turn: Mapping[str, Any]) -> bool:
    """Return whether a turn is marked as one that is not learnt."""
    return any(turn.get(mark) is not None and not turn[mark] for mark in MARKS)


def mark_error(row: Mapping[str, Any]) -> str:
    """Return what is wrong with the marks of a row's turns, or nothing."""
    for turn in turns_of(row):
        for mark, want in MARKS.items():
            if turn.get(mark) not in (None, 0, 1):
                return f'"{mark}" of a message is {turn[mark]!r:.40}, want {want}: a turn is learnt, or it is context'
    answers = [t for t in row.get("completion", turns_of(row)) if isinstance(t, Mapping) and t["role"] == "assistant"]
    marked = bool(answers) and all(map(is_context, answers))
    return "every answer has weight = 0 or train = false, so nothing is learnt; remove such rows" if marked else ""


class Obeying:
    """Put before one of TRL's trainers that make labels: it learns no token of a turn that is context."""

    def _prepare_dataset(self, *given: Any, **named: Any) -> Any:
        made = super()._prepare_dataset(*given, **named)  # type: ignore[misc]
        rows, fresh = given[0], "labels" in made.column_names and "labels" not in given[0].column_names
        if not (fresh and turns_of(rows[0]) and any(is_context(turn) for row in rows for turn in turns_of(row))):
            return made
        trainer: Any = self
        template = getattr(trainer, "chat_template", None) or trainer._tokenizer.chat_template
        labels = [_labels(row, trainer._tokenizer, template) for row in made]
        return made.remove_columns("labels").add_column("labels", labels)


def _labels(row: Mapping[str, Any], tokenizer: Any, template: str) -> list[int]:
    """Return the labels of a row, -100 from where a turn that is context begins to where the next one does."""
    turns, ids, labels = turns_of(row), list(row["input_ids"]), list(row["labels"])
    if not any(map(is_context, turns)):
        return labels
    about: dict[str, Any] = {"chat_template": template, "tokenize": False, **chat.of_training(row)}
    write = partial(tokenizer.apply_chat_template, **about)
    text = write(turns)
    begins = [_begin(turns, at, text, write) for at in range(len(turns))]
    for at in (at for at, turn in enumerate(turns) if is_context(turn)):
        ends = begins[at], min((b for b in begins[at + 1 :] if b > begins[at]), default=len(text))
        first, last = (_shared(tokenizer(text[:end], add_special_tokens=False)["input_ids"], ids) for end in ends)
        labels[first:last] = [-100] * (last - first)
    return labels


def _begin(turns: Sequence[Mapping[str, Any]], at: int, text: str, write: Callable[..., str]) -> int:
    """Return where a turn begins in a text: where the turns before it end, or the text is another for another turn."""
    with suppress(Exception):  # a template with rules of its own about turns
        before = write(turns[:at]) if at else ""
        if text.startswith(before):
            return len(before)
    other = {"role": turns[at]["role"], "content": OTHER}
    return _shared(text, write([*turns[:at], other, *turns[at + 1 :]]))


def _shared(one: Sequence[int] | str, two: Sequence[int] | str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
