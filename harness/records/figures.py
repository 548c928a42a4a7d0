"""The numbers of a verdict as every output writes them: of the same rows, to the same digit."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Any

from harness.texts.numbers import SIZES, format_short, typographic_minus

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms

NO_VALUE = "–"
DECIMAL_DIGITS = 3  # after the point, of numbers below 10 whose interval does not ask for more
MOST_DIGITS = 12
MAX_DECIMAL_VALUE = 1e15  # from here on digits after the point say nothing
EXTRA_DIGITS = 1  # more digits, until the two values differ by the estimate
RELATIVE_TOLERANCE = 1e-9  # of two values' size, up to which their difference is the estimate


@dataclass(frozen=True)
class Figures:
    """A verdict's numbers as text, all of the rows of `where`: the slice that decides, or "" for all rows.

    `estimand` names the estimate where it is not the plain difference of the two values, or the value itself.
    """

    value: str
    baseline: str
    estimate: str
    lower: str
    upper: str
    limit: str
    points: tuple[str, ...]  # estimate, lower, upper and limit of a share, times 100
    estimand: str = ""
    where: str = ""
    n: int = 0
    lost: int = 0
    won: int = 0

    @property
    def bounds(self) -> str:
        """Both bounds in brackets."""
        return f"[{self.lower}, {self.upper}]"


def write_figures(
    about: ClaimTerms | None, told: Mapping[str, Any], *, unit: str = "", parts: Mapping[str, Any] | None = None
) -> Figures:
    """Write numbers on a claim's scale: `estimate`, `lower`, `upper`, `limit`, and the two values where there are any.

    The digits are two of the half-width of the interval, at least those of a value alone, and so many that the values
    written differ by the estimate written.
    """
    tested = [_finite_or_none(told.get(name)) for name in ("estimate", "lower", "upper", "limit")]
    both = [_finite_or_none(told.get(name)) for name in ("value", "baseline")]
    rest = {name: told[name] for name in ("where", "n", "lost", "won") if told.get(name) is not None}
    if about and about.is_count and all(x is None or x == int(x) for x in (*tested, *both)):
        unit = unit or "count"
    back, sign = _make_test_scale_inverse(about), "+" if about and about.kind == "difference" else ""
    numbers = [None if x is None else back(x) for x in tested]
    if about is not None and sign and about.is_log:
        digits = max(1, _choose_decimal_digits(numbers, [1.0]) - 2)
        texts = [NO_VALUE if x is None else typographic_minus(f"{x:+.{digits}%}") for x in numbers]
        values = [NO_VALUE if x is None else format_short(x) for x in both]
        named = "relative change" if about.cap is None else "capped relative change"
        return _make_figures([*texts, *values], _format_percentage_points(numbers, DECIMAL_DIGITS, sign), named, rest)
    if not sign:
        digits, both = _choose_decimal_digits(numbers, numbers[:1]), [both[0], None]
        texts = _format_numbers_in_one_unit(numbers, digits, unit, sign)
        values = _format_numbers_in_one_unit(both, digits, unit)
        named = "share of rows" if about and about.kind == "losses" else ""
        return _make_figures([*texts, *values], _format_percentage_points(numbers, digits, sign), named, rest)
    digits, named = _choose_decimal_digits(numbers, both), _name_estimate(about, told, parts or {})
    if not named and None not in (*both, numbers[0]):
        size, digits = (_choose_unit(both)[0], 1) if unit == "bytes" else (1, digits)
        value, baseline, estimate = (x / size for x in (*both, numbers[0]) if x is not None)
        digits, estimate = _find_consistent_digits(value, baseline, estimate, digits)
        numbers[0] = estimate * size
    texts = _format_numbers_in_one_unit([*numbers, *both], digits, unit, sign, signed=4)
    return _make_figures(texts, _format_percentage_points(numbers, digits, sign), named, rest)


def _make_figures(texts: Sequence[str], points: Sequence[str], estimand: str, rest: Mapping[str, Any]) -> Figures:
    names = ("estimate", "lower", "upper", "limit", "value", "baseline")
    numbers: dict[str, Any] = dict(zip(names, texts, strict=True))
    return Figures(**numbers, points=tuple(points), estimand=estimand, **rest)


def _name_estimate(about: ClaimTerms | None, told: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """Name an estimate that is not the values' plain difference. Else an empty string."""
    value, baseline, estimate = (_finite_or_none(told.get(name)) for name in ("value", "baseline", "estimate"))
    if value is None or baseline is None or estimate is None:
        return ""
    if abs(value - baseline - estimate) <= RELATIVE_TOLERANCE * max(1.0, abs(value), abs(baseline)):
        return ""
    if about and about.cap is not None:
        return "capped mean difference"
    names = (str(getattr(part, "estimand", "")) for part in parts.values())
    return next(filter(None, names), "estimated difference")


