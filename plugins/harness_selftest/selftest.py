"""Test the tests: models that must not ship go through a suite, and equal models must not be blocked."""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.claims import contamination
from harness.claims.decide import decide
from harness.claims.gate import ships
from harness.collection.collected import Collection
from harness.errors import ExitCode, UsageError, did_you_mean
from harness.evaluation.checks import stage_of
from harness.pipeline.checking import check_suite, look_at_data
from harness.pipeline.conduct import begin, conduct, leave
from harness.pipeline.execution import Execution
from harness.pipeline.record import Stop
from harness.pipeline.run import evaluate_baselines, evaluate_candidate
from harness.pipeline.session import Options, prepare
from harness.records.models import ModelRef
from harness.records.samples import Result, Sample
from harness.records.verdicts import Outcome, Verdict
from harness_selftest.controls import FIX, ITSELF, Control, Disguise, NotMade, adversaries_of, controls_of

SWAPS = 400  # runs of two equal models
Results = dict[tuple[str, str], Result]  # by subject and eval
PLANTED = "train rows in the test"


@dataclass(frozen=True)
class ControlTrial:
    """One negative control through the suite: why it must not ship, and what kept it from shipping, if anything did.

    `skipped` says why it could not be made of this base, `undecided` what ended its evaluation before it was judged:
    that no gate let it through proves nothing then. `fix` is what to do about one that ships.
    """

    name: str
    why: str
    caught: tuple[str, ...] = ()
    seconds: float = 0.0
    skipped: str = ""
    undecided: str = ""
    fix: str = FIX


@dataclass(frozen=True)
class Equals:
    """One comparing gate on two equal models, made by swapping the answers of a pair of models row by row."""

    gate: str
    blocked: float  # shares of the swaps
    passed: float
    alpha: float
    swaps: int

    @property
    def clean(self) -> bool:
        """Return whether equal models are blocked no more often than alpha, to within three standard errors."""
        return self.blocked <= self.alpha + 3 * math.sqrt(self.alpha * (1 - self.alpha) / self.swaps)


@dataclass(frozen=True)
class SelfTest:
    """What the negative controls and the equal models said about a suite."""

    trials: tuple[ControlTrial, ...]
    equals: tuple[Equals, ...]

    @property
    def exit_code(self) -> ExitCode:
        """Return 1 where something ships that must not, or equal models are blocked; 6 where one was not judged."""
        judged = [t for t in self.trials if not (t.skipped or t.undecided)]
        if not (all(t.caught for t in judged) and all(e.clean for e in self.equals)):
            return ExitCode.FAILED
        return ExitCode.INCONCLUSIVE if any(t.undecided for t in self.trials) else ExitCode.OK


def selftest(
    path: Path,
    options: Options | None = None,
    *,
    only: Sequence[str] = (),
    told: Callable[[ControlTrial], None] = lambda _: None,
    said: Callable[[str], None] = lambda _: None,
) -> SelfTest:
    """Put every negative control through a suite in the candidate's place; nothing is exported or counted.

    `options` are those of a run, `only` names some of the controls. `told` hears of each trial as it ends, `said` of
    what it all may cost before. Caps that an evaluator keeps hold for the whole of it. Raises UsageError on mistakes in
    the suite, on one without candidates or gates, and where an evaluator has nobody to ask.
    """
    with tempfile.TemporaryDirectory(prefix="harness-selftest-") as folder:
        options = replace(options or Options(), out=Path(folder) / "reports", export=False, counts=False)
        collection = prepare(path, options)
        if not collection.candidates or not collection.suite.gates:
            raise UsageError(f"{collection.suite.path}: has no candidate or no gate, so there is nothing to test")
        ships_ = [export.from_ for export in collection.suite.exports]
        last = ships_[0] if ships_ else collection.candidates[-1]
        items = tuple(i for i in collection.items if i.subject in (*collection.baselines, last))
        collection = replace(collection, candidates=(last,), items=items)
        known = [*controls_of(collection, Path(folder)), *adversaries_of(collection)]
        names = [*(c.name for c in known), PLANTED]
        if odd := [name for name in only if name not in names]:
            raise UsageError(f'no saboteur "{odd[0]}"{did_you_mean(odd[0], names)}')
        chosen = [c for c in known if not only or c.name in only]
        controls = sum(c.answer is None for c in chosen)
        for name in dict.fromkeys(i.eval for i in collection.items if i.subject in collection.candidates):
            task, mine = collection.tasks[name], [c.answer for c in chosen if c.answer and c.eval == name]
            if task.about.estimate and (controls or mine):
                cost = task.about.estimate(dict(task.spec.options), task.samples or (), controls, mine)
                said(f"{task.spec.where}: {cost}")
        trials, pairs, kept = list[ControlTrial](), Results(), dict[str, dict[str, Any]]()
        for control in chosen:
            trial, results = _trial(control, options, kept)
            told(trial)
            trials.append(trial)
            pairs = pairs or (results if not control.eval and control.name != ITSELF else {})
        planted = _planted(collection)
        if planted != collection and (not only or PLANTED in only):
            # The checks, not the gates, see rows that were trained on: no number can tell them.
            begun, gates = time.monotonic(), planted.suite.gates
            found = check_suite(planted, options)[0]
            flags = tuple(f"{f.name}: {f.what}" for f in found if f.counts or contamination.left_out(f, gates))
            why = "Training rows stand among the rows of every eval."
            trials.append(ControlTrial(PLANTED, why, flags, time.monotonic() - begun))
            told(trials[-1])
        return SelfTest(tuple(trials), tuple(_equals(collection, pairs)))


