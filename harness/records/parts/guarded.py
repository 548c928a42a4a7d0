"""The guard of one task among several."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.records.outcomes import Outcome
from harness.records.parts.part import Part
from harness.texts.numbers import format_p_in_sentence

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms


@dataclass(frozen=True)
class GuardedTask(Part):
    """One of `count` tasks beside a gate on their mean: only Holm's method refutes its claim."""

    critical: bool = field(default=True, init=False)
    count: int = 1
    p: float = 1.0
    refuted: bool = False

    name = "guarded_task"
    order = 180
    of_result = False

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        verdict = "refuted" if self.refuted else "not refuted"
        text = f"{verdict} among {self.count} tasks"
        text += "" if self.refuted else ", so it blocks nothing"
        return f"{text} (Holm, {format_p_in_sentence(self.p)})"

    def apply(self, outcome: Outcome) -> Outcome:
        if self.refuted:
            return Outcome.FAIL
        return Outcome.INCONCLUSIVE if outcome is Outcome.FAIL else outcome
