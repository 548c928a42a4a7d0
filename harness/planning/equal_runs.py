"""`harness aa`: the base against itself, which shows how often rows and verdicts differ by chance alone."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from harness import schema
from harness.answers.cache import uncached
from harness.collection.collection import Item, Task
from harness.errors import ExitCode, UsageError, did_you_mean
from harness.evaluation import grading
from harness.evaluation.evaluate import evaluate
from harness.gates.clusterings import coarsest_cluster_of_rows
from harness.gates.decide import decide
from harness.pipeline.run import open_run
from harness.pipeline.run_context import RunContext
from harness.pipeline.session import Options, Session
from harness.planning.aa_record import MeasuredEval, RowFlips, VerdictFlips, read_aa_record, write_aa_record
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.models import ModelRef, Subject
from harness.records.samples import Result, Score
from harness.records.verdicts import Outcome
from harness.stats.shares import binomial
from harness.suite.tables import gate_alpha
from harness.texts.counts import agree_verb, count_noun

DRAWN_PAIRS = 400  # drawn for each gate
MIN_RUNS = 2  # runs
TAIL_RISK = 0.025  # of bounds that hold with 95 %
SOURCES = {  # of variation between runs
    "seed": "another seed",
    "company": "its rows in another order",
    "judge": "its judge asked again",
    "dtype": "every other one in another dtype",
    "processes": "every other one in this process alone",
}
DEFAULT_SOURCES = ("seed", "company", "judge")  # the others load the model otherwise than the suite says


@dataclass(frozen=True)
class EqualRuns:
    """How far runs of one model differ: by row, and by gate; `skipped` says what was not run or varied, and why."""

    runs: int
    rows: tuple[RowFlips, ...]
    gates: tuple[VerdictFlips, ...]
    skipped: tuple[str, ...]
    sources: tuple[str, ...] = ()
    record: str = ""  # the file that keeps it

    @property
    def exit_code(self) -> ExitCode:
        """Return 1 if a gate errs more often than its risk. The runs are of equal models."""
        return ExitCode.OK if all(gate.is_within_alpha for gate in self.gates) else ExitCode.FAILED


def compare_equal_runs(path: Path, options: Options, runs: int, vary: Sequence[str] = ()) -> EqualRuns:
    """Judge a suite's gates on repeated runs of its base.

    Gates are judged on pairs of runs, and the result is kept in the suite's record. `vary` names SOURCES, by default
    those of DEFAULT_SOURCES that the suite can vary. Raises UsageError on mistakes in the suite, and if no gate is on
    an evaluation that can be repeated.
    """
    if runs < MIN_RUNS:
        raise UsageError(f"--runs is {runs}; it must be {MIN_RUNS} or more")
    if odd := next((name for name in vary if name not in SOURCES), ""):
        raise UsageError(f'--vary: "{odd}" is not one of {", ".join(SOURCES)}{did_you_mean(odd, SOURCES)}')
    run = open_run(path, replace(options, ahead=True, counts=False, export=False))
    session = run.session
    tasks, skipped = _select_gated_solo_tasks(session)
    sources, constant = _choose_sources(session, tasks, vary)
    if "judge" not in sources:
        skipped += [f'"{task.spec.name}" was not run: its judge does not vary' for task in tasks if task.marks]
        tasks = [task for task in tasks if not task.marks]
    if not (tasks and sources):
        what = "nothing varies" if tasks else "has no gate on an evaluation that can be repeated"
        raise UsageError(f"{session.suite.path}: {what}", *skipped, *constant)
    results = evaluate_equal_runs(run, tasks, runs, sources)
    record = read_aa_record(session.collection, session.base)
    measured = dict(record.current)
    rows, gates = list[RowFlips](), list[VerdictFlips]()
    for task in tasks:
        name, each = task.spec.name, results[task.spec.name]
        own = [gate for gate in session.suite.gates if gate.metric and gate.eval == name]
        key = record.make_key(name)
        told = tuple(_simulate_verdict_flips(gate, task, each, session) for gate in own)
        measured[name] = MeasuredEval(key, runs, tuple(sources), tuple(_iterate_row_flips(task, each)), told)
        rows, gates = [*rows, *measured[name].metrics], [*gates, *told]
    kept = "" if options.limit else str(write_aa_record(replace(record, measured=measured)))
    return EqualRuns(runs, tuple(rows), tuple(gates), (*skipped, *constant), tuple(sources), kept)


def _select_gated_solo_tasks(session: Session) -> tuple[list[Task], list[str]]:
    """Select the evaluations with gates that a model can repeat.

    Returns why the others are left out, too.
    """
    found, skipped = list[Task](), list[str]()
    gated = {gate.eval for gate in session.suite.gates if gate.metric}
    for name, task in session.collection.tasks.items():
        why = "no gate is on it" if name not in gated else "it measures time" if task.uncached else ""
        if not why and task.marks == "pairs" and not task.sampling:
            why = "greedy answers of equal models are equal, which tells nothing of its judge; set temperature"
        skipped += [f'"{name}" was not run: {why}'] if why else []
        found += [] if why else [task]
    return found, skipped


def _choose_sources(session: Session, tasks: Sequence[Task], asked: Sequence[str]) -> tuple[list[str], list[str]]:
    """Choose the sources of variation between runs.

    Returns why the other requested ones do not vary, too.
    """
    loader = session.collection.plugins.find("loader", session.suite.model.use)
    has_dtype = "dtype" in schema.list_options(loader.function)[0]
    constant = {
        "seed": "" if any(task.sampling for task in tasks) else "greedy answers are equal by construction",
        "judge": "" if any(task.marks for task in tasks) else "no gate is on answers that a judge grades",
        "dtype": "" if has_dtype else f'the loader "{loader.name}" has no option dtype',
        "processes": "" if session.options.on else "there are no workers; add --on local:2",
    }
    wanted = [name for name in SOURCES if name in (asked or DEFAULT_SOURCES)]
    why = {name: constant.get(name, "") for name in wanted}
    told = [name for name in wanted if why[name] and (name in asked or name == "seed")]
    return [name for name in wanted if not why[name]], [f"{name} does not vary: {why[name]}" for name in told]


def evaluate_equal_runs(
    run: RunContext, tasks: Sequence[Task], runs: int, sources: Sequence[str]
) -> dict[str, list[Result]]:
    """Return the results of each run, by evaluation. Raises UsageError where a row has no score."""
    answered: dict[str, dict[int, Result]] = {task.spec.name: {} for task in tasks}
    for session, base, numbers in _list_loads(run.session, runs, sources):
        with session.load([base]) as (_, [subject]):
            for number in numbers:
                for task in tasks:
                    answered[task.spec.name][number] = _answer(session, task, subject, number, sources)
    found: dict[str, list[Result]] = {}
    for task in tasks:
        each = [replace(one, rows="") for _, one in sorted(answered[task.spec.name].items())]
        found[task.spec.name] = (
            _grade(run, task, each, sources) if task.marks else each
        )  # a judge may need the model's room
        for number, result in enumerate(found[task.spec.name], 1):
            if result.missing:
                some = f"{count_noun(n := len(result.missing), 'row')} {agree_verb(n, 'have no score')}"
                raise UsageError(f"{task.spec.where}: {some} in run {number}")
    return found


def _list_loads(
    session: Session, runs: int, sources: Sequence[str]
) -> Iterator[tuple[Session, ModelRef, Sequence[int]]]:
    """Yield each load's session, base and run numbers.

    Every other run has another dtype, or this process alone, if these are to vary.
    """
    base, every = session.base, range(runs)
    if not {"dtype", "processes"}.intersection(sources):
        yield session, base, every
        return
    here = replace(session, options=replace(session.options, on="")) if "processes" in sources else session
    own, other = str(base.options.get("dtype", "auto")), "bfloat16"
    if "dtype" in sources:
        own, other = ("float32", other) if own == "auto" else (own, other if own == "float32" else "float32")
    for place, dtype, numbers in ((session, own, every[::2]), (here, other, every[1::2])):
        yield place, replace(base, options={**base.options, "dtype": dtype}) if "dtype" in sources else base, numbers


def _answer(session: Session, task: Task, subject: Subject, number: int, sources: Sequence[str]) -> Result:
    """Evaluate the base once more. If a judge grades the evaluation, only generate the answers."""
    samples, item = list(task.samples or ()), Item(session.suite.name, "base", task.spec.name)
    if number and "company" in sources:  # the first is the run that a suite would have
        random.Random(number).shuffle(samples)  # noqa: S311 -- not for secrets
    # equal answers say nothing about a judge of pairs
    drawn = number if "seed" in sources else number % 2 if task.marks == "pairs" else 0
    varied = replace(task, samples=tuple(samples), seed=task.seed + drawn)
    model = uncached(subject)
    asked = session.with_examples(item, model)
    if task.marks:
        result = grading.generate_answers(varied, "base", asked, session.progress)
    else:
        result = evaluate(varied, "base", asked, model if task.comparative else None, session.progress)
    return replace(result, digest=f"run {number + 1}")


def _grade(run: RunContext, task: Task, answered: Sequence[Result], sources: Sequence[str]) -> list[Result]:
    """Grade the answers of each run with a judge.

    It grades them alone, or, if it judges pairs, beside those of another run.
    """
    marking = run.make_marking(Item(run.suite.path.name, "base", task.spec.name))
    assert marking.responses is None  # or a judge would not be asked anew
    if task.marks != "pairs":
        return [grading.grade_answers(task, one, None, marking) for one in answered]
    if "seed" in sources:  # each run stands once on either side
        pairs = [(one, answered[number - 1]) for number, one in enumerate(answered)]
    else:  # the same pair each time
        seeds = answered[::2], answered[1::2]
        pairs = [(seeds[0][n % len(seeds[0])], seeds[1][n % len(seeds[1])]) for n in range(len(answered))]
    return [grading.grade_answers(task, ours, theirs, marking) for ours, theirs in pairs]


def _iterate_row_flips(task: Task, results: Sequence[Result]) -> Iterator[RowFlips]:
    """Yield the flips of each row metric between runs.

    A metric with an unknown value on some row is left out.
    """
    for metric in (m for m in task.metrics.values() if m.is_of_rows and not m.combine):
        runs = [{s.id: s.values.get(metric.name, math.nan) for s in result.scores} for result in results]
        if not all(math.isfinite(value) for run in runs for value in run.values()):
            continue
        pairs = [[one[i] - other[i] for i in one] for one, other in combinations(runs, 2)]
        share = fmean(difference != 0 for pair in pairs for difference in pair)
        n = len(runs[0]) * (len(runs) // 2)  # of runs that are in one pair each
        bounds = binomial(round(share * n), n, 0.5, TAIL_RISK)
        yield RowFlips(
            f"{task.spec.name}.{metric.name}", len(runs[0]),
            tuple(result.metrics[metric.name] for result in results),
            share, bounds.lower, bounds.upper,
            fmean(len({run[i] for run in runs}) > 1 for i in runs[0]),
            fmean(difference**2 for pair in pairs for difference in pair),
        )  # fmt: skip


def _simulate_verdict_flips(gate: Gate, task: Task, results: Sequence[Result], session: Session) -> VerdictFlips:
    """Judge a gate on simulated pairs of equal models.

    The two sides of a pair take each row, or cluster of rows, from different runs.
    """
    metric, seed, alpha = task.metrics[gate.metric_name], session.suite.header.seed, gate_alpha(gate, session.suite)
    pairs, verdicts = list(_iterate_resampled_pairs(task, results, seed)), PairVerdicts(gate, task, alpha)
    outcomes, wrong, at_margin = verdicts.shares(pairs), None, None
    if gate.versus and not gate.kind.counts:  # equal models are not better, and not worse by more than a margin
        unsound = [name for name, is_wrong in (("PASS", gate.margin >= 0), ("FAIL", gate.margin <= 0)) if is_wrong]
        wrong = max(outcomes.get(name, 0.0) for name in unsound)
        if gate.margin < 0 and not gate.relative and metric.is_share:
            chance = random.Random(seed)  # noqa: S311 -- not for secrets
            broken = (
                (_worsen_random_clusters(task, metric, -gate.margin, ours, chance), theirs) for ours, theirs in pairs
            )
            at_margin = verdicts.shares(broken).get("PASS", 0.0)
    counts = [round(share * DRAWN_PAIRS) for share in outcomes.values()]
    flips = 1 - sum(n * (n - 1) for n in counts) / (DRAWN_PAIRS * (DRAWN_PAIRS - 1))
    bounds = binomial(round(flips * DRAWN_PAIRS / 2), DRAWN_PAIRS // 2, 0.5, TAIL_RISK)
    return VerdictFlips(gate.id, alpha, DRAWN_PAIRS, outcomes, wrong, at_margin, flips, bounds.lower, bounds.upper)


class PairVerdicts:
    """Verdicts of a gate on pairs of results.

    Pairs with the same rows in another order are decided once.
    """

    def __init__(self, gate: Gate, task: Task, alpha: float) -> None:
        self.gate, self.task, self.alpha = gate, task, alpha
        rows = task.samples or ()
        self._alike = not gate.slice and len({*coarsest_cluster_of_rows(rows)}) == len(rows)  # rows may be exchanged
        self._known: dict[Any, Outcome] = {}

    def decide(self, ours: Result, theirs: Result) -> Outcome:
        """Return the gate's outcome on a pair of results."""
        metric, against = self.task.metrics[self.gate.metric_name], theirs if self.gate.versus else None
        sides = [[_row_values(score, metric) for score in one.scores] for one in (ours, against) if one]
        key = frozenset(Counter(zip(*sides, strict=True)).items())
        if not self._alike or metric.combine or key not in self._known:
            rows = self.task.samples or ()
            said = decide(self.gate, metric, ours, against, rows, self.alpha, name="base")
            self._known[key] = said.outcome
        return self._known[key]

    def shares(self, pairs: Iterable[tuple[Result, Result]]) -> Mapping[str, float]:
        """Return the share of each outcome."""
        said = Counter(self.decide(ours, theirs) for ours, theirs in pairs)
        return {str(outcome): said[outcome] / said.total() for outcome in Outcome if said[outcome]}


