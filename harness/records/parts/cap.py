"""What a gate's cap changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.records.parts.part import Part, Slot
from harness.texts.counts import count_noun
from harness.texts.numbers import format_short

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms


@dataclass(frozen=True)
class Uncapped(Part):
    """The estimate without the gate's cap, and how many rows are beyond it."""

    estimate: float | None = None
    beyond: int = 0

    name = "uncapped"
    slot = Slot.ESTIMATE
    order = 20

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        estimate = terms.format_number(self.estimate) if terms else format_short(self.estimate)
        rows = count_noun(self.beyond, "row") if self.beyond else "no row"
        return f", {estimate} without the cap ({rows} beyond it)"
