"""A table: its input, label and group columns, the rows that are left out, and three parts of the others."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from harness.data import chat
from harness.data.cells import MAX_CATEGORIES, MAX_CATEGORY_CHARS, MIN_ROWS_PER_CATEGORY
from harness.data.identity import canonical_text
from harness.data.layouts import AMBIGUOUS, Layout
from harness.data.repeats import (
    StatedPreference,
    find_conflicts,
    find_contradictions,
    find_repeats,
    is_missing,
    make_pair_key,
    normalize_question,
)
from harness.data.resolver import Columns, Row, quote_text
from harness.data.turns import join_text
from harness.errors import UsageError
from harness.texts.escaping import shorten_text
from harness.texts.missing import MISSING_VALUES

MIN_ROWS = 60  # that can be split into three parts
MIN_PART_ROWS, MIN_CONFIRM_GROUPS = 20, 10
RESERVED = ("choices", "gold", chat.TOOLS, chat.ARGUMENTS, *chat.MEDIA)  # columns that mean something else in a suite
WITHOUT = "without an input, a label or a group"  # why rows are left out
CONFLICTING = "whose input also occurs with another label"
CONTRADICTED = "whose preference another row contradicts"
REPEATED = "that repeat the question of an earlier row"
SHOWN_EXAMPLES = 2  # rows that are left out, by reason
MAX_TRAINING_ROWS = 200_000  # rows to train on; more make every look at them take minutes
PARTS = {"confirm": (0.2, 200, 5000), "select": (0.1, 0, 1000)}  # share, at least (a third at most), at most


@dataclass(frozen=True)
class CleanRows:
    """Rows to learn from, with their questions, answers and groups.

    `choices` are the labels, if answers are chosen from some; `dropped` counts the rows left out, by reason, and
    `examples` are the first questions of these.
    """

    rows: Sequence[Row]
    asked: Sequence[str]
    answers: Sequence[str]
    groups: Sequence[str]
    choices: Sequence[str]
    dropped: Counter[str]
    notes: Sequence[str]
    cluster: str | None  # the column that holds the groups
    examples: Mapping[str, Sequence[str]]


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
        layout.kind not in ("preference", "choice", "judged")
        and not layout.calls_tools
        and not layout.has_label_lists
        and not layout.rows_with_several_answers
        and len(kinds) <= MAX_CATEGORIES
        and kinds.total() >= MIN_ROWS_PER_CATEGORY * len(kinds)
    )
    chosen = sorted(kinds) if labels and max(map(len, kinds)) <= MAX_CATEGORY_CHARS else []
    kept, left_out = _drop_rows(layout, columns[group] if group else None, labelled=bool(chosen))
    examples = defaultdict[str, list[str]](list)
    for i, reason in left_out.items():
        if len(examples[reason]) < SHOWN_EXAMPLES:
            examples[reason].append(quote_text(shorten_text(layout.asked[i], 60)))
    if len(kept) < MIN_ROWS:
        what = f"only {len(kept)} of {len(rows)} rows are left, but at least {MIN_ROWS} are needed to decide anything"
        what += "; add rows"
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in Counter(left_out.values()).items())
        raise UsageError(f"{what}; left out: {reasons}" if reasons else what)
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
    asked = [layout.asked[i] for i in kept]
    return CleanRows(made, asked, answers, groups, chosen, Counter(left_out.values()), notes, cluster, examples)


def _drop_rows(layout: Layout, groups: Sequence[str] | None, *, labelled: bool) -> tuple[list[int], dict[int, str]]:
    """Return the numbers of the rows that can be learnt from, and why each other one cannot."""
    asked, answers, dropped = layout.asked, layout.answers, dict(layout.refused)
    for i, (question, answer) in enumerate(zip(asked, answers, strict=True)):
        if i not in dropped and (is_missing(question) or is_missing(answer) or (groups and not groups[i])):
            dropped[i] = WITHOUT
    left = [i for i in range(len(asked)) if i not in dropped]
    if labelled:
        labels = [_fold_label(answers[i]) for i in left]
        for conflict in find_conflicts([asked[i] for i in left], labels):
            dropped |= {left[place]: CONFLICTING for place in conflict}
    judged = layout.kind in ("preference", "judged")
    if judged:
        for pair in find_contradictions([_read_preference(layout.rows[i], asked[i]) for i in left]):
            dropped |= {left[place]: CONTRADICTED for place in pair}
    left = [i for i in left if i not in dropped]
    keys = list[list[Hashable]]()
    for i in left:
        keys.append([make_pair_key(asked[i], answers[i])])
        keys[-1] += [] if judged else [normalize_question(asked[i])]
    dropped |= {left[place]: REPEATED for place in find_repeats(keys)}
    return [i for i in left if i not in dropped], dict(sorted(dropped.items()))


def _read_preference(row: Row, question: str) -> StatedPreference:
    """Return which answer a row of preferences or of judged answers prefers."""
    if "rejected" in row:
        return StatedPreference(question, join_text(row["chosen"]), join_text(row["rejected"]))
    return StatedPreference(question, join_text(row["completion"]), None, row["label"])


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
