"""The rows of an export as they were judged, read from its `items.jsonl`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.artifacts.attestation import EVIDENCE, ITEMS
from harness.artifacts.digests import digest_value, row_digest
from harness.artifacts.folders import ForeignFolder, parse_record
from harness.records.samples import Caveat, Draw, Labels, Result, Sample, Score

Row = Mapping[str, Any]  # a line of items.jsonl
PRIVATE_KEYS = {"item", "number", "row", "sha256"}  # of a row that is private, or was not evaluated
PUBLIC_KEYS = {"item", "number", "id", "cluster", "second_cluster", "doc_hash", "prompt_hash", "target_hash", "key"}
PUBLIC_KEYS |= {"slices", "weight", "weights", "values", "answer_hash", "finish_reason", "tokens", "draws", "place"}
PUBLIC_KEYS |= {"lost", "partly_lost", "leak"}


@dataclass(frozen=True)
class EvidenceRows:
    """The rows of an export: of each evaluation, what each subject scored on them, and which of them leak."""

    lines: Sequence[Row]
    samples: Mapping[str, Sequence[Sample]]  # by evaluation: of all subjects together
    results: Mapping[tuple[str, str], Result]  # by subject and evaluation
    leaks: Mapping[str, Mapping[str, str]]  # by evaluation and id of the row: the code of the check

    def find_digest_error(self, digests: Mapping[str, str]) -> str:
        """Return an error if an evaluation's rows are not those of the lock, each once for each of its subjects."""
        by_item: dict[str, list[int]] = {}
        for row in self.lines:
            by_item.setdefault(row["item"], []).append(row["number"])
        for item, numbers in by_item.items():
            if sorted(numbers) != list(range(len(numbers))):
                return f'rows of "{item}" in {ITEMS} are missing, or occur twice'
        by_eval: dict[str, dict[int, str]] = {}
        for row in self.lines:
            name, number = row["item"].partition("::")[2], row["number"]
            digest = row_digest(row) if _is_public(row) else row["row"]
            if by_eval.setdefault(name, {}).setdefault(number, digest) != digest:
                return f'row {number} of "{name}" differs between subjects'
        for name, rows in by_eval.items():
            if digest_value([rows[number] for number in sorted(rows)]) != digests[name]:
                return f'the rows of "{name}" in {ITEMS} differ from those of the lock'
        return ""


