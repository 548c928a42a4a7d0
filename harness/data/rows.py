"""Conversion of rows to Samples and training rows.

Columns are renamed, and every wrong row is reported with its place.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.data import chat, reading
from harness.data.column_names import OWN_NAMES
from harness.data.templates import fill_template, template_columns
from harness.errors import Mistakes, UsageError
from harness.records.samples import Prompt, Sample
from harness.texts.counts import count_noun
from harness.texts.escaping import shorten_repr

Row = dict[str, Any]
Rows = Sequence[Row]
Columns = Mapping[str, str]  # our names -> the data's
Arguments = Mapping[str, Any]  # of a chat template, beside the messages
NAMES = {role: others for role, (_, *others) in OWN_NAMES.items()}  # beside the role's own
ALIASES = {name: role for role, names in NAMES.items() for name in names}
PAIR = ("input", "target")
NO_CHAT = "for a chat template, but the input is text; give messages, or drop these columns"
ANSWERS = ("completion", "chosen", "rejected")  # columns of training rows that follow the prompt
GROUP = "group"
"""The key of a training row that names its group; rows of one group are held out together."""
HELD_OUT = "held_out"
"""The key of a training row that is for validation only."""
# characters of a row: more than any context holds, and minutes for every check that reads it
MAX_ROW_CHARS = 10_000_000


def is_remote(source: str) -> bool:
    """Return whether a source is on the Hub, so that it is read at preflight."""
    return source.startswith("hub:")


def read_rows(
    source: str, folder: Path, ask: Callable[[str], list[Row] | None], where: str, how: Mapping[str, str | None] = {}
) -> list[Row]:
    """Return the rows of a source: a plugin's, a file relative to `folder`, or `hub:NAME[/CONFIG]:SPLIT`.

    `ask` asks the plugins. A source may end in a slice as Python has them, `x.csv[:960]`; of a data set of the Hub
    that is the library's own. `how` has the separator and the encoding of a file. Raises UsageError when the source
    is not there, empty, or malformed.
    """
    rows = ask(source)
    if rows is None and is_remote(source):
        rows = reading.read_hub(source, where)
    if rows is None:
        name, part = reading.split_slice(source, where)
        rows = ask(name) if part else None
        rows = reading.read_file(folder, name, where, **how) if rows is None else rows
        rows = rows[part] if part else rows
    if not rows:
        raise UsageError(f'{where}: data "{source}" has no rows; an evaluation needs at least one')
    if large := [n for n, row in enumerate(rows, 1) if _count_characters(row) > MAX_ROW_CHARS]:
        what = f"row {large[0]} has more than {MAX_ROW_CHARS:,} characters ({len(large)} such rows)"
        what = f"{what}; split it, or remove it"
        raise UsageError(f'{where}: data "{source}": {what}')
    return rows


def to_samples(
    rows: Rows,
    where: str,
    *,
    columns: Columns,
    cluster: str | Sequence[str] | None,
    slices: Sequence[str],
    arguments: Arguments | None = None,
    template: str | None = None,
    json_targets: bool = False,
) -> list[Sample]:
    """Return one Sample for each row. `columns` maps our names (id, input, target) to the data's, `template` is what
    the inputs are written by, `cluster` is at most two columns.

    With `arguments`, the template arguments of all rows, the prompts are given theirs; without, a row's are not read.
    With `json_targets` a target is any JSON value, given as its text, and calls of tools that end messages are one.
    Without a mapping, prompt/question, completion/answer, text and messages are understood. Rows without an id get
    their number, from 0. A number is its text, a target of null is "", as one that is not there. Raises UsageError on
    missing columns, on what is no text, and on duplicate ids.
    """
    mistakes, clusters = Mistakes(), [cluster] if isinstance(cluster, str) else list(cluster or ())
    wanted = {
        **columns,
        **{"cluster" if c == clusters[0] else "second cluster": c for c in clusters},
        **{f"slices {s}": s for s in slices},
    }
    for name, column in wanted.items():
        if lacking := [n for n, row in enumerate(rows, 1) if column not in row]:
            what = f'row {lacking[0]} has no column "{column}" for {name} ({len(lacking)} such rows)'
            mistakes.add(where, f"{what}; its columns are {quote_names(rows[0])}")
    mistakes.raise_errors()
    named = _map_rows_to_known_columns(rows, columns, template, where, json_targets=json_targets)
    mistakes.messages += [f"{where}: {what}" for what in _iterate_column_type_errors(named, rows, clusters, slices)]
    mistakes.raise_errors()
    if arguments is not None:
        _add_template_arguments(rows, named, arguments, [*columns.values(), *slices, *clusters], where)
    samples = []
    for i, (row, own) in enumerate(zip(rows, named, strict=True)):
        groups = [str(row[c]) for c in clusters]
        about = dict(zip(("cluster", "second_cluster"), groups, strict=False))
        samples.append(
            Sample(
                str(own.get("id", i)),
                own.get("input", ""),
                _convert_target_to_text(own.get("target")),
                row=row,
                **about,
            )
        )
    if not any(s.input or "text" in s.row for s in samples):
        want = 'write columns = { input = "…", target = "…" }'
        mistakes.add(where, f'there is no column "input"; the columns are {quote_names(rows[0])}; {want}')
    if twice := [i for i, n in Counter(s.id for s in samples).items() if n > 1]:
        mistakes.add(where, f'{count_noun(len(twice), "id")} used by more than one row, for instance "{twice[0]}"')
    mistakes.raise_errors()
    return samples


def to_training_rows(
    rows: Rows, columns: Columns, where: str, arguments: Arguments | None = None, template: str | None = None
) -> list[Row]:
    """Return rows as trainers take them: {prompt, completion}, {messages} or {text}.

    `columns` and `template` are those of `to_samples`; one that maps "text" or "messages" chooses that shape.
    An input and a target become a prompt and a completion; texts are joined as they are in evaluation.
    Rows of messages may have {tools} and {chat_template_kwargs} as well; `arguments` are template arguments of all.
    """
    if lacking := [(n, c) for n, c in columns.items() if any(c not in row for row in rows)]:
        (name, column), *_ = lacking
        raise UsageError(f'{where}: there is no column "{column}" for {name}; the columns are {quote_names(rows[0])}')
    named = _map_rows_to_known_columns(rows, columns, template, where)
    if shapeless := [n for n, own in enumerate(named, 1) if not _find_training_keys(own, columns, template)]:
        want = "input and target, prompt and completion, messages, or text"
        if template is not None:
            want = 'a target as well as the template; name its column with columns = { target = "…" }'
        all_of_them = f" ({len(shapeless)} such rows)" if len(shapeless) > 1 else ""
        first = rows[shapeless[0] - 1]
        foreign = {"conversations", "instruction", "chosen"} & first.keys()
        want += "; harness init --data writes such rows for this layout" if foreign else ""
        raise UsageError(
            f"{where}: row {shapeless[0]} has the columns {quote_names(first)}{all_of_them}; it needs {want}"
        )
    mistakes, made = Mistakes(), list[Row]()
    for number, (row, own) in enumerate(zip(rows, named, strict=True), 1):
        with mistakes.collecting():
            taken = _make_training_row(number, own, where, columns, template)
            made.append(taken | training_template_arguments(number, row, columns, where, arguments or {}))
    reading.limit_mistakes(mistakes, where)
    mistakes.raise_errors()
    return made


def target_as_continuation(prompt: Prompt, target: str) -> str:
    """Return a target as it stands after a prompt: after text one space is before it, where there is no white space.

    An empty one stays empty.
    """
    parted = not isinstance(prompt, str) or not (prompt and target) or prompt[-1].isspace() or target[0].isspace()
    return target if parted else f" {target}"


def answers_as_continuations(row: Mapping[str, Any]) -> Row:
    """Return a training row with its answers as continuations, as in evaluation."""
    texts = [name for name in ANSWERS if isinstance(row.get("prompt"), str) and isinstance(row.get(name), str)]
    return {**row, **{name: target_as_continuation(row["prompt"], row[name]) for name in texts}}


def _convert_target_to_text(value: Any) -> str | list[str]:
    """Return a target as text or texts. Null becomes "", which no evaluator accepts."""
    if isinstance(value, list):
        return ["" if v is None else str(v) for v in value]
    return "" if value is None else str(value)


def _is_text_or_number(value: Any) -> bool:
    """Return whether a value is text or a finite number. Booleans are neither."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str) or (isinstance(value, int) and value is not True and value is not False)


