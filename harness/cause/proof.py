"""The proof: train without the suspects, and without other rows in other orders, and see what the gate says.

An interval over rows is none over trainings, so the spread of control trainings is the yardstick. It never gates
anything, and nothing of it ships.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from harness.cause.blame import Blame
from harness.cause.effects import Effect, Results, list_measures, measure_effect, restrict_rows
from harness.cause.suspects import MAX_SUSPECT_SHARE, trained_rows
from harness.collection.collection import Item, Task
from harness.errors import CheckFailedError, UsageError
from harness.evaluation.evaluate import evaluate
from harness.files import write_text
from harness.gates.decide import decide
from harness.pipeline.record import StageStop
from harness.pipeline.run_context import RunContext
from harness.pipeline.session import open_answer_cache
from harness.pipeline.variants import make_variant, vary_training
from harness.records.claims.gate import Gate
from harness.records.models import ModelRef
from harness.records.samples import Result
from harness.records.verdicts import Outcome
from harness.suite.tables import Model, gate_alpha
from harness.texts.counts import agree_verb, count_noun

MIN_CONTROLS = 5  # control trainings, of which fewer hardly show how far equal trainings lie apart
MAX_SEED = 2**32


class CauseVerdict(StrEnum):
    """The verdict of a training without the suspects."""

    CONFIRMED = "CAUSE CONFIRMED"
    NO_FAULT = "A CAUSE, NOT A FAULT"
    HELPS = "HELPS, NOT ENOUGH"
    NOT_THESE = "NOT THESE ROWS"


@dataclass(frozen=True)
class Variant:
    """A training: the numbers of the rows that it leaves out (from 1), and its seed."""

    name: str
    left_out: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Proof:
    """A verdict on the suspects, with its evidence.

    The evidence is the gate on the confirming rows, for each variant, and the effects.
    """

    verdict: CauseVerdict
    told: str
    gate: Outcome
    controls_passed: int
    effect: Effect
    costs: Sequence[Effect]
    variants: Sequence[Variant]
    unmeasured: Sequence[str]
    reproduced: bool  # whether the run's own training made the weights of the run


def prove_cause(found: Blame, controls: int) -> Proof:
    """Train and evaluate variants, and give one of four verdicts. Raises UsageError where that cannot be done."""
    if controls < MIN_CONTROLS:
        what = f"fewer than {MIN_CONTROLS} do not show how far equal trainings lie apart"
        raise UsageError(f"--controls is {controls}; it must be {MIN_CONTROLS} or more, since {what}")
    if len(found.suspects) > MAX_SUSPECT_SHARE * found.trained:
        what = f"the suspects and their copies are {len(found.suspects)} of the {found.trained} training rows"
        raise UsageError(f"--retrain: {what}, more than half; remove copies from the training data")
    session, record = found.run.session, found.run.record
    responses = open_answer_cache(session.options, record.warn)
    with closing(responses) if responses else nullcontext():
        run = replace(found.run, session=replace(session, responses=responses))
        return _train_and_judge_variants(replace(found, run=run), draw_variants(found, controls))


def draw_variants(found: Blame, controls: int) -> list[Variant]:
    """Draw the training without suspects and its control trainings.

    The former has the run's own seed, each control another one. A control leaves out as many rows of each source, drawn
    from the rows that are not suspects; if a source has too few of these, the rest is drawn from all sources.
    """
    suspects = {one.number for one in found.suspects}
    rest = [row for row in trained_rows(found.run.collection) if row.number not in suspects]
    wanted, own = Counter(one.source for one in found.suspects), found.run.suite.training_seed
    variants = [Variant("without-suspects", tuple(sorted(suspects)), own)]
    for k in range(1, controls + 1):
        rng = random.Random(f"{own} {k} {sorted(suspects)}")  # noqa: S311 -- not for secrets
        drawn: list[int] = []
        for source, n in wanted.items():
            there = [row.number for row in rest if row.source == source]
            drawn += rng.sample(there, min(n, len(there)))
        left = sorted({row.number for row in rest} - {*drawn})
        drawn += rng.sample(left, len(suspects) - len(drawn))
        variants.append(Variant(f"control-{k}", tuple(sorted(drawn)), (own + k) % MAX_SEED))
    return variants


def write_suspects(found: Blame) -> Path:
    """Write the suspects into the run's folder, for `[train] drop`.

    Rows are written as they were read. Return the file.
    """
    name = re.sub(r"[^\w.-]+", "-", found.verdict.gate).strip("-.")
    path = found.folder / f"suspects-{name or 'gate'}.jsonl"
    origins = found.run.collection.origins
    rows = {json.dumps(origins[one.number - 1][1], ensure_ascii=False, default=str): None for one in found.suspects}
    write_text(path, (f"{row}\n" for row in rows))
    return path


def _train_and_judge_variants(found: Blame, variants: Sequence[Variant]) -> Proof:
    run, gate = found.run, next(g for g in found.run.suite.gates if g.id == found.verdict.gate)
    tasks, unmeasured = _select_confirming_tasks(found, gate)
    baseline = _evaluate_baseline(run, gate, tasks[gate.eval])
    refs = [_train_variant(run, variant) for variant in (Variant("as-it-was", (), run.suite.training_seed), *variants)]
    if len({ref.digest for ref in refs}) < len(refs):
        raise CheckFailedError("trainings on other rows made identical weights, so the trainer does not use its rows")
    results = [_evaluate_variant(run, ref, tasks) for ref in refs]
    alpha, task = gate_alpha(gate, run.suite), tasks[gate.eval]
    metric, single = task.metrics[gate.metric_name], replace(run.collection.resolve_gate(gate, refs[0].name), of="run")
    outcomes = [
        decide(single, metric, one[gate.eval], baseline, task.samples or (), alpha, name=ref.name)
        for ref, one in zip(refs, results, strict=True)
    ]
    effect, *others = [
        measure_effect(one, results[0], results[1], results[2:], alpha)
        for one in list_measures(run.collection, gate, tasks)
    ]
    passed = sum(one.outcome is Outcome.PASS for one in outcomes[2:])
    verdict = judge(effect, others, outcomes[1].outcome, passed)
    told = describe(verdict, effect, others, len(found.suspects), outcomes[1].outcome, passed)
    same = refs[0].digest == found.verdict.digest
    return Proof(verdict, told, outcomes[1].outcome, passed, effect, others, variants, unmeasured, same)


def judge(effect: Effect, costs: Sequence[Effect], gate: Outcome, passed: int) -> CauseVerdict:
    """Return the verdict, judged by the spread of the controls.

    `passed` is the number of controls that passed the gate themselves.
    """
    if not effect.is_gain or 2 * passed >= len(effect.controls):
        return CauseVerdict.NOT_THESE
    if any(cost.is_cost for cost in costs):
        return CauseVerdict.NO_FAULT
    return CauseVerdict.CONFIRMED if gate is Outcome.PASS else CauseVerdict.HELPS


def describe(
    verdict: CauseVerdict, effect: Effect, costs: Sequence[Effect], rows: int, gate: Outcome, passed: int
) -> str:
    """Describe a verdict and its costs in one sentence."""
    holds = "the gate holds" if gate is Outcome.PASS else f"the gate is {gate}"
    without = f"without {count_noun(rows, 'row')} {holds} on {effect.n} rows that did not choose"
    beyond = "beyond" if verdict is not CauseVerdict.NOT_THESE else "against"
    trainings = f"{len(effect.controls)} control trainings"
    told = f"{without}: {effect.name} {effect.format()} {beyond} {trainings}"
    told += f", of which {passed} pass the gate" if passed else ""
    if charged := [f"{c.name} {c.format()}" for c in costs if c.is_cost]:
        return f"{told}; it costs {', '.join(charged)}"
    if not costs:
        return f"{told}; no other metric and no slice was measured"
    least = min(costs, key=lambda c: c.sign * c.estimate)
    told += "; no cost of another metric or of a slice is proven"
    return f"{told}, the least favourable is {least.name} {least.format()}"


def _select_confirming_tasks(found: Blame, gate: Gate) -> tuple[dict[str, Task], list[str]]:
    """Select the evals to measure, and name the unmeasurable ones.

    Of the gate's own eval only the confirming rows are measured. Raises UsageError if this eval cannot be measured, or
    has no such rows.
    """
    collection = found.run.collection
    names = dict.fromkeys([gate.eval, *(g.eval for g in collection.suite.gates if g.metric)])
    there = {name: collection.tasks[name] for name in names if not collection.tasks[name].needs_others}
    if gate.eval not in there:
        raise UsageError(f'--retrain: eval "{gate.eval}" needs a judge or another model; blame proves nothing of it')
    own = restrict_rows(there[gate.eval], found.rows.confirming)
    if not own.samples:
        raise UsageError(f'--retrain: eval "{gate.eval}" has no rows to confirm with; add rows')
    return {**there, gate.eval: own}, [name for name in names if name not in there]


def _train_variant(run: RunContext, variant: Variant) -> ModelRef:
    left_out, there = {*variant.left_out}, run.collection.training or ()
    rows = [i for i in range(len(there)) if i + 1 not in left_out]
    made = make_variant(vary_training(run, rows=rows, seed=variant.seed), variant.name)
    if isinstance(made, StageStop):
        raise CheckFailedError(f"{variant.name} was not trained: {made.why or 'a check stopped its training'}")
    return made


def _evaluate_variant(run: RunContext, ref: ModelRef, tasks: dict[str, Task], model: Model | None = None) -> Results:
    """Evaluate a model on the rows of tasks. Raises CheckFailedError where a row has no score."""
    session, found = run.session, {}
    run.record.call_hook("harness_stage", stage="confirm", detail=ref.name)
    with session.load([ref], model) as (_, [subject]):
        for name, task in tasks.items():
            asked = session.with_examples(Item(run.suite.path.name, ref.name, name), subject)
            found[name] = evaluate(task, ref.name, asked, None, session.progress)
            if missing := found[name].missing:
                some = f'{count_noun(len(missing), "row")} of "{name}"'
                raise CheckFailedError(f"{ref.name}: {some} {agree_verb(len(missing), 'have no score')}")
    return found


def _evaluate_baseline(run: RunContext, gate: Gate, task: Task) -> Result | None:
    """Evaluate the gate's baseline on its confirming rows.

    None if the gate has no baseline. Raises UsageError if the baseline cannot be evaluated by itself.
    """
    session, name = run.session, gate.versus
    if name is None:
        return None
    if name in session.opened.lacking or name in run.collection.candidates or name == "parent":
        raise UsageError(f'--retrain: gate "{gate.id}" compares with "{name}", which cannot be evaluated by itself')
    if name in session.opened.others or name in session.opened.releases:
        model = run.suite.subjects[name].model if name in session.opened.others else None
        return _evaluate_variant(run, session.baseline(name), {gate.eval: task}, model)[gate.eval]
    return _evaluate_variant(run, replace(session.base, name=name), {gate.eval: task})[gate.eval]
