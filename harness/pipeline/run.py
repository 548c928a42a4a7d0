"""The stages of `harness run`, in their order.

Each passes its result to the next. Baselines are evaluated before anything is trained, then candidates: an adapter, its
merges, copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from harness.answers.cache import StageModels, uncached
from harness.collection.collection import Item, Task
from harness.errors import PLUGIN_ERRORS, ExitCode, resource_error
from harness.evaluation import grading
from harness.evaluation.evaluate import evaluate
from harness.pipeline.artifacts import Trained, make_copy, merge_adapter, train_adapter
from harness.pipeline.checking import check_data, check_suite, record_findings, run_stage_checks
from harness.pipeline.conclusions import compute_exit_code, record_conclusions
from harness.pipeline.lifecycle import export_all, make_context, run_to_end, start_run
from harness.pipeline.model_selection import choose_candidate, choose_variant, run_sweep
from harness.pipeline.record import Record, RunEnding, StageStop
from harness.pipeline.run_context import RunContext, describe_error, is_fatal
from harness.pipeline.session import Options, collect_checks, open_collection, prepare_collection
from harness.pipeline.variants import make_runs
from harness.records.models import ModelRef, Subject
from harness.records.run import Run
from harness.release.conversions import seal_candidate
from harness.texts.counts import count_noun

__all__ = ["Options", "check_suite", "open_run", "prepare_collection", "run_suite"]

REHEARSAL_ROWS = 2  # of the base against itself, for evaluations that compare


def run_suite(path: Path, options: Options) -> Run:
    """Run a suite. Raises UsageError for mistakes found before anything was measured; everything
    later is in the Run that is returned and in the folder that is written.

    Of several candidates the best on the select rows is run, and the Run is its own."""
    why = ""
    if len(options.candidates) > 1:
        if isinstance(chosen := choose_candidate(path, options, run_suite), Run):
            return chosen
        candidate, why = chosen
        options = replace(options, candidate=candidate, candidates=())
    run = start_run(prepare_collection(path, options), options)
    run.record.choices += [why] if why else []
    return run_to_end(run, run_stages)


def open_run(path: Path, options: Options) -> RunContext:
    """Open a suite as a run does, only to look ahead. Raises UsageError as preflight does."""
    collection = prepare_collection(path, options)
    record, checks = Record(collection), collect_checks(collection, options)
    return make_context(open_collection(collection, options, checks), record)


def run_stages(run: RunContext) -> StageStop | None:
    """Run every stage that the collection's items need."""
    # An error finding of the data, or of what will be trained on, is a mistake of the suite.
    if stop := record_findings(run.record, check_data(run), ExitCode.USAGE):
        return stop
    given = check_given_candidate(run) if run.session.wanted_candidates else None  # a wrong one costs no evaluation
    if isinstance(given, StageStop):
        return given
    if (stop := evaluate_baselines(run)) or not run.session.wanted_candidates:
        return stop
    if isinstance(given, ModelRef):
        stop = evaluate_family(run, given)
    else:
        trained = given or (run_sweep(run) if run.suite.sweep else train_adapter(run))
        if isinstance(trained, StageStop):
            return trained
        run, stop = trained.run, evaluate_trained(trained) or evaluate_runs(trained.run)
    if stop:
        return stop
    run.record.ending = RunEnding(compute_exit_code(run))  # what is exported carries the report
    record_conclusions(run)
    with run.record.stage("export", f"{len(run.suite.exports)} declared"):
        export_all(run)
    return None


def check_given_candidate(run: RunContext) -> ModelRef | Trained | StageStop | None:
    """Check a candidate that was made elsewhere, and return it. None for a suite that trains."""
    if not (declared := run.suite.candidate):
        return None
    if not declared.merged:
        return train_adapter(run)
    made, model = run.session.opened.candidate, run.suite.model
    assert made  # preflight opened it
    reads = run.collection.plugins.find("loader", model.use).capabilities.reads
    ref = seal_candidate(ModelRef("merged", made.path, made.digest, options=model.options), reads=reads)
    return run_stage_checks(run, "merged", merged=ref, twin=None) or ref


