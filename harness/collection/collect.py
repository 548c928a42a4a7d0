"""Suite -> Collection: what will be evaluated, with every name, option and local file checked.

No torch, no tokenizer, no network (but for a plugin's own data that is not in the cache yet).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from harness import schema
from harness.collection import draws
from harness.collection.collection import NO_SELECT, Collection, Item, Task, trains_whole
from harness.collection.context import Context, check_tables
from harness.collection.datasets import DatasetLoader, read_training_rows, warn_of_overlaps
from harness.collection.tasks import add_shots, make_task
from harness.errors import UsageError, did_you_mean
from harness.gates import contamination
from harness.gates.clusterings import cluster_labels, coarsest_clusterings
from harness.gates.min_rows import Sizes, count_units, find_few_clusters_error, find_unprovable_error
from harness.gates.prerequisites import find_order_mistakes
from harness.plugins import Plugins
from harness.records.claims.gate import ADAPTER, PARENT, Gate, assign_recipe_gates
from harness.records.metrics import Metric
from harness.records.parts import CONDITIONS
from harness.records.parts.approximate import format_exact_risk_ways
from harness.records.parts.part import EvalFacts
from harness.records.suite_header import name_of_run
from harness.suite.tables import RELEASES, Export, Suite, find_name_error, gate_alpha, is_reserved

LARGE_ALPHA = 0.2  # an alpha above which a gate says little


def collect(
    suite: Suite, plugins: Plugins, *, remote: bool = False, limit: int | None = None, selecting: bool = False,
    ahead: bool = False,
) -> Collection:  # fmt: skip
    """Check a suite's names, options and data, and list its items.

    With `remote` the data sets of the Hub are read too. `limit` takes the first rows of every eval, `selecting` the
    rows of its select split. With `ahead` a suite for candidates is collected before it has a candidate. Raises
    UsageError with every mistake.
    """
    suite = add_copies(suite, plugins)
    parts = ("adapter", *dict.fromkeys(suite.merged(variant) for variant in suite.merges))
    made: tuple[str, ...] = ()  # the models that training and merging, or somebody else, make, in order
    if (suite.candidate and suite.candidate.merged) or trains_whole(suite, plugins):
        made = ("merged",)
    elif suite.train or suite.candidate or (ahead and any(g.versus == ADAPTER for g in suite.gates)):
        made = parts
    elif ahead:
        named = {*(e.from_ for e in suite.exports), *(name for g in suite.gates for name in g.on)}
        made = tuple(name for name in parts if name in named) or ("merged",)
    recipe = next((e.from_ for e in suite.exports if e.from_ in made), made[-1] if made else "")  # what ships of it
    suite, copies = replace(suite, gates=assign_recipe_gates(suite.gates, recipe)), suite.copies.values()
    runs = {name_of_run(recipe, s): s for s in (suite.train.seeds or [])[1:]} if suite.train and suite.trains else {}
    candidates = tuple(name for one in made for name in (one, *(e.name for e in copies if e.from_ == one)))
    sides = ("base", *suite.subjects), candidates, made
    context = Context(suite, plugins, remote, limit, selecting, *sides, recipe, ahead)
    context.warnings.extend(plugins.idle)
    sources = DatasetLoader(context)
    check_tables(context)
    training, origins = read_training_rows(context, sources)
    tasks = {t.spec.name: t for spec in suite.evals if (t := make_task(context, sources, spec))}
    if not context.mistakes.messages:
        warn_of_overlaps(context, sources)
    _check_sweep_merge_and_watch(context, tasks)
    check_gates(context, tasks)
    context.mistakes.raise_errors()
    prompted = {subject: _select_few_shot_evals(context, subject, tasks) for subject in suite.subjects}
    for name in dict.fromkeys(n for s, names in prompted.items() if suite.subjects[s].examples for n in names):
        tasks[name] = add_shots(context, sources, tasks[name])
    for subject, task in ((suite.subjects[s], tasks[n]) for s, names in prompted.items() for n in names):
        if 0 < len(task.shots) < subject.examples:
            what = f'"{task.spec.name}" has {len(task.shots)} worked examples, fewer than shots = {subject.examples}'
            context.warnings.append(f"{subject.where}: {what}; lower shots, or add examples to fewshot_data")
    context.mistakes.raise_errors()
    if selecting and not any(e.select for e in suite.evals):
        raise UsageError(
            f'{suite.path}: --select: no eval has a select split; add select = "data/select.jsonl" to one [[eval]]'
        )
    claimed = {g.eval for g in suite.gates if g.of == "recipe"}
    prompted |= {run: [name for name in tasks if name in claimed] for run in runs}
    items, rows = (
        tuple(_iterate_evaluation_items(context, tasks, prompted, runs)),
        None if training is None else tuple(training),
    )
    told = tuple(origins), tuple(context.warnings)
    return Collection(
        suite, plugins, tasks, context.baselines, candidates, items, rows, *told, selecting=selecting, ahead=ahead,
        recipe=recipe, runs=runs, readings=tuple(context.readings),
    )  # fmt: skip


def _check_sweep_merge_and_watch(context: Context, tasks: Mapping[str, Task]) -> None:
    """Check the metrics chosen by merge and sweep, and `watch`.

    Warn if no trial of a sweep could be proven better.
    """
    suite = context.suite
    if suite.choose and (what := _find_chooser_error(suite.choose, tasks)):
        context.mistakes.add(f'{suite.path}: [merge] choose = "{suite.choose}"', what)
    if (sweep := suite.sweep) and (what := _find_chooser_error(sweep.by, tasks)):
        context.mistakes.add(f'{sweep.where} by = "{sweep.by}"', what)
    elif sweep:
        gate, task = sweep.step, tasks[sweep.by.partition(".")[0]]
        metric = task.metrics[gate.metric_name]
        if metric.is_count or metric.is_agreement:
            what = f'by is "{sweep.by}", of scale "{metric.scale}"; name a metric that is a mean over rows'
            context.mistakes.add(sweep.where, what)
        elif sweep.rule == "step" and (
            why := find_unprovable_error(gate, metric, task.rows_of(metric.name, select=True), gate_alpha(gate, suite))
        ):
            context.warnings.append(f"{sweep.where}: {why}; the sweep's first value will be chosen")
    if (train := suite.train) is None or not train.watch:
        return
    complain, trainer = context.mistakes_at(train.where), context.plugins.provided.get(("trainer", train.use))
    if trainer and not schema.has_parameter(trainer.function, "watch"):
        complain(f'watch: the trainer "{train.use}" cannot evaluate during training; remove watch')
    for name in train.watch:
        if (watched := tasks.get(name)) is None:
            complain(f'watch names "{name}", which is not an eval{did_you_mean(name, tasks)}')
        elif watched.spec.select is None:
            complain(f'watch: eval "{name}" {NO_SELECT}')
        elif watched.needs_others:
            complain(f'watch: "{name}" needs other models than the one in training; watch another eval')


def _find_chooser_error(by: str, tasks: Mapping[str, Task]) -> str:
    """Explain why no model can be chosen by an EVAL.METRIC.

    Models are chosen on select rows. Empty if they can be.
    """
    evaluation, _, metric = by.partition(".")
    if (task := tasks.get(evaluation)) is None:
        return f'no eval "{evaluation}"{did_you_mean(evaluation, tasks)}'
    if metric not in task.metrics:
        return f'eval "{evaluation}" has no metric "{metric}"{did_you_mean(metric, task.metrics)}'
    if task.spec.select is None:
        return (
            f'eval "{evaluation}" has no select split, and rows used to choose a candidate '
            "cannot confirm it; add select"
        )
    compares = f'"{evaluation}" compares with another model; choose by an eval that does not'
    return compares if task.compares or task.marks else ""


# -- gates: their subjects, metrics and slices, and whether the rows can prove them -------------------------------


def check_gates(context: Context, tasks: Mapping[str, Task]) -> None:
    """Check every gate and the order of dependent gates.

    An eval that stops early and a converted copy need a gate.
    """
    suite, checks = context.suite, GateChecks(context, tasks)
    if not suite.gates:
        what = "there is no [[gate]], so nothing is decided and the run will end with exit 5"
        context.warnings.append(f"{suite.path}: {what}; add one, unless you only want the numbers")
    elif not (suite.train or suite.candidate or suite.rows):
        what = "there are gates but no candidate to judge, so the run will end with exit 5"
        context.warnings.append(f"{suite.path}: {what}; add [adapter] and [train], or give --candidate")
    for gate in suite.gates:
        for mistake in checks.find_mistakes(gate):
            context.mistakes.add(gate.where, mistake)
    for spec in (e for e in suite.evals if e.stop == "early" and all(g.eval != e.name for g in suite.gates)):
        context.mistakes.add(spec.where, 'stop = "early" needs a gate on this eval')
    for gate, what in find_order_mistakes(suite.gates, context.candidates):
        context.mistakes.add(gate.where, what)
    for where, what in find_copy_mistakes(suite, context.plugins, context.made):
        context.mistakes.add(where, what)


class GateChecks:
    """The checks of a suite's gates on its tasks."""

    def __init__(self, context: Context, tasks: Mapping[str, Task]) -> None:
        self.context, self.suite, self.tasks = context, context.suite, tasks
        self.evals = {e.name for e in context.suite.evals}
        self._counted: dict[tuple[str, str, tuple[str, ...] | None], Sizes] = {}

    def find_mistakes(self, gate: Gate) -> Iterator[str]:
        """Yield the mistakes of a gate.

        They are in its claim, in the names of its eval, candidates and baseline, and in its metric.
        """
        baselines, candidates = self.context.baselines, self.context.candidates
        yield from gate.find_mistakes()
        if gate.eval not in self.evals:
            yield f'metric is "{gate.metric}"; no eval "{gate.eval}"{did_you_mean(gate.eval, self.evals)}'
        for candidate in (c for c in gate.on if c not in candidates):
            yield f'on names "{candidate}", which is not a candidate{did_you_mean(candidate, candidates)}'
        if gate.versus == PARENT or gate.eval in self.suite.compared:
            what = f'versus is "{PARENT}"' if gate.versus == PARENT else f'eval "{gate.eval}" is against "{PARENT}"'
            if not self.suite.copies:
                yield f"{what}, but no [[export]] of the suite converts the model"
            for candidate in (c for c in gate.on if c not in self.suite.copies):
                yield (f'{what}, but "{candidate}" is not a converted copy; remove "on", or name copies in it')
        if gate.versus == ADAPTER:
            yield from self._iterate_adapter_mistakes(gate)
        if gate.versus is not None and gate.versus not in (PARENT, ADAPTER, *baselines):
            yield f'versus is "{gate.versus}", which is not a baseline{did_you_mean(gate.versus, baselines)}'
        if gate.of == "recipe":
            yield from self._iterate_recipe_mistakes(gate)
        if task := self.tasks.get(gate.eval):
            yield from self._iterate_metric_mistakes(gate, task)

    def _iterate_adapter_mistakes(self, gate: Gate) -> Iterator[str]:
        """Yield why a gate cannot compare merges with the adapter. It needs an adapter and its merges."""
        suite, made, what = self.suite, self.context.made, f'versus is "{ADAPTER}", but'
        if ADAPTER not in made and suite.candidate:
            yield f"{what} the candidate is a model without its adapter; name the adapter instead, or remove the gate"
        elif ADAPTER not in made:
            whole = trains_whole(suite, self.context.plugins)
            yield f"{what} {'training changes all weights' if whole else 'the suite has no adapter'}; remove the gate"
        elif made == (ADAPTER,):
            yield f'{what} the suite does not merge it; add [merge] with base = "original", or remove the gate'
        for candidate in (c for c in gate.on if c in self.context.candidates and (c == ADAPTER or c not in made)):
            yield f'{what} "{candidate}" is not a merge; remove "on", or name merges in it'

    def _iterate_recipe_mistakes(self, gate: Gate) -> Iterator[str]:
        """Yield why a claim about a recipe cannot be judged: it needs runs, each by itself, and one fixed baseline."""
        train, task, recipe = self.suite.train, self.tasks.get(gate.eval), self.context.recipe
        if not (train and train.seeds) and not (self.context.ahead and train is None):
            yield 'of = "recipe" needs runs with several seeds; add seeds = [1, 2, 3, 4, 5] to [train]'
        baseline = self.suite.subjects.get(gate.versus or "")
        if baseline and baseline.released:
            what = f'"{gate.versus}" is itself trained with one seed'
            yield f'of = "recipe": {what}; compare with a model that is not, or remove "of"'
        if recipe and gate.on != [recipe]:
            yield f'of = "recipe" is about {recipe}; remove "on"'
        if task and (task.compares or task.marks):
            what = "compares with another model" if task.compares else "is graded when the model is gone"
            yield f'of = "recipe": "{gate.eval}" {what}; claim a metric that a model has by itself'
        if task and task.spec.stop == "early":
            yield f'of = "recipe": the runs of "{gate.eval}" must answer the same rows; remove stop = "early"'

    def _iterate_metric_mistakes(self, gate: Gate, task: Task) -> Iterator[str]:
        """Yield a gate's mistakes of metric and rows. Warn of claims that the rows cannot prove."""
        if mistakes := [*draws.find_gate_mistakes(gate, task)]:
            yield from mistakes
            return
        if (metric := task.metrics.get(gate.metric_name)) is None:
            known = did_you_mean(gate.metric_name, task.metrics)
            yield f'metric is "{gate.metric}"; eval "{gate.eval}" has no metric "{gate.metric_name}"{known}'
            return
        if gate.versus and task.compares:
            yield (f'"{gate.metric}" is a comparison with {task.spec.against} already; claim min or max')
        yield from gate.find_metric_mistakes(metric, None if task.samples is None else len(task.samples))
        against, more = ("max", "more") if metric.better == "higher" else ("min", "less")
        if getattr(gate, against) is not None:
            self.context.warnings.append(f'{gate.where}: {against} bounds "{metric.name}", for which {more} is better')
        missing_check = f"the harness's own check {contamination.CHECK}"
        facts = EvalFacts(
            task.spec.use,
            generates=task.generates,
            has_data=task.spec.data is not None,
            trains=self.suite.trains,
            missing_leak_check="" if contamination.has_leak_check(self.context.plugins) else missing_check,
        )
        for condition in CONDITIONS:
            yield from condition.find_eval_mistakes(gate, facts)
        yield from self._iterate_slice_mistakes(gate, task)
        if task.spec.stop == "early":
            yield from _iterate_early_stop_errors(gate, metric, task)
        if any("=" not in s for s in gate.slices) or gate.find_mistakes() or gate.find_metric_mistakes(metric):
            return  # told already
        if (alpha := gate_alpha(gate, self.suite)) > LARGE_ALPHA and not (gate.kind.counts or metric.is_count):
            what = f"alpha is {alpha:g}, so {alpha:.0%} of models that just break the claim would pass"
            self.context.warnings.append(f"{gate.where}: {what}; set {LARGE_ALPHA:g} or less")
        if gate.forbids_risk(gate.risk(metric)):
            what = f"the risk of a mean of {metric.name} is approximate, so the gate cannot pass"
            self.context.warnings.append(f"{gate.where}: {what}; {format_exact_risk_ways(gate.is_of_command)}")
        sizes = self._count_slice_sizes(gate, task)
        why = find_unprovable_error(gate, metric, task.rows_of(metric.name), gate_alpha(gate, self.suite), sizes)
        if why := why or find_few_clusters_error(gate, metric, sizes):
            self.context.warnings.append(f"{gate.where}: {why}")

    def _count_slice_sizes(self, gate: Gate, task: Task) -> Sizes:
        """Return the sizes of a gate's slices. They are cached, since gates on the same rows share them."""
        rows = task.rows_of(gate.metric_name) or ()
        some = gate.metric_name if len(rows) < len(task.samples or ()) else ""
        key = (task.spec.name, some, None if gate.slice is None else tuple(gate.slices))
        if key not in self._counted:
            self._counted[key] = count_units(gate, rows)
        return self._counted[key]

    def _iterate_slice_mistakes(self, gate: Gate, task: Task) -> Iterator[str]:
        """Yield the mistakes in a gate's declared slices.

        A column or a value may be missing from its rows. Warn if all slices are smaller than `min_n`.
        """
        declared = [s for s in gate.slices if "=" in s]
        for column in dict.fromkeys(s.partition("=")[0] for s in declared):
            if column not in task.spec.slices:
                known = did_you_mean(column, task.spec.slices)
                yield f'slice column "{column}" is not among the slices of "{gate.eval}"{known}'
                return
        if task.samples is None or not declared or len(declared) < len(gate.slices):
            return
        parts = self._count_slice_sizes(gate, task)
        for name in (name for name, (rows, _) in parts.items() if not rows):
            column, _, value = name.partition("=")
            yield f'slice "{name}" has no rows{did_you_mean(value, {str(s.row.get(column)) for s in task.samples})}'
        if parts and max(rows for rows, _ in parts.values()) < gate.min_n:
            what = f"no slice has min_n = {gate.min_n} rows, so the gate cannot pass; add rows, or lower min_n"
            self.context.warnings.append(f"{gate.where}: {what}")


