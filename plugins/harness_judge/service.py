"""Judges behind APIs: where these are, the key, what is asked of each, and what its refusals mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

from harness import UsageError
from harness.internals import http_client, missing_modules_message
from harness_judge.options import HOMES, KEYS, JudgeOptions
from harness_judge.prompts import Question
from harness_judge.verdict import Reply

OVERHEAD_TOKENS = 256  # tokens that a server may put around what we send
WHOLE_STOP_REASONS = ("end_turn", "stop_sequence")  # Anthropic's, of a whole answer


class TokenLimits(NamedTuple):
    """The most tokens that a question can use."""

    tokens_in: int
    tokens_out: int


class Service:
    """An API at one URL, with its key, which is never revealed.

    The key is read from the variable `key_env`. The provider's own variable is the default for the provider's own
    server only, so that no other server receives that key. Raises UsageError on an invalid URL or an unusable variable.
    """

    def __init__(self, provider: str, base_url: str = "", key_env: str = "") -> None:
        self.provider, self.url = provider, (base_url or HOMES[provider]).rstrip("/")
        if problem := http_client.find_url_error(self.url):
            raise UsageError(f"base_url {problem}")
        if problem := http_client.find_variable_error(key_env):
            raise UsageError(f"api_key_env {problem}")
        home = urlsplit(self.url).hostname == urlsplit(HOMES[provider]).hostname
        self.variable = key_env or (KEYS[provider] if home else "")
        self.key, problem = http_client.read_key(self.variable) if self.variable else ("", "")
        if problem == "is not set":
            problem = f'the environment variable {self.variable} is not set; set it to the API key for "{self.url}"'
        if problem:
            raise UsageError(problem)
        self.peer = http_client.ServerConnection(self.url, self.key)
        self.place = f'"{self.url}"{self.peer.through}'

    def connect(self) -> http_client.Client:
        """Return a client; raises UsageError without the SDK."""
        missing = missing_modules_message(self.provider)
        return http_client.Client(self.provider, self.peer, self.variable, missing)

    def redact(self, text: str) -> str:
        """Redact the key from a judge's text. Only the whole key is replaced, since a part may be an ordinary word."""
        return text.replace(self.key, "***") if self.key else text

    def send(
        self, client: http_client.Client, path: str, body: Mapping[str, Any] | None, model: str, timeout: float
    ) -> Any:
        """Send a request, and return the JSON of the reply. Raises RequestError, with advice on HTTP 401 and 404."""
        try:
            return client.send(path, body, timeout)
        except http_client.RequestError as trouble:
            if trouble.status == 401:
                what = (
                    f"the server rejects the key in {self.variable}"
                    if self.variable
                    else "the server needs an API key; set api_key_env"
                )
                trouble.what = f"{what} (HTTP 401)"
            if trouble.status == 404:
                trouble.what += f'; check that it serves "{model}", and base_url'
            raise

    def message(
        self, client: http_client.Client, model: str, asked: Mapping[str, Any], timeout: float
    ) -> tuple[Reply, str]:
        """Send Anthropic's API a message; return reply and stop reason. Raises RequestError."""
        body = self.send(client, "/v1/messages", {**asked, "model": model}, model, timeout)
        content = body.get("content") if isinstance(body, dict) else None
        if not isinstance(content, list):
            raise http_client.RequestError("sent a reply without content", passing=True, charged=True)
        text = "".join(str(b.get("text", "")) for b in map(_as_object, content) if b.get("type") == "text")
        read = "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"
        tokens = _sum_tokens(body.get("usage"), *read), _sum_tokens(body.get("usage"), "output_tokens")
        said = Reply(self.redact(text), str(body.get("model") or model), *tokens)
        return said, self.peer.redact(str(body.get("stop_reason") or ""))