def _is_target(value: Any) -> bool:
    return all(v is None or _is_text_or_number(v) for v in (value if isinstance(value, list) else [value]))


def _iterate_column_type_errors(
    named: Rows, rows: Rows, clusters: Sequence[str], slices: Sequence[str]
) -> Iterator[str]:
    """Yield an error for each column with a wrong type, which names the first row."""
    name = "give text or a number in every row"
    asked: list[tuple[str, Rows, str, Callable[[Any], bool], str]] = [
        ("target", named, "target", _is_target, "give text or a number, or a list of these"),
        ("id", named, "id", lambda v: _is_text_or_number(v) and v != "", name),
    ]
    asked += [(c, rows, "cluster", lambda v: _is_text_or_number(v) and v != "", name) for c in clusters]
    want = "give text, a number, true or false in every row"
    asked += [(c, rows, f'slices "{c}"', lambda v: isinstance(v, bool) or _is_text_or_number(v), want) for c in slices]
    for column, of, what, fits, want in asked:
        if odd := [n for n, row in enumerate(of, 1) if column in row and not fits(row[column])]:
            value = of[odd[0] - 1][column]
            found = "null" if value is None else shorten_repr(value)
            yield f"row {odd[0]} has {found} as its {what} ({len(odd)} such rows); {want}"
    for number, row in enumerate(named, 1):
        if not _is_prompt(row.get("input", "")):
            found = shorten_repr(row["input"])
            yield f"row {number} has {found} as its input; give text, or messages with role and content"
            return


