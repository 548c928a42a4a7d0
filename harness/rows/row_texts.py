"""The rows of a verdict as they are written: with what was asked, wanted and answered; of very many those that count.

A reader keeps the texts of some ten thousand rows. Of more, the rows that were lost or won and a drawn sample are read
again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from harness.records.samples import Result, Sample
from harness.rows.gating import MAX_ROWS, MeasuredRows
from harness.rows.readers import split_label
from harness.rows.records import RawRow
from harness.rows.suites import JudgedRows, read_runs

MAX_UNCHANGED_ROWS = 1000  # rows that were neither lost nor won, of those that are too many to be written


class WrittenRows(NamedTuple):
    """The rows of an evaluation that are written: samples with their texts, and results by subject with answers."""

    samples: Sequence[Sample]
    results: Mapping[str, Result]


def select_written_rows(found: JudgedRows, name: str) -> WrittenRows:
    """Select the rows of an evaluation to write.

    Of more than MAX_ROWS these are the changed rows and a sample, with their texts read again. Raises UsageError.
    """
    one = found.measured[name]
    if len(one.samples) <= MAX_ROWS:
        each = zip(one.samples, one.pairs.base, one.pairs.candidate, strict=True)
        return _make_rows_with_texts(one, [(sample, {"base": base, "candidate": own}) for sample, base, own in each])
    samples = _select_changed_and_sampled_rows(one)
    wanted = frozenset({sample.id for sample in samples} | {sample.key for sample in samples})
    runs = read_runs(found.suite, texts=wanted, only=name)[name] if _can_read_again(found) else {}
    known: dict[str, dict[str, tuple[RawRow, ...]]] = {}
    for side, run in runs.items():
        for row in run.rows:
            if row.input or row.answer:
                known.setdefault(row.content or row.key, {}).setdefault(side, (row,))
    return _make_rows_with_texts(one, [(s, known.get(s.key) or known.get(s.id) or {}) for s in samples])


def _can_read_again(found: JudgedRows) -> bool:
    """Return whether the rows come from files that still exist.

    Rows given in Python cannot be read again.
    """
    paths = [str(found.suite.path.parent / Path(one.path).expanduser()) for one in found.suite.rows.values()]
    return all(Path(path).exists() or split_label(path)[0].is_file() for path in paths)


def _select_changed_and_sampled_rows(one: MeasuredRows) -> list[Sample]:
    """Select changed rows, missing rows and a sample of the others.

    If there are too many, the largest changes are kept.
    """
    name, sign = one.metric.name, 1 if one.metric.better == "higher" else -1
    values = [{s.id: s.values[name] for s in result.scores} for result in one.results.values()]
    missing = {row for result in one.results.values() for row in result.missing}
    changes: dict[str, float] = {}
    if len(values) == 2:
        base, candidate = (values[list(one.results).index(side)] for side in ("base", "candidate"))
        changes = {i: sign * (v - base[i]) for i, v in candidate.items() if i in base and v != base[i]}
    largest = sorted(changes, key=lambda i: (-abs(changes[i]), i))[: MAX_ROWS - MAX_UNCHANGED_ROWS]
    kept = {*largest, *sorted(missing)[:MAX_UNCHANGED_ROWS]}
    rest = [s.id for s in one.samples if s.id not in changes and s.id not in missing]
    kept |= {*random.Random(0).sample(rest, min(MAX_UNCHANGED_ROWS, len(rest)))}  # noqa: S311 (no secret)
    return [s for s in one.samples if s.id in kept]


def _make_rows_with_texts(
    one: MeasuredRows, rows: Sequence[tuple[Sample, Mapping[str, Sequence[RawRow]]]]
) -> WrittenRows:  # fmt: skip
    samples, answers = list[Sample](), {side: dict[str, str]() for side in one.results}
    for sample, sides in rows:
        first = next((own[0] for own in (sides.get("base"), sides.get("candidate")) if own), None)
        if first and (first.input or first.target):
            sample = replace(sample, input=first.input, target=first.target)
        samples.append(sample)
        for side, said in answers.items():
            if own := sides.get(side):
                texts = dict.fromkeys([row.answer for row in own])
                said[sample.id] = own[0].answer if len(texts) == 1 else json.dumps([*texts], ensure_ascii=False)
    results = {}
    for side, result in one.results.items():
        ids = {s.id for s in samples}
        replies = answers[side]
        scores = [replace(s, answer=replies[s.id]) if replies.get(s.id) else s for s in result.scores if s.id in ids]
        results[side] = replace(result, scores=tuple(scores))
    return WrittenRows(samples, results)
