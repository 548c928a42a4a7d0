"""Gates as the page shows them: a claim in words, where it stands, and what it rests on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from urllib.parse import quote, urlencode

from harness import Verdict
from harness.internals import (
    Figures,
    OnScale,
    change_figures,
    count_noun,
    numbers,
    printable,
    summary,
    verdict_figures,
    verdict_text,
    view_run,
)
from harness_report.formatting import (
    GLYPHS,
    NO_VALUE,
    claim_in_words,
    escape_text,
    format_bytes,
    format_confidence,
    format_limit,
    format_on_scale,
    format_value,
    metric_in_words,
    minus,
)
from harness_report.pairs import LOST, WON, find_lost_slices, pairs_of_evaluation
from harness_report.reading import LoadedRun, row_slice, row_value, subtable
from harness_report.svg import BASE, VERDICTS, Axis, Interval, draw_svg, make_axis, strip_spec

TRUST = "rows are taken on trust"  # begins the remark that a page makes under its title
MOST_REASONS = 5  # why something may not ship, under the sentence


def is_counted_verdict(v: Verdict) -> bool:
    """Return whether a verdict counted failed rows. Such a verdict has no interval."""
    return v.method == "failures counted"


def verdict_scale(kept: LoadedRun, v: Verdict) -> tuple[OnScale, str]:
    """Return the scale and unit of a verdict's numbers."""
    if is_counted_verdict(v):
        return OnScale("count"), "count"
    share = bool(v.versus) and not is_difference(v)
    return (OnScale("proportion"), "") if share else (kept.scale(v.metric), kept.unit(v.metric))


def claim_text(kept: LoadedRun, v: Verdict) -> str:
    """Return a verdict's claim in words."""
    return claim_in_words(v, verdict_scale(kept, v)[1])


def is_difference(v: Verdict) -> bool:
    """Return whether a verdict's estimate is a change against a baseline.

    Else it is a value or a share of rows.
    """
    return bool(v.versus) and (v.terms is None or v.terms.kind != "losses")


def number_writer(kept: LoadedRun, v: Verdict) -> Callable[[float | None], str]:
    """Return how a number on a verdict's scale is written."""
    scale, unit = verdict_scale(kept, v)
    return lambda x: format_on_scale(x, scale, versus=is_difference(v), unit=unit)


def figures(kept: LoadedRun, v: Verdict) -> Figures:
    """Format a verdict's numbers in the unit of its metric."""
    return verdict_figures(v, unit=verdict_scale(kept, v)[1])


def tick_writer(kept: LoadedRun, v: Verdict) -> Callable[[float], str]:
    """Return a function that formats axis labels of a verdict's strip.

    Labels are shorter than the numbers beside the strip.
    """
    scale, unit = verdict_scale(kept, v)

    def write(x: float) -> str:
        if scale.is_log:
            if is_difference(v):
                share = 100 * math.expm1(x)
                return format_limit(round(share, 1)) + "%" if share < 0 else f"+{share:.4g}%" if share else "0"
            return format_value(math.exp(x))
        if unit == "bytes":
            return format_bytes(x)
        text = f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}"
        return ("+" if is_difference(v) and x > 0 and x != v.threshold else "") + minus(text)

    return write


def strip_interval(v: Verdict, *, other: bool = False) -> Interval | None:
    """Return a verdict's interval for its strip. None if it has no estimate."""
    if v.estimate is None or not math.isfinite(v.estimate):
        return None
    bounds = (None, None) if is_counted_verdict(v) else (v.lower, v.upper)
    colour = BASE if other else VERDICTS[v.outcome]
    return Interval(v.estimate, *bounds, colour, hollow=other, runs=tuple(v.run_estimates))


