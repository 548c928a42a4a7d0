"""Pairs of numbers with names, and the levels of a test."""

from __future__ import annotations

from typing import NamedTuple

MIN_ALPHA = 1e-9  # 1 - alpha has 16 digits, and the quantiles of a part of alpha are still exact


class Bounds(NamedTuple):
    """One-sided bounds. A missing bound is infinite."""

    lower: float
    upper: float


class PValues(NamedTuple):
    """The p-values of a claim and of its opposite."""

    passing: float
    failing: float


class Range(NamedTuple):
    """The range of a value; infinite where none is known."""

    low: float
    high: float


def find_alpha_error(alpha: float) -> str | None:
    """Return what a one-sided alpha must be, if it is not."""
    return None if MIN_ALPHA <= alpha <= 0.5 else f"it must be from {MIN_ALPHA:g} to 0.5"
