"""The rows that a suite trains on and validates with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness import capabilities, schema
from harness.collection.context import Context
from harness.collection.sources import Sources, overlap
from harness.data.pairs import to_judged_rows
from harness.data.rows import GROUP, HELD_OUT, to_training_rows
from harness.errors import UsageError
from harness.suite.tables import Train

Origins = list[tuple[str, Mapping[str, Any]]]  # source and whole row of each training row


def training_rows(context: Context, sources: Sources) -> tuple[list[dict[str, Any]] | None, Origins]:
    """Return the rows to train on, None when there is no training or its data is remote, and where they are from."""
    train, origins = context.suite.train, Origins()
    if train is None or not context.suite.trains:
        return None, origins
    trainer = context.plugins.provided.get(("trainer", train.use))
    judged = capabilities.Trainer.of(trainer.function).columns if trainer else ()
    rows: list[dict[str, Any]] = []
    for source in (*train.sources, *([train.validation_data] if train.validation_data else [])):
        found = sources.rows(source, train.where)
        if found is None:
            return None, origins
        try:
            where = f'{train.where} data "{source}"'
            made = _made(context, found, judged, train, where)
            if made is None:
                continue
            rows += _with_group(context, train, source, made, found)
            origins += [(source, row) for row in found]
        except UsageError as error:
            context.mistakes.found.extend(error.messages)
    return (_validated(context, train, rows, origins) if train.validation_data else rows), origins


def _made(
    context: Context, rows: list[dict[str, Any]], judged: Sequence[str], train: Train, where: str
) -> list[dict[str, Any]] | None:
    """Return rows as the trainer takes them: with an answer to learn, or with the columns that it asks for.

    None where they could be read in several ways. Raises UsageError on what is none.
    """
    if judged:
        return to_judged_rows(rows, judged, train.columns, where, train.chat_template_kwargs)
    if not context.readable(rows, train.columns, train.template, where, training=True):
        return None
    return to_training_rows(rows, train.columns, where, train.chat_template_kwargs, train.template)


def _with_group(
    context: Context,
    train: Train,
    source: str,
    rows: list[dict[str, Any]],
    raw: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Mark training rows with their cluster."""
    if train.cluster is None:
        return rows
    lacking = [i for i, row in enumerate(raw) if row.get(train.cluster) is None]
    if lacking:
        what = f'data "{source}": no column "{train.cluster}" for cluster in row {lacking[0]}'
        context.mistakes.add(train.where, f"{what} ({len(lacking)} rows)")
        return rows
    return [{**row, GROUP: str(own[train.cluster])} for row, own in zip(rows, raw, strict=True)]


def _validated(context: Context, train: Train, rows: list[dict[str, Any]], origins: Origins) -> list[dict[str, Any]]:
    """Mark the rows of `validation_data`, once it is sure that they are not trained on."""
    complain = context.complain(train.where)
    if train.options.get("validation"):
        complain("validation holds out a share, and there is validation_data as well; remove one of them")
    if not schema.wants(context.plugins.find("trainer", train.use).function, "validation"):
        complain(f'validation_data: the trainer "{train.use}" does not validate; remove it')
    first = sum(source != train.validation_data for source, _ in origins)
    kept, held = rows[:first], rows[first:]
    if train.validation_data in train.sources:
        complain(f'validation_data "{train.validation_data}" is trained on; name another source')
    elif both := overlap(GROUP if train.cluster else None, held, kept):
        complain(f'validation_data "{train.validation_data}": {both}; a loss on them is a loss for memory')
    return kept + [{**row, HELD_OUT: True} for row in held]
