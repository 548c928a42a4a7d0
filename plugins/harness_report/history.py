"""Every run of a suite in a folder: how each gate's estimate and bounds moved, and what was released."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import groupby, islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from harness import Run, UsageError, Verdict, read_run
from harness.internals import ForeignFolder, is_plain_path, printable, promotion_history, rules, summary
from harness_report.compare import STYLES, format_verdict_json, render_lines
from harness_report.formatting import GLYPHS, format_day, format_short_day
from harness_report.formatting import escape_text as spelt
from harness_report.gates import claim_text, number_writer, shared_axes, strip_interval, tick_writer
from harness_report.reading import LoadedRun, read_folder
from harness_report.svg import (
    BARRED,
    BASE,
    DASHED,
    DOT,
    INK,
    PAGE,
    VERDICTS,
    Axis,
    Chart,
    label_layer,
    mark_layer,
    round_ticks,
    rule_layer,
)

HOLLOW_STYLE = {"fill": PAGE, "strokeWidth": 1.5, "size": 46}
BARS = "▁▂▃▄▅▆▇█"
MAX_CHANGED_KEYS = 4  # changed keys that are listed for a run
MAX_RUNS = 24  # runs that a chart or a line of the terminal shows, the last ones
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 328, 160, 52, 16, 24  # of a chart, px


@dataclass(frozen=True)
class PastRun:
    """A past run of a suite, with its release.

    Its folder is read lazily, once more than its start is needed.
    """

    folder: Path
    started: str
    release: str = ""

    @cached_property
    def kept(self) -> LoadedRun:
        return read_folder(self.folder)

    @property
    def run(self) -> Run:
        return self.kept.run

    @property
    def is_whole(self) -> bool:
        """Whether it can be read: of another version, or cut off, it has no place in a line."""
        with suppress(UsageError):
            return bool(self.kept)
        return False


@dataclass(frozen=True)
class GateTrack:
    """A gate on one candidate over several runs. A verdict is None if a run did not judge it."""

    gate: str
    candidate: str
    verdicts: list[Verdict | None]

    @property
    def last(self) -> Verdict:
        return next(v for v in reversed(self.verdicts) if v is not None)


def past_runs(suite: str, folder: Path) -> list[PastRun]:
    """Return a suite's past runs in a folder, oldest first.

    Only runs with verdicts are returned, and no run on select splits. Raises UsageError if the folder does not exist.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: is not a folder; name the folder of the run folders")
    days, found = cache(release_days), list[PastRun]()
    for path in folder.glob("*/report.json"):
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # no report of ours
            told = ForeignFolder(path.parent).read_record(path.name)
            if told["suite"] == suite and not told.get("selecting") and any(r["verdicts"] for r in told["results"]):
                when = str(told["started"])
                releases = [release_day(days(e["to"]), e["digest"], when) for e in told["exports"] if e["digest"]]
                found.append(PastRun(path.parent, when, next(filter(None, releases), "")))
    found.sort(key=lambda p: (p.started, p.folder.name))
    last = list(islice((p for p in reversed(found) if p.is_whole), MAX_RUNS))
    return [*(found[: found.index(last[-1])] if len(last) == MAX_RUNS else ()), *reversed(last)]


def release_day(released: Mapping[tuple[str, str], str], weights: str, started: str) -> str:
    """Return the release day of a run's export. Empty if it was not promoted."""
    return released.get((weights, started), "")


def release_days(to: str) -> dict[tuple[str, str], str]:
    """Return the day of first promotion per export to a folder.

    Days are keyed by weights and start of the run.
    """
    if not is_plain_path(to):  # another's report may name anything
        return {}
    with suppress(UsageError, OSError, ValueError, RuntimeError):
        return {(line.weights, line.started): line.at[:10] for line in reversed(promotion_history(Path(to)))}
    return {}


def gate_tracks(past: Sequence[PastRun]) -> list[GateTrack]:
    """Return every gate and candidate of the runs.

    They are in the order of the last run, worst first; gates that it lacks come after its own.
    """
    by_run = [{(v.gate, v.candidate): v for v in p.run.verdicts} for p in past]
    last = [(v.gate, v.candidate) for v in summary.sort_worst_first(past[-1].run)]
    keys = dict.fromkeys([*last, *(key for run in by_run for key in run)])
    return [GateTrack(*key, [run.get(key) for run in by_run]) for key in keys]


