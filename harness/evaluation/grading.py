"""Grading: answers are generated while a model is loaded, and marked when it is gone.

`[[eval]] use = …` of such an evaluator is called as `mark(samples, answers, baseline_answers, *, marking, …)`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import schema
from harness.answers import reasoning
from harness.answers.store import Responses
from harness.collection.collection import Task
from harness.evaluation.draws import SampledSubject
from harness.evaluation.evaluate import FinishReasonRecorder, add_finish_reason, batch_rows, iterate_scores
from harness.gates import labels as by_people
from harness.records.completion import Completion
from harness.records.copies import copy_record, detach_copy
from harness.records.models import Progress, Subject, split_chunks
from harness.records.samples import Caveat, Labels, Result, Score, rows_digest
from harness.texts.escaping import drop_surrogates

ANSWER_OPTIONS = ("max_new_tokens", "stop", "thought")  # options of a marking evaluator that say how it is answered


@dataclass(frozen=True)
class Marking:
    """The context that a grading evaluator receives.

    `what` names the evaluation, `judged` is the path of the model under test, `folder` is the suite's. `responses` is a
    cache (None: responses are not cached). In a rehearsal two rows are graded against themselves. `kept` is state that
    the evaluator may carry from one grading to the next of the same evaluation in a run.
    """

    what: str
    judged: str
    folder: Path
    seed: int
    responses: Responses | None
    progress: Callable[[Progress], None]
    rehearsal: bool = False
    kept: dict[str, Any] = field(default_factory=dict)


def generate_answers(task: Task, name: str, subject: Subject, progress: Callable[[Progress], None]) -> Result:
    """Generate a subject's answers to a task's rows, as unscored Scores."""
    samples, begun = task.samples or (), time.monotonic()
    named, _ = schema.list_options(task.function)
    how = {o: task.spec.options.get(o, named[o].default) for o in ANSWER_OPTIONS if o in named}
    scores: list[Score] = []
    sampled = SampledSubject(subject, task)
    asked: Any = FinishReasonRecorder(sampled, task.thought_budget)
    for rows in split_chunks(samples, batch_rows(task, subject)):
        progress(Progress(f"{name}::{task.spec.name}", len(scores), len(samples)))
        sampled.start_draw(rows, 0)
        for s, (said, all_) in zip(
            rows, reasoning.generate_final_answers(asked, [s.input for s in rows], **how), strict=True
        ):
            scores.append(
                add_finish_reason(Score(s.id, {}, answer=drop_surrogates(str(said))), Completion.of(all_), task)
            )
    rows_asked, seconds = rows_digest(samples), time.monotonic() - begun
    return Result(name, task.spec.name, tuple(scores), {}, subject.digest, seconds=seconds, rows=rows_asked)


def grade_answers(task: Task, answered: Result, baseline: Result | None, marking: Marking) -> Result:
    """Grade answers with a task's evaluator, paired with those of `baseline`.

    A row without a score is listed in `missing`. Raises UsageError on scores for rows that do not exist or were already
    scored, and passes on errors of the evaluator.
    """
    samples, begun = task.samples or (), time.monotonic()
    theirs = _list_answers_in_row_order(task, baseline) if baseline else None
    options = detach_copy(dict(task.spec.options))
    marked = task.function(
        detach_copy(samples), _list_answers_in_row_order(task, answered), theirs, marking=marking, **options
    )
    scores: dict[str, Score] = {}
    caveats: list[Caveat] = []
    labels: list[Labels] = []
    for found in iterate_scores(task, marked, samples, (Score, Caveat, Labels)):
        if isinstance(found, Caveat):
            caveats.append(copy_record(Caveat, found))
        elif isinstance(found, Labels):
            labels.append(copy_record(Labels, found))
        else:
            scores[found.id] = found
    if baseline and baseline.digest == answered.digest:
        same = (
            f"candidate and baseline have identical weights (digest {answered.digest[:12]}), "
            "so there is nothing to compare"
        )
        caveats.append(Caveat(same, "ERROR"))
    said = {s.id: Completion(s.answer or "", s.finish_reason, s.tokens) for s in answered.scores}
    rows = tuple(add_finish_reason(scores[s.id], said[s.id], task) for s in samples if s.id in scores)
    told = {found.metric: found for found in labels}
    return replace(
        answered,
        scores=rows,
        metrics={m.name: by_people.value_with_labels(m, rows, told.get(m.name)) for m in task.metrics.values()},
        labels=tuple(labels),
        missing=tuple(s.id for s in samples if s.id not in scores),
        seconds=answered.seconds + time.monotonic() - begun,
        caveats=tuple(caveats),
    )


def _list_answers_in_row_order(task: Task, result: Result) -> Sequence[str]:
    """Return the answers in the order of the rows."""
    given: dict[str, Any] = {s.id: s.answer for s in result.scores}
    return [given[s.id] for s in task.samples or ()]
