"""Claims and notes of verdicts as data.

`harness.records.verdict_text` alone makes sentences of either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.records.scales import Scale, Scaled

FEW_CLUSTERS = 20  # below this a verdict on clusters deserves a warning, whatever the test


@dataclass(frozen=True)
class ClaimSpec(Scaled):
    """A verdict's claim: its kind, direction, threshold and rows.

    `sign` is 1 where larger is better for the claim. `threshold` is the number as the suite gives it: a bound, the
    number of rows that may fail, or the margin by which the candidate must be better, negative if it may be worse. It
    is a share of the baseline if `relative`, and always for a perplexity. `slices` are pairs of column and value, "*"
    for each value.
    """

    kind: Literal["bound", "difference", "failures", "losses"]
    sign: Literal[1, -1] = 1
    threshold: float = 0.0
    relative: bool = False
    scale: Scale | None = None  # None: there is no such metric
    slices: tuple[tuple[str, str], ...] = ()
    min_n: int = 0  # rows from which on a slice must prove the claim
    by_question: bool = False  # questions count alike, however often each was asked
    cap: float | None = None
    range: tuple[float, float] | None = None  # of a row's value, as the gate declares it
    approximate: bool = False  # may pass although its risk is approximate
    cut_at_most: float | None = None
    clean: bool = False  # without rows that leak
    recipe: bool = False  # of the mean over the seeds of a recipe

    def applies_to_row(self, row: Mapping[str, Any]) -> bool:
        """Return whether the claim is about a row."""
        return not self.slices or any(v == "*" or str(row.get(c)) == v for c, v in self.slices if c in row or v == "*")

    def fails(self, value: float) -> bool:
        """Return whether a row's value alone violates the claim.

        Always False for a difference, since no single row has one.
        """
        if self.kind == "failures":
            return self.is_share and value != (1.0 if self.sign > 0 else 0.0)
        return self.kind == "bound" and self.sign * (value - self.to_test_scale(self.threshold)) < 0


@dataclass(frozen=True)
class Note:
    """One thing that is said of a verdict: its kind, and the numbers and names that its words are made of."""

    kind: str
    params: Mapping[str, Any] = field(default_factory=dict)
