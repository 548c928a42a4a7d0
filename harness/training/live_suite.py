"""The part of a suite that applies while another library trains.

That is its model, the evals with select rows, and the gates on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.collection.collect import collect
from harness.collection.collection import NO_SELECT, Collection
from harness.errors import UsageError
from harness.evaluation.live import evaluate_live
from harness.pipeline.session import Options, Session, collect_checks, open_collection
from harness.plugins import load_plugins
from harness.records.claims.gate import Gate
from harness.records.models import Subject
from harness.records.samples import Result
from harness.suite.reader import read_suite

ADD_SELECT = 'add select = "data/select.jsonl" to one [[eval]]'
BASE = "base"


@dataclass(frozen=True)
class LiveSuite:
    """A suite reduced to evals and gates for a model in training.

    `skipped` maps each other gate to the reason it is left out.
    """

    session: Session
    live: Callable[..., AbstractContextManager[Subject]]
    skipped: Mapping[str, str]

    @property
    def collection(self) -> Collection:
        return self.session.collection

    @property
    def gates(self) -> tuple[Gate, ...]:
        return tuple(self.collection.suite.gates)

    @contextmanager
    def subject(self, model: Any, name: str, *, base: bool = False, processing_class: Any = None) -> Iterator[Subject]:
        """Yield a model in memory as a subject. Raises UsageError if it cannot be evaluated."""
        ref = replace(self.session.base, name=name)
        ref = ref if base else replace(ref, digest=name)
        try:
            with self.live(model, ref, base=base, processing_class=processing_class) as subject:
                yield subject
        except UsageError as error:
            raise UsageError(*(f"{self.collection.suite.path}: {m}" for m in error.messages)) from None

    def evaluate(self, subject: Subject) -> dict[str, Result]:
        """Return a subject's results on all select rows, by eval."""
        return evaluate_live(self.collection.tasks.values(), subject)

    def evaluate_saved_base(self) -> dict[str, Result]:
        """Load the suite's base, evaluate it and free it again."""
        with self.session.load([self.session.base]) as (_, [subject]):
            return self.evaluate(subject)


def open_live_suite(path: Path) -> LiveSuite:
    """Open a suite to evaluate a model in training.

    Only its [model], evals and gates are used; training, merges and exports are left alone. Raises UsageError with
    every mistake, if no gate is on an eval with select rows, and if the loader cannot evaluate a model in training.
    """
    suite = read_suite(path)
    if suite.rows:
        raise UsageError(f"{path}: [rows] suites have no model; use a suite with [model]")
    if not any(e.select for e in suite.evals):
        raise UsageError(f"{path}: no eval has select rows, and others cannot choose a checkpoint; {ADD_SELECT}")
    plugins = load_plugins(path, ())
    if (live := plugins.find("loader", suite.model.use).capabilities.live) is None:
        what = f'use: the loader "{suite.model.use}" cannot evaluate a model in training'
        raise UsageError(f'{suite.model.where} {what}; use = "hf"')
    suite = replace(suite, train=None, sweep=None, candidate=None)
    whole = collect(suite, plugins, selecting=True, ahead=True)
    tasks = {name: t for name, t in whole.tasks.items() if t.spec.select and not t.needs_others}
    made = [name for name in whole.candidates if name not in suite.copies]
    asked = {gate.id: gate for name in made for gate in whole.gates(name)}
    skipped = {name: why for name, gate in asked.items() if (why := _find_live_gate_error(gate, whole))}
    if len(skipped) == len(asked):
        why = "; ".join(f'gate "{name}" {why}' for name, why in skipped.items()) or "there is no gate"
        raise UsageError(f"{path}: no gate can be looked at in training: {why}")
    gates = tuple(replace(gate, requires=[]) for name, gate in asked.items() if name not in skipped)
    suite = replace(
        suite, evals=tuple(e for e in suite.evals if e.name in tasks), gates=gates, subjects={}, exports=(), choose=None
    )
    items = tuple(item for item in whole.items if item.subject == BASE and item.eval in tasks)
    collection = replace(whole, suite=suite, tasks=tasks, items=items, candidates=())
    options = Options(select=True, counts=False, export=False, ahead=True)
    return LiveSuite(open_collection(collection, options, collect_checks(collection, options)), live, skipped)


def _find_live_gate_error(gate: Gate, collection: Collection) -> str:
    """Return the reason a gate cannot be tested during training. Empty if it can."""
    if not gate.metric:
        return "is a group"
    if gate.of == "recipe":
        return "is about the recipe, and not about one training of it"
    task = collection.tasks[gate.eval]
    if not task.spec.select:
        return f'is on eval "{gate.eval}", which {NO_SELECT}'
    if task.needs_others:
        return f'is on eval "{gate.eval}", which needs other models than the one in training'
    if gate.versus not in (None, BASE):
        return f'compares with "{gate.versus}", which is not the base'
    return "is judged without the rows of a contamination check" if gate.clean_only else ""