def shared_axes(kepts: Sequence[LoadedRun], *, by_limit: bool = True) -> Callable[[LoadedRun, Verdict], Axis | None]:
    """Return a function that finds the axis of a verdict.

    Verdicts of one metric, claim and limit share an axis, over all runs that are shown. Without `by_limit` verdicts
    with other limits are on it too, and so are their limits.
    """
    parts: dict[tuple[object, ...], list[Interval]] = {}

    def key(v: Verdict) -> tuple[object, ...]:
        return v.metric, v.versus, is_difference(v), v.threshold if by_limit else v.gate, is_counted_verdict(v)

    for kept in kepts:
        for v in kept.run.verdicts:
            if part := strip_interval(v):
                parts.setdefault(key(v), []).append(part)
                if not by_limit and v.threshold is not None:
                    parts[key(v)].append(Interval(v.threshold, None, None, BASE))

    def axis(kept: LoadedRun, v: Verdict) -> Axis | None:
        if v.threshold is None or key(v) not in parts:
            return None
        side = v.terms.sign if v.terms else 1
        shares = kept.scale(v.metric).is_log and is_difference(v)
        return make_axis(parts[key(v)], v.threshold, side, tick_writer(kept, v), shares=shares, zero=is_difference(v))

    return axis


def gate_section(
    kept: LoadedRun, v: Verdict, axis: Axis | None, parts: Sequence[Interval | None], *, links: bool, **before: str
) -> SimpleNamespace:
    """Return the section of one gate, with its strip.

    `before` holds fields of the run that it is compared with.
    """
    said, found = figures(kept, v), [p for p in parts if p is not None]
    svg = draw_svg(strip_spec(axis, found)) if axis and found else ""
    if v.waived and v.waiver:
        aside = printable(v.waiver.summary())
    elif not v.blocking:
        aside = "only warns"
    else:
        aside = "" if v.decides or v.outcome == "PASS" else "not what ships"
    if v.method == "point":
        rows = "counted"
    elif not v.n:
        rows = NO_VALUE
    elif said.where:
        rows = f"{printable(said.where)}, {said.n:,} of {count_noun(v.n, 'row')}"
    else:
        rows = count_noun(v.n, "row") + (f" in {v.units:,} clusters" if v.units < v.n else "")
    return SimpleNamespace(
        outcome=v.outcome.value, glyph=GLYPHS[v.outcome], gate=printable(v.gate), candidate=printable(v.candidate),
        claim=escape_text(claim_text(kept, v)), aside=aside, details=_list_details(v),
        svg=svg, estimate=said.estimate, bounds=bounds_text(v, said), second=_format_line_below_estimate(kept, v, said),
        rows=rows, changed=linked_rows(kept, v, links), **before,
    )  # fmt: skip


def rows_link(kept: LoadedRun, v: Verdict, links: bool) -> str:
    """Return the part of a row link that names both models.

    It is "-" if the row browser has other rows: the browser compares by one metric, and for a recipe shows only the run
    that ships.
    """
    evaluation, _, metric = v.metric.partition(".")
    if not links or not v.versus or v.run_values or kept.against(evaluation)[0] != metric:
        return "-"
    return comparison_link(kept, evaluation, v.versus, v.candidate)


def comparison_link(kept: LoadedRun, evaluation: str, theirs: str, ours: str) -> str:
    """Return the part of a link that names two models.

    Models that the row browser compares by default are left out.
    """
    others = {"against": theirs} if theirs != kept.against(evaluation)[1] else {}
    others |= {"of": ours} if ours != kept.ours else {}
    return f"?{urlencode(others, quote_via=quote)}" if others else ""


def estimate_text(kept: LoadedRun, v: Verdict | None) -> str:
    """Return a verdict's estimate with its bounds."""
    if v is None or v.estimate is None:
        return NO_VALUE
    said = figures(kept, v)
    return f"{said.estimate} {bounds_text(v, said)}".rstrip()


def bounds_text(v: Verdict, said: Figures) -> str:
    """Format a verdict's bounds in brackets. Empty if it was counted or has none."""
    if v.lower is None or v.upper is None or v.lower == v.upper or is_counted_verdict(v):
        return ""
    return said.bounds


def _format_line_below_estimate(kept: LoadedRun, v: Verdict, said: Figures) -> str:
    """Return the line under an estimate: both values, or the limit, or what would decide it."""
    if more := verdict_text.format_sample_size(v):
        return more
    if v.estimate is None:
        return printable(verdict_text.format_result(v))
    if is_difference(v):
        return f"{said.value} against {said.baseline}" + (f"; {said.estimand}" if said.estimand else "")
    exact = kept.scale(v.metric).is_log or kept.unit(v.metric) == "bytes"
    limit = said.limit if exact else format_limit(v.threshold or 0.0)
    return f"limit {limit}"


