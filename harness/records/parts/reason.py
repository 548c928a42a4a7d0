"""Why there is no result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.records.parts.part import Part, Slot

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms


@dataclass(frozen=True)
class Reason(Part):
    """Why a gate could not be decided."""

    text: str = ""

    name = "reason"
    slot = Slot.HEADLINE
    of_result = False

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        return self.text
