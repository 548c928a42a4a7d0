"""The page of two runs, and of a suite's history."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness import UsageError
from harness.internals import counted, sentence, shown
from harness_report import drawing, pairs
from harness_report.compare import ALIKE, Compared, compare
from harness_report.drawing import FAIL, OPEN, PASS, Interval, axis_of, draw, strip
from harness_report.gates import axes, bounds_of, heads, interval_of, show_gate, write_of
from harness_report.history import MOST, PastRun, runs_told, trends_of
from harness_report.metrics import traded
from harness_report.page import FILE, fill, folder_name, headline, says
from harness_report.pairs import LOST, WON
from harness_report.reading import Kept
from harness_report.words import GLYPHS, NONE, day, minus, number, percent

COLOURS = {"worse": FAIL, "not significantly different": OPEN, "better": PASS}
CLASSES = {"worse": "lost", "better": "won", "not significantly different": "told"}


def render_beside(kept: Kept, other: Kept | None, past: Sequence[PastRun]) -> str:
    """Return the page of a run beside another one, and with the history of its suite.

    Raises UsageError where there is neither, ModuleNotFoundError without jinja2.
    """
    if other is None and not past:
        raise UsageError(f'harness report: the folder has no run of suite "{kept.run.suite}"; name another --history')
    page = _page(kept, compare(kept, other) if other else None, past)
    name = folder_name(kept) + (f" against {folder_name(other)}" if other else "")
    return fill("beside.html", p=page, title=f"{page.glyph} {shown(kept.run.suite)}: {page.sentence}", name=name)


def _page(kept: Kept, c: Compared | None, past: Sequence[PastRun]) -> SimpleNamespace:
    outcome, facts = sentence.outcome(kept.run), []
    for name, one in [("This run", kept)] + ([("Against", c.before)] if c else []):
        said = shown(sentence.verdict_sentence(one.run))
        facts.append((name, f"{day(one.run.started)}: {said}; {folder_name(one)}"))
    page: dict[str, Any] = {"sentence": headline(kept.run), "outcome": outcome.value, "glyph": GLYPHS[outcome]}
    page |= {"heads": heads(kept), "facts": facts, "ours": kept.ours, "sure": percent(kept.run.alpha)}
    page |= {"compared": c, "past": past, "lead": [], "notes": []}
    if c:
        facts.append(("Differs", sentence.listed([s.key for s in c.settings][:8]) or "nothing in the configuration"))
        (theirs, ours), names = c.labels, ", ".join(b.name for b in c.same)
        same = f"{counted(len(c.same), 'gate')} had the same result in both runs: {names}." if names else ""
        by = {reading: [b.metric for b in c.metrics if b.reading == reading] for reading in (*CLASSES, ALIKE)}
        came = [f"{sentence.listed(by[r])} {'is' if len(by[r]) == 1 else 'are'} {r}" for r in CLASSES if by[r]]
        page |= {"lead": [f"Against {theirs}: {'; '.join(came)}."] if came else [], "notes": c.notes, "same": same}
        page |= {"gates": _gates(c), "lines": _lines(c), "alike": sentence.listed(by[ALIKE]), "labels": c.labels}
        found = [(b.metric, replace(b.pairs, theirs=theirs, ours=ours)) for b in c.metrics if says(b.pairs)]
        page["changes"] = [pairs.change(c.now, m, m.partition(".")[0], pair, links="-") for m, pair in found]
    if past:
        facts.append(("History", f"{counted(len(past), 'run')} of {shown(kept.run.suite)}"))
        page |= {"trends": trends_of(past), "past_runs": runs_told(past), "runs": counted(len(past), "run")}
        page |= {"traded": traded(kept, [p.kept for p in past[-MOST:]]), "released": any(p.release for p in past)}
        for line in page["past_runs"]:
            own = line.path / FILE
            line.link = Path(os.path.relpath(own, kept.folder)).as_posix() if own.is_file() else ""
            line.ours = line.path.resolve() == kept.folder.resolve()
    return SimpleNamespace(**page, drawn=drawing.can_draw())  # which is known when all is drawn


def _gates(c: Compared) -> list[SimpleNamespace]:
    """Return the gates that came to other numbers, the other run's hollow and grey in the same strip."""
    axis, found = axes([c.now, c.before]), []
    for b in c.gates:
        earlier, write = b.before, write_of(c.now, b.now)
        parts = [interval_of(earlier, other=True) if earlier else None, interval_of(b.now)]
        before = {"before": NONE, "before_bounds": "", "before_outcome": "not evaluated"}
        if earlier:
            told = write(earlier.estimate), bounds_of(earlier, write), str(earlier.outcome)
            before = dict(zip(before, told, strict=True))
        found.append(show_gate(c.now, b.now, axis(c.now, b.now), parts, links=False, **before))
    return found


def _lines(c: Compared) -> list[SimpleNamespace]:
    """Return the metrics that changed, or that could not be compared; shares of rows are on one scale."""
    found = [(b, b.verdict, COLOURS.get(b.reading, OPEN)) for b in c.metrics if b.reading != ALIKE]
    parts = [None if v.estimate is None else Interval(v.estimate, v.lower, v.upper, colour) for _, v, colour in found]
    shares = [p for (b, _, _), p in zip(found, parts, strict=True) if p and c.now.scale(b.metric).is_share]
    lines = []
    for (b, v, _), part in zip(found, parts, strict=True):
        scale, unit, write, svg = c.now.scale(b.metric), c.now.unit(b.metric), write_of(c.now, v), ""
        if part is not None:
            side = -1 if c.now.is_lower(b.metric) else 1
            tick = write if scale.is_log else (lambda x: minus(f"{x:+.3g}") if x else "0")
            on = shares if scale.is_share else [part]
            svg = draw(strip(axis_of(on, 0.0, side, tick, shares=scale.is_log, zero=True), [part]))
        lines.append(SimpleNamespace(
            reading=b.reading, style=CLASSES.get(b.reading, "slice"), metric=b.metric,
            values=f"{number(v.baseline, unit)}, now {number(v.value, unit)}",
            svg=svg, estimate=write(v.estimate), bounds=bounds_of(v, write), method=v.method or shown(v.why),
            rows=counted(len(b.pairs.rows), "pair"), flips=f"{b.pairs.count(LOST)} lost, {b.pairs.count(WON)} won",
        ))  # fmt: skip
    return lines
