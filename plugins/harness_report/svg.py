"""Vega-Lite specs as static SVG, cached by digest, and gate strips.

Without vl-convert there is no SVG. A strip shows estimate, interval and limit, on one scale per metric.
"""

from __future__ import annotations

import atexit
import html
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, NamedTuple

from harness import UsageError, cache_dir, digest_value, write_text
from harness.internals import printable
from harness_report.formatting import escape_text

PAGE, INK, MUTED, ACCENT = "#fdfcf9", "#1f2326", "#5a5f65", "#1f5f99"
PASS, OPEN, FAIL, BASE, HAIR, BARRED = "#14694f", "#855700", "#b3261e", "#7d8288", "#d8d5cd", "#f2f0ea"
VERDICTS = {"PASS": PASS, "FAIL": FAIL, "INCONCLUSIVE": OPEN, "ERROR": FAIL}
DARK = {
    PAGE: "#16181b", INK: "#e3e1db", MUTED: "#a2a6ab", ACCENT: "#83b9ea", PASS: "#66c5a3", OPEN: "#e0b356",
    FAIL: "#ff8f80", BASE: "#8a8f96", HAIR: "#383c42", BARRED: "#202327",
}  # fmt: skip
AXIS = {
    "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal", "labelColor": MUTED, "titleColor": MUTED,
    "domainColor": BASE, "tickColor": BASE, "gridColor": HAIR, "tickSize": 4, "labelPadding": 3,
}  # fmt: skip
CONFIG = {
    "view": {"stroke": None}, "axis": AXIS | {"grid": False}, "text": {"fontSize": 11, "color": MUTED},
    "font": "Roboto, Arial, sans-serif",
}  # fmt: skip
NOT_DRAWN = re.compile(r' (?:aria-\w+|role|class|xmlns:xlink|version|pointer-events)="[^"]*"')
TAG = re.compile(r"<[^>]*>")
DRAWER = """
import json, sys, vl_convert
for line in sys.stdin:
    try:
        told = {"svg": vl_convert.vegalite_to_svg(line, vl_version="v5.20", allowed_base_urls=[])}
    except Exception as error:
        told = {"why": str(error)}
    print(json.dumps(told), flush=True)
"""
WIDTH, HEIGHT, EDGE = 256, 39, 12  # px
LABEL_GAP_PX = 44  # px between two labels
SHARES = (-0.999, -0.998, -0.995, -0.99, -0.98, -0.95, -0.9, -0.8, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 1, 2, 4, 9)
LONG_DECIMALS = re.compile(r"(\.\d\d)\d+")  # digits of a place that no screen shows
DASHED = {"type": "rule", "color": BASE, "strokeDash": [2, 2]}
DOT = {"type": "point", "filled": True, "opacity": 1, "size": 58}

Layer = dict[str, Any]


class Bar(NamedTuple):
    """From where to where a bar is drawn."""

    start: float
    end: float


@dataclass(frozen=True)
class Chart:
    """A chart: its spec, what it shows in words, and the same as a table, for where it cannot be drawn."""

    title: str
    note: str
    spec: Mapping[str, Any]
    head: tuple[str, ...] = ()
    table: Sequence[tuple[str, ...]] = ()

    @cached_property
    def svg(self) -> str:
        """The chart as SVG, with its title and note as label."""
        return draw_svg(self.spec, f"{self.title}: {self.note}")


def can_draw() -> bool:
    """Return whether vl-convert is installed and its process is alive."""
    return find_spec("vl_convert") is not None and not (
        _start_renderer.cache_info().currsize and _start_renderer().poll() is not None
    )


