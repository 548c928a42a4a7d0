"""Console output without markup, and formats for numbers and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape as unmarked

from harness.records import verdict_text
from harness.records.verdicts import Outcome, Verdict
from harness.texts.escaping import limit_length, printable
from harness.texts.printing import is_screen
from harness.texts.wrapping import wrap_line

SAME_REASON = "for the same reason"


class Screen:
    """A console that prints text as it is: wrapped at words where a person looks at it, else on one line each."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True, emoji=False)
        capable = self.console.is_terminal and not self.console.is_dumb_terminal
        self.is_drawn = capable and is_screen(self.console.file)  # bars are drawn, and lines wrapped

    @property
    def width(self) -> int | None:
        """The line width in columns, None if lines are not wrapped.

        A word that is wider stays whole.
        """
        return self.console.width if self.is_drawn else None

    def print_line(self, text: str, style: str = "", hang: int | None = None) -> None:
        """Print a line, wrapped to the screen's width.

        Continuation lines start at column `hang`, by default two right of the line's beginning.
        """
        for part in wrap_line(limit_length(printable(text)), self.width, hang):
            self.console.print(unmarked(part), style=style or None)

    def print_entry(self, word: str, style: str, text: str, hang: int) -> None:
        """Print a line that begins with a styled word."""
        first, *rest = wrap_line(word + limit_length(printable(text)), self.width, hang)
        self.console.print(f"[{style}]{unmarked(word)}[/]{unmarked(first[len(word) :])}")
        for part in rest:
            self.console.print(unmarked(part))

    def print_lines(self, text: str, style: str = "") -> None:
        """Print the indented lines of a text such as a traceback."""
        for line in text.rstrip().split("\n"):
            self.print_line(f"  {line}", style)

    def print_rule(self, text: str, style: str = "") -> None:
        """Print a text in the middle of a rule."""
        for part in wrap_line(f" {text} ", self.width, 1):
            self.print_line(part.center(self.console.width, "="), style)

    def print_columns(self, rows: Sequence[Sequence[str]], indent: str = "") -> None:
        """Print rows in columns as wide as they need, never cut: what is too wide is continued in a second table."""
        rows = [[printable(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for number, chosen in enumerate(self._iterate_column_blocks(widths, len(indent))):
            if number:
                self.print_line("")
            for row in rows:
                first, *rest = (row[i].rjust(widths[i]) if i else row[i].ljust(widths[i]) for i in chosen)
                self.console.print(unmarked((indent + "  ".join([first, *rest])).rstrip()))

    def _iterate_column_blocks(self, widths: Sequence[int], indent: int) -> Iterator[list[int]]:
        """Yield which columns stand side by side: the first, and as many of the others as there is room for."""
        block, taken = [0], indent + widths[0]
        for i, width in enumerate(widths[1:], 1):
            if self.width is not None and len(block) > 1 and taken + 2 + width > self.width:
                yield block
                block, taken = [0], indent + widths[0]
            block.append(i)
            taken += 2 + width
        yield block


def format_title(v: Verdict) -> str:
    """Return a gate's name, with its exemption in brackets.

    The exemption says why the gate does not block by itself.
    """
    if not v.blocking:
        return f"{v.gate} (warn)"
    return f"{v.gate} (not what ships)" if v.outcome is not Outcome.PASS and not v.decides else v.gate


def format_reasons(verdicts: Sequence[Verdict], *, tests: bool) -> list[str]:
    """Return the reason of each verdict, without long repetitions.

    A long reason equal to the one before becomes SAME_REASON, since gates without rows often share theirs.
    """
    whys = [v.why if tests else verdict_text.format_brief(v) for v in verdicts]
    return [
        SAME_REASON if why == before and v.estimate is None and len(why) > len(SAME_REASON) else why
        for v, why, before in zip(verdicts, whys, ["", *whys], strict=False)
    ]


def format_interval(lower: float | None, upper: float | None, write: Callable[[float], str]) -> str:
    """Format an interval in brackets, after a space.

    Empty if a bound is missing.
    """
    return "" if lower is None or upper is None else f" [{write(lower)}, {write(upper)}]"


def format_fact(key: str, value: object) -> str:
    """Write a fact about a model or a training in words."""
    label = key.replace("_", " ")
    if label.endswith("bytes") and isinstance(value, (int, float)):
        return f"{label.removesuffix('bytes').strip()} {value / 1e6:,.1f} MB".strip()
    return f"{label} {format_value(value)}"


def format_value(value: object) -> str:
    """Format a number for display, and any other value as text.

    Integers and numbers from 10,000 on get thousands separators, smaller floats four significant digits.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 10_000 else f"{value:.4g}"


def short_path(path: str | Path) -> str:
    """Return a path relative to the working directory, if inside it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (OSError, ValueError):  # elsewhere, or there is no here
        return str(path)
