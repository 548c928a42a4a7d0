"""An answer in work: its tokens so far, what ends it, and how its next token is chosen.

A thought under a budget is closed by force, token by token, so that one within its budget has the bits of any other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from harness import CheckFailed, Said, Sampling, UsageError
from harness.internals import Ended, ThoughtBudget
from harness_hf.tokens import Tokens


@dataclass(frozen=True)
class Ending:
    """What ends an answer: stop tokens, and stop strings in the decoded text."""

    tokens: Tokens
    stops: frozenset[int]
    strings: tuple[str, ...]

    def cut(self, text: str) -> str:
        """Return the text before the first stop string."""
        found = [at for s in self.strings if s and (at := text.find(s)) >= 0]
        return text[: min(found)] if found else text

    def reached(self, ids: Sequence[int]) -> bool:
        """Return whether the last token completed a stop string; only tokens that could hold one are decoded."""
        if not self.strings:
            return False
        longest = max(len(s.encode()) for s in self.strings) + 4  # a token holds a byte at least; 4: half characters
        tail = self.tokens.decode(ids[-longest:])
        if self.cut(tail) == tail:
            return False
        text = self.tokens.decode(ids)
        return self.cut(text) != text


@dataclass
class Answer:
    """One prompt and what was answered so far; `bound` sets its limit, `ended` is set at its end."""

    number: int
    prompt: list[int]
    limit: int
    ending: Ending
    seed: int | None = None
    bound: Ended = "length"
    thinking: Thinking | None = None  # where its thought has a budget
    ids: list[int] = field(default_factory=list)
    ended: Ended = ""

    def take(self, token: int) -> bool:
        """Add a token; return whether the answer goes on."""
        if token in self.ending.stops and self.fed is None:
            self.ended = "eos"
            return False
        self.ids.append(token)
        most = self.limit
        if self.thinking:
            self.thinking.read(self.ids)
            most = min(most, self.thinking.most)
        full: Ended = "" if len(self.ids) < most else self.bound if most == self.limit else "length"
        self.ended = "stop" if self.ending.reached(self.ids) else full
        return not self.ended

    @property
    def fed(self) -> int | None:
        """The token that comes next whatever the model says, if one does."""
        return self.thinking.pending[0] if self.thinking and self.thinking.pending else None

    def read(self, tokens: Sequence[int]) -> None:
        """Take tokens that were generated elsewhere, up to the end, or to where others are fed; then take those."""
        for token in tokens:
            if self.fed is not None or not self.take(token):
                break
        while not self.ended and (fed := self.fed) is not None:
            self.take(fed)

    @property
    def wanted(self) -> int:
        """The most tokens that may come next by themselves."""
        most = self.limit - len(self.ids)
        return min(most, self.thinking.wanted(len(self.ids))) if self.thinking else most

    def restart(self) -> None:
        """Forget all that was answered."""
        self.ids.clear()
        self.ended = ""
        if self.thinking:
            self.thinking = self.thinking.marks.thinking(self.prompt)

    def luck(self) -> float:
        """Return the random number from 0 to 1 of the token that comes next; it depends on seed and place alone."""
        return random.Random(f"{self.seed} {len(self.ids)}").random()  # noqa: S311 -- not for secrets

    def said(self) -> Said:
        text = self.ending.cut(self.ending.tokens.decode(self.ids))
        forced = self.thinking is not None and self.thinking.forced
        return Said(text, self.ended, len(self.ids) + (self.ended == "eos"), forced=forced)


Choose = Callable[[torch.Tensor, Sequence[Answer]], torch.Tensor]  # logits (B, V) and their rows -> tokens (B,)


def likeliest(logits: torch.Tensor, _: Sequence[Answer]) -> torch.Tensor:
    """Return the token of the largest logit, the first of equals."""
    return logits.argmax(-1)


def draw(sampling: Sampling, logits: torch.Tensor, answers: Sequence[Answer]) -> torch.Tensor:
    """Draw each row's token with the row's own random numbers: temperature, then top-k, then top-p."""
    share, token = (logits.float() / sampling.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        share[:, sampling.top_k :] = 0
        share /= share.sum(-1, keepdim=True)
    share *= share.cumsum(-1) - share < sampling.top_p  # the likeliest always stays
    edges = share.cumsum(-1)
    luck = torch.tensor([[answer.luck()] for answer in answers], device=edges.device)
    place = torch.searchsorted(edges, luck * edges[:, -1:], right=True).clamp(max=edges.shape[-1] - 1)
    return token.gather(-1, place)[:, 0]


def chosen(logits: torch.Tensor, answers: Sequence[Answer], choose: Choose) -> torch.Tensor:
    """Return the next token (B,) of each row; raises CheckFailed where logits (B, V) are not finite."""
    if not bool(logits.max(-1).values.isfinite().all()):  # the argmax of NaN is a token like any other
        raise CheckFailed("generation: the model's logits are not finite")
    tokens = choose(logits, answers)
    for i, answer in enumerate(answers):
        if (fed := answer.fed) is not None:
            tokens[i] = fed
    return tokens


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
                what = f'the mark "{mark}" is a special token of this model, which answers do not contain'
                raise UsageError(f"thought_budget: {what}; remove thought_budget and thought")
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
        return max(1, (self.marks.budget.tokens if self.begun and self.ended is None else self.most) - known)
