"""A model's completion and its finish reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

FinishReason = Literal["eos", "stop", "length", "context", "tool", "limit", ""]
"""At a stop token, a stop string, `max_new_tokens`, the end of the context, a call of a tool, the limit of somebody
else; nothing where the loader does not tell."""
TRUNCATED = ("length", "context", "limit")
FINISH_REASON_ORDER = ("eos", "stop", "tool", "", "limit", "context", "length")
WORDS = {"eos": "ended", "stop": "stop", "tool": "tool", **dict.fromkeys(TRUNCATED, "truncated"), "": "unknown"}


class Completion(str):
    """An answer: a text like any other, which knows how it ended.

    `tokens` were generated, the one that ends it among them, `thought_tokens` of these for a thought that is no part
    of the text; None and 0 where nobody tells. `forced`: its thought was closed by force. `lost` counts the tokens of
    its prompt that `truncate` cut off.
    """

    finish_reason: FinishReason
    tokens: int | None
    thought_tokens: int
    forced: bool
    lost: int

    def __new__(
        cls, text: str = "", finish_reason: FinishReason = "", tokens: int | None = None,
        thought_tokens: int = 0, forced: bool = False, lost: int = 0
    ) -> Completion:  # fmt: skip
        made = super().__new__(cls, text)
        known = {"finish_reason": finish_reason, "tokens": tokens, "thought_tokens": thought_tokens}
        vars(made).update(known, forced=forced, lost=lost)
        return made

    @property
    def rank(self) -> int:
        """The severity of its finish reason.

        Of several answers to one prompt the one with the highest rank counts.
        """
        return FINISH_REASON_ORDER.index(self.finish_reason)

    @classmethod
    def of(cls, answer: str) -> Completion:
        """Return an answer as a Completion. The finish reason of a plain text is unknown."""
        return answer if isinstance(answer, Completion) else cls(answer)


def completion_to_json(answer: str) -> Any:
    """Return an answer as JSON has it: a list, or its text alone where it tells nothing else."""
    return [str(answer), *vars(answer).values()] if isinstance(answer, Completion) else answer


def completion_from_json(value: Any) -> str:
    """Parse an answer written by `completion_to_json`.

    Raises TypeError or ValueError if the value is not an answer.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or len(value) != 6:
        raise TypeError("an answer is not a text")
    text, finish_reason, tokens, thought, forced, lost = value
    counts = [thought, lost, *([] if tokens is None else [tokens])]
    if not isinstance(text, str) or not isinstance(forced, bool) or not all(type(n) is int and n >= 0 for n in counts):
        raise TypeError("an answer is not a text, or has no finish reason")
    if finish_reason not in get_args(FinishReason):
        raise ValueError(f"an answer has the finish reason {str(finish_reason)[:40]!r}, which is unknown")
    return Completion(text, finish_reason, tokens, thought, forced, lost)


def format_finish_reasons(counts: Mapping[str, int]) -> str:
    """Write how many answers ended how, in a few words: ended 361 · stop 8 · truncated 31."""
    found = dict.fromkeys(WORDS.values(), 0)
    for reason, n in counts.items():
        found[WORDS.get(reason, "unknown")] += n
    return " · ".join(f"{word} {n:,}" for word, n in found.items() if n)
