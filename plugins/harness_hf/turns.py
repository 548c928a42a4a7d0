"""Where a chat template writes the turns of a conversation.

The turns are found by rendering parts of the conversation, so that the template needs no generation markers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from harness import UsageError
from harness.internals import encoding

NO_TURN = "\N{OBJECT REPLACEMENT CHARACTER}"  # a content that no turn begins with
OPENING = ({"role": "user", "content": "?"},)  # stands before a conversation that begins with the assistant

Turn = Mapping[str, Any]
Render = Callable[..., str]  # turns, opened=False -> text; raises UsageError where the template rejects the turns


class Span(NamedTuple):
    """A part of a text, in characters."""

    begin: int
    end: int


@dataclass(frozen=True)
class RenderedTurns:
    """A conversation as a chat template renders it.

    `special_tokens` are those of the tokenizer.
    """

    turns: Sequence[Turn]
    text: str
    render: Render
    special_tokens: Sequence[str]

    def find_answer(self, index: int) -> Span:
        """Return what the assistant writes in a turn: from where generation opens it to where the next turn begins.

        Raises UsageError if neither can be told.
        """
        opened = self.render(self.turns[:index] or OPENING, opened=True)
        begin = self._find_opening(index, opened)
        return Span(begin, self._find_answer_end(index, begin, opened))

    def find_turn(self, index: int) -> Span:
        """Return a turn with its header: from where it begins to where the next one does."""
        begins = [self._find_begin(i) for i in range(index, len(self.turns))]
        return Span(begins[0], min((b for b in begins[1:] if b > begins[0]), default=len(self.text)))

    def find_special_tokens(self) -> list[int]:
        """Return where special tokens begin in the text."""
        return [match.start() for match in self._special.finditer(self.text)] if self.special_tokens else []

    @cached_property
    def _special(self) -> re.Pattern[str]:
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)))

    def _find_opening(self, index: int, opened: str) -> int:
        """Return where generation has opened a turn, or where the turn departs from what generation opens (D8)."""
        if self.text.startswith(opened):
            return len(opened)
        prompt = self.render(self.turns[:index] or OPENING)
        if self.text.startswith(prompt):
            return max(len(prompt), encoding.shared_length(self.text, opened))
        # The template writes earlier turns otherwise once there are later ones, as those with thoughts.
        header = opened.removeprefix(prompt) if opened.startswith(prompt) else ""
        first = self._find_content(index - 1) if index else 0
        window = self.text[first : self._find_content(index) + len(header)]
        for length in range(len(header), 0, -1):
            if (place := window.rfind(header[:length])) >= 0:
                return first + place + length
        raise UsageError(f"the chat template does not show where message {index + 1} begins")

    def _find_answer_end(self, index: int, begin: int, opened: str) -> int:
        if index == len(self.turns) - 1:
            return len(self.text)
        closed = ""
        with suppress(UsageError):  # a template that takes only some of the turns
            closed = self.render(self.turns[: index + 1])
        if closed and self.text.startswith(closed):
            return len(closed)
        # A last turn may be written otherwise than an earlier one, but both end alike.
        longest = len(closed) - encoding.shared_length(closed, opened)
        for length in range(longest, 0, -1):
            if self.text.startswith(closed[len(closed) - length :], begin):
                return begin + length
        return self._find_stop_token(index, begin)

    def _find_stop_token(self, index: int, begin: int) -> int:
        """Return the end of the first special token behind the content of a turn, before the next turn's content."""
        content, end = self.turns[index].get("content"), self._find_content(index + 1)
        content = content.strip() if isinstance(content, str) else ""
        place = self.text.find(content, begin, end) if content else -1
        if place >= 0 and self.special_tokens:
            stop = re.compile(f"(?:{self._special.pattern})\\s*")
            if match := stop.search(self.text, place + len(content), end):
                return match.end()
        raise UsageError(f"the chat template does not show where message {index + 1} ends")

    def _find_content(self, index: int) -> int:
        """Return where the text is another for another content of a turn."""
        other = {"role": self.turns[index]["role"], "content": NO_TURN}
        return encoding.shared_length(self.text, self.render([*self.turns[:index], other, *self.turns[index + 1 :]]))

    def _find_begin(self, index: int) -> int:
        """Return where a turn begins: where the turns before it end, or else where its content begins."""
        with suppress(UsageError):  # a template with rules of its own about turns
            before = self.render(self.turns[:index]) if index else ""
            if self.text.startswith(before):
                return len(before)
        return self._find_content(index)
