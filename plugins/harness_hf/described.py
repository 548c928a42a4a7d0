"""What a subject tells without its model: its names and sizes, its prompts as tokens, and texts cut into windows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from harness import Generate, ModelRef, Prompt, UsageError
from harness_hf import sources
from harness_hf.tokens import Pair, Tokens


class Described:
    """A model of a folder, whatever computes its answers; `context` is the most tokens that it is given."""

    def __init__(self, ref: ModelRef, folder: str, tokens: Tokens, context: int) -> None:
        self.name, self.tokens, self.context = ref.name, tokens, context
        files = [Path(folder), *([ref.adapter] if ref.adapter else [])]
        self.digest = ref.digest or _digest(ref, files)
        self.parameters = sum(sources.parameters_of(f) for f in files)
        self.nbytes = sum(sources.bytes_of(f) for f in files)
        self.notes: list[str] = []
        self._told: set[str] = set()

    @property
    def prefix(self) -> str:
        """The text of the token that stands before a text without a prompt."""
        return str(self.tokens.tokenizer.decode([self.tokens.prefix]))

    def count_tokens(self, pairs: Sequence[tuple[Prompt, str]]) -> list[int]:
        """Count the tokens of each prompt and continuation together."""
        return [len(context) + len(target) for context, target in self.tokens.pairs(pairs)]

    def render(self, messages: list[dict[str, str]]) -> str:
        """Write chat messages as the template does, with the answer's turn opened; raises UsageError."""
        return self.tokens.render(messages)

    def prompts(self, prompts: Sequence[Prompt], how: Generate) -> tuple[list[list[int]], list[int]]:
        """Encode prompts that are to be answered, cut from the left where `how` allows it; count what each lost.

        Raises UsageError.
        """
        whole = encoded = self.tokens.prompts(prompts)
        if how.truncate:
            room = max(1, self.context - how.max_new_tokens - (how.thought_budget.tokens if how.thought_budget else 0))
            encoded = [ids[-room:] for ids in encoded]
        longest = max(map(len, encoded), default=0)
        if longest >= self.context:
            raise UsageError(
                f'model "{self.name}": a prompt has {longest} tokens, the context is {self.context}; shorten it'
            )
        return encoded, [len(ids) - len(left) for ids, left in zip(whole, encoded, strict=True)]

    def windows(self, pairs: Sequence[tuple[Prompt, str]], *, truncate: bool) -> list[list[Pair]]:
        """Encode what is to be scored: each prompt and its continuation, or the windows of a whole text.

        Raises UsageError where one is too long, or a continuation is empty.
        """
        encoded = zip(pairs, self.tokens.pairs(pairs, as_lm_eval=truncate), strict=True)
        return [
            [self.fitting(context, target, truncate)] if prompt else self.rolling(context, target)
            for (prompt, _), (context, target) in encoded
        ]

    def fitting(self, context: list[int], target: list[int], truncate: bool) -> Pair:
        """Return a pair that fits into the context, or raise UsageError."""
        length = len(context) + len(target)
        if not target:
            raise UsageError(f'model "{self.name}": an empty continuation has no log-probability; check the choices')
        if length > self.context + 1 and (not truncate or len(target) > self.context):
            raise UsageError(
                f'model "{self.name}": a row has {length} tokens, the context is {self.context}; shorten it'
            )
        return context[max(0, length - self.context - 1) :], target

    def rolling(self, context: list[int], ids: list[int]) -> list[Pair]:
        """Cut a text into windows that are each predicted whole, every token once (lm_eval's rolling windows)."""
        size = self.context
        begun = size + 1 - len(context)  # tokens of the first window
        windows = [(context, ids[:begun])] if ids else []
        for start in range(begun, len(ids), size):
            end = min(start + size, len(ids))
            windows.append((ids[max(end - size - 1, 0) : start], ids[start:end]))
        return windows

    def tell(self, what: str) -> None:
        """Note something once."""
        if what not in self._told:
            self._told.add(what)
            self.notes.append(f"{self.name}: {what}")


def _digest(ref: ModelRef, files: Sequence[Path]) -> str:
    """Return the digest of the weights that answer: the model's, and with an adapter or a quantisation those too."""
    parts = [sources.folder_digest(f) for f in files]
    if ref.quantization:
        parts.append(json.dumps(dict(ref.quantization), sort_keys=True, default=str))
    return parts[0] if len(parts) == 1 else hashlib.sha256(" ".join(parts).encode()).hexdigest()
