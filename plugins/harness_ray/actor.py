"""What runs on a node: the harness' own desk, in an actor."""

from __future__ import annotations

from harness import Desk


class Answers:
    """Answers messages, one at a time."""

    def __init__(self) -> None:
        self._desk = Desk()

    def answer(self, message: str) -> str:
        """Return the reply to a message."""
        return self._desk.answer(message)
