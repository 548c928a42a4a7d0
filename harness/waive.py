"""Waivers: a named person answers, until a date, for a gate that did not pass. Never silent, never for ever."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Waiver:
    """One line of `<suite>.waivers.jsonl`: who lets which claim of a gate be broken, why, and until when.

    `until` is the last day it is in force and `added` the day it was written, both ISO 8601, UTC.
    """

    gate: str
    claim: str
    reason: str
    until: str
    by: str
    added: str