def evaluate_baselines(run: RunContext) -> StageStop | None:
    """Evaluate the baselines, after a rehearsal on the base.

    The rehearsal is of evaluations that compare or mark candidates. Baselines that are other models come last.
    """
    collection, lacking = run.collection, run.session.opened.lacking
    items = [i for i in collection.items if i.subject in collection.baselines]
    later = dict.fromkeys(i.eval for i in collection.items if i.subject in collection.candidates)
    rehearsed = [t for t in (collection.tasks[name] for name in later) if t.comparative or t.marks]
    if not items and not rehearsed:
        return None
    for item in (i for i in items if i.subject in lacking):
        run.skip([item], lacking[item.subject])
    items = [i for i in items if i.subject not in lacking]
    session, others = run.session, {*run.session.opened.others, *run.session.opened.releases}
    with run.record.stage("baselines", ", ".join(dict.fromkeys(i.subject for i in items))):
        for task in (t for t in rehearsed if t.marks):
            if stop := _rehearse_task(run, task):
                return stop
        with session.load([session.base]) as (models, [subject]):
            for task in (t for t in rehearsed if t.comparative):
                if stop := _rehearse_task(run, task, models, subject):
                    return stop
            if stop := _evaluate_baselines(run, [i for i in items if i.subject not in others], models, subject):
                return stop
        for name in dict.fromkeys(i.subject for i in items if i.subject in others):
            model = run.suite.subjects[name].model if name in session.opened.others else None
            with session.load([session.baseline(name)], model) as (models, [subject]):
                if stop := _evaluate_baselines(run, [i for i in items if i.subject == name], models, subject):
                    return stop
        return _evaluate_baselines(run, [i for i in items if collection.tasks[i.eval].marks == "answers"], models, None)


def _evaluate_baselines(
    run: RunContext, items: Sequence[Item], models: StageModels, subject: Subject | None
) -> StageStop | None:
    """Evaluate baselines, deferring the marking of their answers.

    Answers are marked in a later call without a subject.
    """
    for item in items:
        marks = run.collection.tasks[item.eval].marks
        if subject and marks:
            run.ask(item, models, subject)
            if marks == "answers":
                continue
        report = run.evaluate(item, models, subject)
        if stop := run.stop_on_maxfail():
            return stop
        if report.outcome == "error":
            scored = (item.subject, item.eval) in run.adjudicator.results  # or the evaluator raised
            return StageStop(ExitCode.INCONCLUSIVE if scored else ExitCode.USAGE)
    return None


def _rehearse_task(
    run: RunContext, task: Task, models: StageModels | None = None, subject: Subject | None = None
) -> StageStop | None:
    """Run an evaluation on two rows of the base against itself.

    A crash, or a judge that cannot be reached, then comes before training. Without a subject the base's answers are
    marked. An error that every evaluation would raise propagates.
    """
    assert task.samples is not None
    session, short = run.session, replace(task, samples=task.samples[:REHEARSAL_ROWS])
    item = Item(run.suite.path.name, "base", task.spec.name)
    try:
        if subject:
            model = uncached(subject) if task.uncached else subject
            evaluate(short, "base", model, model, session.progress)
        else:
            with session.load([session.base]) as (models, [subject]):
                answered = grading.generate_answers(short, "base", subject, session.progress)
            marking = run.make_marking(item, rehearsal=True)
            grading.grade_answers(short, answered, answered if task.marks == "pairs" else None, marking)
    except PLUGIN_ERRORS as error:
        if is_fatal(error, models):
            raise
        run.record_crash(item, error)
        return StageStop(ExitCode.USAGE)
    return None


