"""Options of the loader, and request fields it reserves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness import Mistakes, digest_value

OPENAI = "https://api.openai.com/v1"
RESERVED_FIELDS = frozenset({  # fields of a request that the harness decides
    "model", "prompt", "messages", "stream", "n", "best_of", "echo", "logprobs", "prompt_logprobs", "max_tokens",
    "max_completion_tokens", "temperature", "top_p", "seed", "stop",
})  # fmt: skip


@dataclass(frozen=True)
class ApiOptions:
    """The options of the loader; their meanings are told there."""

    base_url: str = OPENAI
    api_key_env: str = ""
    endpoint: Literal["auto", "chat", "completions"] = "auto"
    logprobs: Literal["auto", "prompt_logprobs", "echo", "none"] = "auto"
    concurrency: int = 8
    timeout: float = 60.0
    retries: int = 5
    version: str = ""
    context: int | None = None
    prefix: str = ""
    body: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        from harness.internals import http_client

        mistakes = Mistakes()
        # What cannot be read is not shown either: it may hold a password.
        if problem := http_client.find_url_error(self.base_url):
            mistakes.add("base_url", problem)
        if problem := http_client.find_variable_error(self.api_key_env):
            mistakes.add("api_key_env", problem)
        for name, least in (("concurrency", 1), ("retries", 0), ("context", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                mistakes.add(name, f"is {value}; it must be {least} or more")
        if not self.timeout > 0:
            mistakes.add("timeout", f"is {self.timeout:g}; it must be a number of seconds above 0")
        for name in sorted(RESERVED_FIELDS & set(self.body or ())):
            mistakes.add("body", f'"{name}" is set by the harness; remove it')
        mistakes.raise_errors()

    @property
    def url(self) -> str:
        return self.base_url.rstrip("/")

    def digest(self, path: str) -> str:
        """Return a digest that identifies the served model, in place of its weights'."""
        return digest_value([self.url, path, self.version])
