"""A console as we write on it: lines, rules and columns, in which nothing of a text is markup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape as unmarked

from harness.cli.streams import on_screen
from harness.texts.shown import bounded, shown
from harness.texts.wrapping import wrapped


class Screen:
    """A console that prints text as it is: wrapped at words where a person looks at it, else on one line each."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True, emoji=False)
        capable = self.console.is_terminal and not self.console.is_dumb_terminal
        self.is_drawn = capable and on_screen(self.console.file)  # bars are drawn, and lines wrapped

    @property
    def width(self) -> int | None:
        """The columns that a line may have, or None where nothing is wrapped."""
        return self.console.width if self.is_drawn else None

    def line(self, text: str, style: str = "", hang: int | None = None) -> None:
        """Print a line; where it is wrapped, the rest of it stands at column `hang`, or two right of its beginning."""
        for part in self.wrapped(bounded(shown(text)), hang):
            self.console.print(unmarked(part), style=style or None)

    def entry(self, word: str, style: str, text: str, hang: int) -> None:
        """Print a line that begins with a word in a style of its own."""
        first, *rest = self.wrapped(word + bounded(shown(text)), hang)
        self.console.print(f"[{style}]{unmarked(word)}[/]{unmarked(first[len(word) :])}")
        for part in rest:
            self.console.print(unmarked(part))

    def wrapped(self, text: str, hang: int | None = None) -> list[str]:
        """Return a line in parts no wider than the screen; a word that is wider stays whole."""
        return wrapped(text, self.width, hang)

    def lines(self, text: str, style: str = "") -> None:
        """Print each line of a text that is one of several, such as a traceback, set off from our own."""
        for line in text.rstrip().split("\n"):
            self.line(f"  {line}", style)

    def rule(self, text: str, style: str = "") -> None:
        """Print a text in the middle of a rule."""
        for part in self.wrapped(f" {text} ", 1):
            self.line(part.center(self.console.width, "="), style)

    def columns(self, rows: Sequence[Sequence[str]], indent: str = "") -> None:
        """Print rows in columns as wide as they need, never cut: what is too wide is continued in a second table."""
        rows = [[shown(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for number, chosen in enumerate(self._blocks(widths, len(indent))):
            if number:
                self.line("")
            for row in rows:
                first, *rest = (row[i].rjust(widths[i]) if i else row[i].ljust(widths[i]) for i in chosen)
                self.console.print(unmarked((indent + "  ".join([first, *rest])).rstrip()))

    def _blocks(self, widths: Sequence[int], indent: int) -> Iterator[list[int]]:
        """Yield which columns stand side by side: the first, and as many of the others as there is room for."""
        block, taken = [0], indent + widths[0]
        for i, width in enumerate(widths[1:], 1):
            if self.width is not None and len(block) > 1 and taken + 2 + width > self.width:
                yield block
                block, taken = [0], indent + widths[0]
            block.append(i)
            taken += 2 + width
        yield block
