"""A baseline made by prompting: the same model, with worked examples in front of every prompt."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Unpack

from harness.data import chat
from harness.data.rows import target_as_continuation
from harness.errors import UsageError
from harness.records.models import Generation, Logprob, Subject
from harness.records.samples import Prompt, Sample


class FewShot:
    """A subject with the same `examples` before every prompt.

    They are chat turns before messages, and text before text.
    """

    def __init__(self, name: str, subject: Subject, examples: Sequence[Sample]) -> None:
        self.name, self.subject, self.examples = name, subject, examples

    @property
    def digest(self) -> str:
        return self.subject.digest

    @property
    def preferred_batch_rows(self) -> int | None:
        """Return the number of rows that the subject prefers per call."""
        return getattr(self.subject, "preferred_batch_rows", None)

    def generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> list[str]:
        """Answer each prompt after the examples."""
        return self.subject.generate([prepend_examples(p, self.examples) for p in prompts], **options)

    def render(self, messages: list[dict[str, str]]) -> str:
        """Write chat messages after the examples, as the template does."""
        return str(self.subject.render(prepend_examples(messages, self.examples)))  # type: ignore[attr-defined]

    def pop_sent_prompts(self, prompts: Sequence[Prompt]) -> list[str | None]:
        """Return the prompts as sent to the model, examples included.

        See `harness.answers.cache.CachedSubject`.
        """
        tell = getattr(self.subject, "pop_sent_prompts", None)
        if tell is None:
            return [None] * len(prompts)
        return list(tell([prepend_examples(p, self.examples) for p in prompts], as_json=True))

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> list[Logprob]:
        """Score each continuation after the examples and its prompt.

        Whole texts, which have an empty prompt, are scored as they are.
        """
        return self.subject.logprobs([(prepend_examples(p, self.examples) if p else p, c) for p, c in pairs], **options)


def prepend_examples(prompt: Prompt, examples: Sequence[Sample]) -> Prompt:
    """Put worked examples before a prompt.

    A system message stays first, and the template arguments are the prompt's. Raises UsageError if the examples are
    messages and the prompt is text.
    """
    if isinstance(prompt, str):
        if error := find_form_error([prompt], examples):
            raise UsageError(error)
        return "".join(f"{e.input}{target_as_continuation(e.input, e.targets[0])}\n\n" for e in examples) + prompt
    prompt, arguments = chat.split_arguments(prompt)
    system = [m for m in prompt[:1] if m.get("role") == "system"]
    turns: list[dict[str, str]] = []
    for e in examples:
        asked = e.input if isinstance(e.input, list) else [{"role": "user", "content": e.input}]
        turns += [m for m in asked if m.get("role") != "system"]
        turns.append({"role": "assistant", "content": e.targets[0]})
    return chat.join_arguments([*system, *turns, *prompt[len(system) :]], arguments)


def find_form_error(prompts: Sequence[Prompt], examples: Sequence[Sample]) -> str | None:
    """Return why worked examples cannot stand before these prompts: messages before a text."""
    if not any(isinstance(p, str) and p for p in prompts) or not any(isinstance(e.input, list) for e in examples):
        return None
    how = "name examples that are text with fewshot_data, or give the evaluation's prompts as messages"
    return f"few-shot examples are chat messages, but the prompts are text; {how}"


def choose_examples(pool: Sequence[Sample], shots: int, seed: int) -> list[Sample]:
    """Draw examples by seed, the same for every row and run."""
    return random.Random(seed).sample(list(pool), min(shots, len(pool)))  # noqa: S311 -- not for secrets
