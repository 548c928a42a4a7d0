"""The cells of a table's columns: which rows share a value, and whether values are texts, ids, categories or amounts.

Names of columns do not matter here, so that a verdict on a table does not depend on them.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from hashlib import blake2b

from harness.data.identity import canonical_text
from harness.records.column_values import BLANK, ColumnValues, Kind

MAX_CATEGORIES = 40  # different values of a column of categories
MAX_CODES = 10  # different values of categories that all have digits; of more, they are ids
MIN_ROWS_PER_CATEGORY = 5  # on average
MANY_ROWS_PER_CATEGORY = 100  # on average, from which on more than MAX_CATEGORIES values may be categories
MAX_CATEGORY_CHARS, MAX_CATEGORY_WORDS = 60, 5
MAX_LOOKED_AT = 2000  # different values of a column by which its kind is known
MAX_KEPT_CHARS = 32  # of a value that is kept as it is; longer ones are kept as digests
AMOUNT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|[-+]?inf", re.IGNORECASE)
WHOLE = re.compile(r"[-+]?\d+(?:\.0+)?")
QUESTION_MARKS = ("?", "？", "؟")


def is_category(
    values: int, rows: int, *, longest: int, words: int = 1, questions: bool = False, digits: bool = False
) -> bool:
    """Return whether so many different values of so many rows are categories.

    Categories are few, short, and have many rows each. `longest` is in characters and `words` of the longest value,
    `questions` says that one is a question, `digits` that all have digits, as ids do.
    """
    if values < 2 or longest > MAX_CATEGORY_CHARS or words > MAX_CATEGORY_WORDS or questions:
        return False
    if digits:
        return values <= MAX_CODES and rows >= MIN_ROWS_PER_CATEGORY * values
    least = MIN_ROWS_PER_CATEGORY if values <= MAX_CATEGORIES else MANY_ROWS_PER_CATEGORY
    return rows >= least * values


class ColumnReader:
    """Reads the cells of a column, a piece of the table at a time."""

    def __init__(self) -> None:
        self._codes = array("i")
        self._places: dict[str, int] = {}  # by label
        self._known: dict[str, int] = {"": BLANK}  # by text, of short ones
        self._longest = self._words = 0
        self._questions = self._text = self._amounts = False
        self._numbers = self._digits = True

    def extend(self, texts: Iterable[str]) -> None:
        """Add the texts of the next cells."""
        known, add = self._known, self._codes.append
        for text in texts:
            code = known.get(text)
            add(self._add_value(text) if code is None else code)

    def pad(self, rows: int) -> None:
        """Add empty cells up to a number of rows."""
        self._codes.extend([BLANK] * (rows - len(self._codes)))

    def finish(self) -> ColumnValues:
        """Return the values that were read."""
        values, rows = len(self._places), sum(code != BLANK for code in self._codes)
        kind = self._find_kind(values, rows)
        whole = blake2b(digest_size=8)
        for label in sorted(self._places):
            whole.update(label.encode("utf-8", "surrogatepass"))
        kept = kind in ("category", "shared")
        return ColumnValues(
            kind,
            self._text,
            whole.hexdigest(),
            self._codes if kept else (),
            [*self._places] if kept else (),
        )

    def _find_kind(self, values: int, rows: int) -> Kind:
        if values < 2:
            return "constant" if values else "empty"
        if self._numbers and self._amounts:
            return "amount"
        longest, words, digits = self._longest, self._words, self._digits
        if is_category(values, rows, longest=longest, words=words, questions=self._questions, digits=digits):
            return "category"
        return "shared" if values < rows else "unique"

    def _add_value(self, text: str) -> int:
        """Return the code of a value that was not seen yet in this spelling."""
        told = canonical_text(text)
        if not told:
            code = BLANK
        else:
            label = told if len(told) <= MAX_KEPT_CHARS else _shorten_to_digest(told)
            code = self._places.setdefault(label, len(self._places))
            if code < MAX_LOOKED_AT:
                self._look_at(told)
        if len(text) <= MAX_KEPT_CHARS:
            self._known[text] = code
        return code

    def _look_at(self, text: str) -> None:
        words = text.count(" ") + 1
        self._longest, self._words = max(self._longest, len(text)), max(self._words, words)
        self._questions = self._questions or text.endswith(QUESTION_MARKS)
        self._text = self._text or words > 1 or not text.isascii()
        whole = WHOLE.fullmatch(text) is not None
        self._numbers = self._numbers and (whole or AMOUNT.fullmatch(text) is not None)
        self._amounts = self._amounts or not whole
        self._digits = self._digits and any(map(str.isdecimal, text))


def _shorten_to_digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
