"""Test the tests: models that must not ship go through a suite, and equal models must not be blocked."""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness import capabilities
from harness.artifacts.digests import weights_digest
from harness.collection.collect import Plan
from harness.errors import ExitCode, UsageError, did_you_mean
from harness.gates import contamination
from harness.gates.decide import judge
from harness.pipeline.run import Options, Runner, check_plan, prepare
from harness.records.gates import Gate, Outcome, Verdict, ships
from harness.records.models import Logprob, ModelRef, Subject
from harness.records.run import Run
from harness.records.samples import Prompt, Result, Sample

SWAPS = 400  # runs of two equal models
Disguise = Callable[[Subject], Subject]
ITSELF = "base itself"
PLANTED = "train rows in the test"


@dataclass(frozen=True)
class Trial:
    """One impostor through the suite: why it must not ship, and what kept it from shipping, if anything did.

    `skipped` says why it could not be made of this base, `undecided` what ended its evaluation before it was judged:
    that no gate let it through proves nothing then. `fix` is what to do about one that ships.
    """

    name: str
    why: str
    caught: tuple[str, ...] = ()
    seconds: float = 0.0
    skipped: str = ""
    undecided: str = ""
    fix: str = "claim what it lacks, for instance to be better than the base"


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
        """Say whether equal models are blocked no more often than alpha, to within three standard errors."""
        return self.blocked <= self.alpha + 3 * math.sqrt(self.alpha * (1 - self.alpha) / self.swaps)


@dataclass(frozen=True)
class SelfTest:
    """What the impostors and the equal models said about a suite."""

    trials: tuple[Trial, ...]
    equals: tuple[Equals, ...]

    @property
    def clean(self) -> bool:
        return self.exit_code is ExitCode.OK

    @property
    def exit_code(self) -> ExitCode:
        """Say 1 where something ships that must not, or equal models are blocked; 6 where one was not judged."""
        judged = [t for t in self.trials if not (t.skipped or t.undecided)]
        if not (all(t.caught for t in judged) and all(e.clean for e in self.equals)):
            return ExitCode.FAILED
        return ExitCode.INCONCLUSIVE if any(t.undecided for t in self.trials) else ExitCode.OK


def selftest(
    path: Path,
    *,
    only: Sequence[str] = (),
    limit: int | None = None,
    plugins: Sequence[str] = (),
    overrides: Sequence[str] = (),
    told: Callable[[Trial], None] = lambda _: None,
    said: Callable[[str], None] = lambda _: None,
) -> SelfTest:
    """Put every impostor through a suite in the place of the candidate that ships; nothing is exported or counted.

    `only` names some of them, `limit` takes the first rows of every eval, `told` hears of each trial as it ends, `said`
    of what it all may cost before it begins. Caps that an evaluator keeps hold for the whole of it. Raises UsageError
    on mistakes in the suite, on a suite without candidates or gates, and where an evaluator has nobody to ask.
    """
    with tempfile.TemporaryDirectory(prefix="harness-selftest-") as folder:
        options = Options(
            out=Path(folder) / "reports",
            limit=limit,
            export=False,
            plugins=tuple(plugins),
            overrides=tuple(overrides),
            counts=False,
        )
        plan = _one_candidate(prepare(path, options))
        impostors, adversaries = _impostors(plan, Path(folder)), _adversaries(plan)
        known = [*impostors, *(a.name for a in adversaries), PLANTED]
        if odd := [name for name in only if name not in known]:
            raise UsageError(f'no saboteur "{odd[0]}"{did_you_mean(odd[0], known)}')
        adversaries = [a for a in adversaries if not only or a.name in only]
        impostors = {name: made for name, made in impostors.items() if not only or name in only}
        for line in _costs(plan, len(impostors), adversaries):
            said(line)
        trials, pairs = [], None
        kept: dict[str, dict[str, Any]] = {}
        for name, (why, make) in impostors.items():
            runner = Runner(plan, options, kept)
            trial = _trial(name, why, runner, plan, make)
            told(trial)
            trials.append(trial)
            if pairs is None and all(r.outcome == "done" for r in runner.run.reports) and name != ITSELF:
                pairs = dict(runner.results)
        for one in adversaries:
            trial = _trial(one.name, one.why, Runner(one.plan, options, kept), one.plan, one.make)
            trials.append(replace(trial, fix=one.fix))
            told(trials[-1])
        planted = _planted(plan)
        if planted != plan and (not only or PLANTED in only):
            trials.append(_check(planted, options))
            told(trials[-1])
        return SelfTest(tuple(trials), tuple(_equals(plan, pairs)) if pairs else ())


