"""Test the tests: models that must not ship go through a suite, and equal models must not be blocked."""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness import plugin_errors
from harness.artifacts.digests import weights_digest
from harness.collection.collection import Collection
from harness.errors import ExitCode, UsageError, did_you_mean
from harness.evaluation.checks import check_stage
from harness.gates import contamination
from harness.gates.decide import decide
from harness.gates.prerequisites import find_export_obstacles
from harness.pipeline.checking import check_data, check_suite
from harness.pipeline.lifecycle import detach_listeners, run_to_end, start_run
from harness.pipeline.record import StageStop
from harness.pipeline.run import evaluate_baselines, evaluate_candidate
from harness.pipeline.run_context import RunContext
from harness.pipeline.session import Options, prepare_collection
from harness.records.models import Logprob, ModelRef, Subject
from harness.records.samples import Prompt, Result
from harness.records.verdicts import Outcome, Verdict

DRAWN_SWAPS = 400  # runs of two equal models
Results = dict[tuple[str, str], Result]  # by subject and eval
LEAK_CONTROL = "training rows in the test"
Disguise = Callable[[Subject], Subject]
Made = tuple[ModelRef, Disguise | None]  # a control, and what stands before it
Make = Callable[[ModelRef], Made]  # of the base
BASE_CONTROL = "base itself"
FIX = "claim something that it lacks, for instance to be better than the base"
FOOLED_ADVICE = "It returns empty answers, and the gates of the evaluation pass it."
DISTRUST = "results of this evaluation prove nothing; use another judge, or another metric"


class ControlNotPossibleError(Exception):
    """A saboteur has nothing to say to this base."""


@dataclass(frozen=True)
class Control:
    """A negative control: why it must not ship, how it is made, and the collection whose gates it is put through.

    An adversary has an `answer` that deserves nothing, before the gates of one `eval`: its collection is that alone.
    """

    name: str
    why: str
    collection: Collection
    make: Make
    fix: str = FIX
    eval: str = ""
    answer: Callable[[Prompt], str] | None = None


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
class EqualModelsTrial:
    """The outcomes of a comparing gate on two equal models.

    They are made by swapping the answers of two models, row by row or cluster by cluster.
    """

    gate: str
    blocked: float  # shares of the swaps
    passed: float
    alpha: float
    swaps: int

    @property
    def is_within_alpha(self) -> bool:
        """Return whether the share of blocked equal models is within alpha. Allows three standard errors."""
        return self.blocked <= self.alpha + 3 * math.sqrt(self.alpha * (1 - self.alpha) / self.swaps)


@dataclass(frozen=True)
class SelfTest:
    """The results of negative controls and equal models on a suite."""

    trials: tuple[ControlTrial, ...]
    equals: tuple[EqualModelsTrial, ...]

    @property
    def exit_code(self) -> ExitCode:
        """Return the exit code of the self-test.

        It is 1 if a control ships or equal models are blocked too often, else 6 if a control was not judged.
        """
        judged = [t for t in self.trials if not (t.skipped or t.undecided)]
        if not (all(t.caught for t in judged) and all(e.is_within_alpha for e in self.equals)):
            return ExitCode.FAILED
        return ExitCode.INCONCLUSIVE if any(t.undecided for t in self.trials) else ExitCode.OK


