"""The section on metrics: subjects as columns, slices as small multiples, and what single rows say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from harness import Gate, ItemResult, Verdict
from harness.internals import decide, printable, summary, view_run, wilson
from harness_report import charts
from harness_report.formatting import NAMES, NO_VALUE, format_short_day, format_value, metric_in_words, minus
from harness_report.pairs import BOTH, LOST, NEITHER, WON, pairs_of_evaluation
from harness_report.reading import (
    LoadedRun,
    Row,
    gate_metric,
    gate_result,
    gate_samples,
    row_answer,
    row_slice,
    row_value,
    subtable,
)
from harness_report.svg import Chart

MIN_BIN_ROWS = 5  # rows of one probability that are drawn
MOST_SLICES = 40  # values of a column that are drawn


def metrics_table(kept: LoadedRun) -> SimpleNamespace:
    """Return every metric of every subject.

    The last column compares the candidate with the base. `kept` marks the columns that a narrow page shows.
    """
    subjects = kept.subjects
    base = next((s for s in ("base", *subjects) if s in subjects and s != kept.ours), "")
    narrow = [s in (base, kept.ours) for s in subjects]
    lines = []
    for name in dict.fromkeys(f"{r.eval}.{m}" for r in kept.run.results for m in r.metrics):
        evaluation, _, metric = name.partition(".")
        found = {r.subject: r.metrics[metric] for r in kept.run.results if r.eval == evaluation and metric in r.metrics}
        was, now, scale = found.get(base), found.get(kept.ours), kept.scale(name)
        rows = {r.n for r in kept.run.results if r.eval == evaluation and r.subject in (base, kept.ours)}
        if was is None or now is None or not math.isfinite(was + now):
            change = NO_VALUE
        elif len(rows) > 1:
            change = "other rows"
        elif was == now:
            change = "same"
        elif scale.is_share or not was:
            change = scale.format_change(round(now, 3) - round(was, 3))  # of the values as they are written
        else:
            change = minus(f"{now / was - 1:+.1%}")  # of what has no whole a share of the base
        cells = [format_value(found.get(s), kept.unit(name)) for s in subjects]
        lines.append(SimpleNamespace(name=name, lower=kept.is_lower(name), cells=cells, change=change))
    return SimpleNamespace(subjects=subjects, kept=narrow, ours=kept.ours, base=base, lines=lines)


def slice_charts(kept: LoadedRun) -> list[Chart]:
    """Return a change chart for each metric and slice column.

    Changes are against the baseline, and against the model that the candidate was made from.
    """
    found = []
    for mine in kept.run.results:
        if mine.subject != kept.ours or mine.outcome != "done" or kept.is_private(mine.eval):
            continue
        metric, baseline = kept.against(mine.eval)
        for theirs in dict.fromkeys(filter(None, (baseline, kept.parent))):
            if (other := kept.report(theirs, mine.eval)) and theirs != kept.ours:
                found += [_make_slice_change_chart(kept, mine, other, metric, column) for column in mine.slices]
    return [chart for chart in found if chart]


def slice_min_n(kept: LoadedRun) -> int:
    """Return the largest `min_n` of the suite's gates.

    A slice with fewer rows need not prove a claim. Gate's default if no gate sets one.
    """
    return max((g["min_n"] for g in kept.lock.get("gates", ()) if g.get("min_n")), default=Gate.min_n)


def _make_slice_change_chart(
    kept: LoadedRun, mine: ItemResult, other: ItemResult, metric: str, column: str
) -> Chart | None:
    """Draw the changes of a metric's slices, worst first."""
    name = f"{mine.eval}.{metric}"
    share, least, sign = kept.scale(name).is_share, slice_min_n(kept), -1 if kept.is_lower(name) else 1
    bounds = _compute_slice_confidence_bounds(kept, name, column) if share and kept.has_all_rows(mine.eval) else {}
    most = max(int(told.get("n", 0)) for told in mine.slices[column].values())  # a mark on each row says nothing
    rows: list[dict[str, Any]] = []
    for label, told in mine.slices[column].items():
        value, before = told.get(metric, math.nan), other.slices.get(column, {}).get(label, {}).get(metric, math.nan)
        n = int(told.get("n", 0))
        if n and math.isfinite(value + before):
            low, high = bounds.get(label, (value, value))
            row = {
                "slice": label[:60] + (" *" if 0 < n < least <= most else ""),
                "n": n,
                "fell": sign * (value - before) < 0,
            }
            rows.append(row | {"value": value, "before": before, "lower": low, "upper": high})
    rows = sorted(rows, key=lambda r: (sign * (r["value"] - r["before"]), r["slice"]))[:MOST_SLICES]
    title, names = f"{name} by {column}", (other.subject, kept.ours)
    note = " to ".join(names) + (f"; every slice has fewer than {least} rows" if most < least else "")
    return charts.slice_chart(title, note, rows, share=share, names=names) if rows else None


