"""Gates as the page shows them: a claim in words, where it stands, and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from urllib.parse import quote, urlencode

from harness import Verdict
from harness.internals import OnScale, counted, numbers, sentence, shown, words
from harness_report.drawing import BASE, VERDICTS, Axis, Interval, axis_of, draw, strip
from harness_report.pairs import lost_slices
from harness_report.reading import Kept, table_in, value_of
from harness_report.words import GLYPHS, NONE, bytes_, claimed, figure, measured, minus, number, percent, plain, told


def is_counted(v: Verdict) -> bool:
    """Return whether a verdict counted the rows that failed, of which it has no interval."""
    return v.method == "failures counted"


def scale_of(kept: Kept, v: Verdict) -> tuple[OnScale, str]:
    """Return the scale and unit that a verdict's numbers are written in."""
    return (OnScale("count"), "count") if is_counted(v) else (kept.scale(v.metric), kept.unit(v.metric))


def claim_of(kept: Kept, v: Verdict) -> str:
    """Return a verdict's claim in words."""
    return claimed(v, scale_of(kept, v)[1])


def write_of(kept: Kept, v: Verdict) -> Callable[[float | None], str]:
    """Return how a number on a verdict's scale is written."""
    scale, unit = scale_of(kept, v)
    return lambda x: figure(x, scale, versus=bool(v.versus), unit=unit)


def tick_of(kept: Kept, v: Verdict) -> Callable[[float], str]:
    """Return how a number on the axis of a verdict's strip is written: shorter."""
    scale, unit = scale_of(kept, v)

    def write(x: float) -> str:
        if scale.is_log:
            if v.versus:
                share = 100 * math.expm1(x)
                return plain(round(share, 1)) + "%" if share < 0 else f"+{share:.4g}%" if share else "0"
            return number(math.exp(x))
        if unit == "bytes":
            return bytes_(x)
        text = f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}"
        return ("+" if v.versus and x > 0 and x != v.threshold else "") + minus(text)

    return write


def interval_of(v: Verdict, *, other: bool = False) -> Interval | None:
    """Return what a strip shows of a verdict, or None where nothing was estimated."""
    if v.estimate is None or not math.isfinite(v.estimate):
        return None
    bounds = (None, None) if is_counted(v) else (v.lower, v.upper)
    return Interval(v.estimate, *bounds, BASE if other else VERDICTS[v.outcome], hollow=other)


def axes(kepts: Sequence[Kept]) -> Callable[[Kept, Verdict], Axis | None]:
    """Return the axis that the verdicts of one metric, claim and limit share, over all runs that are shown."""
    parts: dict[tuple[object, ...], list[Interval]] = {}

    def key(v: Verdict) -> tuple[object, ...]:
        return v.metric, v.versus, v.threshold, is_counted(v)

    for kept in kepts:
        for v in kept.run.verdicts:
            if part := interval_of(v):
                parts.setdefault(key(v), []).append(part)

    def axis(kept: Kept, v: Verdict) -> Axis | None:
        if v.threshold is None or key(v) not in parts:
            return None
        side = v.about.sign if v.about else 1
        shares = kept.scale(v.metric).is_log and bool(v.versus)
        return axis_of(parts[key(v)], v.threshold, side, tick_of(kept, v), shares=shares, zero=bool(v.versus))

    return axis


def show_gate(
    kept: Kept, v: Verdict, axis: Axis | None, parts: Sequence[Interval | None], *, links: bool, **before: str
) -> SimpleNamespace:
    """Return one gate in the words of the page, with its strip; `before` is of the run that it is compared with."""
    write, found = write_of(kept, v), [p for p in parts if p is not None]
    svg = draw(strip(axis, found)) if axis and found else ""
    if v.waived and v.waiver:
        aside = shown(v.waiver.says())
    elif v.group:
        aside = f"one of “{shown(v.group)}”"
    elif not v.blocking:
        aside = "only warns"
    else:
        aside = "" if v.decides or v.outcome == "PASS" else "not what ships"
    if v.method == "point":
        rows = "counted"
    elif not v.n:
        rows = NONE
    elif driver := next((s for s in v.slices if s.name == v.driver), None):
        rows = f"{shown(driver.name)}, {driver.n:,} of {counted(v.n, 'row')}"
    else:
        rows = counted(v.n, "row") + (f" in {v.clusters:,} clusters" if v.clusters and v.clusters < v.n else "")
    return SimpleNamespace(
        outcome=v.outcome.value, glyph=GLYPHS[v.outcome], gate=shown(v.gate), candidate=shown(v.candidate),
        claim=told(claim_of(kept, v)), aside=aside, details=_details(v),
        svg=svg, estimate=write(v.estimate), bounds=bounds_of(v, write), second=_second(kept, v, write),
        rows=rows, changed=rows_of(kept, v, links), **before,
    )  # fmt: skip


