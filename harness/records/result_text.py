"""The result of a verdict or of a slice in words, and the sentences of its parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from harness.records.figures import write_figures
from harness.records.parts.part import Part, Slot
from harness.texts.numbers import format_metric, typographic_minus

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms


class TestedResult(Protocol):
    """The numbers of a verdict or of a slice."""

    @property
    def n(self) -> int: ...
    @property
    def value(self) -> float | None: ...
    @property
    def baseline(self) -> float | None: ...
    @property
    def estimate(self) -> float | None: ...
    @property
    def lower(self) -> float | None: ...
    @property
    def upper(self) -> float | None: ...
    @property
    def alpha(self) -> float | None: ...
    @property
    def risk(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def won_count(self) -> int: ...
    @property
    def lost_count(self) -> int: ...
    @property
    def parts(self) -> Mapping[str, Any]: ...


def sort_parts(parts: Mapping[str, Any], slot: Slot | None = None) -> list[Part]:
    """Return the known parts of a slot in their order."""
    known = [part for part in parts.values() if isinstance(part, Part) and slot in (None, part.slot)]
    return sorted(known, key=lambda part: (part.slot, part.order))


def format_parts(terms: ClaimTerms | None, parts: Mapping[str, Any], *, tests: bool = True) -> list[str]:
    """Return the sentences beside a result. Without a result only those that need none."""
    shown = sort_parts(parts)
    if any(not part.of_result for part in shown if part.slot is Slot.HEADLINE):
        shown = [part for part in shown if not part.of_result]
    texts = list[str]()
    for part in shown:
        if part.slot is Slot.DETAIL:
            texts.append(part.sentence(terms, tests=tests))
        texts += part.remarks(terms)
    return [text for text in texts if text]


def describe_result(terms: ClaimTerms | None, result: TestedResult, *, tests: bool = True) -> str:
    """Return a result in words: estimate, bounds, rows and method."""
    beside = "".join(part.sentence(terms) for part in sort_parts(result.parts, Slot.ESTIMATE))
    if terms and terms.kind == "failures":
        failed = int(result.estimate or 0)
        units = next((part.units for part in sort_parts(result.parts) if part.units), None)
        text = f"{failed or 'no'} {'row' if failed <= 1 else 'rows'} of {result.n} failed"
        unit = f"clusters have one, n={result.n} in {units} clusters" if units else "rows do"
        confidence = f"{1 - (result.alpha or 0.0):.0%}"
        return f"{text}; at {confidence} confidence at most {result.upper or 0.0:.2%} of such {unit}"
    text = describe_figures(terms, result)
    if result.method == "point":
        return text
    text += f", n={result.n}{beside}"
    text += f", {result.method}" if tests else ""
    return f"{text}, approximate risk" if result.risk == "approximate" else text


def describe_figures(terms: ClaimTerms | None, result: TestedResult) -> str:
    """Return a result in words, without its sample size and test."""
    numbers = list_numbers(result)
    if result.method == "point":
        numbers |= {"lower": None, "upper": None}  # which decide no digit
    figures = write_figures(terms, numbers, parts=result.parts)
    interval = figures.estimate
    if terms and terms.kind == "losses":
        return f"{figures.estimand} {interval} {figures.bounds}"
    if terms is None or terms.kind != "difference":
        return interval + ("" if result.method == "point" else f" {figures.bounds}")
    baseline = result.baseline
    if terms.relative and not terms.is_log:
        share = (result.estimate or 0.0) / baseline if baseline else math.nan
        interval += f" ({typographic_minus(f'{share:+.1%}')})"
    interval += "" if result.method == "point" else f" {figures.bounds}"
    named = f"{figures.estimand} " if figures.estimand else ""
    text = f"{figures.value} against {figures.baseline}, {named}{interval}"
    if terms.relative and terms.is_share and baseline:
        text += f", limit {format_relative_limit(terms, baseline)}"
    changed = result.won_count or result.lost_count
    return text + (f", {result.won_count} won and {result.lost_count} lost" if terms.is_share and changed else "")


def list_numbers(result: TestedResult) -> dict[str, Any]:
    """Return the numbers of a result by name."""
    names = ("value", "baseline", "estimate", "lower", "upper", "n")
    return {name: getattr(result, name) for name in names}


def format_relative_limit(terms: ClaimTerms, baseline: float) -> str:
    """Return a relative limit, of a proportion in points as well: "−3% of 0.708 = −2.1 points"."""
    share = terms.sign * terms.threshold
    text = f"{100 * share:+.3g}%"
    if terms.is_share and share:
        text += f" of {format_metric(baseline)} = {100 * share * baseline:+.1f} points"
    return typographic_minus(text)
