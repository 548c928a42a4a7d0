"""Numbers as a person reads them: the same digits wherever one stands."""

from __future__ import annotations

import math

SIZES = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def number(x: float | None) -> str:
    """Write a metric so that a person can read it: four digits that matter; nan where it has no value."""
    if x is None or not math.isfinite(x):
        return "nan" if x is None else str(x)
    if x == int(x) and abs(x) >= 10:
        return f"{int(x):,}"
    return f"{x:.3f}" if abs(x) < 100 else f"{x:,.1f}"


def short_number(x: float | None) -> str:
    """Write a metric in a sentence of many numbers, with fewer digits where it is large."""
    if x is None:
        return "–"
    return f"{x:.3f}" if abs(x) < 10 else f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.2f}"


def size(n: int) -> str:
    """Write bytes as a person would: 10.0 kB, 273 MB."""
    for unit, name in SIZES:
        if n >= unit:
            return f"{n / unit:,.1f} {name}" if n < 100 * unit else f"{n / unit:,.0f} {name}"
    return f"{n} B"


def duration(seconds: float) -> str:
    """Write seconds as a person would: 12.3 s, 4 min 05 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