def link_of(kept: Kept, v: Verdict, links: bool) -> str:
    """Return how a link to a gate's rows names the two models; "-" where the browser tells rows by another metric."""
    evaluation, _, metric = v.metric.partition(".")
    if not links or not v.versus or kept.against(evaluation)[0] != metric:
        return "-"
    return comparison(kept, evaluation, v.versus, v.candidate)


def comparison(kept: Kept, evaluation: str, theirs: str, ours: str) -> str:
    """Return the part of a link that names two models, where they are not those that the browser compares anyway."""
    others = {"against": theirs} if theirs != kept.against(evaluation)[1] else {}
    others |= {"of": ours} if ours != kept.ours else {}
    return f"?{urlencode(others, quote_via=quote)}" if others else ""


def estimate_of(kept: Kept, v: Verdict | None) -> str:
    """Return a verdict's estimate with its bounds."""
    if v is None or v.estimate is None:
        return NONE
    write = write_of(kept, v)
    return f"{write(v.estimate)} {bounds_of(v, write)}".rstrip()


def bounds_of(v: Verdict, write: Callable[[float | None], str]) -> str:
    """Return a verdict's bounds in brackets; nothing where it was counted."""
    if v.lower is None or v.upper is None or v.lower == v.upper or is_counted(v):
        return ""
    return f"[{write(v.lower)}, {write(v.upper)}]"


def _second(kept: Kept, v: Verdict, write: Callable[[float | None], str]) -> str:
    """Return the line under an estimate: both values, or the limit, or what would decide it."""
    unit = kept.unit(v.metric)
    if more := words.needed(v):
        return more
    if v.estimate is None:
        return shown(words.brief(v))
    if v.versus:
        return f"{number(v.value, unit)} against {number(v.baseline, unit)}"
    limit = write(v.threshold) if kept.scale(v.metric).is_log or unit == "bytes" else plain(v.threshold or 0.0)
    return f"limit {limit}"


def _details(v: Verdict) -> list[str]:
    found = []
    if v.method and v.method != "point":
        text = f"{v.method[:1].upper()}{v.method[1:]}"
        if v.p_pass is not None and not is_counted(v):
            text += f"; {numbers.chance(v.p_pass)} for the claim"
            text += f", {numbers.chance(v.p_fail)} against it" if v.p_fail is not None else ""
            text += f", α = {v.alpha:g}, one-sided" if v.alpha else ""
        found.append(text + (f"; attempt {v.attempt}" if v.attempt else ""))
    found.append(shown(v.why))
    if v.driver:
        found.append(f"Deciding or worst slice: {shown(v.driver)}")
    for s in v.slices:
        alarm = ", an alarm" if s.alarm else ""
        found.append(f"{s.outcome} {shown(s.name)}, {counted(s.n, 'row')}{alarm}: {shown(s.why)}")
    if v.left_out:
        found.append(f"Decided without {counted(v.left_out, 'leaked row')}; with them {number(v.whole)}")
    return found


