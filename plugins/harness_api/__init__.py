"""[model] use = "api": a model behind an OpenAI-compatible server, evaluated where it is served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from harness import hookimpl, loader
from harness_api.options import OPENAI, Options

if TYPE_CHECKING:
    from harness import ModelRef, Subject
    from harness_api.subject import APISource


@hookimpl
def harness_loaders() -> dict[str, Any]:
    return {"api": load}


def open_source(path: str, **options: Any) -> APISource:
    """Ask the server whether it is there and serves the model, and tell what it offers."""
    from harness_api.subject import open_source

    return open_source(path, Options(**options))


def identity(ref: ModelRef, **options: Any) -> str | None:
    """Return the identity of what an answer depends on; None without a `version`: the model behind may change."""
    return Options(**options).identity(ref.path)


@loader(open=open_source, identity=identity, remote=True, needs=lambda options: ("openai",), lacks=("thought_budget",))
@contextmanager
def load(
    refs: Sequence[ModelRef],
    *,
    base_url: str = OPENAI,
    api_key_env: str = "",
    endpoint: Literal["auto", "chat", "completions"] = "auto",
    logprobs: Literal["auto", "prompt_logprobs", "echo", "none"] = "auto",
    concurrency: int = 8,
    timeout: float = 60.0,
    retries: int = 5,
    version: str = "",
    context: int | None = None,
    prefix: str = "",
    body: dict[str, Any] | None = None,
) -> Iterator[list[Subject]]:
    """Answer through a server; the path is the name under which it serves the model.

    `api_key_env` names the environment variable that holds the key (for OpenAI's own server OPENAI_API_KEY, for
    others none unless named), `endpoint` says where text prompts go, `logprobs` how log-probs of a prompt are asked
    for, `concurrency` bounds the requests under way, `timeout` is in seconds. Answers are remembered only under a
    `version`: what is served under a name can change. `context` is in tokens, `prefix` is a text in front of texts
    that are scored without a prompt, `body` holds more fields of every request. Raises UsageError.
    """
    from harness_api.subject import load_subjects

    options = Options(
        base_url=base_url,
        api_key_env=api_key_env,
        endpoint=endpoint,
        logprobs=logprobs,
        concurrency=concurrency,
        timeout=timeout,
        retries=retries,
        version=version,
        context=context,
        prefix=prefix,
        body=body,
    )
    subjects = load_subjects(refs, options)
    try:
        yield list(subjects)
    finally:
        for server in {subject.server for subject in subjects}:
            server.close()
