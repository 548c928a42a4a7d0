"""What a reader makes of another tool's files: RawRow and RawMetric -> RawRows; nothing is judged here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

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
    `why` is of an error or a limit, in the tool's words, at most 200 characters.
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
    slices: Mapping[str, str] = field(default_factory=dict)
    lengths: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RawMetric:
    """What a file, or its tool, tells of a metric.

    `total` is the tool's own number over its scored rows, `unreadable` why its rows cannot be read.
    """

    better: Better | None = None
    scale: str | None = None
    total: float | None = None
    unreadable: str = ""


@dataclass(frozen=True)
class RawRows:
    """One task of one run, as a tool's files hold it.

    `facts` are what fairness compares, by the names in `harness_rows.fairness`; `binding` tells how the rows name what
    answered, `bound` its revision or sha256; `sources` are the files that were read: path as given, sha256, size.
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


@dataclass(frozen=True)
class Wanted:
    """What a user asked for of a file; "" is whatever there is one of.

    `columns` are the names of a table's columns for "id", "score", "cluster", "weight", "slice" (several), "input",
    "target" and "repeat"; `label` stands after "#" in a path.
    """

    task: str = ""
    metric: str = ""
    filter: str = ""
    columns: Mapping[str, str | list[str]] = field(default_factory=dict)
    better: Better | None = None
    scale: str | None = None
    label: str = ""


class RowReader(Protocol):
    """What reads the rows of one tool."""

    name: str

    def sniff(self, path: Path, head: bytes) -> bool:
        """Return whether this tool wrote it, by what it holds; the head of a folder is empty."""
        ...

    def read(self, path: Path, want: Wanted) -> RawRows:
        """Return the rows of one task.

        Raises UsageError for what cannot be read, or is not settled.
        """
        ...