def read_items(export: Path, manifest: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows of an export. Raises ValueError at the end if their digest differs from the manifest's."""
    total, sha256 = hashlib.sha256(), manifest["files"][f"{EVIDENCE}/{ITEMS}"]["sha256"]
    for line in ForeignFolder(export).iterate_lines(f"{EVIDENCE}/{ITEMS}"):
        total.update(line)
        yield parse_record(line)
    if total.hexdigest() != sha256:
        raise ValueError(f"{ITEMS} changed while it was read")


def read_rows(export: Path, manifest: Mapping[str, Any]) -> EvidenceRows:
    """Return the rows of an export as they were judged.

    Raises ValueError when two lines differ about one row, KeyError or TypeError at malformed ones.
    """
    lines = list(read_items(export, manifest))
    _require_known_keys(lines)
    samples: dict[str, dict[int, Sample]] = {}
    leaks: dict[str, dict[str, str]] = {}
    scored: dict[tuple[str, str], list[_ScoredRow]] = {}
    for row in filter(_is_public, lines):
        subject, _, name = row["item"].partition("::")
        number, sample = _parse_count(row["number"]), _parse_sample(row)
        place = _parse_count(row["place"]) if "place" in row else None
        if samples.setdefault(name, {}).setdefault(number, sample) != sample:
            raise ValueError(f'row {number} of "{name}" differs between subjects')
        if "leak" in row:
            leaks.setdefault(name, {})[row["id"]] = row["leak"]
        scored.setdefault((subject, name), []).append(_ScoredRow(number, place, score_from_row(row)))
    results = {
        (subject, name): _make_result(subject, name, rows, manifest["evaluations"][f"{subject}::{name}"])
        for (subject, name), rows in scored.items()
    }
    ordered = {name: [by_number[i] for i in sorted(by_number)] for name, by_number in samples.items()}
    for name, rows_of_eval in ordered.items():
        if len({sample.id for sample in rows_of_eval}) < len(rows_of_eval):
            raise ValueError(f'two rows of "{name}" have the same id')
    return EvidenceRows(lines, ordered, results, leaks)


def _require_known_keys(lines: Sequence[Row]) -> None:
    """Raise ValueError at a row with a key that rows do not have."""
    for keys in {frozenset(row) for row in lines}:
        known = PUBLIC_KEYS if "id" in keys else PRIVATE_KEYS
        if stray := sorted(keys - known):
            raise ValueError(f'a row has the key "{stray[0]}"')


def _is_public(row: Row) -> bool:
    """Return whether a row has scores: it is not private, and it was evaluated."""
    return "id" in row


def _parse_sample(row: Row) -> Sample:
    return Sample(
        row["id"],
        row=dict(row["slices"]),
        cluster=row["cluster"],
        second_cluster=row.get("second_cluster"),
        key=row.get("key", ""),
    )


def score_from_row(row: Row) -> Score:
    """Rebuild the Score of a public row from its evidence. The answer is its digest."""
    return Score(
        str(row["id"]),
        _parse_numbers(row["values"]),
        _parse_number(row["weight"]),
        weights=_parse_numbers(row["weights"]),
        finish_reason=row.get("finish_reason", ""),
        tokens=row.get("tokens"),
        answer=row["answer_hash"],
        lost=tuple(str(name) for name in row.get("lost", ())),
        partly_lost=_parse_numbers(row.get("partly_lost", {})),
        draws=tuple(_parse_draw(draw) for draw in row.get("draws", ())),
    )


def _parse_draw(draw: Mapping[str, Any]) -> Draw:
    return Draw(_parse_numbers(draw["values"]), finish_reason=draw.get("finish_reason", ""), tokens=draw.get("tokens"))


def _parse_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): _parse_number(value) for name, value in values.items()}


def _parse_number(value: Any) -> float:
    """Parse a number, with null for nan. Raises ValueError at anything else."""
    if value is None:
        return math.nan
    if type(value) not in (int, float):
        raise ValueError(f"{json.dumps(value):.40} is not a number")
    return float(value)


def _parse_count(value: Any) -> int:
    """Return an integer from 0. Raises ValueError at anything else."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{json.dumps(value):.40} is not the number of a row")
    return value


@dataclass(frozen=True)
class _ScoredRow:
    """A row with its number in the data, and its place in the order of evaluation if that was shuffled."""

    number: int
    place: int | None
    score: Score


def _make_result(subject: str, name: str, rows: Sequence[_ScoredRow], about: Mapping[str, Any]) -> Result:
    """Return a result with its rows as judged.

    These are in the data's order; `order` holds the order of evaluation if they were shuffled. Raises ValueError if a
    row occurs twice or the order has gaps.
    """
    if len({row.number for row in rows}) < len(rows):
        raise ValueError(f'a row of "{subject}::{name}" occurs twice')
    placed = {row.place: row.score.id for row in rows if row.place is not None}
    if placed and sorted(placed) != list(range(len(rows))):
        raise ValueError(f'the order of the rows of "{subject}::{name}" has gaps')
    return Result(
        subject,
        name,
        tuple(row.score for row in sorted(rows, key=lambda row: row.number)),
        {},
        about["weights"],
        rows=about["rows"],
        order=tuple(placed[place] for place in sorted(placed)),
        caveats=tuple(
            Caveat(caveat["text"], caveat["outcome"], tuple(caveat["metrics"])) for caveat in about["caveats"]
        ),
        labels=tuple(_parse_labels(labels) for labels in about.get("labels", ())),
    )


def _parse_labels(labels: Mapping[str, Any]) -> Labels:
    return Labels(
        str(labels["metric"]),
        tuple(labels["truth"]),
        tuple(labels["said"]),
        tuple(labels["clusters"]),
        tuple(map(str, labels.get("rows", ()))),
    )
