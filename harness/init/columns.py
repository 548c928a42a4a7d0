"""A table of whoever: which columns are asked and wanted, which rows are left out, and three parts of the rest."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from statistics import fmean
from typing import Any

from harness.data.identity import canonical_text
from harness.errors import UsageError, did_you_mean

Row = dict[str, Any]
Columns = Mapping[str, Sequence[str]]
Ask = Callable[[str, Sequence[str]], str]
NAMES = {  # of columns, in small letters, by what they are taken for
    "input": "input text message question prompt review tweet sentence comment body content query utterance",
    "label": "label labels target answer category class intent topic mood sentiment output completion response",
    "group": "group user author customer article document doc conversation thread session speaker patient case",
}
KINDS, OFTEN = 40, 5  # different answers that can be chosen from, and rows that each has on average
FEWEST, LEAST, GROUPS = 60, 20, 10  # rows that can be cut into three, those of a part, and groups that can confirm
EMPTY = ("", "nan", "null")  # as tools write what is not there
RESERVED = ("choices", "gold", "tools", "chat_template_kwargs")  # columns that mean something else in a suite
MOST = 200_000  # rows to train on; more make every look at them take minutes
PARTS = {"confirm": (0.2, 200, 5000), "select": (0.1, 0, 1000)}  # share, at least (a third at most), at most
FEW = "by its few distinct values"
NUMBER = re.compile(r"[-+]?[0-9]+(?:[.,][0-9]+)?")


@dataclass(frozen=True)
class Roles:
    """The columns that are asked, wanted and kept together, how they were found, and what kind of answer is wanted."""

    input: str
    label: str
    group: str | None
    why: Mapping[str, str]


def rename_columns(rows: Sequence[Row]) -> tuple[list[Row], dict[str, list[str]]]:
    """Return rows under names that a template can hold, and the texts of each column.

    Raises UsageError where there is no table to learn from.
    """
    names = {name: safe_name(name) for name in dict.fromkeys(name for row in rows for name in row)}
    if "messages" in names:
        raise UsageError("rows of messages are not a table; harness init --task chat writes a suite for them")
    if len({*names.values()}) < max(2, len(names)):
        want = "an input column and another column with its label or answer are needed"
        raise UsageError(f"its columns are {', '.join(map(quote_text, names)) or 'none'}; {want}")
    rows = [{names[name]: value for name, value in row.items()} for row in rows]
    return rows, {name: [_text(row.get(name)) for row in rows] for name in names.values()}


def safe_name(name: str) -> str:
    """Return the name of a column as it may stand in a template."""
    return re.sub(r"[.\[\]{}!:]", "_", name).strip() or "_"


def quote_text(text: str) -> str:
    """Return a text in quotes, as TOML and JSON write it."""
    return json.dumps(text, ensure_ascii=False)


def _text(value: Any) -> str:
    """Return a value as it is read: numbers as a person writes them, and nothing of what is no text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.0f}" if value.is_integer() else str(value)
    return value.strip() if isinstance(value, str) else "" if value is None else str(value)


def find_roles(columns: Columns, given: Mapping[str, str | None], ask: Ask) -> Roles:
    """Return which columns are what: as given, by their names, by what stands in them, or as `ask` is answered.

    Raises UsageError for a column that is not there, and what `ask` raises where nobody can be asked.
    """
    for option, name in given.items():
        if name is not None and name not in columns:
            raise UsageError(f'--{option} "{name}": column does not exist{did_you_mean(name, columns)}')
    plain = {c: re.sub(r"[\W_]+(id|key|name)?$|(?<=[a-z])Id$", "", c.strip()).lower() for c in columns}
    named = {role: [c for c in columns if plain[c] in words.split()] for role, words in NAMES.items()}
    few = [c for c, texts in columns.items() if _few(Counter(texts))]
    free = [c for c in columns if c not in given.values()]
    other = [c for c in columns if c not in (given["input"] or "".join(named["input"]))] if len(columns) == 2 else []
    ways = {"by its name": named["label"], FEW: few, "the other column": other}
    label, of_label = _first(("label", given["label"]), free, ways, ask)
    left = [c for c in free if c != label]
    length = {c: fmean(map(len, columns[c])) for c in left}
    longest = [c for c in left if all(length[c] > 2 * length[d] for d in left if d != c)]
    found = {"by its name": named["input"], "the longest texts": longest}
    asked, of_input = _first(("input", given["input"]), left, found, ask)
    if label in (asked, given["group"]) or asked == given["group"]:
        raise UsageError("--input, --label and --group must name three different columns")
    of_group, group = "as given", given["group"]
    for name in [c for c in named["group"] if c in left and c != asked] if group is None else ():
        kinds = Counter(text for text in columns[name] if text)
        spread = 5 * GROUPS <= len(kinds) <= 0.9 * kinds.total() and max(kinds.values()) < 0.1 * kinds.total()
        if spread and kinds.total() > 0.9 * len(columns[name]):
            group, of_group = name, "by its name, and its values repeat"
    return Roles(asked, label, group, {"input": of_input, "label": of_label, "group": of_group})


