"""A judge that runs here: a causal LM, read by the log-probs of the verdicts it may give.

So a small model never writes broken JSON, and what it says is always one of the verdicts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from harness import ModelRef, Responses, Subject
from harness.internals import CachedSubject, StageModels
from harness_judge.prompts import Question, truncate_text
from harness_judge.verdict import FailedQuestion, Reply

MIN_TEXT_CHARS = 64  # characters of a text below which cutting it further would leave nothing to judge
MARK = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")  # an added token that tells parts of a chat apart, special or not
BATCH_QUESTIONS = 32  # questions at a time: a sign of life in between


class LocalJudge:
    """A local judge, loaded by "hf" on the first uncached question."""

    capped = ""

    def __init__(
        self, path: str, responses: Responses | None, options: Mapping[str, Any] | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:  # fmt: skip
        import harness_hf

        self.path, self.responses, self.options, self.progress = path, responses, dict(options or {}), progress
        source = harness_hf.open_source(path, **self.options)
        self.ref = ModelRef("judge", source.path, source.digest)
        self._name = harness_hf.identify(self.ref, **self.options)
        self.models = {f"{path} ({source.digest[:12]})": None}
        self.asked = self.found = self.again = 0

    def close(self) -> None:
        """Do nothing: a model is in memory as long as it is asked."""

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply | FailedQuestion]]:
        """Yield (number, reply) for each question, in order."""
        import harness_hf

        models = StageModels(partial(harness_hf.load, [self.ref], **self.options))
        cached = CachedSubject(self.ref, self._name, models, 0, self.responses) if self.responses else None
        try:
            subject: Any = cached or models[0]
            for start in range(0, len(questions), BATCH_QUESTIONS):
                self.progress(start, len(questions))
                yield from enumerate(self._read(subject, questions[start : start + BATCH_QUESTIONS]), start)
            self.asked += len(questions)
            if cached and cached.asked == cached.found:
                self.found += len(questions)
        finally:
            models.close()

    def _read(self, subject: Subject, questions: Sequence[Question]) -> Iterator[Reply | FailedQuestion]:
        """Score every verdict of every question at once: their prompts are shared."""
        questions = [self._remove_special_tokens(q) for q in questions]
        fitted = [self._truncate_to_context(subject, q) for q in questions]
        pairs = [(q.messages(letter=True), word) for q, _ in fitted if q for word in q.labels]
        scores = iter(subject.logprobs(pairs))
        for question, (fits, tokens) in zip(questions, fitted, strict=True):
            if not fits:
                context = getattr(subject, "context", None)
                yield FailedQuestion(f"the question does not fit into the judge's context of {context} tokens")
                continue
            totals, words = [next(scores).total for _ in fits.labels], list(fits.labels)
            if not all(map(math.isfinite, totals)):
                yield FailedQuestion("a log-probability is not finite")
                continue
            word = words[max(range(len(words)), key=totals.__getitem__)]
            shares = [math.exp(t - max(totals)) for t in totals]
            reason = ", ".join(f"{w} {s / sum(shares):.2f}" for w, s in zip(words, shares, strict=True))
            if fits is not question:
                reason += "; texts were truncated to fit into the judge's context"
            told, label = {"reason": f"by log-probs: {reason}"}, fits.labels[word]  # as a judge that writes would
            said = told | label if "verdict" in label else {name: told | met for name, met in label.items()}
            yield Reply(json.dumps(said), next(iter(self.models)), tokens)

    def _remove_special_tokens(self, question: Question) -> Question:
        """Remove the judge's special tokens from the data. It would read them as turns, tools or thoughts."""
        data = dict(question.data)
        for name, text in question.data.items():
            while (
                left := self._special_token_pattern.sub("", text)
            ) != text:  # what is left of one may join to another
                data[name] = text = left
        return replace(question, data=data) if data != question.data else question

    @cached_property
    def _special_token_pattern(self) -> re.Pattern[str]:
        from harness_hf import load_tokenizer

        tokenizer = load_tokenizer(self.ref.path)
        added = (str(t) for t in tokenizer.added_tokens_decoder.values() if t.special or MARK.fullmatch(str(t)))
        tokens = {t for t in (*tokenizer.all_special_tokens, *added) if t.strip()}
        return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")

    def _truncate_to_context(self, subject: Any, question: Question) -> tuple[Question | None, int]:
        """Truncate a question's texts to fit the judge's context.

        Returns it with its number of tokens, or None if it cannot fit.
        """
        context = getattr(subject, "context", None) or math.inf
        most, fits = max(map(len, question.data.values()), default=0), question
        while True:
            one = fits.messages(letter=True), next(iter(fits.labels))  # the question and one of its verdicts
            tokens = int(subject.count_tokens([one])[0])
            if tokens <= context or most <= MIN_TEXT_CHARS:
                return fits if tokens <= context else None, tokens
            most //= 2
            fits = replace(question, data={name: truncate_text(text, most) for name, text in question.data.items()})
