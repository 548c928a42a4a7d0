"""Layouts of training data: Alpaca, ShareGPT, messages, prompt and completion, preference pairs -> rows of a suite."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

from harness.data import chat
from harness.data.choice_layouts import ChoiceColumns, ChoiceRow, find_choices
from harness.data.column_names import ANSWERS, CHATS, CONTEXTS, PROMPTS, SYSTEMS, fold_name
from harness.data.turns import (
    add_system_message,
    format_value,
    join_text,
    list_calls,
    parse_json_cell,
    read_history,
    read_template_arguments,
    read_text_or_turns,
    split_preference_pair,
    take_system_messages,
    to_answer_turns,
    to_messages,
)
from harness.errors import UsageError

Row = dict[str, Any]
Kind = Literal["columns", "chat", "completion", "choice", "preference", "judged"]
LAST_SPEAKER = "\n\nAssistant:"  # in a transcript of HH-RLHF
AMBIGUOUS = {*PROMPTS, *ANSWERS, "target", "text", "messages"}  # columns that would give a row a second meaning
TURNS = re.compile(r"\s*\[?\s*\{|\s*\[\s*\]")  # how a list of messages begins in a cell, in JSON or as Python writes it
WANTED = {"true": True, "false": False, "1": True, "0": False}  # labels of KTO, as a table writes them
CODE = "code with tests (MBPP)"  # the name of a layout
TESTS = "Your code should pass these tests:"  # of MBPP's prompts


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
    label_sets: Sequence[Sequence[str]] | None = None  # of each row, where it has several labels at once

    @property
    def used(self) -> set[str]:
        """The columns that become a part of a row."""
        return {name for names in self.columns.values() for name in names.split(", ")}

    def write_answer(self, row: Row, answer: str) -> Row:
        """Return a row with an answer in another spelling."""
        if self.kind == "chat":
            return {**row, "messages": [*row["messages"][:-1], {**row["messages"][-1], "content": answer}]}
        return {**row, "completion" if self.kind in ("completion", "choice") else self.columns["label"]: answer}

    def read_answer(self, row: Row) -> str:
        """Return the answer of a row that was written."""
        if self.kind == "chat":
            return join_text(row["messages"][-1:])
        names: dict[Kind, str] = {
            **{"completion": "completion", "choice": "completion", "preference": "chosen", "judged": "completion"}
        }
        if self.kind == "judged":
            return join_text(row["completion"])
        answer = row[names.get(self.kind) or self.columns["label"]]
        return format_value(answer[0] if isinstance(answer, list) else answer)

    def keep_one_answer(self, row: Row) -> Row:
        """Return a row with the first of its accepted answers."""
        column = self.columns.get("label")
        return row if column is None else {**row, column: self.read_answer(row)}

    @property
    def has_label_lists(self) -> bool:
        """Whether a row may have several labels at once."""
        return self.label_sets is not None

    @cached_property
    def calls_tools(self) -> bool:
        """Whether an answer to learn is a call of a tool."""
        chats = [row["messages"] for row in self.rows] if self.kind == "chat" else []
        return any(messages[-1].get("tool_calls") for messages in chats if messages)

    @cached_property
    def rows_with_several_answers(self) -> int:
        """How many rows have several accepted answers."""
        return sum(isinstance(row[self.columns["label"]], list) for row in self.rows) if self.kind == "columns" else 0


def find_layout(rows: Sequence[Row]) -> Layout | None:
    """Detect a common layout of training rows, such as Alpaca.

    None for any other table. Raises UsageError if the rows of a layout are malformed, or none can be used.
    """
    names = {fold_name(name): name for row in rows for name in row}
    if system := next((names[name] for name in SYSTEMS if name in names), None):
        names["system"] = system
    answer = next((names[name] for name in ANSWERS if name in names), None)
    found = None
    if {"chosen", "rejected"} <= names.keys():
        found = _make_preference_layout(rows, names)
    elif column := next((names[n] for n in CHATS if n in names and _has_turns(rows, names[n])), None):
        found = _make_messages_layout(rows, names, column)
    elif choices := find_choices(rows, names):
        found = _make_choice_layout(*choices)
    elif {"code", "test_list"} <= names.keys() and (question := names.get("text") or names.get("prompt")):
        found = _make_code_layout(rows, question, names["code"], names["test_list"])
    elif "prompt" in names and "completion" in names:
        found = _make_completion_layout(rows, names)
    elif "instruction" in names and answer:
        found = _make_alpaca_layout(rows, names, answer)
    elif "query" in names and "history" in names and answer:
        found = _make_history_layout(rows, names, answer)
    elif {"system", "question"} <= names.keys() and answer:
        found = _make_question_layout(rows, names, answer)
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


def _has_messages(rows: Sequence[Row], column: str) -> bool:
    """Return whether a cell of a column holds messages."""
    return any(isinstance(read_text_or_turns(row.get(column), i), list) for i, row in enumerate(rows))


def _has_turns(rows: Sequence[Row], column: str) -> bool:
    """Return whether a column looks like conversations, or is the only one."""
    values = (row.get(column) for row in rows)
    looks = any(TURNS.match(v) if isinstance(v, str) else isinstance(v, (list, dict)) for v in values)
    return looks or not any(row.keys() - {column} for row in rows)


def _make_preference_layout(rows: Sequence[Row], names: Mapping[str, str]) -> Layout:
    """Read preference pairs of TRL and LLaMA-Factory.

    TRL's have texts, messages or a prompt inside both answers; LLaMA-Factory's follow Alpaca or ShareGPT.
    """
    turned = [names[n] for n in CHATS if n in names and _has_turns(rows, names[n])]
    turned = turned or [names[n] for n in PROMPTS if n in names and _has_messages(rows, names[n])]
    column, system = next(iter(turned), None), names.get("system", "")
    asks = [column] if column else [names[n] for n in PROMPTS if n in names]
    prompts = [system] * bool(system) + asks
    made, asked, systems, answers, refused = list[Row](), list[str](), list[str](), list[str](), dict[int, str]()
    for i, row in enumerate(rows):
        pair: dict[str, Any] = {name: read_text_or_turns(row.get(names[name]), i) for name in ("chosen", "rejected")}
        prompt, pair = _split_pair(_read_prompt(row, asks, i), pair)
        prompt = add_system_message(prompt, format_value(row.get(system)), alone=not asks)
        arguments = read_template_arguments(row, names, i) if isinstance(prompt, list) else {}
        texts = [join_text(pair[name]) for name in ("chosen", "rejected")]
        if not prompt and all(texts) and not prompts:
            refused[i] = "without a prompt, which belongs in a column or as messages into chosen and rejected"
        elif not prompt or not all(texts):
            refused[i] = "without a prompt, a chosen or a rejected answer"
        elif why := _find_content_error([m for v in (prompt, *pair.values()) if isinstance(v, list) for m in v]):
            refused[i] = why
        elif texts[0] == texts[1]:
            refused[i] = "whose chosen and rejected answers are equal"
        made.append({"prompt": prompt, **pair, **arguments})
        asked.append(join_text(prompt))
        said = prompt if isinstance(prompt, list) else []
        systems.append(join_text(take_system_messages(said)) or format_value(row.get(system)))
        answers.append("\n".join(texts))
    used = {"prompt": ", ".join(prompts) or names["chosen"]}
    used |= {name: names[name] for name in ("chosen", "rejected")} | _name_arguments(made, names)
    _require_one_form([isinstance(row["chosen"], list) for row in made], "answers")
    questions = _remove_system_texts(asked, systems)
    return Layout("preference", "preference pairs", used, asked, answers, made, refused, questions)


def _split_pair(prompt: Any, pair: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the prompt and the answers of a pair: all texts, or all messages, with the prompt in neither answer."""
    if len({*map(type, pair.values())}) > 1:  # a text beside messages
        pair = {name: to_answer_turns(value) for name, value in pair.items()}
    if not prompt and isinstance(pair["chosen"], str):
        return _split_transcripts(pair)
    if isinstance(pair["chosen"], list):
        split = split_preference_pair({**pair, **({"prompt": prompt} if isinstance(prompt, list) else {})})
        prompt = split.pop("prompt", prompt)
        prompt = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}] * bool(prompt)
        return prompt, pair | split
    answers = {name: to_answer_turns(value) for name, value in pair.items()} if isinstance(prompt, list) else pair
    return prompt, answers


