"""One run from its first hook to its last: begin it, catch what ends it, write what was found."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.artifacts.reads import beside
from harness.collection.plan import Plan
from harness.errors import CheckFailed, ExitCode, UsageError, disk_full, of_the_machine
from harness.files import write_text
from harness.parts import part
from harness.pipeline.adjudication import Adjudicator
from harness.pipeline.conclusions import conclude, exit_code
from harness.pipeline.exporting import refuse_exports
from harness.pipeline.ledger import Ledger
from harness.pipeline.locking import lock_suite
from harness.pipeline.record import Ending, Record, Stop
from harness.pipeline.session import Options, Session, checks_of, open_collection, remembered
from harness.records.run import Report, Run
from harness.reports.run_folder import RunFolder

MOST_SHOWN = 5  # names of files
Stages = Callable[[Session, Record, Adjudicator], Stop | None]


def begin(collection: Plan, options: Options, kept: dict[str, dict[str, Any]] | None = None) -> tuple[Session, Record]:
    """Call the hook of a run's beginning, and run preflight. Raises UsageError with every mistake."""
    record, checks = Record(collection), checks_of(collection, options)
    if options.limit:
        record.about.part = f"--limit {options.limit}: some of the rows prove nothing about the rest"
    elif collection.deselected:
        record.about.part = "a part of the suite proves nothing about the whole"
    record.begin()
    with record.stage("preflight", "configuration, tokenizer, lengths"):
        session = open_collection(collection, options, checks, kept)
        record.warn(*(told for told in session.collection.warnings if told not in collection.warnings))
        return session, record


def conduct(session: Session, record: Record, stages: Stages) -> tuple[Run, Adjudicator]:
    """Run stages, and write what was found, however they end; return it with what it was decided by.

    Raises UsageError where nothing can be written.
    """
    session, adjudicator = _place(session, record)
    record.ended(_ending(session, record, adjudicator, stages))
    return _finish(session, record, adjudicator), adjudicator


def _place(session: Session, record: Record) -> tuple[Session, Adjudicator]:
    """Make the run's folder with the lock in it, and open the answers and attempts of earlier runs."""
    options, suite, opened = session.options, session.suite, session.opened
    session = replace(session, folder=RunFolder(options.out, suite.name, record.started))
    assert session.folder
    record.opened(session.folder.path, suite.model.path, opened)
    _tell_what_stays(session, record)
    ledger = Ledger.here(record.warn) if options.counts and not options.select else None
    if ledger:
        ledger.lines()  # a line that was lost is told before anything is measured
    day, base = record.started.date(), opened.source.digest
    adjudicator = Adjudicator(session.collection, record.about.waivers, day, opened.lacking, ledger, base)
    lock_suite(session, record, adjudicator)
    return replace(session, responses=remembered(options, record.warn)), adjudicator


def _tell_what_stays(session: Session, record: Record) -> None:
    """Warn of what lies beside the models that something is made of, or that are to ship, and would be another one."""
    suite, opened = session.suite, session.opened
    named = suite.candidate and (suite.candidate.adapter or suite.candidate.merged)
    folders = [Path(opened.source.path)] if suite.merges or suite.trains else []
    for folder in [*folders, *([suite.resolve(named)] if named else [])]:
        others = beside(folder) if folder.is_dir() else []
        if others:
            more = f" and {len(others) - MOST_SHOWN} more" if len(others) > MOST_SHOWN else ""
            shown = ", ".join(others[:MOST_SHOWN]) + more
            record.warn(f'"{folder}": beside the model lie {shown}, which it is not read from; they stay behind')


def _ending(session: Session, record: Record, adjudicator: Adjudicator, stages: Stages) -> Ending:
    """Run stages and return how that ended: the one place where what plugins raise is caught."""
    try:
        stop = stages(session, record, adjudicator) or Stop()
        return Ending(exit_code(record, adjudicator) if stop.code is None else stop.code, stop.why)
    except KeyboardInterrupt:
        why = "interrupted; what was measured is kept, and training goes on from its last checkpoint"
        return Ending(ExitCode.INTERRUPTED, why)
    except UsageError as error:
        return Ending(ExitCode.USAGE, str(error))
    except CheckFailed as error:
        return Ending(ExitCode.FAILED, str(error))
    except BaseException as error:  # a sys.exit(0) or an exception of a plugin's own kind is no verdict
        if full := of_the_machine(error):
            return Ending(ExitCode.USAGE, full)
        return Ending(ExitCode.INTERNAL, f"{type(error).__name__}: {error}", traceback.format_exc())


def _finish(session: Session, record: Record, adjudicator: Adjudicator) -> Run:
    """Write the report of a run that ended, and tell those that watch."""
    assert session.folder
    if session.responses:
        session.responses.close()
    items, reached = session.collection.items, {r.id for r in record.reports}
    left = [i for i in items if i.id not in reached]
    record.skipped([Report(i.id, i.subject, i.eval, "skipped", error="not reached") for i in left])
    conclude(session, record, adjudicator)
    if not record.exports and any(i.subject in session.collection.candidates for i in items):
        refuse_exports(session, record, adjudicator, "the run ended before it was reached")
    run = record.freeze()
    try:
        session.folder.finish(run)
        if session.options.junit_xml:
            write_text(session.options.junit_xml, part("junit")(run))
    except OSError as error:
        there = ", ".join(one.to for one in run.exports if one.written)
        said = f"; the export is in its place, with its verdicts: {there}" if there else ""
        where = error.filename or session.folder.path
        way = "make room" if disk_full(error) else "mend that"
        raise UsageError(f"{where}: cannot be written: {error.strerror}; {way} and run again{said}") from None
    record.finish(run)
    return run
