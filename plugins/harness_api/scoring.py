"""Scoring of continuations by the log-probs of a server's prompts.

The server's tokens locate a continuation if it has /tokenize, as vLLM and its imitators do; else the texts of its
tokens do.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

from harness import Logprob, Prompt, UsageError
from harness.internals import chat, encoding, http_client
from harness_api import replies
from harness_api.replies import Position
from harness_api.server import COMPLETIONS, Dialect, RequestRefusedError, Server

Pair = tuple[list[int], list[int]]  # tokens of the context, tokens of the continuation


class Scoring:
    """How one server scores: by tokens where it tells them, else by the texts of the tokens it echoes."""

    def __init__(
        self, server: Server, dialect: Dialect, asked: Mapping[str, Any], tokens: ServerTokens | None, advice: str
    ) -> None:
        if dialect.scoring is None:
            what = "provides no log-probs of prompts, which this evaluation needs"
            raise UsageError(f"{server.where}: {what}; serve the model with vLLM, or use an evaluator that generates")
        self.server, self.way, self.tokens, self.advice = server, dialect.scoring, tokens, advice
        # One token is generated with each request, so the window is smaller by one.
        self.room = dialect.context - 1 if dialect.context else None
        self.asked = {**asked, **replies.prompt_logprobs_fields(self.way)}

    def score(self, prompt: Prompt, text: str, *, truncate: bool, stop: threading.Event) -> Logprob:
        """Score a continuation, or without a prompt a whole text. Raises UsageError, also where no number is exact."""
        if text == "" and prompt:
            before = prompt if isinstance(prompt, str) else str(prompt[-1].get("content", ""))
            raise UsageError(
                f"{self.server.where}: an empty continuation has no log-probability; correct the "
                f"choices of the row with the prompt ending {before[-40:]!r}"
            )
        if self.tokens is None:
            if not isinstance(prompt, str):
                what = "does not provide tokens, so continuations of messages cannot be scored; use text prompts"
                raise UsageError(f"{self.server.where}: {what}")
            return (
                self._score_continuation_by_text(prompt, text, stop, as_lm_eval=truncate)
                if text
                else Logprob(0.0, 0, 0, True)
            )
        context, target = self.tokens.encode_pair(prompt, text, stop, as_lm_eval=truncate)
        size, room = len(context) + len(target), self.room
        if room is None or size <= room:
            windows = [(context, target)]
        elif not prompt:  # windows that are each predicted whole, every token once, as lm_eval does
            ids = context + target
            windows = [(context, ids[len(context) : room])]
            for start in range(room, size, room - 1):
                end = min(start + room - 1, size)
                windows.append((ids[end - room : start], ids[start:end]))
        elif truncate and len(target) < room:
            windows = [(context[len(target) - room :], target)]
        else:
            what = f"a row has {size} tokens, but there is room for {room}"
            raise UsageError(f"{self.server.where}: {what}; shorten the row ending {text[-40:]!r}")
        found = [p for window in windows for p in self._request_continuation_positions(window, text, stop)]
        whole = bool(prompt or self.tokens.prefix)  # else the text's first token is given, and counts in nothing
        return replies.sum_logprobs(found, len(text.encode()) if whole else self._count_scored_bytes(found, text))

    def _request_continuation_positions(self, pair: Pair, text: str, stop: threading.Event) -> Sequence[Position]:
        ids = pair[0] + pair[1]

        def read(reply: Any) -> Sequence[Position]:
            found = replies.read_positions(reply, self.way)
            if len(found) - len(ids) not in (0, 1):  # with or without the token that was generated
                raise http_client.RequestError(f"sent log-probs of {len(found)} tokens instead of {len(ids)}")
            return found[len(pair[0]) : len(ids)]

        return self._ask(ids, read, text, stop) if pair[1] else []

    def _score_continuation_by_text(
        self, prompt: str, text: str, stop: threading.Event, *, as_lm_eval: bool
    ) -> Logprob:
        """Score a continuation located by the texts of the tokens.

        They must spell it exactly; its beginning is never guessed. Raises UsageError if they do not.
        """
        whole = prompt + text
        continuation = whole[len(prompt.rstrip()) :] if as_lm_eval else text

        def read(reply: Any) -> Sequence[Position]:
            found = replies.read_positions(reply, self.way)
            spelt = replies.spelling_positions(found, whole) if self.way == "echo" else found
            if spelt is None:
                raise http_client.RequestError(
                    "the tokens it sends do not spell the text, so the continuation cannot be located exactly"
                )
            if not prompt:
                return spelt[1:]  # nothing predicts the first token: BOS, or the text's own
            if (scored := replies.continuation_positions(spelt, continuation)) is None:
                what = "no token begins exactly where the continuation does, so its log-probability is not exact"
                raise http_client.RequestError(what)
            return scored

        found = self._ask(whole, read, text, stop)
        return replies.sum_logprobs(found, len(text.encode()) if prompt else self._count_scored_bytes(found, text))

    def _ask(self, prompt: str | list[int], read: Any, text: str, stop: threading.Event) -> Sequence[Position]:
        how: dict[str, Any] = {"about": f" (the text ending {text[-40:]!r})", "advice": self.advice, "stop": stop}
        found: Sequence[Position] = self.server.ask(COMPLETIONS, {**self.asked, "prompt": prompt}, read=read, **how)
        return found

    def _count_scored_bytes(self, found: Sequence[Position], text: str) -> int:
        """Return the bytes of a whole text that are scored: all, or those after its first token."""
        spelt = "".join(p.text or "" for p in found)
        if not text.endswith(spelt):
            what = f"adds no BOS to texts, and its tokens do not spell the text ending {text[-40:]!r}"
            raise UsageError(f"{self.server.where}: {what}, so which bytes are scored is unknown; set prefix")
        return len(spelt.encode())


class ServerTokens:
    """The server's tokenizer.

    `prefix` is the text that a whole text is conditioned on, by default the server's BOS.
    """

    def __init__(self, server: Server, model: str, prefix: str = "") -> None:
        self.server, self.model, self._prefix = server, model, prefix
        self._known: dict[str, list[int]] = {}  # contexts that many continuations share are asked for once
        self._texts: dict[str, str | None] = {}  # and so are the texts of rendered messages
        self.joins = True  # whether the server gave the text of all messages that an answer was to follow

    @cached_property
    def leading_ids(self) -> list[int]:
        """The special tokens that the server puts in front of a text. Usually BOS, or none."""
        plain, whole = self._ask(prompt="a", add_special_tokens=False), self._ask(prompt="a", add_special_tokens=True)
        starts = (i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
        return whole[: next(starts, 0)]

    @cached_property
    def prefix(self) -> list[int]:
        return self.encode_plain(self._prefix) if self._prefix else self.leading_ids

    def encode_plain(self, text: str, stop: threading.Event = http_client.NEVER) -> list[int]:
        return self._ask(stop, prompt=text, add_special_tokens=False) if text else []

    def encode_prompt(self, prompt: Prompt, stop: threading.Event = http_client.NEVER) -> list[int]:
        """Return a prompt's tokens: text after BOS unless it brings its own, messages through the chat template."""
        key = repr(prompt)
        if key not in self._known:
            if isinstance(prompt, str):
                self._known[key] = self._prepend_missing_leading_ids(self.encode_plain(prompt, stop))
            else:
                self._known[key] = self._ask(stop, **message_fields(prompt), add_generation_prompt=True)
        return self._known[key]

    def encode_pair(
        self, prompt: Prompt, text: str, stop: threading.Event = http_client.NEVER, *, as_lm_eval: bool = False
    ) -> Pair:
        """Return the tokens of a prompt and of its continuation.

        They are split as the loader "hf" splits them. A prompt is encoded as generation opens it, the whole is cut
        behind it (`harness.data.encoding`). Of messages the whole is the server's text of their tokens, if these come
        from it again, with the continuation; else the continuation is encoded by itself. Without a prompt the context
        is the BOS that the server puts there, or the prefix, and without both the text's own first token, which then is
        not scored. `as_lm_eval` gives the white space that ends a text prompt to the continuation, cuts tokens that
        straddle the end of the prompt's tokens, and scores the server's BOS too. Raises UsageError for an empty prompt
        without a BOS in front.
        """
        if prompt == "":
            ids = self._prepend_missing_leading_ids(self.encode_plain(text, stop))
            if self.prefix and (as_lm_eval or ids[: len(self.prefix)] != self.prefix):
                return self.prefix, ids
            given = len(self.prefix) or 1
            return ids[:given], ids[given:]
        alone = partial(self.encode_plain, text, stop)
        if not isinstance(prompt, str):
            context, opened = self.encode_prompt(prompt, stop), self._render_if_tokens_match(prompt, stop)
            whole = self.encode_plain(opened + text, stop) if opened is not None else []
            return context, encoding.cut_answer(context, whole, alone).ids
        start = prompt.rstrip() if as_lm_eval else prompt
        context = self.encode_prompt(start, stop) if start else self.prefix
        whole = self._prepend_missing_leading_ids(self.encode_plain(prompt + text, stop))
        if not context:
            raise UsageError(f"{self.server.where}: a prompt is empty and no BOS precedes it; set prefix")
        if not as_lm_eval:
            return context, encoding.cut_answer(context, whole, alone).ids
        beyond = len(whole) <= len(context)
        return context, self.encode_plain((prompt + text)[len(start) :], stop) if beyond else whole[len(context) :]

    def _render_if_tokens_match(self, messages: list[dict[str, str]], stop: threading.Event) -> str | None:
        """Return messages as rendered by the server's template.

        None if the text does not have the same tokens, or the server gives no text of tokens.
        """
        key = repr(messages)
        if key not in self._texts:
            ids, text = self.encode_prompt(messages, stop), None
            with suppress(RequestRefusedError):  # it does not offer that
                asked = {"model": self.model, "tokens": ids}
                text = self.server.ask(self.server.text_url, asked, read=replies.read_text, stop=stop)
            self._texts[key] = text if text is not None and self.encode_plain(text, stop) == ids else None
        self.joins &= self._texts[key] is not None
        return self._texts[key]

    def count(self, pairs: Sequence[tuple[Prompt, str]], workers: int) -> list[int]:
        """Count the tokens of each prompt and continuation together."""
        sizes = [0] * len(pairs)
        for number, pair in http_client.map_concurrent(
            lambda i, stop: self.encode_pair(*pairs[i], stop), len(pairs), workers
        ):
            sizes[number] = sum(map(len, pair))
        return sizes

    def _prepend_missing_leading_ids(self, ids: list[int]) -> list[int]:
        return ids if self.leading_ids and ids[: len(self.leading_ids)] == self.leading_ids else self.leading_ids + ids

    def _ask(self, stop: threading.Event = http_client.NEVER, **asked: Any) -> list[int]:
        return self.server.ask(
            self.server.tokens_url, {"model": self.model, **asked}, read=replies.read_token_ids, stop=stop
        )


def message_fields(messages: list[dict[str, str]]) -> dict[str, Any]:
    """Return the request fields for messages and their template arguments. vLLM and SGLang take them so."""
    turns, given = chat.split_arguments(messages)
    tools = {chat.TOOLS: given.pop(chat.TOOLS)} if chat.TOOLS in given else {}
    return {"messages": turns, **tools, **({chat.ARGUMENTS: given} if given else {})}
