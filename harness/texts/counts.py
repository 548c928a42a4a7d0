"""Numbers of things in words."""

from __future__ import annotations


def count_noun(n: int, noun: str, plural: str = "") -> str:
    """Write a number of things: 1 item, 2 items."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
