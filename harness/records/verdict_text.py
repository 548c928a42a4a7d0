"""Verdicts in words. No other module writes them, and no code parses them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.records.claim_spec import FEW_CLUSTERS, ClaimSpec, Note
from harness.records.figures import write_figures
from harness.records.verdicts import Slice, Verdict
from harness.texts.counts import count_noun
from harness.texts.numbers import format_metric, format_p_in_sentence, format_short, typographic_minus

Told = Mapping[str, Any]
FEW_ROWS = 20  # rows below which a multiple of them says nothing about how many are needed


def add_reason(verdict: Verdict, *notes: Note) -> Verdict:
    """Add notes to a verdict and rewrite its `why`."""
    every = (*verdict.notes, *notes)
    return replace(verdict, notes=every, why=format_notes(verdict.claim_spec, every))


def format_notes(about: ClaimSpec | None, notes: Sequence[Note], *, tests: bool = True) -> str:
    """Format a verdict's notes.

    Without `tests` the names of tests are left out, since they mean little to most readers.
    """
    return "; ".join(_WRITERS[note.kind](about, {**note.params, "tests": tests}) for note in notes)


def format_brief(v: Verdict | Slice, about: ClaimSpec | None = None) -> str:
    """Format the reason of a verdict or slice, without test names."""
    return format_notes(getattr(v, "claim_spec", about), v.notes, tests=False) if v.notes else v.why


def format_reason(v: Verdict, *, tests: bool = False) -> str:
    """Format a verdict's claim and reason in one line.

    With `tests` the reason is as in `why`, with the names of tests.
    """
    return f"{format_claim(v)}: {v.why if tests else format_brief(v)}"


def format_result(v: Verdict) -> str:
    """Return the first thing that is said of a verdict: what was found, or why nothing was."""
    return format_notes(v.claim_spec, v.notes[:1]) if v.notes else v.why


def format_figures(v: Verdict) -> str:
    """Format a verdict's result without its sample size and test."""
    told = next((n.params for n in v.notes if n.kind in ("found", "slice")), None)
    return format_result(v) if told is None else _describe_figures(v.claim_spec, told)


def format_runs(v: Verdict) -> str:
    """Compare the run that ships with its recipe."""
    low, high, ships, mean = map(format_metric, (min(v.runs), max(v.runs), v.runs[0], v.value))
    return (
        f"{v.metric}: run 1 of {len(v.runs)} ships with {ships}; the recipe has {mean}, runs between {low} and {high}"
    )


def format_sample_size(v: Verdict) -> str:
    """Format the sample size that would decide a verdict. Empty if more rows are not the missing part."""
    return next((format_notes(v.claim_spec, [note]) for note in v.notes if note.kind == "needed"), "")


def format_size_warning(v: Verdict) -> str:
    """Warn that cluster sizes are related to the outcome. Empty if they are not."""
    return next((format_notes(v.claim_spec, [note]) for note in v.notes if note.kind == "sizes"), "")


# -- what is claimed -----------------------------------------------------------------------------------


def format_claim(v: Verdict) -> str:
    """Format a verdict's metric and claim, with the points of a relative margin: "(3% of 0.708 = 2.1 points)"."""
    return f"{v.metric} {v.claim}{format_margin_points(v)}".strip()


def format_margin_points(v: Verdict) -> str:
    """Return the points of a relative margin of a proportion, in brackets.

    Empty for another margin, and where the baseline is unknown or differs between slices.
    """
    about = v.claim_spec
    if about is None or not (about.relative and about.is_share and about.threshold and v.baseline) or v.slices:
        return ""
    margin = abs(about.threshold)
    return f" ({100 * margin:.3g}% of {format_metric(v.baseline)} = {100 * margin * v.baseline:.1f} points)"


def format_conditions(about: ClaimSpec) -> str:
    """Describe how a claim counts rows, and its slices.

    Further conditions of the claim follow, such as caps and allowed shares.
    """
    text = " in the mean over questions" if about.by_question else ""
    text += f", no row counted as more than {format_limit(about.cap)}" if about.cap is not None else ""
    text += (
        f", rows from {format_limit(about.range[0])} to {format_limit(about.range[1])}"
        if about.range is not None
        else ""
    )
    text += ", at an approximate risk" if about.approximate else ""
    text += f" on {' and '.join(f'{column}={value}' for column, value in about.slices)}" if about.slices else ""
    text += " without leaked rows" if about.clean else ""
    text += ", for the recipe" if about.recipe else ""
    if about.cut_at_most is not None:
        text += f", at most {format_limit(about.cut_at_most)} of the answers truncated"
    return text