def _row_values(score: Score, metric: Metric) -> tuple[Any, ...]:
    """Return all of a row that a gate looks at."""
    name, draws = metric.name, [(draw.values.get(metric.name), draw.finish_reason) for draw in score.draws]
    about = (score.values.get(name), score.weight_of(name), score.finish_reason, score.values.get("thought_cut"))
    return (*about, name in score.lost, score.partly_lost.get(name), *sorted(draws, key=repr))


def _iterate_resampled_pairs(task: Task, results: Sequence[Result], seed: int) -> Iterator[tuple[Result, Result]]:
    chance = random.Random(seed)  # noqa: S311 -- not for secrets
    runs = [{score.id: score for score in result.scores} for result in results]
    for _ in range(DRAWN_PAIRS):
        chosen = [(ids, chance.sample(runs, 2)) for ids in _list_clusters(task)]
        ours, theirs = (tuple(pair[side][i] for ids, pair in chosen for i in ids) for side in (0, 1))
        yield replace(results[0], scores=ours), replace(results[1], scores=theirs)


def _list_clusters(task: Task) -> list[list[str]]:
    """Return the ids of rows that stand or fall together."""
    found: dict[str, list[str]] = {}
    for sample in task.samples or ():
        found.setdefault(sample.cluster or sample.id, []).append(sample.id)
    return list(found.values())


def _worsen_random_clusters(task: Task, metric: Metric, loss: float, result: Result, chance: random.Random) -> Result:
    """Lower a result by an expected loss.

    Random clusters get the worst value, as many as that takes.
    """
    worst = 0.0 if metric.better == "higher" else 1.0
    most = fmean(abs(score.values[metric.name] - worst) for score in result.scores)
    broken = {i for ids in _list_clusters(task) if chance.random() * most < loss for i in ids}

    def break_score(score: Score) -> Score:
        draws = tuple(replace(draw, values={**draw.values, metric.name: worst}) for draw in score.draws)
        return replace(score, values={**score.values, metric.name: worst}, draws=draws)

    return replace(result, scores=tuple(break_score(s) if s.id in broken else s for s in result.scores))
