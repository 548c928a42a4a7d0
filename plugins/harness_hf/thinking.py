"""A thought under a budget: closed by force, token by token, so that one within its budget has the bits of any other.

Imports torch through its caller: import this module inside functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness import ThoughtBudget, UsageError
from harness_hf.tokens import Tokens


@dataclass(frozen=True)
class Marks:
    """The marks of thoughts as a tokenizer has them, and how long thought and answer may be, in tokens."""

    tokens: Tokens
    budget: ThoughtBudget
    answer: int

    @classmethod
    def of(cls, tokens: Tokens, budget: ThoughtBudget, answer: int) -> Marks:
        """Return the marks; raises UsageError where texts do not show them."""
        for mark in (budget.begin, budget.end):
            if tokens.special(mark) is not None:
                what = f'the mark "{mark}" is a special token of this model, which no answer shows'
                raise UsageError(f"thought_budget: {what}; leave thought_budget and thought out")
        return cls(tokens, budget, answer)

    @property
    def closing(self) -> list[int]:
        """The tokens that close a thought."""
        return self.tokens.plain(self.budget.end)

    @property
    def longest(self) -> int:
        """The most tokens of a thought, what closes it and the answer."""
        return max(self.budget.tokens, self.answer) + len(self.closing) + self.answer

    def thinking(self, prompt: Sequence[int]) -> Thinking:
        """Return the state of an answer that has no token yet; its thought is begun where the prompt opened it."""
        return Thinking(self, begun=self.seen(self.budget.begin, prompt, last=True))

    def seen(self, mark: str, ids: Sequence[int], *, last: bool = False) -> bool:
        """Return whether the last token may have completed a mark; with `last` nothing but blanks comes after it."""
        tail = self.tokens.decode(ids[-len(mark.encode()) - 4 :])  # a token holds a byte at least; 4: half characters
        return tail.rstrip().endswith(mark) if last else mark in tail


@dataclass
class Thinking:
    """How far an answer's thought is; `pending` are tokens that it gets whatever the model says."""

    marks: Marks
    begun: bool
    ended: int | None = None  # how many tokens there were
    forced: bool = False
    pending: list[int] = field(default_factory=list)

    def read(self, ids: Sequence[int]) -> None:
        """Take note of a new last token."""
        if self.pending:
            self.pending.pop(0)
            self.ended = None if self.pending else len(ids)
            return
        budget = self.marks.budget
        self.begun = self.begun or self.marks.seen(budget.begin, ids)
        if not self.begun or self.ended is not None:
            return
        if self.marks.seen(budget.end, ids):
            self.ended = len(ids)
        elif len(ids) >= budget.tokens:
            self.pending, self.forced = self.marks.closing, True

    @property
    def most(self) -> int:
        """The most tokens there may be, as far as is known by now."""
        if not self.begun:
            return self.marks.answer
        return self.marks.longest if self.ended is None else self.ended + self.marks.answer

    def wanted(self, known: int) -> int:
        """Return how many tokens may follow those that are `known` before anything is forced or ends."""
        thinks = self.begun and self.ended is None
        return max(1, (self.marks.budget.tokens if thinks else self.most) - known)
