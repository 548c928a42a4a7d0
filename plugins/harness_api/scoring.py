"""Score continuations with a server that tells the log-probs of a prompt."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from harness import Logprob, Prompt, UsageError
from harness_api import scores
from harness_api.dialect import COMPLETIONS, Dialect
from harness_api.scores import Position
from harness_api.server import Server, Trouble
from harness_api.tokens import Pair, ServerTokens


class Scoring:
    """How one server scores: by tokens where it tells them, else by the texts of the tokens it echoes."""

    def __init__(
        self, server: Server, dialect: Dialect, asked: Mapping[str, Any], tokens: ServerTokens | None, advice: str
    ) -> None:
        if dialect.scoring is None:
            raise UsageError(
                f"{server.where}: offers no log-probs of a prompt, which this evaluation needs; serve the model with"
                " vLLM, or use an evaluator that generates"
            )
        self.server, self.way, self.tokens, self.advice = server, dialect.scoring, tokens, advice
        # One token is generated with each request, so the window is smaller by one.
        self.room = dialect.context - 1 if dialect.context else None
        self.asked = {**asked, **scores.request(self.way)}

    def score(self, prompt: Prompt, text: str, *, truncate: bool, stop: threading.Event) -> Logprob:
        """Score a continuation, or without a prompt a whole text. Raises UsageError, also where no number is exact."""
        if text == "" and prompt:
            raise UsageError(f"{self.server.where}: an empty continuation has no log-probability; check the choices")
        if self.tokens:
            return self._by_tokens(self.tokens, prompt, text, truncate, stop)
        if not isinstance(prompt, str):
            raise UsageError(
                f"{self.server.where}: tells no tokens, so continuations of messages cannot be scored; give text"
            )
        return self._by_text(prompt, text, stop) if text else Logprob(0.0, 0, 0, True)

    def _by_tokens(
        self, tokens: ServerTokens, prompt: Prompt, text: str, truncate: bool, stop: threading.Event
    ) -> Logprob:
        pair = tokens.pair(prompt, text, stop, as_lm_eval=truncate)
        windows = [self._fitting(pair, text, truncate)] if prompt else self._rolling(pair)
        found = [p for window in windows for p in self._window(window, text, stop)]
        whole = bool(prompt or tokens.prefix)  # else the text's first token is given, and counts in nothing
        return scores.added(found, len(text.encode()) if whole else self._bytes(found, text))

    def _window(self, pair: Pair, text: str, stop: threading.Event) -> Sequence[Position]:
        """Return the positions of the continuation's tokens."""
        ids = pair[0] + pair[1]

        def read(reply: Any) -> Sequence[Position]:
            found = scores.positions(reply, self.way)
            if len(found) - len(ids) not in (0, 1):  # with or without the token that was generated
                raise Trouble(f"sent log-probs of {len(found)} tokens, want {len(ids)}")
            return found[len(pair[0]) : len(ids)]

        return self._ask(ids, read, text, stop) if pair[1] else []

    def _by_text(self, prompt: str, text: str, stop: threading.Event) -> Logprob:
        """Score where the texts of the tokens spell the continuation exactly; never guess where it begins."""
        start = prompt.rstrip()
        whole = prompt + text
        continuation = whole[len(start) :]

        def read(reply: Any) -> Sequence[Position]:
            found = scores.positions(reply, self.way)
            spelt = scores.spelling(found, whole) if self.way == "echo" else found
            if spelt is None:
                raise Trouble("the tokens it tells do not spell the text, so nothing in it can be found exactly")
            if not prompt:
                return spelt[1:]  # nothing predicts the first token: BOS, or the text's own
            scored = scores.after(spelt, continuation)
            if scored is None:
                raise Trouble("no token begins exactly where the continuation does, so it has no exact log-probability")
            return scored

        found = self._ask(whole, read, text, stop)
        return scores.added(found, len(text.encode()) if prompt else self._bytes(found, text))

    def _ask(self, prompt: str | list[int], read: Any, text: str, stop: threading.Event) -> Sequence[Position]:
        asked = {**self.asked, "prompt": prompt}
        about = f" (the text ending {text[-40:]!r})"
        found: Sequence[Position] = self.server.ask(
            COMPLETIONS, asked, read=read, about=about, advice=self.advice, stop=stop
        )
        return found

    def _fitting(self, pair: Pair, text: str, truncate: bool) -> Pair:
        context, target = pair
        if self.room is None or len(context) + len(target) <= self.room:
            return pair
        if not truncate or len(target) >= self.room:
            raise UsageError(
                f"{self.server.where}: a row has {len(context) + len(target)} tokens, there is room for {self.room};"
                f" shorten the one ending {text[-40:]!r}"
            )
        return context[len(target) - self.room :], target

    def _rolling(self, pair: Pair) -> list[Pair]:
        """Cut a text into windows that are each predicted whole, every token once, as lm_eval does."""
        context, target = pair
        if self.room is None or len(context) + len(target) <= self.room:
            return [pair]
        ids, given = context + target, len(context)
        windows = [(context, ids[given : self.room])]
        for start in range(self.room, len(ids), self.room - 1):
            end = min(start + self.room - 1, len(ids))
            windows.append((ids[end - self.room : start], ids[start:end]))
        return windows

    def _bytes(self, found: Sequence[Position], text: str) -> int:
        """Return the bytes of a whole text that are scored: all, or those after its first token."""
        spelt = "".join(p.text or "" for p in found)
        if not text.endswith(spelt):
            raise UsageError(
                f"{self.server.where}: puts no BOS before texts, and its tokens do not spell the text ending"
                f" {text[-40:]!r}, so the bytes that are scored are unknown; set prefix"
            )
        return len(spelt.encode())
