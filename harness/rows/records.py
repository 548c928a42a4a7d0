"""Records that readers make from other tools' files.

RawRow and RawMetric make up RawRows; nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.records.column_values import ColumnValues

UNSET_COLUMN = "none"  # in the place of a column that is there and is not to be read
COLUMNS = ("id", "score", "input", "target", "answer", "weight", "repeat")  # of a table, which a user names
SIDES = ("base_score", "candidate_score")  # columns of the scores of each side, in one table
State = Literal["scored", "error", "limit", "skipped", "unscored"]
Better = Literal["higher", "lower"]
Binding = Literal["none", "named", "claimed"]


@dataclass(slots=True)  # not frozen: of millions, each would take six times as long to make
class RawRow:
    """One answer that another tool scored.

    `key` is the name that the file gives the row, "" where it has none; a `numbered` one is a place or running number,
    so that it names nothing. `content` tells what was asked, before template and shots, and what is wanted
    (`harness.data.identity`), `prompt` is the sha256 of what was sent; "" is unknown.
    `values` holds only what was scored, by metric; of a perplexity it is nats per unit, and `lengths` its units.
    `why` is of an error or a limit, in the tool's words, at most 200 characters. `input`, `target` and `answer` are the
    texts that a reader of the verdict sees: what was asked, what is wanted, and what the model answered.
    """

    key: str = ""
    numbered: bool = False
    content: str = ""
    prompt: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    state: State = "scored"
    why: str = ""
    repeat: int = 0
    weight: float = 1.0
    cluster: str = ""
    second_cluster: str = ""
    slices: Mapping[str, str] = field(default_factory=dict)
    lengths: Mapping[str, float] = field(default_factory=dict)
    input: str = ""
    target: str = ""
    answer: str = ""


@dataclass(frozen=True)
class RawMetric:
    """The facts about a metric from its file or tool.

    `range` is the least and the greatest possible value of a row, `total` the tool's own number over its scored rows,
    `unreadable` the reason why its rows cannot be read.
    """

    better: Better | None = None
    scale: str | None = None
    total: float | None = None
    range: tuple[float, float] | None = None
    unreadable: str = ""


@dataclass(frozen=True)
class RawRows:
    """One task of one run, as a tool's files hold it.

    `facts` are what fairness compares, by the names in `harness.rows.comparability`; `binding` tells how rows name what
    answered, `bound` its revision or sha256; `sources` are the files that were read: path as given, sha256, size,
    `contents` the sha256 of each, decompressed;
    `columns` what a table has of input and target, `part` which rows or
    column of a table with several models these are, `tasks` those of a group.
    Of a table, `input_column` holds its questions, `cells` are the columns that nobody declared (None for other
    files), and `columns_told` says how columns were read. `cluster_notes` say which columns make clusters.
    """

    tool: str
    model: str
    task: str
    metrics: Mapping[str, RawMetric]
    rows: Sequence[RawRow]
    facts: Mapping[str, str] = field(default_factory=dict)
    binding: Binding = "none"
    bound: str = ""
    notes: tuple[str, ...] = ()
    sources: tuple[tuple[str, str, int], ...] = ()
    contents: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    part: str = ""
    tasks: tuple[str, ...] = ()
    input_column: str = ""
    cells: Mapping[str, ColumnValues] | None = None
    columns_told: tuple[str, ...] = ()
    cluster_notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowsOptions:
    """The options of `rows`; their meanings are told there."""

    task: str = ""
    metric: str = ""
    filter: str = ""
    tool: str = ""
    better: Literal["", "higher", "lower"] = ""
    scale: Literal["", "proportion", "mean", "perplexity"] = ""
    id: str = ""
    score: str = ""
    input: str = ""
    target: str = ""
    answer: str = ""
    base_score: str = ""
    candidate_score: str = ""
    weight: str = ""
    repeat: str = ""
    repeats: int = 0
    missing: Literal["refuse", "wrong"] = "refuse"
    allow: list[str] | None = None
    only_common: bool = False


@dataclass(frozen=True)
class Wanted(RowsOptions):
    """A user's options for reading a file.

    An empty text selects the only one there is. `label` stands after "#" in a path. `texts` are the keys of the rows to
    keep texts of; None keeps those of all, as long as they fit into memory.
    """

    cluster: Sequence[str] = ()
    slices: Sequence[str] = ()
    label: str = ""
    texts: frozenset[str] | None = None