def sparkline(values: Sequence[float | None]) -> str:
    """Return numbers as a line of bars, from minimum to maximum. A missing number is a space."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    places = {v: round((v - low) / (high - low) * 7) if high > low else 3 for v in known}
    return "".join(BARS[places[v]] if v in places else " " for v in values)


def history_lines(suite: str, past: Sequence[PastRun]) -> str:
    """Return the history of a suite as lines for a terminal: a gate a line, the last runs from left to right."""
    table, kept = _make_borderless_table("gate", "estimates", "verdicts", "last", "limit"), past[-1].kept
    for track in gate_tracks(past[-MAX_RUNS:]):
        glyphs = [(GLYPHS[v.outcome], STYLES[v.outcome]) if v else " " for v in track.verdicts]
        v, line = track.last, sparkline([v.estimate if v else None for v in track.verdicts])
        limit = "" if v.threshold is None else tick_writer(kept, v)(v.threshold)
        name, write = printable(f"{track.gate} on {track.candidate}"), number_writer(kept, v)
        estimate = write(v.estimate)
        if v.run_estimates:
            estimate += f" (runs {write(min(v.run_estimates))} to {write(max(v.run_estimates))})"
        table.add_row(Text(name), Text(line), Text.assemble(*glyphs), Text(estimate), Text(limit))
    first, last = past[0].started, past[-1].started
    head = f"{printable(suite)}: {len(past)} runs, {format_day(first, time=False)} to {format_day(last, time=False)}"
    runs = _make_borderless_table("run", "when", "result", "deciding gate", "changes")
    for one in run_rows(past):
        runs.add_row(*map(Text, (one.folder, one.when, one.said, one.driver, one.changed)))
    return render_lines(head, "", table, "", runs)


def _make_borderless_table(*columns: str) -> Table:
    return Table(*(Column(name, overflow="fold") for name in columns), box=None, padding=(0, 2, 0, 0), pad_edge=False)


def run_rows(past: Sequence[PastRun]) -> list[SimpleNamespace]:
    """Return the last runs, the newest first: what each came to, what decided, and what was set otherwise before it."""
    last, found = past[-MAX_RUNS:], []
    for before, p in zip([None, *last], last, strict=False):
        v, outcome = summary.deciding_verdict(p.run), summary.run_outcome(p.run)
        locked = before is not None and before.kept.lock and p.kept.lock
        changes = rules.changed_rules(p.kept.rules, before.kept.rules) if before and locked else []
        keys = [replace(c, would_be=()).describe() for c in changes]
        more = len(keys) - MAX_CHANGED_KEYS
        said = f"{GLYPHS[outcome]} {summary.verdict_sentence(p.run)}"
        found.append(SimpleNamespace(
            folder=printable(p.folder.name), path=p.folder, when=format_day(p.run.started), outcome=outcome.value,
            said=printable(f"{said}; released on {p.release}" if p.release else said),
            driver=printable(f"{v.gate} {number_writer(p.kept, v)(v.estimate)}") if v else "",
            changed="; ".join([*map(printable, keys[:MAX_CHANGED_KEYS]), *([f"{more} more"] if more > 0 else [])]),
        ))  # fmt: skip
    return found[::-1]


def history_data(suite: str, past: Sequence[PastRun]) -> dict[str, Any]:
    """Return the history of a suite as plain data."""
    runs = []
    for p in past:
        about: dict[str, Any] = {"folder": p.folder.name, "started": p.started, "released": p.release or None}
        with suppress(UsageError):
            run = read_run(p.folder)  # which `p` would keep
            gates = [{"gate": v.gate, "candidate": v.candidate, **format_verdict_json(v)} for v in run.verdicts]
            said = summary.verdict_sentence(run)
            runs.append({**about, "exit_code": int(run.exit_code), "sentence": said, "gates": gates})
    return {"suite": suite, "runs": runs}


def trend_charts(past: Sequence[PastRun]) -> list[SimpleNamespace]:
    """Return a trend chart for each gate on the last candidate.

    It shows estimates, bounds, limits and releases over the runs.
    """
    shown_, kept = past[-MAX_RUNS:], past[-1].kept
    axis = shared_axes([p.kept for p in shown_], by_limit=False)
    found = []
    for track in gate_tracks(shown_):
        v, scale = track.last, axis(kept, track.last)
        if track.candidate != kept.ours or scale is None:
            continue
        spec = _make_gate_trend_spec(scale, track, shown_)
        judged = [(p, w) for p, w in zip(shown_, track.verdicts, strict=True) if w is not None]
        rows = [(format_day(p.run.started), str(w.outcome), number_writer(p.kept, w)(w.estimate)) for p, w in judged]
        chart = Chart(printable(track.gate), spelt(claim_text(kept, v)), spec, ("run", "verdict", "estimate"), rows)
        found.append(SimpleNamespace(outcome=v.outcome.value, glyph=GLYPHS[v.outcome], chart=chart))
    return found


def _make_gate_trend_spec(axis: Axis, track: GateTrack, past: Sequence[PastRun]) -> dict[str, Any]:
    """Return the spec of one gate over the runs: a dot and a bar a run, what the limit of that run forbids shaded.

    The dot is hollow where the claim was another than the last run's.
    """
    bottom, right = HEIGHT - BOTTOM, WIDTH - 8
    step = (right - LEFT) / len(past)

    def up(x: float) -> float:
        return TOP + (axis.high - min(max(x, axis.low), axis.high)) / (axis.high - axis.low) * (bottom - TOP)

    limit, layers, limits = up(axis.limit), list[dict[str, Any]](), list[dict[str, Any]]()
    begun = float(LEFT)
    judged = (axis.limit if v is None or v.threshold is None else v.threshold for v in track.verdicts)
    for threshold, several in groupby(judged):
        ended, y = begun + step * len([*several]), up(threshold)
        barred = (y, bottom) if axis.side > 0 else (TOP, y)
        layers.append(mark_layer({"type": "rect", "color": BARRED}, x=begun, x2=ended, y=barred[0], y2=barred[1]))
        limits.append(rule_layer(INK, 1.5, x=begun, x2=ended, y=y))
        begun = ended
    shaded = len(layers)
    levels = axis.ticks() if axis.shares else round_ticks(axis.low, axis.high, 3)
    levels = [t for t in levels if abs(up(t) - limit) > 12]
    named = label_layer(LEFT - 6, limit, axis.write(axis.limit), align="right", colour=INK, weight=600)
    layers += [label_layer(LEFT - 6, up(t), axis.write(t), align="right") for t in levels]
    layers += [*limits, named]
    every = max(1, math.ceil(len(past) * 44 / (right - LEFT)))
    places: list[tuple[float, float]] = []
    for i, (p, v) in enumerate(zip(past, track.verdicts, strict=True)):
        x = LEFT + step * (i + 0.5)
        if p.release:
            layers += [mark_layer(DASHED, x=x, y=TOP, y2=bottom), label_layer(x, TOP - 8, "released")]
        if i % every == 0:
            layers.append(label_layer(x, bottom + 12, format_short_day(p.run.started)))
        if v is None or (part := strip_interval(v)) is None:
            continue
        if part.bar:
            layers.append(rule_layer(VERDICTS[v.outcome], 3, x=x, y=up(part.bar[0]), y2=up(part.bar[1])))
        layers += [rule_layer(VERDICTS[v.outcome], 1, x=x - 6, x2=x + 6, y=up(run)) for run in part.runs]
        places.append((x, up(part.estimate)))
        colour, same = VERDICTS[v.outcome], v.claim == track.last.claim
        dot = {"color": colour} if same else {"stroke": colour} | HOLLOW_STYLE
        layers.append(mark_layer(DOT | dot, x=x, y=places[-1][1]))
    layers[shaded:shaded] = [rule_layer(BASE, 1, x=a, x2=c, y=b, y2=d) for (a, b), (c, d) in pairwise(places)]
    return {"width": WIDTH, "height": HEIGHT, "autosize": "none", "padding": 0, "layer": layers}
