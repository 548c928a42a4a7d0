"""The order of the stages of `harness run`; each hands what it made to the next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.pipeline.adjudication import Adjudicator
from harness.pipeline.baselines import evaluate_baselines
from harness.pipeline.candidates import evaluate_merged, evaluate_trained, wanted_of
from harness.pipeline.checking import check_data, check_suite
from harness.pipeline.conclusions import conclude, exit_code
from harness.pipeline.conduct import begin, conduct
from harness.pipeline.exporting import export_all
from harness.pipeline.record import Ending, Record, Stop
from harness.pipeline.session import Options, Session, checks_of, open_collection, prepare
from harness.pipeline.several import among
from harness.pipeline.sweep import sweep
from harness.pipeline.training import train
from harness.records.run import Run

__all__ = ["Options", "check_suite", "opened", "prepare", "run_suite"]


def run_suite(path: Path, options: Options) -> Run:
    """Run a suite. Raises UsageError for mistakes found before anything was measured; everything
    later is in the Run that is returned and in the folder that is written.

    Of several candidates the best on the select rows is run, and the Run is its own."""
    why = ""
    if len(options.candidates) > 1:
        chosen = among(path, options, run_suite)
        if isinstance(chosen, Run):
            return chosen
        why, options = chosen.why, replace(options, candidate=chosen.given, candidates=())
    session, record = begin(prepare(path, options), options)
    if why:
        record.choice(why)
    return conduct(session, record, run)[0]


def opened(path: Path, options: Options) -> tuple[Session, Record]:
    """Open a suite as a run does, for those that only look ahead. Raises UsageError as preflight does."""
    collection = prepare(path, options)
    record, checks = Record(collection), checks_of(collection, options)
    return open_collection(collection, options, checks), record


def run(session: Session, record: Record, adjudicator: Adjudicator) -> Stop | None:
    """Run every stage that the collection's items need."""
    if stop := check_data(session, record, adjudicator) or evaluate_baselines(session, record, adjudicator):
        return stop
    if not wanted_of(session):
        return None
    if session.suite.candidate and session.suite.candidate.merged:
        stop = evaluate_merged(session, record, adjudicator)
    else:
        trained = (sweep if session.suite.sweep else train)(session, record)
        if isinstance(trained, Stop):
            return trained
        session = trained.session
        stop = evaluate_trained(session, record, adjudicator, trained)
    if stop:
        return stop
    record.ended(Ending(exit_code(record, adjudicator)))  # what is exported carries the report
    conclude(session, record, adjudicator)
    with record.stage("export", f"{len(session.suite.exports)} declared"):
        export_all(session, record, adjudicator)
    return None
