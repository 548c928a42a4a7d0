"""The number of an answer against the one that is wanted: `numeric`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from harness import Sample, Score, Subject, UsageError, evaluator, metric
from harness_domain.matching import generate_all, require_targets

# characters of a number, and its exponent of ten: beyond it exact arithmetic would take all memory
MAX_NUMBER_CHARS = 300
COINS = "$€£¥₹"
SCALES = {"k": 3, "thousand": 3, "tausend": 3, "lakh": 5, "m": 6, "mio": 6, "million": 6, "millionen": 6, "crore": 7}
SCALES |= {"b": 9, "bn": 9, "mrd": 9, "billion": 9, "milliard": 9, "milliarde": 9, "milliarden": 9, "trillion": 12}
MARKUP_REPLACEMENTS = {  # how a text is made plain before it is read, in this order
    r"\\(?:text|math)[a-z]*\s?\{([^{}]*)\}": r"\1",
    "(?<=[0-9])(?:[\u00a0\u202f\u2007\u2009]|\\\\[,;: ]|\\{,\\})(?=[0-9]{3})": "'",  # NFKC makes plain spaces of them
    r"\\[,;:! ]|(?<=[0-9])~(?=[^\W\d_])": " ",
    r"\\(?=[%$€£])": "",
    r"(?<=\n)[ \t]*[-+*•–—][ \t]+(?=\S)": "",  # the mark of an item in a list
    r"(?<!\w)_+": "",  # of __42__
    r"(?<=[0-9])(?=[¼½¾⅐-⅞]|\\[cdt]?frac)": " ",
    "(?<=[0-9])(?=[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹])": "^",
    r"\\(?:times|cdot)(?![a-z])\s?|[·⋅](?=\s?10)": "×",
    r"(?<=[0-9])\s?(?:±|\+/-|\\pm)\s?[0-9.,]*[0-9]": "",
}
REPLACEMENTS = {  # and after Unicode's NFKC
    "\u2212": "-",
    "\u2044": "/",
    rf"(?<![0-9)%°])(?<![0-9)%°]\s)[\u2010\u2012-\u2015](?=\.?[0-9]|[{COINS}])": "-",  # a dash that is no range's
    rf"(?i)(?<![0-9)]\s)\b(?:minus|negative)\s(?=[0-9{COINS}])": "-",
    # 2024-05-06, 06.05.2024, 12:30 and 1.2.3 are no numbers, nor are their parts
    r"(?<![0-9.,])(?:[0-9]{4}([-/.])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-.])[0-9]{1,2}\2[0-9]{4}"
    r"|[0-9]+(?::[0-9]+)+(?:[.,][0-9]+)?"
    r"|(?![0-9]{1,3}(?:\.[0-9]{3})+(?![0-9.]))[0-9]+(?:\.[0-9]+){2,})(?![0-9])": ";",
    r"(?<![\w.×*])(?<![×x*]\s)10\s?(?=\^|\*\*)": "1×10",  # "10^6", with nothing before it to multiply
}
# "1 000 000", and not "1 2 3"
SPACED_GROUPS = re.compile(r"(?<![\w.,])(?<![0-9]\s)[1-9][0-9]{0,2}(?: [0-9]{3})+(?!\s?[0-9])")
LATEX = re.compile(r"\\[cdt]?frac" + 2 * r"\s*(?:\{\s*([-−–]?)\s*([0-9][0-9.,]*)\s*\}|([0-9]))")
# what can only be written with the other mark: 1.234.567 and 1.234,56 under a decimal point
OTHER_GROUPING = (
    r"(?<![\w.,])[1-9][0-9]{0,2}(?:(?:[POINT][0-9]{3})+[GROUP][0-9]+|(?:[POINT][0-9]{3}){2,})(?![0-9]|[.,][0-9])"
)
POINT = re.compile(r"(?<![0-9])0?\.[0-9]|\.(?![0-9]{3}(?![0-9]))[0-9]")  # under a decimal comma: one of no thousands
# under a decimal comma: a point that can only be a decimal one
DECIMAL_POINT = re.compile(r"(?<![\w.,])(0|[0-9]+(?=\.(?![0-9]{3}(?![0-9]))))\.(?=[0-9]+(?![0-9]|[.,][0-9]))")
UNIT_PATTERN = re.compile(rf"[^\W\d_]|\s?[%‰°{COINS}]")  # what makes a number one of a unit, at its end
NUMBER = r"""
    (?P<sign>(?<![\w)])(?:[-+](?!\s)|(?<![0-9)]\s)[-+]\s))?  (?:(?P<coin>[COINS])\s?(?P<inner>[-+])?)?
    (?<![\w./])
    (?P<plain>
        (?: [1-9][0-9]{0,2}(?:[GROUP'’_][0-9]{3})+(?![0-9]) | [1-9][0-9]?(?:[GROUP][0-9]{2})+[GROUP][0-9]{3}(?![0-9])
          | [0-9]+ ) (?:[POINT][0-9]+)?
      | [POINT][0-9]+ )
    (?:
        (?: e | \s?[×x*]\s?10\s?(?:\^|\*\*)\s?[({]? ) (?P<power>[-+]?[0-9]+) [)}]?
      | (?:\s(?P<part>[0-9]+))? \s?/\s? (?P<over>[0-9]+) (?![0-9/])
    )?
    (?: (?P<scale> (?(coin)(?-i:[kKMB])(?!\$)|(?-i:LETTER)) | [\s-]?(?:WORDS)s? ) (?!\w) )?
"""


class NumberParser:
    """How numbers stand in a text."""

    def __init__(self, units: Mapping[str, float] | None = None, decimal: str = ".", fractions: bool = True) -> None:
        """Raise UsageError on units that multiply by nothing."""
        if units is not None and (not units or not all(units.values())):
            raise UsageError("units: give names with factors other than 0, such as { km = 1, m = 0.001 }")
        self.units = None if units is None else {unit: Fraction(str(by)) for unit, by in units.items()}
        self.other = re.compile(
            OTHER_GROUPING.replace("POINT", decimal).replace("GROUP", "," if decimal == "." else ".")
        )
        words = "|".join(word for word in SCALES if len(word) > 1 and word not in (units or ()))
        text = NUMBER.replace("COINS", COINS).replace("POINT", decimal).replace("GROUP", "," if decimal == "." else ".")
        text = text.replace("WORDS", words).replace("LETTER", "(?!)" if "k" in (units or ()) else "k")
        self.pattern = re.compile(text, re.VERBOSE | re.IGNORECASE)
        self.decimal, self.fractions = decimal, fractions
        self.of_json = self if decimal == "." else NumberParser(units, ".", fractions)
        named = sorted((unit for unit in units or () if unit), key=len, reverse=True)
        self.behind = re.compile(rf"\s{{0,2}}({'|'.join(map(re.escape, named))})(?!\w)") if named else None

    def parse(self, text: str) -> list[Fraction]:
        """Return the numbers of a text, in order. Those with another unit or without a finite value are left out."""

        def divided(match: re.Match[str]) -> str:  # a fraction of LaTeX, with a slash
            minus, above, digit, other, over, last = match.groups("")
            return f"{'-' if bool(minus) != bool(other) else ''}{above or digit}/{over or last}"

        text = write_ascii_digits(text, self.decimal)
        for pattern, by in MARKUP_REPLACEMENTS.items():
            text = re.sub(pattern, by, text)
        text = unicodedata.normalize("NFKC", LATEX.sub(divided, text))
        for pattern, by in REPLACEMENTS.items():
            text = re.sub(pattern, by, text)
        text = SPACED_GROUPS.sub(lambda m: m[0].replace(" ", "'"), text)
        text = self.other.sub(lambda m: m[0].translate({ord("."): ",", ord(","): "."}), text)
        text = DECIMAL_POINT.sub(r"\1,", text) if self.decimal == "," else text
        return [
            number for number in map(self._convert_match_to_fraction, self.pattern.finditer(text)) if number is not None
        ]

    def _convert_match_to_fraction(self, match: re.Match[str]) -> Fraction | None:
        part, over = match.group("part", "over")
        if (
            len(match[0]) > MAX_NUMBER_CHARS
            or abs(power := int(match["power"] or 0)) > MAX_NUMBER_CHARS
            or (over and not int(over))
        ):
            return None
        digits = "".join(c for c in match["plain"] if c.isdecimal() or c == self.decimal).replace(self.decimal, ".")
        number = Fraction(f"0{digits}") * Fraction(10) ** power
        if over and self.fractions:
            number = number + Fraction(int(part), int(over)) if part else number / int(over)
        if scale := match["scale"]:
            number *= 10 ** SCALES[scale.strip(" -").lower().removesuffix("s")]
        if "-" in f"{match['sign']}{match['inner']}":
            number = -number
        if self.units is None:
            return number
        if self.behind and (unit := self.behind.match(match.string, match.end())):
            return number * self.units[unit[1]]
        if not match["coin"] and UNIT_PATTERN.match(match.string, match.end()):
            return None
        factor = self.units.get(match["coin"] or "")
        return None if factor is None else number * factor


def write_ascii_digits(text: str, decimal: str) -> str:
    """Convert the decimal digits of all scripts to 0-9. Arabic separators and percent signs are converted as well."""
    if text.isascii():
        return text
    text = re.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0])), text)
    for mark, by in {"\u066b": decimal, "\u066c": "'"}.items():
        text = re.sub(f"(?<=[0-9]){mark}(?=[0-9])", by, text)
    return text.replace("\u066a", "%")


def check_numeric_rows(samples: Sequence[Sample], options: Mapping[str, Any], folder: Path) -> None:
    """Raise UsageError on invalid targets, tolerances or units. Each target must hold exactly one number."""
    read = NumberParser(**{name: options[name] for name in ("units", "decimal", "fractions") if name in options})
    for name in ("tolerance", "relative"):
        if options.get(name, 0) < 0:
            raise UsageError(f"{name} is {options[name]}; it must be 0 or more")
    for sample in samples:
        _parse_target_numbers(sample, read)


def _parse_voted_number(answer: str, options: Mapping[str, Any]) -> Fraction | None:
    """Return the number that an answer votes for. Answers without a number share the vote None."""
    read = NumberParser(options.get("units"), options.get("decimal", "."), options.get("fractions", True))
    return _select_number_by_position(read.parse(answer), options.get("take", "last"))


@evaluator(check_rows=check_numeric_rows, votes=_parse_voted_number)
@metric("correct", better="higher", scale="proportion")
@metric("error", better="lower", scale="proportion")
def numeric(
    subject: Subject, samples: Sequence[Sample], *,
    take: Literal["last", "first", "only"] = "last", tolerance: float = 0.0, relative: float = 0.0,
    units: Mapping[str, float] | None = None, decimal: Literal[".", ","] = ".", fractions: bool = True,
    max_new_tokens: int = 64, stop: tuple[str, ...] = (), thought: tuple[str, ...] = (),
) -> Iterator[Score]:  # fmt: skip
    """Score 1 if an answer's number is within tolerance of the target.

    `correct`: |x − t| ≤ max(`tolerance`, `relative` · |t|), in exact arithmetic. `error`: |x − t| / |t|, at most 1, and
    1 without a number; for t = 0 it is 0 if the answer is correct, else 1. `take` selects the number of the answer that
    counts; with "only" an answer of several has none.

    Supported are digits of every script, signs and dashes right before a digit (between two numbers they are no signs),
    groups of three digits ("1,234.5", "1 000 000"; with `decimal = ","` "1.234,5"; India's "12,34,567"), scientific
    notation ("1.5e-3", "1.5 × 10^-3"), magnitudes ("1.5 million", "3k", "$2M") and, with `fractions`, "3/4", "1 1/2",
    "½" and LaTeX's. Digits in a word ("H2O") are no number, and neither are infinities, "nan", and the parts of a date
    (2024-05-06), a time (12:30) or a version (1.2.3). Without `units` any unit beside a number is ignored. With them,
    such as { km = 1, m = 0.001 }, a number counts if one of them stands behind it or, as "$" does, before it, and is
    multiplied by its factor; the unit "" is a number without a unit. Of several targets the nearest counts, and one
    that is a number in JSON is read with a decimal point regardless of `decimal`. Raises UsageError on a row with a
    target that is not exactly one number.
    """
    read = NumberParser(units, decimal, fractions)
    wanted = [_parse_target_numbers(s, read) for s in samples]
    found = generate_all(subject, samples, max_new_tokens, stop, thought)
    within = Fraction(str(tolerance)), Fraction(str(relative))
    for sample, targets, (said, details) in zip(samples, wanted, found, strict=True):
        numbers = read.parse(said)
        number = _select_number_by_position(numbers, take)
        values = min(
            (_compute_number_metrics(number, t, *within) for t in targets), key=lambda v: v["error"] - v["correct"]
        )
        note = None if number is not None else f"{len(numbers) or 'no'} numbers"
        yield Score(sample.id, values, answer=said, note=note, details=details)


def _select_number_by_position(numbers: Sequence[Fraction], take: str) -> Fraction | None:
    """Return the number of an answer that counts, if one does."""
    return None if not numbers or (take == "only" and len(numbers) > 1) else numbers[0 if take == "first" else -1]


def _compute_number_metrics(
    number: Fraction | None, target: Fraction, tolerance: Fraction, relative: Fraction
) -> dict[str, float]:
    if number is None:
        return {"correct": 0.0, "error": 1.0}
    away, right = abs(number - target), abs(number - target) <= max(tolerance, relative * abs(target))
    error = float(min(away / abs(target), Fraction(1))) if target else float(not right)
    return {"correct": float(right), "error": error}


def _parse_target_numbers(sample: Sample, read: NumberParser) -> list[Fraction]:
    """Return the numbers of a row's targets. Raises UsageError if a target does not hold exactly one number."""
    found = []
    columns = [v if isinstance(v, list) else [v] for v in sample.row.values()]
    in_json = {str(v) for column in columns for v in column if isinstance(v, (int, float))}  # `decimal` is not theirs
    for target in require_targets(sample):
        numbers = (read.of_json if target in in_json else read).parse(target)
        if target not in in_json and read.decimal == "," and POINT.search(write_ascii_digits(target, ",")):
            what = "has a point that does not separate thousands; write a decimal comma, or a JSON number"
            raise UsageError(f'row "{sample.id}": the target {target!r:.60} {what}')
        if len(numbers) != 1:
            has = f"{len(numbers)} numbers" if numbers else "no number" + (" in these units" if read.units else "")
            raise UsageError(f'row "{sample.id}": the target {target!r:.60} has {has}; it must have exactly one')
        found += numbers
    return found
