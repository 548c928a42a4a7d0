"""Pairs of numbers with names."""

from __future__ import annotations

from typing import NamedTuple


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
