"""The values of a table's column, as a reader of cells finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["empty", "constant", "amount", "category", "shared", "unique"]
BLANK = -1  # the code of an empty cell


@dataclass(frozen=True)
class ColumnValues:
    """The values of a column, row by row.

    `codes` are places in `labels`, BLANK for an empty cell; both are empty for a column of unique values, of which
    `digest` alone is kept. `kind` says what the values are: amounts are numbers with fractions, categories few short
    values with many rows each, and texts and ids are shared by rows or unique.
    """

    kind: Kind
    is_text: bool  # some value has several words, or letters beyond ASCII
    digest: str
    codes: Sequence[int] = ()
    labels: Sequence[str] = ()

    def list_labels(self) -> list[str]:
        """Return the label of each row, empty for an empty cell."""
        return ["" if code == BLANK else self.labels[code] for code in self.codes]