def format_limit(x: float | str | None) -> str:
    """Return a number of a claim as a claim is written."""
    if x is None or isinstance(x, str):
        return (x or "").strip()
    return f"{x:,.0f}" if x == int(x) and abs(x) >= 1000 else f"{x:g}"


# -- what was found ------------------------------------------------------------------------------------


def _describe_result(about: ClaimSpec | None, told: Told) -> str:
    if about and about.kind == "failures":
        failed, n = int(told["estimate"]), told["n"]
        text = f"{failed or 'no'} {'row' if failed <= 1 else 'rows'} of {n} failed"
        unit = f"clusters have one, n={n} in {told['clusters']} clusters" if told["clusters"] else "rows do"
        return f"{text}; at {1 - told['alpha']:.0%} confidence at most {told['upper']:.2%} of such {unit}"
    text = _describe_figures(about, told)
    if told["method"] == "point":
        return text
    where = ""
    if told["clusters"]:
        few = told["clusters"] < FEW_CLUSTERS
        where = f"few clusters ({told['clusters']})" if few else f"{told['clusters']} clusters"
        where += f" (crossed, {' × '.join(map(str, told['crossed']))})" if told.get("crossed") else ""
        where += f", so uneven that the effective number is {told['effective']:.0f}" if told["effective"] else ""
        where = f", mean over {where}" if told["alike"] else f" in {where}"
    text = f"{text}, n={told['n']}{where}" + (f", {told['method']}" if told["tests"] else "")
    return f"{text}, approximate risk" if told.get("risk") == "approximate" else text


def _describe_figures(about: ClaimSpec | None, told: Told) -> str:
    exact = {"lower": None, "upper": None} if told["method"] == "point" else {}  # which decide no digit
    figures = write_figures(about, {**told, **exact})
    interval = figures.estimate
    if about and about.kind == "losses":
        return f"{figures.estimand} {interval} {figures.bounds}"
    if about is None or about.kind != "difference":
        interval += "" if told["method"] == "point" else f" {figures.bounds}"
        return interval + _describe_uncapped(about, told)
    if about.relative and not about.is_log:
        share = told["estimate"] / told["baseline"] if told["baseline"] else math.nan
        interval += f" ({typographic_minus(f'{share:+.1%}')})"
    interval += "" if told["method"] == "point" else f" {figures.bounds}"
    named = f"{figures.estimand} " if figures.estimand else ""
    text = f"{figures.value} against {figures.baseline}, {named}{interval}"
    if about.relative and about.is_share and told["baseline"]:
        text += f", limit {format_relative_limit(about, told['baseline'])}"
    won, lost = told["changed"]
    text += _describe_uncapped(about, told)
    return text + (f", {won} won and {lost} lost" if about.is_share and (won or lost) else "")


def format_relative_limit(about: ClaimSpec, baseline: float) -> str:
    """Return a relative limit, of a proportion in points as well: "−3% of 0.708 = −2.1 points"."""
    share = about.sign * about.threshold
    text = f"{100 * share:+.3g}%"
    if about.is_share and share:
        text += f" of {format_metric(baseline)} = {100 * share * baseline:+.1f} points"
    return typographic_minus(text)


def _describe_uncapped(about: ClaimSpec | None, told: Told) -> str:
    if told.get("uncapped") is None:
        return ""
    beyond = told["beyond"]
    rows = "no row" if not beyond else "1 row" if beyond == 1 else f"{beyond} rows"
    return f", {format_number(about, told['uncapped'])} without the cap ({rows} beyond it)"


def format_number(about: ClaimSpec | None, x: float | None) -> str:
    """Write a number on the claim's scale: the metric's value, or a difference of two; none where there is no bound."""
    if about is None or x is None:
        return format_short(x)
    return about.format_test_change(x) if about.kind == "difference" else format_short(about.from_test_scale(x))


# -- what is said beside it ----------------------------------------------------------------------------


def _describe_needed_rows(_: ClaimSpec | None, told: Told) -> str:
    if told["rows"] is None:
        return "more rows like these would not decide it"
    if told["range"] is None and (n := told["n"]) < FEW_ROWS:
        return f"{n} rows are too few to decide: more than {told['close'] * n} would be needed"
    if told["range"] is None:
        return f"too close to call: more than {told['close']} times these rows would be needed"
    least, most = told["range"]
    unit = "such rows" if told["such"] else "rows"
    if most is None:
        return f"at least {_round_up_rows(least)} {unit} would be needed, probably to {told['likely']}"
    rows = " to ".join(dict.fromkeys([_round_up_rows(least), _round_up_rows(most)]))
    return f"about {rows} {unit} would decide it, probably as {told['likely']}"


