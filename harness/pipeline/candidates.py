"""Evaluate candidates and gate them: an adapter, what it is merged into, and the copies that exports make of that."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from harness.answers.cache import Models
from harness.collection.plan import Item
from harness.errors import RAISES, CheckFailed, UsageError, of_the_machine
from harness.pipeline.adjudication import Adjudicator
from harness.pipeline.artifacts import artifacts_of, making
from harness.pipeline.evaluation import ask, enough, evaluate_item, skip
from harness.pipeline.loading import Loaded, load
from harness.pipeline.merging import choose, merge, take_merged, take_whole
from harness.pipeline.record import Record, Stop
from harness.pipeline.session import Session
from harness.pipeline.training import Trained
from harness.records.models import ModelRef
from harness.records.run import Report
from harness.release import conversions
from harness.suite.tables import Export


def evaluate_merged(session: Session, record: Record, adjudicator: Adjudicator) -> Stop | None:
    """Evaluate a merged model that was made elsewhere, and its copies."""
    ref = take_merged(session, record)
    return ref if isinstance(ref, Stop) else evaluate_family(session, record, adjudicator, ref)


def evaluate_trained(session: Session, record: Record, adjudicator: Adjudicator, trained: Trained) -> Stop | None:
    """Evaluate an adapter, and what of it is merged for an item or a copy; or the whole model that was trained."""
    suite, wanted = session.suite, wanted_of(session)
    if session.collection.whole:
        whole = take_whole(session, record, trained.ref)
        return whole if isinstance(whole, Stop) else evaluate_family(session, record, adjudicator, whole)
    if "adapter" in wanted and (stop := evaluate_candidate(session, record, adjudicator, trained.ref)):
        return stop
    parents = wanted | {e.from_ for e in suite.copies.values() if e.name in wanted}
    if suite.choose and "merged" in parents:
        refs = {}
        for variant in suite.merges:
            merged = merge(session, record, trained.ref, variant)
            if isinstance(merged, Stop):
                return merged
            refs[variant] = merged
        return evaluate_family(session, record, adjudicator, choose(session, record, refs))
    for variant in suite.merges:
        if suite.merged(variant) in parents:
            merged = merge(session, record, trained.ref, variant)
            stop = merged if isinstance(merged, Stop) else evaluate_family(session, record, adjudicator, merged)
            if stop:
                return stop
    return None


def evaluate_family(session: Session, record: Record, adjudicator: Adjudicator, ref: ModelRef) -> Stop | None:
    """Evaluate a candidate and gate it, then what exports make of it; a copy that fails is no matter of others."""
    wanted = wanted_of(session)
    record.made(ref)
    if ref.name in wanted and (stop := evaluate_candidate(session, record, adjudicator, ref)):
        return stop
    for declared in (e for e in session.suite.copies.values() if e.from_ == ref.name and e.name in wanted):
        if any(v.holds_up and v.candidate == ref.name for v in adjudicator.verdicts):
            why = f"{ref.name} did not pass its gates"
            record.not_made(declared.name, why)
            skip(record, items_of(session, declared.name), why)
            continue
        try:
            stop = evaluate_candidate(session, record, adjudicator, _copy(session, record, ref, declared))
        except RAISES as error:
            if of_the_machine(error):
                raise
            stop = _copy_failed(session, record, adjudicator, declared, error)
        if stop:
            return stop
    return None


def evaluate_candidate(session: Session, record: Record, adjudicator: Adjudicator, ref: ModelRef) -> Stop | None:
    """Evaluate a candidate and gate it."""
    with in_its_stage(session, record, ref) as loaded:
        if stop := evaluate_loaded(session, record, adjudicator, ref.name, loaded):
            return stop
    return mark_answers(session, record, adjudicator, ref.name, loaded.models)


@contextmanager
def in_its_stage(session: Session, record: Record, ref: ModelRef) -> Iterator[Loaded]:
    """Yield the subject of a candidate and then those it is compared with, in the candidate's own stage."""
    record.made(ref)
    others = [session.base if name == "base" else record.candidates[name] for name in _beside(session, ref.name)]
    detail = f"{len(items_of(session, ref.name))} evaluations"
    with record.stage(ref.name, detail), load(session, [ref, *others]) as loaded:
        yield loaded


def evaluate_loaded(
    session: Session, record: Record, adjudicator: Adjudicator, name: str, loaded: Loaded
) -> Stop | None:
    """Evaluate a candidate that is loaded; answers that are to be marked wait until it is gone."""
    subject, *others = loaded.subjects
    against = dict(zip(_beside(session, name), others, strict=True))
    for item in items_of(session, name):
        task = session.collection.tasks[item.eval]
        if task.marks:
            ask(session, record, item, loaded.models, subject)
            continue
        rival = against[session.collection.against(item)] if task.comparative else None
        evaluate_item(session, record, adjudicator, item, loaded.models, subject, rival)
        if stop := enough(session, record, adjudicator):
            return stop
    return None


def mark_answers(session: Session, record: Record, adjudicator: Adjudicator, name: str, models: Models) -> Stop | None:
    """Mark a candidate's answers; its models are gone, for a judge may need the room."""
    for item in items_of(session, name):
        if session.collection.tasks[item.eval].marks:
            evaluate_item(session, record, adjudicator, item, models)
            if stop := enough(session, record, adjudicator):
                return stop
    return None


def wanted_of(session: Session) -> set[str]:
    """Return the candidates that a run evaluates: those that items were chosen of."""
    return {i.subject for i in session.collection.items if i.subject in session.collection.candidates}


def items_of(session: Session, subject: str) -> Sequence[Item]:
    return [i for i in session.collection.items if i.subject == subject]


def _beside(session: Session, name: str) -> list[str]:
    """Return the subjects that a candidate's evaluations compare it with by themselves."""
    collection = session.collection
    compared = [i for i in items_of(session, name) if collection.tasks[i.eval].comparative]
    return list(dict.fromkeys(map(collection.against, compared)))


def _copy(session: Session, record: Record, parent: ModelRef, declared: Export) -> ModelRef:
    """Let an exporter make other weights of a candidate, unless it did; return them as they lie on the disk."""
    exporter = session.collection.plugins.find("exporter", declared.use).function
    with record.stage("copy", f"{declared.name} of {parent.name}"):
        out = artifacts_of(session).copy(declared, parent)
        with making(session, record, out):
            ref = conversions.make(declared, parent, exporter, out, session.progress)
        record.fact(declared.name, conversions.facts_of(out))
        return ref


def _copy_failed(
    session: Session, record: Record, adjudicator: Adjudicator, declared: Export, error: BaseException
) -> Stop | None:
    """Report a copy that could not be made or loaded: its gates are ERROR, and other candidates go on."""
    told = isinstance(error, (UsageError, CheckFailed))
    why = f"{declared.where}: {error if told else f'{type(error).__name__}: {error}'}"
    trace = None if told else "".join(traceback.format_exception(error))
    record.not_made(declared.name, why)
    reached = {r.id for r in record.reports}
    for item in (i for i in items_of(session, declared.name) if i.id not in reached):
        verdicts = adjudicator.after(item)
        record.report(Report(item.id, item.subject, item.eval, "error", verdicts=verdicts, error=why, traceback=trace))
        if stop := enough(session, record, adjudicator):
            return stop
    return None