def run_selftest(
    path: Path,
    options: Options | None = None,
    *,
    only: Sequence[str] = (),
    told: Callable[[ControlTrial], None] = lambda _: None,
    said: Callable[[str], None] = lambda _: None,
) -> SelfTest:
    """Run every negative control through a suite as its candidate.

    Nothing is exported or counted as an attempt. `options` are those of a run, `only` names some of the controls.
    `told` is called with each trial as it ends, `said` with its possible cost before. Caps that an evaluator keeps hold
    for all of them together. Raises UsageError on mistakes in the suite, on one without candidates or gates, on an
    unknown control, and if an evaluator cannot reach its judge.
    """
    with tempfile.TemporaryDirectory(prefix="harness-selftest-") as folder:
        options = replace(options or Options(), out=Path(folder) / "reports", export=False, counts=False)
        collection = prepare_collection(path, options)
        if not collection.candidates or not collection.suite.gates:
            raise UsageError(f"{collection.suite.path}: has no candidate or no gate, so there is nothing to test")
        ships_ = [export.from_ for export in collection.suite.exports]
        last = ships_[0] if ships_ else collection.candidates[-1]
        items = tuple(i for i in collection.items if i.subject in (*collection.baselines, last))
        collection = replace(collection, candidates=(last,), items=items)
        known = [*list_controls(collection, Path(folder)), *list_adversaries(collection)]
        names = [*(c.name for c in known), LEAK_CONTROL]
        if odd := [name for name in only if name not in names]:
            raise UsageError(f'there is no saboteur "{odd[0]}"{did_you_mean(odd[0], names)}')
        chosen = [c for c in known if not only or c.name in only]
        controls = sum(c.answer is None for c in chosen)
        for name in dict.fromkeys(i.eval for i in collection.items if i.subject in collection.candidates):
            task, mine = collection.tasks[name], [c.answer for c in chosen if c.answer and c.eval == name]
            if task.capabilities.estimate and (controls or mine):
                estimate = task.capabilities.estimate
                cost = estimate(dict(task.spec.options), task.samples or (), controls, mine)
                cost = plugin_errors.checked_return(estimate, cost, str, "a line of text")
                said(f"{task.spec.where}: {cost}")
        trials, pairs, kept = list[ControlTrial](), Results(), dict[str, dict[str, Any]]()
        for control in chosen:
            trial, results = _run_control_through_gates(control, options, kept)
            told(trial)
            trials.append(trial)
            pairs = pairs or (results if not control.eval and control.name != BASE_CONTROL else {})
        planted = _plant_training_rows(collection)
        if planted != collection and (not only or LEAK_CONTROL in only):
            # The checks, not the gates, see rows that were trained on: no number can tell them.
            begun, gates = time.monotonic(), planted.suite.gates
            found = check_suite(planted, options)[0]
            flags = tuple(f"{f.name}: {f.what}" for f in found if f.stops_run or contamination.is_left_out(f, gates))
            why = "The rows of every eval contain training rows."
            trials.append(ControlTrial(LEAK_CONTROL, why, flags, time.monotonic() - begun))
            told(trials[-1])
        return SelfTest(tuple(trials), tuple(_iterate_equal_model_trials(collection, pairs)))


def _plant_training_rows(collection: Collection) -> Collection:
    """Replace the last tenth of each eval's rows by training rows.

    Only prompting rows are replaced, by training rows with a text prompt.
    """
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


def _run_control_through_gates(
    control: Control, options: Options, kept: dict[str, dict[str, Any]]
) -> tuple[ControlTrial, Results]:
    """Run a control through the gates of its collection.

    Also returns the results, if every evaluation has one. Raises UsageError if the rehearsal fails.
    """
    blank = ControlTrial(control.name, control.why, fix=control.fix)
    execution = start_run(control.collection, options)
    execution = replace(execution, session=replace(execution.session, kept=kept))
    try:
        ref, disguise = control.make(execution.session.base)
    except ControlNotPossibleError as error:
        detach_listeners(execution)
        return replace(blank, skipped=str(error)), {}
    run, adjudicator = run_to_end(execution, partial(_run_control_stages, ref, disguise)), execution.adjudicator
    collection, candidate = control.collection, control.collection.candidates[0]
    reached = any(r.subject == candidate and r.outcome != "skipped" for r in run.results)
    failed = [r.error for r in run.results if r.error and r.outcome == "error"]
    if run.exit_code is ExitCode.USAGE and failed and not reached:
        raise UsageError(failed[0])  # by the rehearsal: it has nothing to do with the control
    caught = (
        *([run.problem] if run.problem else []),
        *find_export_obstacles(adjudicator.verdicts, collection.suite.gates, candidate),
    )
    undecided = "" if run.problem else _describe_undecided(adjudicator.verdicts, collection, candidate)
    results = adjudicator.results if all(r.outcome == "done" for r in run.results) else {}
    return replace(blank, caught=caught, seconds=run.seconds, undecided=undecided), results