@cache
def _start_renderer() -> subprocess.Popen[str]:
    """Begin the process that draws all charts of this one: V8 ends the one that it is in where it gets no memory."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)}
    command, pipe, no = [sys.executable, "-P", "-c", DRAWER], subprocess.PIPE, subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=no, env=env, encoding="utf-8")
    atexit.register(process.communicate)  # which ends it
    return process


def _render_svg_or_warn(spec: str) -> str:
    """Render a spec as SVG. Empty, with a warning, if that fails."""
    process = _start_renderer()
    assert process.stdin and process.stdout
    try:
        process.stdin.write(spec + "\n")
        process.stdin.flush()
        told = json.loads(process.stdout.readline())
    except (OSError, ValueError):
        process.kill()
        told = {"why": (f"the drawing process ended with exit code {process.wait()}, perhaps because memory ran out")}
    if "why" in told:
        print(printable(f"warning: a chart was not drawn: {told['why']}"), file=sys.stderr)
    return str(told.get("svg", ""))


def draw_svg(spec: Mapping[str, Any], label: str = "") -> str:
    """Render a spec as SVG without scripts or addresses.

    Empty if vl-convert is missing or the spec cannot be drawn. Charts are cached by their digest.
    """
    if not can_draw():
        return ""
    path = None
    spec = {"background": None, "config": CONFIG, **spec}
    try:
        name = digest_value([spec, version("vl-convert-python"), TAG.pattern])
        path = cache_dir() / "charts" / f"{name}.svg"
        svg = path.read_text("utf-8")  # so that an unchanged run draws nothing
    except (UsageError, OSError, ValueError, PackageNotFoundError):
        svg = _render_svg_or_warn(json.dumps(_escape_spec(spec)))  # what XML cannot hold ends the process there
        svg = TAG.sub(lambda tag: LONG_DECIMALS.sub(r"\1", tag[0]), NOT_DRAWN.sub("", svg))
        if path is not None and svg:
            with suppress(OSError):  # on a full disk the next draws it again
                write_text(path, svg)
    named = f'role="img" aria-label="{html.escape(label)}"' if label else 'aria-hidden="true"'
    return svg.replace("<svg", f"<svg {named}", 1)


def _escape_spec(spec: Any) -> Any:
    if isinstance(spec, str):
        return escape_text(spec)
    if isinstance(spec, Mapping):
        return {printable(str(key)): _escape_spec(value) for key, value in spec.items()}
    return [_escape_spec(value) for value in spec] if isinstance(spec, (list, tuple)) else spec


def page_icon(glyph: str, outcome: str) -> str:
    """Return a page's icon as SVG. It is the glyph on the colour of the verdict."""
    text = f'<text x="8" y="13" font-size="13" text-anchor="middle" fill="{PAGE}">{glyph}</text>'
    box = f'<rect width="16" height="16" rx="3" fill="{VERDICTS[outcome]}"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{box}{text}</svg>'


@dataclass(frozen=True)
class Interval:
    """An estimate with bounds and colour, for a strip.

    It is hollow if it is the other run's. Each of the `runs` of a recipe is a thin line.
    """

    estimate: float
    lower: float | None
    upper: float | None
    colour: str
    hollow: bool = False
    runs: tuple[float, ...] = ()  # estimates of the runs that it is the mean of

    @property
    def bar(self) -> Bar | None:
        """From where to where a bar is drawn, if it is."""
        if self.lower is None or self.upper is None or self.upper <= self.lower:
            return None
        return Bar(self.lower, self.upper)


@dataclass(frozen=True)
class Axis:
    """The scale shared by a metric's strips, with its number format.

    `side` is 1 where the claim wants more than the limit. `shares` of a perplexity are on a logarithmic scale.
    """

    low: float
    high: float
    limit: float
    side: int
    write: Callable[[float], str]
    shares: bool = False
    zero: bool = False

    def place(self, x: float) -> float:
        """Return where a number stands: the limit in the middle, what is allowed to the right of it."""
        reach = max(self.high - self.limit, self.limit - self.low)
        return WIDTH / 2 + self.side * (x - self.limit) / reach * (WIDTH / 2 - EDGE)

    def ticks(self) -> list[float]:
        """Return where the axis is labelled beside the limit: round numbers that collide with no other label."""
        wanted = [math.log1p(s) for s in SHARES] if self.shares else round_ticks(self.low, self.high, 4)
        kept = {self.limit: self.place(self.limit)}
        for x in sorted((x for x in wanted if self.low <= x <= self.high), key=lambda x: (self.zero and x != 0, x)):
            at = self.place(x)
            if all(abs(at - other) >= LABEL_GAP_PX for other in kept.values()) and EDGE + 4 <= at <= WIDTH - EDGE - 4:
                kept[x] = at
        return [*kept][1:]


