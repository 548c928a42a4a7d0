"""The page of two runs, and of a suite's history."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness import UsageError
from harness.internals import count_noun, printable, summary, view_run
from harness_report import pairs, svg
from harness_report.compare import SAME_TEXT, RunComparison, compare_runs
from harness_report.formatting import GLYPHS, NO_VALUE, format_confidence, format_day, minus
from harness_report.gates import (
    bounds_text,
    figures,
    gate_section,
    headline_gates,
    number_writer,
    shared_axes,
    strip_interval,
)
from harness_report.history import MAX_RUNS, PastRun, run_rows, trend_charts
from harness_report.metrics import tradeoff_of_runs
from harness_report.page import (
    FILE,
    fill_template,
    folder_name,
    has_changed_answers,
    headline_text,
    next_step,
    trust_line,
)
from harness_report.pairs import LOST, WON
from harness_report.reading import LoadedRun
from harness_report.svg import FAIL, OPEN, PASS, Interval, draw_svg, make_axis, strip_spec

COLOURS = {"worse": FAIL, "not significantly different": OPEN, "better": PASS}
CLASSES = {"worse": "lost", "better": "won", "not significantly different": "told"}


def render_comparison(kept: LoadedRun, other: LoadedRun | None, past: Sequence[PastRun]) -> str:
    """Render a run beside another run and its suite's history.

    Raises UsageError if there is neither, ModuleNotFoundError without jinja2.
    """
    if other is None and not past:
        raise UsageError(f'harness report: the folder has no run of suite "{kept.run.suite}"; name another --history')
    page = _make_comparison_page_values(kept, compare_runs(kept, other) if other else None, past)
    name = folder_name(kept) + (f" against {folder_name(other)}" if other else "")
    return fill_template(
        "beside.html", p=page, title=f"{page.glyph} {printable(kept.run.suite)}: {page.sentence}", name=name
    )


def _make_comparison_page_values(kept: LoadedRun, c: RunComparison | None, past: Sequence[PastRun]) -> SimpleNamespace:
    outcome, facts = view_run(kept.run).outcome, []
    for name, one in [("This run", kept)] + ([("Against", c.before)] if c else []):
        said = printable(view_run(one.run).sentence)
        facts.append((name, f"{format_day(one.run.started)}: {said}; {folder_name(one)}"))
    page: dict[str, Any] = {"sentence": headline_text(kept.run), "outcome": outcome.value, "glyph": GLYPHS[outcome]}
    page |= {
        "heads": headline_gates(kept),
        "facts": facts,
        "ours": kept.ours,
        "sure": format_confidence(kept.run.alpha),
        "trust": trust_line(kept.run),
        "step": next_step(kept),
    }
    page |= {"compared": c, "past": past, "lead": [], "notes": [], "rules": c.rules if c else []}
    if c:
        differs = [*(["the rules"] if c.rules else []), *(s.key for s in c.settings)]
        facts.append(("Differs", summary.join_names(differs[:8]) or "nothing in the configuration"))
        (theirs, ours), names = c.labels, ", ".join(b.name for b in c.same)
        same = f"{count_noun(len(c.same), 'gate')} had the same result in both runs: {names}." if names else ""
        by = {reading: [b.metric for b in c.metrics if b.reading == reading] for reading in (*CLASSES, SAME_TEXT)}
        came = [f"{summary.join_names(by[r])} {'is' if len(by[r]) == 1 else 'are'} {r}" for r in CLASSES if by[r]]
        page |= {"lead": [f"Against {theirs}: {'; '.join(came)}."] if came else [], "notes": c.notes, "same": same}
        page |= {
            "gates": _make_changed_gate_sections(c),
            "lines": _make_changed_metric_lines(c),
            "alike": summary.join_names(by[SAME_TEXT]),
            "labels": c.labels,
        }
        found = [
            (b.metric, replace(b.pairs, theirs=theirs, ours=ours)) for b in c.metrics if has_changed_answers(b.pairs)
        ]
        page["changes"] = [pairs.change_section(c.now, m, m.partition(".")[0], pair, links="-") for m, pair in found]
    if past:
        facts.append(("History", f"{count_noun(len(past), 'run')} of {printable(kept.run.suite)}"))
        page |= {"trends": trend_charts(past), "past_runs": run_rows(past), "runs": count_noun(len(past), "run")}
        page |= {
            "traded": tradeoff_of_runs(kept, [p.kept for p in past[-MAX_RUNS:]]),
            "released": any(p.release for p in past),
        }
        for line in page["past_runs"]:
            own = line.path / FILE
            line.link = Path(os.path.relpath(own, kept.folder)).as_posix() if own.is_file() else ""
            line.ours = line.path.resolve() == kept.folder.resolve()
    return SimpleNamespace(**page, drawn=svg.can_draw())  # which is known when all is drawn


def _make_changed_gate_sections(c: RunComparison) -> list[SimpleNamespace]:
    """Return the sections of gates with other numbers than before.

    The other run's interval is hollow and grey in the same strip.
    """
    axis, found = shared_axes([c.now, c.before]), []
    for b in c.gates:
        earlier = b.before
        parts = [strip_interval(earlier, other=True) if earlier else None, strip_interval(b.now)]
        before = {"before": NO_VALUE, "before_bounds": "", "before_outcome": "not evaluated"}
        if earlier:
            said = figures(c.now, earlier)
            told = said.estimate, bounds_text(earlier, said), str(earlier.outcome)
            before = dict(zip(before, told, strict=True))
        found.append(gate_section(c.now, b.now, axis(c.now, b.now), parts, links=False, **before))
    return found


def _make_changed_metric_lines(c: RunComparison) -> list[SimpleNamespace]:
    """Return the metrics that changed or could not be compared. Proportions share one axis."""
    found = [(b, b.verdict, COLOURS.get(b.reading, OPEN)) for b in c.metrics if b.reading != SAME_TEXT]
    parts = [None if v.estimate is None else Interval(v.estimate, v.lower, v.upper, colour) for _, v, colour in found]
    shares = [p for (b, _, _), p in zip(found, parts, strict=True) if p and c.now.scale(b.metric).is_share]
    lines = []
    for (b, v, _), part in zip(found, parts, strict=True):
        scale, said, svg = c.now.scale(b.metric), figures(c.now, v), ""
        if part is not None:
            side = -1 if c.now.is_lower(b.metric) else 1
            tick = number_writer(c.now, v) if scale.is_log else (lambda x: minus(f"{x:+.3g}") if x else "0")
            on = shares if scale.is_share else [part]
            svg = draw_svg(strip_spec(make_axis(on, 0.0, side, tick, shares=scale.is_log, zero=True), [part]))
        lines.append(SimpleNamespace(
            reading=b.reading, style=CLASSES.get(b.reading, "slice"), metric=b.metric,
            values=f"{said.baseline}, now {said.value}",
            svg=svg, estimate=said.estimate, bounds=bounds_text(v, said), method=v.method or printable(v.why),
            rows=count_noun(len(b.pairs.rows), "pair"), flips=f"{b.pairs.count(LOST)} lost, {b.pairs.count(WON)} won",
        ))  # fmt: skip
    return lines
