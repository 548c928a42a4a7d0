"""Layouts of training data: Alpaca, ShareGPT, messages, prompt and completion, preference pairs -> rows of a suite."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from harness.data import chat
from harness.data.rows import split_preference_pair
from harness.errors import UsageError, did_you_mean
from harness.texts.escaping import shorten_text
from harness.texts.missing import MISSING_VALUES

Row = dict[str, Any]
Kind = Literal["columns", "chat", "completion", "preference"]
SPEAKERS = {  # of ShareGPT, in small letters -> roles of messages
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "model": "assistant", "bot": "assistant", "system": "system", "tool": "tool", "observation": "tool",
    "function_call": "function_call",
}  # fmt: skip
CHATS = ("messages", "conversations", "conversation")
LAST_SPEAKER = "\n\nAssistant:"  # in a transcript of HH-RLHF
PROMPTS = ("prompt", "question", "instruction", "query", "input")  # of preference pairs
ANSWERS = ("output", "response", "completion", "answer")  # of Alpaca and its relatives
CONTEXTS = ("input", "context")
AMBIGUOUS = {*PROMPTS, *ANSWERS, "target", "text", "messages"}  # columns that would give a row a second meaning
TURNS = re.compile(r"\s*\[?\s*\{|\s*\[\s*\]")  # how a list of messages begins in a cell, in JSON or as Python writes it
TURN_LISTS = "give a list of messages with role and content, or of turns with from and value"
KTO = "as KTO does; keep the rows whose label is true, or write a suite"


@dataclass(frozen=True)
class Layout:
    """How rows ask and answer, by their number: texts to compare, and rows as a suite reads them."""

    kind: Kind
    name: str
    columns: Mapping[str, str]  # what for -> the columns of the file
    asked: Sequence[str]
    answers: Sequence[str]
    rows: Sequence[Row] = field(repr=False)
    refused: Mapping[int, str] = field(default_factory=dict)  # rows that cannot be used, and why
    questions: Sequence[str] = ()  # without system messages, to keep together; otherwise `asked`

    @property
    def used(self) -> set[str]:
        """The columns that become a part of a row."""
        return {name for names in self.columns.values() for name in names.split(", ")}

    def write_answer(self, row: Row, answer: str) -> Row:
        """Return a row with an answer in another spelling."""
        if self.kind == "chat":
            return {**row, "messages": [*row["messages"][:-1], {**row["messages"][-1], "content": answer}]}
        return {**row, "completion" if self.kind == "completion" else self.columns["label"]: answer}

    def read_answer(self, row: Row) -> str:
        """Return the answer of a row that was written."""
        if self.kind == "chat":
            return str(row["messages"][-1]["content"])
        names: dict[Kind, str] = {"completion": "completion", "preference": "chosen"}
        answer = row[names.get(self.kind) or self.columns["label"]]
        return format_value(answer)


def find_layout(rows: Sequence[Row]) -> Layout | None:
    """Detect a common layout of training rows, such as Alpaca.

    None for any other table. Raises UsageError if the rows of a layout are malformed, or none can be used.
    """
    names = {name.strip().lower(): name for row in rows for name in row}
    found = None
    if {"chosen", "rejected"} <= names.keys():
        found = _make_preference_layout(rows, names)
    elif column := next((names[n] for n in CHATS if n in names and _has_turns(rows, names[n])), None):
        found = _make_messages_layout(rows, names, column)
    elif "prompt" in names and "completion" in names:
        found = _make_completion_layout(rows, names)
    elif "instruction" in names and (answer := next((names[n] for n in ANSWERS if n in names), None)):
        found = _make_alpaca_layout(rows, names, answer)
    elif "system" in names and "question" in names and "answer" in names:
        found = _make_question_layout(rows, names)
    if found and len(found.refused) == len(rows):
        (why, n), *_ = Counter(found.refused.values()).most_common(1)
        raise UsageError(f"no row can be used: {n:,} {why}; correct the rows")
    return found


def _split_transcripts(pair: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the prompt that two transcripts of HH-RLHF share, and their answers."""
    one, two = pair["chosen"], pair["rejected"]
    ends = [m.end() for m in re.finditer(LAST_SPEAKER, one)]
    place = max((end for end in ends if two.startswith(one[:end])), default=0)
    return one[:place], {name: text[place:].strip() for name, text in pair.items()} if place else pair


def _has_turns(rows: Sequence[Row], column: str) -> bool:
    """Return whether a column looks like conversations, or is the only one."""
    values = (row.get(column) for row in rows)
    looks = any(TURNS.match(v) if isinstance(v, str) else isinstance(v, (list, dict)) for v in values)
    return looks or not any(row.keys() - {column} for row in rows)


