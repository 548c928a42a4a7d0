"""Keys of chat rows that change nothing of what the chat template writes: what is left out of them without a word."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from harness import Finding, TrainingRow
from harness.internals import Severity, chat, text_of
from harness_checks.frames import Write, messages_of
from harness_checks.lint import JUDGED, counted, numbers, place

RENDERED = 24  # rows of each key, and four times as many messages, that are rendered with and without it
OBEYED = {"weight", "train"}  # by `sft`: whether a turn is learnt
SPARE = ("id", "name", "tool_call_id")  # which most templates leave out, and nobody misses
ASKED = re.compile(r"""(?:\.|\[|get\()\s*['"]?([a-z_]+)""")  # for by a template, of messages among others
EMPTY: tuple[object, ...] = (None, "", [], {})
OTHER = "remove it, or take a chat template that writes it"
SYSTEM = 'put it first among the messages, with the role "system"'
Key = tuple[str, bool]  # its name, and whether it stands beside the messages


def unread(rows: Sequence[TrainingRow], template: str, write: Write) -> Iterator[Finding]:
    """Yield the keys of chat rows that `write` does not read, and the answers of which it leaves out a part."""
    holders: dict[Key, list[tuple[TrainingRow, list[int]]]] = defaultdict(list)
    for row in rows:
        for key, places in _places(row).items():
            holders[key].append((row, places))
    for key, held in holders.items():
        marked = [one for one in held if key[0] == "content" and "</" in text_of(messages_of(one[0]))] or held
        sample = marked[:: max(1, len(marked) // RENDERED)][:RENDERED]
        tried = [(row, at) for row, places in sample for at in places][: 4 * RENDERED]
        if not (lost := [(row, at) for row, at in tried if not _written(row, at, key, write)]):
            continue
        learnt = any(_is_learnt(row, at) for row, at in lost)
        how: Severity = "warning" if learnt else "note"  # as thoughts are left out of a prompt
        if whole := len(lost) == len(tried) and key[0] != "content":
            what = f'{counted(len(held), len(rows))}: the chat template does not write "{key[0]}"'
            fix = (SYSTEM if key[0] == "system" else OTHER) if key[1] else _way_out(*lost[0], key[0], template, write)
            how = "note" if key[0] in SPARE else "error" if key[0] == "tool_calls" and learnt else "warning"
        else:
            what = f'the chat template leaves out "{key[0]}", or a part of it, in {len(lost)} of {len(tried)} messages'
            fix = "learn the last answer alone (prompt and completion), or take a template that writes it everywhere"
        evidence = [place(row, rows) + f", message {at + 1}" * (at >= 0) for row, at in lost]
        yield Finding(how, what, evidence, fix, "keys", numbers(row for row, _ in (held if whole else lost)))


def _places(row: TrainingRow) -> dict[Key, list[int]]:
    """Return which messages of a chat row have a key that holds something, of contents the learnt; -1 is beside."""
    spared = {"role"} if JUDGED & row.row.keys() else {"role"} | OBEYED
    found: dict[Key, list[int]] = defaultdict(list)
    for at, message in enumerate(messages_of(row)):
        for key in (key for key, value in message.items() if key not in spared and value not in EMPTY):
            if key != "content" or (isinstance(message[key], str) and _is_learnt(row, at)):
                found[key, False].append(at)
    beside = [*chat.of_training(row.row), *(["system"] if isinstance(row.raw.get("system"), str) else [])]
    return found | {(key, True): [-1] for key in beside}


def _is_learnt(row: TrainingRow, at: int) -> bool:
    asked = 0 if "messages" in row.row else len(row.row["prompt"])
    return at >= asked and messages_of(row)[at].get("role") == "assistant"


def _written(row: TrainingRow, at: int, key: Key, write: Write) -> bool:
    """Return whether a row is written otherwise without a key; an answer, whether all but its white space is."""
    messages, given = messages_of(row), chat.of_training(row.row)
    if key == ("system", True):
        return str(row.raw["system"]).strip() in row.prompt
    if key[1]:
        less = {name: value for name, value in given.items() if name != key[0]}
        parts = ((messages, False), (messages[:-1], True))
        return any(write(part, opened, given) != write(part, opened, less) for part, opened in parts)
    if (text := write(messages, False, given)) is None:
        return True  # D11-template tells
    if key[0] == "content":
        return "".join(text_of(messages[at : at + 1]).split()) in "".join(text.split())
    bare = {name: value for name, value in messages[at].items() if name != key[0]}
    return write([*messages[:at], bare, *messages[at + 1 :]], False, given) != text


def _way_out(row: TrainingRow, at: int, key: str, template: str, write: Write) -> str:
    """Return what to do about a key: to give it the template's own name, where one of those writes its value."""
    messages, given = messages_of(row), chat.of_training(row.row)
    bare, value = {k: v for k, v in messages[at].items() if k != key}, messages[at][key]
    for name in sorted(set(ASKED.findall(template)) - bare.keys()) if isinstance(value, str) else ():
        text = write([*messages[:at], bare | {name: value}, *messages[at + 1 :]], False, given)
        if value.strip() in (text or ""):
            return f'rename it "{name}", which the template writes'
    return OTHER
