"""Suite -> Plan: what will be evaluated, with every name, option and local file checked.

No torch, no tokenizer, no network (but for a plugin's own data that is not in the cache yet).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from harness import schema
from harness.artifacts.digests import digest_of
from harness.collection.conversions import copy_mistakes, parent_mistakes, with_copies
from harness.data import chat
from harness.data.rows import GROUP, HELD_OUT, is_remote, read_rows, to_samples, to_training_rows
from harness.errors import Mistakes, UsageError, did_you_mean
from harness.gates import contamination
from harness.gates.min_rows import Sizes, few_clusters_error, sizes_of, unprovable_error
from harness.gates.validate import order_mistakes
from harness.plugins import Plugins
from harness.records.frozen import isolated, plain
from harness.records.gates import COUNTED, PARENT, Gate
from harness.records.metrics import Metric
from harness.records.samples import Sample
from harness.suite.tables import Eval, Suite, Sweep, Train, Use, alpha_of, name_error

COMPARATIVE = "against"  # the parameter by which an evaluator asks for a second loaded subject
OWN_ROWS = "rows_for"  # the attribute by which an evaluator brings rows of its own
UNCACHED = "uncached"  # the attribute by which an evaluator asks for models that remember nothing
MARKS = "marks"  # the attribute by which an evaluator asks for answers, once the model is gone


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
    """An eval with its callable, metrics and rows; `samples` is None until remote data was read.

    `folder` is the suite's, for evaluators that ask for it.
    """

    spec: Eval
    function: Callable[..., Any]
    metrics: Mapping[str, Metric]
    samples: tuple[Sample, ...] | None
    shots: tuple[Sample, ...] = ()
    folder: Path = Path()
    select: tuple[Sample, ...] | None = None  # rows to choose by, of an eval that has such a split

    @property
    def comparative(self) -> bool:
        return schema.wants(self.function, COMPARATIVE)

    @property
    def marks(self) -> str:
        """What the evaluator marks when the model is gone: "answers", "pairs" of them, or nothing."""
        marks = getattr(self.function, MARKS, "")
        return str(marks(dict(self.spec.options)) if callable(marks) else marks)

    @property
    def compares(self) -> bool:
        """Say whether it compares with `against` by itself, so that a baseline alone has no metric."""
        return self.comparative or self.marks == "pairs"

    @property
    def brings_rows(self) -> bool:
        return hasattr(self.function, OWN_ROWS)

    @property
    def uncached(self) -> bool:
        return bool(getattr(self.function, UNCACHED, False))


@dataclass(frozen=True)
class Plan:
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
    selecting: bool = False  # on the select splits: nothing is confirmed, nothing ships
    deselected: tuple[str, ...] = field(default=())

    def gates(self, candidate: str) -> list[Gate]:
        """Return the gates on a candidate; where one compares with the parent, with the parent's name in its place."""
        return [self.named(g, candidate) for g in self.suite.gates if g.applies_to(candidate)]

    def named(self, gate: Gate, candidate: str) -> Gate:
        """Return a gate as it is put to a candidate."""
        return replace(gate, versus=self.suite.copies[candidate].from_) if gate.versus == PARENT else gate

    def decides(self, gate: Gate, candidate: str) -> bool:
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
        told = {name: [rows and [s.told for s in rows] for rows in several] for name, several in splits.items()}
        return digest_of([told, self.training, self.origins])

    def against(self, item: Item) -> str:
        """Name the subject that an evaluation compares with by itself."""
        against = self.tasks[item.eval].spec.against
        return self.suite.copies[item.subject].from_ if against == PARENT else against

    def evals(self, gate: Gate) -> set[str]:
        """Name the evals a gate's verdict needs: its own, and those of the gates it requires or stands with."""
        return self._needs[gate.id]

    @cached_property
    def _needs(self) -> dict[str, set[str]]:
        """Return what `evals` does for every gate: each eval is handed on to all that wait for a gate on it."""
        waits: dict[str, list[str]] = {g.id: [] for g in self.suite.gates}
        for g in self.suite.gates:
            for name in (*g.requires, *g.any_of, *((g.group,) if g.group else ())):
                waits[name].append(g.id)
        found: dict[str, set[str]] = {g.id: set() for g in self.suite.gates}
        waiting = [(g.id, g.eval) for g in self.suite.gates if g.metric]
        while waiting:
            name, needed = waiting.pop()
            if needed not in found[name]:
                found[name].add(needed)
                waiting += [(other, needed) for other in waits[name]]
        return found