def _run_control_stages(ref: ModelRef, disguise: Disguise | None, run: RunContext) -> StageStop | None:
    """Run the deciding stages on a control in the candidate's place.

    Checks of results are left out: the answers of a control are meant to be odd.
    """
    if any(g.clean_only for g in run.suite.gates):
        check_data(run)
    checks = copy(run.session.checks)  # of which none looks at answers: those of a control are meant to be odd
    checks.provided = [p for p in checks.provided if check_stage(p) != "results"]
    run = replace(run, session=replace(run.session, checks=checks))
    if stop := evaluate_baselines(run):
        return stop
    return evaluate_candidate(run, ref, disguise) if ref.name in run.session.wanted_candidates else None


def _describe_undecided(verdicts: Sequence[Verdict], collection: Collection, candidate: str) -> str:
    """Describe an evaluation that ended before its gates saw rows.

    Empty unless this alone kept the candidate back.
    """
    said = [v for v in verdicts if v.candidate == candidate]
    ended = [v for v in said if v.outcome is Outcome.INCONCLUSIVE and v.value is None and v.metric]
    back, open_ = [v for v in said if v.blocks_release], {v.gate for v in ended}
    gates = collection.gates(candidate)
    for gate in gates * len(gates):  # so often that a chain of them is followed to its end
        if open_.intersection(gate.requires):
            open_.add(gate.id)
    return ended[0].why if ended and back and all(v.gate in open_ for v in back) else ""


def _iterate_equal_model_trials(collection: Collection, results: Results) -> Iterator[EqualModelsTrial]:
    """Yield each comparing gate's outcomes on randomly swapped answers.

    The baseline and a control swap them. Gates with a margin above 0 are left out: equal models do not keep them.
    """
    candidate, about = collection.candidates[0], collection.suite.header
    for gate in collection.gates(candidate):
        ours, theirs = results.get((candidate, gate.eval)), results.get((gate.versus or "", gate.eval))
        if not gate.versus or gate.margin > 0 or ours is None or theirs is None or ours.order:
            continue
        task, alpha = collection.tasks[gate.eval], gate.alpha or about.alpha
        chance, metric = random.Random(about.seed), task.metrics.get(gate.metric_name)  # noqa: S311 -- no secrets
        clusters = {s.id: s.cluster or s.id for s in task.samples or ()}
        said, there = list[Outcome](), {s.id: s for s in theirs.scores}
        for _ in range(
            DRAWN_SWAPS
        ):  # each row's answers, or each cluster's, go to one of two models by the toss of a coin
            heads = {cluster: chance.random() < 0.5 for cluster in dict.fromkeys(clusters.values())}
            pairs = [(s, there[s.id]) if heads[clusters[s.id]] else (there[s.id], s) for s in ours.scores]
            one = replace(ours, scores=tuple(a for a, _ in pairs))
            other = replace(theirs, scores=tuple(b for _, b in pairs))
            # Of rows that leak too: this is about the test, and two equal models leak alike.
            said.append(decide(gate, metric, one, other, task.samples or (), alpha, name=candidate).outcome)
        yield EqualModelsTrial(
            gate.id, said.count(Outcome.FAIL) / DRAWN_SWAPS, said.count(Outcome.PASS) / DRAWN_SWAPS, alpha, DRAWN_SWAPS
        )


# -- what stands in a candidate's place and must not ship ------------------------------------------


def list_controls(collection: Collection, folder: Path) -> list[Control]:
    """List the negative controls that are made from the base.

    They are the base itself, the models of saboteurs, and the base with spoilt answers.
    """
    name, itself = collection.candidates[0], "The base, presented as the candidate."
    found: dict[str, tuple[str, Make]] = {BASE_CONTROL: (itself, lambda base: (replace(base, name=name), None))}
    saboteurs = {p.name: p.function for (kind, _), p in collection.plugins.provided.items() if kind == "saboteur"}
    for label, saboteur in saboteurs.items():
        out = folder / label.replace(" ", "-")
        found[label] = (_get_docstring_first_line(saboteur), partial(_make_sabotaged, collection, label, saboteur, out))
    for label, disguise in {"shuffled answers": ShuffledSubject, "constant answer": ConstantSubject}.items():
        found[label] = (_get_docstring_first_line(disguise), partial(_make_disguised, name, disguise, "disguised"))
    return [Control(label, why, collection, make) for label, (why, make) in found.items()]