def heads(kept: Kept) -> list[SimpleNamespace]:
    """Return what a release turns on: its largest proven gain, the gate that decided or is closest, what none says."""
    gain, driver = sentence.gain(kept.run), sentence.driver(kept.run)
    close = "The closest gate" if driver and driver.outcome == "PASS" else "The deciding gate"
    turns = [(f"{close}: ", driver)] if driver and driver.estimate is not None else []
    if gain and gain is not driver:
        turns.insert(0 if close == "The closest gate" else 1, ("Largest gain: ", gain))
    found = []
    for title, v in turns:
        write, axis, part = write_of(kept, v), axes([kept])(kept, v), interval_of(v)
        svg = draw(strip(axis, [part])) if axis and part else ""
        said = told(_said(kept, v, write))
        title += shown(v.gate)
        found.append(SimpleNamespace(title=title, number=write(v.estimate), said=said, svg=svg, style=""))
    losses, changes = [], []  # the worst that is proven and in no gate first
    for c in sentence.unsaid(kept.run):
        name = f"{c.eval}.{c.metric}"
        change, low, high = (figure(x, c, versus=True) for x in (c.estimate, c.lower, c.upper))
        values = " to ".join(number(x, kept.unit(name)) for x in (c.theirs, c.ours))
        slices = "".join(f", {s}" for s in lost_slices(kept, c.eval, c.metric, c.before))
        changes.append(change)
        losses.append(f"{measured(name)} {values}, {change} [{low}, {high}]{slices}")
    if losses:
        title, said = f"Losses no gate covers: {c.before} to {c.after}", told(f"{'; '.join(losses)}.")
        found.append(SimpleNamespace(title=title, number=changes[0], said=said, svg="", style="INCONCLUSIVE"))
    return found


def reasons_of(kept: Kept, *, links: bool) -> list[SimpleNamespace]:
    """Return in a line each why something may not ship, the worst first."""
    return [
        SimpleNamespace(
            outcome=v.outcome.value, glyph=GLYPHS[v.outcome], name=shown(f"{v.gate} on {v.candidate}"),
            said=shown(words.reason(v)), rows=rows_of(kept, v, links),
        )
        for v in sentence.worst_first(kept.run) if v.holds_up
    ]  # fmt: skip


def rows_of(kept: Kept, v: Verdict, links: bool) -> list[tuple[str, str]]:
    """Return the rows that a verdict lost and won, or got wrong, each with the link to them, "" where there is none."""
    evaluation, _, metric = v.metric.partition(".")
    if v.versus:
        counts = {"lost": v.lost_count or len(v.lost), "won": v.won_count or len(v.won)}
        link, to = link_of(kept, v, links), f"#{quote(evaluation, '')}"
        rows = [(f"{n:,} {word}", "" if link == "-" else f"{to}:{word}{link}") for word, n in counts.items()]
        return rows if any(counts.values()) else []
    wrong = 0
    if v.about and v.about.is_share and kept.report(v.candidate, evaluation):
        worst, found = float(kept.is_lower(v.metric)), kept.rows(v.candidate, evaluation).values()
        wrong = sum(value_of(row, metric) == worst for row in found if v.about.covers(table_in(row, "doc")))
    told_apart = links and kept.against(evaluation)[0] == metric
    of = f"?of={quote(v.candidate, '')}" if v.candidate != kept.ours else ""
    return [(f"{wrong:,} wrong", f"#{quote(evaluation, '')}:wrong{of}" if told_apart else "")] if wrong else []


def _said(kept: Kept, v: Verdict, write: Callable[[float | None], str]) -> str:
    """Return what the driver's number means: what was claimed, and what its bounds say of that."""
    if v.estimate is None or v.threshold is None:
        return v.why
    sure = f"{percent(v.alpha)} one-sided"
    limit = tick_of(kept, v)(v.threshold)
    what, unit = f"{measured(v.metric)} of {v.candidate}", kept.unit(v.metric)
    if not v.versus or v.lower is None or v.upper is None:
        side = "at least" if v.about and v.about.sign > 0 else "at most"
        bounds = bounds_of(v, write)
        told = f", {bounds} with {sure} bounds" if bounds else ""
        return f"{what}{told}; {side} {limit} is allowed."
    values = f"{number(v.value, unit)} against {number(v.baseline, unit)}"
    said = f"{what} against {v.versus}, {values}. The limit is {limit}"
    if v.outcome == "INCONCLUSIVE":
        more = "; ".join(filter(None, [f"the {sure} bounds {bounds_of(v, write)} contain it", words.needed(v)]))
        return f"{said}, and {more}."
    upwards = (v.outcome == "PASS") == (v.about is None or v.about.sign > 0)
    bound, word = (v.lower, "above") if upwards else (v.upper, "below")
    return f"{said}; with {sure} confidence the difference is {word} {write(bound)}."
