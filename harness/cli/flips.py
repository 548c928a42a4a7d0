"""Rows of a run: the output of `harness show --flips` and `--rows`."""

from __future__ import annotations

from collections.abc import Sequence

from harness.cli.screen import Screen, title
from harness.records.verdicts import Verdict
from harness.reports.rows import Listed, Shown, failed_rows, lost_and_won
from harness.texts.counts import counted
from harness.texts.shown import shown

LONGEST = 600  # characters of a text that is shown


def print_flips(flips: Sequence[tuple[Verdict, Sequence[Shown]]], most: int) -> None:
    """Print the rows each gate lost, won or failed, so many of each."""
    screen = Screen()
    for verdict, rows in flips:
        _heading(screen, f"{verdict.candidate}: {title(verdict)}: {verdict.metric} {verdict.claim}")
        screen.line(_counts(rows, verdict, most))
        for row in rows[:most]:
            _print_row(screen, row)
    if not flips:
        screen.line("no row changed between a candidate and the baseline of a gate, and none failed one")


def print_rows(found: Sequence[Listed], most: int, wrong: bool) -> None:
    """Print rows with the answers of all subjects, so many of each eval."""
    screen = Screen()
    for one in found:
        _heading(screen, one.eval)
        how = f" wrong by {one.metric}" if wrong else ""
        screen.line(f"{one.there:,} of {counted(one.of, 'row')}{how}{_cut(one.there, most)}")
        for row in one.rows[:most]:
            _print_row(screen, row)


def _heading(screen: Screen, text: str) -> None:
    screen.line(f" {text} ".center(screen.console.width, "-"), "bold")


def _counts(rows: Sequence[Shown], verdict: Verdict, most: int) -> str:
    if not verdict.versus:
        return f"{failed_rows(verdict, len(rows))}{_cut(len(rows), most)}"
    lost, won = lost_and_won(verdict)
    kept = f", of which the {len(rows)} largest changes are kept" if lost + won > len(rows) else ""
    return f"{lost:,} lost and {won:,} won against {verdict.versus}{kept}{_cut(len(rows), most)}"


def _cut(n: int, most: int) -> str:
    return f"; {most} shown, all of them with -n {n}" if n > most else ""


def _print_row(screen: Screen, row: Shown) -> None:
    labels = [row.change or "row", "id", "target", *(subject for subject, _ in row.answers)]
    room = max(map(len, labels)) + 2
    texts = (row.prompt, row.id, row.target, *(answer for _, answer in row.answers))
    for number, (label, text) in enumerate(zip(labels, texts, strict=True)):
        text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
        for i, line in enumerate(shown(text, lines=True).split("\n") if text else ["–"]):
            if number == i == 0:
                screen.entry(label.ljust(room), "bold", line, room)
            else:
                screen.line((label.ljust(room) if i == 0 else " " * room) + line.rstrip(), hang=room)
    screen.line("")