def _iterate_early_stop_errors(gate: Gate, metric: Metric, task: Task) -> Iterator[str]:
    """Yield reasons why a gate cannot be decided early.

    An eval with stop = "early" needs gates that are decided row by row.
    """
    clustered = bool(coarsest_clusterings(cluster_labels(task.samples or (), questions=False)))
    why = {
        f'"{metric.name}" has no known range': not metric.is_share or metric.combine is not None,
        "rows in clusters are not independent": clustered or task.spec.cluster is not None,
        "all rows of a slice are needed": gate.slice is not None,
        "the gate counts over all rows": gate.kind.counts,
        "its test needs all rows": gate.kind.has_test and not gate.kind.counts,
        f"the gate is about {gate.estimand}": gate.estimand != "rows",
        "its margin is relative": gate.relative,
        "the copy's parent may have answered fewer rows": gate.versus == PARENT,
        "the adapter may have answered fewer rows": gate.versus == ADAPTER,
        "its answers are graded only when all are there": bool(task.marks),
    }
    for reason in (reason for reason, so in why.items() if so):
        yield f'eval "{gate.eval}" stops early, but {reason}; remove stop = "early"'


# -- exports that make other weights: which copies there are, and what is wrong with them -------------------------


def add_copies(suite: Suite, plugins: Plugins) -> Suite:
    """Name every converted copy of a suite.

    Gates that only copies can meet, such as those against the parent, apply to copies alone.
    """
    exports = tuple(replace(e, name=e.name or e.use) if _is_converting_export(e, plugins) else e for e in suite.exports)
    exports = tuple(replace(e, path=e.path and str(suite.resolve(e.path))) for e in exports)
    suite = replace(suite, exports=exports)
    about = {g.id for g in suite.gates if g.versus == PARENT or g.eval in suite.compared}
    copies = list(suite.copies)
    gates = tuple(replace(g, on=copies) if g.id in about and not g.on else g for g in suite.gates)
    return replace(suite, gates=gates)


