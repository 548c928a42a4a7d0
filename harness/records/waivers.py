"""A waiver, as it is written."""

from __future__ import annotations

from dataclasses import dataclass

IGNORED = "its errors are ignored"  # the claim of a waiver that is for a check


@dataclass(frozen=True)
class Waiver:
    """One line of `SUITE.waivers.jsonl`: who lets which claim of a gate be broken, why, and until when.

    `until` is the last day it is in force and `added` the day it was written, both ISO 8601, UTC. `claim` is for
    people; `digest` is that of the whole claim. Where the claim is IGNORED, `gate` is the code of a check whose
    errors are passed over.
    """

    gate: str
    claim: str
    reason: str
    until: str
    by: str
    added: str
    digest: str

    def summary(self) -> str:
        """Return it in one line."""
        return f"waived by {self.by} until {self.until}: {self.reason}"
