"""The section on metrics: subjects as columns, slices as small multiples, and what single rows say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace

from harness import Gate
from harness.internals import OnScale, wilson
from harness_report import charts
from harness_report.drawing import ACCENT, BASE, Chart
from harness_report.pairs import BOTH, LOST, NEITHER, WON, pairs_of
from harness_report.reading import Kept, answer_of, table_in, value_of
from harness_report.words import NAMES, NONE, minus, number

FEWEST = 5  # rows of one probability that are drawn
MOST_SLICES = 40  # values of a column that are drawn


def table_of(kept: Kept) -> SimpleNamespace:
    """Return every metric of every subject, and the candidate's differences from the base in words and as a bar.

    A bar is from -1 to 1, and its sign that of the difference. On a narrow page only the `kept` columns are shown.
    """
    subjects = kept.subjects
    base = next((s for s in ("base", *subjects) if s in subjects and s != kept.ours), "")
    narrow = [s in (base, kept.ours) for s in subjects]
    lines = []
    for name in dict.fromkeys(f"{r.eval}.{m}" for r in kept.run.reports for m in r.metrics):
        evaluation, _, metric = name.partition(".")
        found = {r.subject: r.metrics[metric] for r in kept.run.reports if r.eval == evaluation and metric in r.metrics}
        unit = kept.unit(name)
        change, bar = _change(found.get(base), found.get(kept.ours), kept.scale(name))
        cells = [number(found[s], unit) if s in found else NONE for s in subjects]
        lower = kept.is_lower(name)
        worse = bar > 0 if lower else bar < 0
        lines.append(SimpleNamespace(name=name, lower=lower, cells=cells, change=change, bar=bar, worse=worse))
    return SimpleNamespace(subjects=subjects, kept=narrow, ours=kept.ours, base=base, lines=lines)


def _change(base: float | None, ours: float | None, scale: OnScale) -> tuple[str, float]:
    """Return a difference in words, and as a bar: a share of the whole, or of the base where there is no whole."""
    if base is None or ours is None or not math.isfinite(base + ours):
        return NONE, 0.0
    if base == ours:
        return "same", 0.0
    if scale.is_share:
        return minus(f"{ours - base:+.3f}"), max(-1.0, min(1.0, ours - base))
    if not base:
        return minus(f"{ours - base:+.4g}"), 0.0
    share = ours / base - 1
    return minus(f"{share:+.1%}"), max(-1.0, min(1.0, share))


# -- slices ----------------------------------------------------------------------------------------


def slices_of(kept: Kept) -> list[list[Chart]]:
    """Return a row of charts for each sliced metric, a chart a subject, in one order: the candidate's worst first."""
    found = []
    for mine in kept.run.reports:
        if mine.subject != kept.ours or kept.is_private(mine.eval):
            continue
        metric, _ = kept.against(mine.eval)
        name = f"{mine.eval}.{metric}"
        sign = -1 if kept.is_lower(name) else 1
        for column, values in mine.slices.items():
            order = sorted(values, key=lambda v: (values[v].get(metric, math.nan) * sign, v))[:MOST_SLICES]
            row = [_slices(kept, s, name, column, order) for s in kept.subjects if kept.report(s, mine.eval)]
            found.append([c for c in row if c is not None])
    return [row for row in found if row]


def min_n_of(kept: Kept) -> int:
    """Return how many rows a slice needs to decide a gate, as the suite's gates say."""
    told = [g.get("min_n") for g in kept.lock.get("gates", ()) if g.get("min_n")]
    return max([int(n) for n in told if isinstance(n, int)], default=Gate.min_n)


def _slices(kept: Kept, subject: str, name: str, column: str, order: list[str]) -> Chart | None:
    evaluation, _, metric = name.partition(".")
    report = kept.report(subject, evaluation)
    values = report.slices.get(column, {}) if report else {}
    rows, share, least = [], kept.scale(name).is_share, min_n_of(kept)
    for label in order:
        told = values.get(label, {})
        value, n = told.get(metric, math.nan), int(told.get("n", 0))
        if not math.isfinite(value) or not n:
            continue
        low, high = wilson(round(value * n), n, kept.run.alpha) if share and 0 <= value <= 1 else (value, value)
        rows.append({"slice": label[:60], "value": value, "lower": low, "upper": high, "n": n, "few": n < least})
    top = 1.0 if share else max((float(str(r["value"])) for r in rows), default=0.0) * 1.1 or 1.0
    colour = ACCENT if subject == kept.ours else BASE
    return charts.slices(subject, name, column, rows, colour=colour, top=top) if rows else None


# -- single rows -----------------------------------------------------------------------------------


def by_row(kept: Kept) -> list[Chart]:
    """Return what single rows say: paired outcomes, values in their order, base against candidate, lengths.

    Of choices whose rows tell it also how far the probability of the chosen answer is to be believed.
    """
    return [*_paired(kept), *_numbers(kept), *_reliable(kept), *_lengths(kept)]


