"""vLLM: takes and tells tokens, tells log-probabilities before its filters, and names adapters without their scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from harness.internals import chat
from harness_api import CHAT, RequestRefused, fields_of, table
from harness_served.runtime import GREEDY, NEUTRAL, Messages, Runtime, RuntimeAnswer, tokens_in


class Vllm(Runtime):
    """vLLM's OpenAI server."""

    kind: ClassVar[str] = "vllm"
    name: ClassVar[str] = "vLLM"
    hint: ClassVar[str] = "start it without logprobs_mode, and with --enable-lora where it serves an adapter"
    ids_by: ClassVar[str] = "told with an answer, or by /tokenize"
    takes_ids: ClassVar[bool] = True
    asks: ClassVar[Mapping[str, Any]] = {"return_token_ids": True}
    draws: ClassVar[Mapping[str, Any]] = {**NEUTRAL, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    probe: ClassVar[str] = "/version"

    def identity(self) -> dict[str, Any]:
        return {"version": self.told.get("version"), **super().identity()}

    def adapters(self) -> list[dict[str, Any]]:
        parent = super().identity().get("parent")
        return [{"name": self.model, "parent": parent}] if parent else []

    def defaults(self) -> Mapping[str, Any] | None:
        """Return how its render server would draw; None where that is refused, as it is unless it was asked for."""
        asked = {"model": self.model, "messages": [{"role": "user", "content": "?"}]}
        try:
            told = self.ask(f"{self.server.url}/chat/completions/render", asked)
        except RequestRefused:
            return None
        told = told[0] if isinstance(told, list) and told else told
        found = told.get("sampling_params") if isinstance(told, dict) else None
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        return {n: float(found[n]) for n in names if n in found} if isinstance(found, dict) else None

    def ids(self, messages: Messages) -> list[int] | None:
        """Return them as its chat tells them of the very request; where it answers none, as /tokenize makes them."""
        body = {"model": self.model, "max_tokens": 1, **self.asks, **GREEDY}
        try:
            told = self.ask(CHAT, {**body, **fields_of([dict(m) for m in messages])}, table)
            self.tokens += 1
        except RequestRefused:  # a render server, or one that takes no tools
            told = {}
        return tokens_in(told.get("prompt_token_ids")) or self._tokenized(messages)

    def _tokenized(self, messages: Messages) -> list[int] | None:
        about = {"model": self.model, "add_generation_prompt": True, chat.ARGUMENTS: {}}
        try:
            asked = {**about, **fields_of([dict(m) for m in messages])}
            return tokens_in(self.ask(f"{self.root}/tokenize", asked, table).get("tokens"))
        except RequestRefused:
            return None

    def as_base(self, ids: Sequence[int], text: str, most: int) -> RuntimeAnswer | None:
        parent = super().identity().get("parent")
        return self.complete(ids, text, most, {**self.draws, "seed": 1, "model": parent}) if parent else None
