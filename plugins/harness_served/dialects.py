"""Dialects of runtimes, each a table of requests and reply fields.

Probing a server finds its dialect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from harness import UsageError
from harness.internals import chat, drop_surrogates, http_client
from harness_api import CHAT, ApiOptions, RequestRefusedError, Server, as_object, find_served_entry, message_fields
from harness_served.runtime import (
    GREEDY,
    NEUTRAL_SAMPLING,
    Messages,
    Runtime,
    RuntimeAnswer,
    finite_logprobs,
    token_count,
    token_ids,
)

IDENTITY_FACTS = ("model_alias", "model_path", "model_ftype", "build_info", "bos_token", "eos_token", "total_slots")
WITH_USAGE = {"stream_options": {"include_usage": True}}  # which a server that knows OpenAI's fields alone refuses
PROBE_TIMEOUT_S = 10.0  # seconds, for what a server says of itself
NO_FILTER = {
    **{"top_k": 0, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0, "presence_penalty": 0.0},
    **{"frequency_penalty": 0.0, "dry_multiplier": 0.0, "xtc_probability": 0.0, "mirostat": 0},
}


class LlamaCpp(Runtime):
    """llama.cpp's own server: tells template, tokens, how it draws, and adapters with their scales.

    It takes a doubled BOS off in chat, not in text; ids as a prompt skip template and BOS.
    """

    kind, name, probe, takes_ids = "llama.cpp", "llama.cpp's server", "/props", True
    hint = "start it without --no-slots and post_sampling_probs"
    ids_by = "text rendered by /apply-template, then /tokenize"
    streams: ClassVar[Mapping[str, Any]] = WITH_USAGE
    draws: ClassVar[Mapping[str, Any]] = {**NEUTRAL_SAMPLING, **NO_FILTER}

    @classmethod
    def matches_probe(cls, told: Any) -> bool:
        return isinstance(told, dict) and "default_generation_settings" in told

    def identity(self) -> dict[str, Any]:
        props = self.ask(f"{self.root}/props", None, as_object)
        settings = as_object(props.get("default_generation_settings"))
        found = {name: props[name] for name in IDENTITY_FACTS if name in props} | {"n_ctx": settings.get("n_ctx")}
        return found | {"template": props.get("chat_template"), "adapters": self.adapters()}

    def adapters(self) -> list[dict[str, Any]]:
        listed = self.ask(f"{self.root}/lora-adapters", None)
        listed = listed if isinstance(listed, list) else []
        return [
            {"id": a.get("id"), "name": str(a.get("path")), "scale": a.get("scale")} for a in map(as_object, listed)
        ]

    def defaults(self) -> Mapping[str, Any] | None:
        body = {"prompt": [1], "n_predict": 1}
        settings = self.ask(f"{self.root}/completion", body, as_object).get("generation_settings")
        self.tokens += 1
        if not isinstance(settings, dict):
            return None
        names = ["temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty"]
        names += ["frequency_penalty", "dry_multiplier", "xtc_probability"]  # as generation_config.json has them
        told = {name: settings.get("repeat_penalty" if name == "repetition_penalty" else name) for name in names}
        return {name: round(float(v), 4) for name, v in told.items() if isinstance(v, (int, float)) and abs(v) < 1e9}

    def ids(self, messages: Messages) -> list[int] | None:
        text = self.ask(f"{self.root}/apply-template", message_fields([dict(m) for m in messages]), as_object).get(
            "prompt"
        )
        if not isinstance(text, str):
            return None
        asked = {"content": text, "add_special": True, "parse_special": True}
        ids = token_ids(self.ask(f"{self.root}/tokenize", asked, as_object).get("tokens"))
        doubled = ids and ids[:1] == ids[1:2] and text.startswith(str(self.told.get("bos_token")))
        return ids[1:] if ids and doubled else ids or None  # as chat does

    def tokenize(self, text: str) -> list[int] | None:
        asked = {"content": text, "add_special": False}
        return token_ids(self.ask(f"{self.root}/tokenize", asked, as_object).get("tokens"))

    def complete(self, ids: Sequence[int], text: str, most: int, how: Mapping[str, Any]) -> RuntimeAnswer | None:
        return self._completed(list(ids) or text, most, how)

    def complete_as_base(self, ids: Sequence[int], text: str, most: int) -> RuntimeAnswer | None:
        off = [{"id": a["id"], "scale": 0.0} for a in self.adapters()]
        return self._completed(list(ids), most, {**self.draws, "lora": off, "seed": 1}) if off else None

    def _completed(self, prompt: list[int] | str, most: int, how: Mapping[str, Any]) -> RuntimeAnswer:
        body = {"prompt": prompt, "n_predict": most, "n_probs": 1, "return_tokens": True, "cache_prompt": True, **how}
        return self._said(self.ask(f"{self.root}/completion", body, read_completion))


def read_completion(reply: Any) -> RuntimeAnswer:
    """Parse a reply of llama.cpp's /completion. Raises RequestError."""
    if not isinstance(reply, dict) or not isinstance(reply.get("content"), str):
        raise http_client.RequestError(f"replied to /completion without content: {str(reply)[:100]}")
    told = reply.get("completion_probabilities")
    entries = [as_object(entry) for entry in told] if isinstance(told, list) else []
    if any("prob" in entry and "logprob" not in entry for entry in entries):
        raise http_client.RequestError(
            "reports probabilities after its filters", hint="start it without post_sampling_probs"
        )
    all_ids = [i for i in reply.get("tokens") or () if type(i) is int]
    ids = [i for entry in entries if type(i := entry.get("id")) is int] or all_ids
    # a token that is part of a character has no entry of its own, and what follows could be taken for its neighbour
    whole = next((at for at, (a, b) in enumerate(zip(ids, all_ids or ids, strict=False)) if a != b), len(ids))
    ids, entries = ids[:whole], entries[:whole]
    ended = "length" if reply.get("stop_type") == "limit" else "stop"
    logprobs = finite_logprobs([entry.get("logprob") for entry in entries]) if entries else None
    return RuntimeAnswer(
        drop_surrogates(reply["content"]), ids, logprobs, ended, token_count(reply, "tokens_evaluated")
    )