def _reliable(kept: Kept) -> Iterator[Chart]:
    """Yield a chart of each evaluation whose rows have a probability of the chosen answer: candidate, then baseline."""
    for r in kept.run.reports:
        if r.subject != kept.ours or kept.is_private(r.eval):
            continue
        metric, baseline = kept.against(r.eval)
        bins = {name: _bins(kept, name, r.eval, metric) for name in dict.fromkeys((kept.ours, baseline))}
        if len(bins[kept.ours]) > 1:
            note = "share of rows that are right; on the line the model is as often right as it says"
            yield charts.reliability(f"Reliability of {r.eval}", note, {name: b for name, b in bins.items() if b})


def _bins(kept: Kept, subject: str, evaluation: str, metric: str) -> list[charts.Bin]:
    """Return the rows by the probability of their chosen answers, in tenths; bins of few rows are left out."""
    tenths: dict[int, list[tuple[float, float]]] = {}
    for row in kept.rows(subject, evaluation).values() if kept.report(subject, evaluation) else ():
        said, right = table_in(row, "details").get("probability"), value_of(row, metric)
        if isinstance(said, float) and 0 <= said <= 1 and right in (0, 1):
            tenths.setdefault(min(9, int(said * 10)), []).append((said, right))
    found = []
    for rows in (tenths[k] for k in sorted(tenths) if len(tenths[k]) >= FEWEST):
        n, hits = len(rows), sum(right for _, right in rows)
        bounds = wilson(round(hits), n, kept.run.alpha)
        found.append(charts.Bin(sum(said for said, _ in rows) / n, hits / n, *bounds, n))
    return found


def _paired(kept: Kept) -> Iterator[Chart]:
    rows = []
    for evaluation in dict.fromkeys(r.eval for r in kept.run.reports if r.subject == kept.ours):
        pairs = pairs_of(kept, evaluation)
        if pairs.binary:
            words = {"both right": BOTH, "won": WON, "lost": LOST, "neither": NEITHER}
            counts = {word: pairs.count(outcome) for word, outcome in words.items()}
            rows.append((f"{evaluation} against {pairs.theirs}", counts))
    if rows:
        yield charts.outcomes(rows, f"share of rows; {kept.ours} against what its gate names")


def _numbers(kept: Kept) -> Iterator[Chart]:
    """Yield a chart of each evaluation whose rows are numbers: against the baseline where it has one."""
    for r in kept.run.reports:
        metric, baseline = kept.against(r.eval)
        name = f"{r.eval}.{metric}"
        if r.subject != kept.ours or r.n < 3 or not kept.scale(name).is_of_rows:
            continue
        pairs, title = pairs_of(kept, r.eval), f"{NAMES.get(metric, metric.replace('_', ' '))} by row"
        title = title[:1].upper() + title[1:]
        unit = "nats a token" if kept.scale(name).is_log or metric == "kl" else metric.replace("_", " ")
        if pairs.rows and not pairs.binary:
            both = [(value_of(p.theirs, metric), value_of(p.ours, metric)) for p in pairs.rows]
            points = [(t, o) for t, o in both if t is not None and o is not None]
            side = "below" if kept.is_lower(name) else "above"
            note = f"{unit}, {baseline} across and {kept.ours} up; {side} the line is better"
            yield charts.scatter(title, note, points, (baseline, kept.ours))
        elif not pairs.rows:
            values = [value_of(row, metric) for row in kept.rows(kept.ours, r.eval).values()]
            known = [v for v in values if v is not None and math.isfinite(v)]
            if len(set(known)) > 2:
                note = f"{unit}, {len(known):,} rows; a gate is on their weighted mean"
                mine = [v for v in kept.run.verdicts if v.metric == name and v.candidate == kept.ours and not v.versus]
                limit = mine[0].threshold if mine and not kept.scale(name).is_log else None  # on the scale of its rows
                yield charts.ordered(title, note, known, what="rows, in order", limit=limit)


def _lengths(kept: Kept) -> Iterator[Chart]:
    """Yield how long the answers are of each evaluation whose answers were written, not chosen."""
    for r in kept.run.reports:
        chosen = "choices" in (kept.evals.get(r.eval, {}).get("options") or {})  # their length says nothing
        if r.subject != kept.ours or kept.is_private(r.eval) or chosen:
            continue
        found: dict[str, list[int]] = {}
        for s in kept.subjects:
            said = [answer_of(row) for row in kept.rows(s, r.eval).values()] if kept.report(s, r.eval) else []
            if known := [len(a) for a in said if a is not None]:
                found[s] = known
        if kept.ours in found:
            note = "characters; the bar holds half of the answers, the line all of them"
            yield charts.lengths(f"Answer lengths of {r.eval}", note, found, kept.ours)