def evaluate_trained(trained: Trained) -> StageStop | None:
    """Evaluate a trained adapter and its merges, or a whole model.

    Only merges that an item or a copy needs are made.
    """
    run, suite, wanted = trained.run, trained.run.suite, trained.run.session.wanted_candidates
    if run.collection.trains_all_weights:  # there is nothing to merge
        return run_stage_checks(run, "merged", merged=trained.ref, twin=None) or evaluate_family(run, trained.ref)
    if "adapter" in wanted and (stop := evaluate_candidate(run, trained.ref)):
        return stop
    parents = wanted | {e.from_ for e in suite.copies.values() if e.name in wanted}
    refs: dict[str, ModelRef] = {}
    for variant in (v for v in suite.merges if suite.merged(v) in parents):
        if isinstance(merged := merge_adapter(run, trained.ref, variant), StageStop):
            return merged
        refs[variant] = merged
        if not suite.choose and (stop := evaluate_family(run, merged)):
            return stop
    return evaluate_family(run, choose_variant(run, refs)) if suite.choose and refs else None


def evaluate_runs(run: RunContext) -> StageStop | None:
    """Train and evaluate the recipe with its other seeds. Gates of the recipe need them."""
    for made in make_runs(run):
        if isinstance(made, StageStop):
            return made
        if stop := evaluate_candidate(run, made) or run.stop_on_maxfail():
            return stop
    return None


def evaluate_family(run: RunContext, ref: ModelRef) -> StageStop | None:
    """Evaluate and gate a candidate, then the copies made from it.

    Copies are skipped if the candidate did not pass. A copy that fails does not affect other candidates.
    """
    wanted = run.session.wanted_candidates
    run.record.add_candidate(ref)
    if ref.name in wanted and (stop := evaluate_candidate(run, ref)):
        return stop
    for declared in (e for e in run.suite.copies.values() if e.from_ == ref.name and e.name in wanted):
        if any(v.blocks_release and v.candidate == ref.name for v in run.adjudicator.verdicts):
            why = f"{ref.name} did not pass its gates"
            run.record.unmade[declared.name] = why
            run.skip(run.session.items(declared.name), why)
            continue
        try:
            if stop := evaluate_candidate(run, make_copy(run, ref, declared)):
                return stop
        except PLUGIN_ERRORS as error:
            if resource_error(error):
                raise
            said, trace = describe_error(error)  # its gates are ERROR, and other candidates go on
            run.record.unmade[declared.name] = why = f"{declared.where}: {said}"
            reached = {r.id for r in run.record.run.results}
            for item in (i for i in run.session.items(declared.name) if i.id not in reached):
                run.record_failure(item, why, trace)
                if stop := run.stop_on_maxfail():
                    return stop
    return None


def evaluate_candidate(
    run: RunContext, ref: ModelRef, disguise: Callable[[Subject], Subject] | None = None
) -> StageStop | None:
    """Evaluate and gate a candidate in a stage of its own.

    `disguise` wraps its subject. The models that it is compared with are loaded beside it. Answers to be marked wait
    until the models are freed, since a judge may need the memory.
    """
    session, tasks, record = run.session, run.collection.tasks, run.record
    record.add_candidate(ref)
    items = session.items(ref.name)
    beside = list(dict.fromkeys(run.collection.baseline_of(i) for i in items if tasks[i.eval].comparative))
    others = [session.base if name == "base" else record.candidates[name] for name in beside]
    detail = count_noun(len(items), "evaluation")
    with record.stage(ref.name, detail), session.load([ref, *others]) as (models, [subject, *rivals]):
        subject = disguise(subject) if disguise else subject
        against = dict(zip(beside, rivals, strict=True))
        for item in items:
            if tasks[item.eval].marks:
                run.ask(item, models, subject)
                continue
            rival = against[run.collection.baseline_of(item)] if tasks[item.eval].comparative else None
            run.evaluate(item, models, subject, rival)
            if stop := run.stop_on_maxfail():
                return stop
    for item in items:
        if tasks[item.eval].marks:
            run.evaluate(item, models)
            if stop := run.stop_on_maxfail():
                return stop
    return None