def _first(
    role: tuple[str, str | None], among: Sequence[str], found: Mapping[str, Sequence[str]], ask: Ask
) -> tuple[str, str]:
    """Return the column of a role and why it is: as given, the one of the first way that finds one, or as asked."""
    if role[1] is not None:
        return role[1], "as given"
    for why, names in found.items():
        if len(here := [name for name in names if name in among]) == 1:
            return here[0], why
    return ask(role[0], [c for c in among if any(c in names for names in found.values())] or among), "as given"


def _few(kinds: Counter[str]) -> bool:
    return 2 <= len(kinds) <= KINDS and kinds.total() >= OFTEN * len(kinds) and max(map(len, kinds)) <= 60


def clean_rows(rows: Sequence[Row], columns: Columns, roles: Roles) -> tuple[list[Row], list[str], Counter[str]]:
    """Return the rows that can be learnt from, the labels that they are chosen from, and how many others there are.

    Without labels the answers are free. A row gets its number, from 1, as its id, unless it has one of its own.
    Raises UsageError where nothing can be learnt.
    """
    for name in (roles.input, roles.label):
        if odd := next((row[name] for row in rows if isinstance(row.get(name), (list, dict))), None):
            raise UsageError(f'column "{name}" contains {quote_text(str(odd)[:40])}; only text and numbers are allowed')
    answers = [" ".join(text.split()) for text in columns[roles.label]]
    spelt = Counter(text for text in answers if text.lower() not in EMPTY)
    usual = {text.casefold(): text for text, _ in reversed(spelt.most_common())}
    kinds = Counter(usual[text.casefold()] for text in spelt.elements())
    if len(kinds) < 2:
        all_of_them = f'all labels are "{next(iter(kinds))}"' if kinds else "no row has a label"
        raise UsageError(
            f'column "{roles.label}": {all_of_them}, so there is nothing to train on; two or more labels are needed'
        )
    chosen = sorted(kinds) if len(kinds) <= KINDS and kinds.total() >= OFTEN * len(kinds) else []
    keys = [canonical_text(text) for text in columns[roles.input]]
    meant = defaultdict[str, set[str]](set)
    for key, answer in zip(keys, answers, strict=True):
        meant[key].add(answer.casefold())
    ids, seen = columns.get("id", ()), set[str]()
    own = len({*ids}) == len(rows) and "" not in ids
    kept, dropped = list[Row](), Counter[str]()
    for i, (row, key, answer) in enumerate(zip(rows, keys, answers, strict=True)):
        if not key or answer.lower() in EMPTY or (roles.group and not columns[roles.group][i]):
            dropped["without an input, a label or a group"] += 1
        elif chosen and len(meant[key] - {*EMPTY}) > 1:
            dropped["whose input also occurs with another label"] += 1
        elif key in seen:
            dropped["that repeat the question of an earlier row"] += 1
        else:
            written = {roles.input: columns[roles.input][i], roles.label: columns[roles.label][i]}
            written[roles.label] = usual[answer.casefold()] if chosen else written[roles.label]
            others = {k: v for k, v in row.items() if k not in (*RESERVED, roles.input, roles.label)}
            kept.append({**others, "id": ids[i] if own else i + 1, **written})
        seen.add(key)
    if len(kept) < FEWEST:
        what = (
            f"only {len(kept)} of {len(rows)} rows are left, but at least {FEWEST} are needed to "
            "decide anything; add rows"
        )
        left_out = ", ".join(f"{n:,} {why}" for why, n in dropped.items())
        raise UsageError(f"{what}; left out: {left_out}" if dropped else what)
    return kept, chosen, dropped


def split_rows(rows: Sequence[Row], by: str) -> dict[str, list[Row]]:
    """Return rows as train, select and confirm: all of one value of a column in one of them, in an order of no meaning.

    The values alone decide which. One of more rows than a part has room for is trained on.
    Raises UsageError where too few are left to confirm.
    """
    groups = defaultdict[str, list[Row]](list)
    for row in rows:
        groups[canonical_text(row[by])].append(row)
    order = sorted(groups, key=lambda group: sha256(group.encode()).digest())
    parts: dict[str, list[Row]] = {"train": [], "select": [], "confirm": []}
    for name, (share, least, most) in PARTS.items():
        room, rest = min(max(share * len(rows), min(least, len(rows) / 3)), most), list[str]()
        for group in order:
            fits = len(parts[name]) + len(groups[group]) <= room
            parts[name] += groups[group] if fits else []
            rest += [] if fits else [group]
        order = rest
    parts["train"] = [row for group in order for row in groups[group]][:MOST]
    confirmed = {canonical_text(row[by]) for row in parts["confirm"]}
    if len(confirmed) < GROUPS or min(len(parts["confirm"]), len(parts["train"])) < LEAST:
        what = (
            f"only {len(parts['confirm']):,} rows with {len(confirmed)} values would confirm, but {LEAST} "
            f"with {GROUPS} are needed"
        )
        raise UsageError(f"values of {quote_text(by)} are too uneven to keep the rows of each together: {what}")
    return parts
