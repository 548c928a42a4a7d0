"""A judge behind Anthropic's API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from harness import wire
from harness_judge import service
from harness_judge.budget import Reserved
from harness_judge.desk import Trouble
from harness_judge.prompts import Question
from harness_judge.service import Service
from harness_judge.verdict import Reply

ENDED = ("end_turn", "stop_sequence")


class AnthropicJudge:
    """Asks the messages API for JSON of a schema."""

    def __init__(
        self, at: Service, model: str, *, verdict_tokens: int, timeout: float, body: Mapping[str, Any] | None = None
    ) -> None:
        self.at, self.model, self.verdict_tokens, self.timeout = at, model, verdict_tokens, timeout
        self.where = f'judge "{model}" at {at.place}'
        self.body = dict(body or {})
        self.identity = [at.provider, at.url, model, verdict_tokens, self.body]
        self._client = connect(at, timeout)

    def close(self) -> None:
        self._client.close()

    def most(self, question: Question) -> Reserved:
        return service.most(question, self.verdict_tokens)

    def ask(self, question: Question) -> Reply:
        """Put a question, once. Raises Trouble."""
        asked = {
            **self.body,
            "model": self.model,
            "max_tokens": self.verdict_tokens,
            "system": question.system,
            "messages": question.messages()[1:],
            "output_config": {"format": {"type": "json_schema", "schema": dict(question.schema)}},
        }
        reply, ended = post(self._client, self.at, self.model, asked, self.timeout)
        problem = ""
        if ended == "max_tokens":
            problem = f"the verdict was cut at {self.verdict_tokens} tokens; allow more with verdict_tokens"
        elif ended not in ENDED:
            problem = f'the judge refused: it ended by "{ended}"'
        return service.checked(replace(reply, problem=problem))


def connect(at: Service, timeout: float) -> Any:
    """Make a client that sends our key and nothing else of the environment; raises UsageError without the SDK."""
    anthropic = service.installed("anthropic")
    client = anthropic.Anthropic(
        base_url=at.url,
        api_key=at.key or "none",
        max_retries=0,  # the desk tries again: it books every call
        http_client=wire.http_client(anthropic, at.peer),
        timeout=anthropic.Timeout(timeout, connect=min(service.CONNECT, timeout)),
        open_telemetry=False,
    )
    client._custom_headers = {}  # ANTHROPIC_CUSTOM_HEADERS is for a server we do not know
    return client


def post(client: Any, at: Service, model: str, asked: Mapping[str, Any], timeout: float) -> tuple[Reply, str]:
    """Send one message; return what came back, and why it ended. Raises Trouble, also where there is no content."""
    with at.asked(service.installed("anthropic"), timeout, partial(at.refusal, model)):
        body = client.post("/v1/messages", cast_to=object, body=dict(asked))
    content = body.get("content") if isinstance(body, dict) else None
    if not isinstance(content, list):
        raise Trouble("answered without content, so this is no answer", passing=True, charged=True)
    text = "".join(str(block.get("text", "")) for block in content if block.get("type") == "text")
    at.peer.hear(model, body)
    usage = body.get("usage") or {}
    kinds = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    tokens = sum(int(usage.get(kind) or 0) for kind in kinds), int(usage.get("output_tokens") or 0)
    return Reply(at.hide(text), str(body.get("model") or model), *tokens), at.clean(str(body.get("stop_reason") or ""))
