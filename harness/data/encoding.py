"""The split of tokens into prompt and answer.

Training, scoring and servers all follow this one rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class AnswerTokens(NamedTuple):
    """The tokens of an answer, and whether it was encoded alone.

    It is encoded alone if the prompt's tokens are not a prefix of those of prompt and answer.
    """

    ids: list[int]
    alone: bool


def cut_answer(prompt: Sequence[int], whole: Sequence[int], encode_alone: Callable[[], list[int]]) -> AnswerTokens:
    """Return the tokens of `whole` that follow those of `prompt`.

    The prompt is as generation opens it. If its tokens are not a prefix, because a token spans the end of the prompt,
    the answer is encoded alone.
    """
    if len(whole) > len(prompt) and list(whole[: len(prompt)]) == list(prompt):
        return AnswerTokens(list(whole[len(prompt) :]), alone=False)
    return AnswerTokens(encode_alone(), alone=True)


def shared_length(one: Sequence[int] | str, two: Sequence[int] | str) -> int:
    """Return the length of the longest common beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