def _make_preference_layout(rows: Sequence[Row], names: Mapping[str, str]) -> Layout:
    """Read preference pairs of TRL and LLaMA-Factory.

    TRL's have texts, messages or a prompt inside both answers; LLaMA-Factory's follow Alpaca or ShareGPT.
    """
    column = next((names[n] for n in CHATS if n in names and _has_turns(rows, names[n])), None)
    prompts = [names[name] for name in ("system", *PROMPTS) if name in names]
    made, asked, systems, answers, refused = list[Row](), list[str](), list[str](), list[str](), dict[int, str]()
    for i, row in enumerate(rows):
        pair: dict[str, Any] = {name: _read_text_or_turns(row.get(names[name]), i) for name in ("chosen", "rejected")}
        if len({*map(type, pair.values())}) > 1:  # a text beside messages
            pair = {name: _to_answer_turns(value) for name, value in pair.items()}
        prompt: Any = "\n".join(text for name in prompts if (text := format_value(row.get(name))))
        if column is not None:
            prompt = to_messages(_parse_json_cell(row.get(column)), i)
        elif len(prompts) == 1:
            given = _read_text_or_turns(row.get(prompts[0]), i)
            prompt = given if isinstance(given, list) else prompt
        if not prompt and isinstance(pair["chosen"], str):
            prompt, pair = _split_transcripts(pair)
        if isinstance(pair["chosen"], list):
            split = split_preference_pair({**pair, **({"prompt": prompt} if isinstance(prompt, list) else {})})
            prompt = split.pop("prompt", prompt)
            pair |= split
            prompt = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}] * bool(prompt)
        elif isinstance(prompt, list):
            pair = {name: _to_answer_turns(value) for name, value in pair.items()}
        texts = [_join_text(pair[name]) for name in ("chosen", "rejected")]
        if not prompt and all(texts) and not (prompts or column):
            refused[i] = "without a prompt, which belongs in a column or as messages into chosen and rejected"
        elif not prompt or not all(texts):
            refused[i] = "without a prompt, a chosen or a rejected answer"
        elif why := _find_content_error([m for v in (prompt, *pair.values()) if isinstance(v, list) for m in v]):
            refused[i] = why
        elif texts[0] == texts[1]:
            refused[i] = "whose chosen and rejected answers are equal"
        made.append({"prompt": prompt, **pair})
        asked.append(_join_text(prompt))
        said = prompt if isinstance(prompt, list) else []
        systems.append(_join_text(_take_system_messages(said)) or format_value(row.get(names.get("system", ""))))
        answers.append("\n".join(texts))
    used = {"prompt": column or ", ".join(prompts) or names["chosen"]}
    used |= {name: names[name] for name in ("chosen", "rejected")}
    _require_one_form([isinstance(row["chosen"], list) for row in made], "answers")
    questions = _remove_system_texts(asked, systems)
    return Layout("preference", "preference pairs", used, asked, answers, made, refused, questions)


def _make_messages_layout(rows: Sequence[Row], names: Mapping[str, str], column: str) -> Layout:
    """Read OpenAI messages or ShareGPT turns as chats. The last message is the answer to learn."""
    if _has_rejected_answers(rows, names):
        raise UsageError(f'has messages and a true or false label, {KTO} with use = "kto"')
    used = {"messages": column} | {name: names[name] for name in ("system", "tools") if name in names}
    made, refused, shared = list[Row](), dict[int, str](), False
    for i, row in enumerate(rows):
        value = _parse_json_cell(row.get(column))
        shared |= isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "from" in value[0]
        messages = to_messages(value, i)
        system = format_value(row.get(names.get("system", "")))
        if system and not any(m["role"] == "system" for m in messages):
            messages = [{"role": "system", "content": system}, *messages]
        if why := _find_chat_error(messages):
            refused[i] = why
        tools = _read_tools(row.get(names.get("tools", "")), i)
        made.append({"messages": messages, **({"tools": tools} if tools else {})})
    return _make_chat_layout("ShareGPT" if shared else "messages", used, made, refused)


def _find_order_error(roles: Sequence[str]) -> str:
    """Describe an order of roles that D11 refuses, or return an empty text."""
    if any(role in chat.SYSTEM_ROLES for role in roles[1:]):
        return "with a system message that is not the first"
    turns = [role for role in roles if role in ("user", "assistant")]
    if turns[:1] == ["assistant"]:
        return "that begin with the assistant"
    same = "tool" not in roles and any(one == other for one, other in pairwise(turns))
    return "with two successive messages of one role" if same else ""