def make_axis(
    parts: Iterable[Interval], limit: float, side: int, write: Callable[[float], str], *, shares: bool, zero: bool
) -> Axis:
    """Return an axis that contains the intervals and the limit.

    For a difference it contains 0 too, unless that is far from both.
    """
    ends = [
        limit,
        *(x for p in parts for x in (p.estimate, p.lower, p.upper, *p.runs) if x is not None and math.isfinite(x)),
    ]
    low, high = min(ends), max(ends)
    span = (high - low) or abs(limit) or 1.0
    if zero and not shares and low - span < 0 < high + span:
        low, high = min(low, 0.0), max(high, 0.0)
        span = (high - low) or span
    pad = 0.09 * span
    return Axis(low - pad, high + pad, limit, side, write, shares, zero and low <= 0 <= high)


def round_ticks(low: float, high: float, steps: int) -> list[float]:
    """Return round numbers from low to high, about so many."""
    raw = (high - low) / steps
    if raw <= 0 or not math.isfinite(raw):
        return []
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def strip_spec(axis: Axis, parts: Sequence[Interval]) -> dict[str, Any]:
    """Return the spec of a strip: shaded what is not allowed, in the middle the limit, a bar from bound to bound."""
    base, limit = 20.5, axis.place(axis.limit)
    barred = mark_layer({"type": "rect", "color": BARRED}, x=EDGE, x2=limit, y=0, y2=20)
    layers = [barred, rule_layer(BASE, 1, x=EDGE, x2=WIDTH - EDGE, y=base)]
    for x in axis.ticks():
        at = axis.place(x)
        layers += [rule_layer(BASE, 1, x=at, y=base, y2=base + 4), label_layer(at, 33, axis.write(x))]
    if axis.zero and axis.limit != 0:
        layers.append(mark_layer(DASHED, x=axis.place(0.0), y=0, y2=20))
    named = label_layer(min(max(limit, 20.0), WIDTH - 20.0), 33, axis.write(axis.limit), colour=INK, weight=600)
    layers += [rule_layer(INK, 1.5, x=limit, y=2, y2=base), named]
    for i, p in enumerate(parts):
        y = 10.0 if len(parts) == 1 else 5.5 + 9 * i
        if p.bar:
            ends = [min(max(axis.place(x), EDGE / 2), WIDTH - EDGE / 2) for x in p.bar]
            layers.append(rule_layer(p.colour, 3, x=ends[0], x2=ends[1], y=y))
        layers += [rule_layer(p.colour, 1, x=axis.place(run), y=y - 7, y2=y + 7) for run in p.runs]
        own = {"fill": PAGE, "stroke": p.colour, "strokeWidth": 1.5, "size": 46} if p.hollow else {"color": p.colour}
        layers.append(mark_layer(DOT | own, x=axis.place(p.estimate), y=y))
    return {"width": WIDTH, "height": HEIGHT, "autosize": "none", "padding": 0, "layer": layers}


def rule_layer(colour: str, width: float, **places: float) -> Layer:
    """Return a layer of one line."""
    return mark_layer({"type": "rule", "color": colour, "strokeWidth": width}, **places)


def label_layer(
    x: float, y: float, text: str, *, colour: str = MUTED, weight: int = 400, align: str = "center"
) -> Layer:
    """Return a layer of one label."""
    style = {"type": "text", "text": text, "align": align, "baseline": "middle", "color": colour, "fontWeight": weight}
    return mark_layer(style, x=x, y=y)


def mark_layer(mark: dict[str, Any], **places: float) -> Layer:
    """Return a layer of one mark at places in pixels."""
    encoding = {key: {"value": round(at, 2)} for key, at in places.items()}
    return {"data": {"values": [{}]}, "mark": mark, "encoding": encoding}
