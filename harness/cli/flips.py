"""Rows that changed between a candidate and the baseline of a gate: the output of `harness show --flips`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.cli.words import escape
from harness.errors import UsageError
from harness.records.gates import Verdict
from harness.records.run import Run
from harness.reports.run_folder import read_rows

Rows = dict[str, dict[str, Any]]
Flip = tuple[str, str, str, str, str]  # won or lost, prompt, target, the baseline's answer, the candidate's


def print_flips(run: Run, folder: Path) -> None:
    """Print the rows each gate of a run won and lost. Raises UsageError where the folder has other rows."""
    console = Console(highlight=False)
    changed = [v for v in run.verdicts if v.versus and (v.won or v.lost)]
    for verdict in changed:
        evaluation = verdict.metric.partition(".")[0]
        ours = read_rows(folder, verdict.candidate, evaluation)
        theirs = read_rows(folder, verdict.versus or "", evaluation)
        try:
            flips = _flips(verdict, ours, theirs)
        except (LookupError, TypeError):
            what = f'its rows are not those that changed for "{verdict.gate}" on {verdict.candidate}'
            raise UsageError(f"{folder}: {what}; run the suite again") from None
        _print_flips(console, verdict, flips)
    if not changed:
        console.print("no row changed between a candidate and the baseline of a gate")


def _print_flips(console: Console, verdict: Verdict, rows: Iterable[Flip]) -> None:
    """Print the rows one gate won and lost."""
    console.print(escape(f" {verdict.candidate}: {verdict.gate} ".center(console.width, "-")), soft_wrap=True)
    for change, prompt, target, theirs, ours in rows:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_row(f"[bold]{change}[/]", escape(prompt, lines=True))
        table.add_row("target", escape(target, lines=True))
        table.add_row(escape(verdict.versus or ""), escape(theirs, lines=True))
        table.add_row(escape(verdict.candidate), escape(ours, lines=True))
        console.print(table)
        console.print()


def _flips(verdict: Verdict, ours: Rows, theirs: Rows) -> list[Flip]:
    def row(change: str, key: str) -> Flip:
        theirs_said, ours_said = str(theirs[key]["resps"][0][0]), str(ours[key]["resps"][0][0])
        return change, str(ours[key]["arguments"][0][0]), str(ours[key]["target"]), theirs_said, ours_said

    return [row("lost", i) for i in verdict.lost] + [row("won", i) for i in verdict.won]
