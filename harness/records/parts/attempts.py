"""How often the question was put: attempts, and interim analyses of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.records.parts.part import Part

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms


@dataclass(frozen=True)
class CountedAttempt(Part):
    """Which candidate it is that the question was put to."""

    critical: bool = field(default=True, init=False)
    number: int = 1

    name = "attempt"
    order = 140

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        return f"attempt {self.number}" if self.number > 1 else ""


@dataclass(frozen=True)
class InterimLooks(Part):
    """After how many rows the same weights were looked at, of at most `most`, and the level of the last look."""

    critical: bool = field(default=True, init=False)
    looks: tuple[int, ...] = ()
    most: int = 0
    alpha: float = 0.0

    name = "interim_analysis"
    order = 150

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        rows = f"{self.looks[-1]} of {self.most} rows"
        return f"interim analysis {len(self.looks)} at {rows}, at alpha {self.alpha:.2g}"
