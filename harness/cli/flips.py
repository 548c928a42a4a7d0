"""Rows of a run: the output of `harness show --flips` and `--rows`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness.cli.screen import Screen, format_title
from harness.document import Document, to_plain_data
from harness.errors import UsageError
from harness.records.run import Run
from harness.records.verdict_text import format_claim
from harness.records.verdicts import Verdict
from harness.reports.rows import (
    DisplayRow,
    RowList,
    count_lost_and_won,
    format_failed_rows,
    read_all_rows,
    read_changed_rows,
)
from harness.texts.counts import count_noun
from harness.texts.escaping import printable

MAX_TEXT_CHARS = 600  # characters of a text that is shown


Flips = Sequence[tuple[Verdict, Sequence[DisplayRow]]]  # of each gate that has any


def show_flips(args: argparse.Namespace, report: Run, folder: Path) -> Document[Flips]:
    """Return the rows that each gate lost, won or failed.

    At most `args.n` rows are printed for each gate.
    """
    flips = [(v, rows) for v in report.verdicts if (rows := read_changed_rows(report, folder, v))]

    def to_data(flips: Flips) -> dict[str, Any]:
        gates = [{"gate": v.gate, "candidate": v.candidate, "rows": rows} for v, rows in flips]
        return {"run": str(folder), "gates": to_plain_data(gates)}

    return Document(flips, partial(_print_flips, args.n), to_data=to_data)


def _print_flips(most: int, flips: Flips) -> None:
    screen = Screen()
    for verdict, rows in flips:
        _print_heading(screen, f"{verdict.candidate}: {format_title(verdict)}: {format_claim(verdict)}")
        counts = format_failed_rows(verdict, len(rows))
        if verdict.versus:
            lost, won = count_lost_and_won(verdict)
            kept = f"; only the {len(rows)} largest changes are stored" if lost + won > len(rows) else ""
            counts = f"{lost:,} lost and {won:,} won against {verdict.versus}{kept}"
        screen.print_line(counts + _describe_hidden_rows(len(rows), most))
        for row in rows[:most]:
            _print_row(screen, row)
    if not flips:
        screen.print_line("no row changed between a candidate and a gate's baseline, and no row failed a gate")


def show_rows(args: argparse.Namespace, report: Run, folder: Path) -> Document[Sequence[RowList]]:
    """Return rows with the answers of all subjects.

    At most `args.n` rows are printed for each eval. Raises UsageError if nothing was evaluated.
    """
    most = None if args.json else args.n
    names = [args.rows] if args.rows else dict.fromkeys(r.eval for r in report.results if r.outcome == "done")
    if not (found := [read_all_rows(report, folder, name, wrong=args.wrong, most=most) for name in names]):
        raise UsageError(f"{folder}: holds no rows, because nothing was evaluated")

    def to_data(found: Sequence[RowList]) -> dict[str, Any]:
        return {"run": str(folder), "rows": {one.eval: to_plain_data(one.rows) for one in found}}

    return Document(found, partial(_print_rows, args.n, args.wrong), to_data=to_data)


def _print_rows(most: int, wrong: bool, found: Sequence[RowList]) -> None:
    screen = Screen()
    for one in found:
        _print_heading(screen, one.eval)
        how = f" wrong by {one.metric}" if wrong else ""
        if wrong and one.of and not one.tells_right:
            screen.print_line(f"{one.metric} does not say which rows are wrong; leave out --wrong to see them")
            continue
        screen.print_line(f"{one.there:,} of {count_noun(one.of, 'row')}{how}{_describe_hidden_rows(one.there, most)}")
        for row in one.rows[:most]:
            _print_row(screen, row)


def _print_heading(screen: Screen, text: str) -> None:
    screen.print_line(f" {text} ".center(screen.console.width, "-"), "bold")


def _describe_hidden_rows(n: int, most: int) -> str:
    return f"; {most} shown, -n {n} shows all" if n > most else ""


def _print_row(screen: Screen, row: DisplayRow) -> None:
    labels = [row.change or "row", "id", "target", *(subject for subject, _ in row.answers)]
    room = max(map(len, labels)) + 2
    texts = (row.prompt, row.id, row.target, *(answer for _, answer in row.answers))
    for number, (label, text) in enumerate(zip(labels, texts, strict=True)):
        text = (
            text if len(text) <= MAX_TEXT_CHARS else f"{text[: MAX_TEXT_CHARS // 2]} … {text[-MAX_TEXT_CHARS // 2 :]}"
        )
        for i, line in enumerate(printable(text, lines=True).split("\n") if text else ["–"]):
            if number == i == 0:
                screen.print_entry(label.ljust(room), "bold", line, room)
            else:
                screen.print_line((label.ljust(room) if i == 0 else " " * room) + line.rstrip(), hang=room)
    screen.print_line("")
