"""Verdict: a gate applied to rows, at a stated risk."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from harness.records.claim_spec import ClaimSpec, Note
from harness.records.waivers import Waiver

Risk = Literal["", "exact", "approximate"]
"""Whether the stated risk holds for all rows, or only where these are not too skewed; "" before a test."""


class Outcome(StrEnum):
    """The outcome of a gate: proven, refuted, neither, or not evaluated."""

    PASS = "PASS"  # noqa: S105 -- a verdict, not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"


@dataclass(frozen=True)
class Slice:
    """A gate on one slice. An `alarm` has too few rows to have to prove the claim: it blocks only on proven harm."""

    name: str
    n: int
    outcome: Outcome
    alarm: bool
    why: str = ""
    lower: float | None = None
    upper: float | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A gate applied to one candidate: estimate and bounds on the claim's scale, and why.

    `estimate`, `lower`, `upper` and `threshold` are the metric's value for a claim about a number, candidate
    minus baseline for a comparison (of log perplexity: the relative change), whose threshold is that share of the
    baseline for a relative margin; where the gate is about clusters or questions, all are means over these. With
    several slices they are the `driver`'s. `won` and `lost` are the rows that changed, the largest change first; where
    they are cut, `won_count` and `lost_count` are how many there are.
    `n` counts the rows but those of weight 0, which are `weightless`; very uneven `clusters` count as `effective` ones
    of equal size. `attempt` counts the candidates this question was put to. Of a gate with `clean_only`, `left_out`
    counts the rows it was judged without, `whole` and `whole_baseline` are the values with them. It `decides` unless
    it is about a candidate that no export ships, by a gate that does not name it. `why` is what `notes` say in words.
    `risk` is "approximate" where a row's value has neither a declared range nor a cap; `uncapped` is the estimate
    without the gate's cap.
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
    uncapped: float | None = None
    p_pass: float | None = None
    p_fail: float | None = None
    n: int = 0
    weightless: int = 0
    clusters: int | None = None
    effective: float | None = None
    method: str = ""
    rows_needed: int | None = None  # to decide it, if the estimate is the truth
    rows_range: tuple[int, int | None] | None = None  # the same for what the truth may be; None: too close
    driver: str = ""
    slices: tuple[Slice, ...] = ()
    won: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    won_count: int = 0
    lost_count: int = 0
    digest: str = ""
    attempt: int = 0
    looks: tuple[int, ...] = ()  # rows that the same weights were looked at, of those there will be at most
    left_out: int | None = None
    labelled: int = 0  # rows that people labelled on both sides, where these alone decide
    repeated: int = 0  # rows that ask what others ask
    crossed: tuple[int, ...] = ()  # how many clusters of each kind, where rows are in several
    runs: tuple[float, ...] = ()  # of a recipe: the metric of each seed's run, the first of which ships
    whole: float | None = None
    whole_baseline: float | None = None
    waiver: Waiver | None = None
    decides: bool = True
    claim_spec: ClaimSpec | None = None  # the claim as data
    notes: tuple[Note, ...] = ()  # what `why` is made of

    @property
    def run_estimates(self) -> list[float]:
        """The estimates of a recipe's runs.

        Each is the estimate that the run alone would have, on the claim's scale.
        """
        spec = self.claim_spec
        if spec is None or self.estimate is None or self.value is None:
            return []
        return [self.estimate + spec.to_test_scale(run) - spec.to_test_scale(self.value) for run in self.runs]

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
