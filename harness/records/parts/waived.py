"""A waiver of a gate that did not pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.records.parts.part import Part
from harness.records.waivers import Waiver

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms


@dataclass(frozen=True)
class Waived(Part):
    """Somebody takes responsibility for the missing PASS."""

    line: Waiver
    critical: bool = field(default=True, init=False)

    name = "waived"
    order = 160

    @property
    def waiver(self) -> Waiver:
        return self.line


@dataclass(frozen=True)
class VoidWaiver(Part):
    """A waiver of the gate is not in force."""

    reason: str = ""

    name = "void_waiver"
    order = 170
    of_result = False

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        return f"its waiver {self.reason}"