class JudgeApi:
    """A judge behind an API that replies in JSON of a schema.

    `ask` is called from several threads. Raises UsageError on unusable options.
    """

    fields: ClassVar[Mapping[str, Any]] = {}  # of every request, unless the options say otherwise

    def __init__(self, options: JudgeOptions) -> None:
        self.at = at = Service(options.backend_name, options.base_url, options.api_key_env)
        self.model, self.verdict_tokens, self.timeout = options.model_name, options.verdict_tokens, options.timeout
        self.where = f'judge "{self.model}" at {at.place}'
        self.body = {**self.fields, **(options.body or {})}
        # What a reply depends on, but for the model that says it wrote it.
        self.identity = [at.provider, at.url, self.model, self.verdict_tokens, self.body]
        self.client = at.connect()

    def close(self) -> None:
        """Close its connections."""
        self.client.close()

    def max_tokens(self, question: Question) -> TokenLimits:
        """Return the most tokens a question can use, in and out: none is shorter than a byte of UTF-8."""
        sent = [*(m["content"] for m in question.messages()), json.dumps(dict(question.schema))]
        return TokenLimits(
            sum(len(text.encode("utf-8", "replace")) for text in sent) + OVERHEAD_TOKENS, self.verdict_tokens
        )

    def ask(self, question: Question) -> Reply:
        """Send a question, once. Raises RequestError, also for a reply that is not JSON."""
        if not (reply := self.send_question(question)).problem:  # one that was refused or cut needs not be JSON
            try:
                json.loads(reply.text)
            except (ValueError, RecursionError):
                raise http_client.RequestError("sent a reply that is not JSON", passing=True, reply=reply) from None
        return reply

    def send_question(self, question: Question) -> Reply:
        """Send a question, and return the reply."""
        raise NotImplementedError


class OpenAIJudge(JudgeApi):
    """Asks chat completions of an OpenAI-compatible server: OpenAI, vLLM, llama.cpp, Ollama, TGI."""

    fields: ClassVar[Mapping[str, Any]] = {"temperature": 0.0}

    def __init__(self, options: JudgeOptions) -> None:
        super().__init__(options)
        self._without: frozenset[str] = frozenset()  # fields that the model refuses
        # The older name is the one that all servers know but OpenAI's newer models.
        self._limit = "max_completion_tokens" if self.at.url == HOMES["openai"] else "max_tokens"

    def send_question(self, question: Question) -> Reply:
        """Send a question, and return the reply.

        If the model rejects a field, raises a retryable RequestError, and later requests leave out or rename that
        field.
        """
        schema = {"name": "verdict", "strict": True, "schema": dict(question.schema)}
        asked = {
            **{name: value for name, value in self.body.items() if name not in self._without},
            "model": self.model,
            "messages": question.messages(),
            "response_format": {"type": "json_schema", "json_schema": schema},
            self._limit: self.verdict_tokens,
        }
        try:
            body = self.at.send(self.client, "/chat/completions", asked, self.model, self.timeout)
        except http_client.RequestError as trouble:
            field = trouble.field if trouble.status == 400 else ""
            if field == "temperature" and field not in self._without:
                self._without |= {field}
            elif field == "max_tokens" and self._limit == field:
                self._limit = "max_completion_tokens"
            else:
                raise
            raise http_client.RequestError(f"it rejects {field}", passing=True, after=0.0) from None
        choices = body.get("choices") if isinstance(body, dict) else None
        if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
            raise http_client.RequestError("sent a reply without choices", passing=True, charged=True)
        message, ended, problem = _as_object(choices[0].get("message")), choices[0].get("finish_reason"), ""
        if message.get("refusal") or ended == "content_filter":
            problem = f"the judge refused: {self.at.peer.redact(str(message.get('refusal') or ended))}"
        elif ended == "length":
            problem = f"the verdict was truncated at {self.verdict_tokens} tokens; raise verdict_tokens"
        said, model = self.at.redact(str(message.get("content") or "")), str(body.get("model") or self.model)
        usage = body.get("usage")
        tokens = _sum_tokens(usage, "prompt_tokens"), _sum_tokens(usage, "completion_tokens")
        return Reply(said, model, *tokens, problem)


class AnthropicJudge(JudgeApi):
    """Asks Anthropic's messages."""

    def send_question(self, question: Question) -> Reply:
        """Send a question, and return the reply."""
        asked = {
            **self.body,
            "max_tokens": self.verdict_tokens,
            "system": question.system,
            "messages": question.messages()[1:],
            "output_config": {"format": {"type": "json_schema", "schema": dict(question.schema)}},
        }
        reply, ended = self.at.message(self.client, self.model, asked, self.timeout)
        if ended == "max_tokens":
            what = f"the verdict was truncated at {self.verdict_tokens} tokens; raise verdict_tokens"
            return replace(reply, problem=what)
        return (
            reply
            if ended in WHOLE_STOP_REASONS
            else replace(reply, problem=f'the judge refused, with the stop reason "{ended}"')
        )


def _as_object(value: Any) -> Mapping[str, Any]:
    """Return a reply's object, empty for any other value."""
    return value if isinstance(value, dict) else {}


def _sum_tokens(usage: Any, *names: str) -> int:
    """Return the sum of reported token counts. Any other value counts 0."""
    return sum(n for name in names if type(n := _as_object(usage).get(name)) is int and n > 0)
