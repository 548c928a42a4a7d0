"""Gates on the slices of one metric as a table: slices down, claims across, in each cell the verdict's glyph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness import Outcome, Verdict
from harness.internals import Slices, printable, slice_figures, summary, verdict_figures
from harness_report.formatting import GLYPHS, claim_in_words, metric_in_words
from harness_report.reading import LoadedRun

MIN_SLICE_GATES = 4  # gates on the slices of a metric, below which the list of gates is as clear


class Cell(NamedTuple):
    """The result of a claim on a slice.

    It has the outcome, its glyph, the estimate and the number of rows.
    """

    outcome: str
    glyph: str
    estimate: str
    n: int


class HeatRow(NamedTuple):
    """A slice with one cell per claim. A cell is None if the claim is not about the slice."""

    name: str
    n: int
    cells: list[Cell | None]


@dataclass(frozen=True)
class HeatMap:
    """The verdicts on the slices of one metric, worst slice first."""

    title: str
    column: str
    claims: list[str]
    rows: list[HeatRow]


def heat_maps(kept: LoadedRun) -> list[HeatMap]:
    """Return a heat map per metric and slice column.

    Only those with at least MIN_SLICE_GATES gates have one.
    """
    gates: dict[tuple[str, str], list[Verdict]] = {}
    for v in kept.run.verdicts:
        if (column := _find_only_slice_column(v)) and v.estimate is not None:
            gates.setdefault((v.metric, column), []).append(v)
    return [
        _make_heat_map(metric, column, found)
        for (metric, column), found in gates.items()
        if len(found) >= MIN_SLICE_GATES
    ]


def _find_only_slice_column(v: Verdict) -> str:
    slices = v.terms.slices if v.terms else ()
    return slices[0][0] if len(slices) == 1 else ""


def _make_heat_map(metric: str, column: str, verdicts: Sequence[Verdict]) -> HeatMap:
    table: dict[str, dict[str, tuple[Outcome, Cell]]] = {}
    claims: dict[str, None] = {}
    for v in verdicts:
        title = _format_claim_without_slice(v, several=len({one.candidate for one in verdicts}) > 1)
        claims.setdefault(title)
        for value, outcome, cell in _iterate_slice_cells(v):
            table.setdefault(value, {})[title] = outcome, cell

    def place(value: str) -> tuple[int, str]:
        return min(summary.RANKS[outcome] for outcome, _ in table[value].values()), value

    rows = []
    for value in sorted(table, key=place):
        cells = [table[value][title][1] if title in table[value] else None for title in claims]
        rows.append(HeatRow(printable(value), max(cell.n for cell in cells if cell), cells))
    return HeatMap(printable(f"{metric_in_words(metric)} by {column}"), printable(column), [*claims], rows)


def _format_claim_without_slice(v: Verdict, *, several: bool) -> str:
    """Return a claim in words without its metric and its slice."""
    about = v.terms
    terms = replace(about, gate=replace(about.gate, slice=None)) if about else None
    said = claim_in_words(replace(v, terms=terms))
    said = said.removeprefix(f"{metric_in_words(v.metric)}, ")
    return printable(said + (f", {v.candidate}" if several else ""))


def _iterate_slice_cells(v: Verdict) -> Iterator[tuple[str, Outcome, Cell]]:
    """Yield value, outcome and cell of each slice of a gate."""
    part = v.get(Slices)
    for s in part.slices if part else ():
        estimate = slice_figures(v, s).estimate
        yield s.name.partition("=")[2], s.outcome, Cell(s.outcome.value, GLYPHS[s.outcome], estimate, s.n)
    if part is None and v.terms:
        (_, value), *_ = v.terms.slices
        figures = verdict_figures(v)
        yield value, v.outcome, Cell(v.outcome.value, GLYPHS[v.outcome], figures.estimate, figures.n)
