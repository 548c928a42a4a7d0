"""Models that say what a test tells them to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness import Logprob, Sample, Score


class Says:
    """A model that gives the same answer to everything, and likes continuations as a table says."""

    name, digest = "says", "0"

    def __init__(self, answer: str = "", likes: dict[str, float] | None = None) -> None:
        self.answer, self.likes = answer, likes or {}

    def generate(self, prompts: Sequence[Any], **_: Any) -> list[str]:
        return [self.answer for _ in prompts]

    def logprobs(self, pairs: Sequence[tuple[Any, str]], **_: Any) -> list[Logprob]:
        return [Logprob(self.likes.get(text.strip(), -9.0), 1, len(text.encode()), False) for _, text in pairs]


def score_answer(evaluator: Callable[..., Any], answer: str, sample: Sample, **options: Any) -> Score:
    """Return the score of one answer to one row."""
    (score,) = evaluator(Says(answer), [sample], **options)
    return score
