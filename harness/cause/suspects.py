"""Suspects: training rows, and groups of them, that read like what a candidate answered to the rows that a gate lost.

Half of a gate's rows choose suspects, the other half confirms; a hash of a row's cluster, question or id
puts it into one of them, never its score. It is a list to read, and claims nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.artifacts.digests import digest_value
from harness.collection.collection import Collection
from harness.data.rows import GROUP, HELD_OUT
from harness.errors import UsageError, did_you_mean
from harness.records.findings import TrainingRow, prompt_text
from harness.records.run import Run
from harness.records.verdicts import Outcome, Verdict
from harness.reports.run_folder import answer_of, iterate_rows, metric_value, prompt_of
from harness.texts.words import normalize_text, split_words

KINDS = ("source", "group", "template", "answer")
MAX_SUSPECT_SHARE = 0.5  # of the training rows that can be suspects: without more than that, it is another training
# of a row's similarity to right answers; with all of it, a prompt that only spoilt rows have would count nothing
RIGHT_ANSWER_WEIGHT = 0.5
SHINGLE_CHARS = 4  # characters
SCORE_DIGITS = 9  # of a score: rows that differ in their last bits alone are in the order of the data
FRAME_SHARE = 0.03  # of the training rows, at least three, that share a word which is part of a template


@dataclass(frozen=True)
class LostRow:
    """A row that a gate lost, with the candidate's completion."""

    id: str
    prompt: str
    target: str
    answer: str


@dataclass(frozen=True)
class SplitRows:
    """A gate's rows in a choosing and a confirming half.

    `lost` holds the lost rows of the choosing half, `confirming` the ids of the other half.
    """

    lost: tuple[LostRow, ...]
    choosing: int
    confirming: frozenset[str]


@dataclass(frozen=True)
class Suspect:
    """A suspected training row.

    `number` counts rows over all sources, from 1; `score` is from `score_rows`.
    """

    number: int
    source: str
    score: float
    prompt: str
    answer: str


@dataclass(frozen=True)
class SuspectGroup:
    """Training rows that share a value.

    `score` is the distance of their mean from the mean of all rows, in standard errors.
    """

    kind: str
    value: str
    score: float
    numbers: tuple[int, ...]


def find_verdict(run: Run, folder: Path, gate: str, recipe: str) -> Verdict:
    """Return a gate's verdict on the trained candidate.

    Raises UsageError if there is no such verdict, if it is PASS, or if it has no rows of its own.
    """
    known = {v.gate: v for v in run.verdicts if v.candidate == recipe}
    if (verdict := known.get(gate)) is None:
        names = ", ".join(f'"{name}"' for name in known)
        meant = did_you_mean(gate, known) or (f"; its gates are {names}" if known else "")
        raise UsageError(f'{folder}: --gate: has no verdict of "{gate}" on {recipe or "a trained model"}{meant}')
    if verdict.outcome is Outcome.PASS:
        raise UsageError(f'{folder}: gate "{gate}" passed, so there is nothing to look for; name one that did not')
    if verdict.outcome is Outcome.ERROR or not verdict.metric or not verdict.n:
        why = verdict.why or "it has no rows of its own; name one of its members"
        raise UsageError(f'{folder}: gate "{gate}" has no rows to start from: {why}')
    return verdict


def split_rows(folder: Path, verdict: Verdict) -> SplitRows:
    """Split a gate's rows into choosing and confirming halves.

    Raises UsageError if no row of the choosing half was lost.
    """
    evaluation, _, metric = verdict.metric.partition(".")
    about = verdict.terms
    sign = about.sign if about else 1
    theirs: Mapping[str, float] = {}
    if verdict.versus:
        theirs = {r["id"]: metric_value(r, metric) for r in iterate_rows(folder, verdict.versus, evaluation)}
    lost, choosing, confirming = list[LostRow](), 0, set[str]()
    for row in iterate_rows(folder, verdict.candidate, evaluation):
        if metric not in row or (about and not about.applies_to_row(row["doc"])):
            continue
        if not is_choosing(row):
            confirming.add(row["id"])
            continue
        choosing += 1
        value = metric_value(row, metric)
        worse = sign * (value - theirs.get(row["id"], value)) < 0 if verdict.versus else about and about.fails(value)
        if worse:
            target = row["target"] if isinstance(row["target"], str) else " / ".join(map(str, row["target"]))
            texts = prompt_text(prompt_of(row)), target, str(answer_of(row) or "")
            lost.append(LostRow(row["id"], *texts))
    if not lost:
        what = f'gate "{verdict.gate}" lost none of the {choosing} rows that choose suspects'
        raise UsageError(f"{folder}: {what}; more rows in its eval are needed")
    return SplitRows(tuple(lost), choosing, frozenset(confirming))


def is_choosing(row: Mapping[str, Any]) -> bool:
    """Return whether a row is in the choosing half. Rows that depend on each other are in the same half."""
    about = str(row.get("cluster") or row.get("key") or row["id"])
    return hashlib.sha256(about.encode("utf-8", "surrogatepass")).digest()[0] % 2 == 0


def trained_rows(collection: Collection) -> list[TrainingRow]:
    """Return the training rows, without those held out for validation."""
    pairs = zip(collection.training or (), collection.origins, strict=True)
    rows = [TrainingRow(i, source, row, raw) for i, (row, (source, raw)) in enumerate(pairs, 1)]
    return [row for row in rows if not row.row.get(HELD_OUT)]


