"""Which waiver covers a gate that did not pass: the same for a run and for its verification.

A waiver is for one claim, known by the digest of all that it claims, and until a date.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from harness.records.claims.gate import Gate
from harness.records.parts.waived import VoidWaiver, Waived
from harness.records.verdict_text import complete
from harness.records.verdicts import Outcome, Verdict
from harness.records.waivers import Waiver


@dataclass(frozen=True)
class GateWaivers:
    """The waivers of a suite, the oldest first, the claim of a gate with its digest, and the day of the decision.

    The claim is that of the suite, where "parent" is not a model yet.
    """

    waivers: Sequence[Waiver]
    claim: str
    claim_digest: str
    today: date

    def apply(self, gate: Gate, verdict: Verdict) -> Verdict:
        """Return a verdict with the waiver that covers it, or with the reason why none does."""
        own = [waiver for waiver in self.waivers if waiver.gate == gate.id]
        if not verdict.blocking or verdict.outcome is Outcome.PASS or not own:
            return verdict
        if waiver := self.find_active(gate):
            return complete(verdict, Waived(waiver))
        error = find_waiver_error(own[-1], self.claim, self.claim_digest, self.today)
        return complete(verdict, VoidWaiver(error))

    def find_active(self, gate: Gate) -> Waiver | None:
        """Return the newest waiver in force for the gate."""
        for waiver in reversed(self.waivers):
            if waiver.gate == gate.id and not find_waiver_error(waiver, self.claim, self.claim_digest, self.today):
                return waiver
        return None


def find_waiver_error(waiver: Waiver, claim: str, claim_digest: str, today: date) -> str:
    """Return the reason a waiver does not count for a claim, or an empty text."""
    if date.fromisoformat(waiver.until) < today:
        return f"expired on {waiver.until}"
    if waiver.claim != claim:
        return f'is for another claim, "{waiver.claim}"'
    if waiver.digest != claim_digest:
        return "is for another claim with the same words: its eval or one of its keys changed"
    return ""


def describe_claim(gate: Gate) -> str:
    """Describe the claim that a waiver is given for."""
    return f"{gate.metric} {gate.claim()}".strip()
