"""Rows of two models side by side: which were won and lost, and the words that differ."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import islice
from typing import Any
from urllib.parse import quote

from harness.internals import sentence
from harness_report.reading import Kept, Row, answer_of, last_turn, prompt_of, slice_of, target_of, value_of
from harness_report.words import CUT, cut

MOST = 20_000  # rows of all evaluations that a page holds whole
SIZE = 14_000_000  # characters of rows that a page holds
SHARED = 1 / 3  # of two answers must be the same for their differences to be marked
LOST, WON, BOTH, NEITHER, OTHER = range(5)
OUTCOMES = ("lost", "won", "both", "neither", "other")
Part = tuple[str, bool]  # a piece of an answer, and whether the other one lacks it


@dataclass(frozen=True)
class Pair:
    """A row answered twice: what came of it, and how far it changed (more is better)."""

    id: str
    outcome: int
    change: float
    theirs: Row
    ours: Row


@dataclass
class Pairs:
    """All rows that two models answered, the worst change first."""

    metric: str
    theirs: str
    ours: str
    binary: bool
    rows: list[Pair] = field(default_factory=list)

    def of(self, outcome: int) -> list[Pair]:
        found = [p for p in self.rows if p.outcome == outcome]
        return found[::-1] if outcome == WON else found

    def count(self, outcome: int) -> int:
        return sum(p.outcome == outcome for p in self.rows)


def paired(
    metric: str, theirs: Mapping[str, Row], ours: Mapping[str, Row], names: tuple[str, str], *, lower: bool
) -> Pairs:
    """Pair two models' rows on their ids; `names` are the baseline's and the candidate's."""
    sign = -1 if lower else 1
    values = [(i, value_of(theirs[i], metric), value_of(row, metric)) for i, row in ours.items() if i in theirs]
    known = [(i, t, o) for i, t, o in values if t is not None and o is not None and math.isfinite(t + o)]
    binary = bool(known) and all(t in (0, 1) and o in (0, 1) for _, t, o in known) and not lower
    found = Pairs(metric, *names, binary)
    for key, t, o in known:
        change = sign * (o - t)
        weight = ours[key].get("weight")
        weighted = change * float(weight) if isinstance(weight, (int, float)) and not binary else change
        outcome = LOST if change < 0 else WON if change > 0 else OTHER if not binary else BOTH if o else NEITHER
        found.rows.append(Pair(key, outcome, weighted, theirs[key], ours[key]))
    found.rows.sort(key=lambda p: p.change)
    return found


def pairs_of(kept: Kept, evaluation: str, theirs: str = "") -> Pairs:
    """Return an evaluation's rows on the page's candidate, against `theirs` or what its gate or the suite names."""
    metric, usual = kept.against(evaluation)
    key = evaluation, theirs or usual
    if key not in kept.pairs:
        there = kept.report(key[1], evaluation) is not None
        rows = kept.rows(key[1], evaluation) if there else {}
        lower = kept.is_lower(f"{evaluation}.{metric}")
        names = key[1], kept.ours
        kept.pairs[key] = paired(metric, rows, kept.rows(kept.ours, evaluation), names, lower=lower)
    found: Pairs = kept.pairs[key]
    return found


# -- words that differ -----------------------------------------------------------------------------


def differing(one: str, other: str) -> tuple[list[Part], list[Part]]:
    """Return two answers in parts, those that the other lacks marked, where they share a third of their words."""
    a, b = one[:CUT].split(), other[:CUT].split()
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    blocks = matcher.get_matching_blocks()
    shared = sum(m.size for m in blocks)
    if one == other or shared < SHARED * max(len(a), len(b), 1):
        return [(one, False)], [(other, False)]
    found: tuple[list[Part], list[Part]] = ([], [])
    at = [0, 0]
    for m in blocks:
        for side, (words, start) in enumerate(((a, m.a), (b, m.b))):
            if words[at[side] : start]:
                found[side].append((" ".join(words[at[side] : start]), True))
            if m.size:
                found[side].append((" ".join(words[start : start + m.size]), False))
            at[side] = start + m.size
    return found


# -- the row browser -------------------------------------------------------------------------------