def _list_details(v: Verdict) -> list[str]:
    found = []
    if v.method and v.method != "point":
        text = f"{v.method[:1].upper()}{v.method[1:]}"
        if v.p_pass is not None and not is_counted_verdict(v):
            text += f"; {numbers.format_p_in_sentence(v.p_pass, v.alpha)} for the claim"
            text += f", {numbers.format_p_in_sentence(v.p_fail, v.alpha)} against it" if v.p_fail is not None else ""
            text += f", α = {v.alpha:g}, one-sided" if v.alpha else ""
        found.append(text)
    own = verdict_text.without_shared(v)  # which the page says once
    found.append(printable(verdict_text.format_why(own) or v.why))
    for row in v.table():
        remark = f", an {row.remark}" if row.remark else ""
        rows = count_noun(row.rows, "row")
        found.append(f"{row.outcome} {printable(row.name)}, {rows}{remark}: {printable(row.sentence)}")
    return found


def headline_gates(kept: LoadedRun) -> list[SimpleNamespace]:
    """Return the figures that a release turns on.

    They are its largest proven gain, the deciding or closest gate, and proven losses that no gate covers.
    """
    gain, driver = summary.largest_gain(kept.run), view_run(kept.run).deciding_verdict
    close = "The closest gate" if driver and driver.outcome == "PASS" else "The deciding gate"
    turns = [(f"{close}: ", driver)] if driver and driver.estimate is not None else []
    if gain and gain is not driver:
        turns.insert(0 if close == "The closest gate" else 1, ("The gate with the largest gain: ", gain))
    found = []
    for title, v in turns:
        axis, part = shared_axes([kept])(kept, v), strip_interval(v)
        svg = draw_svg(strip_spec(axis, [part])) if axis and part else ""
        said = escape_text(_explain_driver_estimate(kept, v))
        title += printable(v.gate)
        found.append(SimpleNamespace(title=title, number=figures(kept, v).estimate, said=said, svg=svg, style=""))
    losses, changes = [], []  # the worst that is proven and in no gate first
    for c in summary.ungated_losses(kept.run):
        name = f"{c.eval}.{c.metric}"
        told = change_figures(c)
        slices = "".join(f", {s}" for s in find_lost_slices(kept, c.eval, c.metric, c.before))
        changes.append(told.estimate)
        values = f"{told.baseline} to {told.value}, {told.estimate} {told.bounds}"
        losses.append(f"{metric_in_words(name)} {values}{slices}")
    if losses:
        title, said = f"Losses no gate covers: {c.before} to {c.after}", escape_text(f"{'; '.join(losses)}.")
        found.append(SimpleNamespace(title=title, number=changes[0], said=said, svg="", style="INCONCLUSIVE"))
    return found


def blocking_reasons(kept: LoadedRun, *, links: bool) -> tuple[list[SimpleNamespace], str]:
    """Return the worst reasons that block a release, one line each.

    The second value describes how many more there are.
    """
    held = [v for v in view_run(kept.run).verdicts if v.blocks_release]
    more = Counter(v.outcome for v in held[MOST_REASONS:])
    rest = ", ".join(f"{n:,} {outcome}" for outcome, n in more.items())
    reasons = [
        SimpleNamespace(
            outcome=v.outcome.value, glyph=GLYPHS[v.outcome], name=printable(f"{v.gate} on {v.candidate}"),
            said=printable(_format_reason_without_row_notes(v)), rows=linked_rows(kept, v, links),
        )
        for v in held[:MOST_REASONS]
    ]  # fmt: skip
    return reasons, f"and {count_noun(more.total(), 'more gate')}: {rest}" if more else ""


def _format_reason_without_row_notes(v: Verdict) -> str:
    """Format a verdict's claim and reason without notes on rows. These are the same for all gates."""
    return verdict_text.format_reason(verdict_text.without_shared(v))


def rows_remarks(kept: LoadedRun) -> list[str]:
    """Return the notes on the rows of gates, each once.

    The note that rows are taken on trust is left out, since the page has it elsewhere.
    """
    texts = verdict_text.list_shared_remarks(kept.run.verdicts)
    return [printable(f"{text[:1].upper()}{text[1:]}.") for text in texts if text and not text.startswith(TRUST)]


