"""`allow_approximate`: without it, a gate that blocks does not pass at a risk that is only approximate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.records.outcomes import Outcome
from harness.records.parts.clusters import Clusters
from harness.records.parts.part import Condition, Part
from harness.stats.ratio import has_few_drawn_sizes

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms, Gate
    from harness.records.verdicts import Verdict


@dataclass(frozen=True)
class RiskKeys:
    """The keys of the condition."""

    allow_approximate: bool = False  # may block and pass at a risk that is only approximate


@dataclass(frozen=True)
class ApproximateRisk(Part):
    """The risk is approximate, and the gate blocks: it does not pass."""

    critical: bool = field(default=True, init=False)
    is_mean: bool = False
    few_clusters: bool = False
    by_command: bool = False

    name = "approximate_risk"
    order = 120

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        text = "its risk is approximate, and the gate blocks"
        if self.is_mean and not self.few_clusters:
            return f"{text}: {format_exact_risk_ways(self.by_command)}"
        way = "claim a share of rows instead"
        if self.few_clusters:
            way = "it has few clusters of very uneven sizes; add clusters"
        return f"{text}: {way}, or write allow_approximate = true"

    def apply(self, outcome: Outcome) -> Outcome:
        return Outcome.INCONCLUSIVE if outcome is Outcome.PASS else outcome


class RiskLimit(Condition):
    """The stated risk holds for all rows."""

    keys = RiskKeys
    stricter: Mapping[str, int] = {"allow_approximate": -1}

    def is_set(self, gate: Gate) -> bool:
        return gate.allow_approximate

    def phrase(self, gate: Gate) -> str:
        return ", at an approximate risk" if gate.allow_approximate else ""

    def implies(self, gate: Gate, claim: Gate) -> bool:
        return claim.allow_approximate or not gate.allow_approximate

    def find_objection(self, gate: Gate, verdict: Verdict) -> ApproximateRisk | None:
        if verdict.outcome is not Outcome.PASS or not gate.forbids_risk(verdict.risk):
            return None
        clusters = verdict.get(Clusters)
        few = clusters is not None and has_few_drawn_sizes(clusters.effective)
        is_mean = verdict.terms is not None and verdict.terms.is_of_rows
        return ApproximateRisk(is_mean, few, gate.is_of_command)


def format_exact_risk_ways(command: bool) -> str:
    """Return how a claim on a mean gets an exact risk, as a command or a suite says it."""
    if command:
        return "give --range LOW HIGH of a row's score, or --cap X"
    return 'declare "range" or "cap", or write allow_approximate = true'
