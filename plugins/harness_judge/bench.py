"""A judge, ready to be asked: one of the three backends, its budget, and what it is as an instrument."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Protocol

from harness import Responses, digest_of
from harness_judge import prompts
from harness_judge.budget import Budget
from harness_judge.desk import Desk, Failed
from harness_judge.options import Options
from harness_judge.prompts import Question
from harness_judge.service import AnthropicJudge, OpenAIJudge, Service
from harness_judge.verdict import Reply


class Bench(Protocol):
    """What both kinds of judges offer: an API's desk, and a model that runs here."""

    models: dict[str, None]  # ids of what replied, the last one last
    capped: str
    asked: int
    found: int
    again: int

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply | Failed]]: ...

    def close(self) -> None: ...


def open_bench(
    options: Options,
    responses: Responses | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    budget: Budget | None = None,
) -> Bench:
    """Make the judge that the options name; nothing was asked or loaded yet.

    `budget` is what is left of one, else it is as the options say. Raises UsageError.
    """
    if options.backend_name == "local":
        from harness_judge.local import LocalJudge

        return LocalJudge(options.model_name, responses, options.local, progress)
    at = Service(options.backend_name, options.base_url, options.api_key_env)
    api = OpenAIJudge if options.backend_name == "openai" else AnthropicJudge
    asked: dict[str, Any] = {"verdict_tokens": options.verdict_tokens, "timeout": options.timeout, "body": options.body}
    how: dict[str, Any] = {"concurrency": options.concurrency, "retries": options.retries, "progress": progress}
    return Desk(api(at, options.model_name, **asked), budget or budget_of(options), responses, **how)


def budget_of(options: Options) -> Budget:
    """Return the caps of the options, with nothing used of them."""
    usd = None if options.max_usd is None else Decimal(str(options.max_usd))
    return Budget(options.priced(), calls=options.max_calls, tokens=options.max_tokens, usd=usd)


def instrument(options: Options, models: dict[str, None]) -> dict[str, str]:
    """Return the identity of what a calibration holds for: the model that replied, the wording, and what was asked."""
    asked = [options.mode, options.guideline, dict(options.criteria or {}), options.reference, options.k]
    rubric = digest_of([*asked, options.answer_chars, dict(options.body or {})])[:16]
    return {"model": next(reversed(models), ""), "prompt": prompts.digest()[:16], "rubric": rubric}
