"""A waiver, as it is written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Waiver:
    """One line of `<suite>.waivers.jsonl`: who lets which claim of a gate be broken, why, and until when.

    `until` is the last day it is in force and `added` the day it was written, both ISO 8601, UTC. `claim` is for
    people; `digest` is that of the whole claim, and "" in lines that were written before there was one.
    """

    gate: str
    claim: str
    reason: str
    until: str
    by: str
    added: str
    digest: str = ""

    def says(self) -> str:
        """Return it in one line."""
        return f"waived by {self.by} until {self.until}: {self.reason}"
