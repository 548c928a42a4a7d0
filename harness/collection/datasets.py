"""Loading of data sets, and of training and validation rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from harness import plugin_errors, schema
from harness.collection.context import Context
from harness.data.judged_rows import to_judged_rows
from harness.data.reading import split_slice
from harness.data.rows import GROUP, HELD_OUT, is_remote, read_rows, to_training_rows
from harness.records.copies import detach_copy
from harness.suite.tables import Eval, Train
from harness.texts.counts import count_noun

Origins = list[tuple[str, Mapping[str, Any]]]  # source and whole row of each training row


class DatasetLoader:
    """The rows of a suite's sources."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._read: dict[tuple[str | None, ...], list[dict[str, Any]]] = {}  # rows by source and how it is read

    def read_rows(self, source: str, table: Train | Eval) -> list[dict[str, Any]] | None:
        """Read a source with its table's settings, once.

        None if it is remote and remote data is not read yet, or if reading it fails, which adds a mistake.
        """
        if is_remote(source) and not self.context.remote:
            return None
        with self.context.mistakes.collecting():
            key = (source, table.separator, table.encoding)
            if key not in self._read:
                how = {"separator": table.separator, "encoding": table.encoding}
                self._read[key] = read_rows(
                    source, self.context.suite.path.parent, self._read_plugin_rows, table.where, how
                )
            return self._read[key]
        return None

    def _read_plugin_rows(self, name: str) -> list[dict[str, Any]] | None:
        """Return the rows of a source that a plugin knows, or None."""
        hook = self.context.plugins.hook.harness_read_samples
        if (rows := hook(path=name)) is None:
            return None
        reader: Any = hook
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):  # called again to name it
            calls = (
                (i.function, [name for _ in i.argnames]) for i in reversed(hook.get_hookimpls()) if not i.hookwrapper
            )
            reader = next((function for function, given in calls if function(*given) is not None), hook)
        return detach_copy(plugin_errors.checked_rows(reader, rows))

    def read_evaluator_rows(self, brings: Any, spec: Eval) -> list[dict[str, Any]] | None:
        """Return the rows that an evaluator brings itself.

        None until remote data is read, since these rows may be slow to read, and None with a mistake if there are no
        rows.
        """
        if not self.context.remote:
            return None
        with self.context.mistakes.collecting(f"{spec.where}:"):
            found = brings(detach_copy(dict(spec.options)), self.context.suite.path.parent)
            rows = detach_copy(plugin_errors.checked_rows(brings, found))
            if not rows:
                self.context.mistakes.add(spec.where, f'"{spec.use}" has no rows; an evaluation needs at least one')
            return rows or None
        return None


def describe_overlap(
    clusters: Sequence[str], chosen: Sequence[Mapping[str, Any]], confirm: Sequence[Mapping[str, Any]]
) -> str:
    """Describe the rows or clusters that two splits share. Empty if they share none."""
    kinds: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("are in", lambda row: repr(sorted((k, v) for k, v in row.items() if k != "id")))  # whatever it is called
    ]
    for column in clusters:
        if all(row.get(column) is not None for row in (*chosen, *confirm)):
            kinds.append((f'share their "{column}" with', partial(_get_column_as_text, column)))
    for how, of in kinds:
        known = {of(row) for row in confirm}
        if both := [i for i, row in enumerate(chosen) if of(row) in known]:
            return f'{len(both)} of {len(chosen)} rows {how} "data", for instance row {both[0]}'
    return ""


def _get_column_as_text(column: str, row: Mapping[str, Any]) -> str:
    return str(row[column])


def warn_of_overlaps(context: Context, sources: DatasetLoader) -> None:
    """Warn of overlapping training and evaluation slices of a file."""
    train, suite = context.suite.train, context.suite
    asked = [(e.where, data) for e in suite.evals for data in (e.data, e.select) if data and not is_remote(data)]
    for (where, data), ours in product(asked, train.sources if train and suite.trains else ()):
        (name, part), (other, trained) = split_slice(data, where), split_slice(ours, where)
        rows = (train and name == other and sources.read_rows(name, train)) or ()
        if both := {*range(len(rows))[part or slice(None)]} & {*range(len(rows))[trained or slice(None)]}:
            what = f"the slices overlap in {count_noun(len(both), 'row')}; choose slices without common rows"
            context.warnings.append(f'{where}: data "{data}" and the training data "{ours}": {what}')


