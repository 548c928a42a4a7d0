"""A judge behind an OpenAI-compatible server: OpenAI, vLLM, llama.cpp, Ollama, TGI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness import wire
from harness_judge import service
from harness_judge.budget import Reserved
from harness_judge.desk import Trouble
from harness_judge.prompts import Question
from harness_judge.service import Service
from harness_judge.verdict import Reply

PATH = "/chat/completions"


class OpenAIJudge:
    """Asks chat completions for JSON of a schema."""

    def __init__(
        self, at: Service, model: str, *, verdict_tokens: int, timeout: float, body: Mapping[str, Any] | None = None
    ) -> None:
        self.at, self.model, self.verdict_tokens, self.timeout = at, model, verdict_tokens, timeout
        self.where = f'judge "{model}" at {at.place}'
        self.body = {"temperature": 0.0, **(body or {})}
        self.identity = [at.provider, at.url, model, verdict_tokens, self.body]
        self._without: frozenset[str] = frozenset()  # fields that the model refuses
        # The older name is the one that all servers know but OpenAI's newer models.
        self._limit = "max_completion_tokens" if at.url == service.HOMES["openai"] else "max_tokens"
        openai = service.installed("openai")
        self._client, headers = wire.openai_client(openai, at.peer)
        self._options = {"headers": headers, "timeout": openai.Timeout(timeout, connect=min(service.CONNECT, timeout))}

    def close(self) -> None:
        self._client.close()

    def most(self, question: Question) -> Reserved:
        return service.most(question, self.verdict_tokens)

    def ask(self, question: Question) -> Reply:
        """Put a question, once. Raises Trouble."""
        openai = service.installed("openai")
        with self.at.asked(openai, self.timeout, self._refusal):
            reply = self._client.post(PATH, cast_to=object, body=self._request(question), options=self._options)
        return service.checked(self._read(reply))

    def _request(self, question: Question) -> dict[str, Any]:
        schema = {"name": "verdict", "strict": True, "schema": dict(question.schema)}
        asked = {
            **{name: value for name, value in self.body.items() if name not in self._without},
            "model": self.model,
            "messages": question.messages(),
            "response_format": {"type": "json_schema", "json_schema": schema},
        }
        return asked | {self._limit: self.verdict_tokens}

    def _read(self, body: Any) -> Reply:
        """Return the reply in a body; one without choices is none."""
        choices = body.get("choices") if isinstance(body, dict) else None
        if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
            raise Trouble("answered without choices, so this is no answer", passing=True, charged=True)
        message, ended = choices[0].get("message") or {}, choices[0].get("finish_reason")
        usage = body.get("usage") or {}
        problem = ""
        if message.get("refusal") or ended == "content_filter":
            problem = f"the judge refused: {self.at.clean(str(message.get('refusal') or ended))}"
        elif ended == "length":
            problem = f"the verdict was cut at {self.verdict_tokens} tokens; allow more with verdict_tokens"
        return Reply(
            self.at.hide(str(message.get("content") or "")),
            str(body.get("model") or self.model),
            int(usage.get("prompt_tokens") or 0),
            int(usage.get("completion_tokens") or 0),
            problem,
        )

    def _refusal(self, error: Any) -> Trouble:
        """Return what a refusal means; a field that the model does not know is left out from now on."""
        status, field = int(error.status_code), str(getattr(error, "param", None) or "")
        if status == 400 and field == "temperature" and field not in self._without:
            self._without |= {field}
            return Trouble("it refuses temperature", passing=True, after=0.0)
        if status == 400 and field == "max_tokens" and self._limit == field:
            self._limit = "max_completion_tokens"
            return Trouble("it refuses max_tokens", passing=True, after=0.0)
        return self.at.refusal(self.model, error)
