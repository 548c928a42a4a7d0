"""The checks of a run: of data and trainer before anything is measured, of adapter and merged model once made."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.answers import keys
from harness.artifacts import artifact_cache
from harness.artifacts.digests import digest_value
from harness.collection.collection import Collection, sweep_trials
from harness.errors import ExitCode, UsageError
from harness.evaluation import checks as check
from harness.files import cache_dir
from harness.gates import contamination
from harness.pipeline import preflight
from harness.pipeline.record import Record, StageStop
from harness.pipeline.run_context import RunContext
from harness.pipeline.session import Options, Session, collect_checks, open_collection
from harness.records.findings import Built, Finding
from harness.records.models import Progress
from harness.records.run import Segment, ShownRow
from harness.reports.report_json import from_json
from harness.schema import format_toml
from harness.texts.counts import count_noun
from harness.texts.escaping import drop_surrogates
from harness.texts.shortening import shorten
from harness.workers.loading import load_uncached

MAX_ROW_CHARS = 20_000  # characters of a training row that a report shows


def check_suite(collection: Collection, options: Options) -> tuple[list[Finding], Built | None, Collection]:
    """Check the data and the built trainer without training.

    Returns the findings, the trainer's build, and the collection as preflight read it. Raises UsageError on a mistake.
    """
    session = open_collection(collection, options, collect_checks(collection, options))
    return *check_before_training(session), session.collection


def check_before_training(session: Session, skip: Container[str] = ()) -> tuple[list[Finding], Built | None]:
    """Run the checks that need no training, on every trial's trainer.

    Returns the findings, and the build of the first trial, if any. Data checks in `skip` are left out.
    """
    suite, sweep = session.suite, session.suite.sweep
    only = [p.name for p in session.checks.checks_of_stage("data") if p.name not in skip]
    found = contamination.soften_findings(session.checks.run("data", only, **_make_data_objects(session)), suite.gates)
    checks, built = session.checks, list[tuple[list[Finding], Built | None]]()
    for trial, adapter in zip(sweep_trials(session.collection), session.opened.trials, strict=True):
        session.progress(Progress("training rows", 0, 1, {"now": "as the trainer prepares them"}))
        try:
            one = check.build_trainer(trial, session.base, adapter) if checks.checks_of_stage("trainer") else None
        except UsageError as error:  # a finding like any other
            built.append((checks.build_failed(error), None))
        else:
            built.append((checks.run("trainer", built=one) if one else unbuilt_note(session), one))
    # What was found of all trials is told once, and before what was found of some of them which those are.
    told = [flag for flag in built[0][0] if all(flag in others for others, _ in built)]
    for value, (flags, _) in zip(sweep.values if sweep else (), built, strict=False):
        what = f"with {sweep.option} = {format_toml(value)}: " if sweep else ""
        told += [replace(flag, what=what + flag.what) for flag in flags if flag not in told]
    return found + told, built[0][1]


def unbuilt_note(session: Session) -> list[Finding]:
    """Return a note if the trainer's checks cannot see its rows. A trainer without a build does not show them."""
    suite, codes = session.suite, [p.name for p in session.checks.checks_of_stage("trainer")]
    if not codes or suite.train is None or not suite.trains or session.collection.training is None:
        return []
    what = f'the trainer "{suite.train.use}" has no build, so {count_noun(len(codes), "check")} of what it trains on '
    note = Finding(
        "note", f"{what}did not run: {', '.join(codes)}", (), "declare one with @trainer(build=…)", "unbuilt"
    )
    return [session.checks.complete_finding("build", note)]


