"""One server: tries, what went wrong in one line, and what it understands.

That is found out with one tiny request each, once, before anything is measured.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

from harness import UsageError, did_you_mean
from harness.internals import format_duration, http_client, missing_modules_message
from harness_api import replies
from harness_api.options import ApiOptions

T = TypeVar("T")
MISSING_PACKAGE_ERROR = f'loader "api": {missing_modules_message("openai")}'
CHAT, COMPLETIONS, MODELS = "/chat/completions", "/completions", "/models"
MAX_TRIES = 2  # an error at the start is reported soon
PROBE_TIMEOUT_S = 10.0  # seconds for a list of models
ADVICE = {  # by the least HTTP status, 0 where there was no reply
    500: "check its log, and try again",
    1: "try again later",
    0: "start it, or correct base_url",
}
PROBE = "The capital of France is"
OUT_OF_ROOM = "output limit was reached"  # a reasoning model's refusal of so short a limit: it understood the rest


class ServerUnavailableError(UsageError):
    """The server gives no answer now, and may later."""


class RequestRefusedError(UsageError):
    """A request that the server refuses, so that retries are useless."""

    def __init__(self, message: str, trouble: http_client.RequestError) -> None:
        super().__init__(message)
        self.trouble = trouble


class Server(http_client.Client):
    """An OpenAI-compatible server. With `fresh` each request gets a connection of its own."""

    words: ClassVar[Mapping[str, str]] = {}  # what the options are called where they are not those of a suite

    def __init__(self, options: ApiOptions, *, fresh: bool = False) -> None:
        self.url, self.timeout, self.tries = options.url, options.timeout, options.retries + 1
        root = self.url.removesuffix("/v1")  # vLLM and what imitates it tells tokens beside /v1, not in it
        self.tokens_url = f"{root}/tokenize" if root != self.url else ""
        self.text_url = f"{root}/detokenize" if root != self.url else ""
        # Only OpenAI's own server gets OPENAI_API_KEY without being told to: a key is for those it was made for.
        variable = options.api_key_env or ("OPENAI_API_KEY" if http_client.is_openai(self.url) else "")
        key, wrong = http_client.read_key(variable) if variable else ("", "")
        if wrong == "is not set":
            wrong = f"the environment variable {variable}, which should hold its API key, is not set; set it"
        if wrong:
            raise UsageError(f'server "{self.url}": {wrong}')
        super().__init__(
            "openai", http_client.ServerConnection(self.url, key), variable, MISSING_PACKAGE_ERROR, fresh=fresh
        )
        self.where = f'server "{self.url}"{self.peer.through}'

    def ask(
        self, path: str, body: Mapping[str, Any] | None = None, *, read: Callable[[Any], T], about: str = "",
        advice: str = "", tries: int | None = None, timeout: float | None = None,
        stop: threading.Event = http_client.NEVER,
    ) -> T:  # fmt: skip
        """POST a body, or GET without one, and parse the reply.

        `read` gets the reply's JSON. Retries come with pauses that double and those that the server requests, until
        `stop` is set. `about` describes the request in an error. Raises RequestRefusedError, or ServerUnavailableError
        when it gives up.
        """
        try:
            return http_client.retry(
                lambda: read(self.send(path, body, timeout or self.timeout)), tries or self.tries, stop
            )
        except http_client.RequestError as trouble:
            what = f"{self.where}: {self.peer.redact(str(trouble), 300)}"
            if not trouble.passing:
                hint = f"; {trouble.hint}" if trouble.hint else ""
                raise RequestRefusedError(self._replace_names_with_words(f"{what}{about}{hint}"), trouble) from None
            asked = (
                f" and asks to wait {format_duration(trouble.after)}"
                if (trouble.after or 0.0) > http_client.MAX_RETRY_AFTER_S
                else ""
            )
            after = f"after {trouble.tries} {'try' if trouble.tries == 1 else 'tries'}"
            advice = advice or next(text for least, text in ADVICE.items() if trouble.status >= least)
            raise ServerUnavailableError(
                self._replace_names_with_words(f"{what}{asked}{about}, {after}; {advice}")
            ) from None

    def _replace_names_with_words(self, text: str) -> str:
        for name, word in self.words.items():
            text = text.replace(name, word)
        return text


@dataclass(frozen=True)
class Endpoint:
    """An endpoint for one kind of prompts.

    `limit` is the field that bounds an answer's tokens, `without` are fields that the model refuses.
    """

    path: str
    limit: str = "max_tokens"
    without: frozenset[str] = frozenset()

    def body(self, most: int, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a request for at most `most` tokens."""
        return {name: value for name, value in asked.items() if name not in self.without} | {self.limit: most}


@dataclass(frozen=True)
class Dialect:
    """A server's capabilities for a model.

    They are where text and messages go, how prompts are scored, and whether the server gives their tokens.
    """

    text: Endpoint
    chat: Endpoint | None
    scoring: replies.Way | None
    tokenizes: bool
    context: int | None
    facts: Mapping[str, Any]


