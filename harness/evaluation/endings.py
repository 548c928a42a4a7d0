"""How answers ended: noted while an evaluator asks, and told of its scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

from harness.collection.plan import Task
from harness.records.models import Generation, Subject, ThoughtBudget
from harness.records.said import CUT, Said
from harness.records.samples import Prompt, Score


class Heard:
    """A subject that keeps how its answers ended, which evaluators need not pass on; the rest is the subject's own."""

    def __init__(self, subject: Subject, budget: ThoughtBudget | None = None) -> None:
        self._subject, self._budget = subject, budget
        self._heard: dict[str, Said] = {}  # by prompt, since they were last told

    def generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> list[str]:
        """Answer each prompt; see `Subject`. Of several answers to one prompt the worst ending counts."""
        if self._budget:
            options["thought_budget"] = self._budget
        answers = self._subject.generate(prompts, **options)
        for prompt, answer in zip(prompts, answers, strict=False):  # what is left out shows elsewhere
            one, key = Said.of(answer), repr(prompt)
            if key not in self._heard or one.rank > self._heard[key].rank:
                self._heard[key] = one
        return answers

    def heard(self, prompts: Sequence[Prompt]) -> list[Said | None]:
        """Return what was said to each prompt since the last call; None for what was not asked."""
        found = [self._heard.get(repr(prompt)) for prompt in prompts]
        self._heard.clear()
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_", "stream_")):
            raise AttributeError(name)
        return getattr(self._subject, name)


def ended(score: Score, said: Said | None, task: Task) -> Score:
    """Return a score that tells how its answer ended, as far as anybody knows, and the metrics that count endings."""
    said = Said() if said is None else said  # an empty one is false
    how, text = score.ended or said.ended, score.answer if score.answer is not None else said
    cut, silent = how in CUT, not text.strip()
    counted = {"cut": cut, "empty": silent, "thought_cut": cut and silent, "forced": said.forced}
    values = {name: float(counted[name]) if how else math.nan for name in task.endings}
    tokens = said.tokens if score.tokens is None else score.tokens
    return replace(score, values={**values, **score.values}, ended=how, tokens=tokens)