def _find_consistent_digits(value: float, baseline: float, estimate: float, digits: int) -> tuple[int, float]:
    """Return the fewest digits that keep written numbers consistent.

    With them the difference of the two written values is the written estimate. At least `digits` are used; if none up
    to EXTRA_DIGITS more fit, the estimate is the difference of the rounded values.
    """
    for more in range(digits, digits + EXTRA_DIGITS + 1):
        ours, theirs, change = (_round_decimal(x, more) for x in (value, baseline, estimate))
        if ours - theirs == change:
            return more, estimate
    return more, float(ours - theirs)


def _choose_decimal_digits(numbers: Sequence[float | None], values: Sequence[float | None]) -> int:
    """Return the number of decimal digits to write.

    They show two digits of the half-width of the interval, or of an estimate without one, and at least the usual digits
    of `values`; more if a bound would be written as the limit that it is above or below. `numbers` are the estimate,
    the lower and upper bound, and the limit.
    """
    size = max((abs(x) for x in values if x is not None), default=0.0)
    least = DECIMAL_DIGITS if size < 10 else 2 if size < 1000 else 0
    estimate, lower, upper, limit = numbers
    half = (upper - lower) / 2 if lower is not None and upper is not None else 0.0
    half = half or abs(estimate or 0.0)
    if half <= RELATIVE_TOLERANCE * max(size, *(abs(x) for x in numbers[:3] if x is not None), 0.0):
        return least
    digits = min(max(least, 1 - math.floor(math.log10(half))), MOST_DIGITS)
    return digits if limit is None else _find_separating_digits(limit, (lower, upper), half, digits)


def _find_separating_digits(limit: float, bounds: Iterable[float | None], half: float, digits: int) -> int:
    """Return the digits that tell the bounds from the limit, at least `digits`.

    Bounds nearer than a thousandth of the half-width `half` are taken as the limit.
    """
    near = [x for x in bounds if x is not None and half / 1000 < abs(x - limit) < half]
    while digits < MOST_DIGITS and any(_round_decimal(x, digits) == _round_decimal(limit, digits) for x in near):
        digits += 1
    return digits


def _format_numbers_in_one_unit(
    numbers: Sequence[float | None], digits: int, unit: str, sign: str = "", *, signed: int = 9
) -> list[str]:
    """Format numbers in one unit. The first `signed` ones get the sign."""
    size, suffix = _choose_unit(numbers) if unit == "bytes" else (1, "")
    signs = [sign if i < signed else "" for i in range(len(numbers))]
    return [_format_number(x, size, suffix, digits, unit, s) for x, s in zip(numbers, signs, strict=True)]


def _format_number(x: float | None, size: int, suffix: str, digits: int, unit: str, sign: str) -> str:
    if x is None:
        return NO_VALUE
    if unit == "bytes":
        text = f"{_round_decimal(x / size, max(digits, 1)):{sign},}"
        return typographic_minus(re.sub(r"\.0+$", "", text)) + suffix
    if abs(x) >= MAX_DECIMAL_VALUE:
        return typographic_minus(f"{x:{sign}.4g}")
    if unit == "count" and x == int(x):
        return typographic_minus(f"{int(x):{sign},}")
    return typographic_minus(f"{_round_decimal(x, digits):{sign},}")


def _choose_unit(numbers: Sequence[float | None]) -> tuple[int, str]:
    """Return the byte unit that fits the largest number. It is the unit's size in bytes and its name."""
    largest = max((abs(x) for x in numbers if x is not None), default=0.0)
    size, name = next((one for one in SIZES if largest >= one[0]), (1, "B"))
    return size, f"\u00a0{name}"


def _format_percentage_points(numbers: Sequence[float | None], digits: int, sign: str) -> list[str]:
    """Return numbers times 100, rounded as the numbers are."""
    digits = max(digits, DECIMAL_DIGITS)
    rounded = [None if x is None else _round_decimal(x, digits) * 100 for x in numbers]
    return [NO_VALUE if x is None else typographic_minus(f"{x:{sign},.{digits - 2}f}") for x in rounded]


def _round_decimal(x: float, digits: int) -> Decimal:
    """Round a number to some decimal digits. Never returns minus zero."""
    if abs(x) >= MAX_DECIMAL_VALUE:
        return Decimal(repr(x))
    return Decimal(repr(x)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN) + 0


def _finite_or_none(x: Any) -> float | None:
    return x if isinstance(x, (int, float)) and math.isfinite(x) else None


def _make_test_scale_inverse(about: ClaimTerms | None) -> Callable[[float], float]:
    """Return a function from the claim's test scale to values.

    For a difference it returns changes of a value.
    """
    if about is None:
        return float
    change, log = about.kind == "difference", about.is_log
    return lambda x: about.from_test_scale(min(x, 50.0) if log else x, change=change)
