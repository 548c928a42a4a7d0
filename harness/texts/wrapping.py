"""Lines no wider than a screen, cut between words."""

from __future__ import annotations

import textwrap

MIN_COLUMNS = 40  # columns below which lines are left to the terminal


def wrap_line(text: str, width: int | None, hang: int | None = None) -> list[str]:
    """Wrap a line at `width` columns. A wider word stays whole.

    Continuation lines start at column `hang`, or two to the right of the line's start. Without a width, or with one
    below MIN_COLUMNS, the line is one part.
    """
    if width is None or width < MIN_COLUMNS or len(text) <= width:
        return [text]
    rest = " " * (len(text) - len(text.lstrip()) + 2 if hang is None else hang)
    return textwrap.wrap(text, width, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False) or [text]


def join_paragraphs(text: str) -> list[str]:
    """Join each paragraph of a docstring into one line.

    Indented lines and lists stay as they are.
    """
    found: list[str] = []
    for line in text.split("\n"):
        if found and found[-1] and line and line[0] not in " -*|" and found[-1][0] not in " -*|":  # it goes on
            found[-1] += f" {line}"
        else:
            found.append(line)
    return found