def _describe_approximate_risk(_: ClaimSpec | None, told: Told) -> str:
    what = "its risk is approximate, and the gate blocks"
    if told["mean"] and not told["clusters"]:
        return f"{what}: {format_exact_risk_ways(bool(told.get('command')))}"
    way = (
        "it has few clusters of very uneven sizes; add clusters"
        if told["clusters"]
        else "claim a share of rows instead"
    )
    return f"{what}: {way}, or write allow_approximate = true"


def format_exact_risk_ways(command: bool) -> str:
    """Return how a claim on a mean gets an exact risk, as a command or a suite says it."""
    if command:
        return "give --range LOW HIGH of a row's score, or --cap X"
    return 'declare "range" or "cap", or write allow_approximate = true'


def _round_up_rows(rows: int) -> str:
    step = 10 ** max(len(str(rows)) - 2, 0)  # two significant digits
    return f"{-(-rows // step) * step:,}"


def _describe_seeds(_: ClaimSpec | None, told: Told) -> str:
    low, high, ships = (format_metric(told[key]) for key in ("low", "high", "ships"))
    text = f"runs of {told['n']} seeds between {low} and {high}, {ships} ships"
    text += "; seeds vary initialisation, order and held-out rows, not data, hardware or versions"
    return text + (f"; more {told['more']} would help most" if told["more"] else "")


def _describe_refuted_slices(about: ClaimSpec | None, told: Told) -> str:
    parts = [
        f"{one['name']} ({format_number(about, one['estimate'])}, {format_p_in_sentence(one['p'])})"
        for one in told["slices"]
    ]
    return f"but refuted on {' and '.join(parts)} alone"


def _describe_small_slices(_: ClaimSpec | None, told: Told) -> str:
    few = "a slice" if told["n"] == 1 else f"{told['n']} slices"
    small = f"{few} below {told['min_n']} rows"
    return f"{small}: {'harm in ' + ', '.join(told['harm']) if told['harm'] else 'no significant harm'}"


def _describe_leaks(_: ClaimSpec | None, told: Told) -> str:
    codes = ", ".join(f"{code} {n}" for code, n in told["codes"].items())
    values = " against ".join(map(format_metric, told["values"]))
    text = f"{told['gone']} of {told['of']} rows are leaked and left out ({codes})"
    text += f"; with them {values}" if values else ""
    return text + (", which refute the claim: leaving out rows cannot prove it" if told["refuted"] else "")


_WRITERS: Mapping[str, Callable[[ClaimSpec | None, Told], str]] = {
    "error": lambda _, told: str(told["text"]),
    "found": _describe_result,
    "sizes": lambda about, told: (
        f"cluster size is related to the outcome: the mean over {told['of']} is {format_number(about, told['mean'])}"
    ),
    "weightless": lambda _, told: f"{told['rows']} rows have weight 0 and do not count",
    "unseen": lambda _, told: f"up to {told['share']:.1%} of all {told['of']} could be arbitrarily bad",
    "approximate": _describe_approximate_risk,
    "labelled": lambda _, told: f"only the {told['rows']} of {told['of']} rows with labels decide",
    "labels": lambda _, told: "more labels would decide it" + (", or more rows" if told["rows"] else ""),
    "needed": _describe_needed_rows,
    "slice": lambda about, told: f"{told['name']}: {_describe_result(about, told)}",
    "slices": lambda _, told: f"{told['n']} slices: {', '.join(f'{n} {o}' for o, n in told['outcomes'].items())}",
    "refuted": _describe_refuted_slices,
    "seeds": _describe_seeds,
    "alarms": _describe_small_slices,
    "untestable": lambda _, told: f"{told['n']} too small to decide",
    "none large": lambda _, told: (
        f"no slice has {told['min_n']} rows (min_n), so nothing is proven; add rows, or lower min_n"
    ),
    "repeated": lambda _, told: (
        f"{told['rows']} of {told['of']} rows repeat another row's question "
        f"({count_noun(told['questions'], 'question')}, "
        f"up to {told['most']} times): each question is a cluster"
    ),
    "neighbours": lambda _, told: (
        f"neighbouring rows are correlated ({told['correlation']:.2f}, {format_p_in_sentence(told['p'])}): "
        "check whether a cluster column is missing"
    ),
    "no leak": lambda _, told: f"none of {told['of']} rows is leaked",
    "leaks": _describe_leaks,
    "attempt": lambda _, told: f"attempt {told['number']}",
    "look": lambda _, told: (
        f"interim analysis {told['number']} at {told['at']} of {told['most']} rows, at alpha {told['alpha']:.2g}"
    ),
    "waiver": lambda _, told: f"its waiver {told['why']}",
    "rows": lambda _, told: str(told["text"]),  # of others: what they are worth, and what was allowed of them
}
