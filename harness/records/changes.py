"""The change of a metric from one model to the next."""

from __future__ import annotations

from dataclasses import dataclass

from harness.records.scales import Scaled


@dataclass(frozen=True)
class Change(Scaled):
    """The change of a metric from one model to the next.

    It is measured on the rows that both models answered, and gates nothing. `theirs` and `ours` are the values before
    and after. `estimate` and its bounds (one-sided at the suite's alpha each, as a gate's) are after minus before, for
    a perplexity the change of its logarithm; they are None if no inference is possible. `won_ids` and `lost_ids` are
    the rows with the largest changes, `won` and `lost` count all.
    """

    eval: str = ""
    metric: str = ""
    theirs: float | None = None
    ours: float | None = None
    n: int = 0
    won: int = 0
    lost: int = 0
    won_ids: tuple[str, ...] = ()
    lost_ids: tuple[str, ...] = ()
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    scale: str = ""
    before: str = ""  # the subjects
    after: str = ""
