"""Verdicts in words: result and parts in the order of their slots. No code parses them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from harness.records.parts.part import Part, Slot
from harness.records.result_text import TestedResult, describe_figures, describe_result, format_parts, sort_parts
from harness.records.verdicts import Verdict
from harness.texts.numbers import format_metric


def complete(verdict: Verdict, *parts: Part) -> Verdict:
    """Return a verdict with more parts, their effects on its outcome, and its words."""
    settled = verdict.with_parts(*parts).with_effects()
    return replace(settled, why=format_why(settled))


def format_why(v: Verdict, *, tests: bool = True) -> str:
    """Format the reason of a verdict. Without `tests` the names of tests are left out."""
    return "; ".join([*iterate_result(v, tests=tests), *format_parts(v.terms, v.parts, tests=tests)])


def iterate_result(v: Verdict, *, tests: bool = True) -> Iterator[str]:
    """Yield what is said first: the parts that stand in place of the result, else the result."""
    headline = sort_parts(v.parts, Slot.HEADLINE)
    if headline and not headline[0].of_result:
        headline = headline[:1]
    if headline:
        yield from (part.sentence(v.terms, tests=tests) for part in headline)
    elif v.estimate is not None:
        yield describe_result(v.terms, v, tests=tests)


def format_brief(v: Verdict) -> str:
    """Format the reason of a verdict, without test names."""
    return format_why(v, tests=False) or v.why


def format_reason(v: Verdict, *, tests: bool = False) -> str:
    """Format a verdict's claim and reason in one line.

    With `tests` the reason is as in `why`, with the names of tests.
    """
    return f"{format_claim(v)}: {v.why if tests else format_brief(v)}"


def format_result(v: Verdict) -> str:
    """Return the first thing that is said of a verdict: its result, or why there is none."""
    return "; ".join(iterate_result(v)) or v.why


def format_figures(v: Verdict) -> str:
    """Format a verdict's result without its sample size and test."""
    deciding = deciding_result(v)
    if deciding.estimate is None or any(not part.of_result for part in sort_parts(v.parts, Slot.HEADLINE)):
        return format_result(v)
    return describe_figures(v.terms, deciding)


def deciding_result(v: Verdict) -> TestedResult:
    """Return the result that decides: that of a slice, or the verdict's own."""
    results = (part.deciding_result for part in sort_parts(v.parts))
    return next((result for result in results if result is not None), v)


def format_runs(v: Verdict) -> str:
    """Compare the run that ships with its recipe."""
    runs = v.run_values
    low, high, ships, mean = map(format_metric, (min(runs), max(runs), runs[0], v.value))
    return f"{v.metric}: run 1 of {len(runs)} ships with {ships}; the recipe has {mean}, runs between {low} and {high}"


def without_shared(v: Verdict) -> Verdict:
    """Return a verdict without the parts that all verdicts of a run share."""
    return replace(v, parts={name: part for name, part in v.parts.items() if not getattr(part, "is_shared", False)})


def list_shared_remarks(verdicts: Iterable[Verdict]) -> list[str]:
    """Return what several verdicts say alike, each once."""
    remarks = (
        text for v in verdicts for part in sort_parts(v.parts) if part.is_shared for text in part.remarks(v.terms)
    )
    return list(dict.fromkeys(remarks))


def format_sample_size(v: Verdict) -> str:
    """Format the sample size that would decide a verdict. Empty if more rows are not the missing part."""
    return "; ".join(part.sentence(v.terms) for part in sort_parts(v.parts) if part.is_advice)


def format_warning(v: Verdict) -> str:
    """Format what a run warns of besides its verdict. Empty if nothing."""
    return "; ".join(part.sentence(v.terms) for part in sort_parts(v.parts) if part.is_warning)


def format_claim(v: Verdict) -> str:
    """Format a verdict's metric and claim, with the points of a relative margin: "(3% of 0.708 = 2.1 points)"."""
    return f"{v.metric} {v.claim}{format_margin_points(v)}".strip()


def format_margin_points(v: Verdict) -> str:
    """Return the points of a relative margin of a proportion, in brackets.

    Empty for another margin, and where the baseline is unknown or differs between slices.
    """
    terms = v.terms
    if terms is None or not (terms.relative and terms.is_share and terms.threshold and v.baseline) or v.where:
        return ""
    margin = abs(terms.threshold)
    return f" ({100 * margin:.3g}% of {format_metric(v.baseline)} = {100 * margin * v.baseline:.1f} points)"
