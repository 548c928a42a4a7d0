"""Measure several on select rows, and go on with the best: candidates, trials of a sweep, merges of an adapter.

What the confirm rows say of the one is as if it had been alone: the others never met them, so there is one attempt.

Trials of a sweep are the same recipe with one option changed. By the rule "step" trial k + 1 is trained only when trial
k was better than trial k - 1, at the sweep's risk, and the last that was better is chosen. The tests stand in a fixed
order and end at the first that is not significant, so one that goes too far is as rare as one test says, however many
values there are. By "best" all are trained, and the best mean is chosen: which it is needs no risk, since other rows
confirm it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.artifacts.digests import digest_value, weights_digest
from harness.collection.collection import Collection, sweep_trials
from harness.errors import CheckFailedError, ExitCode, UsageError
from harness.evaluation.evaluate import evaluate
from harness.files import write_text
from harness.gates.decide import decide
from harness.pipeline.artifacts import Artifacts, Trained, copy_training_logs, train_adapter
from harness.pipeline.record import StageStop
from harness.pipeline.run_context import RunContext
from harness.pipeline.session import Options, Session, prepare_collection
from harness.pipeline.variants import vary_training
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.models import ModelRef
from harness.records.run import Run, Swept, Trial
from harness.records.samples import Result
from harness.records.verdicts import Outcome, Verdict
from harness.reports.run_folder import TRAINING_LOGS, read_steps
from harness.schema import format_toml
from harness.texts.numbers import format_metric, format_p_in_sentence

FAILED_EXIT_CODES = (ExitCode.INTERRUPTED, ExitCode.INTERNAL, ExitCode.USAGE)  # after which there is nothing to compare
# of no matter to what a LoRA is
NEUTRAL_FIELDS = ("base_model_name_or_path", "auto_mapping", "revision", "inference_mode")


@dataclass(frozen=True)
class Contender:
    """One of several on the select rows: its number, NaN where it has none, and how many blocking gates it passed."""

    name: str
    value: float
    passed: int = 0
    gates: int = 0


def select_best(measured: Sequence[Contender], metric: Metric) -> Contender:
    """Return the contender that passes the most gates.

    Ties go to the better metric, then to the earlier contender. One without a number, NaN, comes last.
    """
    sign = 1 if metric.better == "higher" else -1

    def rank(one: Contender) -> tuple[bool, int, float]:
        return (False, 0, 0.0) if math.isnan(one.value) else (True, one.passed, sign * one.value)

    return max(measured, key=rank)  # of equals the first


def evaluate_for_choice(session: Session, by: str, ref: ModelRef, what: str) -> Result:
    """Evaluate a model on the rows it is chosen by.

    Raises CheckFailedError where EVAL.METRIC `by` is no finite number.
    """
    evaluation, _, name = by.partition(".")
    task = session.collection.tasks[evaluation]
    assert task.select  # collection or preflight read them
    with session.load([ref]) as (_, [subject]):
        result = evaluate(replace(task, samples=task.select), what, subject, None, session.progress)
    if result.missing or not math.isfinite(result.metrics[name]):
        raise CheckFailedError(f'model "{what}": metric {by} is not a finite number on some selection rows')
    return result


def choose_variant(run: RunContext, refs: Mapping[str, ModelRef]) -> ModelRef:
    """Return the best of several merged models, by variant."""
    by = run.suite.choose
    assert by
    evaluation, _, name = by.partition(".")
    task = run.collection.tasks[evaluation]
    with run.record.stage("choose", f"by {by} on {len(task.select or ())} selection rows"):
        results = {
            v: evaluate_for_choice(run.session, by, ref, f"the merge onto the {v} base") for v, ref in refs.items()
        }
    found = [Contender(variant, result.metrics[name]) for variant, result in results.items()]
    best = select_best(found, task.metrics[name]).name
    shown = ", ".join(f"{one.name} {format_metric(one.value)}" for one in found)
    run.record.choices.append(f"the merge onto the {best} base was chosen by {by} on selection rows: {shown}")
    return refs[best]


# -- candidates that were made elsewhere -----------------------------------------------------------


def choose_candidate(path: Path, options: Options, run_one: Callable[[Path, Options], Run]) -> tuple[str, str] | Run:
    """Measure candidates in runs of their own, and choose the best.

    Returns it and why it was chosen, or the run that ended the choice. Its number is the metric of the first blocking
    gate on select rows. Raises UsageError if two candidates have one path or the same weights, or no gate can choose
    between them.
    """
    if options.select:
        raise UsageError(
            "--select: several candidates are evaluated on selection rows anyway; remove "
            "--select, or give one candidate"
        )
    given, seen = options.candidates, dict[str, str]()
    for one in given:
        if (same := seen.get(identity := _compute_candidate_identity(Path(one)))) is not None:
            raise UsageError(f"--candidate {format_toml(one)}: has the same weights as {format_toml(same)}; remove one")
        seen[identity] = one
    collections = [
        prepare_collection(path, replace(options, candidate=one, candidates=(), listeners=())) for one in given
    ]
    driver = _find_deciding_gate(collections[0])
    found, runs = list[Contender](), dict[str, Run]()
    for one, collection in zip(given, collections, strict=True):
        alone = replace(options, candidate=one, candidates=(), select=True, export=False, junit_xml=None)
        runs[one] = run_one(path, alone)
        if runs[one].exit_code in FAILED_EXIT_CODES:
            return runs[one]
        found.append(_make_contender(one, runs[one], collection, driver))
    task = collections[0].tasks[driver.eval]
    best = select_best(found, task.metrics[driver.metric_name])
    if math.isnan(best.value):
        return runs[best.name]
    numbers = ["not evaluated" if math.isnan(m.value) else format_metric(m.value) for m in found]
    told = "; ".join(f"{m.name} {m.passed} of {m.gates} gates, {n}" for m, n in zip(found, numbers, strict=True))
    why = (
        f"of {len(found)} candidates {best.name} was chosen on selection rows, by gates passed and then {driver.metric}"
    )
    return best.name, (f"{why} ({len(task.select or ())} rows): {told}; only it was evaluated on the rows that confirm")


def _find_deciding_gate(collection: Collection) -> Gate:
    """Return the first blocking gate on select rows.

    Its metric decides among equals. Raises UsageError if there is none.
    """
    for gate in collection.suite.gates:
        if gate.blocking and gate.metric and collection.tasks[gate.eval].spec.select:
            return gate
    what = "several candidates need a blocking gate on an eval with select rows; add one"
    if not any(t.spec.select for t in collection.tasks.values()):
        what = 'several candidates need an eval with select rows; add select = "data/select.jsonl" to one'
    raise UsageError(f"{collection.suite.path}: --candidate: {what}, or name one candidate")


def _make_contender(given: str, run: Run, collection: Collection, driver: Gate) -> Contender:
    """Make a contender from a run on select rows. Its numbers are those of the model that would ship."""
    made = [c for c in collection.candidates if c not in collection.suite.copies]
    subject = next((e.from_ for e in collection.suite.exports if e.from_ in collection.candidates), "") or made[-1]
    passed = [v.outcome is Outcome.PASS for v in run.verdicts if v.candidate == subject and v.blocking]
    reports = [r for r in run.results if (r.subject, r.eval, r.outcome) == (subject, driver.eval, "done")]
    value = reports[0].metrics.get(driver.metric_name, math.nan) if reports else math.nan
    return Contender(given, value, sum(passed), len(passed))


def _compute_candidate_identity(folder: Path) -> str:
    """Digest a candidate's weights and, for an adapter, its configuration.

    Fields that do not affect how weights are applied are left out. A folder that cannot be read is its own identity.
    """
    config = folder / "adapter_config.json"
    try:
        folder = folder.parent if folder.is_file() else folder
        about = json.loads(config.read_text("utf-8")) if config.is_file() else {}
        return digest_value([weights_digest(folder), {k: v for k, v in about.items() if k not in NEUTRAL_FIELDS}])
    except (OSError, ValueError, AttributeError):  # a name, or what is told where it is opened
        return str(folder)


# -- the trials of a sweep -------------------------------------------------------------------------


def run_sweep(run: RunContext) -> Trained | StageStop:
    """Train the trials of a sweep, and return the best.

    By the rule "step" it ends at the first trial that is not better than the one before.
    """
    table, found = run.suite.sweep, run.record.run
    assert table
    evaluation, _, name = table.by.partition(".")
    task = run.collection.tasks[evaluation]
    metric, rows = task.metrics[name], task.select or ()
    alpha = table.alpha or run.suite.header.alpha
    ask = partial(decide, metric=metric, samples=rows, alpha=alpha, name=table.key)
    found.sweep = Swept(table.key, table.by, alpha, len(rows), metric.scale, list(table.values), rule=table.rule)
    best: tuple[Trained, list[Result]] | None = None
    step = replace(table.step, of="recipe") if run.collection.runs else table.step
    each = zip(table.values, sweep_trials(run.collection), run.session.opened.trials, strict=True)
    for i, (value, collection, adapter) in enumerate(each, 1):
        opened, what = replace(run.session.opened, adapter=adapter), f"{table.key} = {format_toml(value)}"
        run.record.call_hook("harness_stage", stage="sweep", detail=f"{what}, trial {i} of at most {len(table.values)}")
        one = replace(run, session=replace(run.session, collection=collection, opened=opened))
        if isinstance(tried := _train_and_evaluate_trial(one, table.by, what), StageStop):
            return tried
        first, results = tried
        facts = {"value": value, **_make_training_facts(first)}
        trial = _compare_trial_with_best(table.rule, step, metric, ask, results, best[1] if best else [], facts)
        run.record.add(trial)
        if trial.better:
            best = first, results
        elif table.rule == "step":
            break
    assert best and found.sweep  # there is nothing that the first could fail to be better than
    place = Artifacts(best[0].run.session)
    found.facts["training"] = {**best[0].facts, **copy_training_logs(run, place.work / TRAINING_LOGS)}
    found.training = read_steps(place.adapter) or found.training
    found.sweep = swept = _conclude_sweep(found.sweep)
    left = ", ".join(map(format_toml, swept.values[len(swept.trials) :]))
    chosen = f"{swept.key} = {format_toml(swept.chosen)} was chosen"
    text = f"{chosen} by {swept.by} on {swept.rows} selection rows: {swept.why}"
    run.record.choices.append(text + (f"; not tried: {left}" if left else ""))
    return best[0]


def _train_and_evaluate_trial(run: RunContext, by: str, what: str) -> tuple[Trained, list[Result]] | StageStop:
    """Train and evaluate a trial with every seed. Returns the first training and the results of all."""
    first, results, runs = None, list[Result](), run.collection.runs.values()
    rows = len(run.collection.tasks[by.partition(".")[0]].select or ())
    for seed in (run.suite.training_seed, *runs):
        made = train_adapter(vary_training(run, seed=seed) if first else run)
        if isinstance(made, StageStop):
            return made
        first = first or made
        with run.record.stage("select", f"{by} on {rows} rows"):
            named = f"{what}, seed {seed}" if runs else what
            results.append(evaluate_for_choice(made.run.session, by, made.ref, named))
    assert first
    return first, results


def _make_training_facts(made: Trained) -> dict[str, Any]:
    """Return the training facts of a trial. Its seconds are kept in its folder, for later runs that reuse it."""
    note = Artifacts(made.run.session).work / "trial.json"
    if not (reused := "reused" in made.facts):
        write_text(note, json.dumps({"seconds": made.seconds}))
    known = json.loads(note.read_text("utf-8")) if note.is_file() else {}
    return {"reused": reused, "seconds": known.get("seconds"), "parameters": made.facts.get("trainable_parameters")}


def _compare_trial_with_best(
    rule: str, step: Gate, metric: Metric, ask: Callable[..., Verdict], ours: Sequence[Result],
    best: Sequence[Result], facts: dict[str, Any],
) -> Trial:  # fmt: skip
    """Compare a trial with the best before it, if any.

    The results of all seeds count. `facts` go into the trial.
    """

    def bounds(said: Verdict, prefix: str) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for name, bound in (("lower", said.lower), ("upper", said.upper)):
            finite = bound if bound is not None and math.isfinite(bound) else None
            found[prefix + name] = None if finite is None else metric.from_test_scale(finite, change=bool(prefix))
        return found

    # A claim about a trial alone, for its interval; which number it names makes no difference to that.
    claim = {"min" if metric.better == "higher" else "max": 1.0 if metric.is_log else 0.5}
    alone = replace(step, versus=None, better_by=None, **claim)  # type: ignore[arg-type]
    values = [_average_metric_over_seeds(metric, results) for results in (ours, best) if results]
    about = {"metric": values[0], "digest": ours[0].digest, **facts}
    about |= {"runs": tuple(r.metrics[metric.name] for r in ours)} if len(ours) > 1 else {}
    candidate, baseline = (replace(r[0], other_runs=tuple(r[1:])) if r else None for r in (ours, best))
    about |= bounds(ask(alone, candidate=candidate, baseline=None), "")
    if best:
        said = ask(step, candidate=candidate, baseline=baseline)
        change = None if said.estimate is None else metric.from_test_scale(said.estimate, change=True)
        about |= {"change": change, **bounds(said, "change_"), "p": said.p_pass}
        about |= {"better": said.outcome is Outcome.PASS, "why": said.why}
        if rule == "best":
            both = Contender("before", values[1]), Contender("this", values[0])
            about["better"] = select_best(both, metric) is both[1]
    return Trial(**about)


def _average_metric_over_seeds(metric: Metric, results: Sequence[Result]) -> float:
    """Average a recipe's metric over runs, on its test scale."""
    values = [metric.to_test_scale(result.metrics[metric.name]) for result in results]
    return metric.from_test_scale(math.fsum(values) / len(values))


def _conclude_sweep(swept: Swept) -> Swept:
    """Return an ended sweep with the chosen value and the reason."""
    last, steps = swept.trials[-1], [t.value for t in swept.trials if t.better]
    if swept.rule == "best":
        return replace(swept, chosen=steps[-1], why=f"the best of {len(swept.trials)} values")
    why = [f"{format_toml(steps[-1])} is significantly better than {format_toml(steps[-2])}"] if len(steps) > 1 else []
    if last.better:
        why.append("is the last value")
    else:
        briefly = last.why if last.p is None else format_p_in_sentence(last.p)
        why.append(f"{format_toml(last.value)} is not significantly better than {format_toml(steps[-1])} ({briefly})")
    return replace(swept, chosen=steps[-1], why=", and ".join(why))