def _find_content_error(messages: Sequence[Row]) -> str:
    if kind := chat.find_media(messages):
        return f'with a part of type "{kind}", but only text is trained on'
    blank = any(m.get("content") is None and not m.get("tool_calls") for m in messages[:-1])
    return "with a message without content" if blank else ""


def _read_tools(value: Any, index: int) -> list[Row]:
    """Return the tools of a row; raises UsageError, naming the row, where they are no objects."""
    if format_value(value).lower() in MISSING_VALUES:
        return []
    tools = _parse_json_cell(value)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise UsageError(
            f"row {index + 1} has {_quote_start(value)} as its tools; give a list of objects, or drop the column"
        )
    return tools


def _find_chat_error(messages: Sequence[Row]) -> str:
    if why := _find_content_error(messages):
        return why
    if any(m["role"] == "function_call" or m.get("tool_calls") for m in messages):
        return "with calls of tools, which harness init --task tools shows how to write"
    if not messages or messages[-1]["role"] != "assistant":
        return "that do not end with the assistant's answer"
    if why := _find_order_error([m["role"] for m in messages]):
        return why
    if not isinstance(messages[-1].get("content"), str) or not messages[-1]["content"].strip():
        return "with an empty answer"
    return "" if any(m["role"] == "user" for m in messages) else "without a user's message"


def _has_rejected_answers(rows: Sequence[Row], names: Mapping[str, str], others: tuple[str, ...] = ()) -> bool:
    """Return whether the column "label" marks some answers as bad; only both of `others` mean that."""
    labels = {format_value(row.get(names.get("label", ""))).lower() for row in rows}
    return "false" in labels <= {"true", "false"} or labels == {*others}


def _make_completion_layout(rows: Sequence[Row], names: Mapping[str, str]) -> Layout:
    if _has_rejected_answers(rows, names, ("1", "0")):
        raise UsageError(f'has prompt, completion and a true or false label, {KTO} with use = "kto"')
    used, made, refused = {name: names[name] for name in ("prompt", "completion")}, list[Row](), dict[int, str]()
    for i, row in enumerate(rows):
        prompt, completion = (_read_text_or_turns(row.get(used[name]), i) for name in ("prompt", "completion"))
        if isinstance(prompt, list) or isinstance(completion, list):
            said = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
            made.append({"messages": said + _to_answer_turns(completion)})
        else:  # white space before an answer matters
            made.append({"prompt": prompt, "completion": completion.strip()})
            refused |= {} if prompt.strip() and made[-1]["completion"] else {i: "without a prompt or a completion"}
    chats = [i for i, row in enumerate(made) if "messages" in row]
    _require_one_form(["messages" in row for row in made], "prompt")
    for i in chats:
        refused |= {i: why} if (why := _find_chat_error(made[i]["messages"])) else {}
    name = "prompt and completion"
    if chats:
        return _make_chat_layout(name, used, made, refused)
    asked, answers = [row["prompt"].strip() for row in made], [row["completion"] for row in made]
    return Layout("completion", name, used, asked, answers, made, refused)


def _require_one_form(chats: Sequence[bool], of: str) -> None:
    """Raise UsageError where some rows have messages and others have text."""
    if any(chats) and not all(chats):
        one, other = chats.index(True), chats.index(False)
        raise UsageError(f"row {one + 1} has messages as its {of}, and row {other + 1} has text; use one form for all")


def _make_alpaca_layout(rows: Sequence[Row], names: Mapping[str, str], answer: str) -> Layout:
    """Read Alpaca's rows as chats, as LLaMA-Factory does: the input follows the instruction on a line of its own."""
    context = next((names[name] for name in CONTEXTS if name in names), None)
    asks = ", ".join([names["instruction"], *([context] if context else [])])
    used = {"prompt": asks, "answer": answer} | {n: names[n] for n in ("system", "history") if n in names}
    made = []
    for i, row in enumerate(rows):
        user = [format_value(row.get(name)) for name in asks.split(", ")]
        history = _read_history(row.get(names.get("history", "")), i)
        made.append(_make_chat(row, names, user, format_value(row.get(answer)), history))
    return _make_chat_layout(f"Alpaca ({asks} → {answer})", used, made)


def _make_question_layout(rows: Sequence[Row], names: Mapping[str, str]) -> Layout:
    """Read rows with a system prompt, question, optional context and answer."""
    asks = [names[name] for name in ("context", "question") if name in names]
    used = {"prompt": ", ".join(asks), "answer": names["answer"], "system": names["system"]}
    made = []
    for row in rows:
        user = [format_value(row.get(name)) for name in asks]
        made.append(_make_chat(row, names, user, format_value(row.get(names["answer"])), []))
    return _make_chat_layout(f"system, {', '.join(asks)} → {names['answer']}", used, made)


