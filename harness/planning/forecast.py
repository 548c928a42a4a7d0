"""`harness plan`: what a run can prove, what it will ask, take and need, and what of it is there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness import plugin_errors
from harness.collection.collection import Collection
from harness.pipeline.attempt import AttemptClaims, make_attempt
from harness.pipeline.checking import recall_checks_before_training
from harness.pipeline.ledger import Ledger, counts_as_attempt
from harness.pipeline.measurements import EVALUATION, FULL, Measured, measurable_methods
from harness.pipeline.run_context import RunContext
from harness.planning.aa_record import read_aa_record
from harness.planning.gate_power import Odds, forecast_gates, forecast_recipes
from harness.planning.history import History, run_name
from harness.planning.joint_power import JointPower, forecast_joint_power
from harness.planning.recipe_power import RecipePower
from harness.planning.workload import PlannedArtifact, Workload, count_requests, count_training_tokens, list_artifacts


@dataclass(frozen=True)
class Stage:
    """A stage of the run: about how many seconds it takes, and how many of its evaluations that does not count.

    `most` is what it takes when a sweep goes on to its last trial.
    """

    name: str
    seconds: float = 0.0
    unknown: int = 0
    most: float | None = None


@dataclass(frozen=True)
class Forecast:
    """Everything `harness plan` tells, as data."""

    suite: str
    path: str
    model: str
    seed: int
    alpha: float
    runs: tuple[str, ...]  # earlier ones that were learned from, the newest first
    odds: tuple[Odds, ...]
    joint: tuple[JointPower, ...]
    workloads: tuple[Workload, ...]
    artifacts: tuple[PlannedArtifact, ...]
    sweep: str = ""
    trials: int = 1  # of a sweep at most
    min_trials: int = 1  # of them at least
    training_rows: int = 0
    training_tokens: int | None = None  # of all rows once
    methods: tuple[str, ...] = ()
    measured: Mapping[str, Measured] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)  # bytes that each process of a training holds at least
    stages: tuple[Stage, ...] = ()
    findings: tuple[str, ...] = ()  # of the checks before training
    warnings: tuple[str, ...] = ()
    readings: tuple[str, ...] = ()
    seeds: int = 1  # trainings of the recipe
    recipes: tuple[RecipePower, ...] = ()  # what seeds and rows bring gates of the recipe


def make_forecast(run: RunContext, measured: Mapping[str, Measured]) -> Forecast:
    """Look ahead at a run that preflight has passed. Raises UsageError when an evaluator refuses its rows."""
    collection, suite, session = run.collection, run.suite, run.session
    history = History(session.options.out, collection)
    ledger = Ledger.from_environment(lambda _: None)
    telling = [name for name, task in collection.tasks.items() if counts_as_attempt(task)]
    looks = [(c, e) for c in collection.candidates for e in telling if e in collection.evals_by_subject[c]]
    # which attempt other weights would be at the rows of every evaluation, by candidate and eval
    claims = AttemptClaims(collection)
    attempts = {key: ledger.number_attempt(make_attempt(claims, *key, "", "", None)) for key in looks}
    gates = forecast_gates(collection, history, attempts, read_aa_record(collection, session.base))
    odds = [g.odds for g in gates]
    asked, made = count_requests(run), list_artifacts(session)
    order = ("error", "warning", "note").index  # of what the checks before training find
    counted = sorted(
        (f for f in recall_checks_before_training(run) if f.ignored is None), key=lambda f: order(f.severity)
    )
    table, memory = suite.train, dict[str, int]()
    if table and suite.trains and (needs := collection.plugins.find("trainer", table.use).capabilities.memory):
        memory = plugin_errors.checked_return(
            needs, needs(session.base, session.opened.adapter, **table.given), Mapping, "bytes by what they are for"
        )
    doubts = (f'gate "{o.gate}": {o.warning}' for o in odds if o.warning)
    swept = (suite.sweep.key, len(suite.sweep.values), suite.sweep.fewest) if suite.sweep else ("", 1, 1)
    return Forecast(
        suite.name, str(suite.path), suite.model.path, suite.header.seed, suite.header.alpha,
        tuple(map(run_name, history.runs)), tuple(odds), tuple(forecast_joint_power(gates)),
        tuple(asked), tuple(made), *swept,
        training_rows=len(collection.training or ()),
        training_tokens=count_training_tokens(collection, session.opened.source),
        methods=tuple(measurable_methods(collection)), measured=dict(measured), memory=memory,
        stages=tuple(_forecast_stages(collection, asked, made, measured, history)),
        findings=tuple(f"{f.severity} {f.name}: {f.what}" for f in counted),
        warnings=(*run.record.run.warnings, *doubts),
        readings=run.record.run.readings,
        seeds=1 + len(collection.runs), recipes=tuple(forecast_recipes(gates)),
    )  # fmt: skip


def _forecast_stages(
    collection: Collection,
    asked: Sequence[Workload],
    made: Sequence[PlannedArtifact],
    measured: Mapping[str, Measured],
    history: History,
) -> list[Stage]:  # fmt: skip
    """Estimate the seconds of every stage.

    Rows take as long as in earlier runs, or else as measured; cached ones take no time.
    """
    there = {m.name for m in made if m.there}
    whole: float | None = None
    stages = [
        _forecast_evaluations("baselines", [a for a in asked if a.subject in collection.baselines], measured, history)
    ]
    if collection.suite.trains and collection.suite.adapter:
        own = measured.get(FULL if collection.trains_all_weights else collection.suite.adapter.use)
        whole = own.total_seconds if own else None
        if sweep := collection.suite.sweep:
            evaluation = sweep.by.partition(".")[0]
            rows = Workload("adapter", evaluation, len(collection.tasks[evaluation].select or ()))
            once, left = _forecast_evaluations("select", [rows], measured, history), [not m.there for m in made]
            few, every, each = sum(left[: sweep.fewest]), sum(left), whole or 0.0  # each as long as the first
            few, every = few * (1 + len(collection.runs)), every * (1 + len(collection.runs))
            stages.append(Stage("train", each * few, every if whole is None else 0, most=each * every))
            once = replace(once, seconds=once.seconds * (1 + len(collection.runs)))
            least, most = once.seconds * sweep.fewest, once.seconds * len(left)
            stages.append(Stage("select", least, once.unknown, most=most))
        else:
            done = ("merged" if collection.trains_all_weights else "adapter") in there
            stages.append(Stage("train", 0.0 if done else whole or 0.0, 0 if done or whole is not None else 1))
    for name in collection.candidates:
        stages.append(_forecast_evaluations(name, [a for a in asked if a.subject == name], measured, history))
    if collection.runs:
        of_runs = _forecast_evaluations(
            "other seeds", [a for a in asked if a.subject in collection.runs], measured, history
        )
        missing = 0 if collection.suite.sweep else len(collection.runs.keys() - there)
        unknown = of_runs.unknown + (missing if whole is None else 0)
        stages.append(replace(of_runs, seconds=of_runs.seconds + missing * (whole or 0.0), unknown=unknown))
    return stages


def _forecast_evaluations(
    name: str, asked: Sequence[Workload], measured: Mapping[str, Measured], history: History
) -> Stage:
    seconds, unknown = 0.0, 0
    rows = measured[EVALUATION].rows if EVALUATION in measured else {}
    for one in asked:
        measured_here = (rows.get(f"{subject}::{one.eval}") for subject in (one.subject, "base"))
        known = (row for row in (history.seconds(one.subject, one.eval), *measured_here) if row is not None)
        if (row := next(known, None)) is None:
            unknown += 1
        else:
            seconds += row * one.rows * (1 - one.cache_hits / one.requests if one.requests else 1)
    return Stage(name, seconds, unknown)