def _compute_slice_confidence_bounds(kept: LoadedRun, name: str, column: str) -> dict[str, tuple[float, float]]:
    """Return the bounds of each slice's share: over clusters as a gate's where rows have them, else Wilson's."""
    evaluation, _, metric = name.partition(".")
    parts: dict[str, dict[str, Row]] = {}
    for key, row in kept.rows(kept.ours, evaluation).items():
        parts.setdefault(row_slice(row, column), {})[key] = row
    gate, measured, alpha = Gate("slice", name, min=0.5, severity="warn"), gate_metric(kept, name), kept.run.alpha
    found: dict[str, tuple[float, float]] = {}
    for label, rows in parts.items():
        if all(row.get("cluster") is None for row in rows.values()):
            right = sum(row_value(row, metric) or 0.0 for row in rows.values())
            if 0 <= right <= len(rows):  # its gates end in an ERROR else
                found[label] = wilson(round(right), len(rows), alpha)
            continue
        with suppress(ModuleNotFoundError):  # of clusters' statistics
            v = decide(gate, measured, gate_result(kept, name, rows), None, gate_samples(rows), alpha, name=kept.ours)
            if v.lower is not None and v.upper is not None:
                found[label] = v.lower, v.upper
    return found


def tradeoff_of_runs(kept: LoadedRun, past: Sequence[LoadedRun] = ()) -> Chart | None:
    """Return a chart of gain against retention.

    Each point is a model, or with `past` a run of the suite; margins are lines. None unless one gate claims a gain,
    another limits a loss, and there are two points.
    """
    asked = [v for v in view_run(kept.run).verdicts if v.candidate == kept.ours and v.terms and v.versus]
    gains = [v for v in asked if v.terms and v.terms.threshold >= 0]
    losses = [v for v in asked if v.terms and v.terms.threshold < 0]
    if not gains or not losses:
        return None
    gain, loss = summary.largest_gain(kept.run) or gains[0], losses[0]
    runs = [(k, k.ours, format_short_day(k.run.started)) for k in past]
    points = []
    for one, subject, name in runs or [(kept, s, s) for s in kept.subjects]:
        values = []
        for evaluation, _, metric in (v.metric.partition(".") for v in (loss, gain)):
            report = one.report(subject, evaluation)
            values.append(report.metrics.get(metric, math.nan) if report else math.nan)
        ours = one.folder == kept.folder and subject == kept.ours
        if all(map(math.isfinite, values)):
            points.append({"name": printable(name), "kept": values[0], "gained": values[1], "ours": ours})
    names = (metric_in_words(loss.metric), metric_in_words(gain.metric))
    ways = ["less" if kept.is_lower(v.metric) else "more" for v in (loss, gain)]
    note = f"{names[1]} up, {ways[1]} is gain; {names[0]} across, {ways[0]} is retention"
    note += f"; shaded: beyond the limit of “{gain.gate}” or of “{loss.gate}”"
    lower = (kept.is_lower(loss.metric), kept.is_lower(gain.metric))
    return (
        charts.tradeoff_chart(
            points, names, (_compute_passing_limit(loss), _compute_passing_limit(gain)), printable(note), lower
        )
        if len(points) > 1
        else None
    )


def _compute_passing_limit(v: Verdict) -> float | None:
    """Return the metric value at a comparison's limit.

    None if that is not a single number, as for a relative margin without a log scale.
    """
    if v.terms is None or v.baseline is None or v.threshold is None or (v.terms.relative and not v.terms.is_log):
        return None
    return v.terms.from_test_scale(v.terms.to_test_scale(v.baseline) + v.threshold)


def row_charts(kept: LoadedRun) -> list[Chart]:
    """Return the charts of single rows. They show paired outcomes, values, reliability and answer lengths."""
    rows = []
    for evaluation in dict.fromkeys(r.eval for r in kept.run.results if r.subject == kept.ours):
        if kept.has_all_rows(evaluation) and (pairs := pairs_of_evaluation(kept, evaluation)).binary:
            words = {"both right": BOTH, "won": WON, "lost": LOST, "neither": NEITHER}
            counts = {word: pairs.count(outcome) for word, outcome in words.items()}
            rows.append((f"{evaluation} against {pairs.theirs}", counts))
    paired = (
        [charts.outcome_chart(rows, f"rows that {kept.ours} lost and won against its gate's baseline")] if rows else []
    )
    return [
        *paired,
        *_iterate_row_value_charts(kept),
        *_iterate_reliability_charts(kept),
        *_iterate_answer_length_charts(kept),
    ]


