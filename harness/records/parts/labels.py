"""Rows that people labelled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.records.parts.part import Part

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms


@dataclass(frozen=True)
class LabelledRows(Part):
    """Only the rows that people labelled on both sides decide."""

    critical: bool = field(default=True, init=False)
    rows: int = 0
    of: int = 0

    name = "labelled"
    order = 70
    estimand = "difference corrected by labels"

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        return f"only the {self.rows} of {self.of} rows with labels decide"
