"""[[eval]] use = "judge": answers compared or checked by a language model, which is measured itself.

And `[model] use = "anthropic"`: a model behind Anthropic's API, as a baseline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import harness
from harness import hookimpl

if TYPE_CHECKING:
    from harness import ModelRef, Subject
    from harness_judge.loader import AnthropicSource


def open_source(path: str, **options: Any) -> AnthropicSource:
    """Raise UsageError unless the API is there and knows the model."""
    from harness_judge.loader import open_source

    return open_source(path, **options)


def identity(ref: ModelRef, **options: Any) -> str | None:
    """Return the identity of what an answer depends on; None without a `version`."""
    from harness_judge.loader import identity

    return identity(ref.path, **options)


@harness.loader(open=open_source, identity=identity, needs=lambda options: ("anthropic",), lacks=("thought_budget",))
@contextmanager
def load(
    refs: Sequence[ModelRef],
    *,
    base_url: str = "",
    api_key_env: str = "",
    concurrency: int = 8,
    timeout: float = 60.0,
    retries: int = 5,
    version: str = "",
    body: dict[str, Any] | None = None,
) -> Iterator[list[Subject]]:
    """Answer through Anthropic's API; the path is the model's id.

    Answers are remembered only under a `version`: what is served under a name can change. It gives no log-probs.
    """
    from harness_judge.loader import AnthropicSubject

    options: dict[str, Any] = {"base_url": base_url, "api_key_env": api_key_env, "timeout": timeout, "body": body}
    options |= {"concurrency": concurrency, "retries": retries, "version": version}
    with ExitStack() as stack:
        yield [stack.enter_context(closing(AnthropicSubject(ref, **options))) for ref in refs]


@hookimpl
def harness_evaluators() -> dict[str, Any]:
    from harness_judge.evaluator import judge

    return {"judge": judge}


@hookimpl
def harness_loaders() -> dict[str, Any]:
    return {"anthropic": load}
