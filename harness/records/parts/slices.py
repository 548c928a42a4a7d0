"""A gate's slices: each must prove the claim, and small ones may only show harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from harness.records.outcomes import Outcome
from harness.records.parts.part import Part, Slot, TableRow
from harness.records.result_text import describe_result, format_parts
from harness.texts.numbers import format_p_in_sentence, format_short

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms


@dataclass(frozen=True)
class Slice:
    """The result on one slice.

    An `alarm` has too few rows to have to prove the claim: it blocks only on proven harm.
    """

    name: str
    outcome: Outcome
    alarm: bool
    n: int
    value: float | None = None
    baseline: float | None = None
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    alpha: float | None = None
    risk: str = ""
    method: str = ""
    won_count: int = 0
    lost_count: int = 0
    parts: Mapping[str, Part] = field(default_factory=dict)

    def describe(self, terms: ClaimTerms | None, *, tests: bool) -> str:
        """Return the slice's result in words, with what is said of it."""
        texts = [describe_result(terms, self, tests=tests), *format_parts(terms, self.parts, tests=tests)]
        return "; ".join(texts)


@dataclass(frozen=True)
class Slices(Part):
    """The slices of a gate. The `driver` decides, whose estimate and bounds are the verdict's."""

    critical: bool = field(default=True, init=False)
    driver: str = ""
    slices: tuple[Slice, ...] = ()
    min_n: int = 0
    untestable: int = 0  # slices that were too small to test

    name = "slices"
    slot = Slot.HEADLINE
    order = 10

    @property
    def where(self) -> str:
        return self.driver

    @property
    def deciding_result(self) -> Slice:
        """The slice that decides."""
        by_name = {part.name: part for part in self.slices}
        return by_name[self.driver]

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        return f"{self.driver}: {describe_result(terms, self.deciding_result, tests=tests)}"

    def remarks(self, terms: ClaimTerms | None) -> Sequence[str]:
        large, alarms = [s for s in self.slices if not s.alarm], [s for s in self.slices if s.alarm]
        texts = list[str]()
        if len(large) > 1:
            counts = {outcome: sum(s.outcome is outcome for s in large) for outcome in Outcome}
            outcomes = ", ".join(f"{n} {outcome}" for outcome, n in counts.items() if n)
            texts.append(f"{len(large)} slices: {outcomes}")
        harm = [s.name for s in alarms if s.outcome is Outcome.FAIL]
        if alarms:
            few = "a slice" if len(alarms) == 1 else f"{len(alarms)} slices"
            verdict = f"harm in {', '.join(harm)}" if harm else "no significant harm"
            texts.append(f"{few} below {self.min_n} rows: {verdict}")
        if self.untestable:
            texts.append(f"{self.untestable} too small to decide")
        if not large and not harm:
            texts.append(f"no slice has {self.min_n} rows (min_n), so nothing is proven; add rows, or lower min_n")
        return texts

    def table(self, terms: ClaimTerms | None, *, tests: bool = True) -> Sequence[TableRow]:
        return [
            TableRow(
                s.outcome,
                s.name,
                s.describe(terms, tests=tests),
                s.n,
                remark="alarm" if s.alarm else "",
                open=s.outcome is Outcome.FAIL or (s.outcome is not Outcome.PASS and not s.alarm),
            )
            for s in self.slices
        ]

    def anonymize(self) -> Slices:
        names = {s.name: f"slice {number}" for number, s in enumerate(self.slices, 1)}
        slices = tuple(replace(s, name=names[s.name]) for s in self.slices)
        return replace(self, slices=slices, driver=names[self.driver])


@dataclass(frozen=True)
class WorstSlice(Part):
    """The slice with the lowest upper bound, of a gate on all rows that did not pass."""

    worst: Slice

    name = "worst_slice"
    order = 110

    def table(self, terms: ClaimTerms | None, *, tests: bool = True) -> Sequence[TableRow]:
        text = describe_result(terms, self.worst, tests=tests)
        return [TableRow(self.worst.outcome, self.worst.name, text, self.worst.n, remark="worst slice", open=True)]

    def anonymize(self) -> WorstSlice:
        return replace(self, worst=replace(self.worst, name="a slice"))


@dataclass(frozen=True)
class RefutedSlice:
    """A slice that refutes the claim by itself."""

    name: str
    estimate: float
    p: float


@dataclass(frozen=True)
class RefutedSlices(Part):
    """Slices that refute a claim which all rows together prove."""

    slices: tuple[RefutedSlice, ...] = ()

    name = "refuted_slices"
    order = 100

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        texts = []
        for s in self.slices:
            estimate = terms.format_number(s.estimate) if terms else format_short(s.estimate)
            texts.append(f"{s.name} ({estimate}, {format_p_in_sentence(s.p)})")
        return f"but refuted on {' and '.join(texts)} alone"

    def anonymize(self) -> RefutedSlices:
        slices = tuple(replace(s, name=f"slice {number}") for number, s in enumerate(self.slices, 1))
        return replace(self, slices=slices)