def _read_history(value: Any, index: int) -> list[Row]:
    """Return earlier turns as messages; raises UsageError, naming the row, where they have another form."""
    if format_value(value).lower() in MISSING_VALUES:
        return []
    turns = _parse_json_cell(value)
    if isinstance(turns, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
        texts = [format_value(text) for turn in turns for text in turn]
        return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    if isinstance(turns, list) and all(map(_is_turn, turns)):
        return to_messages(turns, index)
    want = "give [[question, answer], ...] or messages"
    raise UsageError(f"row {index + 1} has {_quote_start(value)} as its history; {want}")


def _make_chat(row: Row, names: Mapping[str, str], user: list[str], answer: str, history: Sequence[Row]) -> Row:
    system = format_value(row.get(names.get("system", "")))
    messages = [{"role": "system", "content": system}] * bool(system)
    messages += history
    messages.append({"role": "user", "content": "\n".join(filter(None, user))})
    return {"messages": [*messages, {"role": "assistant", "content": answer}]}


def _make_chat_layout(
    name: str, used: Mapping[str, str], made: Sequence[Row], refused: Mapping[int, str] | None = None
) -> Layout:
    """Return a layout of chats, by default without the rows that lack a question or an answer."""
    asked, systems = ([_join_text(of(row["messages"][:-1])) for row in made] for of in (list, _take_system_messages))
    answers = [_join_text(row["messages"][-1:]) for row in made]
    if refused is None:
        blank = [i for i, row in enumerate(made) if not (answers[i] and _join_text(row["messages"][-2:-1]))]
        refused = dict.fromkeys(blank, "without an input or an answer")
    return Layout("chat", name, used, asked, answers, made, refused, _remove_system_texts(asked, systems))


def _take_system_messages(messages: Sequence[Row]) -> list[Row]:
    return [m for m in messages if m["role"] in chat.SYSTEM_ROLES]


def _remove_system_texts(asked: Sequence[str], systems: Sequence[str]) -> Sequence[str]:
    """Return what is asked without system messages, unless these vary as much as the questions."""
    bare = [text.removeprefix(system).strip() for text, system in zip(asked, systems, strict=True)]
    return bare if len({*systems}) < len({*bare}) else asked


def to_messages(value: Any, index: int) -> list[Row]:
    """Convert a conversation to messages with role and content.

    Raises UsageError, naming the row, if it is malformed.
    """
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        shown = shorten_text(str(value), 40)
        raise UsageError(f"row {index + 1} has {json.dumps(shown)} as its conversation; {TURN_LISTS}")
    try:
        return [to_message(turn) for turn in value]
    except UsageError as error:
        raise UsageError(f"row {index + 1} {error}") from None


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
    others = {
        k: v
        for k, v in turn.items()
        if k in ("tool_calls", "name", "tool_call_id", "weight", "train") and v is not None
    }
    return {"role": role, "content": content, **others}


def format_value(value: Any) -> str:
    """Return a value as text: numbers as people write them, objects and lists as JSON, null as nothing."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.0f}" if value.is_integer() else str(value)
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None or value != value else str(value).strip()


def _quote_start(value: Any) -> str:
    return json.dumps(shorten_text(format_value(value), 40), ensure_ascii=False)


def _join_text(value: str | Sequence[Row]) -> str:
    """Return a text, or the contents of messages as one text."""
    if isinstance(value, str):
        return value.strip()
    return "\n".join(content for m in value if (content := format_value(m.get("content"))))


def _read_text_or_turns(value: Any, index: int) -> str | list[Row]:
    """Return messages where a value holds turns, else its text, unchanged."""
    parsed = _parse_json_cell(value)
    turns = [parsed] if isinstance(parsed, dict) else parsed
    if isinstance(turns, list) and turns and all(map(_is_turn, turns)):
        return to_messages(turns, index)
    return value if isinstance(value, str) else format_value(value)


def _is_turn(value: Any) -> bool:
    """Return whether a value has the keys of a message or of a ShareGPT turn."""
    keys = value.keys() if isinstance(value, dict) else set[str]()
    return keys >= {"from", "value"} or ("role" in keys and bool({"content", "tool_calls"} & keys))


def _to_answer_turns(value: str | list[Row]) -> list[Row]:
    return value if isinstance(value, list) else [{"role": "assistant", "content": value.strip()}]


def _parse_json_cell(value: Any) -> Any:
    """Parse a table cell that holds a JSON list or object. Any other value is returned unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value
