"""The charts of a run as Vega-Lite specs, each with a table that says the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from harness_report.drawing import ACCENT, BARRED, BASE, FAIL, HAIR, INK, MUTED, PAGE, PASS, Chart
from harness_report.strips import layer, nice, written
from harness_report.words import NONE, number

WIDTH, HEIGHT = 328, 190  # of a panel, px
POINTS = 400  # of a series, at most
Spec = dict[str, Any]


class Bin(NamedTuple):
    """Rows whose chosen answers have about one probability: its mean, the share that is right with bounds, how many."""

    said: float
    right: float
    low: float
    high: float
    n: int


def _panel(layers: Sequence[Spec], left: int = 44, right: int = 14, height: int = HEIGHT, bottom: int = 40) -> Spec:
    """Return a spec of fixed padding, so that plots beside each other line up."""
    padding = {"left": left, "right": right, "top": 8, "bottom": bottom}
    size = {"width": WIDTH - left - right, "height": height - 8 - bottom}
    return {**size, "autosize": "none", "padding": padding, "layer": list(layers)}


def _axis(field: str, title: str | None, **more: Any) -> Spec:
    scale = {"nice": True, **more.pop("scale", {})}
    return {"field": field, "type": "quantitative", "scale": scale, "axis": {"title": title, "tickCount": 5, **more}}


def slices(subject: str, metric: str, column: str, rows: Sequence[Spec], *, colour: str, top: float) -> Chart:
    """Draw a metric by slice: rows of slice, value, lower, upper, n and few, in their order."""
    height = 14 * len(rows) + 34
    order = [r["slice"] for r in rows]
    lines = {
        "title": None,
        "domain": False,
        "ticks": False,
        "labelLimit": 108,
        "labelColor": INK,
        "labelFontSize": 10,
        "labelPadding": 8,
    }
    lines["labelPadding"] = 8
    y = {"field": "slice", "type": "nominal", "sort": order, "axis": lines, "scale": {"padding": 0}}
    x = {"field": "value", "type": "quantitative", "scale": {"domain": [0, top], "nice": False}}
    rungs = {"values": [0, 0.25, 0.5, 0.75, 1], "format": ".2~f"} if top == 1 else {"tickCount": 4}
    x["axis"] = {"title": None, "grid": True, "labelFontSize": 10, **rungs}
    fill = {"condition": {"test": "datum.few", "value": PAGE}, "value": colour}
    dot = {"type": "point", "filled": True, "opacity": 1, "size": 42, "stroke": colour, "strokeWidth": 1.2}
    right = {"type": "text", "align": "right", "fontSize": 10}
    layers: list[Spec] = [
        {"mark": {"type": "rule", "color": colour, "strokeWidth": 1.5},
         "encoding": {"y": y, "x": x | {"field": "lower"}, "x2": {"field": "upper"}}},
        {"mark": dot, "encoding": {"y": y, "x": x, "fill": fill}},
        {"mark": right, "encoding": {"y": y, "x": {"value": WIDTH - 122 - 40 + 34}, "text": {"field": "n"}}},
    ]  # fmt: skip
    spec = _panel(layers, left=122, right=40, height=height, bottom=22) | {"data": {"values": list(rows)}}
    table = [(r["slice"], number(r["value"]), f"{r['n']}") for r in rows]
    flat = "; 0 in every slice" if all(r["value"] == 0 for r in rows) else ""
    return Chart(f"{metric} by {column}{flat}", "", spec, (column, "value", "rows"), table, subject=subject)


def outcomes(rows: Sequence[tuple[str, Mapping[str, int]]]) -> Chart:
    """Draw how many rows both got right, were won, were lost and neither got right, of each comparison."""
    colours = {"both right": HAIR, "won": PASS, "lost": FAIL, "neither": BARRED}
    layers, height = [], 40 * len(rows) + 34
    for i, (name, counts) in enumerate(rows):
        total, at, top = sum(counts.values()) or 1, 0.0, 40 * i
        untold = []
        for word, n in counts.items():
            wide = (WIDTH - 24) * n / total
            box = {"type": "rect", "color": colours[word], "stroke": PAGE, "strokeWidth": 1}
            layers.append(layer(box, x=12 + at, x2=12 + at + wide, y=top + 18, y2=top + 36))
            if wide > 7 * len(f"{word} {n}") - 12 and n:
                ink = PAGE if word in ("won", "lost") else INK
                layers.append(written(12 + at + wide / 2, top + 27, f"{word} {n}", colour=ink, align="center"))
            elif n:
                untold.append(f"{word} {n}")
            at += wide
        told = f"{name}; {', '.join(untold)}" if untold else name
        layers.append(written(12, top + 9, told, colour=INK, align="left"))
    for share in range(0, 101, 20):
        align = "left" if share == 0 else "right" if share == 100 else "center"
        layers.append(
            written(12 + (WIDTH - 24) * share / 100, 40 * len(rows) + 14, f"{share} %", colour=MUTED, align=align)
        )
    spec = {"width": WIDTH, "height": height, "autosize": "none", "padding": 0, "layer": layers}
    head = ("rows", "both right", "won", "lost", "neither")
    table = [(name, *(str(counts[k]) for k in head[1:])) for name, counts in rows]
    return Chart("Paired outcomes", "share of rows", spec, head, table)


def ordered(title: str, note: str, values: Sequence[float], *, what: str, limit: float | None) -> Chart:
    """Draw the rows' values of a metric in their order, the smallest first, with the limit of their mean."""
    found = sorted(values)
    step = max(1, len(found) // POINTS)
    points = [{"i": i + 1, "v": v} for i, v in enumerate(found) if i % step == 0 or i == len(found) - 1]
    x = _axis("i", what, grid=False, scale={"domain": [1, len(found)], "nice": False}, values=_rungs(len(found)))
    dot = {"type": "point", "filled": True, "size": 26, "color": ACCENT, "opacity": 1}
    layers: list[Spec] = [
        {"data": {"values": points}, "mark": dot,
         "encoding": {"x": x, "y": _axis("v", None, grid=True, scale={"zero": True})}},
    ]  # fmt: skip
    if limit is not None:
        at = {"y": {"field": "v", "type": "quantitative"}}
        line: Spec = {"data": {"values": [{"v": limit}]}, "encoding": at}
        layers.append({**line, "mark": {"type": "rule", "color": INK, "strokeWidth": 1.5}})
        mark = {"type": "text", "text": f"limit {limit:g}", "align": "left", "baseline": "bottom", "dy": -3}
        layers.append({**line, "mark": mark | {"color": INK}, "encoding": {**at, "x": {"value": 3}}})
    return Chart(title, note, _panel(layers), ("quantile", "value"), _quantiles(found))


def _rungs(n: int) -> list[int]:
    return [1, *(round(n * k / 3) for k in (1, 2, 3))] if n > 6 else list(range(1, n + 1))


def scatter(title: str, note: str, pairs: Sequence[tuple[float, float]], names: tuple[str, str]) -> Chart:
    """Draw the rows' values of a metric, the baseline's across and the candidate's up."""
    step = max(1, len(pairs) // POINTS)
    chosen = sorted(pairs)[::step]
    low, top = min(0.0, *(min(p) for p in chosen)), max(max(p) for p in chosen) or 1.0
    steps = nice(low, top, 5)
    low, top = min(low, *steps), steps[-1] + (steps[1] - steps[0]) if steps[-1] < top else top
    scale = {"domain": [low, top], "nice": False}
    mark = {"type": "point", "filled": True, "size": 24, "color": ACCENT, "opacity": 0.55, "strokeWidth": 0}
    x, y = _axis("b", names[0], grid=False, scale=scale), _axis("c", None, grid=True, scale=scale)
    line = [{"b": low, "c": low}, {"b": top, "c": top}]
    layers: list[Spec] = [
        {"data": {"values": line}, "mark": {"type": "line", "color": INK, "strokeWidth": 1}},
        {"data": {"values": [{"b": b, "c": c} for b, c in chosen]}, "mark": mark},
    ]
    sides = [_quantiles(sorted(p[i] for p in pairs)) for i in (0, 1)]
    table = [(name, one, other) for (name, one), (_, other) in zip(*sides, strict=True)]
    spec = _panel(layers) | {"encoding": {"x": x, "y": y}}
    return Chart(title, note, spec, ("quantile", *names), table)


def reliability(title: str, note: str, series: Mapping[str, Sequence[Bin]]) -> Chart:
    """Draw how often the chosen answer is right by its probability, the first series' bins with their intervals.

    On the diagonal a model is as often right as it says.
    """
    layers: list[Spec] = [
        {
            "data": {"values": [{"p": 0, "v": 0}, {"p": 1, "v": 1}]},
            "mark": {"type": "line", "color": INK, "strokeWidth": 1},
        }
    ]
    unit = {"domain": [0, 1], "nice": False}
    x = _axis("p", "probability of the chosen answer", grid=False, scale=unit)
    y = _axis("v", None, grid=True, scale=unit)
    layers[0]["encoding"] = {"x": x, "y": y}
    for i, (name, bins) in enumerate(series.items()):
        colour = BASE if i else ACCENT
        rows = [{"p": b.said, "v": b.right, "low": b.low, "high": b.high} for b in bins]
        data: Spec = {"data": {"values": rows}}
        if not i:
            bar = {"type": "rule", "color": colour, "strokeWidth": 1.5}
            layers.append(
                {**data, "mark": bar, "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}}}
            )
        dot = {"type": "point", "filled": True, "size": 42, "color": colour, "opacity": 1}
        layers.append({**data, "mark": dot, "encoding": {"x": x, "y": y}})
        last = max(rows, key=lambda row: row["p"])
        mark = {"type": "text", "text": name, "align": "right", "dx": -6, "dy": -7 if not i else 9, "color": MUTED}
        layers.append({"data": {"values": [last]}, "mark": mark, "encoding": {"x": x, "y": y}})
    table = [(name, f"{b.said:.2f}", f"{b.right:.2f}", str(b.n)) for name, bins in series.items() for b in bins]
    return Chart(title, note, _panel(layers), ("subject", "probability", "right", "rows"), table)


def lengths(title: str, note: str, series: Mapping[str, Sequence[int]], ours: str) -> Chart:
    """Draw how long the subjects' answers are, in characters, as quartiles with the whole range."""
    rows, marks = [], ("least", "quarter", "half", "three quarters", "most")
    for name, values in series.items():
        found = [v for _, v in _quantile_values(sorted(values))]
        rows.append({"s": name, "ours": name == ours, **dict(zip(("a", "b", "m", "c", "d"), found, strict=True))})
    axis = {"title": None, "domain": False, "ticks": False, "labelLimit": 100, "labelColor": INK}
    y = {"field": "s", "type": "nominal", "sort": list(series), "axis": axis}
    colour = {"condition": {"test": "datum.ours", "value": ACCENT}, "value": BASE}
    layers: list[Spec] = [
        {"mark": {"type": "rule"}, "encoding": {"y": y, "x": _axis("a", "characters", grid=True, scale={"zero": True}),
                                                "x2": {"field": "d"}, "color": colour}},
        {"mark": {"type": "rule", "strokeWidth": 7}, "encoding": {"y": y, "x": {"field": "b", "type": "quantitative"},
                                                                  "x2": {"field": "c"}, "color": colour}},
        {"mark": {"type": "tick", "thickness": 2, "height": 15, "opacity": 1},
         "encoding": {"y": y, "x": {"field": "m", "type": "quantitative"}, "color": colour}},
    ]  # fmt: skip
    spec = _panel(layers, left=104, height=26 * len(rows) + 48) | {"data": {"values": rows}}
    table = [(r["s"], *(f"{r[k]:,}" for k in "abmcd")) for r in rows]
    return Chart(title, note, spec, ("subject", *marks), table)


def series(
    title: str, note: str, lines: Mapping[str, Sequence[tuple[float, float]]], *, marks: Sequence[float] = ()
) -> Chart:
    """Draw series over steps, each named at its line; `marks` are steps at which an epoch ended."""
    layers: list[Spec] = []
    colours = {name: ACCENT if i == 0 else BASE for i, name in enumerate(lines)}
    top = max((y for points in lines.values() for _, y in points), default=1.0) or 1.0
    y = _axis("y", None, grid=True, scale={"domain": [min(0.0, *_all(lines)), top], "nice": True})
    if top < 0.1:
        y["axis"]["labelExpr"] = f"format(datum.value, '{'~g' if top >= 0.001 else '.1~e'}')"
    for at in marks:
        layers.append({"data": {"values": [{"x": at}]}, "mark": {"type": "rule", "color": BASE, "strokeDash": [2, 2]},
                       "encoding": {"x": {"field": "x", "type": "quantitative"}}})  # fmt: skip
    for name, points in lines.items():
        step = max(1, math.ceil(len(points) / POINTS))
        kept = [{"x": a, "y": b} for i, (a, b) in enumerate(points) if i % step == 0 or i == len(points) - 1]
        x = _axis("x", "step", grid=False, scale={"nice": False, "zero": False})
        shape = {"type": "line", "strokeWidth": 1.5} if len(kept) > 1 else {"type": "point", "filled": True}
        layers.append({"data": {"values": kept}, "mark": shape | {"color": colours[name], "opacity": 1},
                       "encoding": {"x": x, "y": y}})  # fmt: skip
    if len(lines) > 1:
        layers += _names(lines, colours)
    table = [(name, f"{a:g}", f"{b:.4g}") for name, points in lines.items() for a, b in _thin(points, 10)]
    return Chart(title, note, _panel(layers), ("series", "step", "value"), table)


def _names(lines: Mapping[str, Sequence[tuple[float, float]]], colours: Mapping[str, str]) -> list[Spec]:
    """Name each series at its line: the first after its start, others at their end."""
    found: list[Spec] = []
    for i, (name, points) in enumerate(lines.items()):
        at = points[min(len(points) - 1, len(points) // 16)] if i == 0 else points[-1]
        place = {"align": "left", "dx": 8} if i == 0 else {"align": "right", "dy": -8}
        mark = {"type": "text", "text": name, "baseline": "bottom", "color": ACCENT if i == 0 else MUTED, **place}
        encoding = {"x": {"field": "x", "type": "quantitative"}, "y": {"field": "y", "type": "quantitative"}}
        found.append({"data": {"values": [{"x": at[0], "y": at[1]}]}, "mark": mark, "encoding": encoding})
    return found


def _all(lines: Mapping[str, Sequence[tuple[float, float]]]) -> list[float]:
    return [0.0, *(y for points in lines.values() for _, y in points)]


def _thin(points: Sequence[tuple[float, float]], most: int) -> Sequence[tuple[float, float]]:
    return points[:: max(1, math.ceil(len(points) / most))]


def _quantile_values(found: Sequence[Any]) -> list[tuple[str, Any]]:
    last = len(found) - 1
    return [(f"{q:.0%}", found[round(q * last)]) for q in (0, 0.25, 0.5, 0.75, 1)] if found else [("0%", NONE)]


def _quantiles(found: Sequence[float]) -> list[tuple[str, str]]:
    return [(name, number(value)) for name, value in _quantile_values(found)]
