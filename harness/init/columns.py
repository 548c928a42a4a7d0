"""A table: its input, label and group columns, the rows that are left out, and three parts of the others."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from statistics import fmean
from typing import Any

from harness.data import chat
from harness.data.accepted_answers import list_accepted_answers
from harness.data.column_names import GROUPS, INPUTS, LABELS, LONG_LABELS, PAIRS, plain_name
from harness.data.identity import canonical_text
from harness.data.layouts import AMBIGUOUS, Layout
from harness.data.turns import format_value
from harness.errors import UsageError, did_you_mean
from harness.texts.missing import MISSING_VALUES

Row = dict[str, Any]
Columns = Mapping[str, Sequence[str]]
Ask = Callable[[str, Sequence[str]], str]
NAMES = {"input": INPUTS, "label": LABELS, "text": LONG_LABELS, "group": GROUPS}  # by what columns are taken for
SHOWN_COLUMNS = 10  # names of columns in a line
MAX_LABELS = 40  # different answers that are taken for labels
MIN_ROWS_PER_LABEL = 5  # on average
LONGEST_LABEL = 60  # characters of a label
MIN_ROWS = 60  # that can be split into three parts
MIN_PART_ROWS, MIN_CONFIRM_GROUPS = 20, 10
RESERVED = ("choices", "gold", chat.TOOLS, chat.ARGUMENTS, *chat.MEDIA)  # columns that mean something else in a suite
MAX_TRAINING_ROWS = 200_000  # rows to train on; more make every look at them take minutes
PARTS = {"confirm": (0.2, 200, 5000), "select": (0.1, 0, 1000)}  # share, at least (a third at most), at most
BY_FEW_VALUES = "by its few distinct values"
NUMBER = re.compile(r"[-+]?[0-9]+(?:[.,][0-9]+)?")


@dataclass(frozen=True)
class Roles:
    """The input, label and group columns of a table. `why` says how each was found."""

    inputs: tuple[str, ...]
    label: str
    group: str | None
    why: Mapping[str, str]


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
        raise UsageError(f"its columns are {list_names([*names]) or 'none'}; {want}")
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
    lower = {c.strip().lower(): c for c in columns}
    pair = next((tuple(lower[name] for name in names) for names in PAIRS if {*names} <= lower.keys()), ())
    pair = () if inputs or {given["label"], given["group"]} & {*pair} else pair
    few = [c for c, texts in columns.items() if _has_few_repeated_labels(Counter(texts))]
    free = [c for c in columns if c not in (*inputs, *pair, *given.values())]
    other = [c for c in columns if c not in (inputs or named["input"][:1])] if len(columns) == 2 else []
    by_name = "by its name"
    ways = ((by_name, named["label"]), (BY_FEW_VALUES, few), ("the other column", other), (by_name, named["text"]))
    label, of_label = _choose_or_ask_column(("label", given["label"]), free, ways, ask)
    left = [c for c in free if c != label]
    of_input = "as given" if inputs else "by their names"
    if not (inputs := inputs or pair):
        length = sorted((fmean(map(len, columns[c])), c) for c in left)
        longest = [c for size, c in length[-1:] if len(length) == 1 or size > 2 * length[-2][0]]
        asked, of_input = _choose_or_ask_column(
            ("input", None), left, ((by_name, named["input"]), ("the longest texts", longest)), ask
        )
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
    spread = 5 * MIN_CONFIRM_GROUPS <= len(kinds) <= 0.9 * kinds.total() and max(kinds.values()) < 0.1 * kinds.total()
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
        2 <= len(kinds) <= MAX_LABELS
        and kinds.total() >= MIN_ROWS_PER_LABEL * len(kinds)
        and max(map(len, kinds)) <= LONGEST_LABEL
    )


def to_layout(rows: Sequence[Row], columns: Columns, roles: Roles) -> Layout:
    """Lay out a table for a suite with a template.

    Of accepted answers a row holds all, if there are several. Raises UsageError if an input or label cell is any other
    list or an object.
    """
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
    return Layout("columns", "", used, asked, [" ".join(texts[0].split()) for texts in accepted], made)


@dataclass(frozen=True)
class CleanRows:
    """Rows to learn from, with their questions, answers and groups.

    `choices` are the labels, if answers are chosen from some; `dropped` counts the rows left out, by reason.
    """

    rows: Sequence[Row]
    asked: Sequence[str]
    answers: Sequence[str]
    groups: Sequence[str]
    choices: Sequence[str]
    dropped: Counter[str]
    notes: Sequence[str]
    cluster: str | None  # the column that holds the groups


def clean_rows(rows: Sequence[Row], columns: Columns, layout: Layout, group: str | None) -> CleanRows:
    """Drop rows that cannot be learnt from, and find the labels.

    Without labels the answers are free. Rows keep their ids if all have one and none repeats; else they are numbered
    from 1.

    Raises UsageError if there are fewer than two different answers, or fewer than `MIN_ROWS` rows are left.
    """
    spelt = Counter(text for text in layout.answers if text.lower() not in MISSING_VALUES)
    usual = {_fold_label(text): text for text, _ in reversed(spelt.most_common())}
    kinds = Counter(usual[_fold_label(text)] for text in spelt.elements())
    if len(kinds) < 2:
        all_of_them = f'all labels are "{next(iter(kinds))}"' if kinds else "no row has a label"
        where = layout.columns.get("label") or layout.columns.get("answer") or [*layout.columns.values()][-1]
        raise UsageError(
            f'column "{where}": {all_of_them}, so there is nothing to train on; two or more labels are needed'
        )
    labels = (
        layout.kind not in ("preference", "choice")
        and not layout.rows_with_several_answers
        and len(kinds) <= MAX_LABELS
        and kinds.total() >= MIN_ROWS_PER_LABEL * len(kinds)
    )
    chosen = sorted(kinds) if labels and max(map(len, kinds)) <= LONGEST_LABEL else []
    kept, dropped = _drop_rows(layout, columns[group] if group else None, labelled=bool(chosen))
    if len(kept) < MIN_ROWS:
        what = f"only {len(kept)} of {len(rows)} rows are left, but at least {MIN_ROWS} are needed to decide anything"
        what += "; add rows"
        left_out = ", ".join(f"{n:,} {why}" for why, n in dropped.items())
        raise UsageError(f"{what}; left out: {left_out}" if dropped else what)
    reserved = {*RESERVED, "id", *(AMBIGUOUS if layout.kind != "columns" else ())}
    without, cluster = {*reserved, *layout.rows[0]}, group
    if group in reserved:  # its name means something else in a suite
        names = ("group", *(f"group_{i}" for i in range(2, len(columns) + 3)))
        cluster = next(name for name in names if name not in columns and name not in layout.rows[0])
    ids = columns.get("id", ())
    own = len({*ids}) == len(rows) and "" not in ids
    made, answers = list[Row](), [usual[_fold_label(layout.answers[i])] if chosen else layout.answers[i] for i in kept]
    for i, answer in zip(kept, answers, strict=True):
        written = layout.write_answer(layout.rows[i], answer) if chosen else layout.rows[i]
        others = {k: v for k, v in rows[i].items() if k not in without and k not in layout.used}
        others |= {cluster: columns[group][i]} if group and cluster and cluster not in written else {}
        made.append({**others, "id": ids[i] if own else i + 1, **written})
    groups = [columns[group][i] if group else (layout.questions or layout.asked)[i] for i in kept]
    notes = ['id: row numbers, since "id" is empty or repeated in some rows'] if ids and not own else []
    notes += _describe_spellings(spelt, usual) if chosen else []
    if several := layout.rows_with_several_answers:
        notes.append(f"accepted: any of several answers in {several:,} rows, of which the first is trained on")
    return CleanRows(made, [layout.asked[i] for i in kept], answers, groups, chosen, dropped, notes, cluster)


def _drop_rows(layout: Layout, groups: Sequence[str] | None, *, labelled: bool) -> tuple[list[int], Counter[str]]:
    """Return the numbers of the rows that can be learnt from, and count the others by reason."""
    keys = [_normalize_spelling(text) for text in layout.asked]
    meant = defaultdict[str, set[str]](set)
    for i, (key, answer) in enumerate(zip(keys, layout.answers, strict=True)):
        meant[key] |= {_fold_label(answer)} if i not in layout.refused else set()
    kept, seen, dropped = list[int](), set[str](), Counter[str]()
    for i, (key, answer) in enumerate(zip(keys, layout.answers, strict=True)):
        same = {f"{canonical_text(layout.asked[i])}\n{canonical_text(answer)}"}
        same |= {key} if layout.kind != "preference" else set()
        if i in layout.refused:
            dropped[layout.refused[i]] += 1
        elif not key or answer.lower() in MISSING_VALUES or (groups and not groups[i]):
            dropped["without an input, a label or a group"] += 1
        elif labelled and len(meant[key] - MISSING_VALUES) > 1:
            dropped["whose input also occurs with another label"] += 1
        elif same & seen:
            dropped["that repeat the question of an earlier row"] += 1
        else:
            kept.append(i)
            seen |= same
    return kept, dropped


def _normalize_spelling(text: str) -> str:
    """Return a text in NFC with single spaces; case, fractions and powers keep their meaning."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _fold_label(text: str) -> str:
    """Return a label without its case, in NFC."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _describe_spellings(spelt: Counter[str], usual: Mapping[str, str]) -> list[str]:
    """Describe labels that differ in case alone or look missing."""
    others, lines = [text for text in spelt if usual[_fold_label(text)] != text], list[str]()
    cases = [text for text in others if usual[_fold_label(text)].casefold() == text.casefold()]
    for what, some in (("case", cases), ("Unicode form", [text for text in others if text not in cases])):
        pairs = ", ".join(f"{quote_text(text)} as {quote_text(usual[_fold_label(text)])}" for text in some[:3])
        lines += [f"labels that differ only in {what} count as one: {pairs}{' …' * (len(some) > 3)}"] if some else []
    odd = [text for text in spelt if text.lower() in ("none", "na", "-", "?", "unknown")]
    lines += [f"the label {quote_text(odd[0])} may be a missing value; remove such rows if it is"] if odd else []
    return lines


def split_rows(groups: Sequence[str], strata: Sequence[str] | None, by: str) -> dict[str, list[int]]:
    """Split rows into train, select and confirm, keeping groups together.

    Returns row numbers by part, in the order of the groups' hashes: the values alone decide which part a row is in.
    With `strata`, each label has its share of every part, and at least one row there if it has three. Rows beyond the
    room of a part are trained on, up to `MAX_TRAINING_ROWS`.

    Raises UsageError if too few rows are left to train on or to confirm.
    """
    members = defaultdict[str, list[int]](list)
    for i, group in enumerate(groups):
        members[canonical_text(group)].append(i)
    order = sorted(members, key=lambda group: sha256(group.encode()).digest())
    label = {group: strata[members[group][0]] if strata else "" for group in order}
    sizes = Counter(label[group] for group in order for _ in members[group])
    parts: dict[str, list[int]] = {"train": [], "select": [], "confirm": []}
    for name, (share, least, most) in PARTS.items():
        room = min(max(share * len(groups), min(least, len(groups) / 3)), most)
        quota = _compute_label_quotas(sizes, room, len(groups)) if strata else {"": room}
        rest, taken = list[str](), Counter[str]()
        for group in order:
            fits = taken[label[group]] + len(members[group]) <= quota[label[group]]
            parts[name] += members[group] if fits else []
            taken[label[group]] += len(members[group]) if fits else 0
            rest += [] if fits else [group]
        order = rest
    parts["train"] = [i for group in order for i in members[group]][:MAX_TRAINING_ROWS]
    confirmed = {canonical_text(groups[i]) for i in parts["confirm"]}
    if len(confirmed) < MIN_CONFIRM_GROUPS or min(len(parts["confirm"]), len(parts["train"])) < MIN_PART_ROWS:
        what = (
            f"only {len(parts['confirm']):,} rows with {len(confirmed)} values would confirm, but {MIN_PART_ROWS} "
            f"with {MIN_CONFIRM_GROUPS} are needed"
        )
        raise UsageError(f"values of {quote_text(by)} are too uneven to keep the rows of each together: {what}")
    return parts


def _compute_label_quotas(sizes: Counter[str], room: float, rows: int) -> dict[str, int]:
    """Return how many rows of each label a part may have: its share, rounded by largest remainders, one at least."""
    exact = {label: room * n / rows for label, n in sizes.items()}
    quota = {label: int(share) for label, share in exact.items()}
    for label in sorted(exact, key=lambda label: quota[label] - exact[label])[: int(room) - sum(quota.values())]:
        quota[label] += 1
    return {label: max(n, 1) if sizes[label] >= len(PARTS) + 1 else n for label, n in quota.items()}