class Vllm(Runtime):
    """vLLM: takes and tells tokens, log-probabilities before its filters, and adapters without their scale."""

    kind, name, probe, takes_ids = "vllm", "vLLM", "/version", True
    hint = "start it without logprobs_mode, and with --enable-lora if it serves an adapter"
    ids_by = "sent with an answer, or by /tokenize"
    asks: ClassVar[Mapping[str, Any]] = {"return_token_ids": True}
    streams: ClassVar[Mapping[str, Any]] = WITH_USAGE
    draws: ClassVar[Mapping[str, Any]] = {**NEUTRAL_SAMPLING, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}

    def identity(self) -> dict[str, Any]:
        return {"version": self.told.get("version"), **super().identity()}

    def adapters(self) -> list[dict[str, Any]]:
        parent = super().identity().get("parent")
        return [{"name": self.model, "parent": parent}] if parent else []

    def defaults(self) -> Mapping[str, Any] | None:
        """Return the sampling defaults that its render server reports.

        None if the server refuses, as it does unless that is enabled.
        """
        asked = {"model": self.model, "messages": [{"role": "user", "content": "?"}]}
        try:
            told = self.ask(f"{self.server.url}/chat/completions/render", asked)
        except RequestRefusedError:
            return None
        told = told[0] if isinstance(told, list) and told else told
        found = told.get("sampling_params") if isinstance(told, dict) else None
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        return {n: float(found[n]) for n in names if n in found} if isinstance(found, dict) else None

    def ids(self, messages: Messages) -> list[int] | None:
        """Return a chat prompt's tokens as reported by its very reply.

        If the chat reports none, /tokenize makes them.
        """
        body = {"model": self.model, "max_tokens": 1, **self.asks, **GREEDY}
        try:
            told = self.ask(CHAT, {**body, **message_fields([dict(m) for m in messages])}, as_object)
            self.tokens += 1
        except RequestRefusedError:  # a render server, or one that takes no tools
            told = {}
        if ids := token_ids(told.get("prompt_token_ids")):
            return ids
        about = {"add_generation_prompt": True, chat.ARGUMENTS: {}}
        return self._tokenized({**about, **message_fields([dict(m) for m in messages])})

    def tokenize(self, text: str) -> list[int] | None:
        return self._tokenized({"prompt": text, "add_special_tokens": False})

    def _tokenized(self, asked: Mapping[str, Any]) -> list[int] | None:
        try:
            reply = self.ask(f"{self.root}/tokenize", {"model": self.model, **asked}, as_object)
        except RequestRefusedError:
            return None
        return token_ids(reply.get("tokens"))

    def complete_as_base(self, ids: Sequence[int], text: str, most: int) -> RuntimeAnswer | None:
        parent = super().identity().get("parent")
        return self.complete(ids, text, most, {**self.draws, "seed": 1, "model": parent}) if parent else None