def _make_slice_rows_link(kept: LoadedRun, v: Verdict, link: str, counts: Mapping[str, int]) -> str:
    """Return a link to the rows of a gate's slice.

    It is "-" if the browser has other rows than the gate counted.
    """
    evaluation, _, metric = v.metric.partition(".")
    slices = v.terms.slices if v.terms else ()
    if link == "-" or not slices:  # a gate on all rows may name its worst slice, and counts all rows
        return link
    column, _, value = (v.where or "=".join(slices[0])).partition("=")
    if v.candidate != kept.ours or column != kept.column(evaluation):
        return "-"
    rows = pairs_of_evaluation(kept, evaluation, v.versus or "", metric).rows
    there = Counter(pair.outcome for pair in rows if row_slice(pair.ours, column) == value)
    if {"lost": there[LOST], "won": there[WON]} != dict(counts):
        return "-"
    return f"{link}{'&' if link else '?'}{urlencode({'slice': value}, quote_via=quote)}"


def linked_rows(kept: LoadedRun, v: Verdict, links: bool) -> list[tuple[str, str]]:
    """Return a verdict's changed or wrong rows with their links.

    Each is a count in words, such as lost, won or wrong rows, with its link, "" if there is none.
    """
    evaluation, _, metric = v.metric.partition(".")
    if v.versus:
        counts = {"lost": v.lost_count or len(v.lost), "won": v.won_count or len(v.won)}
        link, to = rows_link(kept, v, links), f"#{quote(evaluation, '')}"
        link = _make_slice_rows_link(kept, v, link, counts)
        rows = [(f"{n:,} {word}", "" if link == "-" else f"{to}:{word}{link}") for word, n in counts.items()]
        return rows if any(counts.values()) else []
    wrong = 0
    if v.terms and v.terms.is_share and kept.report(v.candidate, evaluation):
        worst, found = float(kept.is_lower(v.metric)), kept.rows(v.candidate, evaluation).values()
        wrong = sum(row_value(row, metric) == worst for row in found if v.terms.applies_to_row(subtable(row, "doc")))
    told_apart = links and kept.against(evaluation)[0] == metric
    of = f"?of={quote(v.candidate, '')}" if v.candidate != kept.ours else ""
    return [(f"{wrong:,} wrong", f"#{quote(evaluation, '')}:wrong{of}" if told_apart else "")] if wrong else []


def _explain_driver_estimate(kept: LoadedRun, v: Verdict) -> str:
    """Explain the deciding verdict's estimate. The claim's limit and the bounds are named."""
    if v.estimate is None or v.threshold is None:
        return v.why
    sure = f"{format_confidence(v.alpha)} one-sided"
    limit = tick_writer(kept, v)(v.threshold)
    told = figures(kept, v)
    where = f" in {told.where} ({count_noun(told.n, 'row')})" if told.where else ""
    what = f"{metric_in_words(v.metric)}{where} of {v.candidate}"
    what = f"{told.estimand} that lose more {what}" if told.estimand and not is_difference(v) else what
    if not is_difference(v) or v.lower is None or v.upper is None:
        side = "at least" if v.terms and v.terms.sign > 0 else "at most"
        bounds = bounds_text(v, told)
        interval = f", {bounds} with {sure} bounds" if bounds else ""
        return f"{what}{interval}; {side} {limit} is allowed."
    named = f"; the number is the {told.estimand}" if told.estimand else ""
    values = f"{told.value} against {told.baseline}{named}"
    said = f"{what} against {v.versus}, {values}. The limit is {limit}"
    if v.outcome == "INCONCLUSIVE":
        more = "; ".join(
            filter(None, [f"the {sure} bounds {bounds_text(v, told)} contain it", verdict_text.format_sample_size(v)])
        )
        return f"{said}, and {more}."
    upwards = (v.outcome == "PASS") == (v.terms is None or v.terms.sign > 0)
    bound, word = (told.lower, "above") if upwards else (told.upper, "below")
    return f"{said}; with {sure} confidence the {told.estimand or 'difference'} is {word} {bound}."
