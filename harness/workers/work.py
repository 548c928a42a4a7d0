"""The pieces of one call: which wait for a worker, what came of them, and which row is at fault where none answers."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from harness.texts.shown import shorten

TRIES = 3  # of a piece, before its row at fault is looked for


class Work:
    """Pieces of requests by their numbers; not for several threads.

    A piece is asked again whole, so that its answers have the same bits, and what was given before is not given twice.
    One that fails three times is halved until a row is found, and what its halves answer counts for nothing.
    """

    def __init__(self, pieces: list[list[int]]) -> None:
        self.pieces, self.left, self.waiting = pieces, len(pieces), deque(range(len(pieces)))
        self._given, self._failed = set[int](), Counter[int]()
        self._halves, self._halved = set[int](), list[int]()

    def took(self, piece: int, rows: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
        """Return the new ones of a piece's rows, by their requests."""
        if piece in self._halves:
            return []
        numbers = self.pieces[piece]
        new = [(numbers[place], answer) for place, answer in rows if numbers[place] not in self._given]
        self._given.update(number for number, _ in new)
        return new

    def ended(self, piece: int) -> list[int]:
        """Note that a piece was answered; return the rows that are at fault together, where each half of them was."""
        self.left -= 1
        searched = piece in self._halves
        self._halves.discard(piece)
        return self._halved if searched and not self._halves else []

    def failed(self, piece: int) -> list[int]:
        """Note that a piece was not answered; return the row at fault once it is known."""
        self._failed[piece] += 1
        if piece not in self._halves and self._failed[piece] < TRIES:
            self.waiting.appendleft(piece)
            return []
        rest = [number for number in self.pieces[piece] if number not in self._given] or self.pieces[piece]
        if len(rest) == 1:
            return rest
        self._halves.discard(piece)
        self._halved, half = self._halved or rest, len(rest) // 2
        for part in (rest[half:], rest[:half]):
            self._halves.add(len(self.pieces))
            self.waiting.appendleft(len(self.pieces))
            self.pieces.append(part)
        self.left += 1
        return []


def at_fault(rows: Sequence[Any], why: Exception | None) -> str:
    """Return in a line which rows are never answered: one, and how that ended, or several that are only together."""
    first = f'"{_begin(rows[0])}"'
    if why is None:
        return f"{TRIES} times {len(rows)} rows were not answered, the first is {first}, and each half was: memory?"
    return f"the row {first} is never answered: {why}"


def _begin(request: Any) -> str:
    """Return what a request asks, in a line: its beginning and its end, where rows differ behind examples."""
    text = request[0] or request[1] if isinstance(request, (list, tuple)) and len(request) == 2 else request
    if isinstance(text, list):
        text = str(text[-1].get("content")) if text and isinstance(text[-1], dict) else str(text)
    return shorten(" ".join(str(text).split()), 120)