def _read_prompt(row: Row, columns: Sequence[str], index: int) -> Any:
    """Return the messages of a row's only prompt column, or the texts of all."""
    if len(columns) == 1:
        if columns[0].strip().lower() in CHATS:
            return to_messages(parse_json_cell(row.get(columns[0])), index)
        if isinstance(given := read_text_or_turns(row.get(columns[0]), index), list):
            return given
    return "\n".join(text for name in columns if (text := format_value(row.get(name))))


def _name_system(names: Mapping[str, str]) -> dict[str, str]:
    return {"system": names["system"]} if "system" in names else {}


def _name_arguments(made: Sequence[Row], names: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of tools and of template arguments that rows were made with."""
    return {name: names[name] for name in (chat.TOOLS, chat.ARGUMENTS) if any(name in row for row in made)}


def _make_messages_layout(rows: Sequence[Row], names: Mapping[str, str], column: str) -> Layout:
    """Read OpenAI messages or ShareGPT turns as chats. The last message is the answer to learn."""
    made, refused, form = list[Row](), dict[int, str](), "messages"
    for i, row in enumerate(rows):
        value = parse_json_cell(row.get(column))
        form = _name_form(value) or form
        messages = to_messages(value, i)
        messages = add_system_message(messages, format_value(row.get(names.get("system", ""))))
        if why := _find_chat_error(messages):
            refused[i] = why
        made.append({"messages": messages, **read_template_arguments(row, names, i)})
    used = {"messages": column} | _name_system(names) | _name_arguments(made, names)
    if _has_rejected_answers(rows, names):
        return _make_judged_layout(rows, names, used, _split_chats(made), refused)
    return _make_chat_layout(form, used, made, refused)


def _name_form(conversation: Any) -> str:
    """Return the name of a conversation's form where it is not that of messages."""
    first = conversation[0] if isinstance(conversation, list) and conversation else None
    if isinstance(first, dict):
        return "ShareGPT" if "from" in first else "Capybara" if "output" in first else ""
    return "LIMA" if isinstance(first, str) else ""


def _split_chats(made: Sequence[Row]) -> list[Row]:
    return [{**row, "prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in made]


def _make_judged_layout(
    rows: Sequence[Row], names: Mapping[str, str], used: Mapping[str, str], made: Sequence[Row], refused: dict[int, str]
) -> Layout:
    """Return a layout of KTO: answers with a label that says whether they are wanted."""
    label, judged = names["label"], list[Row]()
    for i, (row, own) in enumerate(zip(rows, made, strict=True)):
        wanted = WANTED.get(format_value(row.get(label)).lower())
        if wanted is None:
            refused.setdefault(i, "without a true or false label")
        judged.append({**{k: v for k, v in own.items() if k != "messages"}, "label": bool(wanted)})
    asked, answers = ([join_text(row[part]) for row in judged] for part in ("prompt", "completion"))
    return Layout("judged", "answers with a label (KTO)", {**used, "wanted": label}, asked, answers, judged, refused)


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


def _find_chat_error(messages: Sequence[Row]) -> str:
    if why := _find_content_error(messages):
        return why
    if any(not isinstance(call["name"], str) for m in messages for call in list_calls(m)):
        return "with a call of a tool without a name"
    if any(m["role"] == "function_call" for m in messages):
        return "with a function call that is no JSON object with a name and arguments"
    if not messages or messages[-1]["role"] != "assistant":
        return "that do not end with the assistant's answer"
    if why := _find_order_error([m["role"] for m in messages]):
        return why
    if not join_text(messages[-1:]):
        return "with an empty answer"
    return "" if any(m["role"] == "user" for m in messages) else "without a user's message"


def _has_rejected_answers(rows: Sequence[Row], names: Mapping[str, str], others: tuple[str, ...] = ()) -> bool:
    """Return whether the column "label" marks some answers as bad; only both of `others` mean that."""
    labels = {format_value(row.get(names.get("label", ""))).lower() for row in rows}
    return "false" in labels <= {"true", "false"} or labels == {*others}


def _make_completion_layout(rows: Sequence[Row], names: Mapping[str, str]) -> Layout:
    judged = _has_rejected_answers(rows, names, ("1", "0"))
    used, made, refused = {name: names[name] for name in ("prompt", "completion")}, list[Row](), dict[int, str]()
    for i, row in enumerate(rows):
        prompt, completion = (read_text_or_turns(row.get(used[name]), i) for name in ("prompt", "completion"))
        if isinstance(prompt, list) or isinstance(completion, list):
            said = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
            said = add_system_message(said, format_value(row.get(names.get("system", ""))))
            made.append({"messages": said + to_answer_turns(completion), **read_template_arguments(row, names, i)})
        else:  # white space before an answer matters
            made.append({"prompt": prompt, "completion": completion.strip()})
            refused |= {} if prompt.strip() and made[-1]["completion"] else {i: "without a prompt or a completion"}
    chats = [i for i, row in enumerate(made) if "messages" in row]
    _require_one_form(["messages" in row for row in made], "prompt")
    for i in chats:
        refused |= {i: why} if (why := _find_chat_error(made[i]["messages"])) else {}
    name = "prompt and completion"
    if chats:
        used |= _name_system(names) | _name_arguments(made, names)
        if judged:
            return _make_judged_layout(rows, names, used, _split_chats(made), refused)
        return _make_chat_layout(name, used, made, refused)
    if judged:
        return _make_judged_layout(rows, names, used, made, refused)
    asked, answers = [row["prompt"].strip() for row in made], [row["completion"] for row in made]
    return Layout("completion", name, used, asked, answers, made, refused)


def _make_code_layout(rows: Sequence[Row], question: str, code: str, tests: str) -> Layout:
    """Read MBPP's rows, whose tests are a part of what is asked."""
    made, refused = list[Row](), dict[int, str]()
    for i, row in enumerate(rows):
        listed = parse_json_cell(row.get(tests))
        lines = listed if isinstance(listed, list) else [listed]
        asked = [format_value(row.get(question)), TESTS, *map(format_value, lines), ""]
        made.append({"prompt": "\n".join(asked), "completion": format_value(row.get(code))})
        if not asked[0] or not made[-1]["completion"]:
            refused[i] = "without a task or its code"
    used = {"prompt": f"{question}, {tests}", "completion": code}
    asks, answers = [row["prompt"].strip() for row in made], [row["completion"] for row in made]
    return Layout("completion", CODE, used, asks, answers, made, refused)


def _make_choice_layout(columns: ChoiceColumns, read: Sequence[ChoiceRow]) -> Layout:
    asks = ", ".join(filter(None, (columns.context, columns.question)))
    used = {"prompt": asks, "choices": ", ".join(columns.choices), "answer": columns.answer}
    made = [{"prompt": one.prompt, "completion": one.right, "choices": one.choices} for one in read]
    asked = ["\n".join((one.prompt, *one.choices)) for one in read]  # many questions differ in their choices alone
    refused = {i: one.refused for i, one in enumerate(read) if one.refused}
    return Layout("choice", "multiple choice", used, asked, [one.right for one in read], made, refused)


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
        history = read_history(row.get(names.get("history", "")), i)
        made.append(_make_chat(row, names, user, format_value(row.get(answer)), history))
    return _make_chat_layout(f"Alpaca ({asks} → {answer})", used, made)


def _make_history_layout(rows: Sequence[Row], names: Mapping[str, str], answer: str) -> Layout:
    """Read rows with a query, its answer and earlier pairs of these, as ChatGLM's."""
    used = {"prompt": names["query"], "answer": answer, "history": names["history"]}
    made = []
    for i, row in enumerate(rows):
        history = read_history(row.get(names["history"]), i)
        query, reply = (format_value(row.get(name)) for name in (names["query"], answer))
        made.append(_make_chat(row, names, [query], reply, history))
    return _make_chat_layout(f"query, history → {answer}", used | _name_system(names), made)


def _make_question_layout(rows: Sequence[Row], names: Mapping[str, str], answer: str) -> Layout:
    """Read rows with a system prompt, question, optional context and answer."""
    asks = [names[name] for name in ("context", "question") if name in names]
    used = {"prompt": ", ".join(asks), "answer": answer, "system": names["system"]}
    made = []
    for row in rows:
        user = [format_value(row.get(name)) for name in asks]
        made.append(_make_chat(row, names, user, format_value(row.get(answer)), []))
    return _make_chat_layout(f"system, {', '.join(asks)} → {answer}", used, made)


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
    asked, systems = ([join_text(of(row["messages"][:-1])) for row in made] for of in (list, take_system_messages))
    answers = [join_text(row["messages"][-1:]) for row in made]
    if refused is None:
        blank = [i for i, row in enumerate(made) if not (answers[i] and join_text(row["messages"][-2:-1]))]
        refused = dict.fromkeys(blank, "without an input or an answer")
    return Layout("chat", name, used, asked, answers, made, refused, _remove_system_texts(asked, systems))


def _remove_system_texts(asked: Sequence[str], systems: Sequence[str]) -> Sequence[str]:
    """Return what is asked without system messages, unless these vary as much as the questions."""
    bare = [text.removeprefix(system).strip() for text, system in zip(asked, systems, strict=True)]
    return bare if len({*systems}) < len({*bare}) else asked
