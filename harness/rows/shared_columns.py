"""What the columns of two tables say together: whether their questions are the same, and which rows are clusters.

Columns of texts or ids whose values repeat, and are the same on both sides, make clusters that nobody declared. Only
what the cells hold decides on them, never what a column is called.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.gates.clusterings import coarsest_clusterings, is_nested
from harness.records.column_values import ColumnValues
from harness.rows.records import UNSET_COLUMN, RawRow, RawRows, Wanted
from harness.rows.wording import MissingOptionError, write_option
from harness.texts.escaping import printable

ATTRIBUTES = ("cluster", "second_cluster")  # of a row
MAX_CLUSTERS = len(ATTRIBUTES)
MIN_AGREEMENT = 0.95  # share of rows with the same value on both sides, or with a value that always means the same
MAX_NAMED = 6  # columns in a line
UNSEEN = "no column tells questions apart, so whether they repeat is unknown"
Runs = dict[str, RawRows]
Labels = dict[str, list[str]]  # by side, of each row


@dataclass(frozen=True)
class Partition:
    """A column whose rows with one value may be a cluster: the labels of each side's rows, and how many values repeat.

    `distinct` are the labels of the rows without their repeats.
    """

    name: str
    labels: Labels
    distinct: list[str]

    @property
    def repeats(self) -> int:
        """How many rows have a value that an earlier row has."""
        named = [label for label in self.distinct if label]
        return len(named) - len({*named})


def add_shared_clusters(runs: Runs, declared: Sequence[str]) -> Runs:
    """Put the rows that share a value into one cluster, and say which columns did it.

    `declared` are the columns of clusters that a user named; with "none" there are no others. Runs of tools that know
    their questions are returned unchanged.
    """
    first = next(iter(runs.values()))
    if not all(run.cells is not None for run in runs.values()):
        return runs
    if UNSET_COLUMN in declared:
        return {side: replace(run, cells=None) for side, run in runs.items()}
    identities = _identify_rows(runs)
    shared, categories, tells = list[Partition](), list[str](), any(row.content for row in first.rows)
    for name in first.cells or {}:
        columns = {side: (run.cells or {}).get(name) for side, run in runs.items()}
        known = {side: column for side, column in columns.items() if column is not None}
        if len(known) < len(runs):
            continue
        kinds = {column.kind for column in known.values()}
        if kinds == {"category"}:
            categories.append(name)
        elif kinds == {"unique"}:
            text = any(column.is_text for column in known.values())
            tells |= text and len({column.digest for column in known.values()}) == 1
        elif kinds <= {"shared", "category"} and (aligned := _align_labels(runs, known, identities)):
            shared.append(Partition(name, aligned, _take_distinct(first.rows, next(iter(aligned.values())))))
            tells |= any(column.is_text for column in known.values())
    given = _list_declared_partitions(runs, declared)
    chosen = _choose_partitions(given, shared, first.rows)
    _write_clusters(runs, (given + chosen)[:MAX_CLUSTERS])
    notes = [*first.cluster_notes, *map(_describe_cluster, chosen[: MAX_CLUSTERS - len(given)])]
    for partition in chosen[MAX_CLUSTERS - len(given) :]:
        notes.append(f"{_count_repeats(partition)}, which no cluster covers; {write_option('cluster', partition.name)}")
    told, names = first.columns_told, ", ".join(f'"{printable(name)}"' for name in categories[:MAX_NAMED])
    if categories:
        told = (*told, f"possible slices, with few values: {names}")
    if not (tells or chosen or given):  # few short questions look like categories
        advice = f"; if {names} holds the questions, {write_option('cluster', categories[0])}" if categories else ""
        notes.append(f"{UNSEEN}{advice}")
    return {side: replace(run, cells=None, cluster_notes=tuple(notes), columns_told=told) for side, run in runs.items()}


def clear_false_inputs(runs: Runs, want: Wanted) -> Runs:
    """Let ids alone pair rows, where a column was taken for the input by its name and cannot be it.

    One without a value that is on both sides holds prompts that each side renders, or answers; one called "input" is
    kept, since the questions may be others. One with few values, beside texts, holds categories.
    """
    tables = [*runs.values()]
    name = tables[0].input_column
    if want.input or not name or any(run.input_column != name or run.cells is None for run in tables):
        return runs
    keys, contents = ([{getattr(row, part) for row in run.rows} for run in tables] for part in ("key", "content"))
    if keys[0] != keys[-1] or "" in keys[0]:
        return runs
    if _is_category_beside_texts(name, tables):
        why = "has few values"
    elif name != "input" and contents[0].isdisjoint(contents[-1]):
        why = "has no value that is on both sides"
    else:
        return runs
    for run in tables:
        for row in run.rows:
            row.content = ""
    note = f'"{printable(name)}" {why}, so rows are paired by id'
    return {side: replace(run, columns=(), cluster_notes=(*run.cluster_notes, note)) for side, run in runs.items()}


def require_ids(runs: Runs, want: Wanted) -> None:
    """Raise MissingOptionError where nothing tells the rows of tables apart, but a column has another value in each.

    Columns with the same values on both sides are named first.
    """
    cells = [run.cells for run in runs.values() if run.cells is not None]
    rows = [row for run in runs.values() for row in run.rows[:1]]
    if want.id or len(cells) < len(runs) or any(row.content or row.key for row in rows):
        return
    digests = {name: {own[name].digest for own in cells if name in own} for name in cells[0]}
    unique = [name for name in digests if all(name in own and own[name].kind == "unique" for own in cells)]
    if not unique:
        return
    unique.sort(key=lambda name: len(digests[name]))
    ways = " or ".join(write_option(name, "COLUMN") for name in ("id", "input"))
    message = f"rows have neither input nor id, and positions do not identify rows; give {ways}"
    others = ", ".join(f'"{printable(name)}"' for name in unique[1:MAX_NAMED])
    reason = "the column that tells rows apart" + (f"; or {others}" if others else "")
    raise MissingOptionError(message, name="id", value=unique[0], reason=reason)


def _is_category_beside_texts(name: str, tables: Sequence[RawRows]) -> bool:
    """Return whether a column has few values in all tables, and another one has texts."""
    cells = [run.cells or {} for run in tables]
    others = [column for other, column in cells[0].items() if other != name]
    texts = any(column.is_text and column.kind in ("shared", "unique") for column in others)
    return texts and all(name in own and own[name].kind == "category" for own in cells)


def _list_declared_partitions(runs: Runs, declared: Sequence[str]) -> list[Partition]:
    """Return the declared clusters, without one that is nested in another."""
    found = []
    for name, attribute in zip(declared, ATTRIBUTES, strict=False):
        labels = {side: [getattr(row, attribute) for row in run.rows] for side, run in runs.items()}
        found.append(Partition(name, labels, next(iter(labels.values()))))
    if len(found) < MAX_CLUSTERS:
        return found
    own = [_number_clusters(partition.distinct) for partition in found]
    kept = coarsest_clusterings(own)
    return [partition for partition, labels in zip(found, own, strict=True) if labels in kept][: len(kept)]


def _write_clusters(runs: Runs, partitions: Sequence[Partition]) -> None:
    """Set the clusters of all rows."""
    for place, attribute in enumerate(ATTRIBUTES):
        for side, run in runs.items():
            labels = partitions[place].labels[side] if place < len(partitions) else [""] * len(run.rows)
            for row, label in zip(run.rows, labels, strict=True):
                setattr(row, attribute, label)


def _count_repeats(partition: Partition) -> str:
    return f'"{printable(partition.name)}" repeats {partition.repeats:,} of {len(partition.distinct):,} values'


def _describe_cluster(partition: Partition) -> str:
    none = write_option("cluster", UNSET_COLUMN)
    rows = f'rows of one "{printable(partition.name)}"'
    return f"{_count_repeats(partition)}: {rows} count as one cluster; {none} if they are independent"


def _identify_rows(runs: Runs) -> Labels:
    """Return by what a row of one side is found on the other: its id where all have one, else what it asks."""
    rows = [run.rows for run in runs.values()]
    keys = [{row.key for row in side} for side in rows]
    named = all("" not in own for own in keys) and all(own == keys[0] for own in keys)
    return {side: [row.key if named else row.content for row in run.rows] for side, run in runs.items()}


def _align_labels(runs: Runs, columns: Mapping[str, ColumnValues], identities: Labels) -> Labels | None:
    """Return the labels of each side's rows, alike on both; None if the sides do not agree, or repeats of a row do not.

    Where both sides group the rows alike by other values, such as prompts that each renders by its own template, the
    base's labels stand for both.
    """
    labels = {side: column.list_labels() for side, column in columns.items()}
    groups = {side: _group_labels(identities[side], own) for side, own in labels.items()}
    if any(len({*own}) > 1 for side in groups for own in _list_repeats(runs[side].rows, labels[side])):
        return None
    if len(groups) == 1:
        return labels
    base, other = groups.values()
    common = base.keys() & other.keys()
    if not common:
        return None
    if all(sorted(base[key]) == sorted(other[key]) for key in common):
        return labels
    pairs = [(base[key][0], other[key][0]) for key in common]
    same = sum(one == two for one, two in pairs)
    alike = max(same, min(_count_usual(pairs), _count_usual([(two, one) for one, two in pairs])))
    if alike < MIN_AGREEMENT * len(pairs):
        return None
    side = [*runs][1]
    own = zip(identities[side], labels[side], strict=True)
    return {**labels, side: [base[key][0] if key in common else label for key, label in own]}


def _group_labels(identities: Sequence[str], labels: Sequence[str]) -> dict[str, list[str]]:
    found = defaultdict[str, list[str]](list)
    for identity, label in zip(identities, labels, strict=True):
        found[identity].append(label)
    return found


def _list_repeats(rows: Sequence[RawRow], labels: Sequence[str]) -> list[list[str]]:
    """Return the labels of the repeats of each named row that has several."""
    found = defaultdict[tuple[str, str], list[str]](list)
    for row, label in zip(rows, labels, strict=True):
        if row.key:
            found[row.key, row.content].append(label)
    return [own for own in found.values() if len(own) > 1]


def _count_usual(pairs: Sequence[tuple[str, str]]) -> int:
    """Count the pairs whose second value is the usual one of their first."""
    usual = defaultdict[str, Counter[str]](Counter)
    for one, two in pairs:
        usual[one][two] += 1
    return sum(counts.most_common(1)[0][1] for counts in usual.values())


def _take_distinct(rows: Sequence[RawRow], labels: Sequence[str]) -> list[str]:
    """Return the labels of the rows without their repeats."""
    if all(row.key for row in rows):
        return [*dict(zip(((row.key, row.content) for row in rows), labels, strict=True)).values()]
    return [*labels]


def _choose_partitions(
    given: Sequence[Partition], shared: Sequence[Partition], rows: Sequence[RawRow]
) -> list[Partition]:
    """Return the partitions that matter, those with the fewest clusters first, whatever their columns are called.

    One that is nested in another, or in declared clusters, or that groups the rows as their questions do, is left out.
    """
    repeated = [partition for partition in shared if partition.repeats]
    known = [_number_clusters(_take_distinct(rows, partition.distinct)) for partition in given]
    questions = _number_clusters(_take_distinct(rows, [row.content for row in rows]))
    own = [_number_clusters(partition.distinct) for partition in repeated]
    kept = [labels for labels in coarsest_clusterings(own) if labels != questions]
    kept = [labels for labels in kept if not any(is_nested(labels, others) for others in known)]
    chosen = sorted((len({*labels}), labels, place) for place, labels in enumerate(own) if labels in kept)
    found = dict[int, Partition]()
    for _, labels, place in chosen:
        found.setdefault(kept.index(labels), repeated[place])
    return [*found.values()]


def _number_clusters(labels: Sequence[str]) -> list[str]:
    """Return labels by first occurrence: equal partitions get equal ones. A row without one is a cluster of its own."""
    places = dict[str, str]()
    return [places.setdefault(label or f"\0{i}", f"{i:09}") for i, label in enumerate(labels)]