def _is_prompt(prompt: Any) -> bool:
    """Return whether an input is text, or messages with role and content or tool calls."""
    for message in prompt if isinstance(prompt, list) else ():
        if not (isinstance(message, dict) and isinstance(message.get("role"), str)):
            return False
        content = message.get("content")
        if isinstance(content, list) and content:  # parts, of text or of what a processor reads
            if not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in content):
                return False
        elif not (isinstance(content, str) or (content is None and message.get("tool_calls"))):
            return False
    return isinstance(prompt, (str, list))


def _map_rows_to_known_columns(
    rows: Rows, columns: Columns, template: str | None, where: str, *, json_targets: bool = False
) -> list[Row]:
    """Return rows with known column names and inputs from the template.

    If messages end with an answer, the answer is the target.
    """
    inputs = (
        [{}] * len(rows) if template is None else [{"input": text} for text in fill_template(template, rows, where)]
    )
    found: list[Row] = []
    for row, written in zip(rows, inputs, strict=True):
        aliased = {ours: row[theirs] for theirs, ours in ALIASES.items() if theirs in row and ours not in row}
        mapped = {ALIASES.get(name, name): row[column] for name, column in columns.items()}
        named = {**row, **aliased, **mapped, **written}
        messages = row.get(columns.get("messages", "messages"))
        chosen = "messages" in columns and not {"input", "target"} & (mapped.keys() | written.keys())
        if (chosen or "input" not in named) and isinstance(messages, list) and messages:
            last = messages[-1]
            answered = isinstance(last, dict) and last.get("role") == "assistant"
            said = last.get("content") if answered else ""
            said = (last.get("tool_calls") if answered and json_targets else None) or said
            asked = {"input": messages[:-1] if answered else messages, "target": said}
            first = asked if answered else {"input": messages}
            named = {**asked, **named, **first} if chosen else {**asked, **named}
        if json_targets and not isinstance(value := named.get("target"), str):  # a text is JSON already
            named = {**named, "target": "" if value is None else json.dumps(value, ensure_ascii=False)}
        found.append(named)
    return found


def _find_training_keys(named: Row, columns: Columns, template: str | None) -> tuple[str, ...]:
    """Return the keys that a row is trained on. Empty if it has no trainable shape."""
    shapes: list[tuple[str, ...]] = [(name,) for name in ("messages", "text") if name in columns]
    if not columns and template is None:
        shapes = [("prompt", "completion"), ("messages",), ("text",)]
    return next((shape for shape in (*shapes, PAIR) if all(key in named for key in shape)), ())


def _read_completion(number: int, row: Row, where: str) -> Row:
    """Return a row with its completion as text, or as a message after messages."""
    answer = read_answer(row["completion"], row)
    if isinstance(answer, Mapping):
        answer = read_answer(json.dumps(answer, ensure_ascii=False), row)
    if not isinstance(answer, (str, list)):
        raise UsageError(
            f"{where}: row {number} has {shorten_repr(answer)} as its completion; give text, a number or messages"
        )
    return {**row, "completion": answer}


def read_answer(answer: Any, row: Row) -> Any:
    """Return an answer that is text or a number as text, or as a message after messages. Others are returned as is."""
    answer = _convert_target_to_text(answer) if _is_text_or_number(answer) else answer
    is_message = isinstance(answer, Mapping) and answer.get("role") == "assistant"
    if isinstance(row.get("prompt"), list) and (is_message or (isinstance(answer, str) and answer)):
        return [answer if is_message else {"role": "assistant", "content": answer}]
    return answer


