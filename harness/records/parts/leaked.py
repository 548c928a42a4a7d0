"""`clean_only`: the gate is judged without the rows that leak, which can prove nothing by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.records.outcomes import Outcome
from harness.records.parts.part import Condition, EvalFacts, Part
from harness.texts.numbers import format_metric

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms, Gate
    from harness.records.metrics import Metric


@dataclass(frozen=True)
class LeakKeys:
    """The keys of the condition."""

    clean_only: bool = False  # judged without the rows that the contamination check tells of


@dataclass(frozen=True)
class LeakedRows(Part):
    """Rows that leak and were left out, by the code of their finding.

    `value` and `baseline` are those of all rows. With `refuted` these refute the claim.
    """

    critical: bool = field(default=True, init=False)
    rows: int = 0
    of: int = 0
    codes: Mapping[str, int] = field(default_factory=dict)
    value: float | None = None
    baseline: float | None = None
    refuted: bool = False

    name = "leaked"
    order = 130

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        if not self.rows:
            return f"none of {self.of} rows is leaked"
        codes = ", ".join(f"{code} {n}" for code, n in self.codes.items())
        text = f"{self.rows} of {self.of} rows are leaked and left out ({codes})"
        if values := " against ".join(format_metric(x) for x in (self.value, self.baseline) if x is not None):
            text += f"; with them {values}"
        return text + (", which refute the claim: leaving out rows cannot prove it" if self.refuted else "")

    def apply(self, outcome: Outcome) -> Outcome:
        return Outcome.INCONCLUSIVE if self.refuted and outcome is Outcome.PASS else outcome


class WithoutLeaks(Condition):
    """No row that leaks is judged."""

    keys = LeakKeys

    def is_set(self, gate: Gate) -> bool:
        return gate.clean_only

    def find_metric_mistakes(self, gate: Gate, metric: Metric) -> Iterator[str]:
        if gate.clean_only and metric.is_count:
            yield f'{metric.name} is a count over all rows, so leaving rows out lowers it; remove "clean_only"'

    def find_eval_mistakes(self, gate: Gate, facts: EvalFacts) -> Iterator[str]:
        if not gate.clean_only:
            return
        if not facts.trains:  # a gate is not clean because nobody looked
            yield "clean_only: the suite trains nothing, so there are no training rows that could leak; remove it"
        elif not facts.has_data:
            where = 'leaked rows are looked for in the rows of "data"'
            yield f'clean_only: {where}, and "{facts.use}" has none; remove it'
        elif facts.missing_leak_check:
            yield f"clean_only: needs {facts.missing_leak_check}, which is blocked; remove -p no:checks"

    def phrase(self, gate: Gate) -> str:
        return " without leaked rows" if gate.clean_only else ""

    def forecast_note(self, gate: Gate) -> str:
        return "computed as if no row leaked" if gate.clean_only else ""

    def implies(self, gate: Gate, claim: Gate) -> bool:
        return gate.clean_only == claim.clean_only
