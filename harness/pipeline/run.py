"""The order of the stages of `harness run`; each hands what it made to the next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.pipeline.artifacts import train
from harness.pipeline.checking import check_data, check_suite
from harness.pipeline.choice import among, sweep
from harness.pipeline.conclusions import conclude, exit_code
from harness.pipeline.conduct import begin, conduct, execution_of, export_all
from harness.pipeline.execution import Execution
from harness.pipeline.record import Record, RunEnding, Stop
from harness.pipeline.session import Options, checks_of, open_collection, prepare
from harness.pipeline.subjects import evaluate_baselines, evaluate_merged, evaluate_trained
from harness.records.run import Run

__all__ = ["Options", "check_suite", "opened", "prepare", "run_suite"]


def run_suite(path: Path, options: Options) -> Run:
    """Run a suite. Raises UsageError for mistakes found before anything was measured; everything
    later is in the Run that is returned and in the folder that is written.

    Of several candidates the best on the select rows is run, and the Run is its own."""
    why = ""
    if len(options.candidates) > 1:
        if isinstance(chosen := among(path, options, run_suite), Run):
            return chosen
        candidate, why = chosen
        options = replace(options, candidate=candidate, candidates=())
    run = begin(prepare(path, options), options)
    run.record.choices += [why] if why else []
    return conduct(run, stages)


def opened(path: Path, options: Options) -> Execution:
    """Open a suite as a run does, for those that only look ahead. Raises UsageError as preflight does."""
    collection = prepare(path, options)
    record, checks = Record(collection), checks_of(collection, options)
    return execution_of(open_collection(collection, options, checks), record)


def stages(run: Execution) -> Stop | None:
    """Run every stage that the collection's items need."""
    if stop := check_data(run) or evaluate_baselines(run):
        return stop
    if not run.session.wanted:
        return None
    if run.suite.candidate and run.suite.candidate.merged:
        stop = evaluate_merged(run)
    else:
        trained = sweep(run) if run.suite.sweep else train(run)
        if isinstance(trained, Stop):
            return trained
        run, stop = trained.run, evaluate_trained(trained)
    if stop:
        return stop
    run.record.ending = RunEnding(exit_code(run))  # what is exported carries the report
    conclude(run)
    with run.record.stage("export", f"{len(run.suite.exports)} declared"):
        export_all(run)
    return None
