"""One item: ask its subject, mark the answers, judge its gates, write its rows, tell those who watch."""

from __future__ import annotations

import math
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from harness import capabilities
from harness.answers.cache import CachedSubject, Models, awake, tally
from harness.collection import select
from harness.collection.plan import Item, Task
from harness.data.fewshot import FewShot
from harness.errors import RAISES, CheckFailed, ExitCode, UsageError
from harness.evaluation import grading
from harness.evaluation.evaluate import evaluate, sliced, standard_errors
from harness.pipeline.adjudication import Adjudicator
from harness.pipeline.loading import is_fatal, load, prompted
from harness.pipeline.record import Answered, Record, Stop
from harness.pipeline.session import Session
from harness.records.frozen import isolated
from harness.records.gates import Gate, Outcome
from harness.records.models import ModelRef, Subject
from harness.records.run import Report
from harness.records.samples import Result


def evaluate_item(
    session: Session,
    record: Record,
    adjudicator: Adjudicator,
    item: Item,
    models: Models,
    subject: Subject | None = None,
    against: Subject | None = None,
) -> Report:
    """Evaluate one item, judge its gates, write its rows, tell the listeners; without a subject, mark answers.

    What an evaluator raises is its report's error; what every evaluation of these models would raise goes on.
    """
    task = session.collection.tasks[item.eval]
    begun = time.monotonic()
    before = _tally(session, subject)
    try:
        result = _result(session, record, adjudicator, item, subject, against)
        if item.subject in session.collection.baselines:
            _refuse_fractions(session.suite.gates, result)
    except RAISES as error:
        if is_fatal(error, models):
            raise
        _hear(record, models)
        report = failed(session, adjudicator, item, error, time.monotonic() - begun)
    else:
        _hear(record, models)
        adjudicator.take(item, result)
        _keep_rows(session, record, item, result, subject)
        asked, found = (now - then for now, then in zip(_tally(session, subject), before, strict=True))
        if earlier := record.answers.get((item.subject, item.eval)):  # what is asked now is asked of a judge
            asked, found = asked + earlier.asked, found + earlier.remembered
        report = replace(_done(adjudicator, item, task, result), asked=asked, remembered=found)
        _look_at_answers(session, record, item, task, result, adjudicator.results.get(("base", item.eval)))
    record.report(report)
    return report


def _tally(session: Session, subject: Subject | None) -> tuple[int, int]:
    """Return how much was asked of a subject, or of those who mark, and how much of it was remembered."""
    if subject is not None or session.responses is None:
        return tally(subject)
    return session.responses.asked, session.responses.found


def ask(session: Session, record: Record, item: Item, models: Models, subject: Subject) -> None:
    """Let a subject answer what will be marked when it is gone."""
    task = session.collection.tasks[item.eval]
    asked, found = tally(subject)
    answers: Result | BaseException
    try:
        answers = grading.answer(task, item.subject, prompted(session, item, subject), session.progress)
    except RAISES as error:
        if is_fatal(error, models):
            raise
        answers = error
    _hear(record, models)
    counts = tally(subject)[0] - asked, tally(subject)[1] - found
    record.answered(item.subject, item.eval, Answered(answers, *counts, _sent(session, item, subject)))


def enough(session: Session, record: Record, adjudicator: Adjudicator) -> Stop | None:
    """Stop at `-x` or `--maxfail`: then a failure counts also where it is of a candidate that no export ships."""
    most = session.options.maxfail
    if not most or sum(map(select.failed, record.reports)) < most:
        return None
    refuted = any(v.missed and v.outcome is Outcome.FAIL for v in adjudicator.verdicts)
    return Stop(ExitCode.FAILED) if refuted else Stop()


def failed(session: Session, adjudicator: Adjudicator, item: Item, error: BaseException, seconds: float) -> Report:
    """Return the report of an evaluation that raised; what the user or the model did wrong needs no traceback."""
    told = isinstance(error, (UsageError, CheckFailed))  # these say all there is to know
    where = session.collection.tasks[item.eval].spec.where
    why = f"{where}: {error}" if told else f"{type(error).__name__}: {error}"
    trace = None if told else "".join(traceback.format_exception(error))
    verdicts = adjudicator.after(item)
    return Report(
        item.id, item.subject, item.eval, "error", verdicts=verdicts, seconds=seconds, error=why, traceback=trace
    )


def skip(record: Record, items: Sequence[Item], why: str) -> None:
    """Report the items of a subject that is not there."""
    for item in items:
        record.report(Report(item.id, item.subject, item.eval, "skipped", error=why))


def grading_of(session: Session, item: Item, *, rehearsal: bool = False) -> grading.Marking:
    """Return what an evaluator that marks is given."""
    suite = session.suite
    what = f"rehearsal::{item.eval}" if rehearsal else item.id
    place = (suite.model.path, suite.path.parent, suite.about.seed)
    kept = session.kept.setdefault(item.eval, {})
    return grading.Marking(what, *place, session.responses, session.progress, rehearsal, kept)


