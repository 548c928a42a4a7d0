"""The runs of a recipe, whose mean is claimed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.records.parts.part import Part
from harness.texts.numbers import format_metric

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms


@dataclass(frozen=True)
class RecipeRuns(Part):
    """The metric of each seed's run, the first of which ships. More of `more` would help most."""

    critical: bool = field(default=True, init=False)
    runs: tuple[float, ...] = ()
    more: str = ""

    name = "recipe"
    order = 60

    @property
    def values(self) -> Sequence[float]:
        return self.runs

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        low, high, ships = map(format_metric, (min(self.runs), max(self.runs), self.runs[0]))
        text = f"runs of {len(self.runs)} seeds between {low} and {high}, {ships} ships"
        text += "; seeds vary initialisation, order and held-out rows, not data, hardware or versions"
        return text + (f"; more {self.more} would help most" if self.more else "")
