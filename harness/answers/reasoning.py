"""Answers of models that think before they speak: what is matched or judged is what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

from harness.errors import UsageError
from harness.records.models import Generate, Generation, Subject
from harness.records.samples import Prompt


def generate_final_answers(
    subject: Subject, prompts: Sequence[Prompt], *, thought: Sequence[str] = (), **options: Unpack[Generation]
) -> list[tuple[str, str]]:
    """Return the final answer and the whole completion for each prompt.

    `thought` holds the marks around a model's reasoning, such as "<think>" and "</think>". With them the final answer
    begins after the last closing mark and ends before the first stop string from there on; it is empty if the reasoning
    never ends. Raises UsageError unless there are two marks, or none.
    """
    how = Generate(**options)
    if not thought:
        return [(text, text) for text in subject.generate(prompts, **how.keywords)]
    if len(thought) != 2 or not all(thought):
        raise UsageError(f'thought: is {list(thought)}; give two marks, for instance ["<think>", "</think>"]')
    generated = subject.generate(prompts, **replace(how, stop=()).keywords)
    said = [
        _extract_text_after_reasoning(subject, prompt, text, *thought)
        for prompt, text in zip(prompts, generated, strict=True)
    ]
    return [(cut_at_stop(text, how.stop), whole) for text, whole in zip(said, generated, strict=True)]


def _extract_text_after_reasoning(subject: Any, prompt: Prompt, text: str, begin: str, end: str) -> str:
    """Return the text after the reasoning.

    It is empty if the reasoning never ends, even if the prompt opened it.
    """
    if end in text:
        return text.rpartition(end)[2].lstrip()
    if begin in text or not text:
        return ""
    if not isinstance(prompt, str):
        try:
            prompt = str(subject.render(prompt))
        except AttributeError:  # a server keeps to itself how it renders, and what its models think
            return text
    return "" if prompt.rstrip().endswith(begin) else text


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first of the stop strings."""
    return text[: min((place for s in stop if s and (place := text.find(s)) >= 0), default=len(text))]