def list_adversaries(collection: Collection) -> Iterator[Control]:
    """Yield a control for each worthless answer that an evaluator names.

    Only evaluations that gate a candidate are used.
    """
    for name, task in collection.tasks.items():
        if not (answers := task.capabilities.adversaries):
            continue
        # This evaluation, with the gates that stand on it alone: they require no others.
        kept = {g.id for g in collection.suite.gates if g.metric and g.eval == name}
        gates = tuple(
            replace(g, requires=[r for r in g.requires if r in kept]) for g in collection.suite.gates if g.id in kept
        )
        evals = tuple(e if e.name == name else replace(e, stop="end") for e in collection.suite.evals)
        items = tuple(i for i in collection.items if i.eval == name)
        alone = replace(collection, suite=replace(collection.suite, evals=evals, gates=gates), items=items)
        if any(g.blocking for g in alone.gates(collection.candidates[0])):
            found = plugin_errors.checked_return(
                answers, answers(dict(task.spec.options)), Mapping, "a dict of name -> function"
            )
            for label, answer in found.items():
                title, worthless = f"{name}: {label}", partial(WorthlessSubject, answer=answer)
                make = partial(_make_disguised, collection.candidates[0], worthless, f"{title}, not")
                yield Control(title, FOOLED_ADVICE, alone, make, DISTRUST, name, answer)


def _make_sabotaged(
    collection: Collection, label: str, saboteur: Callable[..., Any], out: Path, base: ModelRef
) -> Made:
    out.mkdir()
    before = weights_digest(Path(base.path))
    try:
        saboteur(Path(base.path), out, seed=collection.suite.header.seed)
    except UsageError as error:
        raise ControlNotPossibleError(str(error)) from None
    if weights_digest(Path(base.path)) != before:
        raise UsageError(f'saboteur "{label}" changed the base, with which all others are compared')
    name = collection.candidates[0]
    if (out / "adapter_config.json").is_file():
        return replace(base, name=name, adapter=out, digest=f"{base.digest} {weights_digest(out)}"), None
    return replace(base, name=name, path=str(out), digest=weights_digest(out)), None


def _make_disguised(name: str, disguise: Disguise, told: str, base: ModelRef) -> tuple[ModelRef, Disguise]:
    """Return the base under another name and digest, with its disguise. The disguise makes it another model."""
    return replace(base, name=name, digest=f"{told} {base.digest}"), disguise


def _get_docstring_first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


class _Disguised:
    """A subject with spoilt answers. Everything else is the model's own, except streaming."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def __getattr__(self, name: str) -> Any:
        if name.startswith("stream_"):
            raise AttributeError(name)
        return getattr(self.subject, name)


class ShuffledSubject(_Disguised):
    """Every row gets the answer to another row."""

    last: Prompt = "?"

    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
        """Answer each prompt with the completion of the one before it."""
        others = [self.last, *prompts][: len(prompts)]
        self.last = prompts[-1] if prompts else self.last
        return self.subject.generate(others, **options)

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> list[Logprob]:
        """Score each continuation after the previous row's prompt."""
        others: dict[str, Prompt] = {}
        for prompt, _ in pairs:
            if prompt and repr(prompt) not in others:
                others[repr(prompt)] = self.last
                self.last = prompt
        return self.subject.logprobs([(others.get(repr(p), p), c) for p, c in pairs], **options)


class WorthlessSubject(_Disguised):
    """Every row gets an answer that deserves nothing."""

    def __init__(self, subject: Subject, answer: Callable[[Prompt], str]) -> None:
        super().__init__(subject)
        self.answer = answer

    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
        """Answer without the model."""
        return [self.answer(p) for p in prompts]


class ConstantSubject(_Disguised):
    """Every row gets the answer to the first."""

    first: Prompt | None = None

    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
        """Answer every prompt with the completion of the first ever received."""
        if not prompts:
            return []
        self.first = self.first or prompts[0]
        if sampling := options.pop("sampling", None):
            options["sampling"] = replace(sampling, seeds=sampling.seeds[:1])
        return self.subject.generate([self.first], **options) * len(prompts)

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> list[Logprob]:
        """Score each continuation after the first prompt that there ever was."""
        self.first = self.first or next((p for p, _ in pairs if p), None)
        return self.subject.logprobs([(self.first or p if p else p, c) for p, c in pairs], **options)