def on_select(session: Session, by: str, ref: ModelRef, what: str) -> Result:
    """Evaluate a model on the rows it is chosen by; raises CheckFailed where EVAL.METRIC `by` is no finite number."""
    evaluation, _, name = by.partition(".")
    task = session.collection.tasks[evaluation]
    assert task.select  # collection or preflight read them
    with load(session, [ref]) as loaded:
        [subject] = loaded.subjects
        result = evaluate(replace(task, samples=task.select), what, subject, None, session.progress)
    if result.missing or not math.isfinite(result.metrics[name]):
        raise CheckFailed(f"{by} of {what} is not a finite number on every row")
    return result


def _result(
    session: Session,
    record: Record,
    adjudicator: Adjudicator,
    item: Item,
    subject: Subject | None,
    against: Subject | None,
) -> Result:
    task = session.collection.tasks[item.eval]
    if subject is None or task.marks:
        return _marked(session, record, item)
    if task.uncached:
        subject, against = awake(subject), awake(against) if against else None
    early = task.spec.stop == "early" and item.subject in session.collection.candidates
    decided = partial(adjudicator.decided, item) if early else None
    seed, asked = session.suite.about.seed, prompted(session, item, subject)
    return evaluate(task, item.subject, asked, against, session.progress, enough=decided, seed=seed)


def _marked(session: Session, record: Record, item: Item) -> Result:
    """Mark stored answers: alone, or paired with those of another subject."""
    task = session.collection.tasks[item.eval]
    against, answered = task.spec.against, record.answers[item.subject, item.eval].result
    if task.marks != "pairs":
        baseline = None
    elif item.subject == against:
        baseline = answered  # a model is not compared with itself
    elif (against, item.eval) in record.answers:
        baseline = record.answers[against, item.eval].result
    else:
        why = session.opened.lacking.get(against, f'"{against}" was not asked')
        raise UsageError(f"there is nothing to compare with: {why}")
    for found in (answered, baseline):
        if isinstance(found, BaseException):
            raise found
    assert isinstance(answered, Result) and not isinstance(baseline, BaseException)
    if baseline is answered:
        return answered
    return grading.mark(task, answered, baseline, grading_of(session, item))


def _hear(record: Record, models: Models) -> None:
    """Take what the loaded models have to say, and add what they came to know while they answered to their facts."""
    record.warn(*models.notes())
    for subject in models.loaded:
        place = "model" if subject.name == "base" else subject.name
        if isinstance(told := getattr(subject, "facts", None), Mapping) and told:
            record.fact(place, {**record.facts.get(place, {}), **told})


def _keep_rows(session: Session, record: Record, item: Item, result: Result, subject: Subject | None) -> None:
    """Write the rows of an item, and warn of what its evaluator has to say of them."""
    task = session.collection.tasks[item.eval]
    assert task.samples is not None and session.folder  # preflight read what was remote
    remarks = capabilities.Evaluator.of(task.function).remarks
    for line in remarks(isolated(result.scores)) if remarks else ():
        record.warn(f"{item.subject}::{item.eval}: {line}")
    earlier = record.answers.get((item.subject, item.eval))
    sent = earlier.sent if earlier else _sent(session, item, subject) if subject else {}
    session.folder.add(result, task.samples, task.metrics, sent)


def _sent(session: Session, item: Item, subject: Subject) -> dict[str, str]:
    """Return the prompts of an item as its subject got them, by row, where it can tell."""
    if not isinstance(subject, CachedSubject):
        return {}
    rows = [s for s in session.collection.tasks[item.eval].samples or () if s.input]
    asked = prompted(session, item, subject)
    assert isinstance(asked, (CachedSubject, FewShot))
    told = asked.sent([s.input for s in rows])
    return {s.id: text for s, text in zip(rows, told, strict=True) if text is not None}


def _look_at_answers(
    session: Session, record: Record, item: Item, task: Task, result: Result, reference: Result | None
) -> None:
    """Run the checks of results; what is odd about a baseline is nothing to stop for, and one warning is told once."""
    for one in session.checks.run("results", result=result, task=task, reference=reference, facts=record.facts):
        if item.subject not in session.collection.candidates and one.severity == "error":
            one = replace(one, severity="note")
        if one.severity != "warning" or one not in record.findings:
            record.finding(one)


def _done(adjudicator: Adjudicator, item: Item, task: Task, result: Result) -> Report:
    assert task.samples is not None
    missing = f"{len(result.missing)} of {len(task.samples)} rows got no score" if result.missing else None
    return Report(
        item.id,
        item.subject,
        item.eval,
        "error" if missing else "done",
        dict(result.metrics),
        standard_errors(task, result),
        sliced(task, result) if result.metrics else {},
        {m.name: m.better for m in task.metrics.values()},
        adjudicator.after(item),
        n=len(result.scores),
        of=len(task.samples),
        seconds=result.seconds,
        error=missing,
        caveats=tuple(c.text for c in result.caveats),
        endings=dict(endings) if any(endings := Counter[str](s.ended for s in result.scores)) else {},
    )


def _refuse_fractions(gates: Sequence[Gate], result: Result) -> None:
    """Raise UsageError where failures are to be counted of a metric that is not 0 or 1: before training, not after."""
    for gate in (g for g in gates if g.max_failures is not None and g.eval == result.eval):
        name = gate.metric_name
        if odd := next((s for s in result.scores if s.values.get(name, 0) not in (0, 1)), None):
            what = f'max_failures counts rows of a 0/1 metric, and {name} of row "{odd.id}" is {odd.values[name]:g}'
            raise UsageError(f'gate "{gate.id}": {what}; claim min or max')
