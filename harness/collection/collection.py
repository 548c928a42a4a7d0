"""The items, tasks and other inputs of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import capabilities, plugin_errors, schema
from harness.artifacts.digests import digest_value
from harness.data.identity import question_keys
from harness.errors import UsageError
from harness.plugins import Plugins
from harness.records.claims.gate import PARENT, Gate
from harness.records.metrics import ENDINGS, Metric
from harness.records.models import Sampling, ThoughtBudget
from harness.records.parts import CONDITIONS
from harness.records.samples import Sample
from harness.suite.tables import Eval, Suite
from harness.texts.escaping import shorten_repr

NO_SELECT = "has no select split, and rows used to choose a checkpoint cannot confirm it; add select"
COMPARATIVE = "against"  # the parameter by which an evaluator asks for a second loaded subject


@dataclass(frozen=True)
class Item:
    """One evaluation of one subject."""

    suite: str
    subject: str
    eval: str

    @property
    def id(self) -> str:
        return f"{self.suite}::{self.subject}::{self.eval}"


@dataclass(frozen=True)
class Task:
    """An eval with its callable, metrics and rows. `samples` is None until remote data is read."""

    spec: Eval
    function: Callable[..., Any]
    metrics: Mapping[str, Metric]
    samples: tuple[Sample, ...] | None
    shots: tuple[Sample, ...] = ()
    folder: Path = Path()  # the suite's, for evaluators that ask for it
    select: tuple[Sample, ...] | None = None  # rows to choose by, of an eval that has such a split
    seed: int = 0  # the suite's, of random numbers

    @cached_property
    def capabilities(self) -> capabilities.EvaluatorCapabilities:
        """The optional abilities of its evaluator."""
        return capabilities.EvaluatorCapabilities.of(self.function)

    @property
    def comparative(self) -> bool:
        return schema.has_parameter(self.function, COMPARATIVE)

    @property
    def marks(self) -> str:
        """The answers that are graded after the model is unloaded.

        It is "answers" or "pairs", as the evaluator marks single answers or pairs of them; empty if it grades none.
        """
        if not callable(marks := self.capabilities.marks):
            return str(marks)
        if (found := marks(dict(self.spec.options))) not in ("", "answers", "pairs"):
            what = f' returned {shorten_repr(found)}; it must return "answers", "pairs" or ""'
            raise plugin_errors.plugin_error(marks, what)
        return str(found)

    @property
    def compares(self) -> bool:
        """Return whether it compares with `against` itself. A baseline alone then has no metric."""
        return self.comparative or self.marks == "pairs"

    @property
    def generates(self) -> bool:
        return "max_new_tokens" in schema.list_options(self.function)[0]

    @property
    def thought_budget(self) -> ThoughtBudget | None:
        """How long a thought may be, where the eval says so."""
        if self.spec.thought_budget is None:
            return None
        begin, end = self.spec.options["thought"]
        return ThoughtBudget(begin, end, self.spec.thought_budget)

    @property
    def sampling(self) -> Sampling | None:
        """The sampling settings without seeds; None if decoding is greedy."""
        spec = self.spec
        return Sampling(spec.temperature, spec.top_p, spec.top_k) if spec.temperature > 0 else None

    @property
    def repeats(self) -> int:
        """How many answers each row gets."""
        return self.spec.repeats or 1

    @property
    def endings(self) -> list[str]:
        """The names of its metrics of finish reasons.

        Metrics of these names that its evaluator declares itself are left out.
        """
        return [name for name, metric in ENDINGS.items() if self.metrics.get(name) is metric]

    def rows_of(self, metric: str, *, select: bool = False) -> tuple[Sample, ...] | None:
        """Return the rows that count in a metric.

        They are the eval's own rows, or those of its `select` split, and None if these are not read yet. Raises
        UsageError if the evaluator fails to select them.
        """
        rows, counts = self.select if select else self.samples, self.capabilities.counts
        try:
            return rows if rows is None or counts is None else tuple(s for s in rows if counts(metric, s))
        except Exception as error:  # the plugin's own code; the line says whose
            what = f'"{self.spec.use}" failed to select the rows of {metric}'
            raise UsageError(f"{self.spec.where}: {what}: {plugin_errors.error_location(error) or error}") from error

    @cached_property
    def keys(self) -> list[tuple[str, ...]]:
        """The question keys of each row, independent of id and template."""
        return question_keys(self.samples or (), self.spec.template)

    @property
    def brings_rows(self) -> bool:
        return self.capabilities.rows_for is not None

    @property
    def needs_others(self) -> bool:
        """Return whether it needs other models, or an otherwise idle machine.

        The latter holds for an evaluator that measures time.
        """
        return bool(self.compares or self.marks or self.uncached)

    @property
    def uncached(self) -> bool:
        return self.capabilities.uncached


@dataclass(frozen=True)
class Collection:
    """Everything a run needs, before anything heavy was imported."""

    suite: Suite
    plugins: Plugins
    tasks: Mapping[str, Task]
    baselines: tuple[str, ...]
    candidates: tuple[str, ...]
    items: tuple[Item, ...]
    training: tuple[dict[str, Any], ...] | None = None
    origins: tuple[tuple[str, Mapping[str, Any]], ...] = ()  # source and whole row of each training row
    warnings: tuple[str, ...] = ()
    readings: tuple[str, ...] = ()  # what columns that nobody declared were taken for
    selecting: bool = False  # on the select splits: nothing is confirmed, nothing ships
    ahead: bool = False  # only looked at: a suite for candidates stands with one that is still to come
    deselected: tuple[str, ...] = ()
    recipe: str = ""  # the candidate that is made anew with each seed, and by each variant of the training
    runs: Mapping[str, int] = field(default_factory=dict)  # its other models and their seeds; none of them ships

    @cached_property
    def trains_all_weights(self) -> bool:
        """Return whether all weights are trained. The trained model is then the merged model."""
        return trains_whole(self.suite, self.plugins)

    def gates(self, candidate: str, evaluation: str = "") -> list[Gate]:
        """Return the gates on a candidate.

        With `evaluation` only those that need this eval. A gate against the parent has the parent's name in `versus`.
        """
        gates = (g for g in self.suite.gates if not evaluation or evaluation in self.needed_evals(g))
        return [self.resolve_gate(g, candidate) for g in gates if g.applies_to(candidate)]

    def wants_endings(self, evaluation: str) -> bool:
        """Return whether a gate needs the finish reasons of an evaluation."""
        gates = [g for g in self.suite.gates if g.metric and g.eval == evaluation]
        asked = [c for c in CONDITIONS if c.needs_finish_reasons and any(c.is_set(g) for g in gates)]
        return bool(asked) or bool(gates and self.tasks[evaluation].endings)

    def resolve_gate(self, gate: Gate, candidate: str) -> Gate:
        """Return a gate as it is put to a candidate."""
        return replace(gate, versus=self.suite.copies[candidate].from_) if gate.versus == PARENT else gate

    def is_decisive(self, gate: Gate, candidate: str) -> bool:
        """Return whether a gate on a candidate keeps something from shipping.

        By default gates are about what ships: an adapter on the way to a merged model is measured, and may fail them.
        One that names its candidates (`on`) means them, and where nothing is exported every candidate counts.
        """
        ships = {name for e in self.suite.exports for name in (e.candidate, e.from_)}
        return bool(gate.on) or not ships or candidate in ships

    @cached_property
    def rows_digest(self) -> str:
        """One sha256 for all rows: evaluated, to choose by, shown as worked examples, trained on."""
        splits = {name: (t.samples, t.select, t.shots) for name, t in self.tasks.items()}
        told = {
            name: [rows and [s.digest_fields for s in rows] for rows in several] for name, several in splits.items()
        }
        return digest_value([told, self.training, self.origins])

    def baseline_of(self, item: Item) -> str:
        """Return the subject that an evaluation compares with by itself."""
        against = self.tasks[item.eval].spec.against
        return self.suite.copies[item.subject].from_ if against == PARENT else against

    def needed_evals(self, gate: Gate) -> set[str]:
        """Return the evals a gate's verdict needs: its own, and those of the gates it requires or stands with."""
        return self._needed_evals_by_gate[gate.id]

    @cached_property
    def evals_by_subject(self) -> dict[str, set[str]]:
        """The evals that are run on each subject."""
        subjects = (*self.baselines, *self.candidates, *self.runs)
        return {s: {i.eval for i in self.items if i.subject == s} for s in subjects}

    def needed_items(self, gate: Gate, candidate: str) -> set[tuple[str, str]]:
        """Return the (subject, eval) pairs that a gate's verdict needs. Only selected items are among them."""
        needed = {(candidate, name) for name in self.needed_evals(gate) & self.evals_by_subject[candidate]}
        of_runs = self._recipe_evals_by_gate[gate.id] if candidate == self.recipe else set()
        return needed | {(run, name) for run in self.runs for name in of_runs & self.evals_by_subject[run]}

    @cached_property
    def _needed_evals_by_gate(self) -> dict[str, set[str]]:
        """The evals that every gate needs of a candidate."""
        return self._propagate_evals_to_dependents(g for g in self.suite.gates if g.metric)

    @cached_property
    def _recipe_evals_by_gate(self) -> dict[str, set[str]]:
        """The evals that every gate needs of a recipe's other runs."""
        return self._propagate_evals_to_dependents(g for g in self.suite.gates if g.of == "recipe")

    def _propagate_evals_to_dependents(self, gates: Iterable[Gate]) -> dict[str, set[str]]:
        """Return evals by gate: those of the given gates are handed on to all that wait for them."""
        waits: dict[str, list[str]] = {g.id: [] for g in self.suite.gates}
        for g in self.suite.gates:
            for name in g.requires:
                waits[name].append(g.id)
        found: dict[str, set[str]] = {g.id: set() for g in self.suite.gates}
        waiting = [(g.id, g.eval) for g in gates]
        while waiting:
            name, needed = waiting.pop()
            if needed not in found[name]:
                found[name].add(needed)
                waiting += [(other, needed) for other in waits[name]]
        return found


def trains_whole(suite: Suite, plugins: Plugins) -> bool:
    """Return whether a suite trains all weights: its adapter is none."""
    used = plugins.provided.get(("adapter", suite.adapter.use)) if suite.adapter and suite.trains else None
    return bool(used and used.capabilities.whole)


def sweep_trials(collection: Collection) -> list[Collection]:
    """Return the trials of a sweep, one collection per value.

    Without a sweep this is the collection itself.
    """
    if collection.suite.sweep is None:
        return [collection]
    return [replace(collection, suite=collection.suite.trial(value)) for value in collection.suite.sweep.values]
