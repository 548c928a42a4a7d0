"""Where an answer begins in the tokens of a prompt and what follows: one rule for training, scoring and servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class AnswerTokens(NamedTuple):
    """The tokens of an answer, and whether it was encoded by itself because the prompt's tokens are no beginning."""

    ids: list[int]
    alone: bool


def cut_answer(prompt: Sequence[int], whole: Sequence[int], encode_alone: Callable[[], list[int]]) -> AnswerTokens:
    """Cut the tokens of prompt and answer behind those of the prompt, as generation opens it.

    Where these are no beginning, since a token spans the end of the prompt, the answer is encoded by itself.
    """
    if len(whole) > len(prompt) and list(whole[: len(prompt)]) == list(prompt):
        return AnswerTokens(list(whole[len(prompt) :]), alone=False)
    return AnswerTokens(encode_alone(), alone=True)


def shared_length(one: Sequence[int] | str, two: Sequence[int] | str) -> int:
    """Return the length of the longest common beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
