"""The one way in which a text is shortened."""

from __future__ import annotations

MARK = "…"  # stands for what was cut


def shorten(text: str, most: int, *, middle: bool = False) -> str:
    """Return a text of at most `most` characters.

    A longer one ends in "…"; with `middle` its middle is left out instead.
    """
    if len(text) <= most:
        return text
    if not middle:
        return text[: most - len(MARK)] + MARK
    gap = f" {MARK} "
    kept = most - len(gap)
    return text[: kept - kept // 2] + gap + text[-(kept // 2) :]


def shorten_to_line(text: object, most: int, *, middle: bool = False) -> str:
    """Return a text on one line, with single spaces, as `shorten` does."""
    return shorten(" ".join(str(text).split()), most, middle=middle)