def _iterate_reliability_charts(kept: LoadedRun) -> Iterator[Chart]:
    """Yield a reliability chart per evaluation with answer probabilities.

    It shows the candidate, then the baseline.
    """
    for r in kept.run.results:
        if r.subject != kept.ours or kept.is_private(r.eval) or not kept.has_all_rows(r.eval):
            continue
        metric, baseline = kept.against(r.eval)
        bins = {
            name: _bin_rows_by_probability(kept, name, r.eval, metric) for name in dict.fromkeys((kept.ours, baseline))
        }
        if len(bins[kept.ours]) > 1:
            note = "share of correct rows by confidence; on the line the model is well calibrated"
            note += f"; grey: {baseline}" if bins.get(baseline) and baseline != kept.ours else ""
            yield charts.reliability_chart(f"Reliability of {r.eval}", note, {name: b for name, b in bins.items() if b})


def _bin_rows_by_probability(kept: LoadedRun, subject: str, evaluation: str, metric: str) -> list[charts.Spec]:
    """Return rows in bins by the probability of their answers.

    A bin is a tenth wide; bins with fewer than MIN_BIN_ROWS rows are left out.
    """
    tenths: dict[int, list[tuple[float, float]]] = {}
    for row in kept.rows(subject, evaluation).values() if kept.report(subject, evaluation) else ():
        said, right = subtable(row, "details").get("probability"), row_value(row, metric)
        if isinstance(said, float) and 0 <= said <= 1 and right in (0, 1):
            tenths.setdefault(min(9, int(said * 10)), []).append((said, right))
    found: list[charts.Spec] = []
    for rows in (tenths[k] for k in sorted(tenths) if len(tenths[k]) >= MIN_BIN_ROWS):
        n, hits = len(rows), sum(right for _, right in rows)
        low, high = wilson(round(hits), n, kept.run.alpha)
        found.append({"p": sum(said for said, _ in rows) / n, "v": hits / n, "low": low, "high": high, "n": n})
    return found


def _iterate_row_value_charts(kept: LoadedRun) -> Iterator[Chart]:
    """Yield a chart for each evaluation with numeric row values.

    Values are drawn against the baseline's, if there is one.
    """
    for r in kept.run.results:
        metric, baseline = kept.against(r.eval)
        name = f"{r.eval}.{metric}"
        if r.subject != kept.ours or r.n < 3 or not kept.has_all_rows(r.eval) or not kept.scale(name).is_of_rows:
            continue
        pairs, title = pairs_of_evaluation(kept, r.eval), f"{NAMES.get(metric, metric.replace('_', ' '))} by row"
        title = f"log {title}" if kept.scale(name).is_log else title
        title = title[:1].upper() + title[1:]
        unit = "nats per token" if kept.scale(name).is_log or metric == "kl" else metric.replace("_", " ")
        if pairs.rows and not pairs.binary:
            both = [(row_value(p.theirs, metric), row_value(p.ours, metric)) for p in pairs.rows]
            points = [(t, o) for t, o in both if t is not None and o is not None]
            side = "below" if kept.is_lower(name) else "above"
            note = f"{unit}, {baseline} across and {kept.ours} up; {side} the line is better"
            yield charts.scatter_chart(title, note, points, (baseline, kept.ours))
        elif not pairs.rows:
            values = [row_value(row, metric) for row in kept.rows(kept.ours, r.eval).values()]
            known = [v for v in values if v is not None and math.isfinite(v)]
            if len(set(known)) > 2:
                note = f"{unit}, {len(known):,} rows; the line is their weighted mean"
                note += ", with its gate's bounds"
                mine = [v for v in kept.run.verdicts if v.metric == name and v.candidate == kept.ours and not v.versus]
                mean = [x for v in mine[:1] for x in (v.estimate, v.lower, v.upper) if x is not None]
                yield charts.ordered_chart(
                    title, note, known, what="rows, in order", mean=mean if len(mean) == 3 else ()
                )


def _iterate_answer_length_charts(kept: LoadedRun) -> Iterator[Chart]:
    """Yield a length chart for each evaluation with generated answers.

    Chosen answers are left out, since their lengths mean nothing.
    """
    for r in kept.run.results:
        chosen = "choices" in (kept.evals.get(r.eval, {}).get("options") or {})  # their length says nothing
        if r.subject != kept.ours or kept.is_private(r.eval) or chosen or not kept.has_all_rows(r.eval):
            continue
        found: dict[str, list[int]] = {}
        for s in kept.subjects:
            said = [row_answer(row) for row in kept.rows(s, r.eval).values()] if kept.report(s, r.eval) else []
            if known := [len(a) for a in said if a is not None]:
                found[s] = known
        if kept.ours in found:
            note = "characters; the bar covers half of the answers, the line nine of ten"
            yield charts.length_chart(f"Answer lengths of {r.eval}", note, found, kept.ours)
