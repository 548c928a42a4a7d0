"""Numbers as a person reads them: the same digits wherever one stands."""

from __future__ import annotations

import math

MIN_PRINTED_P = 1e-4  # p-value that is written by its digits
MAX_P_DIGITS = 6
SECONDS_PER_MINUTE = MINUTES_PER_HOUR = 60
SIZES = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def typographic_minus(text: str) -> str:
    """Replace hyphens by minus signs. Those are as wide as a plus."""
    return text.replace("-", "\u2212")


def format_percent(share: float) -> str:
    """Format a risk, or the confidence that it leaves.

    The risk has three digits: 1.67%, 95%, 98.33%, 99.999%.
    """
    risk = float(f"{100 * min(share, 1 - share):.3g}")
    return f"{risk if share < 0.5 else 100 - risk:g}%"


def format_metric(x: float | None) -> str:
    """Write a metric so that a person can read it: a whole one with all digits; nan where it has no value."""
    if x is None or not math.isfinite(x):
        return "nan" if x is None else str(x)
    return typographic_minus(f"{int(x):,}") if x == int(x) and abs(x) >= 10 else format_short(x)


def format_short(x: float | None) -> str:
    """Format a metric for a sentence with many numbers. Large ones have fewer digits."""
    if x is None:
        return "–"
    return typographic_minus(f"{x:.3f}" if abs(x) < 10 else f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.2f}")


def format_limit(x: float | str | None) -> str:
    """Return a number of a claim as a claim is written."""
    if x is None or isinstance(x, str):
        return (x or "").strip()
    return f"{x:,.0f}" if x == int(x) and abs(x) >= 1000 else f"{x:g}"


def format_p(p: float, alpha: float | None = None) -> str:
    """Format a p-value for a column.

    Below 0.0001 it is "< 0.0001", since it is no more exact than that, and never 0. It has more digits if two would put
    it on the other side of `alpha`.
    """
    digits = 2
    while alpha is not None and digits < MAX_P_DIGITS and (float(f"{p:.{digits}g}") <= alpha) != (p <= alpha):
        digits += 1
    return "< 0.0001" if p < MIN_PRINTED_P else f"{p:.{digits}g}"


def format_p_in_sentence(p: float, alpha: float | None = None) -> str:
    """Write a p-value in a sentence: p = 0.012, p < 0.0001."""
    return f"p {'' if p < MIN_PRINTED_P else '= '}{format_p(p, alpha)}"


def format_bytes(n: float) -> str:
    """Write bytes as a person would: 10 kB, 272.6 MB."""
    unit, name = next((one for one in SIZES if abs(n) >= one[0]), (1, "B"))
    return typographic_minus(f"{n / unit:,.1f}").removesuffix(".0") + f" {name}"


def format_duration(seconds: float | None) -> str:
    """Write seconds as a person would: 12.3 s, 4 min 05 s, 2 h 10 min."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if round(seconds, 1) < SECONDS_PER_MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), SECONDS_PER_MINUTE)
    if minutes < MINUTES_PER_HOUR:
        return f"{minutes} min {rest:02d} s"
    hours, rest = divmod(minutes, MINUTES_PER_HOUR)
    return f"{hours} h {rest:02d} min"