def _one_candidate(plan: Plan) -> Plan:
    """Leave of the candidates the one that ships, whose place the impostors take."""
    if not plan.candidates or not plan.suite.gates:
        raise UsageError(f"{plan.suite.path}: has no candidate or no gate, so there is nothing to test")
    last = plan.suite.exports[0].from_ if plan.suite.exports else plan.candidates[-1]
    items = tuple(i for i in plan.items if i.subject in (*plan.baselines, last))
    return replace(plan, candidates=(last,), items=items)


Make = Callable[[ModelRef], tuple[ModelRef, Disguise | None]]  # the base -> the impostor, and what stands before it


def _impostors(plan: Plan, folder: Path) -> dict[str, tuple[str, Make]]:
    """Return every impostor by name: why it must not ship, and how it is made."""
    name = plan.candidates[0]

    def itself(base: ModelRef) -> tuple[ModelRef, Disguise | None]:
        return replace(base, name=name), None

    found: dict[str, tuple[str, Make]] = {ITSELF: ("The base passed off as the candidate.", itself)}
    saboteurs = {p.name: p.function for (kind, _), p in plan.plugins.provided.items() if kind == "saboteur"}
    for label, saboteur in saboteurs.items():
        found[label] = (_first_line(saboteur), _maker(plan, label, saboteur, folder / label.replace(" ", "-")))
    for label, disguise in {"shuffled answers": Shuffled, "constant answer": Constant}.items():
        found[label] = (_first_line(disguise), partial(_disguised, name, disguise))
    return found


@dataclass(frozen=True)
class _Adversary:
    """An answer that deserves nothing, before the gates of one evaluation; `plan` holds nothing else."""

    name: str
    eval: str
    answer: Callable[[Prompt], str]
    plan: Plan

    why = "It answers nothing, and the gates of the evaluation let it through."
    fix = "what this evaluation says of answers proves nothing; take another judge, or ask for more than it gave"

    def make(self, base: ModelRef) -> tuple[ModelRef, Disguise]:
        """Return the base under another name and digest, behind the answer."""
        candidate = replace(base, name=self.plan.candidates[0], digest=f"{self.name}, not {base.digest}")
        return candidate, partial(Worthless, answer=self.answer)


def _adversaries(plan: Plan) -> list[_Adversary]:
    """Return the worthless answers that an evaluator names, for every evaluation that gates a candidate."""
    found = []
    for name, task in plan.tasks.items():
        answers = capabilities.Evaluator.of(task.function).adversaries
        alone = _alone(plan, name)
        if answers and any(g.blocking for g in alone.gates(plan.candidates[0])):
            made = answers(dict(task.spec.options)).items()
            found += [_Adversary(f"{name}: {label}", name, answer, alone) for label, answer in made]
    return found


def _alone(plan: Plan, evaluation: str) -> Plan:
    """Leave of a plan one evaluation and the gates that stand on it alone; they require no others."""
    kept = {g.id for g in plan.suite.gates if g.metric and g.eval == evaluation}
    kept |= {g.id for g in plan.suite.gates if g.any_of and kept.issuperset(g.any_of)}
    gates = tuple(
        replace(g, requires=[r for r in g.requires if r in kept], group=g.group if g.group in kept else "")
        for g in plan.suite.gates
        if g.id in kept
    )
    evals = tuple(e if e.name == evaluation else replace(e, stop="end") for e in plan.suite.evals)  # they have no gate
    items = tuple(i for i in plan.items if i.eval == evaluation)
    return replace(plan, suite=replace(plan.suite, evals=evals, gates=gates), items=items)