def read_training_rows(context: Context, sources: DatasetLoader) -> tuple[list[dict[str, Any]] | None, Origins]:
    """Return the training rows and their origins.

    The rows are None if nothing is trained or their data is still remote. Validation rows are among them, marked.
    """
    train, origins = context.suite.train, Origins()
    if train is None or not context.suite.trains:
        return None, origins
    trainer = context.plugins.provided.get(("trainer", train.use))
    judged = trainer.capabilities.columns if trainer else ()
    rows: list[dict[str, Any]] = []
    for source in (*train.sources, *([train.validation_data] if train.validation_data else [])):
        if (found := sources.read_rows(source, train)) is None:
            return None, origins
        where = f'{train.where} data "{source}"'
        with context.mistakes.collecting():
            if (resolved := context.resolve_rows(found, train, where)) is None:
                continue
            read, columns = resolved.rows, resolved.columns
            if judged:
                made = to_judged_rows(read, judged, columns, where, train.chat_template_kwargs)
            elif context.are_readable(read, columns, train.template, where, training=True):
                made = to_training_rows(read, columns, where, train.chat_template_kwargs, train.template)
            else:
                continue
            group = train.cluster
            if lacking := [n for n, row in enumerate(found, 1) if group is not None and row.get(group) is None]:
                what = f'data "{source}": row {lacking[0]} has no column "{group}" for cluster'
                context.mistakes.add(train.where, f"{what} ({len(lacking)} such rows)")
            elif group is not None:
                made = [{**row, GROUP: str(own[group])} for row, own in zip(made, found, strict=True)]
            rows += made
            origins += [(source, row) for row in found]
    if train.drop is not None and not context.mistakes.messages:
        rows, origins = _drop_named_training_rows(context, sources, train, rows, origins)
    return (_mark_validation_rows(context, train, rows, origins) if train.validation_data else rows), origins


def _drop_named_training_rows(
    context: Context, sources: DatasetLoader, train: Train, rows: list[dict[str, Any]], origins: Origins
) -> tuple[list[dict[str, Any]], Origins]:
    """Drop the training rows listed in the file of `drop`.

    Warn with their number. A listed row that is not in the training data is a mistake.
    """
    assert train.drop is not None
    where = f'{train.where} drop "{train.drop}"'
    named = sources.read_rows(train.drop, replace(train, separator=None, encoding=None))
    if named is None:
        return rows, origins
    wanted = {_format_row_as_json(row): i for i, row in reversed([*enumerate(named, 1)])}
    told = [_format_row_as_json(row) if source != train.validation_data else "" for source, row in origins]
    if lacking := sorted(i for text, i in wanted.items() if text not in told):
        what = f"row {lacking[0]} is not in the training data ({len(lacking)} such rows)"
        context.mistakes.add(where, f"{what}; give rows as they stand there")
        return rows, origins
    kept = [i for i, text in enumerate(told) if text not in wanted]
    whole = sum(text != "" for text in told)
    if whole == (dropped := len(told) - len(kept)):
        context.mistakes.add(where, f"names all {whole:,} training rows; leave some to train on")
    context.warnings.append(f"{where}: {dropped:,} of {count_noun(whole, 'training row')} are left out")
    return [rows[i] for i in kept], [origins[i] for i in kept]


def _format_row_as_json(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)


def _mark_validation_rows(
    context: Context, train: Train, rows: list[dict[str, Any]], origins: Origins
) -> list[dict[str, Any]]:
    """Mark the rows of `validation_data` as held out. A row that is trained on as well is a mistake."""
    complain = context.mistakes_at(train.where)
    if train.options.get("validation"):
        complain("validation holds out a share of the rows, but there is validation_data as well; remove one of them")
    if not schema.has_parameter(context.plugins.find("trainer", train.use).function, "validation"):
        complain(f'validation_data: the trainer "{train.use}" does not validate; remove it')
    first = sum(source != train.validation_data for source, _ in origins)
    kept, held = rows[:first], rows[first:]
    if train.validation_data in train.sources:
        complain(f'validation_data "{train.validation_data}" is training data, too; name another source')
    elif both := describe_overlap([GROUP] if train.cluster else [], held, kept):
        complain(f'validation_data "{train.validation_data}": {both}; a loss on training rows measures memorisation')
    return kept + [{**row, HELD_OUT: True} for row in held]
