"""The strip of a gate: where estimate, interval and limit stand, on one scale a metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness_report.drawing import BARRED, BASE, INK, MUTED, PAGE

Layer = dict[str, Any]
WIDTH, HEIGHT, EDGE = 256, 39, 12  # px
APART = 44  # px between two labels
SHARES = (-0.999, -0.998, -0.995, -0.99, -0.98, -0.95, -0.9, -0.8, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 1, 2, 4, 9)


@dataclass(frozen=True)
class Interval:
    """What a strip shows: an estimate with its bounds, in one colour, hollow where it is the other run's."""

    estimate: float
    lower: float | None
    upper: float | None
    colour: str
    hollow: bool = False

    @property
    def ends(self) -> list[float]:
        return [x for x in (self.estimate, self.lower, self.upper) if x is not None and math.isfinite(x)]


@dataclass(frozen=True)
class Axis:
    """The scale that strips of one metric share, and how a number on it is written.

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
        return EDGE + (x - self.low) / (self.high - self.low) * (WIDTH - 2 * EDGE)

    def ticks(self) -> list[float]:
        """Return where the axis is labelled beside the limit: round numbers that collide with no other label."""
        wanted = [math.log1p(s) for s in SHARES] if self.shares else nice(self.low, self.high, 4)
        kept = [self.place(self.limit)]
        ordered = sorted((x for x in wanted if self.low <= x <= self.high), key=lambda x: (x != 0, x))
        found = []
        for x in ordered if self.zero else sorted(ordered):
            at = self.place(x)
            if all(abs(at - other) >= APART for other in kept) and EDGE + 4 <= at <= WIDTH - EDGE - 4:
                kept.append(at)
                found.append(x)
        return found


def axis_of(
    parts: Iterable[Interval], limit: float, side: int, write: Callable[[float], str], *, shares: bool, zero: bool
) -> Axis:
    """Return a scale that holds intervals and the limit, and 0 of a difference unless it is far from both."""
    ends = [limit, *(x for p in parts for x in p.ends)]
    low, high = min(ends), max(ends)
    span = (high - low) or abs(limit) or 1.0
    if zero and not shares and low - span < 0 < high + span:
        low, high = min(low, 0.0), max(high, 0.0)
        span = (high - low) or span
    pad = 0.09 * span
    return Axis(low - pad, high + pad, limit, side, write, shares, zero and low <= 0 <= high)


def nice(low: float, high: float, steps: int) -> list[float]:
    """Return round numbers from low to high, about so many."""
    raw = (high - low) / steps
    if raw <= 0 or not math.isfinite(raw):
        return []
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def strip(axis: Axis, parts: Sequence[Interval]) -> dict[str, Any]:
    """Return the spec of a strip: shaded is what is not allowed, the line is the limit, a bar runs bound to bound."""
    base, limit = 20.5, axis.place(axis.limit)
    barred = (EDGE, limit) if axis.side > 0 else (limit, WIDTH - EDGE)
    layers = [
        layer({"type": "rect", "color": BARRED}, x=barred[0], x2=barred[1], y=0, y2=20),
        rule(BASE, 1, x=EDGE, x2=WIDTH - EDGE, y=base),
    ]
    for x in axis.ticks():
        at = axis.place(x)
        layers += [rule(BASE, 1, x=at, y=base, y2=base + 4), written(at, 33, axis.write(x))]
    if axis.zero and axis.limit != 0:
        dashed = {"type": "rule", "color": BASE, "strokeDash": [2, 2]}
        layers.append(layer(dashed, x=axis.place(0.0), y=0, y2=20))
    layers += [
        rule(INK, 1.5, x=limit, y=2, y2=base),
        written(_inside(limit), 33, axis.write(axis.limit), colour=INK, weight=600),
    ]
    for i, p in enumerate(parts):
        layers += _interval(axis, p, 10.0 if len(parts) == 1 else 5.5 + 9 * i)
    return {"width": WIDTH, "height": HEIGHT, "autosize": "none", "padding": 0, "layer": layers}


def _interval(axis: Axis, p: Interval, y: float) -> list[Layer]:
    found = []
    if p.lower is not None and p.upper is not None and p.upper > p.lower:
        ends = [min(max(axis.place(x), EDGE / 2), WIDTH - EDGE / 2) for x in (p.lower, p.upper)]
        found.append(rule(p.colour, 3, x=ends[0], x2=ends[1], y=y))
    dot = {"type": "point", "filled": True, "opacity": 1, "size": 58}
    dot |= {"fill": PAGE, "stroke": p.colour, "strokeWidth": 1.5, "size": 46} if p.hollow else {"color": p.colour}
    return [*found, layer(dot, x=axis.place(p.estimate), y=y)]


def _inside(x: float) -> float:
    return min(max(x, 20.0), WIDTH - 20.0)


def rule(colour: str, width: float, **places: float) -> Layer:
    """Return a layer of one line."""
    return layer({"type": "rule", "color": colour, "strokeWidth": width}, **places)


def written(x: float, y: float, text: str, *, colour: str = MUTED, weight: int = 400, align: str = "center") -> Layer:
    """Return a layer of one label."""
    style = {"type": "text", "text": text, "align": align, "baseline": "middle", "color": colour, "fontWeight": weight}
    return layer(style, x=x, y=y)


def layer(mark: dict[str, Any], **places: float) -> Layer:
    """Return a layer of one mark at places in pixels."""
    encoding = {key: {"value": round(at, 2)} for key, at in places.items()}
    return {"data": {"values": [{}]}, "mark": mark, "encoding": encoding}