def find_copy_mistakes(suite: Suite, plugins: Plugins, made: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the place and message of each mistake in converted copies.

    `made` are the candidates that copies may be made from.
    """
    taken = {*suite.subjects, *made}
    for export in suite.exports:
        exporter = plugins.provided.get(("exporter", export.use))
        if export.path is not None and exporter and not schema.has_parameter(exporter.function, "path"):
            yield (
                export.where,
                (
                    f'"path" names a file converted elsewhere, but "{export.use}" converts the '
                    'model itself; remove "path"'
                ),
            )
        if not export.name:
            continue
        if not _is_converting_export(export, plugins):
            yield (
                export.where,
                (f'"name" names a converted copy, but "{export.use}" writes "{export.from_}" as it is; remove "name"'),
            )
            continue
        name = export.name
        if what := find_name_error(name):
            yield export.where, what
        elif is_reserved(name) or name in RELEASES or name in taken:
            yield export.where, f'name "{name}" is taken; give this copy another with name = "…"'
        elif export.from_ == "adapter":
            yield export.where, (f'"{export.use}" converts whole models, and "adapter" is not one; use from = "merged"')
        elif (why := _find_ungated_copy_error(suite, export)) is not None:
            yield export.where, (f'no blocking gate is on "{name}"{why}; add one, since nothing ships without a gate')
        taken.add(name)


def _is_converting_export(export: Export, plugins: Plugins) -> bool:
    exporter = plugins.provided.get(("exporter", export.use))  # where there is none, who looks at it tells
    return exporter is not None and bool(exporter.capabilities.converts)


def _find_ungated_copy_error(suite: Suite, export: Export) -> str | None:
    """Explain why no gate keeps a copy from shipping.

    None if a gate does. A gate against its parent is not enough if the parent has no gate, since it proves no more than
    is known of the parent.
    """
    about = {g.id for g in suite.gates if g.versus == PARENT or g.eval in suite.compared}
    if not (blocking := [g for g in suite.gates if g.blocking and g.applies_to(export.name)]):
        return ""
    relative = all(g.id in about for g in blocking)
    if relative and not any(g.blocking and g.applies_to(export.from_) for g in suite.gates):
        return f' except against "{export.from_}", which has no gate itself'
    return None


# -- which subject is evaluated by which eval, in the order in which it happens ----------------------------------


def _select_few_shot_evals(context: Context, subject: str, tasks: Mapping[str, Task]) -> list[str]:
    """Return the evals a few-shot subject answers: those it or a gate names, else all that have targets."""
    baseline = context.suite.subjects[subject]
    gated = [g.eval for g in context.suite.gates if g.versus == subject]
    gated += [n for n, t in tasks.items() if t.marks == "pairs" and t.spec.against == subject]
    for name in (name for name in baseline.evals if name not in tasks):
        context.mistakes.add(baseline.where, f'evals names "{name}", which is not an eval{did_you_mean(name, tasks)}')
    if chosen := {*baseline.evals, *gated}:
        return [name for name in tasks if name in chosen]
    alone = {name: t for name, t in tasks.items() if not (t.compares or t.brings_rows)}
    return [name for name, t in alone.items() if t.samples is None or any(s.target for s in t.samples)]


def _iterate_evaluation_items(
    context: Context, tasks: Mapping[str, Task], prompted: Mapping[str, Sequence[str]], runs: Iterable[str]
) -> Iterator[Item]:
    """Yield the items in their order of evaluation.

    An item comes after the one that it is compared with. `prompted` holds the evals of few-shot subjects and of the
    other `runs` of a recipe.
    """
    order = [*context.baselines, *context.candidates, *runs]
    for subject in order:
        for name in prompted.get(subject, tasks):
            task, against = tasks[name], tasks[name].spec.against
            if context.selecting and not task.spec.select and (task.spec.data or task.brings_rows):
                continue
            if task.comparative and against == PARENT:
                made = context.suite.copies.get(subject)
                against = made.from_ if made else subject
            late = subject not in context.baselines and task.compares and order.index(against) < order.index(subject)
            if late or not task.compares or (subject == against and not task.comparative):
                yield Item(context.suite.path.name, subject, name)
