"""What runs on a node: the harness' own desk, in an actor."""

from __future__ import annotations

from collections.abc import Iterator

from harness import Desk


class Answers:
    """Answers messages, one at a time."""

    def __init__(self) -> None:
        self._desk = Desk()

    def replies(self, message: str) -> Iterator[str]:
        """Yield signs with rows, and the reply to a message."""
        yield from self._desk.replies(message)
