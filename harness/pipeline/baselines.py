"""The base, and what is made of it by prompting, before anything is trained: the dress rehearsal of what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.answers.cache import Models, awake
from harness.collection.plan import Item, Task
from harness.errors import RAISES, ExitCode
from harness.evaluation import grading
from harness.evaluation.evaluate import evaluate
from harness.pipeline.adjudication import Adjudicator
from harness.pipeline.evaluation import ask, enough, evaluate_item, failed, grading_of, skip
from harness.pipeline.loading import is_fatal, load
from harness.pipeline.record import Record, Stop
from harness.pipeline.session import Session
from harness.records.models import Subject

REHEARSAL_ROWS = 2  # of the base against itself, for evaluations that compare


def evaluate_baselines(session: Session, record: Record, adjudicator: Adjudicator) -> Stop | None:
    """Evaluate the baselines, and rehearse on the base what will compare or mark candidates."""
    collection, lacking = session.collection, session.opened.lacking
    items = [i for i in collection.items if i.subject in collection.baselines]
    later = dict.fromkeys(i.eval for i in collection.items if i.subject in collection.candidates)
    rehearsed = [t for t in (collection.tasks[name] for name in later) if t.comparative or t.marks]
    if not items and not rehearsed:
        return None
    for item in items:
        if item.subject in lacking:
            skip(record, [item], lacking[item.subject])
    items = [i for i in items if i.subject not in lacking]
    with record.stage("baselines", ", ".join(dict.fromkeys(i.subject for i in items))):
        return _in_order(session, record, adjudicator, items, rehearsed)


def _in_order(
    session: Session, record: Record, adjudicator: Adjudicator, items: Sequence[Item], rehearsed: Sequence[Task]
) -> Stop | None:
    """Rehearse, evaluate the base, then every baseline that is another model, and mark the answers of all."""
    for task in (t for t in rehearsed if t.marks):
        if stop := _rehearse_marking(session, record, adjudicator, task):
            return stop
    others = {*session.opened.others, *session.opened.releases}
    with load(session, [session.base]) as loaded:
        [subject] = loaded.subjects
        for task in (t for t in rehearsed if t.comparative):
            if stop := _rehearse(session, record, adjudicator, task, loaded.models, subject):
                return stop
        own = [i for i in items if i.subject not in others]
        if stop := _evaluate(session, record, adjudicator, own, loaded.models, subject):
            return stop
    for name in dict.fromkeys(i.subject for i in items if i.subject in others):
        model = session.suite.subjects[name].model if name in session.opened.others else None
        with load(session, [session.baseline(name)], model) as loaded:
            [subject] = loaded.subjects
            own = [i for i in items if i.subject == name]
            if stop := _evaluate(session, record, adjudicator, own, loaded.models, subject):
                return stop
    waiting = [i for i in items if session.collection.tasks[i.eval].marks == "answers"]
    return _evaluate(session, record, adjudicator, waiting, loaded.models, None)


def _evaluate(
    session: Session,
    record: Record,
    adjudicator: Adjudicator,
    items: Sequence[Item],
    models: Models,
    subject: Subject | None,
) -> Stop | None:
    """Evaluate baselines; answers that are to be marked wait until there is no subject."""
    for item in items:
        marks = session.collection.tasks[item.eval].marks
        if subject and marks:
            ask(session, record, item, models, subject)
            if marks == "answers":
                continue
        report = evaluate_item(session, record, adjudicator, item, models, subject)
        if stop := enough(session, record, adjudicator):
            return stop
        if report.outcome == "error":
            scored = (item.subject, item.eval) in adjudicator.results  # or the evaluator raised
            return Stop(ExitCode.INCONCLUSIVE if scored else ExitCode.USAGE)
    return None


def _rehearse(
    session: Session, record: Record, adjudicator: Adjudicator, task: Task, models: Models, subject: Subject
) -> Stop | None:
    """Run an evaluation that compares on two rows of the base against itself: crashes come before training."""
    try:
        model = awake(subject) if task.uncached else subject
        evaluate(_short(task), "base", model, model, session.progress)
    except RAISES as error:
        return _crashed(session, record, adjudicator, task, models, error)
    return None


def _rehearse_marking(session: Session, record: Record, adjudicator: Adjudicator, task: Task) -> Stop | None:
    """Mark two answers of the base against themselves: a judge that is not there shows before training."""
    short, models = _short(task), None
    try:
        with load(session, [session.base]) as loaded:
            models, [subject] = loaded.models, loaded.subjects
            answered = grading.answer(short, "base", subject, session.progress)
        rehearsal = grading_of(session, _of_base(session, task), rehearsal=True)
        grading.mark(short, answered, answered if task.marks == "pairs" else None, rehearsal)
    except RAISES as error:
        return _crashed(session, record, adjudicator, task, models, error)
    return None


def _crashed(
    session: Session, record: Record, adjudicator: Adjudicator, task: Task, models: Models | None, error: BaseException
) -> Stop:
    """Report a rehearsal that raised, and end the run; what every evaluation would raise goes on."""
    if is_fatal(error, models):
        raise error
    record.report(failed(session, adjudicator, _of_base(session, task), error, 0.0))
    return Stop(ExitCode.USAGE)


def _short(task: Task) -> Task:
    assert task.samples is not None
    return replace(task, samples=task.samples[:REHEARSAL_ROWS])


def _of_base(session: Session, task: Task) -> Item:
    return Item(session.suite.path.name, "base", task.spec.name)
