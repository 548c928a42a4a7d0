"""Rows in clusters, which alone are independent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.records.parts.part import Part, Slot
from harness.texts.numbers import format_short

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms

FEW_CLUSTERS = 20  # below this a verdict on clusters deserves a warning, whatever the test


@dataclass(frozen=True)
class Clusters(Part):
    """How many clusters the rows are in.

    Very uneven ones count as `effective` ones of equal size. Of several kinds that cross, `count` is that of the
    fewest, and `crossed` has each. With `counts_alike` the mean is over clusters. They are not `named` where each row
    is a cluster of its draws.
    """

    count: int = 0
    effective: float | None = None
    crossed: tuple[int, ...] = ()
    counts_alike: bool = False
    named: bool = True

    name = "clusters"
    slot = Slot.ESTIMATE
    order = 10

    @property
    def units(self) -> int:
        return self.count

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        if not self.named:
            return ""
        text = f"few clusters ({self.count})" if self.count < FEW_CLUSTERS else f"{self.count} clusters"
        if self.crossed:
            text += f" (crossed, {' × '.join(map(str, self.crossed))})"
        if self.effective:
            text += f", so uneven that the effective number is {self.effective:.0f}"
        return f", mean over {text}" if self.counts_alike else f" in {text}"


@dataclass(frozen=True)
class ClusterSizes(Part):
    """Cluster sizes are related to the outcome: the mean over `unit`s is on the other side of the limit."""

    unit: str = "rows"
    mean: float | None = None

    name = "cluster_sizes"
    order = 10
    is_warning = True

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        mean = terms.format_number(self.mean) if terms else format_short(self.mean)
        return f"cluster size is related to the outcome: the mean over {self.unit} is {mean}"