def find_dialect(server: Server, model: str, options: ApiOptions) -> Dialect:
    """Probe a server's capabilities for a model.

    Raises UsageError if it does not serve the model, or not as the options demand.
    """
    entry = find_served_entry(server, model)
    asked, refusals = {**(options.body or {}), "model": model}, list[RequestRefusedError]()
    chat = _negotiate_endpoint(
        server, Endpoint(CHAT), {**asked, "messages": [{"role": "user", "content": PROBE}]}, refusals
    )
    plain = _negotiate_endpoint(server, Endpoint(COMPLETIONS), {**asked, "prompt": PROBE}, refusals)
    if not chat and not plain:
        if refusals[0].trouble.status not in (404, 405):
            raise refusals[0]
        raise UsageError(f"{server.where}: knows neither {CHAT} nor {COMPLETIONS}; check whether base_url lacks /v1")
    text = {"auto": plain or chat, "chat": chat, "completions": plain}[options.endpoint]
    if text is None:
        why = server.peer.redact(str(refusals[0].trouble))
        raise UsageError(f'{server.where}: does not answer at "{options.endpoint}", {why}')
    scoring = _probe_prompt_logprobs_way(server, asked, options) if plain else None
    if scoring is None and options.logprobs in replies.WAYS:
        raise UsageError(f'{server.where}: does not provide log-probs of prompts by "{options.logprobs}"')
    context = options.context or (told if isinstance(told := entry.get("max_model_len"), int) else None)
    tokenizes = _can_tokenize(server, model)
    facts: dict[str, Any] = {
        "server": server.url,
        "served by": server.peer.redact(str(entry.get("owned_by") or "unknown"), 100),
        "text prompts": text.path if text.path == COMPLETIONS else f"one user message to {CHAT}",
        "messages": chat.path if chat else "not supported",
        "log-probs of prompts": scoring or "not supported",
        "tokens": "provided by the server" if tokenizes else "unknown, so lengths are not checked",
    }
    if any(e and "temperature" in e.without for e in (text, chat)):
        facts["temperature"] = "the server's default, since it rejects 0: answers are sampled, not greedy"
    if context:
        facts["context"] = context
    return Dialect(text, chat, scoring, tokenizes, context, facts | server.peer.facts(model))


def find_served_entry(server: Server, model: str) -> Mapping[str, Any]:
    """Return a model's entry in the server's list.

    It is empty if the server has no list. Raises UsageError if the model is not in the list.
    """
    try:
        listed = server.ask(
            MODELS, read=_parse_models_by_id, tries=MAX_TRIES, timeout=min(PROBE_TIMEOUT_S, server.timeout)
        )
    except RequestRefusedError as refused:
        if refused.trouble.status in (404, 405):
            return {}  # not every server has the list; the probes tell
        raise
    if listed and model not in listed:
        known = [server.peer.redact(name, 100) for name in listed]
        raise UsageError(f'{server.where}: does not serve a model "{model}"{did_you_mean(model, known)}')
    return listed.get(model, {})


def _parse_models_by_id(reply: Any) -> dict[str, Mapping[str, Any]]:
    if not isinstance(data := replies.as_object(reply).get("data"), list):
        raise http_client.RequestError("replied to /models without a list of models", passing=True)
    return {str(e["id"]): e for e in data if isinstance(e, dict) and "id" in e}


def _negotiate_endpoint(
    server: Server, endpoint: Endpoint, asked: dict[str, Any], refusals: list[RequestRefusedError]
) -> Endpoint | None:
    """Request one token, leaving out fields that the server refuses.

    Returns None and adds to `refusals` if a refusal remains. Raises RequestRefusedError for status 401 and 403.
    """
    asked = {**asked, "temperature": 0, "stop": ["###"]}
    while True:
        try:
            server.ask(endpoint.path, endpoint.body(1, asked), read=replies.single_choice, tries=MAX_TRIES)
            return endpoint
        except RequestRefusedError as refused:
            if OUT_OF_ROOM in refused.trouble.said:
                return endpoint
            if refused.trouble.status in (401, 403):
                raise
            field = refused.trouble.field
            if field in ("temperature", "stop") and field not in endpoint.without:
                endpoint = replace(endpoint, without=endpoint.without | {field})
            elif field == endpoint.limit == "max_tokens":
                endpoint = replace(endpoint, limit="max_completion_tokens")
            else:
                refusals.append(refused)
                return None


def _probe_prompt_logprobs_way(server: Server, asked: Mapping[str, Any], options: ApiOptions) -> replies.Way | None:
    """Find a way to get a prompt's log-probs from the server.

    The reply must really have them, since some servers ignore the request. None if no way works.
    """
    for way in (way for way in replies.WAYS if options.logprobs in (way, "auto")):
        body = {**asked, "prompt": PROBE, **replies.prompt_logprobs_fields(way)}
        try:
            found = server.ask(COMPLETIONS, body, read=partial(replies.read_positions, way=way), tries=1)
        except UsageError:
            continue
        if sum(p.logprob is not None for p in found) >= 3:  # less: only what was generated
            return way
    return None


def _can_tokenize(server: Server, model: str) -> bool:
    if not server.tokens_url:
        return False
    try:
        asked = {"model": model, "prompt": PROBE, "add_special_tokens": False}
        found = server.ask(server.tokens_url, asked, read=replies.read_token_ids, tries=1)
        return len(found) > 1  # llama.cpp wants another field: no tokens
    except UsageError:
        return False
