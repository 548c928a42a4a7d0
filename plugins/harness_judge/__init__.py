"""[[eval]] use = "judge": answers compared or checked by a language model, which is measured itself.

And `[model] use = "anthropic"`: a model behind Anthropic's API, as a baseline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import harness
from harness import hookimpl, schema
from harness_judge.options import Anthropic

if TYPE_CHECKING:
    from harness import ModelRef, Subject
    from harness_judge.loader import AnthropicSource


@schema.takes(Anthropic)
def open_source(path: str, options: Anthropic) -> AnthropicSource:
    """Raise UsageError unless the API is there and knows the model."""
    from harness_judge.loader import open_source

    return open_source(path, options)


@schema.takes(Anthropic)
def identity(ref: ModelRef, options: Anthropic) -> str | None:
    """Return the identity of what an answer depends on; None without a `version`."""
    from harness_judge.loader import identity

    return identity(ref.path, options)


@harness.loader(open=open_source, identity=identity, needs=lambda options: ("anthropic",), lacks=("thought_budget",))
@schema.takes(Anthropic)
@contextmanager
def load(refs: Sequence[ModelRef], options: Anthropic) -> Iterator[list[Subject]]:
    """Answer through Anthropic's API; the path is the model's id.

    Answers are remembered only under a `version`: what is served under a name can change. It gives no log-probs.
    """
    from harness_judge.loader import AnthropicSubject

    with ExitStack() as stack:
        yield [stack.enter_context(closing(AnthropicSubject(ref, options))) for ref in refs]


@hookimpl
def harness_evaluators() -> dict[str, Any]:
    from harness_judge.evaluator import judge

    return {"judge": judge}


@hookimpl
def harness_loaders() -> dict[str, Any]:
    return {"anthropic": load}
