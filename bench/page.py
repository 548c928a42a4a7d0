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


@dataclass(frozen=True)
class Machine:
    """What was measured on one machine: where, how, and the parts."""

    where: Mapping[str, str]
    notes: Sequence[str]
    sections: Sequence[Section]

    @property
    def name(self) -> str:
        """The processor, and what a GPU is called."""
        return format_machine_name(self.where)


def format_machine_name(where: Mapping[str, str]) -> str:
    """Return what a machine is known by on a page and among records."""
    return ", ".join(where[key] for key in ("processor", "GPU") if key in where)


def page(machines: Sequence[Machine]) -> str:
    """Write the page: where it was measured, the bars, and every part's tables, machines side by side."""
    parts = ["# Performance", "Written by `make bench`; to change a number, run it again."]
    for machine in machines:
        facts = "\n".join(f"- {name}: {value}" for name, value in machine.where.items())
        parts += [facts, "\n".join(machine.notes)]
    bars = [{bar.what: bar for section in machine.sections for bar in section.bars} for machine in machines]
    wanted = {what: bar.wanted for own in bars for what, bar in own.items()}
    lines = [[what, bar, *(_format_bar(own.get(what)) for own in bars)] for what, bar in wanted.items()]
    met = " and ".join(f"{sum(bar.met for bar in own.values())} of {len(own)}" for own in bars)
    names = [machine.name for machine in machines] if machines[1:] else ["measured"]
    parts += [f"{met} bars are met:", format_table(["", "bar", *names], lines)]
    for title in dict.fromkeys(section.title for machine in machines for section in machine.sections):
        parts.append(f"## {title}")
        for machine in machines:
            for section in machine.sections:
                if section.title == title:
                    parts += [*([f"### {machine.name}"] if machines[1:] else []), *section.text]
    return "\n\n".join(parts) + "\n"


def _format_bar(bar: Bar | None) -> str:
    return "" if bar is None else bar.found if bar.met else f"{bar.found}, **missed**"


def format_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Write a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def format_gigabytes(number: int) -> str:
    """Write bytes as GB."""
    return f"{number / 1e9:.2f} GB"