def score_rows(rows: Sequence[TrainingRow], lost: Sequence[LostRow]) -> list[float]:
    """Score each training row's similarity to the lost rows.

    The score is the similarity to the lost rows with the candidate's completions, minus half the similarity to the same
    rows with their targets. Both are mean TF-IDF cosines over prompt and answer. The terms are character sequences,
    since a corrupted answer is often truncated or misspelt; each counts once per row, weighted by its rarity in the
    training rows.
    """
    import numpy as np
    from scipy import sparse

    pairs = [(row.prompt, row.answer) for row in rows] + [(one.prompt, one.answer) for one in lost]
    pairs += [(one.prompt, one.target) for one in lost if one.answer.strip()]  # no answer says nothing of the right one
    grams = [dict.fromkeys(_split_shingles(*pair)) for pair in pairs]  # in an order that no hash decides
    often = Counter(gram for some in grams[: len(rows)] for gram in some)
    names = {gram: i for i, gram in enumerate(often)}
    weight = np.array([math.log((1 + len(rows)) / (1 + n)) for n in often.values()] or [0.0])
    at = [(i, names[gram]) for i, some in enumerate(grams) for gram in some if gram in names]
    row, column = map(np.asarray, zip(*at, strict=True)) if at else (np.zeros(0, int), np.zeros(0, int))
    matrix = sparse.csr_matrix((weight[column], (row, column)), shape=(len(grams), len(weight)))
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(-1))[:, 0])  # (pairs,)
    matrix = sparse.diags(1 / np.maximum(norms, 1e-12)) @ matrix
    share = np.full(len(grams) - len(rows), 1 / len(lost))
    share[len(lost) :] *= -RIGHT_ANSWER_WEIGHT
    mean = share @ matrix[len(rows) :]  # (grams,)
    return [round(float(score), SCORE_DIGITS) for score in matrix[: len(rows)] @ mean]


def _split_shingles(prompt: str, answer: str) -> Iterator[str]:
    """Yield all character sequences of a prompt and an answer.

    The ends of both are marked, so that a short answer has a sequence of its own.
    """
    text = "\n".join(["", *(" ".join(normalize_text(part).split()) for part in (prompt, answer)), ""])
    yield from (text[i : i + SHINGLE_CHARS] for i in range(max(1, len(text) - SHINGLE_CHARS + 1)))


def rank_rows(rows: Sequence[TrainingRow], scores: Sequence[float], most: int) -> list[Suspect]:
    """Return the rows with the highest scores as suspects.

    Duplicates of these rows follow, which would stay in the training otherwise.
    """
    order = sorted(range(len(rows)), key=lambda i: (-scores[i], rows[i].number))
    texts = {digest_value(rows[i].raw) for i in order[:most]}
    chosen = order[:most] + [i for i in order[most:] if digest_value(rows[i].raw) in texts]
    return [_make_suspect(rows[i], scores[i]) for i in chosen]


def rank_groups(
    rows: Sequence[TrainingRow], scores: Sequence[float], kinds: Sequence[str] = KINDS
) -> list[SuspectGroup]:
    """Rank groups of training rows that score above the mean.

    A group has at least two rows and at most half of all rows.
    """
    mean = math.fsum(scores) / len(scores)
    spread = math.sqrt(math.fsum((s - mean) ** 2 for s in scores) / len(scores)) or 1.0
    found = []
    for kind, value, places in _iterate_groups_by_kind(rows, kinds):
        if not 2 <= len(places) <= MAX_SUSPECT_SHARE * len(rows):
            continue
        above = math.fsum(scores[i] for i in places) / len(places) - mean
        if above > 0:
            numbers = tuple(rows[i].number for i in sorted(places, key=lambda i: -scores[i]))
            found.append(SuspectGroup(kind, value, above / spread * math.sqrt(len(places)), numbers))
    return sorted(found, key=lambda g: -g.score)


def suspects_of(group: SuspectGroup, rows: Sequence[TrainingRow], scores: Sequence[float]) -> list[Suspect]:
    """Return all rows of a group as suspects."""
    by_number = {row.number: (row, score) for row, score in zip(rows, scores, strict=True)}
    return [_make_suspect(*by_number[number]) for number in group.numbers]


def _make_suspect(row: TrainingRow, score: float) -> Suspect:
    return Suspect(row.number, row.source, score, row.prompt.strip(), row.answer.strip())


def _iterate_groups_by_kind(rows: Sequence[TrainingRow], kinds: Sequence[str]) -> Iterator[tuple[str, str, list[int]]]:
    """Yield the kind, value and row indices of each group."""
    often = Counter(word for row in rows for word in set(split_words(row.prompt)))
    least = max(3.0, FRAME_SHARE * len(rows))

    def template(row: TrainingRow) -> str:
        words = (word if often[word] >= least else "…" for word in split_words(row.prompt))
        kept: list[str] = []
        for word in words:
            kept += [] if word == "…" and kept[-1:] == ["…"] else [word]
        return " ".join(kept)

    tell: dict[str, Callable[[TrainingRow], str]] = {
        "source": lambda row: row.source,
        "group": lambda row: str(row.row.get(GROUP, row.raw.get(GROUP, ""))),
        "template": template,
        "answer": lambda row: " ".join(split_words(row.answer)),
    }
    for kind in kinds:
        places: dict[str, list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            places[tell[kind](row)].append(i)
        yield from ((kind, value, some) for value, some in places.items() if value)
