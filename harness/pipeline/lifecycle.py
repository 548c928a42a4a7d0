"""One run from its first hook to its last: begin it, catch what ends it, export what may ship, write what was found."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from harness import plugin_errors
from harness.artifacts.fingerprint import Fingerprint
from harness.artifacts.model_files import extra_files
from harness.collection.collection import Collection
from harness.collection.output_paths import find_write_error
from harness.collection.requirements import check_requirements
from harness.errors import CheckFailedError, ExitCode, UsageError, disk_full_error, resource_error
from harness.files import write_text
from harness.pipeline.adjudication import Adjudicator
from harness.pipeline.conclusions import compute_exit_code, record_conclusions
from harness.pipeline.ledger import Ledger
from harness.pipeline.preflight import open_model
from harness.pipeline.record import Record, RunEnding, StageStop
from harness.pipeline.run_context import RunContext
from harness.pipeline.session import Options, Session, collect_checks, open_answer_cache, open_collection
from harness.records.copies import detach_copy
from harness.records.models import ModelRef
from harness.records.run import ItemResult, Run
from harness.release.export import DecisionRecord, export_candidate
from harness.reports.junit import format_junit
from harness.reports.run_folder import RunFolder
from harness.schema import format_toml

MOST_SHOWN = 5  # names of files


def start_run(collection: Collection, options: Options) -> RunContext:
    """Call the hook of a run's beginning, and run preflight. Raises UsageError with every mistake."""
    if why := find_write_error(options.out / "report.json"):  # told before libraries are loaded and models opened
        raise UsageError(f"--out {format_toml(str(options.out))}: {why}; name a writable folder")
    check_requirements(collection)  # a header above one line would say nothing
    record, checks = Record(collection), collect_checks(collection, options)
    record.run.invocation = options.to_json()
    if options.limit:
        record.run.part = f"--limit {options.limit}: some of the rows prove nothing about the others"
    elif collection.deselected:
        record.run.part = "some of the items prove nothing about the whole suite"
    collection.plugins.manager.register(record.events)
    record.call_hook("harness_run_start")
    with record.stage("preflight", "configuration, tokenizer, lengths"):
        session = open_collection(collection, options, checks)
        record.run.warnings += [told for told in session.collection.warnings if told not in collection.warnings]
        return make_context(session, record)


def make_context(session: Session, record: Record) -> RunContext:
    """Make the context of a run that has not begun.

    It may also serve to look ahead. No attempt is counted yet.
    """
    opened, waivers, day = session.opened, record.run.waivers, record.started.date()
    adjudicator = Adjudicator(session.collection, waivers, day, opened.lacking, None, opened.source.digest)
    return RunContext(session, record, adjudicator)


def run_to_end(run: RunContext, stages: Callable[[RunContext], StageStop | None]) -> Run:
    """Run stages and write the report, however they end.

    Every exception is caught here, those of plugins included, and becomes the ending of the run. Raises UsageError if
    the report cannot be written.
    """
    try:
        run = _make_run_folder_with_lock(run)
        try:
            stop = stages(run) or StageStop()
            ending = RunEnding(compute_exit_code(run) if stop.code is None else stop.code, stop.why)
        except KeyboardInterrupt:
            why = "interrupted; finished work is kept, and training resumes from its last checkpoint"
            ending = RunEnding(ExitCode.INTERRUPTED, why)
        except UsageError as error:
            ending = RunEnding(ExitCode.USAGE, str(error))
        except CheckFailedError as error:
            ending = RunEnding(ExitCode.FAILED, str(error))
        except BaseException as error:  # a sys.exit(0) or an exception of a plugin's own kind is no verdict
            if full := resource_error(error):
                ending = RunEnding(ExitCode.USAGE, full)
            else:
                theirs, trace = plugin_errors.error_location(error), traceback.format_exc()
                code = ExitCode.USAGE if theirs else ExitCode.INTERNAL
                ending = RunEnding(code, theirs or f"{type(error).__name__}: {error}", trace)
        run.record.ending = ending
        return _finish_run(run)
    finally:
        detach_listeners(run)


def detach_listeners(run: RunContext) -> None:
    """Close a run's event log and unregister it from hooks.

    Later runs of the same collection then do not reach it.
    """
    run.record.events.close()
    run.collection.plugins.manager.unregister(run.record.events)


