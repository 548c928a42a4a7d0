"""Tokens as the server sees them: vLLM, and what imitates it, tells them at /tokenize."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from harness import Prompt, UsageError, chat
from harness_api import scores
from harness_api.dialect import tokens_url
from harness_api.pool import each
from harness_api.server import NEVER, Server

Pair = tuple[list[int], list[int]]  # tokens of the context, tokens of the continuation


class ServerTokens:
    """The server's tokenizer; `prefix` is the text that a whole text is conditioned on where there is no BOS."""

    def __init__(self, server: Server, model: str, prefix: str = "") -> None:
        self.server, self.model, self._prefix = server, model, prefix
        self._known: dict[str, list[int]] = {}  # contexts that many continuations share are asked for once

    @cached_property
    def front(self) -> list[int]:
        """The special tokens that the server puts in front of a text, usually BOS or nothing."""
        plain, whole = self._ask(prompt="a", add_special_tokens=False), self._ask(prompt="a", add_special_tokens=True)
        starts = (i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
        return whole[: next(starts, 0)]

    @cached_property
    def prefix(self) -> list[int]:
        return self.plain(self._prefix) if self._prefix else self.front

    def plain(self, text: str, stop: threading.Event = NEVER) -> list[int]:
        return self._ask(stop, prompt=text, add_special_tokens=False) if text else []

    def prompt(self, prompt: Prompt, stop: threading.Event = NEVER) -> list[int]:
        """Return a prompt's tokens: text after BOS unless it brings its own, messages through the chat template."""
        key = repr(prompt)
        if key not in self._known:
            if isinstance(prompt, str):
                self._known[key] = self._fronted(self.plain(prompt, stop))
            else:
                self._known[key] = self._ask(stop, **fields_of(prompt), add_generation_prompt=True)
        return self._known[key]

    def pair(self, prompt: Prompt, text: str, stop: threading.Event = NEVER, *, as_lm_eval: bool = False) -> Pair:
        """Return the tokens of a prompt and of its continuation, split as the loader "hf" splits them.

        The whole is encoded, the prompt is encoded, spaces that end the prompt go with the continuation. Where a token
        straddles the boundary, and after messages, the continuation is encoded by itself. Without a prompt the context
        is the BOS that the server puts there, or the prefix, and without both the text's own first token, which then
        is not scored. `as_lm_eval` cuts what straddles where the prompt's tokens end, and scores the server's BOS too.
        """
        if not isinstance(prompt, str):
            return self.prompt(prompt, stop), self.plain(text, stop)
        if prompt == "":
            ids = self._fronted(self.plain(text, stop))
            if self.prefix and (as_lm_eval or ids[: len(self.prefix)] != self.prefix):
                return self.prefix, ids
            given = len(self.prefix) or 1
            return ids[:given], ids[given:]
        start = prompt.rstrip()
        context = self.prompt(start, stop) if start else self.prefix
        whole = self._fronted(self.plain(prompt + text, stop))
        if not context:
            raise UsageError(f"{self.server.where}: a prompt is blank and there is no BOS before it; set prefix")
        straddled = len(whole) <= len(context) or (whole[: len(context)] != context and not as_lm_eval)
        return context, self.plain((prompt + text)[len(start) :], stop) if straddled else whole[len(context) :]

    def count(self, pairs: Sequence[tuple[Prompt, str]], workers: int) -> list[int]:
        """Count the tokens of each prompt and continuation together."""
        sizes = [0] * len(pairs)
        for number, pair in each(lambda i, stop: self.pair(*pairs[i], stop), len(pairs), workers):
            sizes[number] = sum(map(len, pair))
        return sizes

    def _fronted(self, ids: list[int]) -> list[int]:
        return ids if self.front and ids[: len(self.front)] == self.front else self.front + ids

    def _ask(self, stop: threading.Event = NEVER, **asked: Any) -> list[int]:
        url = tokens_url(self.server)
        assert url  # the dialect says that there is one
        return self.server.ask(url, {"model": self.model, **asked}, read=scores.ids, stop=stop)


def fields_of(messages: list[dict[str, str]]) -> dict[str, Any]:
    """Return the fields of a request that carry messages and their template arguments, as vLLM and SGLang take them."""
    turns, given = chat.split(messages)
    tools = {chat.TOOLS: given.pop(chat.TOOLS)} if chat.TOOLS in given else {}
    return {"messages": turns, **tools, **({chat.ARGUMENTS: given} if given else {})}
