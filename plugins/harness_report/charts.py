"""Charts of a run as Vega-Lite specs, with equivalent tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness_report import svg
from harness_report.formatting import format_value
from harness_report.svg import ACCENT, BARRED, BASE, FAIL, HAIR, INK, MUTED, PAGE, PASS, Chart, label_layer

WIDTH, HEIGHT = 328, 190  # of a panel, px
MAX_POINTS = 400  # of a series, at most
MIN_AVERAGED_POINTS = 40  # points of a series, from which on its moving average is drawn
MIN_LABEL_DISTANCE = 0.08  # of the width or height, at which the names of two points cover each other
NINE_OF_TEN = (0.05, 0.25, 0.5, 0.75, 0.95)
Spec = dict[str, Any]
Names = tuple[str, str]
Points = Sequence[tuple[float, float]]


def _make_fixed_padding_spec(
    layers: Sequence[Spec], left: int = 44, right: int = 14, height: int = HEIGHT, bottom: int = 40
) -> Spec:
    """Return a spec with fixed padding. It makes adjacent plots line up."""
    padding = {"left": left, "right": right, "top": 8, "bottom": bottom}
    size = {"width": WIDTH - left - right, "height": height - 8 - bottom}
    return {**size, "autosize": "none", "padding": padding, "layer": list(layers)}


def _make_layer(kind: str, encoding: Spec, rows: Sequence[Spec] | None = None, **style: Any) -> Spec:
    """Return a layer with one kind of mark. Its data are `rows`, else those of the whole chart."""
    data = {} if rows is None else {"data": {"values": rows}}
    return {**data, "mark": {"type": kind, **style}, "encoding": encoding}


def _make_number_field(field: str) -> Spec:
    return {"field": field, "type": "quantitative"}


def _make_axis(field: str, title: str | None, **more: Any) -> Spec:
    scale = {"nice": True, **more.pop("scale", {})}
    return {**_make_number_field(field), "scale": scale, "axis": {"title": title, "tickCount": 5, **more}}


def slice_chart(title: str, note: str, rows: Sequence[Spec], *, share: bool, names: Names) -> Chart:
    """Draw a metric by slice, hollow where it came from: rows of slice, before, value, lower, upper, n, fell."""
    labels = {"labelLimit": 108, "labelColor": INK, "labelFontSize": 10, "labelPadding": 8}
    lines = {"title": None, "domain": False, "ticks": False, **labels}
    order = [r["slice"] for r in rows]
    y = {"field": "slice", "type": "nominal", "sort": order, "axis": lines, "scale": {"padding": 0}}
    rungs = {"values": [0, 0.25, 0.5, 0.75, 1], "format": ".2~f"} if share else {"tickCount": 4}
    axis = {"title": None, "grid": True, "labelFontSize": 10, **rungs}
    values = [0.0, *(r[key] for r in rows for key in ("value", "before"))]
    ends = [0, 1] if share else [1.1 * min(values), 1.1 * max(values) or float(not any(values))]
    x = {**_make_number_field("value"), "scale": {"domain": ends, "nice": False}, "axis": axis}
    dot: Spec = {"filled": True, "opacity": 1, "size": 42, "strokeWidth": 1.2}
    way = {"condition": {"test": "datum.fell", "value": FAIL}, "value": ACCENT}
    counts = {"y": y, "x": {"value": WIDTH - 122 - 40 + 34}, "text": {"field": "n"}}
    layers = [
        _make_layer("rule", {"y": y, "x": x | {"field": "lower"}, "x2": {"field": "upper"}}, color=HAIR, strokeWidth=7),
        _make_layer(
            "rule", {"y": y, "x": x | {"field": "before"}, "x2": {"field": "value"}, "color": way}, strokeWidth=1.5
        ),
        _make_layer("point", {"y": y, "x": x | {"field": "before"}}, fill=PAGE, stroke=BASE, **dot),
        _make_layer("point", {"y": y, "x": x, "fill": way, "stroke": way}, **dot),
        _make_layer("text", counts, align="right", fontSize=10),
    ]
    spec = _make_fixed_padding_spec(layers, left=122, right=40, height=14 * len(rows) + 34, bottom=22) | {
        "data": {"values": list(rows)}
    }
    table = [(r["slice"], format_value(r["before"]), format_value(r["value"]), f"{r['n']}") for r in rows]
    return Chart(title, note, spec, ("slice", *names, "rows"), table)


def outcome_chart(rows: Sequence[tuple[str, Mapping[str, int]]], note: str) -> Chart:
    """Draw the rows lost and won in each comparison.

    Lost rows are to the left, won rows to the right; the others are counted in the label.
    """
    most = max(1, *(n for _, counts in rows for n in (counts["lost"], counts["won"])))
    layers, middle, height = [], WIDTH / 2, 40 * len(rows) + 6
    for i, (name, counts) in enumerate(rows):
        top = 40 * i
        alike = ", ".join(f"{word} {counts[word]:,}" for word in ("both right", "neither"))
        layers.append(label_layer(12, top + 9, f"{name}; {alike}", colour=INK, align="left"))
        layers.append(svg.rule_layer(INK, 1, x=middle, x2=middle, y=top + 17, y2=top + 35))
        for word, side, colour in (("lost", -1, FAIL), ("won", 1, PASS)):
            end = middle + side * counts[word] / most * (middle - 64)
            box = {"type": "rect", "color": colour}
            layers.append(svg.mark_layer(box, x=min(middle, end), x2=max(middle, end), y=top + 19, y2=top + 33))
            label, align = f"{counts[word]:,} {word}", "left" if side > 0 else "right"
            layers.append(label_layer(end + 5 * side, top + 26, label, colour=colour, align=align))
    spec = {"width": WIDTH, "height": height, "autosize": "none", "padding": 0, "layer": layers}
    words = ("both right", "won", "lost", "neither")
    table = [(name, *(str(counts[k]) for k in words)) for name, counts in rows]
    return Chart("Paired outcomes", note, spec, ("rows", *words), table)


def tradeoff_chart(
    points: Sequence[Spec],
    names: Names,
    limits: tuple[float | None, float | None],
    note: str,
    lower: tuple[bool, bool] = (False, False),
) -> Chart:
    """Draw gain against retention, one point per model.

    Points have a name, `kept`, `gained` and `ours`. The area beyond a limit is shaded. `lower` holds whether less is
    better for `kept` and for `gained`.
    """
    domains = [
        _compute_padded_axis_range([*(p[key] for p in points), *([limit] if limit is not None else [])])
        for key, limit in zip(("kept", "gained"), limits, strict=True)
    ]
    x, y = (
        _make_axis(key, name, grid=False, scale={"domain": [*end], "nice": False, "zero": False})
        for key, name, end in zip(("kept", "gained"), names, domains, strict=True)
    )
    own = {"condition": {"test": "datum.ours", "value": ACCENT}, "value": BASE}
    at = [("x", x, limits[0]), ("y", y, limits[1])]
    lines = [({key: axis}, [{axis["field"]: limit}]) for key, axis, limit in at if limit is not None]
    layers = []
    for (key, axis, limit), (low, high), less in zip(at, domains, lower, strict=True):
        if limit is not None:  # from the end that is worse up to the limit
            box = {key: axis, f"{key}2": {"field": "end"}}
            layers.append(
                _make_layer("rect", box, [{axis["field"]: limit, "end": high if less else low}], color=BARRED)
            )
    layers += [_make_layer("rule", *line, color=INK, strokeWidth=1) for line in lines]
    layers.append(_make_layer("point", {"x": x, "y": y, "color": own}, points, filled=True, size=58, opacity=1))
    spans = {key: max(p[key] for p in points) - min(p[key] for p in points) for key in ("kept", "gained")}
    places = list[list[Spec]]()
    for point in points:
        held = (
            one
            for one in places
            if all(abs(one[0][key] - point[key]) <= MIN_LABEL_DISTANCE * spans[key] for key in spans)
        )
        if (here := next(held, None)) is None:
            places.append(here := [])
        here.append(point)
    labels = []  # one each place: where names would cover each other, the first and the last
    for here in places:
        ends = dict.fromkeys((here[0]["name"], here[-1]["name"]))
        labels.append({**here[0], "name": (", " if len(here) == 2 else " … ").join(ends)})
    text = {"x": x, "y": y, "text": {"field": "name"}}
    layers.append(_make_layer("text", text, labels, dy=-10, align="center", color=INK))
    table = [(p["name"], format_value(p["kept"]), format_value(p["gained"])) for p in points]
    return Chart(
        "Gain against forgetting",
        note,
        _make_fixed_padding_spec(layers, left=60, right=44, height=240),
        ("model", *names),
        table,
    )


def _compute_padded_axis_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis: a sixth beyond the values, and no share below 0 or above 1."""
    low, high = min(values), max(values)
    beyond = (high - low) / 6 or abs(high) / 6 or 1.0
    share = low >= 0 and high <= 1
    return (max(low - beyond, 0.0), min(high + beyond, 1.0)) if share else (low - beyond, high + beyond)


