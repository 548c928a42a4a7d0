"""The checks of a run: of data and trainer before anything is measured, of adapter and merged model once made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.answers import keys
from harness.artifacts import kept
from harness.artifacts.digests import digest_of
from harness.claims import contamination
from harness.collection.collected import Collection, trials
from harness.errors import ExitCode, UsageError
from harness.evaluation import checks as check
from harness.files import cache_dir
from harness.parts import part
from harness.pipeline import preflight
from harness.pipeline.execution import Execution
from harness.pipeline.record import Record, Stop
from harness.pipeline.session import Options, Session, checks_of, open_collection
from harness.records.findings import Built, Finding
from harness.records.models import Progress
from harness.records.run import Segment, ShownRow
from harness.reports.report_json import made
from harness.schema import show
from harness.texts.counts import counted
from harness.texts.shown import whole

LONGEST = 20_000  # characters of a training row that a report shows


def check_suite(collection: Collection, options: Options) -> tuple[list[Finding], Built | None, Collection]:
    """Run the checks of the data and of the built trainer, and train nothing. Raises UsageError on a mistake.

    Returns what was found, what would be trained on, and the collection as preflight read it.
    """
    session = open_collection(collection, options, checks_of(collection, options))
    return *before_training(session), session.collection


def before_training(session: Session) -> tuple[list[Finding], Built | None]:
    """Run the checks that need no training, on the trainer of every trial; the first of these is returned, if any."""
    suite, sweep = session.suite, session.suite.sweep
    found = contamination.softened(session.checks.run("data", **_data(session)), suite.gates)
    checks, built = session.checks, list[tuple[list[Finding], Built | None]]()
    for trial, adapter in zip(trials(session.collection), session.opened.trials, strict=True):
        session.progress(Progress("training rows", 0, 1, {"now": "as the trainer prepares them"}))
        try:
            one = check.build(trial, session.base, adapter) if checks.of("trainer") else None
        except UsageError as error:  # a finding like any other
            built.append((checks.build_failed(error), None))
        else:
            built.append((checks.run("trainer", built=one) if one else [], one))
    # What was found of all trials is told once, and before what was found of some of them which those are.
    told = [flag for flag in built[0][0] if all(flag in others for others, _ in built)]
    for value, (flags, _) in zip(sweep.values if sweep else (), built, strict=False):
        what = f"with {sweep.option} = {show(value)}: " if sweep else ""
        told += [replace(flag, what=what + flag.what) for flag in flags if flag not in told]
    return found + told, built[0][1]


def recalled_before_training(run: Execution) -> list[Finding]:
    """Run the same checks, unless they were run on exactly this collection and base by exactly this code.

    The record gets the first, the middle and the last row that the trainer was built with, as the model sees them.
    """
    record, note = run.record, _note(run.session, "before training")
    rows = note and note.with_name(f"{note.stem}-rows.json")

    def look() -> list[Finding]:
        found, built = before_training(run.session)
        examples, shown = built.examples if built else (), list[ShownRow]()
        for example in [examples[i] for i in sorted({0, len(examples) // 2, len(examples) - 1})] if examples else ():
            assert built
            left, segments = LONGEST, []
            for learnt, text in built.parts(example):
                cut = text if len(text) <= left else text[:left] + "…"
                segments += [Segment(whole(cut), learnt)] if left > 0 else []
                left -= len(text)
            shown.append(ShownRow(example.number, tuple(segments)))
        record.found.shown = tuple(shown) or record.found.shown
        if rows:
            kept.keep(rows, [asdict(row) for row in record.found.shown])
        return found

    found = run.session.checks.recall(note, look, record.warn) if note else look()
    if rows and not record.found.shown:
        record.found.shown = made(tuple[ShownRow, ...], kept.read(rows, record.warn) or [], "it")
    return found


def look_at_data(run: Execution) -> list[Finding]:
    """Return what the checks find before training; rows that leak are known to the adjudicator and the lock then."""
    codes = [p.name for stage in ("data", "trainer") for p in run.session.checks.of(stage)]
    with run.record.stage("checks", f"{len(codes)} on data and training rows"):
        found = recalled_before_training(run)
        run.adjudicator.leaks = contamination.leaks_of(found)
        if any(g.clean_only for g in run.suite.gates):
            run.lock()
        return found


def look(run: Execution, stage: str, **objects: Any) -> Stop | None:
    """Run the checks of a stage after training, unless they were run on exactly these models by exactly this code."""
    session, codes = run.session, run.session.checks.of(stage)
    if not codes:
        return None
    with run.record.stage("checks", f"{len(codes)} on {objects[stage].name}"):
        ask = partial(session.checks.run, stage, **_data(session), **objects)
        note = _note(session, stage, {name: ref and keys.of_model(ref) for name, ref in objects.items()})
        found = session.checks.recall(note, ask, run.record.warn) if note else ask()
        # What was made elsewhere and is broken is a mistake of the command; what was trained here has failed.
        return tell_findings(run.record, found, ExitCode.USAGE if run.suite.candidate else ExitCode.FAILED)


def tell_findings(record: Record, found: Sequence[Finding], code: ExitCode) -> Stop | None:
    """Add what checks found to the record; an error ends the run."""
    for one in found:
        if one not in record.found.flags:
            record.add(one)
    if not (errors := [one.code for one in found if one.counts]):
        return None
    return Stop(
        code, f"{counted(len(errors), 'error')} found by checks; harness explain {errors[0]} explains the first"
    )


def _data(session: Session) -> dict[str, Any]:
    model, plugins = session.suite.model, session.collection.plugins
    load: Callable[..., Any] = partial(plugins.find("loader", model.use).function, **model.options)
    if "python" in model.options:  # of another environment, in a worker there
        load = partial(part("load_now"), plugins, session.suite.path, model.use, options=model.options)
    return check.data_objects(session.collection, session.base, load)


def _note(session: Session, *what: Any) -> Path | None:
    """Return the file for what is found of exactly this collection, these models and this code, if any is kept."""
    if not session.options.cache:
        return None
    key = digest_of([preflight.collection_digest(session.collection, session.opened.source), what])
    return cache_dir() / "checks" / f"{key}.json"