def _make_run_folder_with_lock(run: RunContext) -> RunContext:
    """Make the run's folder and lock, and open cache and ledger.

    Warns of files beside a model that will not be exported. Raises UsageError if a line of the ledger was lost, before
    anything is measured.
    """
    options, suite, record, opened = run.session.options, run.suite, run.record, run.session.opened
    folder, found = RunFolder(options.out, suite.name, record.started), record.run
    run = replace(run, session=replace(run.session, folder=folder))
    found.folder = str(folder.path)
    found.facts["model"] = {"path": suite.model.path, **opened.source.facts}
    found.digests |= {"base": opened.source.digest, **{name: s.digest for name, s in opened.others.items()}}
    found.digests |= {name: ref.digest for name, ref in opened.releases.items()}
    # What lies beside models that something is made of, or that are to ship, and would be another one, stays behind.
    named = suite.candidate and (suite.candidate.adapter or suite.candidate.merged)
    folders = [Path(opened.source.path)] if suite.merges or suite.trains else []
    for place in [*folders, *([suite.resolve(named)] if named else [])]:
        if others := extra_files(place) if place.is_dir() else []:
            more = f" and {len(others) - MOST_SHOWN} more" if len(others) > MOST_SHOWN else ""
            what = f"the model's folder holds {', '.join(others[:MOST_SHOWN])}{more}, which are not part of the model"
            record.warn(f'"{place}": {what}; they will not be exported')
    if options.counts and not options.select:
        run.adjudicator.ledger = Ledger.from_environment(record.warn)
        run.adjudicator.ledger.read_lines()  # reports a lost line before anything is measured
    run.write_lock()
    return replace(run, session=replace(run.session, responses=open_answer_cache(options, record.warn)))


def _finish_run(run: RunContext) -> Run:
    """Write the report of an ended run, and notify listeners. Raises UsageError if it cannot be written."""
    session, record = run.session, run.record
    assert session.folder
    if session.responses:
        session.responses.close()
    items, reached = session.collection.items, {r.id for r in record.run.results}
    for item in (i for i in items if i.id not in reached):  # nobody watches these
        record.run.results.append(ItemResult(item.id, item.subject, item.eval, "skipped", error="not reached"))
    record_conclusions(run)
    if not record.run.exports and any(i.subject in session.collection.candidates for i in items):
        export_all(run, "the run ended before it was reached")
    found = replace(record.snapshot(), seconds=time.monotonic() - record.clock)
    try:
        session.folder.finish(found)
        if session.options.junit_xml:
            write_text(session.options.junit_xml, format_junit(found))
    except OSError as error:
        there = ", ".join(one.to for one in found.exports if one.written)
        said = f"; the export is complete, with its verdicts: {there}" if there else ""
        where = error.filename or session.folder.path
        way = "free space" if disk_full_error(error) else "correct that"
        raise UsageError(f"{where}: cannot be written: {error.strerror}; {way} and run again{said}") from None
    record.hook.harness_run_finish(run=detach_copy(found))
    return found


def export_all(run: RunContext, unreached: str = "") -> None:
    """Export every candidate that may ship, or record why not.

    Only the adjudicator's verdicts count. `unreached` says why none may ship. Raises UsageError if a model changed
    during the run, or rows differ from those locked.
    """
    record, adjudicator, options = run.record, run.adjudicator, run.session.options
    if run.suite.exports and not unreached:
        opened, results = run.session.opened, adjudicator.results.items()
        models = {"base": (run.suite.model, opened.source)}
        models |= {name: (run.suite.subjects[name].model, source) for name, source in opened.others.items()}
        there = {n: (m, s) for n, (m, s) in models.items() if Path(s.path).is_dir()}
        odd = [n for n, (m, s) in there.items() if open_model(run.collection, m).digest != s.digest]
        changed = [f'"{name}" changed while it was evaluated; run again' for name in odd]
        rows = sorted({name for (_, name), result in results if result.rows != record.locked_rows.get(name)})
        changed += [f'"{n}" was graded on other rows than those locked before training; run again' for n in rows]
        if changed:
            raise UsageError(*changed)
    for declared in run.suite.exports:
        why = [unreached] * bool(unreached) + ["--no-export"] * (not options.export)
        why += ["--select: rows used to choose a candidate cannot confirm it"] if options.select else []
        why += [f"{one.name}: {one.what}" for one in record.run.findings if one.stops_run]
        why += filter(None, [record.run.part, record.unmade.get(declared.name)])
        ref = record.candidates.get(declared.candidate)
        ledger = adjudicator.ledger.state().to_json() if adjudicator.ledger else None
        judged = DecisionRecord(
            adjudicator.verdicts,
            adjudicator.results,
            record.lock,
            adjudicator.leaks,
            ledger,
            _find_fingerprint_function(run),
        )
        shown, place = record.snapshot(), f"export to {declared.to}"
        try:
            record.run.exports.append(export_candidate(run.collection, declared, ref, shown, why, judged))
        finally:
            if place in shown.facts:  # what the exporter told of it
                record.run.facts[place] = detach_copy(shown.facts[place])


def _find_fingerprint_function(run: RunContext) -> Callable[[ModelRef], Fingerprint] | None:
    """Return the loader's fingerprint function for candidates, if it has one."""
    loader, base = run.collection.plugins.find("loader", run.suite.model.use), Path(run.session.opened.source.path)
    if (make := loader.capabilities.fingerprint) is None:
        return None
    made: Callable[[ModelRef], Fingerprint] = partial(make, base=base if base.is_dir() else None)
    return made
