"""What a runtime tells, found by asking it: each dialect is a table of what is asked, and where in the reply it is."""

from __future__ import annotations

from harness import UsageError
from harness_api import ApiOptions, Server
from harness_served.dialects.llama_cpp import LlamaCpp
from harness_served.dialects.ollama import Ollama
from harness_served.dialects.vllm import Vllm
from harness_served.runtime import Runtime, one_model

DIALECTS: tuple[type[Runtime], ...] = (LlamaCpp, Vllm, Ollama)


def find(url: str, model: str = "", key: str = "") -> Runtime:
    """Return the runtime behind a URL, in the dialect that it speaks. Raises UsageError where none answers."""
    server = Server(ApiOptions(base_url=url, api_key_env=key, retries=2))
    name = one_model(server, model)
    root = server.url.removesuffix("/v1")
    for dialect in DIALECTS if root != server.url else ():
        try:
            told = server.ask(f"{root}{dialect.probe}", read=lambda reply: reply, tries=2, timeout=10.0)
        except UsageError:  # refused, a page, or nothing, where only this dialect has something
            continue
        if dialect.knows(told):
            return dialect(server, name, told)
    return Runtime(server, name, {})