def _costs(plan: Plan, impostors: int, adversaries: Sequence[_Adversary]) -> Iterator[str]:
    """Say what evaluators that ask others may have to ask, as far as they say it."""
    for name in dict.fromkeys(i.eval for i in plan.items if i.subject in plan.candidates):
        task, mine = plan.tasks[name], [a.answer for a in adversaries if a.eval == name]
        estimate = capabilities.Evaluator.of(task.function).estimate
        if estimate and (impostors or mine):
            told = estimate(dict(task.spec.options), task.samples or (), impostors, mine)
            yield f"{task.spec.where}: {told}"


def _planted(plan: Plan) -> Plan:
    """Put training rows with a text prompt in the place of the last tenth of the rows of every eval that prompts."""
    known = [row for row in plan.training or () if isinstance(row.get("prompt"), str)]
    tasks = dict(plan.tasks)
    for name, task in plan.tasks.items():
        samples = list(task.samples or ())
        prompting = [i for i, s in enumerate(samples) if isinstance(s.input, str) and s.input and s.target]
        for i, row in zip(prompting[-(len(prompting) // 10 + 1) :], known, strict=False):
            samples[i] = replace(samples[i], input=row["prompt"], target=str(row["completion"]).strip())
        if task.samples:
            tasks[name] = replace(task, samples=tuple(samples))
    return replace(plan, tasks=tasks)


class _NotMade(Exception):
    """A saboteur has nothing to say to this base."""


def _maker(plan: Plan, label: str, saboteur: Callable[..., Any], out: Path) -> Make:
    def make(base: ModelRef) -> tuple[ModelRef, Disguise | None]:
        out.mkdir()
        before = weights_digest(Path(base.path))
        try:
            saboteur(Path(base.path), out, seed=plan.suite.about.seed)
        except UsageError as error:
            raise _NotMade(str(error)) from None
        if weights_digest(Path(base.path)) != before:
            raise UsageError(f'saboteur "{label}" changed the base, which all others are compared with')
        name = plan.candidates[0]
        if (out / "adapter_config.json").is_file():
            return replace(base, name=name, adapter=out, digest=f"{base.digest} {weights_digest(out)}"), None
        return replace(base, name=name, path=str(out), digest=weights_digest(out)), None

    return make


def _disguised(name: str, disguise: Disguise, base: ModelRef) -> tuple[ModelRef, Disguise]:
    """Return the base under a name and a digest of its own: what stands before it makes it another model."""
    return replace(base, name=name, digest=f"disguised {base.digest}"), disguise


def _trial(name: str, why: str, runner: Runner, plan: Plan, make: Make) -> Trial:
    try:
        run: Run = runner.go(make)
    except _NotMade as error:
        return Trial(name, why, skipped=str(error))
    candidate = plan.candidates[0]
    reached = any(r.subject == candidate and r.outcome != "skipped" for r in run.reports)
    failed = [r.error for r in run.reports if r.error and r.outcome == "error"]
    if run.exit_code is ExitCode.USAGE and failed and not reached:
        raise UsageError(failed[0])  # by the rehearsal: it has nothing to do with the impostor
    caught = list(ships(run.verdicts, plan.suite.gates, candidate))
    undecided = "" if run.problem else _undecided(run.verdicts, plan, candidate)
    return Trial(name, why, (*([run.problem] if run.problem else []), *caught), run.seconds, undecided=undecided)


def _undecided(verdicts: Sequence[Verdict], plan: Plan, candidate: str) -> str:
    """Say what ended an evaluation before its gates were put to any row, where nothing else kept a candidate back."""
    said = [v for v in verdicts if v.candidate == candidate]
    ended = [v for v in said if v.outcome is Outcome.INCONCLUSIVE and v.value is None and v.metric]
    back, open_ = [v for v in said if v.holds_up], {v.gate for v in ended}
    for gate in plan.gates(candidate) * len(plan.suite.gates):  # so often that a chain of them is followed to its end
        if open_.intersection((*gate.requires, *gate.any_of)):
            open_.add(gate.id)
    return ended[0].why if ended and back and all(v.gate in open_ for v in back) else ""


def _check(planted: Plan, options: Options) -> Trial:
    """Run the checks, not the gates, on rows that were trained on: no number can tell them."""
    begun = time.monotonic()
    found, gates = check_plan(planted, options)[0], planted.suite.gates
    flags = [f"{f.code}: {f.what}" for f in found if f.counts or contamination.left_out(f, gates)]
    why = "Training rows stand among the rows of every eval."
    return Trial(PLANTED, why, tuple(flags), time.monotonic() - begun)


def _equals(plan: Plan, results: dict[tuple[str, str], Result]) -> Iterator[Equals]:
    """Judge each gate that equal models keep on a baseline and an impostor whose rows were swapped at random."""
    candidate, about = plan.candidates[0], plan.suite.about
    for gate in plan.gates(candidate):
        ours, theirs = results.get((candidate, gate.eval)), results.get((gate.versus or "", gate.eval))
        if not gate.versus or gate.margin > 0 or ours is None or theirs is None or ours.order:
            continue
        task = plan.tasks[gate.eval]
        chance = random.Random(about.seed)  # noqa: S311 -- not for secrets
        said: list[Verdict] = []
        for _ in range(SWAPS):
            pair = _swapped(ours, theirs, task.samples or (), chance)
            alpha = gate.alpha or about.alpha
            metric = task.metrics.get(gate.metric_name)
            # Of rows that leak too: this is about the test, and two equal models leak alike.
            said.append(judge(gate, metric, *pair, task.samples or (), alpha, name=candidate))
        yield _counted(gate, said, gate.alpha or about.alpha)


def _counted(gate: Gate, said: Sequence[Verdict], alpha: float) -> Equals:
    blocked, passed = (sum(v.outcome is o for v in said) / len(said) for o in (Outcome.FAIL, Outcome.PASS))
    return Equals(gate.id, blocked, passed, alpha, len(said))


def _swapped(ours: Result, theirs: Result, samples: Sequence[Sample], chance: random.Random) -> tuple[Result, Result]:
    """Give each row's answers, or each cluster's, to one of two models by the toss of a coin."""
    clusters = {s.id: s.cluster or s.id for s in samples}
    heads = {cluster: chance.random() < 0.5 for cluster in dict.fromkeys(clusters.values())}
    there = {s.id: s for s in theirs.scores}
    pairs = [(s, there[s.id]) if heads[clusters[s.id]] else (there[s.id], s) for s in ours.scores]
    return replace(ours, scores=tuple(a for a, _ in pairs)), replace(theirs, scores=tuple(b for _, b in pairs))


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


class _Disguised:
    """A subject behind something that spoils its answers; what is not an answer stays the model's own."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def __getattr__(self, name: str) -> Any:
        if name.startswith("stream_"):
            raise AttributeError(name)
        return getattr(self.subject, name)


class Shuffled(_Disguised):
    """Every row gets the answer to another row."""

    last: Prompt = "?"

    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
        """Answer each prompt with what the model says to the one before it."""
        others = [self.last, *prompts][: len(prompts)]
        self.last = prompts[-1] if prompts else self.last
        return self.subject.generate(others, **options)

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> list[Logprob]:
        """Score each continuation after the prompt of the row before its own."""
        others: dict[str, Prompt] = {}
        for prompt, _ in pairs:
            if prompt and repr(prompt) not in others:
                others[repr(prompt)] = self.last
                self.last = prompt
        return self.subject.logprobs([(others.get(repr(p), p), c) for p, c in pairs], **options)


class Worthless(_Disguised):
    """Every row gets an answer that deserves nothing."""

    def __init__(self, subject: Subject, answer: Callable[[Prompt], str]) -> None:
        super().__init__(subject)
        self.answer = answer

    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
        """Answer without the model."""
        return [self.answer(p) for p in prompts]


class Constant(_Disguised):
    """Every row gets the answer to the first."""

    first: Prompt | None = None

    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
        """Answer with what the model says to the first prompt it ever got."""
        if not prompts:
            return []
        self.first = self.first or prompts[0]
        sampling = options.pop("sampling", None)
        if sampling:
            options["sampling"] = replace(sampling, seeds=sampling.seeds[:1])
        return self.subject.generate([self.first], **options) * len(prompts)

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> list[Logprob]:
        """Score each continuation after the first prompt that there ever was."""
        self.first = self.first or next((p for p, _ in pairs if p), None)
        return self.subject.logprobs([(self.first or p if p else p, c) for p, c in pairs], **options)