def ordered_chart(title: str, note: str, values: Sequence[float], *, what: str, mean: Sequence[float]) -> Chart:
    """Draw a metric's row values in ascending order.

    `mean` holds their mean and its bounds, which are drawn too, or is empty.
    """
    found = sorted(values)
    n, step = len(found), max(1, len(found) // MAX_POINTS)
    points = [{"i": i + 1, "v": v} for i, v in enumerate(found) if i % step == 0 or i == n - 1]
    rungs = [1, *(round(n * k / 3) for k in (1, 2, 3))] if n > 6 else list(range(1, n + 1))
    x = _make_axis("i", what, grid=False, scale={"domain": [1, n], "nice": False}, values=rungs)
    places = {"x": x, "y": _make_axis("v", None, grid=True, scale={"zero": True})}
    layers = [_make_layer("point", places, points, filled=True, size=26, color=ACCENT, opacity=1)]
    if mean:
        value, low, high = mean
        at, line, box = {"y": _make_number_field("v")}, [{"v": value}], [{"v": low, "w": high}]
        layers.insert(0, _make_layer("rect", {**at, "y2": {"field": "w"}}, box, color=HAIR))
        text = {"text": f"mean {format_value(value)}", "align": "left", "baseline": "bottom", "dy": -5, "color": INK}
        layers.append(_make_layer("rule", at, line, color=INK, strokeWidth=1.5))
        layers.append(_make_layer("text", {**at, "x": {"value": 3}}, line, **text))
    return Chart(
        title,
        note,
        _make_fixed_padding_spec(layers),
        ("quantile", "value"),
        [(k, format_value(v)) for k, v in _select_quantiles_of_sorted(found)],
    )


def scatter_chart(title: str, note: str, pairs: Points, names: Names) -> Chart:
    """Draw row values as a scatter plot. The baseline's values are across, the candidate's up."""
    largest = sorted(max(p) for p in pairs)
    most = largest[int(0.98 * (len(largest) - 1))]
    far = most + abs(most) / 4  # one row far out would push all others into a corner
    near = sorted(p for p in pairs if max(p) <= far) or sorted(pairs)
    note += f"; {len(pairs) - len(near)} beyond the chart" if len(near) < len(pairs) else ""
    chosen = near[:: max(1, len(near) // MAX_POINTS)]
    low, top = min(0.0, *(min(p) for p in chosen)), max(0.0, *(max(p) for p in chosen))
    top = top if low < top else 1.0
    steps = svg.round_ticks(low, top, 5)
    low, top = min(low, *steps), steps[-1] + (steps[1] - steps[0]) if steps[-1] < top else top
    scale = {"domain": [low, top], "nice": False}
    places = {
        "x": _make_axis("b", names[0], grid=False, scale=scale),
        "y": _make_axis("c", None, grid=True, scale=scale),
    }
    ends, points = [{"b": low, "c": low}, {"b": top, "c": top}], [{"b": b, "c": c} for b, c in chosen]
    line = _make_layer("line", places, ends, color=INK, strokeWidth=1)
    dots = _make_layer("point", places, points, filled=True, size=24, color=ACCENT, opacity=0.55, strokeWidth=0)
    sides = [_select_quantiles_of_sorted(sorted(p[i] for p in pairs)) for i in (0, 1)]
    table = [(name, format_value(one), format_value(other)) for (name, one), (_, other) in zip(*sides, strict=True)]
    return Chart(title, note, _make_fixed_padding_spec([line, dots]), ("quantile", *names), table)


def reliability_chart(title: str, note: str, series: Mapping[str, Sequence[Spec]]) -> Chart:
    """Draw accuracy by the probability of the chosen answer.

    A model on the diagonal is well calibrated. Rows have p, the mean probability of some answers, v, the share that is
    right, its bounds low and high, and n.
    """
    unit = {"domain": [0, 1], "nice": False}
    x = _make_axis("p", "probability of the chosen answer", grid=False, scale=unit)
    y = _make_axis("v", None, grid=True, scale=unit)
    places = {"x": x, "y": y}
    layers = [_make_layer("line", places, [{"p": 0, "v": 0}, {"p": 1, "v": 1}], color=INK, strokeWidth=1)]
    for i, rows in enumerate(series.values()):
        colour = BASE if i else ACCENT
        if not i:
            ends = {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}}
            layers.append(_make_layer("rule", ends, rows, color=colour, strokeWidth=1.5))
        layers.append(_make_layer("point", places, rows, filled=True, size=42, color=colour, opacity=1))
    table = [(name, f"{b['p']:.2f}", f"{b['v']:.2f}", str(b["n"])) for name, rows in series.items() for b in rows]
    return Chart(title, note, _make_fixed_padding_spec(layers), ("subject", "probability", "right", "rows"), table)


def length_chart(title: str, note: str, series: Mapping[str, Sequence[int]], ours: str) -> Chart:
    """Draw the lengths of each subject's answers as quartiles.

    Lengths are in characters; a thin line covers nine of ten answers.
    """
    rows = []
    for name, values in series.items():
        found = [v for _, v in _select_quantiles_of_sorted(sorted(values), NINE_OF_TEN)]
        rows.append({"s": name, "ours": name == ours, **dict(zip("abmcd", found, strict=True))})
    axis = {"title": None, "domain": False, "ticks": False, "labelLimit": 100, "labelColor": INK}
    y = {"field": "s", "type": "nominal", "sort": list(series), "axis": axis}
    own = {"y": y, "color": {"condition": {"test": "datum.ours", "value": ACCENT}, "value": BASE}}
    x = _make_axis("a", "characters", grid=True, scale={"zero": True})
    layers = [
        _make_layer("rule", {**own, "x": x, "x2": {"field": "d"}}),
        _make_layer("rule", {**own, "x": _make_number_field("b"), "x2": {"field": "c"}}, strokeWidth=7),
        _make_layer("tick", {**own, "x": _make_number_field("m")}, thickness=2, height=15, opacity=1),
    ]
    spec = _make_fixed_padding_spec(layers, left=104, height=26 * len(rows) + 48) | {"data": {"values": rows}}
    table = [(r["s"], *(f"{r[k]:,}" for k in "abmcd")) for r in rows]
    return Chart(title, note, spec, ("subject", *(f"{q:.0%}" for q in NINE_OF_TEN)), table)


def line_chart(
    title: str, note: str, lines: Mapping[str, Points], *, marks: Sequence[float] = (), unit: str | None = None
) -> Chart:
    """Draw series over steps, with their names.

    `marks` are the steps at which an epoch ended. A long first series is faint, under its moving average.
    """
    values = [y for points in lines.values() for _, y in points]
    top = max(values, default=1.0) or 1.0
    x = _make_axis("x", "step", grid=False, scale={"nice": False, "zero": False})
    y = _make_axis("y", unit, grid=True, scale={"domain": [min(0.0, *values), top], "nice": True})
    if top < 0.1:
        y["axis"]["labelExpr"] = f"format(datum.value, '{'~g' if top >= 0.001 else '.1~e'}')"
    layers = [
        _make_layer("rule", {"x": _make_number_field("x")}, [{"x": at}], color=BASE, strokeDash=[2, 2]) for at in marks
    ]
    names, places = [], {"x": _make_number_field("x"), "y": _make_number_field("y")}
    for i, (name, points) in enumerate(lines.items()):
        step = max(1, math.ceil(len(points) / MAX_POINTS))
        kept = [{"x": a, "y": b} for j, (a, b) in enumerate(points) if j % step == 0 or j == len(points) - 1]
        shape: Spec = {"kind": "line", "strokeWidth": 1.5} if len(kept) > 1 else {"kind": "point", "filled": True}
        smooth = [] if i else _compute_moving_average(points)
        faint = 0.35 if smooth else 1
        layers.append(
            _make_layer(encoding={"x": x, "y": y}, rows=kept, color=BASE if i else ACCENT, opacity=faint, **shape)
        )
        if smooth:
            mean = [{"x": a, "y": b} for a, b in smooth[::step]]
            layers.append(_make_layer("line", {"x": x, "y": y}, mean, color=ACCENT, strokeWidth=2))
        # The first is named after its start, others at their end.
        at = points[-1] if i else points[min(len(points) - 1, len(points) // 16)]
        text: Spec = {"text": name, "baseline": "bottom", "color": MUTED if i else ACCENT}
        text |= {"align": "right", "dy": -8} if i else {"align": "left", "dx": 8}
        names.append(_make_layer("text", places, [{"x": at[0], "y": at[1]}], **text))
    layers += names if len(lines) > 1 else []
    thin = {name: points[:: max(1, math.ceil(len(points) / 10))] for name, points in lines.items()}
    table = [(name, f"{a:g}", f"{b:.4g}") for name, points in thin.items() for a, b in points]
    return Chart(title, note, _make_fixed_padding_spec(layers), ("series", "step", "value"), table)


def _compute_moving_average(points: Points) -> list[tuple[float, float]]:
    """Return the moving average of a long series.

    Each value is the mean of the points up to its step, over a tenth of the series. Empty for a short series.
    """
    if len(points) < MIN_AVERAGED_POINTS:
        return []
    width = len(points) // 10
    windows = [points[max(0, i - width + 1) : i + 1] for i in range(len(points))]
    return [(window[-1][0], sum(y for _, y in window) / len(window)) for window in windows]


def _select_quantiles_of_sorted(
    found: Sequence[Any], at: Sequence[float] = (0, 0.25, 0.5, 0.75, 1)
) -> list[tuple[str, Any]]:
    return [(f"{q:.0%}", found[round(q * (len(found) - 1))]) for q in at]
