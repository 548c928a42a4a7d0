"""An endpoint as it is asked: what it says, with which tokens and log-probabilities, where it tells them.

A runtime is an OpenAI-compatible server of which nothing is known; a dialect (`harness_served.dialects`) knows more.
What a server tells of itself is a note: it is compared with what it told before, and believed in nothing else.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from harness import UsageError
from harness.internals import drop_surrogates, http_client
from harness_api import (
    CHAT,
    COMPLETIONS,
    RequestRefusedError,
    Server,
    as_object,
    find_served_entry,
    message_fields,
    single_choice,
)

NEUTRAL_SAMPLING = {"temperature": 1.0, "top_p": 1.0}
GREEDY = {"temperature": 0.0}
MISSING_STATUS_CODES = (404, 405, 501)  # HTTP's, of what a server has not
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class RuntimeAnswer:
    """A runtime's answer: text, tokens, log-probabilities and finish reason.

    Tokens and log-probabilities are None if not reported. `prompt` and `said` are the numbers of tokens of the prompt
    and the answer, `texts` the text of each token. `reasoning` is a thought sent beside the content, and `asked` the
    most tokens that were requested.
    """

    text: str
    ids: list[int] | None = None
    logprobs: list[float] | None = None
    ended: str = ""
    prompt: int | None = None
    said: int | None = None
    texts: list[str] | None = None
    reasoning: str = ""
    asked: int = 0


@dataclass(frozen=True)
class RuntimeProbe:
    """A runtime's prediction of the next token.

    `logprobs` are the greatest ones, in descending order; `token` is the likeliest, if its id is reported.
    """

    logprobs: list[float]
    token: int | None = None


class Runtime:
    """An OpenAI-compatible server without known extensions.

    It answers messages and texts, and counts their tokens.
    """

    kind: ClassVar[str] = "openai"
    name: ClassVar[str] = "an OpenAI-compatible server"
    hint: ClassVar[str] = "serve the model with vLLM or llama.cpp's server, which report more"
    ids_by: ClassVar[str] = "count"
    takes_ids: ClassVar[bool] = False
    asks: ClassVar[Mapping[str, Any]] = {}  # fields of every request for an answer, beside those of OpenAI
    streams: ClassVar[Mapping[str, Any]] = {}  # fields of a request for a stream
    draws: ClassVar[Mapping[str, Any]] = NEUTRAL_SAMPLING  # fields with which nothing is filtered
    probe: ClassVar[str] = ""  # a path beside /v1 that tells this dialect

    def __init__(self, server: Server, model: str, told: Mapping[str, Any]) -> None:
        self.server, self.model, self.told = server, model, dict(told)
        self.root = server.url.removesuffix("/v1")
        self.others: Collection[str] = ()  # models that it serves under other names
        self.requests = self.tokens = 0
        self._counting = threading.Lock()
        self.texts = self.logs = True  # until it refuses one; until it refuses to be asked for log-probabilities

    def ask(self, path: str, body: Mapping[str, Any] | None, read: Any = lambda reply: reply) -> Any:
        """Ask once more, and count it. Raises RequestRefusedError, UsageError."""
        with self._counting:
            self.requests += 1
        return self.server.ask(path, body, read=read)

    # -- what it tells ---------------------------------------------------------------------------------

    @classmethod
    def matches_probe(cls, told: Any) -> bool:
        """Return whether the reply to a probe shows this dialect. Most dialects report their version."""
        return isinstance(told, dict) and isinstance(told.get("version"), str)

    def identity(self) -> dict[str, Any]:
        """Return the current self-reported facts of the server and model."""
        entry = find_served_entry(self.server, self.model)
        return {k: v for k, v in entry.items() if k in ("id", "root", "parent", "max_model_len", "owned_by")}

    def adapters(self) -> list[dict[str, Any]]:
        """Return the adapters it says it has: name, and scale where it tells one."""
        return []

    def defaults(self) -> Mapping[str, Any] | None:
        """Return the reported sampling defaults. None if they are not reported."""
        return None

    # -- how it reads a prompt -------------------------------------------------------------------------

    def ids(self, messages: Messages) -> list[int] | None:
        """Return the tokens of messages. None if they are not reported."""
        return None

    def tokenize(self, text: str) -> list[int] | None:
        """Return the tokens of a text, without special tokens in front. None if they are not reported."""
        return None

    def count(self, messages: Messages, text: str = "") -> int | None:
        """Count the tokens of messages or a text by generating one token. None if the number is not reported."""
        try:
            said = self.answer(messages, text, 1, GREEDY)
            return said.prompt if said else None
        except RequestRefusedError as refused:
            if refused.trouble.status not in MISSING_STATUS_CODES:
                raise
            return None

    # -- what it says ----------------------------------------------------------------------------------

    def chat(self, messages: Messages, most: int, how: Mapping[str, Any]) -> RuntimeAnswer:
        """Answer messages in at most so many tokens."""
        return self._answered(CHAT, self._chat(messages, most, how), {"logprobs": True})

    def stream(self, messages: Messages, most: int, how: Mapping[str, Any]) -> RuntimeAnswer | None:
        """Answer messages by a stream. None if the server refuses to stream."""
        body = {**self._chat(messages, most, how), "stream": True, **self.streams}
        try:
            said = self._answered(CHAT, body, {"logprobs": True}, read_stream)
        except RequestRefusedError as refused:
            if refused.trouble.status not in (400, 422, *MISSING_STATUS_CODES):
                raise
            return None
        told = said if said.said is not None else replace(said, ids=None, logprobs=None, texts=None)
        return replace(told, asked=most)  # without a count nothing says whether its tokens are all

    def answer(self, messages: Messages, text: str, most: int, how: Mapping[str, Any]) -> RuntimeAnswer | None:
        """Answer messages, or a text without messages. None if the server takes no text."""
        said = self.chat(messages, most, how) if messages else self.complete([], text, most, how)
        return said and replace(said, asked=most)

    def _chat(self, messages: Messages, most: int, how: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": self.model, **message_fields([dict(m) for m in messages]), "max_tokens": most, **how}

    def complete(self, ids: Sequence[int], text: str, most: int, how: Mapping[str, Any]) -> RuntimeAnswer | None:
        """Complete a prompt, by its ids if possible, else by its text. None if the server takes neither."""
        if not self.texts:
            return None
        prompt = list(ids) if self.takes_ids and ids else text
        body = {"model": self.model, "prompt": prompt, "max_tokens": most, **how}
        try:
            return self._answered(COMPLETIONS, body, {"logprobs": 1})
        except RequestRefusedError as refused:
            if refused.trouble.status not in MISSING_STATUS_CODES:
                raise
            self.texts = False
            return None

    def complete_as_base(self, ids: Sequence[int], text: str, most: int) -> RuntimeAnswer | None:
        """Draw from the base of an adapter. None if the server does not offer it."""
        return None

    def predict_next(self, message: str, text: str, top: int, seed: int) -> RuntimeProbe | None:
        """Predict the token after a message, or else after a text.

        None if the prediction is not reported. The seed does not change it, but makes the request a new one for a
        cache.
        """
        how: dict[str, Any] = {"model": self.model, "max_tokens": 1, **GREEDY, "seed": seed}
        chat = {"messages": [{"role": "user", "content": message}], "logprobs": True, "top_logprobs": top}
        path, asked = (CHAT, chat) if message else (COMPLETIONS, {"prompt": text, "logprobs": top})
        try:
            found: RuntimeProbe | None = self.ask(path, {**how, **asked}, read_probe)
        except RequestRefusedError as refused:
            if refused.trouble.status not in (400, 422, *MISSING_STATUS_CODES):
                raise
            return None
        with self._counting:
            self.tokens += 1
        return found

    def _answered(self, path: str, body: Mapping[str, Any], logs: Mapping[str, Any], read: Any = None) -> RuntimeAnswer:
        """Request an answer, with log-probabilities unless the server refuses these.

        They are left out once a request with them was refused and one without was not.
        """
        body, read = {**self.asks, **body}, read or read_answer
        try:
            return self._said(self.ask(path, {**body, **(logs if self.logs else {})}, read))
        except RequestRefusedError as refused:
            if not self.logs or refused.trouble.status not in (400, 422):
                raise
        said = self._said(self.ask(path, body, read))
        self.logs = False
        return said

    def _said(self, answered: RuntimeAnswer) -> RuntimeAnswer:
        if (key := self.server.peer.key) and key in answered.text:
            raise UsageError(f"{self.server.where}: repeats its API key in an answer; do not use it")
        with self._counting:
            self.tokens += (
                answered.said or len(answered.ids or answered.logprobs or ()) or max(1, len(answered.text) // 4)
            )
        return answered


def read_answer(reply: Any) -> RuntimeAnswer:
    """Parse an answer in the shape of either OpenAI endpoint. Raises RequestError."""
    chosen = single_choice(reply)
    message = as_object(chosen.get("message"))
    text = message.get("content", chosen.get("text"))
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    told, ids = as_object(chosen.get("logprobs")), token_ids(chosen.get("token_ids"))
    logprobs: list[float] | None = None
    texts: list[str] | None = None
    if isinstance(content := told.get("content"), list) and content:
        entries = [entry for entry in content if isinstance(entry, dict)]
        ids = token_ids([entry.get("id") for entry in entries]) or ids
        logprobs, texts = finite_logprobs([e.get("logprob") for e in entries]), [str(e.get("token")) for e in entries]
    elif isinstance(values := told.get("token_logprobs"), list) and values:
        logprobs = finite_logprobs(values)
    prompt, said = (token_count(as_object(reply.get("usage")), f"{of}_tokens") for of in ("prompt", "completion"))
    ended = str(chosen.get("finish_reason") or "")
    thought = drop_surrogates(reasoning) if isinstance(reasoning, str) else ""
    return RuntimeAnswer(drop_surrogates(str(text or "")), ids, logprobs, ended, prompt, said, texts, thought)


def read_stream(events: Any) -> RuntimeAnswer:
    """Parse the events of a stream as if they were one reply. Raises RequestError."""
    if not isinstance(events, list):
        raise http_client.RequestError("did not stream its answer, although asked to (stream: true)")
    choices = [single_choice(event) for event in map(as_object, events) if event.get("choices") or event.get("error")]
    deltas = [as_object(choice.get("delta")) for choice in choices]
    usage = [event["usage"] for event in map(as_object, events) if event.get("usage")]
    message = {"content": _join_texts(deltas, "content"), "reasoning_content": _join_texts(deltas, "reasoning_content")}
    message["reasoning_content"] += _join_texts(deltas, "reasoning")
    logs = [as_object(choice.get("logprobs")).get("content") for choice in choices]
    told = [choice.get("token_ids") for choice in choices]
    ids, entries = ([one for part in parts if isinstance(part, list) for one in part] for parts in (told, logs))
    ended = [why for choice in choices if isinstance(why := choice.get("finish_reason"), str) and why]
    choice: dict[str, Any] = {"message": message, "finish_reason": ended[-1] if ended else ""}  # some tell it twice
    choice |= ({"logprobs": {"content": entries}} if entries else {}) | ({"token_ids": ids} if ids else {})
    return read_answer({"choices": [choice], "usage": usage[-1] if usage else None})


def read_probe(reply: Any) -> RuntimeProbe | None:
    """Parse the alternatives for the first token of an answer.

    They may be in the shape of either endpoint; None if there are none.
    """
    told = as_object(single_choice(reply).get("logprobs"))
    entries, listed = told.get("content"), told.get("top_logprobs")
    if isinstance(entries, list) and entries and isinstance(top := as_object(entries[0]).get("top_logprobs"), list):
        alternatives = [as_object(one) for one in top]
        values = finite_logprobs([one.get("logprob") for one in alternatives])
        token = alternatives[values.index(max(values))].get("id") if values else None
        return RuntimeProbe(sorted(values, reverse=True), token if type(token) is int else None) if values else None
    if isinstance(listed, list) and listed and isinstance(listed[0], dict) and listed[0]:
        return RuntimeProbe(sorted(finite_logprobs(list(listed[0].values())), reverse=True))
    return None


def _join_texts(parts: Sequence[Mapping[str, Any]], name: str) -> str:
    return "".join(text for part in parts if isinstance(text := part.get(name), str))


def token_count(told: Mapping[str, Any], name: str) -> int | None:
    """Return a reported number of tokens. None for any other value."""
    return found if type(found := told.get(name)) is int else None


def token_ids(values: Any) -> list[int] | None:
    """Return a list of token ids. None for any other value."""
    return values if isinstance(values, list) and all(type(i) is int for i in values) else None


def read_context_limit(told: Mapping[str, Any]) -> int | None:
    """Return how many tokens a runtime takes, where it tells that."""
    return token_count(told, "n_ctx") or token_count(told, "max_model_len")


def finite_logprobs(values: Any) -> list[float]:
    """Return finite log-probabilities of at most 0. Raises RequestError."""
    found = [float(v) if type(v) is float or (type(v) is int and -1e6 < v <= 0) else math.nan for v in values]
    if odd := [v for v in found if not (math.isfinite(v) and v <= 1e-4)]:
        raise http_client.RequestError(f"sent a number that is not a log-probability (finite and at most 0): {odd[:3]}")
    return found
