"""Which row of one run is which of the other: by what it asks, else by a name that means something, never by place."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import UsageError
from harness.rows.records import RawRow, RawRows
from harness.rows.wording import MissingOptionError, write_option
from harness.texts.counts import agree_verb, count_noun
from harness.texts.escaping import printable

MAX_EXAMPLES = 3  # names of rows that an error gives
How = Literal["content", "id"]
Rows = tuple[RawRow, ...]  # all that a run has of one row: its repeats, mostly one
Grouped = dict[str, "RawRow | Rows"]  # by what a row is known by; one alone, as most of millions, without a tuple


class SideRows(Sequence[Rows]):
    """The rows of one run in pair order, each with repeats."""

    def __init__(self, found: list[RawRow | Rows]) -> None:
        self.found = found

    def __getitem__(self, i: Any) -> Any:
        return _list_repeats(self.found[i])

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Rows]:
        return map(_list_repeats, self.found)


@dataclass(frozen=True)
class PairedRows:
    """The paired rows of two runs, by name.

    A side that lacks a row has no repeats of it. `dropped` counts the rows that only one side has and that are not
    judged, `renamed` the names that mean another question on the other side, `repeats` the largest number of repeats of
    a row on each side, `guessed` the questions with copies that were paired by their scores, for lack of anything else.
    """

    how: How
    names: list[str]
    base: SideRows
    candidate: SideRows
    dropped: tuple[int, int] = (0, 0)
    renamed: int = 0
    repeats: tuple[int, int] = (1, 1)
    guessed: int = 0

    def wanted_repeats(self, side: str, repeats: int = 0) -> list[int]:
        """Return how many repeats a side should have of each row: as many as are demanded, or as the other side has.

        Where a side has another number of them throughout, as many as it has of a row at most.
        """
        if repeats or self.repeats[0] != self.repeats[1] or self.repeats == (1, 1):
            return [repeats or self.repeats[side == "candidate"]] * len(self.names)
        return [max(map(len, pair)) for pair in zip(self.base, self.candidate, strict=True)]

    @property
    def usual_repeats(self) -> int:
        """How many repeats most rows have."""
        return Counter(self.wanted_repeats("candidate")).most_common(1)[0][0]

    def count_incomplete(self, repeats: int = 0) -> int:
        """Count the rows with fewer repeats on both sides than most.

        0 if a number of repeats is required.
        """
        if repeats or max(self.repeats) == 1:
            return 0
        return sum(n < self.usual_repeats for n in self.wanted_repeats("candidate"))


def pair_rows(base: RawRows, candidate: RawRows, *, only_common: bool) -> PairedRows:
    """Pair the rows of two runs. Raises UsageError where they cannot be, or one has rows that the other has not."""
    sides = {"base": base.rows, "candidate": candidate.rows}
    how = _choose_pairing(sides)
    named = _has_only_named_rows(base.rows) and _has_only_named_rows(candidate.rows)
    named = named or _has_agreeing_numbers(base.rows, candidate.rows)
    several = _find_contents_of_several_names(sides.values()) if how == "content" and named else frozenset[str]()
    left, right = (_group_rows_by_identity(rows, how, named, several, side) for side, rows in sides.items())
    renamed, together = 0, zip(base.rows, candidate.rows, strict=False)
    if how == "content" and any(one.key != other.key or one.content != other.content for one, other in together):
        there = {row.key: row.content for row in base.rows if row.key}
        renamed = len({row.key for row in candidate.rows if there.get(row.key, row.content) != row.content})
        del there  # of millions
    for known in left.keys() & right.keys() if len(left) < len(base.rows) or len(right) < len(candidate.rows) else ():
        theirs, ours = _list_repeats(left[known]), _list_repeats(right[known])
        if len(ours) != len(theirs) and (_has_equal_repeat_numbers(ours) or _has_equal_repeat_numbers(theirs)):
            what = f'question "{_name_row(theirs[0])}" is in {len(theirs)} rows of base and {len(ours)} of candidate'
            raise UsageError(f"rows: {what}, which cannot be paired without names; give {write_option('id', 'COLUMN')}")
    same = left.keys() == right.keys()
    only_left, only_right = ([] if same else [k for k in a if k not in b] for a, b in ((left, right), (right, left)))
    if (only_left or only_right) and how == "content" and base.columns != candidate.columns:
        raise UsageError(_find_one_sided_column_error(base, candidate))
    if (only_left or only_right) and not only_common:
        message = _describe_unpaired_rows((base, candidate), (left, right), (only_left, only_right), renamed)
        if left.keys().isdisjoint(right.keys()):
            raise UsageError(message)
        counts = f"{len(only_left):,} are only in base and {len(only_right):,} only in candidate"
        raise MissingOptionError(message, name="only_common", value=True, reason=f"leave out the other rows: {counts}")
    # What one side has and could not score is missing, and never left out.
    lost = (
        [k for k in only_left if _has_unscored_row(_list_repeats(left[k]))],
        [k for k in only_right if _has_unscored_row(_list_repeats(right[k]))],
    )
    kept = [*left] if same else [*(k for k in left if k in right), *lost[0], *lost[1]]
    if not kept:
        raise UsageError("rows: base and candidate have no row in common; check that both answered the same questions")
    dropped = len(only_left) - len(lost[0]), len(only_right) - len(lost[1])
    return _pair_rows(how, kept, left, right, dropped, renamed)


def _choose_pairing(sides: dict[str, Sequence[RawRow]]) -> How:
    """Choose to pair rows by content or by id.

    Raises UsageError if neither identifies them, or a side has no rows.
    """
    for side, rows in sides.items():
        if not rows:
            raise UsageError(f"{side}: has no rows")
    if all(row.content for rows in sides.values() for row in rows):
        return "content"
    for side, rows in sides.items():
        if not _has_only_named_rows(rows):
            blank = sum(not row.key for row in rows)
            what = "ids of rows are running numbers" if not blank else "rows have neither input nor id"
            if 0 < blank < len(rows):
                what = f"{count_noun(blank, 'row')} {agree_verb(blank, 'have neither input nor id')}"
            ways = ", or ".join(write_option(name, "COLUMN") for name in ("id", "input"))
            raise UsageError(f"{side}: {what}, and positions do not identify rows; give {ways}")
    return "id"


def _has_only_named_rows(rows: Sequence[RawRow]) -> bool:
    return not any(row.numbered or not row.key for row in rows)


def _has_agreeing_numbers(base: Sequence[RawRow], candidate: Sequence[RawRow]) -> bool:
    """Return whether running numbers name the same question on both sides, each once."""
    numbers = [{row.key: row.content for row in rows} for rows in (base, candidate)]
    return numbers[0] == numbers[1] and len(numbers[0]) == len(base) == len(candidate) and "" not in numbers[0]


def _find_contents_of_several_names(sides: Iterable[Sequence[RawRow]]) -> frozenset[str]:
    """Return the contents that rows of several names share: there alone a name tells, and else it may change."""
    found = set[str]()
    for rows in sides:
        if len({row.content for row in rows}) < len(rows):
            first: dict[str, str] = {}
            found |= {row.content for row in rows if first.setdefault(row.content, row.key) != row.key}
    return frozenset(found)


def _group_rows_by_identity(
    rows: Sequence[RawRow], how: str, named: bool, several: frozenset[str], side: str
) -> Grouped:
    """Group rows and their repeats by content or id.

    Raises UsageError if a named row occurs twice with the same repeat number.
    """
    found: Grouped = {row.key: row for row in rows} if how == "id" else {row.content: row for row in rows}
    if len(found) == len(rows) and not several:  # as of most, and quicker of millions
        return found
    found = {}
    for row in rows:
        known = row.key if how == "id" else f"{row.content} {row.key}" if row.content in several else row.content
        if (before := found.setdefault(known, row)) is not row:
            found[known] = (*_list_repeats(before), row)
    for same in found.values() if named else ():
        if isinstance(same, tuple) and _has_equal_repeat_numbers(same):
            values = " and ".join(dict.fromkeys(f"{v:g}" for row in same for v in row.values.values()))
            what = f'id "{printable(same[0].key)}" occurs twice in {side}' + (
                f" with scores {values}" if values else ""
            )
            raise UsageError(f"{what}; name the repeat's column with {write_option('repeat')}, or correct the file")
    return found


def _find_one_sided_column_error(base: RawRows, candidate: RawRows) -> str:
    """Return the error for a column that only one side has.

    Without it no question is the same on both.
    """
    side, other = ("candidate", "base") if len(candidate.columns) < len(base.columns) else ("base", "candidate")
    has, lacks = (base, candidate) if side == "candidate" else (candidate, base)
    column = next((name for name in has.columns if name not in lacks.columns), "input")
    return f'{side}: has no column "{column}", which {other} has; add it, or use --{column} none for both'


def _describe_unpaired_rows(
    runs: Sequence[RawRows], sides: Sequence[Grouped], only: Sequence[list[str]], renamed: int
) -> str:
    if renamed and len(only[0]) == len(sides[0]):
        there = {row.key: row.content for row in runs[0].rows}
        name = printable(next(r.key for r in runs[1].rows if there.get(r.key, r.content) != r.content))
        what = f'"{name}" is another question than base\'s "{name}" on {renamed:,} of {len(sides[1]):,} rows'
        how = "; gate runs with the same questions"
        by_id = f"{write_option('input', 'none')} {write_option('id', 'COLUMN')}"
        how += f", or if the input is a rendered prompt, pair by id: {by_id}" if runs[0].columns else ""
        return f"candidate: {what}{how}"
    limits = [f" (limit {n})" if (n := run.facts.get("limit", "")) not in ("", "none") else "" for run in runs]
    named = zip(("base", "candidate"), sides, limits, strict=True)
    told = [f"{side}: {len(known):,} rows{limit}" for side, known, limit in named]
    names = [_name_row(_list_repeats(sides[i][k])[0]) for i in (0, 1) for k in only[i][:MAX_EXAMPLES]][:MAX_EXAMPLES]
    some = f"only in base {len(only[0]):,}, only in candidate {len(only[1]):,}, for instance "
    said = f"{', '.join(told)}; {some}" + ", ".join(f'"{printable(name)}"' for name in names)
    if len(only[0]) == len(sides[0]):
        return f"{said}; no row is in both, so check that both answered the same questions and write ids alike"
    return f"{said}; gate only the common rows with {write_option('only_common', True)}"


def _pair_rows(
    how: How, kept: list[str], left: Grouped, right: Grouped, dropped: tuple[int, int], renamed: int
) -> PairedRows:
    """Pair grouped rows in the order of the base's file.

    Copies of a question are distinguished by a number.
    """
    names = [_name_row(_list_repeats(left.get(k) or right[k])[0]) for k in kept]
    base, candidate = [left.get(k, ()) for k in kept], [right.get(k, ()) for k in kept]
    if len({*names}) == len(names) and tuple not in {*map(type, base), *map(type, candidate)}:
        return PairedRows(how, names, SideRows(base), SideRows(candidate), dropped, renamed)
    taken, names, base, candidate, guessed = Counter(names), [], [], [], 0
    for known in kept:
        theirs, ours = _list_repeats(left.get(known)), _list_repeats(right.get(known))
        called = _name_row((theirs or ours)[0])
        called = called if taken[called] == 1 else f"{called}#{known[:8]}"
        if not (_has_equal_repeat_numbers(theirs) or _has_equal_repeat_numbers(ours)):
            names.append(called)
            base.append(left.get(known, ()))
            candidate.append(right.get(known, ()))
            continue
        # Which copy is which nobody knows; judged as one question, their sum is the same however they are paired.
        guessed += _has_several_pairings(theirs, ours)
        theirs, ours = _sort_copies(theirs), _sort_copies(ours)
        for number in range(max(len(theirs), len(ours))):
            names.append(f"{called}~{number}")
            base.append(theirs[number : number + 1])
            candidate.append(ours[number : number + 1])
    sides = SideRows(base), SideRows(candidate)
    repeats = max(map(len, sides[0])), max(map(len, sides[1]))
    return PairedRows(how, names, *sides, dropped, renamed, repeats, guessed)


def _list_repeats(found: RawRow | Rows | None) -> Rows:
    return () if found is None else found if isinstance(found, tuple) else (found,)


def _has_equal_repeat_numbers(rows: Rows) -> bool:
    """Return whether rows with one identity share a repeat number.

    They are then no repeats of one row.
    """
    return len(rows) > 1 and len({row.repeat for row in rows}) < len(rows)


def _sort_copies(rows: Rows) -> Rows:
    """Sort the copies of a question by what their files tell of each, then by their scores."""
    return tuple(sorted(rows, key=lambda row: (_describe_copy(row), row.state, sorted(row.values.items()))))


def _describe_copy(row: RawRow) -> tuple[Any, ...]:
    parts = (tuple(sorted(of.items())) for of in (row.slices, row.lengths))
    return row.cluster, row.second_cluster, row.weight, *parts


def _has_several_pairings(theirs: Rows, ours: Rows) -> bool:
    """Return whether copies that only their scores tell apart could be paired otherwise."""
    sides = [defaultdict[Any, list[RawRow]](list), defaultdict[Any, list[RawRow]](list)]
    for side, rows in zip(sides, (theirs, ours), strict=True):
        for row in rows:
            side[_describe_copy(row)].append(row)
    for about in {*sides[0], *sides[1]}:
        own = [side[about] for side in sides]
        varied = [len({(row.state, *sorted(row.values.items())) for row in rows}) > 1 for rows in own]
        if all(varied) or (any(varied) and len(own[0]) != len(own[1])):
            return True
    return False


def _has_unscored_row(rows: Rows) -> bool:
    return any(row.state != "scored" or not row.values for row in rows)


def _name_row(row: RawRow) -> str:
    return row.key or row.content[:12]
