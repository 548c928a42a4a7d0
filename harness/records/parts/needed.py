"""What would decide a claim that these rows did not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.records.outcomes import Outcome
from harness.records.parts.part import Part

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms

FEW_ROWS = 20  # rows below which a multiple of them says nothing about how many are needed
MAX_ROWS_FACTOR = 20  # times the rows at hand, beyond which a claim is too close to call


@dataclass(frozen=True)
class RowsNeeded(Part):
    """How many rows would decide the claim.

    `rows` holds if the estimate is the truth, None if no number of rows would. `range` is for what the truth may be:
    None if it is too close to call, its upper end None if that is unknown. `n` are the rows at hand.
    """

    rows: int | None = None
    range: tuple[int, int | None] | None = None
    n: int = 0
    likely: Outcome = Outcome.FAIL
    of_slice: bool = False

    name = "rows_needed"
    order = 40
    is_advice = True

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        if self.rows is None:
            return "more rows like these would not decide it"
        if self.range is None and self.n < FEW_ROWS:
            return f"{self.n} rows are too few to decide: more than {MAX_ROWS_FACTOR * self.n} would be needed"
        if self.range is None:
            return f"too close to call: more than {MAX_ROWS_FACTOR} times these rows would be needed"
        least, most = self.range
        unit = "such rows" if self.of_slice else "rows"
        if most is None:
            return f"at least {_round_up_rows(least)} {unit} would be needed, probably to {self.likely}"
        rows = " to ".join(dict.fromkeys([_round_up_rows(least), _round_up_rows(most)]))
        return f"about {rows} {unit} would decide it, probably as {self.likely}"


@dataclass(frozen=True)
class LabelsNeeded(Part):
    """More labels would decide the claim, or more rows as well."""

    or_rows: bool = False

    name = "labels_needed"
    order = 50

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        return "more labels would decide it" + (", or more rows" if self.or_rows else "")


def _round_up_rows(rows: int) -> str:
    step = 10 ** max(len(str(rows)) - 2, 0)  # two significant digits
    return f"{-(-rows // step) * step:,}"