class Ollama(Runtime):
    """Ollama, from 0.12.11: tells a digest, parameters and log-probabilities of what it says; no tokens of a prompt.

    It has defaults of its own for drawing, where neither request nor Modelfile name them.
    """

    kind, name, probe = "ollama", "Ollama", "/api/version"
    hint = "serve the same GGUF with llama.cpp's server, which reports tokens"
    streams: ClassVar[Mapping[str, Any]] = WITH_USAGE

    def identity(self) -> dict[str, Any]:
        listed = self.ask(f"{self.root}/api/tags", None, as_object).get("models")
        entries = map(as_object, listed if isinstance(listed, list) else ())
        names = {self.model, f"{self.model}:latest"}
        own = next((m for m in entries if names & {m.get("name"), m.get("model")}), {})
        shown = self.ask(f"{self.root}/api/show", {"model": self.model}, as_object)
        told = {"version": self.told.get("version"), "digest": own.get("digest")}
        return told | {name: shown.get(name) for name in ("template", "parameters") if name in shown}


class RuntimeServer(Server):
    """A server with errors that name the options of `harness parity`."""

    words: ClassVar[Mapping[str, str]] = {"base_url": "--runtime", "api_key_env": "--api-key-env"}


def find_runtime(url: str, model: str = "", key: str = "", *, timeout: float = 60.0, retries: int = 2) -> Runtime:
    """Return the runtime behind a URL, in its own dialect.

    Its model is the given one, or the only one served; each request gets a connection of its own. Raises UsageError if
    no server answers, or the model is ambiguous.
    """
    try:
        options = ApiOptions(base_url=url, api_key_env=key, timeout=timeout, retries=retries)
    except UsageError as error:
        said = (message.partition(":") for message in error.messages)
        raise UsageError(*(f"{RuntimeServer.words.get(n, f'--{n}')}:{why}" for n, _, why in said)) from None
    server = RuntimeServer(options, fresh=True)
    return _find_dialect(server, *_find_model(server, model))


def _find_model(server: Server, model: str) -> tuple[str, list[str]]:
    """Return the requested or only served model, and all served models.

    Raises UsageError if it is not served or is ambiguous.
    """
    if model:
        find_served_entry(server, model)
    try:
        listed = sorted(server.ask("/models", read=_list_names, timeout=min(PROBE_TIMEOUT_S, server.timeout)))
    except RequestRefusedError:
        if not model:
            raise
        listed = [model]  # not every server has the list
    if not model and len(set(listed)) != 1:
        raise UsageError(f"{server.where}: serves {', '.join(listed) or 'no model'}; name one with --model")
    name = model or listed[0]
    if (many := listed.count(name)) > 1:
        raise UsageError(f'{server.where}: serves {many} models with the name "{name}"; give them different names')
    return name, listed


def _find_dialect(server: Server, name: str, listed: list[str]) -> Runtime:
    root = server.url.removesuffix("/v1")
    found = Runtime(server, name, {})
    for dialect in (LlamaCpp, Vllm, Ollama) if root != server.url else ():
        try:
            soon = min(PROBE_TIMEOUT_S, server.timeout)
            told = server.ask(f"{root}{dialect.probe}", read=lambda reply: reply, tries=2, timeout=soon)
        except UsageError:  # refused, a page, or nothing, where only this dialect has something
            continue
        if dialect.matches_probe(told):
            found = dialect(server, name, told)
            break
    found.others = [other for other in listed if other != name]
    return found


def _list_names(reply: Any) -> list[str]:
    data = as_object(reply).get("data")
    if not isinstance(data, list):
        raise http_client.RequestError("replied to /models without a list of models")
    return [str(entry["id"]) for entry in map(as_object, data) if "id" in entry]
