"""Rows of two models side by side: which were won and lost, and the words that differ."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

from harness.internals import adjust_holm, is_significant, view_run
from harness_report import reading
from harness_report.formatting import MAX_TEXT_CHARS, make_excerpt
from harness_report.reading import LoadedRun, Row, Rows, last_prompt_line, row_answer, row_slice, row_value, subtable

MAX_WHOLE_ROWS = 20_000  # rows of all evaluations that a page holds whole
DRAWN_ROWS = 6_000  # rows of all evaluations that it holds of more
SIZE, DRAWN_SIZE = 14_000_000, 1_600_000  # characters of rows that a page holds, whole or drawn
MIN_SHARED_TEXT = 1 / 3  # of two answers must be the same for their differences to be marked
ROWS, PHONE = (4, 3), (2, 1)  # rows lost and won that are shown of a comparison, and those on a narrow page
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


def pair_metric(metric: str, theirs: Rows, ours: Rows, names: tuple[str, str], *, lower: bool) -> Pairs:
    """Pair two models' rows by id. `names` are the baseline's and the candidate's."""
    sign = -1 if lower else 1
    values = [(i, row_value(theirs[i], metric), row_value(row, metric)) for i, row in ours.items() if i in theirs]
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


def pairs_of_evaluation(kept: LoadedRun, evaluation: str, theirs: str = "", metric: str = "") -> Pairs:
    """Return an evaluation's row pairs for the page's candidate.

    Baseline and metric default to those of its gate or the suite. Pairs are cached.
    """
    usual, baseline = kept.against(evaluation)
    metric, theirs = metric or usual, theirs or baseline
    key = evaluation, theirs, metric
    if key not in kept.pairs:
        rows = kept.rows(theirs, evaluation) if kept.report(theirs, evaluation) else {}
        lower = kept.is_lower(f"{evaluation}.{metric}")
        kept.pairs[key] = pair_metric(metric, rows, kept.rows(kept.ours, evaluation), (theirs, kept.ours), lower=lower)
    found: Pairs = kept.pairs[key]
    return found


def find_lost_slices(kept: LoadedRun, evaluation: str, metric: str, theirs: str) -> list[str]:
    """Describe the slices with a proven loss of rows.

    Their p-values are of exact sign tests, adjusted by Holm. A cluster counts once, by its sum of lost and won rows.
    """
    rows = pairs_of_evaluation(kept, evaluation, theirs, metric)
    column, private = kept.column(evaluation), kept.is_private(evaluation)
    found: dict[str, list[Pair]] = {}
    for pair in rows.rows if rows.binary and column and not private else ():
        found.setdefault(row_slice(pair.ours, column), []).append(pair)
    signs = []
    for parts in found.values():
        units: dict[Any, float] = {}
        for p in parts:
            key = p.id if p.ours.get("cluster") is None else ("cluster", str(p.ours["cluster"]))
            units[key] = units.get(key, 0.0) + p.change
        down, up = sum(x < 0 for x in units.values()), sum(x > 0 for x in units.values())
        signs.append(sum(math.comb(down + up, k) for k in range(up + 1)) / 2 ** (down + up))
    told = []
    for (name, parts), chance in zip(found.items(), adjust_holm(signs), strict=True):
        if is_significant(chance, kept.run.alpha):
            counts = Counter(p.outcome for p in parts)
            before, after = counts[BOTH] + counts[LOST], counts[BOTH] + counts[WON]
            told.append(f"“{make_excerpt(name, 80)}” {before} of {len(parts)} to {after}")
    return told


def diff_answers(one: str, other: str) -> tuple[list[Part], list[Part]]:
    """Split two answers into shared and differing parts.

    A part that the other answer lacks is marked. Answers that share less than a third of their words stay whole and
    unmarked.
    """
    a, b = one[:MAX_TEXT_CHARS].split(), other[:MAX_TEXT_CHARS].split()
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    if one == other or sum(m.size for m in blocks) < MIN_SHARED_TEXT * max(len(a), len(b), 1):
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


