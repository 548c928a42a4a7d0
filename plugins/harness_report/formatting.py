"""Numbers, times and claims as the report writes them: digits that matter, and a real minus sign."""

from __future__ import annotations

import math
from datetime import datetime

from harness import Scaled, Verdict
from harness.internals import numbers, printable, shorten, summary
from harness.internals import verdict_text as verdicts

GLYPHS, minus = summary.GLYPHS, numbers.typographic_minus
NAMES = {
    "acc": "accuracy", "acc_norm": "accuracy by length", "kl": "KL from the base", "bits_per_byte": "bits per byte",
    "exact_match": "exact match",
}  # fmt: skip
NO_VALUE = "–"
MAX_TEXT_CHARS = 2000  # characters of a quoted text on the page, unless there are very many rows
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)


def escape_text(text: str) -> str:
    """Escape and redact a text for display, except non-breaking spaces. These are the report's own."""
    return "\u00a0".join(map(printable, text.split("\u00a0")))


def format_value(x: float | None, unit: str = "") -> str:
    """Format a metric's value with the digits that matter. `unit` is "bytes" or "count", or empty."""
    if x is None or not math.isfinite(x):
        return NO_VALUE
    if unit == "bytes":
        return format_bytes(x)
    if x == int(x) and (abs(x) >= 10 or unit == "count"):
        return minus(f"{x / 1e6:,.1f}\u00a0M" if abs(x) >= 1e6 else f"{int(x):,}")
    return numbers.format_short(x)


def format_bytes(x: float) -> str:
    return numbers.format_bytes(x).replace(" ", "\u00a0")


def format_on_scale(x: float | None, scale: Scaled, *, versus: bool, unit: str = "") -> str:
    """Write a number on a claim's own scale: a value, or a difference; of a perplexity its logarithm is given."""
    if x is None or not math.isfinite(x):
        return NO_VALUE
    x = min(x, 50) if scale.is_log else x
    if not versus:
        return format_value(scale.from_test_scale(x), unit)
    return ("+" if x > 0 else "") + format_bytes(x) if unit == "bytes" else scale.format_test_change(x)


def format_limit(x: float) -> str:
    """Format a limit as its suite writes it, without needless digits."""
    return minus(numbers.format_limit(x))


def format_day(stamp: str, *, time: bool = True) -> str:
    """Write an ISO 8601 time as 25 November 2026, 09:52 UTC."""
    try:
        at = datetime.fromisoformat(stamp)
    except ValueError:
        return stamp
    return f"{at.day} {MONTHS[at.month - 1]} {at.year}" + (f", {at:%H:%M} UTC" if time else "")


def format_short_day(stamp: str) -> str:
    """Write a day as 5 Nov."""
    number, month, *_ = [*format_day(stamp, time=False).split(), "", ""]
    return f"{number} {month[:3]}"


def format_confidence(alpha: float | None) -> str:
    """Return the confidence of bounds at a risk: 95%, which is that of runs that do not say."""
    return numbers.format_percent(1 - (alpha or 0.05))


def metric_in_words(metric: str) -> str:
    """Return a metric in words: EVAL.METRIC as "accuracy on capitals"."""
    evaluation, _, name = metric.partition(".")
    said = NAMES.get(name, name.replace("_", " "))
    return said if evaluation in ("size", name) or not name else f"{said} on {evaluation}"


def claim_in_words(v: Verdict, unit: str = "") -> str:
    """Describe a verdict's claim in words. A claim from an older report is returned as it is."""
    about, what = v.terms, metric_in_words(v.metric)
    if about is None or about.kind not in ("bound", "difference") or not v.metric:
        return f"{what}, {v.claim}" if v.metric else v.claim
    size = abs(about.threshold)
    if about.kind == "bound":
        limit = format_bytes(size) if unit == "bytes" else numbers.format_limit(about.threshold)
        return f"{what}, {'at least' if about.sign > 0 else 'at most'} {limit}{about.gate.describe_conditions()}"
    if not size:
        return f"{what}, {v.claim}"
    points = verdicts.format_margin_points(v)
    margin = f"{100 * size:g}%" if about.relative or about.is_log else numbers.format_limit(size)
    worse = about.threshold < 0
    side = "below" if (about.sign > 0) == worse else "above"
    distance = f"{'at most' if worse else 'more than'} {margin}"
    return f"{what}, {distance} {side} {v.versus}’s{points}{about.gate.describe_conditions()}"


def make_excerpt(text: str, most: int = MAX_TEXT_CHARS) -> str:
    """Escape and redact a foreign text for display. The middle of a long text is left out."""
    return printable(shorten(text, most, middle=True), lines=True)
