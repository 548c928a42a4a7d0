"""Numbers of things in words."""

from __future__ import annotations

SINGULAR = {"are": "is", "were": "was", "have": "has"}


def count_noun(n: int, noun: str, plural: str = "") -> str:
    """Write a number of things: 1 item, 2 items."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def agree_verb(n: int, phrase: str) -> str:
    """Write a phrase that begins with are, were or have for a number of things."""
    verb, space, rest = phrase.partition(" ")
    return f"{SINGULAR.get(verb, verb) if n == 1 else verb}{space}{rest}"