def _planted(collection: Collection) -> Collection:
    """Put training rows with a text prompt in the place of the last tenth of the rows of every eval that prompts."""
    known = [row for row in collection.training or () if isinstance(row.get("prompt"), str)]
    tasks = dict(collection.tasks)
    for name, task in collection.tasks.items():
        samples = list(task.samples or ())
        prompting = [i for i, s in enumerate(samples) if isinstance(s.input, str) and s.input and s.target]
        for i, row in zip(prompting[-(len(prompting) // 10 + 1) :], known, strict=False):
            samples[i] = replace(samples[i], input=row["prompt"], target=str(row["completion"]).strip())
        if task.samples:
            tasks[name] = replace(task, samples=tuple(samples))
    return replace(collection, tasks=tasks)


def _trial(control: Control, options: Options, kept: dict[str, dict[str, Any]]) -> tuple[ControlTrial, Results]:
    """Put a control through the gates of its collection; return the results too where every evaluation has one."""
    blank = ControlTrial(control.name, control.why, fix=control.fix)
    execution = begin(control.collection, options)
    execution = replace(execution, session=replace(execution.session, kept=kept))
    try:
        ref, disguise = control.make(execution.session.base)
    except NotMade as error:
        leave(execution)
        return replace(blank, skipped=str(error)), {}
    run, adjudicator = conduct(execution, partial(_stages, ref, disguise)), execution.adjudicator
    collection, candidate = control.collection, control.collection.candidates[0]
    reached = any(r.subject == candidate and r.outcome != "skipped" for r in run.reports)
    failed = [r.error for r in run.reports if r.error and r.outcome == "error"]
    if run.exit_code is ExitCode.USAGE and failed and not reached:
        raise UsageError(failed[0])  # by the rehearsal: it has nothing to do with the control
    caught = (*([run.problem] if run.problem else []), *ships(adjudicator.verdicts, collection.suite.gates, candidate))
    undecided = "" if run.problem else _undecided(adjudicator.verdicts, collection, candidate)
    results = adjudicator.results if all(r.outcome == "done" for r in run.reports) else {}
    return replace(blank, caught=caught, seconds=run.seconds, undecided=undecided), results


def _stages(ref: ModelRef, disguise: Disguise | None, run: Execution) -> Stop | None:
    """Run the stages of a run that decide, on a control in the candidate's place; only its gates are tested."""
    if any(g.clean_only for g in run.suite.gates):
        look_at_data(run)
    checks = copy(run.session.checks)  # of which none looks at answers: those of a control are meant to be odd
    checks.provided = [p for p in checks.provided if stage_of(p) != "results"]
    run = replace(run, session=replace(run.session, checks=checks))
    if stop := evaluate_baselines(run):
        return stop
    return evaluate_candidate(run, ref, disguise) if ref.name in run.session.wanted else None


def _undecided(verdicts: Sequence[Verdict], collection: Collection, candidate: str) -> str:
    """Return what ended an evaluation before its gates saw any row, where nothing else kept a candidate back."""
    said = [v for v in verdicts if v.candidate == candidate]
    ended = [v for v in said if v.outcome is Outcome.INCONCLUSIVE and v.value is None and v.metric]
    back, open_ = [v for v in said if v.holds_up], {v.gate for v in ended}
    gates = collection.gates(candidate)
    for gate in gates * len(gates):  # so often that a chain of them is followed to its end
        if open_.intersection((*gate.requires, *gate.any_of)):
            open_.add(gate.id)
    return ended[0].why if ended and back and all(v.gate in open_ for v in back) else ""


def _equals(collection: Collection, results: Results) -> Iterator[Equals]:
    """Decide each gate that equal models keep on a baseline and a control whose rows were swapped at random."""
    candidate, about = collection.candidates[0], collection.suite.about
    for gate in collection.gates(candidate):
        ours, theirs = results.get((candidate, gate.eval)), results.get((gate.versus or "", gate.eval))
        if not gate.versus or gate.margin > 0 or ours is None or theirs is None or ours.order:
            continue
        task, alpha = collection.tasks[gate.eval], gate.alpha or about.alpha
        chance, metric = random.Random(about.seed), task.metrics.get(gate.metric_name)  # noqa: S311 -- no secrets
        said: list[Outcome] = []
        for _ in range(SWAPS):
            pair = _swapped(ours, theirs, task.samples or (), chance)
            # Of rows that leak too: this is about the test, and two equal models leak alike.
            said.append(decide(gate, metric, *pair, task.samples or (), alpha, name=candidate).outcome)
        yield Equals(gate.id, said.count(Outcome.FAIL) / SWAPS, said.count(Outcome.PASS) / SWAPS, alpha, SWAPS)


def _swapped(ours: Result, theirs: Result, samples: Sequence[Sample], chance: random.Random) -> tuple[Result, Result]:
    """Give each row's answers, or each cluster's, to one of two models by the toss of a coin."""
    clusters = {s.id: s.cluster or s.id for s in samples}
    heads = {cluster: chance.random() < 0.5 for cluster in dict.fromkeys(clusters.values())}
    there = {s.id: s for s in theirs.scores}
    pairs = [(s, there[s.id]) if heads[clusters[s.id]] else (there[s.id], s) for s in ours.scores]
    return replace(ours, scores=tuple(a for a, _ in pairs)), replace(theirs, scores=tuple(b for _, b in pairs))
