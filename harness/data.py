"""Files and data sets -> rows -> Samples, with columns renamed; every wrong row is told by its place."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import Mistakes, UsageError
from harness.result import Prompt, Sample

Row = dict[str, Any]
ALIASES = {"prompt": "input", "question": "input", "completion": "target", "answer": "target"}
GROUP, HELD_OUT = "group", "held_out"  # marks of a training row: what it belongs to; only to validate with
FILES = (".jsonl", ".json", ".csv", ".parquet")


def is_remote(source: str) -> bool:
    """Say whether a source is a data set of the Hub, which is read at preflight and not at collection."""
    return source.startswith("hub:")


def read_rows(source: str, folder: Path, ask: Callable[[str], list[Row] | None], where: str) -> list[Row]:
    """Return the rows of a source: a plugin's, a file relative to `folder`, or `hub:NAME[/CONFIG]:SPLIT`.

    `ask` asks the plugins. Raises UsageError when the source is not there, empty, or malformed.
    """
    rows = ask(source)
    if rows is None and is_remote(source):
        rows = _read_hub(source, where)
    if rows is None:
        rows = _read_file((folder / Path(source).expanduser()).resolve(), source, where)
    if not rows:
        raise UsageError(f'{where}: data "{source}" has no rows; an empty evaluation proves nothing')
    return rows


def to_samples(
    rows: Sequence[Row], where: str, *, columns: Mapping[str, str], cluster: str | None, slices: Sequence[str]
) -> list[Sample]:
    """Make one Sample a row. `columns` maps our names (id, input, target) to the data's.

    Without a mapping, prompt/question, completion/answer, text and messages are understood. Rows
    without an id get their number, from 0. Raises UsageError on missing columns and duplicate ids.
    """
    mistakes = Mistakes()
    wanted = dict(columns)
    if cluster:
        wanted["cluster"] = cluster
    wanted |= {f"slices {s}": s for s in slices}
    for name, column in wanted.items():
        lacking = [i for i, row in enumerate(rows) if column not in row]
        if lacking:
            here = ", ".join(f'"{c}"' for c in rows[0])
            mistakes.add(
                where, f'no column "{column}" for {name} in row {lacking[0]} ({len(lacking)} rows); it has {here}'
            )
    mistakes.raise_if_any()
    samples = [_sample(i, row, columns, cluster) for i, row in enumerate(rows)]
    if odd := [(i, s.input) for i, s in enumerate(samples) if not _is_prompt(s.input)]:
        found = f"row {odd[0][0]} has the input {odd[0][1]!r:.60}"
        mistakes.add(where, f"{found}; want text, or messages with role and content")
    if not any(s.input or "text" in s.row for s in samples):
        here = ", ".join(f'"{c}"' for c in rows[0])
        mistakes.add(
            where, f'no column "input"; its columns are {here}; write columns = {{ input = "…", target = "…" }}'
        )
    twice = [i for i, n in Counter(s.id for s in samples).items() if n > 1]
    if twice:
        mistakes.add(where, f'{len(twice)} ids stand in more than one row, for instance "{twice[0]}"')
    mistakes.raise_if_any()
    return samples


def to_training_rows(rows: Sequence[Row], columns: Mapping[str, str], where: str) -> list[Row]:
    """Return rows as trainers take them: {prompt, completion}, {messages} or {text}.

    An input and a target become a prompt and a completion; between texts stands one space, as it does in evaluation.
    """
    lacking = [(n, c) for n, c in columns.items() if any(c not in row for row in rows)]
    if lacking:
        here = ", ".join(f'"{c}"' for c in rows[0])
        raise UsageError(f'{where}: no column "{lacking[0][1]}" for {lacking[0][0]}; its columns are {here}')
    return [_training_row(i, row, columns, where) for i, row in enumerate(rows)]


def continuation(prompt: Prompt, target: str) -> str:
    """Return a target as it stands after a prompt: a space before it after text that does not end in white space."""
    return f" {target}" if isinstance(prompt, str) and prompt and not prompt[-1].isspace() else target


def _sample(number: int, row: Row, columns: Mapping[str, str], cluster: str | None) -> Sample:
    named = _named(row, columns)
    messages = row.get("messages")
    if "input" not in named and isinstance(messages, list) and messages:
        last = messages[-1]
        answered = isinstance(last, dict) and last.get("role") == "assistant"
        named = {
            "input": messages[:-1] if answered else messages,
            "target": last.get("content", "") if answered else "",
            **named,
        }
    target = named.get("target", "")
    return Sample(
        id=str(named.get("id", number)),
        input=named.get("input", ""),
        target=[str(t) for t in target] if isinstance(target, list) else str(target),
        row=row,
        cluster=str(row[cluster]) if cluster else None,
    )


def _is_prompt(prompt: Any) -> bool:
    if not isinstance(prompt, list):
        return isinstance(prompt, str)
    said = all(isinstance(m, dict) and (m.get("content") is not None or m.get("tool_calls")) for m in prompt)
    return said and all(isinstance(m.get("role"), str) for m in prompt)


def _named(row: Row, columns: Mapping[str, str]) -> Row:
    aliased = {ours: row[theirs] for theirs, ours in ALIASES.items() if theirs in row and ours not in row}
    return {**row, **aliased, **{name: row[column] for name, column in columns.items()}}


def _training_row(number: int, row: Row, columns: Mapping[str, str], where: str) -> Row:
    if not columns:
        for shape in (("prompt", "completion"), ("messages",), ("text",)):
            if all(key in row for key in shape):
                return {key: row[key] for key in shape}
    named = _named(row, columns)
    if "input" in named and "target" in named:
        prompt, target = named["input"], str(named["target"])
        if isinstance(prompt, list):
            return {"prompt": prompt, "completion": [{"role": "assistant", "content": target}]}
        return {"prompt": prompt, "completion": continuation(prompt, target)}
    here = ", ".join(f'"{c}"' for c in row)
    raise UsageError(
        f"{where}: row {number} has {here}; want input and target, prompt and completion, messages, or text"
    )


def _read_file(path: Path, source: str, where: str) -> list[Row]:
    if path.suffix not in FILES:
        known = "a file (" + ", ".join(FILES) + "), hub:NAME:SPLIT, or what a plugin's harness_read_samples knows"
        raise UsageError(f'{where}: data "{source}" is unknown; want {known}')
    if not path.is_file():
        raise UsageError(f'{where}: data "{source}" is not there; looked for {path}')
    if path.suffix == ".parquet":
        return _read_parquet(path, where)
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from None
    if path.suffix == ".csv":
        return [dict(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    if path.suffix == ".json":
        return _rows_of(_parse(text, f"{path}"), path)
    lines = ((n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip())
    return _rows_of([_parse(line, f"{path}:{n}") for n, line in lines], path)


def _parse(text: str, place: str) -> Any:
    try:
        found = json.loads(text)
        if "\\ud" in text.lower():  # an escape that may be half of a pair, which no encoding can write
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except UnicodeEncodeError:
        raise UsageError(f"{place}: holds half of a character (a lone surrogate); write the text again") from None
    except RecursionError:
        raise UsageError(f"{place}: is nested too deeply to be a row") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"{place}: not valid JSON: {error.msg} at column {error.colno}; is the file whole?") from None


def _rows_of(found: Any, path: Path) -> list[Row]:
    if not isinstance(found, list):
        raise UsageError(f"{path}: holds {type(found).__name__}, want a list of objects")
    odd = next((i for i, row in enumerate(found) if not isinstance(row, dict)), None)
    if odd is not None:
        raise UsageError(f"{path}: row {odd} is {found[odd]!r:.40}, want an object")
    return found


def _read_parquet(path: Path, where: str) -> list[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(f"{where}: reading .parquet needs pip install 'finetune-harness[hf]'") from None
    try:
        rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"{path}: not valid parquet: {' '.join(str(error).split())[:120]}") from None
    return rows


def _read_hub(source: str, where: str) -> list[Row]:
    """Read `hub:NAME[/CONFIG]:SPLIT`; a name with two slashes ends in a configuration."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise UsageError(f"{where}: reading hub: data needs pip install 'finetune-harness[hf]'") from None
    name, _, split = source.removeprefix("hub:").partition(":")
    parts = name.split("/")
    config = parts.pop() if len(parts) > 2 else None
    try:
        rows: Iterable[Row] = load_dataset("/".join(parts), config, split=split or "train")
        return [dict(row) for row in rows]
    except Exception as error:  # the library raises a dozen kinds; what helps is the name and its last line
        why = " ".join(str(error).split())[:160]
        raise UsageError(f'{where}: data "{source}" cannot be read: {why}; is the network there?') from None