def _make_training_row(number: int, named: Row, where: str, columns: Columns, template: str | None) -> Row:
    if (shape := _find_training_keys(named, columns, template)) != PAIR:
        if "prompt" in shape and not isinstance(named["prompt"], (str, list)):
            raise UsageError(
                f"{where}: row {number} has {shorten_repr(named['prompt'])} as its prompt; give text, or messages"
            )
        row = {key: "" if named[key] is None else named[key] for key in shape}
        return answers_as_continuations(_read_completion(number, row, where) if "completion" in shape else row)
    prompt, value = named["input"], named["target"]
    if not _is_prompt(prompt):
        want = "give text, or messages with role and content"
        raise UsageError(f"{where}: row {number} has {shorten_repr(prompt)} as its input; {want}")
    if isinstance(value, Mapping):  # what an evaluation of JSON wants
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, list) or not _is_target(value):
        raise UsageError(
            f"{where}: row {number} has {shorten_repr(value)} as its target; give text, a number or an object"
        )
    target = str(_convert_target_to_text(value))
    if isinstance(prompt, list):
        return {"prompt": prompt, "completion": [{"role": "assistant", "content": target}]}
    return {"prompt": prompt, "completion": target_as_continuation(prompt, target)}


def training_template_arguments(number: int, row: Row, columns: Columns, where: str, common: Arguments) -> Row:
    """Return a training row's template arguments and tools, as trainers expect.

    Raises UsageError, with the row's number, if they are invalid, beside a text or in a message, or if the messages
    hold media.
    """
    said = [v for v in (row.get(columns.get(n, n)) for n in ("messages", "prompt", "input")) if isinstance(v, list)]
    try:
        found = chat.template_arguments(row, common, list(columns.values()))
        if found and not said:
            raise UsageError(f"has {quote_names(found)} {NO_CHAT}")
        messages = [m for v in said for m in v if isinstance(m, Mapping)]
        _require_no_inner_arguments(messages)
        if kind := chat.find_media(messages):
            raise UsageError(f'has a part of type "{kind}" in its messages, but only text is trained on; remove it')
    except UsageError as error:
        raise UsageError(f"{where}: row {number} {error}") from None
    tools = {chat.TOOLS: found.pop(chat.TOOLS)} if chat.TOOLS in found else {}
    return tools | ({chat.ARGUMENTS: found} if found else {})


def _add_template_arguments(rows: Rows, named: Rows, arguments: Arguments, used: Sequence[str], where: str) -> None:
    """Put template arguments on inputs. Raises UsageError for a text, which no template renders."""
    for number, (row, own) in enumerate(zip(rows, named, strict=True), 1):
        try:
            prompt, given = own.get("input", ""), chat.template_arguments(row, arguments, used)
            if isinstance(prompt, list):
                _require_no_inner_arguments(prompt)
                own["input"] = chat.join_arguments(prompt, given)
            elif given:
                raise UsageError(f"has {quote_names(given)} {NO_CHAT}")
        except UsageError as error:
            raise UsageError(f"{where}: row {number} {error}") from None


def _require_no_inner_arguments(messages: Sequence[Mapping[str, Any]]) -> None:
    if any(chat.ARGUMENTS in message for message in messages):
        raise UsageError(f'has "{chat.ARGUMENTS}" in a message; move it beside the messages')


def quote_names(names: Iterable[str]) -> str:
    """Write names one after the other, in quotes."""
    return ", ".join(f'"{name}"' for name in names)


def _count_characters(row: Row) -> int:
    """Return how many characters the texts of a row have."""
    size, waiting = 0, list(row.values())
    while waiting:
        here = waiting.pop()
        if isinstance(here, str):
            size += len(here)
        elif isinstance(here, (dict, list)):
            waiting += here.values() if isinstance(here, dict) else here
    return size


def find_target_in_template(template: str, columns: Columns, rows: Sequence[Mapping[str, Any]]) -> str:
    """Explain how a template leaks the target into its prompt. Empty if it does not."""
    names = [ours for ours in ("target", *NAMES["target"]) if ours in columns]
    column = (
        columns[names[0]] if names else next((n for n in ("target", *NAMES["target"]) if rows and n in rows[0]), "")
    )
    if column in template_columns(template):
        return f'names "{column}", the column of the target, so the prompt contains its answer; remove it'
    return ""
