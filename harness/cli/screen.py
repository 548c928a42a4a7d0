"""A console as we write on it: lines, rules and columns, in which nothing of a text is markup."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from harness.cli.words import escape
from harness.texts.shown import shown


class Screen:
    """A console that prints text as it is, on one line each."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True, emoji=False)

    def line(self, text: str, style: str = "") -> None:
        """Print a line."""
        self.console.print(escape(text), style=style or None)

    def lines(self, text: str, style: str = "") -> None:
        """Print each line of a text that is one of several, such as a traceback, set off from our own."""
        for line in text.rstrip().split("\n"):
            self.line(f"  {line}", style)

    def rule(self, text: str, style: str = "") -> None:
        """Print a text in the middle of a rule."""
        self.line(f" {text} ".center(self.console.width, "="), style)

    def columns(self, rows: Sequence[Sequence[str]], indent: str = "") -> None:
        """Print rows in columns as wide as they need, never cut."""
        rows = [[shown(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            first, *rest = (
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            self.line((indent + "  ".join([first, *rest])).rstrip())
