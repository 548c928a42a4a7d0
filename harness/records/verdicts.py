"""Verdict: a gate applied to rows, at a stated risk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from harness.records.claims.gate import ClaimTerms
from harness.records.outcomes import Outcome as Outcome
from harness.records.parts.attempts import CountedAttempt
from harness.records.parts.part import Part, TableRow
from harness.records.result_text import sort_parts
from harness.records.waivers import Waiver

Risk = Literal["", "exact", "approximate"]
"""Whether the stated risk holds for all rows, or only where these are not too skewed; "" before a test."""
P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class Verdict:
    """A gate applied to one candidate: the core that every verdict has, and its parts by name.

    `estimate`, `lower`, `upper` and `threshold` are the metric's value for a claim about a number, candidate
    minus baseline for a comparison (of log perplexity: the relative change), whose threshold is that share of the
    baseline for a relative margin; where the gate is about clusters or questions, all are means over these. With
    several slices they are those of the slice that decides. `won` and `lost` are the rows that changed, the largest
    change first; where they are cut, `won_count` and `lost_count` are how many there are. `n` counts the rows but those
    of weight 0. It `decides` unless it is about a candidate that no export ships, by a gate that does not name it.
    `why` is what result and parts say in words. `risk` is "approximate" where a row's value has neither a declared
    range nor a cap.
    """

    gate: str
    candidate: str
    outcome: Outcome
    why: str
    metric: str
    claim: str
    blocking: bool
    versus: str | None = None
    value: float | None = None
    baseline: float | None = None
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    threshold: float | None = None
    alpha: float | None = None
    risk: Risk = ""
    p_pass: float | None = None
    p_fail: float | None = None
    n: int = 0
    method: str = ""
    won: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    won_count: int = 0
    lost_count: int = 0
    digest: str = ""
    decides: bool = True
    terms: ClaimTerms | None = None  # the gate that was decided, and the scale of its metric
    parts: Mapping[str, Part] = field(default_factory=dict)

    def get(self, kind: type[P]) -> P | None:
        """Return a part of a kind."""
        part = self.parts.get(kind.name)
        return part if isinstance(part, kind) else None

    def with_parts(self, *parts: Part) -> Verdict:
        """Return the verdict with more parts, without their effect and their words."""
        return replace(self, parts={**self.parts, **{part.name: part for part in parts}})

    def with_effects(self) -> Verdict:
        """Return the verdict with the outcome that its parts make of it, in their order."""
        outcome = self.outcome
        for part in sort_parts(self.parts):
            outcome = part.apply(outcome)
        return replace(self, outcome=outcome)

    @property
    def attempt(self) -> int:
        """The number of candidates that the question was put to, 0 where none is counted."""
        part = self.get(CountedAttempt)
        return part.number if part else 0

    def table(self, *, tests: bool = True) -> list[TableRow]:
        """Return the rows of a table that the parts say."""
        return [row for part in sort_parts(self.parts) for row in part.table(self.terms, tests=tests)]

    @property
    def where(self) -> str:
        """The rows that estimate and bounds are about, if not all."""
        return next((part.where for part in sort_parts(self.parts) if part.where), "")

    @property
    def units(self) -> int:
        """The number of independent rows or clusters."""
        return next((part.units for part in sort_parts(self.parts) if part.units), self.n)

    @property
    def run_values(self) -> Sequence[float]:
        """The values of the runs whose mean is claimed."""
        return next((part.values for part in sort_parts(self.parts) if part.values), ())

    @property
    def run_estimates(self) -> list[float]:
        """The estimates of a recipe's runs.

        Each is the estimate that the run alone would have, on the claim's scale.
        """
        terms, value, estimate = self.terms, self.value, self.estimate
        if terms is None or estimate is None or value is None:
            return []
        return [estimate + terms.to_test_scale(run) - terms.to_test_scale(value) for run in self.run_values]

    @property
    def waiver(self) -> Waiver | None:
        """The waiver in force that covers a missing PASS."""
        return next((part.waiver for part in sort_parts(self.parts) if part.waiver), None)

    @property
    def waived(self) -> bool:
        """Return whether a waiver in force covers a missing PASS."""
        return self.waiver is not None and self.outcome is not Outcome.PASS

    @property
    def not_passed(self) -> bool:
        """Return whether it blocks, did not pass, and is not waived."""
        return self.blocking and self.outcome is not Outcome.PASS and not self.waived

    @property
    def blocks_release(self) -> bool:
        """Return whether something may not ship because of it."""
        return self.not_passed and self.decides
