"""`harness aa`: the base against itself, which shows how often rows and verdicts differ by chance alone.

What varies is the seed of sampled answers, and which rows are answered together. Nothing is remembered.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean

from harness.answers.cache import uncached
from harness.collection.collection import Item, Task
from harness.errors import ExitCode, UsageError
from harness.evaluation.evaluate import evaluate
from harness.gates.decide import decide
from harness.gates.gate import Gate
from harness.pipeline.run import open_run
from harness.pipeline.session import Options, Session
from harness.records.metrics import Metric
from harness.records.samples import Result, Score
from harness.records.verdicts import Outcome
from harness.suite.tables import gate_alpha

PAIRS = 400  # drawn for each gate
FEWEST = 2  # runs


@dataclass(frozen=True)
class RowFlips:
    """A metric of the base over several runs, and the share of rows whose value differs between two of them."""

    metric: str
    rows: int
    values: tuple[float, ...]
    share: float


@dataclass(frozen=True)
class VerdictFlips:
    """What a gate says of pairs of equal models: the share of each outcome.

    `wrong` is the share of those that its risk `alpha` limits; None of a claim about one model alone. `at_margin` is
    the share that pass once rows are broken until the loss is the margin, which it limits too.
    """

    gate: str
    alpha: float
    pairs: int
    outcomes: Mapping[str, float]
    wrong: float | None
    at_margin: float | None = None

    @property
    def is_within_alpha(self) -> bool:
        """Return whether it is wrong no more often than alpha, to within three standard errors."""
        return max(self.wrong or 0.0, self.at_margin or 0.0) <= self.alpha + 3 * math.sqrt(
            self.alpha * (1 - self.alpha) / self.pairs
        )


@dataclass(frozen=True)
class EqualRuns:
    """How far runs of one model differ: by row, and by gate; `skipped` says what was not run, and why."""

    runs: int
    rows: tuple[RowFlips, ...]
    gates: tuple[VerdictFlips, ...]
    skipped: tuple[str, ...]

    @property
    def exit_code(self) -> ExitCode:
        """Return 1 where a gate is wrong on equal models more often than its risk."""
        return ExitCode.OK if all(gate.is_within_alpha for gate in self.gates) else ExitCode.FAILED


def compare_equal_runs(path: Path, options: Options, runs: int) -> EqualRuns:
    """Evaluate the base of a suite several times, and put its gates to pairs of these runs.

    Raises UsageError on mistakes in the suite, and where no gate is on an evaluation that can be run so.
    """
    if runs < FEWEST:
        raise UsageError(f"--runs is {runs}; it must be {FEWEST} or more")
    session = open_run(path, replace(options, ahead=True, counts=False, export=False)).session
    tasks, skipped = _select_tasks(session)
    if not tasks:
        raise UsageError(f"{session.suite.path}: has no gate on an evaluation that can be repeated", *skipped)
    results = _evaluate(session, tasks, runs)
    rows = [flips for task in tasks for flips in _row_flips(task, results[task.spec.name])]
    gates = [
        _verdict_flips(gate, task, results[gate.eval], gate_alpha(gate, session.suite), session.suite.header.seed)
        for gate in session.suite.gates
        for task in tasks
        if gate.metric and gate.eval == task.spec.name
    ]
    return EqualRuns(runs, tuple(rows), tuple(gates), tuple(skipped))


def _select_tasks(session: Session) -> tuple[list[Task], list[str]]:
    """Return the evaluations with gates that a model can answer alone, and why others are left out."""
    found, skipped = list[Task](), list[str]()
    gated = {gate.eval for gate in session.suite.gates if gate.metric}
    for name, task in session.collection.tasks.items():
        why = "no gate is on it" if name not in gated else ""
        why = "it compares or grades answers, or measures time" if task.needs_others else why
        skipped += [f'"{name}" was not run: {why}'] if why else []
        found += [] if why else [task]
    return found, skipped


def _evaluate(session: Session, tasks: Sequence[Task], runs: int) -> dict[str, list[Result]]:
    """Return the results of each run, by evaluation. Raises UsageError where a row has no score."""
    found: dict[str, list[Result]] = {task.spec.name: [] for task in tasks}
    with session.load([session.base]) as (_, [subject]):
        for number in range(runs):
            for task in tasks:
                item = Item(session.suite.name, "base", task.spec.name)
                samples = list(task.samples or ())
                if number:  # the first is the run that a suite would have
                    random.Random(number).shuffle(samples)  # noqa: S311 -- not for secrets
                varied = replace(task, samples=tuple(samples), seed=task.seed + number)
                asked = session.with_examples(item, uncached(subject))
                result = evaluate(varied, "base", asked, None, session.progress)
                if result.missing:
                    raise UsageError(f"{task.spec.where}: {len(result.missing)} rows have no score in run {number + 1}")
                found[task.spec.name].append(replace(result, digest=f"run {number + 1}", rows=""))
    return found


def _row_flips(task: Task, results: Sequence[Result]) -> Iterator[RowFlips]:
    """Yield what each metric of rows comes to over the runs."""
    for metric in (m for m in task.metrics.values() if m.is_of_rows and not m.combine):
        runs = [{s.id: s.values.get(metric.name, math.nan) for s in result.scores} for result in results]
        shares = [fmean(one[i] != other[i] for i in one) for one, other in combinations(runs, 2)]
        values = tuple(result.metrics[metric.name] for result in results)
        yield RowFlips(f"{task.spec.name}.{metric.name}", len(runs[0]), values, fmean(shares))


def _verdict_flips(gate: Gate, task: Task, results: Sequence[Result], alpha: float, seed: int) -> VerdictFlips:
    """Judge a gate on pairs of models, whose rows, or clusters of them, are each from another run."""
    metric = task.metrics[gate.metric_name]
    pairs = list(_draw_pairs(task, results, seed))

    def judge(pairs: Iterable[tuple[Result, Result]]) -> dict[str, float]:
        said = Counter(
            decide(gate, metric, ours, theirs if gate.versus else None, task.samples or (), alpha, name="base").outcome
            for ours, theirs in pairs
        )
        return {str(outcome): said[outcome] / PAIRS for outcome in Outcome if said[outcome]}

    outcomes, wrong, at_margin = judge(pairs), None, None
    if gate.versus and not gate.kind.counts:  # equal models are not better, and not worse by more than a margin
        unsound = [name for name, is_wrong in (("PASS", gate.margin >= 0), ("FAIL", gate.margin <= 0)) if is_wrong]
        wrong = max(outcomes.get(name, 0.0) for name in unsound)
        if gate.margin < 0 and not gate.relative and metric.is_share:
            chance = random.Random(seed)  # noqa: S311 -- not for secrets
            broken = ((_break_clusters(task, metric, -gate.margin, ours, chance), theirs) for ours, theirs in pairs)
            at_margin = judge(broken).get("PASS", 0.0)
    return VerdictFlips(gate.id, alpha, PAIRS, outcomes, wrong, at_margin)


def _draw_pairs(task: Task, results: Sequence[Result], seed: int) -> Iterator[tuple[Result, Result]]:
    chance = random.Random(seed)  # noqa: S311 -- not for secrets
    runs = [{score.id: score for score in result.scores} for result in results]
    for _ in range(PAIRS):
        chosen = [(ids, chance.sample(runs, 2)) for ids in _clusters(task)]
        ours, theirs = (tuple(pair[side][i] for ids, pair in chosen for i in ids) for side in (0, 1))
        yield replace(results[0], scores=ours), replace(results[1], scores=theirs)


def _clusters(task: Task) -> list[list[str]]:
    """Return the ids of rows that stand or fall together."""
    found: dict[str, list[str]] = {}
    for sample in task.samples or ():
        found.setdefault(sample.cluster or sample.id, []).append(sample.id)
    return list(found.values())


def _break_clusters(task: Task, metric: Metric, loss: float, result: Result, chance: random.Random) -> Result:
    """Return a result of a model that is worse by so much: clusters get the worst value, as many as that takes."""
    worst = 0.0 if metric.better == "higher" else 1.0
    most = fmean(abs(score.values[metric.name] - worst) for score in result.scores)
    broken = {i for ids in _clusters(task) if chance.random() * most < loss for i in ids}

    def break_score(score: Score) -> Score:
        draws = tuple(replace(draw, values={**draw.values, metric.name: worst}) for draw in score.draws)
        return replace(score, values={**score.values, metric.name: worst}, draws=draws)

    return replace(result, scores=tuple(break_score(s) if s.id in broken else s for s in result.scores))
