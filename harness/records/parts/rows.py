"""Rows that do not count, that nobody saw, or that repeat or resemble others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.records.parts.part import Part
from harness.texts.counts import count_noun
from harness.texts.numbers import format_p_in_sentence

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms


@dataclass(frozen=True)
class WeightlessRows(Part):
    """Rows of weight 0, which do not count."""

    rows: int = 0

    name = "weightless"
    order = 20

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        return (
            "1 row has weight 0 and does" if self.rows == 1 else f"{self.rows} rows have weight 0 and do"
        ) + " not count"


@dataclass(frozen=True)
class UnseenRows(Part):
    """The share of all rows or clusters that could be arbitrarily bad, where nothing limits a row's value."""

    share: float = 0.0
    unit: str = "rows"

    name = "unseen"
    order = 30

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        return f"up to {self.share:.1%} of all {self.unit} could be arbitrarily bad"


@dataclass(frozen=True)
class RepeatedQuestions(Part):
    """Rows that repeat another row's question, up to `most` times each."""

    rows: int = 0
    of: int = 0
    questions: int = 0
    most: int = 0

    name = "repeated"
    order = 80

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        asked = f"{count_noun(self.questions, 'question')}, up to {self.most} times"
        return f"{self.rows} of {self.of} rows repeat another row's question ({asked}): each question is a cluster"


@dataclass(frozen=True)
class CorrelatedNeighbours(Part):
    """Neighbouring rows are correlated, although they are taken as independent."""

    correlation: float = 0.0
    p: float = 1.0

    name = "neighbours"
    order = 90

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        size = f"{self.correlation:.2f}, {format_p_in_sentence(self.p)}"
        return f"neighbouring rows are correlated ({size}): check whether a cluster column is missing"


@dataclass(frozen=True)
class RowsOfOthers(Part):
    """What rows that another tool scored are worth, and what was allowed of them."""

    texts: tuple[str, ...] = ()

    name = "rows_of_others"
    order = 200
    of_result = False
    is_shared = True

    def remarks(self, terms: ClaimTerms | None) -> Sequence[str]:
        return self.texts
