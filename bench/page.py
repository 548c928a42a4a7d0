"""From what the parts found to one Markdown page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bar:
    """What was to be reached and what was; `result` says that it is about results, where a miss is an error."""

    what: str
    found: str
    wanted: str
    met: bool
    result: bool = False


@dataclass(frozen=True)
class Section:
    """One part of the page: paragraphs and tables, and its bars."""

    title: str
    text: Sequence[str]
    bars: Sequence[Bar]


def page(where: Mapping[str, str], notes: Sequence[str], sections: Sequence[Section]) -> str:
    """Write the page: where it was measured, the bars, and every part's tables."""
    bars = [bar for section in sections for bar in section.bars]
    lines = [[bar.what, bar.found, bar.wanted, "met" if bar.met else "**missed**"] for bar in bars]
    parts = [
        "# Performance",
        "Written by `make bench`; to change a number, run it again.",
        "\n".join(f"- {name}: {value}" for name, value in where.items()),
        "\n".join(notes),
        f"{sum(bar.met for bar in bars)} of {len(bars)} bars are met:",
        table(["", "measured", "bar", ""], lines),
    ]
    for section in sections:
        parts += [f"## {section.title}", *section.text]
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Write a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def gigabytes(number: int) -> str:
    """Write bytes as GB."""
    return f"{number / 1e9:.2f} GB"