def browser_data(kept: LoadedRun) -> tuple[list[dict[str, Any]], str]:
    """Return the row browser's data per evaluation, and a note.

    Beyond MAX_WHOLE_ROWS rows it holds a sample, drawn with the run's seed, and of 0/1 metrics all rows that were lost
    or won; the note says so, and is empty otherwise.
    """
    judged = [v.metric.partition(".")[0] for v in view_run(kept.run).verdicts]
    names = dict.fromkeys([*judged, *kept.evals])
    told = [e for e in names if kept.report(kept.ours, e) and not kept.scale(f"{e}.{kept.against(e)[0]}").is_count]
    found = {e: pairs for e in told for pairs in [pairs_of_evaluation(kept, e)] if kept.rows(kept.ours, e)}
    total = sum(len(kept.rows(kept.ours, e)) for e in found)
    share = DRAWN_ROWS / total if total > MAX_WHOLE_ROWS else 1.0
    chosen: dict[str, list[str]] = {}  # ids, the largest change first
    for e, pairs in found.items():
        every = list(kept.rows(kept.ours, e))
        ordered = sorted(pairs.rows, key=lambda p: (p.outcome not in (LOST, WON), p.change))
        chosen[e] = list(dict.fromkeys([*(p.id for p in ordered), *every]))
        if share < 1:
            flips = {p.id for p in pairs.rows if pairs.binary and p.outcome in (LOST, WON)}
            rest = [i for i in chosen[e] if i not in flips]
            drawn = random.Random(f"{kept.run.seed} {e}")  # noqa: S311 -- which rows a page shows
            keep = flips | set(drawn.sample(rest, max(0, min(len(rest), int(len(every) * share) - len(flips)))))
            chosen[e] = [i for i in chosen[e] if i in keep]
    rows = sum(map(len, chosen.values()))
    size = SIZE if share == 1 else DRAWN_SIZE
    most = max(120, min(MAX_TEXT_CHARS, size // max(1, rows * (3 + len(kept.subjects)))))
    changed = "all that were won or lost, and a sample of the others"
    binary = [pairs.binary for pairs in found.values()]
    shown = changed if all(binary) else f"of 0/1 metrics {changed}" if any(binary) else "a sample"
    note = f"{total:,} rows: {shown}, {rows:,} in all."
    return [
        _make_evaluation_json(kept, e, pairs, chosen[e], most) for e, pairs in found.items()
    ], note if share < 1 else ""


def _make_evaluation_json(
    kept: LoadedRun, evaluation: str, pairs: Pairs, ids: Sequence[str], most: int
) -> dict[str, Any]:
    """Return one evaluation in the format of the row browser. A private one has digests in place of texts."""
    there = [s for s in kept.subjects if kept.report(s, evaluation)]
    rows = {s: kept.rows(s, evaluation) for s in there}
    outcomes = {p.id: p for p in pairs.rows}
    column, private = kept.column(evaluation), kept.is_private(evaluation)
    lower, shares = kept.is_lower(name := f"{evaluation}.{pairs.metric}"), kept.scale(name).is_share
    wrong = [sum(row_value(row, pairs.metric) == float(lower) for row in rows[s].values()) for s in there if shares]
    lines = []
    for i in ids:
        row, pair = rows[kept.ours][i], outcomes.get(i)
        outcome, answered = pair.outcome if pair else OTHER, [rows[s].get(i, {}) for s in there]
        scores = [_round_finite_score(one, pairs.metric) for one in answered]
        if private:
            digests = [str(row.get(f"{k}_hash", ""))[:16] for k in ("doc", "prompt", "target")]
            lines.append([digests[0], outcome, "", *(f"sha256 {d}" for d in digests), [None] * len(there), scores])
            continue
        turns = [(make_excerpt(role, 80), make_excerpt(text, most)) for role, text in reading.row_turns(row)]
        asked, target = turns or make_excerpt(reading.row_prompt(row), most), row.get("target", "")
        target = " | ".join(map(str, target)) if isinstance(target, list) else str(target)
        texts = [make_excerpt(last_prompt_line(row)[:200], most), asked, make_excerpt(target, most)]
        said = [None if (text := row_answer(one)) is None else make_excerpt(text, most) for one in answered]
        why = [_list_scoring_reasons(one, pairs.metric, min(most, 600)) for one in answered]
        why = why if any(why) else []
        lines.append(
            [make_excerpt(i, 200), outcome, make_excerpt(row_slice(row, column), 80), *texts, said, scores, why]
        )
    return {
        "name": evaluation, "metric": pairs.metric, "binary": pairs.binary, "lower": lower,
        "subjects": there, "theirs": there.index(pairs.theirs) if pairs.theirs in there else -1,
        "ours": there.index(kept.ours), "slice": column, "private": private, "wrong": wrong,
        "total": len(rows[kept.ours]), "counts": [pairs.count(o) for o in range(len(OUTCOMES))], "rows": lines,
    }  # fmt: skip


def _list_scoring_reasons(row: Row, metric: str, most: int) -> list[tuple[str, str]]:
    """Return the reasons for an answer's score.

    They are its note, the evaluator's details, and its other metrics.
    """
    told = {"note": row.get("note"), **subtable(row, "details")}
    said = {key: reading.as_text(value) for key, value in told.items() if value not in (None, "", [], {})}
    found = [(make_excerpt(key, 80), make_excerpt(text, most)) for key, text in said.items()]
    names: object = row.get("metrics")
    others = (
        (m, _round_finite_score(row, m)) for m in map(str, names if isinstance(names, list) else ()) if m != metric
    )
    return found + [(make_excerpt(m, 80), f"{x:g}") for m, x in others if x is not None]


def _round_finite_score(row: Row, metric: str) -> float | None:
    value = row_value(row, metric)
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def change_section(kept: LoadedRun, title: str, evaluation: str, pairs: Pairs, links: str) -> SimpleNamespace:
    """Return the first rows lost and won of a comparison.

    A private evaluation has counts only. `links` is the suffix of a link to these rows; "-" if there is none.
    """
    lost, won = pairs.of(LOST), pairs.of(WON)
    private, rows = kept.is_private(evaluation), []
    for found, shown, narrow in () if private else zip((lost, won), ROWS, PHONE, strict=True):
        first: dict[tuple[str | None, str | None], Pair] = {}  # of which no two gave the same answer
        for p in found:
            first.setdefault((row_answer(p.theirs), row_answer(p.ours)), p)
        ids = {p.id for p in first.values()}
        for i, p in enumerate([*first.values(), *(p for p in found if p.id not in ids)][:shown]):
            one, other = diff_answers(*(make_excerpt((row_answer(r) or "").strip(), 600) for r in (p.theirs, p.ours)))
            rows.append(SimpleNamespace(
                outcome=OUTCOMES[p.outcome], link=f"#{quote(evaluation, '')}/{quote(p.id, '')}",
                prompt=make_excerpt(last_prompt_line(p.ours), 200),
                slice=make_excerpt(row_slice(p.ours, kept.column(evaluation)), 80),
                theirs=one, ours=other,
                marks=(_format_right_or_score(p.theirs, pairs), _format_right_or_score(p.ours, pairs)),
                fold=i >= narrow,
            ))  # fmt: skip
    return SimpleNamespace(
        title=title, evaluation=evaluation, theirs=pairs.theirs, ours=pairs.ours, lost=len(lost), won=len(won),
        rows=rows, links=links, remark="The rows are private." if private else "",
        more=len(lost) + len(won) > len(rows),
    )  # fmt: skip


def _format_right_or_score(row: Row, pairs: Pairs) -> str:
    if (value := row_value(row, pairs.metric)) is None:
        return ""
    return ("right" if value else "wrong") if pairs.binary else f"{value:.3g}"
