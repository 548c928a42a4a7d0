"""A run that goes on as its page shows it: stages, loss, metrics of what was measured, gates, and the time left."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from harness import Verdict
from harness.internals import (
    Figures,
    RunProgress,
    count_noun,
    format_duration,
    numbers,
    printable,
    summary,
    verdict_figures,
    verdict_text,
    view_run,
)
from harness_report import gates

WIDTH, HEIGHT = 640, 120  # px, of the loss
MAX_POINTS = 320  # of its line, at most
DONE, RUNNING, OPEN, CUT = ("✓", "done"), ("●", "running"), ("○", "open"), ("?", "cut off")


def live_parts(found: RunProgress) -> dict[str, Any]:
    """Return the template values of a page that change during a run."""
    odd = [printable(f"{r.id}: {r.error}") for r in found.run.results if r.error]
    odd += [printable(f"{f.code}: {f.what}") for f in found.run.findings if f.severity != "note"]
    left = found.seconds_left
    return {
        "said": printable(found.summary(datetime.now(UTC))),
        "left": "" if left is None else f"About {format_duration(left)} left in all.",
        "stages": _make_stage_rows(found),
        "loss": _make_loss_polyline(found.losses),
        "metrics": _make_metrics_by_subject_table(found),
        "gates": [_make_gate_row(v) for v in view_run(found.run).verdicts],
        "odd": odd,
    }


def _make_stage_rows(found: RunProgress) -> list[SimpleNamespace]:
    """Return the stages so far with their time, then waiting subjects."""
    rail = []
    for stage in found.stages:
        glyph, word = DONE if stage.ended else RUNNING if found.running is not False else CUT
        took = format_duration(stage.seconds)
        rail.append(SimpleNamespace(glyph=glyph, word=word, name=printable(stage.name), took=took))
    begun = {stage.name for stage in found.stages}
    measured = {r.subject for r in found.run.results}
    waiting = dict.fromkeys(subject for subject, _ in found.open_items if subject not in begun | measured)
    glyph, word = OPEN
    return rail + [SimpleNamespace(glyph=glyph, word=word, name=printable(name), took="") for name in waiting]


def _make_loss_polyline(losses: Sequence[tuple[int, float]]) -> SimpleNamespace | None:
    """Return the training loss as points of a line.

    Its ends are described in words. None for fewer than two values.
    """
    if len(losses) < 2:
        return None
    kept = [*losses[:: max(1, len(losses) // MAX_POINTS)], losses[-1]]
    first, last, top = kept[0][0], kept[-1][0], max(loss for _, loss in kept) or 1.0
    places = ((WIDTH * (step - first) / max(1, last - first), HEIGHT * (1 - loss / top)) for step, loss in kept)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    said = f"Training loss from {losses[0][1]:.3f} at step {first:,} to {losses[-1][1]:.3f} at step {last:,}"
    return SimpleNamespace(points=points, said=said, top=f"{top:.3g}", width=WIDTH, height=HEIGHT)


def _make_metrics_by_subject_table(found: RunProgress) -> SimpleNamespace:
    """Return metrics by subject as a table.

    A value that has not been measured yet is shown as "–" there.
    """
    done = [r for r in found.run.results if r.outcome == "done"]
    waiting = [subject for subject, _ in found.open_items]
    subjects = list(dict.fromkeys([*(r.subject for r in done), *waiting])) if done else []
    cells = {(r.eval, m, r.subject): numbers.format_metric(x) for r in done for m, x in r.metrics.items()}
    names = dict.fromkeys((e, m) for e, m, _ in cells)
    lines = [(printable(f"{e}.{m}"), [cells.get((e, m, s), "–") for s in subjects]) for e, m in names]
    return SimpleNamespace(subjects=[printable(s) for s in subjects], lines=lines)


def _format_rows_and_sample_size(v: Verdict, figures: Figures) -> str:
    """Describe a verdict's rows, and the sample size to decide it.

    Without an estimate, the reason instead.
    """
    if v.estimate is None:
        return verdict_text.format_brief(v)
    changed = f"{figures.lost:,} lost, {figures.won:,} won" if v.versus else ""
    rows = count_noun(figures.n, "row") + (f" of {figures.where}" if figures.where else "")
    return "; ".join(filter(None, [rows, changed, verdict_text.format_sample_size(v)]))


def _make_gate_row(v: Verdict) -> SimpleNamespace:
    figures = verdict_figures(v)
    return SimpleNamespace(
        outcome=str(v.outcome), glyph=summary.GLYPHS[v.outcome], name=printable(v.gate),
        candidate=printable(v.candidate), claim=printable(verdict_text.format_claim(v)),
        estimate=figures.estimate if v.estimate is not None else "", bounds=gates.bounds_text(v, figures),
        why=printable(_format_rows_and_sample_size(v, figures)),
    )  # fmt: skip