def recall_checks_before_training(run: RunContext) -> list[Finding]:
    """Run the checks before training, or recall their findings.

    Findings are recalled for exactly this collection, base and code. Data checks that look at gates always run: they
    are quick, and a gate is edited most often.

    The record gets the first, the middle and the last row that the trainer was built with, as the model sees them.
    """
    record, checks = run.record, run.session.checks
    note, gated = (
        _make_findings_cache_path(run.session, "before training", gates=bool(checks.gated("trainer"))),
        checks.gated("data"),
    )
    rows = note and note.with_name(f"{note.stem}-rows.json")

    def look() -> list[Finding]:
        found, built = check_before_training(run.session, gated)
        examples, shown = built.examples if built else (), list[ShownRow]()
        for example in [examples[i] for i in sorted({0, len(examples) // 2, len(examples) - 1})] if examples else ():
            assert built
            left, segments = MAX_ROW_CHARS, []
            for learnt, text in built.parts(example):
                if left > 0:
                    segments.append(Segment(drop_surrogates(shorten(text, left)), learnt))
                left -= len(text)
            shown.append(ShownRow(example.number, tuple(segments)))
        record.run.shown_rows = tuple(shown) or record.run.shown_rows
        if rows:
            artifact_cache.write_sealed_json(rows, [asdict(row) for row in record.run.shown_rows])
        return found

    found = checks.load_or_run(note, look, record.warn) if note else look()
    if gated:
        order = [p.name for stage in ("data", "trainer") for p in checks.checks_of_stage(stage)]
        fresh = contamination.soften_findings(
            checks.run("data", gated, **_make_data_objects(run.session)), run.suite.gates
        )
        found = sorted([*found, *fresh], key=lambda one: _rank_finding(order, one))
    if rows and not record.run.shown_rows:
        record.run.shown_rows = from_json(
            tuple[ShownRow, ...], artifact_cache.read_sealed_json(rows, record.warn) or [], "it"
        )
    return found


def check_data(run: RunContext) -> list[Finding]:
    """Run the checks before training, and collect leaked rows.

    The adjudicator gets these rows, and the lock too if a gate is `clean_only`.
    """
    codes = [p.name for stage in ("data", "trainer") for p in run.session.checks.checks_of_stage(stage)]
    with run.record.stage("checks", f"{len(codes)} on data and training rows"):
        found = recall_checks_before_training(run)
        run.adjudicator.leaks = contamination.collect_leaks(found)
        if any(g.clean_only for g in run.suite.gates):
            run.write_lock()
        return found


def run_stage_checks(run: RunContext, stage: str, **objects: Any) -> StageStop | None:
    """Run the checks of a stage after training.

    Findings for exactly these models and this code are recalled. An error ends the run.
    """
    session, codes = run.session, run.session.checks.checks_of_stage(stage)
    if not codes:
        return None
    with run.record.stage("checks", f"{len(codes)} on {objects[stage].name}"):
        ask = partial(session.checks.run, stage, **_make_data_objects(session), **objects)
        models = {name: ref and keys.describe_model(ref) for name, ref in objects.items()}
        note = _make_findings_cache_path(session, stage, models, gates=bool(session.checks.gated(stage)))
        found = session.checks.load_or_run(note, ask, run.record.warn) if note else ask()
        # What was made elsewhere and is broken is a mistake of the command; what was trained here has failed.
        return record_findings(run.record, found, ExitCode.USAGE if run.suite.candidate else ExitCode.FAILED)


def record_findings(record: Record, found: Sequence[Finding], code: ExitCode) -> StageStop | None:
    """Record findings, and return a stop if one ends the run."""
    for one in found:
        if one not in record.run.findings:
            record.add(one)
    if not (errors := [one.code for one in found if one.stops_run]):
        return None
    return StageStop(
        code, f"{count_noun(len(errors), 'error')} found by checks; harness explain {errors[0]} explains the first"
    )


def _make_data_objects(session: Session) -> dict[str, Any]:
    model, plugins = session.suite.model, session.collection.plugins
    load: Callable[..., Any] = partial(plugins.find("loader", model.use).function, **model.options)
    if "python" in model.options:  # of another environment, in a worker there
        load = partial(load_uncached, plugins, session.suite.path, model.use, options=model.options)
    return check.make_data_objects(session.collection, session.base, load)


def _rank_finding(order: Sequence[str], one: Finding) -> int:
    """Return the sort position of a finding by its check.

    Findings of no check, such as the trainer's, come last.
    """
    code = one.code.partition("-")[0]
    return order.index(code) if code in order else len(order)


def _make_findings_cache_path(session: Session, *what: Any, gates: bool) -> Path | None:
    """Return the cache file for findings on exactly these inputs.

    Its name depends on collection, models and code. None if the cache is off.
    """
    if not session.options.cache:
        return None
    key = digest_value([preflight.collection_digest(session.collection, session.opened.source, gates=gates), what])
    return cache_dir() / "checks" / f"{key}.json"
