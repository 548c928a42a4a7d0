"""The numbers of verdicts and changes as text."""

from __future__ import annotations

from typing import Any, cast

from harness.records.changes import Change
from harness.records.claims.gate import ClaimTerms, Gate
from harness.records.figures import Figures, write_figures
from harness.records.parts.slices import Slice
from harness.records.result_text import list_numbers
from harness.records.scales import Scale
from harness.records.verdict_text import deciding_result
from harness.records.verdicts import Verdict

DIFFERENCE = Gate("", versus="baseline", better_by=0.0)


def verdict_figures(v: Verdict, *, unit: str = "") -> Figures:
    """Format a verdict's numbers.

    For a gate on several slices they are those of the deciding slice. `unit` is the unit of the metric's values: "",
    "bytes" or "count".
    """
    terms = v.terms or (ClaimTerms(DIFFERENCE) if v.versus else None)
    numbers = {**verdict_numbers(v), "limit": v.threshold, "lost": v.lost_count, "won": v.won_count}
    return write_figures(terms, numbers, unit=unit, parts=v.parts)


def slice_figures(v: Verdict, part: Slice) -> Figures:
    """Format the numbers of one slice of a gate."""
    return write_figures(v.terms, {**list_numbers(part), "limit": v.threshold}, parts=part.parts)


def verdict_numbers(v: Verdict) -> dict[str, Any]:
    """Return a verdict's values, estimate, bounds and row count.

    For a gate on several slices the verdict's own values are those of all rows; these are those of the deciding slice,
    named by `where`.
    """
    bounds = {name: getattr(v, name) for name in ("estimate", "lower", "upper")}
    return {**list_numbers(deciding_result(v)), **bounds, "where": v.where}


def change_figures(change: Change) -> Figures:
    """Return the numbers of a step between two models as text."""
    numbers = {name: getattr(change, name) for name in ("estimate", "lower", "upper", "n", "lost", "won")}
    terms = ClaimTerms(DIFFERENCE, cast("Scale | None", change.scale or None))
    return write_figures(terms, {**numbers, "value": change.ours, "baseline": change.theirs})
