"""What the columns of a table are for: one answer for every command that reads rows of others.

A layout that trainers know decides first, then the names of columns, then what their cells hold. A role that was given
is not looked for.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from harness.data.accepted_answers import NO_LABEL, list_accepted_answers, list_label_sets
from harness.data.cells import MAX_CATEGORIES, MAX_CATEGORY_CHARS, MIN_ROWS_PER_CATEGORY
from harness.data.column_names import (
    ANSWERS,
    CHATS,
    GROUPS,
    IDS,
    INPUTS,
    LABELS,
    LONG_LABELS,
    OWN_NAMES,
    PAIRS,
    PROMPTS,
    SYSTEMS,
    describe_role,
    fold_name,
    plain_name,
)
from harness.data.layouts import AMBIGUOUS, Layout, find_layout
from harness.data.turns import format_value, list_unread_keys, parse_json_cell
from harness.errors import UsageError, did_you_mean

Row = dict[str, Any]
Columns = Mapping[str, Sequence[str]]
Given = Mapping[str, str | None]  # columns that a user named, by role: input, label, group
Ask = Callable[[str, Sequence[str]], str]
NAMES = {"input": INPUTS, "label": LABELS, "text": LONG_LABELS, "group": GROUPS}  # by what columns are taken for
SHOWN_COLUMNS = 10  # names of columns in a line
MIN_GROUPS = 50  # of a column that is taken for one of groups
OTHER_COLUMN = "the other column"
MIN_UNIQUE = 0.9  # share of different values among codes
BY_FEW_VALUES = "by its few distinct values"
EMPTY = {"", "[]", "{}"}  # cells without a value


class AmbiguousColumnError(UsageError):
    """Columns of which several could have a role, or none."""


@dataclass(frozen=True)
class Resolution:
    """The layout of a table, the roles of its columns, and what of it is not used.

    `rows` have the names of columns that templates can hold, `texts` are their cells by column.
    """

    layout: Layout
    roles: Roles
    rows: Sequence[Row]
    texts: Columns
    unused: Sequence[str]
    unread: Sequence[str]

    def describe(self) -> list[str]:
        """Describe what was decided, in at most five lines."""
        lines = [*self.describe_roles()]
        lines += [f"not used: {list_names(self.unused)}"] if self.unused else []
        return lines + ([f"not used in messages: {list_names(self.unread)}"] if self.unread else [])

    def describe_roles(self) -> list[str]:
        """Describe the roles of the columns that are used."""
        roles = self.roles
        if self.layout.kind == "columns":
            named = {"input": roles.inputs, "label": [roles.label]}
            lines = [describe_role(role, columns, roles.why[role]) for role, columns in named.items()]
        else:
            used = self.layout.columns.items()
            columns = ", ".join(f"{role} {list_names(names.split(', '))}" for role, names in used)
            lines = [f"layout: {self.layout.name}; {columns}"]
        return lines + ([describe_role("group", [roles.group], roles.why["group"])] if roles.group else [])


def describe_possible_swap(resolution: Resolution) -> list[str]:
    """Return a note where codes are taken for the input of longer texts by their place alone, such as of ICD."""
    roles = resolution.roles
    if resolution.layout.kind != "columns" or {roles.why["input"], roles.why["label"]} != {OTHER_COLUMN}:
        return []
    column, other = roles.inputs[0], roles.label
    codes, texts = ([text for text in resolution.texts[name] if text] for name in (column, other))
    coded = all(any(map(str.isdecimal, text)) and len(text.split()) == 1 for text in codes)
    unique = len({*codes}) > MIN_UNIQUE * len(codes)
    if not (coded and unique and texts and fmean(map(len, texts)) > 2 * fmean(map(len, codes))):
        return []
    names = f"{quote_text(column)} holds codes, and {quote_text(other)} longer texts"
    return [f"warning: {names}; if the codes are the answers, give --input {quote_text(other)}"]


def resolve_table(rows: Sequence[Row], given: Given, ask: Ask) -> Resolution:
    """Find the layout of a table and the roles of its columns.

    Raises UsageError for a column that does not exist, a malformed layout, and what `ask` raises.
    """
    rows = _split_translations(rows)
    layout = find_layout(rows) if given.get("input") is None and given.get("label") is None else None
    unread = list_unread_keys(rows, layout.used) if layout else []
    rows, texts = rename_columns(rows, 1 if layout else 2)
    safe = {role: name and safe_name(name) for role in ("label", "group") for name in [given.get(role)]}
    if layout:
        group = safe["group"]
        if group is not None and group not in texts:
            raise UsageError(f'--group "{group}": column does not exist{did_you_mean(group, texts)}')
        asks = layout.columns.get("prompt") or next(iter(layout.columns.values()))
        roles = Roles((asks,), "", group, {"group": "as given"})
    else:
        roles = find_roles(texts, {"input": given.get("input"), **safe}, ask)
        layout = to_layout(rows, texts, roles)
    used = {*map(safe_name, layout.used), *layout.used, roles.group, "id"}
    unused = [name for name, cells in texts.items() if name not in used and not EMPTY.issuperset(cells)]
    return Resolution(layout, roles, rows, texts, unused, unread)


@dataclass(frozen=True)
class Roles:
    """The input, label and group columns of a table. `why` says how each was found."""

    inputs: tuple[str, ...]
    label: str
    group: str | None
    why: Mapping[str, str]


def _split_translations(rows: Sequence[Row]) -> Sequence[Row]:
    """Return rows with a column for each language, where a cell holds the texts of two."""
    column = next((name for row in rows for name in row if name.strip().lower() == "translation"), None)
    if column is None:
        return rows
    cells = [parse_json_cell(row.get(column)) for row in rows]
    languages = [*cells[0]] if isinstance(cells[0], dict) else []
    if len(languages) != 2 or not all(isinstance(cell, dict) and cell.keys() == {*languages} for cell in cells):
        return rows
    split = []
    for row, cell in zip(rows, cells, strict=True):
        split.append({**{name: value for name, value in row.items() if name != column}, **cell})
    return split


def rename_columns(rows: Sequence[Row], fewest: int = 2) -> tuple[list[Row], dict[str, list[str]]]:
    """Rename columns so that templates can hold them.

    Also returns the text of every cell by column. Raises UsageError if there are fewer columns than `fewest`, or two
    get the same name.
    """
    names = {name: safe_name(name) for name in dict.fromkeys(name for row in rows for name in row)}
    first = dict[str, str]()
    for name, safe in names.items():
        if (other := first.setdefault(safe, name)) != name:
            both = f"{quote_text(other)} and {quote_text(name)}"
            raise UsageError(f"the columns {both} have one name in a template, {quote_text(safe)}; rename one")
    if len(names) < fewest:
        want = "an input column and another column with its label or answer are needed"
        raise AmbiguousColumnError(f"its columns are {list_names([*names]) or 'none'}; {want}")
    rows = [{names[name]: value for name, value in row.items()} for row in rows]
    return rows, {name: [format_value(row.get(name)) for row in rows] for name in names.values()}


def safe_name(name: str) -> str:
    """Replace the characters of a column name that templates reserve."""
    return re.sub(r"[.\[\]{}!:]", "_", name).strip() or "_"


def quote_text(text: str) -> str:
    """Return a text in quotes, as TOML and JSON write it."""
    return json.dumps(text, ensure_ascii=False)


def list_names(names: Sequence[str]) -> str:
    """Join quoted names, with only a count after the first ten."""
    more = f" and {len(names) - SHOWN_COLUMNS:,} more" if len(names) > SHOWN_COLUMNS else ""
    return ", ".join(map(quote_text, names[:SHOWN_COLUMNS])) + more


def find_roles(columns: Columns, given: Mapping[str, str | None], ask: Ask) -> Roles:
    """Return the inputs, the label and the group: as given, by names, by contents, or as `ask` is answered.

    Raises UsageError for a column that does not exist, and what `ask` raises where nobody can be asked.
    """
    inputs = _parse_inputs(given["input"], columns)
    for option, names in {"input": inputs, "label": (given["label"],), "group": (given["group"],)}.items():
        if missing := [name for name in names if name is not None and name not in columns]:
            raise UsageError(f'--{option} "{missing[0]}": column does not exist{did_you_mean(missing[0], columns)}')
    plain = {column: plain_name(column) for column in columns}
    named = {role: [column for column in columns if plain[column] in names] for role, names in NAMES.items()}
    lower_names = {column: fold_name(column) for column in columns}
    lower = {name: column for column, name in lower_names.items()}
    pair = next((tuple(lower[name] for name in names) for names in PAIRS if {*names} <= lower.keys()), ())
    pair = () if inputs or {given["label"], given["group"]} & {*pair} else pair
    few = [c for c, texts in columns.items() if _has_few_repeated_labels(Counter(texts))]
    free = [c for c in columns if c not in (*inputs, *pair, *given.values())]
    content = [column for column in columns if lower_names[column] not in IDS]
    first = inputs or named["input"][:1] or content[:1]
    other = [column for column in content if column not in first] if len(content) == 2 else []
    other = [column for column in other if lower_names[column] not in OWN_NAMES["input"]]  # which is no answer
    by_name = "by its name"
    own = {role: [column for column in columns if lower_names[column] in names] for role, names in OWN_NAMES.items()}
    ways = (
        *((by_name, own["target"]), (by_name, named["label"]), (BY_FEW_VALUES, few)),
        *((OTHER_COLUMN, other), (by_name, named["text"])),
    )
    label, of_label = _choose_or_ask_column(("label", given["label"]), free, ways, ask)
    left = [c for c in free if c != label]
    of_input = "as given" if inputs else "by their names"
    if not (inputs := inputs or pair):
        length = sorted((fmean(map(len, columns[c])), c) for c in left)
        longest = [c for size, c in length[-1:] if len(length) == 1 or size > 2 * length[-2][0]]
        by_names = ((by_name, own["input"]), (by_name, named["input"]), (OTHER_COLUMN, content if other else []))
        asked, of_input = _choose_or_ask_column(("input", None), left, (*by_names, ("the longest texts", longest)), ask)
        inputs = (asked,)
    if label in inputs or given["group"] in (*inputs, label) or len({*inputs}) < len(inputs):
        raise UsageError("--input, --label and --group must name three different columns")
    group, of_group = given["group"], "as given"
    for name in [*inputs[: len(pair)], *(c for c in named["group"] if c in left and c not in inputs)]:
        if given["group"] is None and _is_group_column(columns[name]):
            group, of_group = name, "by its name, and its values repeat"
    return Roles(inputs, label, group, {"input": of_input, "label": of_label, "group": of_group})


def _parse_inputs(given: str | None, columns: Columns) -> tuple[str, ...]:
    """Split `--input A,B` into column names. A column may have a comma in its name."""
    if given is None or given in columns:
        return () if given is None else (given,)
    return tuple(safe_name(name) for name in given.split(","))


def _is_group_column(texts: Sequence[str]) -> bool:
    """Return whether values repeat as those of a group do: often, but none in a tenth of the rows."""
    kinds = Counter(text for text in texts if text)
    spread = MIN_GROUPS <= len(kinds) <= 0.9 * kinds.total() and max(kinds.values()) < 0.1 * kinds.total()
    return spread and kinds.total() > 0.9 * len(texts)


def _choose_or_ask_column(
    role: tuple[str, str | None], among: Sequence[str], found: Sequence[tuple[str, Sequence[str]]], ask: Ask
) -> tuple[str, str]:
    """Return the column of a role and why it is: as given, the one of the first way that finds one, or as asked."""
    if role[1] is not None:
        return role[1], "as given"
    for why, names in found:
        if len(here := [name for name in names if name in among]) == 1:
            return here[0], why
    return ask(role[0], [c for c in among if any(c in names for _, names in found)] or among), "as given"


def _has_few_repeated_labels(kinds: Counter[str]) -> bool:
    return (
        2 <= len(kinds) <= MAX_CATEGORIES
        and kinds.total() >= MIN_ROWS_PER_CATEGORY * len(kinds)
        and max(map(len, kinds)) <= MAX_CATEGORY_CHARS
    )


def to_layout(rows: Sequence[Row], columns: Columns, roles: Roles) -> Layout:
    """Lay out a table for a suite with a template.

    Of accepted answers a row holds all, if there are several. Raises UsageError if an input or label cell is any other
    list or an object.
    """
    if (sets := list_label_sets([row.get(roles.label) for row in rows], roles.label)) is not None:
        rows = [{**row, roles.label: ", ".join(labels) or NO_LABEL} for row, labels in zip(rows, sets, strict=True)]
        columns = {**columns, roles.label: [row[roles.label] for row in rows]}
    listed = [list_accepted_answers(row.get(roles.label), roles.label) for row in rows]
    rows = [row if some is None else {**row, roles.label: None} for row, some in zip(rows, listed, strict=True)]
    for name in (*roles.inputs, roles.label):
        if odd := next((row[name] for row in rows if isinstance(row.get(name), (list, dict))), None):
            shown = quote_text(format_value(odd)[:40])
            raise UsageError(f'column "{name}" contains {shown}; only text and numbers are allowed')
    asked, made = ["\n".join(texts) for texts in zip(*(columns[c] for c in roles.inputs), strict=True)], list[Row]()
    accepted = [
        some or [""] if some is not None else [text] for some, text in zip(listed, columns[roles.label], strict=True)
    ]
    for i, texts in enumerate(accepted):
        answer = {roles.label: texts if len(texts) > 1 else texts[0]}
        made.append({name: columns[name][i] for name in roles.inputs} | answer)
    used = {"input": ", ".join(roles.inputs), "label": roles.label}
    answers = [" ".join(texts[0].split()) for texts in accepted]
    return Layout("columns", "", used, asked, answers, made, label_sets=sets)


@dataclass(frozen=True)
class SuiteRows:
    """Rows as a suite reads them, and the columns that are still to be mapped.

    `lines` describe what columns were taken for; there are none where the names are a suite's own, or were declared.
    """

    rows: list[Row]
    columns: Mapping[str, str]
    lines: Sequence[str] = ()


def resolve_suite_rows(
    rows: list[Row],
    columns: Mapping[str, str],
    template: str | None,
    *,
    kept: Collection[str] = (),
    training: bool = False,
) -> SuiteRows:
    """Give rows of any layout the columns of a suite: messages, or input and target.

    `columns` are those that a suite maps, by its own names, and `kept` others that it names, such as slices. Rows with
    a suite's own columns are returned as they are, and so are those whose roles cannot be told. Raises UsageError at
    a malformed layout, and at rows of it that cannot be used.
    """
    declared = {*columns} - {"id"}
    if template is not None or declared or any(_has_own_columns(row, training) for row in rows):
        return SuiteRows(rows, columns)
    try:
        resolution = resolve_table([_drop_columns(row, kept) for row in rows], {}, _refuse_to_choose)
    except AmbiguousColumnError:
        return SuiteRows(rows, columns)
    layout = resolution.layout
    if layout.refused:
        number, reason = min(layout.refused.items())
        raise UsageError(f"row {number + 1} is one {reason} ({len(layout.refused)} such rows); correct or remove it")
    made = layout.rows
    if layout.kind == "columns":
        label = resolution.roles.label
        made = [{"input": asked, "target": row[label]} for asked, row in zip(layout.asked, layout.rows, strict=True)]
    without = {*layout.used, *(AMBIGUOUS - {*kept}), "input"}
    others = [{name: value for name, value in row.items() if name not in without} for row in rows]
    return SuiteRows(
        [{**other, **row} for other, row in zip(others, made, strict=True)], columns, resolution.describe()
    )


def _refuse_to_choose(role: str, among: Sequence[str]) -> str:
    raise AmbiguousColumnError(f"the {role} column is ambiguous: {list_names(among)}")


def _drop_columns(row: Row, names: Collection[str]) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def _has_own_columns(row: Row, training: bool) -> bool:
    """Return whether a row has a suite's own columns, so that there is nothing to find out."""
    names = {fold_name(name) for name in row}
    if names & {"instruction", *SYSTEMS} and names & {*PROMPTS} and names & {*ANSWERS}:
        return False
    pair = {role: [name for name in own if row.get(name) is not None] for role, own in OWN_NAMES.items()}
    if {"chosen", "rejected"} <= names:
        return bool(pair["input"]) and not names & {*CHATS, "instruction", "query", *SYSTEMS}
    if pair["input"] and (pair["target"] or not names & {*LABELS}):
        return not training or bool(pair["target"])
    messages = parse_json_cell(row.get("messages"))
    if isinstance(messages, str):  # no conversation, which an evaluation says
        return True
    if isinstance(row.get("messages"), list):
        return all(isinstance(message, dict) and "role" in message for message in messages)
    return row.get("text") is not None and not names & {*LABELS}