def collect(
    suite: Suite, plugins: Plugins, *, remote: bool = False, limit: int | None = None, selecting: bool = False
) -> Plan:
    """Check names, options and data of a suite, and list its items.

    With `remote` data sets of the Hub are read too. `limit` takes the first rows of every eval, `selecting` those
    of its select split. Raises UsageError with every mistake.
    """
    return _Collector(suite, plugins, remote, limit, selecting).plan()


def candidates_of(suite: Suite) -> tuple[str, ...]:
    """Name the models that may ship, in the order they come to be: each with the copies that exports make of it."""
    copies = suite.copies.values()
    return tuple(name for made in parents_of(suite) for name in (made, *(e.name for e in copies if e.from_ == made)))


def parents_of(suite: Suite) -> tuple[str, ...]:
    """Name the models that training and merging, or somebody else, make."""
    if suite.candidate and suite.candidate.merged:
        return ("merged",)
    if not (suite.train or suite.candidate):
        return ()
    return ("adapter", *dict.fromkeys(suite.merged(variant) for variant in suite.merges))


class _Collector:
    def __init__(self, suite: Suite, plugins: Plugins, remote: bool, limit: int | None, selecting: bool) -> None:
        suite = with_copies(suite, plugins)
        self.suite, self.plugins, self.remote, self.limit = suite, plugins, remote, limit
        self.selecting = selecting
        self.chosen: dict[str, tuple[Sample, ...]] = {}  # the select splits that were read
        self.mistakes = Mistakes()
        self.warnings: list[str] = []
        self.origins: list[tuple[str, Mapping[str, Any]]] = []
        self.read: dict[str, list[dict[str, Any]]] = {}  # rows by source
        self.counted: dict[tuple[str, tuple[str, ...] | None], Sizes] = {}
        self.names = {e.name for e in suite.evals}
        self.baselines = ("base", *suite.subjects)
        self.candidates = candidates_of(suite)

    def plan(self) -> Plan:
        suite, made = self.suite, parents_of(self.suite)
        for model in (suite.model, *(s.model for s in suite.subjects.values() if s.use)):
            self.use("loader", model.use, model.options, model.where)
        for kind, table in (("adapter", suite.adapter), ("trainer", suite.train)):
            if table:
                self.use(kind, table.use, table.options, table.where)
        for export in suite.exports:
            self.use("exporter", export.use, export.options, export.where)
            if export.from_ not in made:
                known = did_you_mean(export.from_, made) or "; the suite makes no candidate"
                self.mistakes.add(export.where, f'no candidate "{export.from_}"{known}')
        self.trials()
        training = self.training()
        tasks = {t.spec.name: t for spec in suite.evals if (t := self.task(spec))}
        if suite.choose:
            self.chooser(f'{suite.path}: [merge] choose = "{suite.choose}"', suite.choose, tasks)
        if suite.sweep:
            self.decider(suite.sweep, tasks)
        self.watched(tasks)
        for gate in suite.gates:
            self.gate(gate, tasks)
        for spec in suite.evals:
            if spec.stop == "early" and all(g.eval != spec.name for g in suite.gates):
                self.mistakes.add(spec.where, 'stop = "early" needs a gate to decide it')
        for gate, what in order_mistakes(suite.gates, self.candidates):
            self.mistakes.add(gate.where, what)
        for where, what in copy_mistakes(suite, self.plugins, made):
            self.mistakes.add(where, what)
        self.mistakes.raise_if_any()
        prompted = {subject: self.shot_evals(subject, tasks) for subject in suite.subjects}
        shown = [name for subject, names in prompted.items() if suite.subjects[subject].examples for name in names]
        for name in dict.fromkeys(shown):
            tasks[name] = self.with_shots(tasks[name])
        self.mistakes.raise_if_any()
        items = tuple(self.items(tasks, prompted))
        rows = tuple(training) if training is not None else None
        if self.selecting and not any(e.select for e in suite.evals):
            raise UsageError(
                f'{suite.path}: --select: no eval has a select split; give one select = "data/select.jsonl"'
            )
        warnings = tuple(self.warnings)
        origins = tuple(self.origins)
        return Plan(
            suite,
            self.plugins,
            tasks,
            self.baselines,
            self.candidates,
            items,
            rows,
            origins,
            warnings,
            selecting=self.selecting,
        )

    def use(self, kind: str, name: str, options: Mapping[str, Any], where: str) -> Callable[..., Any] | None:
        try:
            function = self.plugins.find(kind, name).function
        except UsageError as error:
            self.mistakes.add(where, str(error))
            return None
        schema.check_options(function, options, lambda _, what: self.mistakes.add(where, what))
        return function

    def rows(self, source: str, where: str) -> list[dict[str, Any]] | None:
        """Read a source once it may be read, and once only; None when it is remote and not yet time, or wrong."""
        if is_remote(source) and not self.remote:
            return None
        try:
            if source not in self.read:
                self.read[source] = read_rows(source, self.suite.path.parent, self.ask, where)
            return self.read[source]
        except UsageError as error:
            self.mistakes.found.extend(error.messages)
            return None

    def ask(self, source: str) -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] | None = self.plugins.hook.harness_read_samples(path=source)
        return isolated(found)

    def training(self) -> list[dict[str, Any]] | None:
        """Return the rows to train on, or None when there is no training or its data is remote."""
        train = self.suite.train
        if train is None or not self.suite.trains:
            return None
        rows: list[dict[str, Any]] = []
        for source in (*train.sources, *([train.validation_data] if train.validation_data else [])):
            found = self.rows(source, train.where)
            if found is None:
                return None
            try:
                where = f'{train.where} data "{source}"'
                made = to_training_rows(found, train.columns, where, train.chat_template_kwargs)
                rows += self.with_group(train, source, made, found)
                self.origins += [(source, row) for row in found]
            except UsageError as error:
                self.mistakes.found.extend(error.messages)
        return self.validated(train, rows) if train.validation_data else rows

    def with_group(
        self, train: Train, source: str, rows: list[dict[str, Any]], raw: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Mark training rows with their cluster."""
        if train.cluster is None:
            return rows
        lacking = [i for i, row in enumerate(raw) if row.get(train.cluster) is None]
        if lacking:
            what = f'data "{source}": no column "{train.cluster}" for cluster in row {lacking[0]}'
            self.mistakes.add(train.where, f"{what} ({len(lacking)} rows)")
            return rows
        return [{**row, GROUP: str(own[train.cluster])} for row, own in zip(rows, raw, strict=True)]

    def validated(self, train: Train, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Mark the rows of `validation_data`, once it is sure that they are not trained on."""
        complain = partial(self.mistakes.add, train.where)
        if train.options.get("validation"):
            complain("validation holds out a share, and there is validation_data as well; remove one of them")
        if not schema.wants(self.plugins.find("trainer", train.use).function, "validation"):
            complain(f'validation_data: the trainer "{train.use}" does not validate; remove it')
        first = sum(source != train.validation_data for source, _ in self.origins)
        kept, held = rows[:first], rows[first:]
        if train.validation_data in train.sources:
            complain(f'validation_data "{train.validation_data}" is trained on; name another source')
        elif both := _common(GROUP if train.cluster else None, held, kept):
            complain(f'validation_data "{train.validation_data}": {both}; a loss on them is a loss for memory')
        return kept + [{**row, HELD_OUT: True} for row in held]

    def task(self, spec: Eval) -> Task | None:
        if not re.fullmatch(r"[\w-]+", spec.name):
            what = f'name is {schema.show(spec.name)}, want letters, digits, "_" and "-"'
            self.mistakes.add(spec.where, what)  # no ".", which parts EVAL from METRIC
        elif what := name_error(spec.name):
            self.mistakes.add(spec.where, what)
        if spec.limit is not None and spec.limit < 1:
            self.mistakes.add(spec.where, f"limit is {spec.limit}, want 1 or more")
        function = self.use("evaluator", spec.use, spec.options, spec.where)
        samples = self.samples(spec, function)
        if function is None:
            return None
        marks = Task(spec, function, {}, None).marks
        parents = (PARENT,) if self.suite.copies else ()
        beside = (*(("base", *parents) if marks != "pairs" else self.baselines), *self.candidates)
        if (schema.wants(function, COMPARATIVE) or marks == "pairs") and spec.against not in beside:
            known = did_you_mean(spec.against, beside)
            self.mistakes.add(spec.where, f'against is "{spec.against}", which is no subject{known}')
        if marks and not spec.cluster and samples:
            samples = by_prompt(samples)
        try:
            metrics = metrics_of(function, spec.options, self.suite.path.parent)
        except UsageError as error:
            self.mistakes.found.extend(f"{spec.where}: {m}" for m in error.messages)
            return None
        except Exception as error:  # the plugin's own code; the line says whose
            self.mistakes.add(spec.where, f'"{spec.use}" cannot name its metrics: {error}')
            return None
        if not metrics:
            self.mistakes.add(spec.where, f'"{spec.use}" declares no metric; decorate it with @metric')
        chosen = self.chosen.get(spec.name)
        return Task(spec, function, metrics, samples, folder=self.suite.path.parent, select=chosen)

    def samples(self, spec: Eval, function: Callable[..., Any] | None) -> tuple[Sample, ...] | None:
        brings = getattr(function, OWN_ROWS, None)
        if spec.chat_template_kwargs and spec.data is None:
            self.mistakes.add(
                spec.where, f'{chat.ARGUMENTS} is for prompts from "data"; "{spec.use}" has none of these'
            )
        if spec.data is None and brings is None:
            return (Sample("model"),)  # an evaluation of the model itself, such as its size
        if spec.data is not None and brings is not None:
            self.mistakes.add(spec.where, f'"{spec.use}" brings its own rows; remove "data"')
            return None
        rows = self.rows(spec.data, spec.where) if spec.data is not None else self.own_rows(brings, spec)
        if spec.select is not None:
            rows = self.split(spec, rows)
        if rows is None:
            return None
        return self.made(spec, rows)

    def made(self, spec: Eval, rows: list[dict[str, Any]]) -> tuple[Sample, ...] | None:
        rows = rows[: spec.limit] if spec.limit else rows
        rows = rows[: self.limit] if self.limit else rows
        about: dict[str, Any] = {"columns": spec.columns, "cluster": spec.cluster, "slices": spec.slices}
        try:
            given = spec.chat_template_kwargs if spec.data is not None else None
            return tuple(to_samples(rows, spec.where, **about, arguments=given))
        except UsageError as error:
            self.mistakes.found.extend(error.messages)
            return None

    def split(self, spec: Eval, confirm: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        """Return the rows of the split that is asked for, once it is sure that the two have nothing in common."""
        assert spec.select is not None
        if spec.data is None:
            self.mistakes.add(
                spec.where, '"select" stands beside "data"; an eval without data has nothing to choose on'
            )
            return None
        chosen = self.rows(spec.select, spec.where)
        if chosen is not None and confirm is not None and (both := _common(spec.cluster, chosen, confirm)):
            self.mistakes.add(spec.where, f'select "{spec.select}": {both}; what chose a candidate cannot confirm it')
        if chosen is not None and (samples := self.made(spec, chosen)):
            self.chosen[spec.name] = samples
        return chosen if self.selecting else confirm

    def trials(self) -> None:
        """Check every value of a sweep but the first, which stands in its table, as that table's options are."""
        if (sweep := self.suite.sweep) is None:
            return
        kind = "adapter" if sweep.table == "adapter" else "trainer"
        for value in sweep.values[1:]:
            table: Use = getattr(self.suite.trial(value), sweep.table)
            if (kind, table.use) not in self.plugins.provided:
                return  # told already
            function, found = self.plugins.find(kind, table.use).function, Mistakes()
            schema.check_options(function, table.options, found.add)
            own = f"{sweep.option}: "
            self.mistakes.found += [f"{table.where}: {m.removeprefix(own)}" for m in found.found if m.startswith(own)]

    def decider(self, sweep: Sweep, tasks: Mapping[str, Task]) -> None:
        """Check what decides a sweep, and warn where no trial could be shown to be better."""
        told = len(self.mistakes.found)
        self.chooser(f'{sweep.where} by = "{sweep.by}"', sweep.by, tasks)
        if len(self.mistakes.found) > told:
            return
        gate, task = sweep.step, tasks[sweep.by.partition(".")[0]]
        metric = task.metrics[gate.metric_name]
        if metric.scale in ("count", "agreement"):
            self.mistakes.add(
                sweep.where, f'by is "{sweep.by}", of scale "{metric.scale}"; want a metric whose rows can be compared'
            )
        elif why := unprovable_error(gate, metric, task.select, alpha_of(gate, self.suite)):
            self.warnings.append(f"{sweep.where}: {why}; the first value will be chosen")

    def chooser(self, where: str, by: str, tasks: Mapping[str, Task]) -> None:
        """Check an EVAL.METRIC by which a model is chosen on select rows."""
        complain = partial(self.mistakes.add, where)
        evaluation, _, metric = by.partition(".")
        task = tasks.get(evaluation)
        if task is None:
            complain(f'no eval "{evaluation}"{did_you_mean(evaluation, tasks)}')
        elif metric not in task.metrics:
            complain(f'eval "{evaluation}" has no metric "{metric}"{did_you_mean(metric, task.metrics)}')
        elif task.spec.select is None:
            complain(f'eval "{evaluation}" has no select split; what chose a candidate cannot confirm it')
        elif task.compares or task.marks:
            complain(f'"{evaluation}" compares with another model; choose by one that does not')

    def watched(self, tasks: Mapping[str, Task]) -> None:
        """Check which evals are looked at while training: rows to select by, and a model that compares with none."""
        train = self.suite.train
        if train is None or not train.watch:
            return
        complain = partial(self.mistakes.add, train.where)
        if (trainer := self.plugins.provided.get(("trainer", train.use))) and not schema.wants(
            trainer.function, "watch"
        ):
            complain(f'watch: the trainer "{train.use}" cannot be watched; remove it')
        for name in train.watch:
            task = tasks.get(name)
            if task is None:
                complain(f'watch names "{name}", which is no eval{did_you_mean(name, tasks)}')
            elif task.spec.select is None:
                complain(f'watch: eval "{name}" has no select split; rows that are looked at cannot confirm')
            elif task.compares or task.marks or task.uncached:
                complain(f'watch: "{name}" needs more than the model that is trained; watch another')

    def own_rows(self, brings: Any, spec: Eval) -> list[dict[str, Any]] | None:
        """Let an evaluator read the rows it brings itself, once that may be slow."""
        if not self.remote:
            return None
        try:
            rows: list[dict[str, Any]] = isolated(brings(isolated(dict(spec.options)), self.suite.path.parent))
        except UsageError as error:
            self.mistakes.found.extend(f"{spec.where}: {m}" for m in error.messages)
            return None
        if not rows:
            self.mistakes.add(spec.where, f'"{spec.use}" has no rows; an empty evaluation proves nothing')
        return rows or None

    def gate(self, gate: Gate, tasks: Mapping[str, Task]) -> None:
        complain = partial(self.mistakes.add, gate.where)
        for mistake in gate.mistakes():
            complain(mistake)
        if not gate.any_of and gate.eval not in self.names:
            complain(f'metric is "{gate.metric}"; no eval "{gate.eval}"{did_you_mean(gate.eval, self.names)}')
        for candidate in gate.on:
            if candidate not in self.candidates:
                complain(f'on names "{candidate}", which is no candidate{did_you_mean(candidate, self.candidates)}')
        for mistake in parent_mistakes(gate, self.suite):
            complain(mistake)
        if gate.versus and gate.versus not in (PARENT, *self.baselines):
            complain(f'versus is "{gate.versus}", which is no baseline{did_you_mean(gate.versus, self.baselines)}')
        if task := tasks.get(gate.eval):
            self.gate_on(gate, task, complain)

    def gate_on(self, gate: Gate, task: Task, complain: Callable[[str], None]) -> None:
        metric = task.metrics.get(gate.metric_name)
        if metric is None:
            known = did_you_mean(gate.metric_name, task.metrics)
            complain(f'metric is "{gate.metric}"; eval "{gate.eval}" has no metric "{gate.metric_name}"{known}')
            return
        if gate.versus and task.compares:
            complain(f'"{gate.metric}" compares with {task.spec.against} by itself; claim min or max')
        for mistake in gate.mistakes_on(metric):
            complain(mistake)
        if gate.group and metric.scale == "count":
            complain(f'is one of "{gate.group}", {COUNTED}')
        against = "max" if metric.better == "higher" else "min"
        if getattr(gate, against) is not None:
            more = "more" if metric.better == "higher" else "less"
            self.warnings.append(f'{gate.where}: {against} bounds "{metric.name}", of which {more} is better')
        if gate.clean_only:
            self.clean_of(task, complain)
        if gate.estimand == "clusters" and task.samples and all(s.cluster is None for s in task.samples):
            complain(f'estimand is "clusters", and rows of "{gate.eval}" are in none; name their column with "cluster"')
        self.slices_of(gate, task, complain)
        if task.spec.stop == "early":
            self.early_of(gate, metric, task, complain)
        rows = None if task.samples is None else len(task.samples)
        if gate.max_failures is not None and rows is not None and gate.max_failures >= rows:
            complain(f"max_failures is {gate.max_failures}, and there are {rows} rows")
        self.provable(gate, metric, task)

    def provable(self, gate: Gate, metric: Metric, task: Task) -> None:
        """Warn of a claim that the rows cannot prove, however good the model is, or that rests on few clusters."""
        if any("=" not in s for s in gate.slices) or gate.mistakes() or gate.mistakes_on(metric):
            return  # told already
        sizes = self.sizes(gate, task)
        why = unprovable_error(gate, metric, task.samples, alpha_of(gate, self.suite), sizes)
        if why := why or few_clusters_error(gate, metric, sizes):
            self.warnings.append(f"{gate.where}: {why}")

    def sizes(self, gate: Gate, task: Task) -> Sizes:
        """Return the sizes of a gate's slices, which are counted once for all gates on the same."""
        key = (task.spec.name, None if gate.slice is None else tuple(gate.slices))
        if key not in self.counted:
            self.counted[key] = sizes_of(gate, task.samples or ())
        return self.counted[key]

    def clean_of(self, task: Task, complain: Callable[[str], None]) -> None:
        """Tell what keeps leaks from being known: a gate is not clean because nobody looked."""
        if not self.suite.trains:
            complain("clean_only: the suite trains nothing, so there are no training rows to look for leaks in")
        elif task.spec.data is None:
            complain(f'clean_only: leaks are looked for in rows that "data" names, and "{task.spec.use}" has none')
        elif not contamination.looks(self.plugins):
            complain(
                f"clean_only: the harness's own check {contamination.CHECK} is not there; do not block it with -p no:"
            )

    def early_of(self, gate: Gate, metric: Metric, task: Task, complain: Callable[[str], None]) -> None:
        """Tell what keeps a gate from being decided row by row: its eval says stop = "early"."""
        clustered = len({s.cluster or s.id for s in task.samples or ()}) < len(task.samples or ())
        why = {
            f'"{metric.name}" has no known range': metric.scale != "proportion" or metric.combine is not None,
            "rows in clusters are not independent": clustered or task.spec.cluster is not None,
            "slices are judged on all their rows": gate.slice is not None,
            "it counts over all rows": gate.max_failures is not None,
            "it is about clusters": gate.estimand == "clusters",
            "it belongs to an any_of": bool(gate.group),
            "its margin is relative": gate.relative,
            "a parent may have answered fewer rows": gate.versus == PARENT,
            "it is marked when all answers are there": bool(task.marks),
        }
        for reason in (reason for reason, so in why.items() if so):
            complain(f'eval "{gate.eval}" stops early, but {reason}; remove stop = "early"')

    def slices_of(self, gate: Gate, task: Task, complain: Callable[[str], None]) -> None:
        declared = [s for s in gate.slices if "=" in s]
        for column in dict.fromkeys(s.partition("=")[0] for s in declared):
            if column not in task.spec.slices:
                known = did_you_mean(column, task.spec.slices)
                complain(f'slice column "{column}" is not among the slices of "{gate.eval}"{known}')
                return
        if task.samples is None or not declared or len(declared) < len(gate.slices):
            return
        parts = self.sizes(gate, task)
        for name in (name for name, (rows, _) in parts.items() if not rows):
            column, _, value = name.partition("=")
            values = {str(s.row.get(column)) for s in task.samples}
            complain(f'slice "{name}" has no rows{did_you_mean(value, values)}')
        if parts and max(rows for rows, _ in parts.values()) < gate.min_n:
            what = f"no slice has {gate.min_n} rows (min_n), so it cannot pass; add rows, or lower min_n"
            self.warnings.append(f"{gate.where}: {what}")

    def with_shots(self, task: Task) -> Task:
        """Add worked examples: from `fewshot_data`, else the first training source; never a row of the eval."""
        spec, train = task.spec, self.suite.train
        source = spec.fewshot_data or (train.sources[0] if train else None)
        if source is None:
            self.mistakes.add(spec.where, "few-shot needs worked examples; name them with fewshot_data")
            return task
        if task.samples is None or (rows := self.rows(source, spec.where)) is None:
            return task
        columns = spec.columns or (train.columns if train and not spec.fewshot_data else {})
        try:
            pool = to_samples(rows, spec.where, columns=columns, cluster=None, slices=())
        except UsageError as error:
            self.mistakes.found.extend(error.messages)
            return task
        own = {_asked(s) for s in task.samples}
        usable = (s for s in pool if s.input and s.target and all(s.target))
        return replace(task, shots=tuple(s for s in usable if _asked(s) not in own))

    def shot_evals(self, subject: str, tasks: Mapping[str, Task]) -> list[str]:
        """Name the evals a few-shot subject answers: those it or a gate names, else all that have targets."""
        declared = self.suite.subjects[subject].evals
        gated = [g.eval for g in self.suite.gates if g.versus == subject]
        gated += [n for n, t in tasks.items() if t.marks == "pairs" and t.spec.against == subject]
        for name in declared:
            if name not in tasks:
                where = self.suite.subjects[subject].where
                self.mistakes.add(where, f'evals names "{name}", which is no eval{did_you_mean(name, tasks)}')
        prompting = [
            n
            for n, t in tasks.items()
            if not (t.compares or t.brings_rows) and (t.samples is None or any(s.target for s in t.samples))
        ]
        chosen = [*declared, *gated] if declared or gated else prompting
        return [name for name in tasks if name in chosen]

    def items(self, tasks: Mapping[str, Task], prompted: Mapping[str, Sequence[str]]) -> list[Item]:
        found = []
        order = [*self.baselines, *self.candidates]
        for subject in order:
            for name in prompted.get(subject, tasks):
                spec = tasks[name].spec
                if self.selecting and not spec.select and (spec.data or tasks[name].brings_rows):
                    continue
                if tasks[name].comparative:
                    copied = self.suite.copies.get(subject)
                    against = spec.against if spec.against != PARENT else copied.from_ if copied else subject
                    if subject in self.baselines or order.index(against) >= order.index(subject):
                        continue
                elif tasks[name].marks == "pairs":
                    against = tasks[name].spec.against
                    early = subject in self.baselines or order.index(against) > order.index(subject)
                    if subject != against and early:
                        continue
                found.append(Item(self.suite.path.name, subject, name))
        return found


def _common(cluster: str | None, chosen: Sequence[Mapping[str, Any]], confirm: Sequence[Mapping[str, Any]]) -> str:
    """Say what two splits have in common, rows or clusters, or nothing."""
    kinds: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("are in", lambda row: repr(sorted((k, v) for k, v in row.items() if k != "id")))  # whatever it is called
    ]
    if cluster and all(row.get(cluster) is not None for row in (*chosen, *confirm)):
        kinds.append((f'share their "{cluster}" with', lambda row: str(row[cluster])))
    for how, of in kinds:
        known = {of(row) for row in confirm}
        if both := [i for i, row in enumerate(chosen) if of(row) in known]:
            return f'{len(both)} of {len(chosen)} rows {how} "data", for instance row {both[0]}'
    return ""


def by_prompt(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """Make rows of one prompt a cluster: several answers to it are not independent."""
    prompts = [_asked(s) for s in samples]
    first = {prompt: s.id for prompt, s in reversed(list(zip(prompts, samples, strict=True)))}
    if len(first) == len(samples):
        return samples
    return tuple(replace(s, cluster=first[prompt]) for prompt, s in zip(prompts, samples, strict=True))


def _asked(sample: Sample) -> str:
    """Return what tells a prompt from others, whatever arguments it is rendered with."""
    return repr(chat.split(sample.input)[0] if isinstance(sample.input, list) else sample.input)


def metrics_of(function: Callable[..., Any], options: Mapping[str, Any], folder: Path) -> dict[str, Metric]:
    """Return the metrics an evaluator declares, by name; `folder` is the suite's."""
    made = getattr(function, "metrics_for", None)
    given = {"folder": folder} if made and schema.wants(made, "folder") else {}
    declared = made(isolated(dict(options)), **given) if made else getattr(function, "metrics", ())
    return {m.name: plain(Metric, m) for m in declared}