def browser(kept: Kept) -> tuple[list[dict[str, Any]], str]:
    """Return what the page's script shows of every evaluation with rows, and a note where not all of them are there.

    Of more than MOST rows it holds all that were won or lost, and a sample of the others drawn with the run's seed.
    """
    judged = [v.metric.partition(".")[0] for v in sentence.worst_first(kept.run)]
    names = dict.fromkeys([*judged, *kept.evals])
    found = {e: pairs_of(kept, e) for e in names if kept.report(kept.ours, e) and not _is_counted(kept, e)}
    found = {e: pairs for e, pairs in found.items() if kept.rows(kept.ours, e)}
    total = sum(len(kept.rows(kept.ours, e)) for e in found)
    share = min(1.0, MOST / total) if total else 1.0
    chosen = {e: _chosen(kept, e, pairs, share) for e, pairs in found.items()}
    rows = sum(map(len, chosen.values()))
    most = max(120, min(CUT, SIZE // max(1, rows * (3 + len(kept.subjects)))))
    shown = [_evaluation(kept, e, pairs, chosen[e], most) for e, pairs in found.items()]
    note = ""
    if share < 1:
        note = f"{total:,} rows: here are all that were won or lost, and a sample of the others, {rows:,} in all."
    return shown, note


def _is_counted(kept: Kept, evaluation: str) -> bool:
    metric, _ = kept.against(evaluation)
    return kept.scale(f"{evaluation}.{metric}").is_count


def _chosen(kept: Kept, evaluation: str, pairs: Pairs, share: float) -> list[str]:
    """Return the ids of the rows that the page holds, the largest change first."""
    every = list(kept.rows(kept.ours, evaluation))
    ordered = sorted((p for p in pairs.rows), key=lambda p: (p.outcome not in (LOST, WON), p.change))
    ids = [p.id for p in ordered]
    there = set(ids)
    ids += [i for i in every if i not in there]
    if share == 1:
        return ids
    flips = {p.id for p in pairs.rows if pairs.binary and p.outcome in (LOST, WON)}
    rest = [i for i in ids if i not in flips]
    drawn = random.Random(f"{kept.run.seed} {evaluation}")  # noqa: S311 -- which rows a page shows
    keep = flips | set(drawn.sample(rest, max(0, min(len(rest), int(len(every) * share) - len(flips)))))
    return [i for i in ids if i in keep]


def _evaluation(kept: Kept, evaluation: str, pairs: Pairs, ids: Sequence[str], most: int) -> dict[str, Any]:
    """Return one evaluation as the script reads it; of a private one digests instead of texts."""
    there = [s for s in kept.subjects if kept.report(s, evaluation)]
    rows = {s: kept.rows(s, evaluation) for s in there}
    outcomes = {p.id: p for p in pairs.rows}
    column, private = kept.column(evaluation), kept.is_private(evaluation)
    lines = []
    for i in ids:
        row, pair = rows[kept.ours][i], outcomes.get(i)
        texts = _digests(row) if private else [cut(t, most) for t in (_line(row), prompt_of(row), target_of(row))]
        label = "" if private else cut(slice_of(row, column), 80)
        said = [_said(rows[s].get(i), private, most) for s in there]
        scores = [_score(rows[s].get(i), pairs.metric) for s in there]
        name = str(row.get("doc_hash", ""))[:16] if private else cut(i, 200)
        lines.append([name, pair.outcome if pair else OTHER, label, *texts, said, scores])
    counts = Counter(p.outcome for p in pairs.rows)
    return {
        "name": evaluation,
        "metric": pairs.metric,
        "binary": pairs.binary,
        "lower": kept.is_lower(f"{evaluation}.{pairs.metric}"),
        "subjects": there,
        "theirs": there.index(pairs.theirs) if pairs.theirs in there else -1,
        "ours": there.index(kept.ours),
        "slice": column,
        "private": private,
        "total": len(rows[kept.ours]),
        "counts": [counts[o] for o in range(len(OUTCOMES))],
        "rows": lines,
    }


def _line(row: Row) -> str:
    return last_turn(row)[:200]


def _digests(row: Row) -> list[str]:
    return [f"sha256 {str(row.get(f'{k}_hash', ''))[:16]}" for k in ("doc", "prompt", "target")]


def _said(row: Row | None, private: bool, most: int) -> str | None:
    said = answer_of(row) if row else None
    return None if said is None or private else cut(said, most)


def _score(row: Row | None, metric: str) -> float | None:
    value = value_of(row, metric) if row else None
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


# -- what changed ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Changed:
    """A row that was won or lost, as the page shows it."""

    outcome: str
    link: str
    prompt: str
    slice: str
    theirs: list[Part]
    ours: list[Part]
    marks: tuple[str, str]  # of both answers: right, wrong, or a number
    fold: bool = False  # left out of a narrow page


@dataclass(frozen=True)
class Change:
    """The rows that one comparison lost and won: the first of them, and how many there are."""

    title: str
    evaluation: str
    theirs: str
    ours: str
    lost: int
    won: int
    rows: list[Changed]
    links: str  # what stands after the outcome in a link to these rows; "-" where there is none
    remark: str = ""

    @property
    def more(self) -> bool:
        return self.lost + self.won > len(self.rows)


def change(kept: Kept, title: str, evaluation: str, pairs: Pairs, *, most: tuple[int, int], links: str) -> Change:
    """Return the first rows lost and won of a comparison; of a private evaluation their numbers alone."""
    private = kept.is_private(evaluation)
    picked = [*_differ_first(pairs.of(LOST), most[0]), *_differ_first(pairs.of(WON), most[1])]
    rows = [] if private else [_row(kept, evaluation, pairs, p) for p in picked]
    remark = "The rows are private." if private else ""
    counts = pairs.count(LOST), pairs.count(WON)
    return Change(title, evaluation, pairs.theirs, pairs.ours, *counts, rows, links, remark)


def _differ_first(found: Sequence[Pair], most: int) -> Iterator[Pair]:
    """Yield rows of which no two gave the same answer, then others."""
    seen: dict[tuple[str | None, str | None], Pair] = {}
    for p in found:
        seen.setdefault((answer_of(p.theirs), answer_of(p.ours)), p)
    first = list(seen.values())
    kept = {id(p) for p in first}
    yield from islice([*first, *(p for p in found if id(p) not in kept)], most)


def _row(kept: Kept, evaluation: str, pairs: Pairs, p: Pair) -> Changed:
    column = kept.column(evaluation)
    label = cut(slice_of(p.ours, column), 80)
    theirs, ours = (cut((answer_of(r) or "").strip(), 600) for r in (p.theirs, p.ours))
    parts = differing(theirs, ours)
    marks = _mark(p.theirs, pairs), _mark(p.ours, pairs)
    return Changed(
        OUTCOMES[p.outcome],
        f"#{quote(evaluation, '')}/{quote(p.id, '')}",
        cut(last_turn(p.ours), 200),
        label,
        *parts,
        marks,
    )


def _mark(row: Row, pairs: Pairs) -> str:
    value = value_of(row, pairs.metric)
    if value is None:
        return ""
    return ("right" if value else "wrong") if pairs.binary else f"{value:.3g}"
