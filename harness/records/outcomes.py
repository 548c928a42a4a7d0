"""What a gate's verdict may be."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """The outcome of a gate: proven, refuted, neither, or not evaluated."""

    PASS = "PASS"  # noqa: S105 -- a verdict, not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"
