"""One item: call the evaluator on chunks of rows, hold it to one finite score a row, and tell how answers ended."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import stdev
from typing import Any, Unpack

from harness import plugin_errors, schema
from harness.collection.collection import COMPARATIVE, Task
from harness.errors import did_you_mean
from harness.evaluation.draws import SampledSubject, merge_draws
from harness.records.completion import TRUNCATED, Completion
from harness.records.copies import copy_record, detach_copy
from harness.records.metrics import NUMBER
from harness.records.models import ExtendedSubject, Generation, Progress, Subject, ThoughtBudget, split_chunks
from harness.records.samples import Prompt, Result, Sample, Score, rows_digest
from harness.stats.eprocess import interim_sizes
from harness.texts.escaping import drop_surrogates, shorten_repr

CHUNK_ROWS = 64  # rows given to an evaluator at once, where its subject says nothing: a sign of life in between


def evaluate(
    task: Task,
    name: str,
    subject: Subject,
    against: Subject | None,
    progress: Callable[[Progress], None],
    *,
    enough: Callable[[Result], bool] | None = None,
) -> Result:
    """Evaluate a subject on a task's rows; `against` goes to comparative evaluators.

    With `enough`, rows are evaluated in random order until it is true at one of the `looks`. A row without a score is
    listed in `missing`, and stays an error. Raises UsageError on scores for rows that do not exist or were already
    scored, and passes on errors of the evaluator.
    """
    samples = list(task.samples or ())
    if enough:
        random.Random(task.seed).shuffle(samples)  # noqa: S311 -- not for secrets
    options: dict[str, Any] = detach_copy(dict(task.spec.options))
    if task.comparative:
        options[COMPARATIVE] = against
    if schema.has_parameter(task.function, "folder"):
        options["folder"] = task.folder
    begun = time.monotonic()
    asked = rows_digest(task.samples or ())
    scores: list[Score] = []
    sampled = SampledSubject(subject, task)
    heard: Any = FinishReasonRecorder(sampled, task.thought_budget)

    def answer(rows: Sequence[Sample], draw: int) -> list[Score]:
        sampled.start_draw(rows, draw)
        found = list(iterate_scores(task, task.function(heard, detach_copy(rows), **options), rows))
        said = dict(zip((s.id for s in rows), heard.pop_completions([s.input for s in rows]), strict=True))
        return [add_finish_reason(score, said[score.id], task) for score in found]

    def result(rows: Sequence[Sample]) -> Result:
        there = {s.id for s in scores}
        missing = tuple(s.id for s in rows if s.id not in there)
        metrics = {m.name: m.value(scores) for m in task.metrics.values()}
        about = (missing, time.monotonic() - begun, asked, tuple(s.id for s in rows) if enough else ())
        return Result(name, task.spec.name, tuple(scores), metrics, subject.digest, *about)

    what = f"{name}::{task.spec.name}"
    progress(Progress(what, 0, len(samples)))
    done = 0
    for end in interim_sizes(len(samples)) if enough else [len(samples)]:
        for rows in split_chunks(samples[done:end], batch_rows(task, subject)):
            draws = [answer(rows, draw) for draw in range(task.repeats)]
            scores += merge_draws(task, rows, draws) if task.repeats > 1 else draws[0]
            done += len(rows)
            progress(Progress(what, done, len(samples)))
        if enough and done < len(samples) and enough(result(samples[:done])):
            break
    return result(samples[:done])


def batch_rows(task: Task, subject: Subject) -> int:
    """Return the number of rows per evaluator call. Timed evaluators always get the default, CHUNK_ROWS."""
    return CHUNK_ROWS if task.uncached else getattr(subject, "preferred_batch_rows", None) or CHUNK_ROWS


def validate_score(score: Score) -> Score:
    """Return a score as it is judged: plain numbers and texts that its evaluator holds no more.

    Raises TypeError or ValueError where a value or a weight is no number.
    """
    for name, value in {"weight": score.weight, **score.weights, **score.values}.items():
        if not isinstance(value, NUMBER):
            raise TypeError(f'row "{score.id}": "{name}" is {value!r}; it must be a number')
    for what, text in {"answer": score.answer, "note": score.note}.items():
        if not isinstance(text, str | None):
            raise TypeError(f'row "{score.id}": {what} is {shorten_repr(text)}; it must be a text or None')
    if not isinstance(score.details, Mapping):
        raise TypeError(f'row "{score.id}": details is {shorten_repr(score.details)}; it must be a dict')
    try:
        json.dumps(dict(score.details), default=str)
    except (TypeError, ValueError) as error:
        raise TypeError(f'row "{score.id}": details cannot be written as JSON: {error}') from None
    values, weights = ({str(k): float(v) for k, v in d.items()} for d in (score.values, score.weights))
    answer = None if score.answer is None else drop_surrogates(str(score.answer))
    if any(weights.get(name, 1.0) != 0 for name in score.lost):
        raise ValueError(f'row "{score.id}" lists a metric as lost that has a weight; set that weight to 0')
    if odd := next((name for name, share in score.partly_lost.items() if not 0 < share < 1), ""):
        raise ValueError(
            f'row "{score.id}": partly_lost of "{odd}" is {score.partly_lost[odd]}; it must be between 0 and 1'
        )
    numbers: dict[str, Any] = {"values": values, "weights": weights, "weight": float(score.weight)}
    return replace(copy_record(Score, score), answer=answer, **numbers)


def standard_errors(task: Task, result: Result) -> dict[str, float]:
    """Return the plain standard errors, as other tools report them.

    Only metrics that are means of equally weighted rows have one.
    """
    found = {}
    for metric in task.metrics.values():
        values = [s.values[metric.name] for s in result.scores if metric.name in s.values]
        plain = all(s.weight_of(metric.name) == 1 for s in result.scores)
        mean = metric.is_mean and not metric.combine and not result.labels_of(metric.name)
        if mean and plain and len(values) > 1 and all(map(math.isfinite, values)):
            found[metric.name] = stdev(values) / math.sqrt(len(values))
    return found


def metrics_by_slice(task: Task, result: Result) -> dict[str, dict[str, dict[str, float]]]:
    """Return every metric on every slice: column -> value -> metric (and `n`)."""
    scores = {s.id: s for s in result.scores}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for column in task.spec.slices:
        groups: dict[str, list[Score]] = {}
        for sample in task.samples or ():
            if sample.id in scores:
                groups.setdefault(str(sample.row[column]), []).append(scores[sample.id])
        known = [m for m in task.metrics.values() if not m.is_agreement and not result.labels_of(m.name)]
        found[column] = {
            value: {"n": float(len(rows)), **{m.name: m.value(rows) for m in known}}
            for value, rows in sorted(groups.items())
        }
    return found


def iterate_scores(task: Task, made: Any, rows: Sequence[Sample], kinds: tuple[type, ...] = (Score,)) -> Iterator[Any]:
    """Yield the validated items of an evaluator, of the given kinds.

    Each score must belong to one of `rows`, and occur once. Raises UsageError on anything else, with the evaluator's
    line.
    """
    samples, counts = {s.id: s for s in rows}, task.capabilities.counts
    wanted = {*samples}
    want = "Scores" if kinds == (Score,) else "Scores, Caveats or Labels"
    for one in plugin_errors.checked_items(task.function, made, kinds, want):
        if isinstance(one, Score):
            try:
                if one.id not in wanted:
                    raise ValueError(f'row "{one.id}" was not among its samples, or was scored twice')
                wanted.remove(one.id)
                one = validate_score(one)
                for name in one.values:
                    if counts and one.weight_of(name) != 0 and not counts(name, samples[one.id]):
                        raise ValueError(f'row "{one.id}" does not count in "{name}", so its weight there must be 0')
            except (TypeError, ValueError, AttributeError) as error:
                raise plugin_errors.plugin_error(task.function, f": {error}", made) from None
        yield one


class FinishReasonRecorder:
    """A subject that records finish reasons, which evaluators may drop.

    All else is delegated to the wrapped subject.
    """

    def __init__(self, subject: Subject, budget: ThoughtBudget | None = None) -> None:
        self._subject, self._budget = subject, budget
        self._heard: dict[str, Completion] = {}  # by prompt, since they were last told

    def generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> list[str]:
        """Answer each prompt; see `Subject`. Of several answers to one prompt the worst ending counts."""
        if self._budget:
            options["thought_budget"] = self._budget
        answers = self._subject.generate(prompts, **options)
        for prompt, answer in zip(prompts, answers, strict=False):  # what is left out shows elsewhere
            one, key = Completion.of(answer), repr(prompt)
            if key not in self._heard or one.rank > self._heard[key].rank:
                self._heard[key] = one
        return answers

    def pop_completions(self, prompts: Sequence[Prompt]) -> list[Completion | None]:
        """Return and clear the completions recorded for these prompts. None stands for a prompt without one."""
        found = [self._heard.get(repr(prompt)) for prompt in prompts]
        self._heard.clear()
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_", "stream_")):
            raise AttributeError(name)
        try:
            return getattr(self._subject, name)
        except AttributeError:
            close = did_you_mean(name, [n for n in dir(ExtendedSubject) if not n.startswith("_")])
            raise AttributeError(f'the model "{self._subject.name}" has no "{name}"{close}') from None


def add_finish_reason(score: Score, said: Completion | None, task: Task) -> Score:
    """Add finish reason, token count and completion metrics to a score.

    These metrics are NaN if the finish reason is unknown.
    """
    said = Completion() if said is None else said  # an empty one is false
    how, text = score.finish_reason or said.finish_reason, score.answer if score.answer is not None else said
    cut, silent = how in TRUNCATED, not text.strip()
    counted = {"cut": cut, "empty": silent, "thought_cut": cut and silent, "forced": said.forced}
    values = {name: float(counted[name]) if how else math.nan for name in task.endings}
    tokens = said.tokens if score.tokens is None else score.tokens
    return replace(score, values={**values, **score.values}, finish_reason=how, tokens=tokens)
