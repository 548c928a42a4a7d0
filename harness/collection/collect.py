"""Suite -> Collection: what will be evaluated, with every name, option and local file checked.

No torch, no tokenizer, no network (but for a plugin's own data that is not in the cache yet).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harness import schema
from harness.claims.gate import PARENT
from harness.claims.group import order_mistakes
from harness.claims.min_rows import unprovable_error
from harness.collection.collected import Collection, Item, Task, trains_whole
from harness.collection.context import Context, check_tables
from harness.collection.conversions import copy_mistakes, with_copies
from harness.collection.gates import GateChecks
from harness.collection.sources import Sources, tell_overlaps, training_rows
from harness.collection.tasks import task_of, with_shots
from harness.errors import UsageError, did_you_mean
from harness.plugins import Plugins
from harness.suite.tables import Suite, Sweep, alpha_of


def collect(
    suite: Suite, plugins: Plugins, *, remote: bool = False, limit: int | None = None, selecting: bool = False,
    ahead: bool = False,
) -> Collection:  # fmt: skip
    """Check names, options and data of a suite, and list its items.

    With `remote` data sets of the Hub are read too. `limit` takes the first rows of every eval, `selecting` those of
    its select split. `ahead`, a suite for candidates has one still to come. Raises UsageError with every mistake.
    """
    suite = with_copies(suite, plugins)
    parts = ("adapter", *dict.fromkeys(suite.merged(variant) for variant in suite.merges))
    made: tuple[str, ...] = ()  # the models that training and merging, or somebody else, make, in order
    if (suite.candidate and suite.candidate.merged) or trains_whole(suite, plugins):
        made = ("merged",)
    elif suite.train or suite.candidate:
        made = parts
    elif ahead:
        named = {*(e.from_ for e in suite.exports), *(name for g in suite.gates for name in g.on)}
        made = tuple(name for name in parts if name in named) or ("merged",)
    copies = suite.copies.values()
    candidates = tuple(name for one in made for name in (one, *(e.name for e in copies if e.from_ == one)))
    context = Context(suite, plugins, remote, limit, selecting, ("base", *suite.subjects), candidates, made)
    context.warnings.extend(plugins.idle)
    sources = Sources(context)
    check_tables(context)
    training, origins = training_rows(context, sources)
    tasks = {t.spec.name: t for spec in suite.evals if (t := task_of(context, sources, spec))}
    if not context.mistakes.found:
        tell_overlaps(context, sources)
    if suite.choose and (what := _chooser_error(suite.choose, tasks)):
        context.mistakes.add(f'{suite.path}: [merge] choose = "{suite.choose}"', what)
    if suite.sweep:
        _check_sweep(context, suite.sweep, tasks)
    _check_watched(context, tasks)
    check_gates(context, tasks)
    context.mistakes.raise_if_any()
    prompted = {subject: _shot_evals(context, subject, tasks) for subject in suite.subjects}
    for name in dict.fromkeys(n for s, names in prompted.items() if suite.subjects[s].examples for n in names):
        tasks[name] = with_shots(context, sources, tasks[name])
    for subject, task in ((suite.subjects[s], tasks[n]) for s, names in prompted.items() for n in names):
        if 0 < len(task.shots) < subject.examples:
            what = f'"{task.spec.name}" has {len(task.shots)} worked examples, and not {subject.examples}'
            context.warnings.append(f"{subject.where}: {what}; lower shots, or name more with fewshot_data")
    context.mistakes.raise_if_any()
    if selecting and not any(e.select for e in suite.evals):
        raise UsageError(f'{suite.path}: --select: no eval has a select split; give one select = "data/select.jsonl"')
    items, rows = tuple(_items(context, tasks, prompted)), None if training is None else tuple(training)
    told = tuple(origins), tuple(context.warnings)
    return Collection(
        suite, plugins, tasks, context.baselines, candidates, items, rows, *told, selecting=selecting, ahead=ahead
    )


# -- what is chosen on select splits: a merge, the value of a sweep, and what is looked at while training ---------


def _check_sweep(context: Context, sweep: Sweep, tasks: Mapping[str, Task]) -> None:
    """Check what decides a sweep, and warn where no trial could be shown to be better."""
    if what := _chooser_error(sweep.by, tasks):
        context.mistakes.add(f'{sweep.where} by = "{sweep.by}"', what)
        return
    gate, task = sweep.step, tasks[sweep.by.partition(".")[0]]
    metric = task.metrics[gate.metric_name]
    if metric.is_count or metric.is_agreement:
        what = f'by is "{sweep.by}", of scale "{metric.scale}"; want a metric whose rows can be compared'
        context.mistakes.add(sweep.where, what)
    elif sweep.rule == "step" and (
        why := unprovable_error(gate, metric, task.rows_of(metric.name, select=True), alpha_of(gate, context.suite))
    ):
        context.warnings.append(f"{sweep.where}: {why}; the first value will be chosen")


def _chooser_error(by: str, tasks: Mapping[str, Task]) -> str:
    """Return why no model can be chosen on select rows by an EVAL.METRIC, or nothing."""
    evaluation, _, metric = by.partition(".")
    if (task := tasks.get(evaluation)) is None:
        return f'no eval "{evaluation}"{did_you_mean(evaluation, tasks)}'
    if metric not in task.metrics:
        return f'eval "{evaluation}" has no metric "{metric}"{did_you_mean(metric, task.metrics)}'
    if task.spec.select is None:
        return f'eval "{evaluation}" has no select split; what chose a candidate cannot confirm it'
    compares = f'"{evaluation}" compares with another model; choose by one that does not'
    return compares if task.compares or task.marks else ""


def _check_watched(context: Context, tasks: Mapping[str, Task]) -> None:
    """Check which evals are looked at while training: rows to select by, and a model that compares with none."""
    if (train := context.suite.train) is None or not train.watch:
        return
    complain = context.complain(train.where)
    trainer = context.plugins.provided.get(("trainer", train.use))
    if trainer and not schema.wants(trainer.function, "watch"):
        complain(f'watch: the trainer "{train.use}" cannot be watched; remove it')
    for name in train.watch:
        if (task := tasks.get(name)) is None:
            complain(f'watch names "{name}", which is no eval{did_you_mean(name, tasks)}')
        elif task.spec.select is None:
            complain(f'watch: eval "{name}" has no select split; rows that are looked at cannot confirm')
        elif task.compares or task.marks or task.uncached:
            complain(f'watch: "{name}" needs more than the model that is trained; watch another')


def check_gates(context: Context, tasks: Mapping[str, Task]) -> None:
    """Check the gates one by one and in their order, and that what stops early or is copied is gated."""
    suite, checks = context.suite, GateChecks(context, tasks)
    if not suite.gates:
        what = "there is no [[gate]], so nothing is decided and the run will end with exit 5"
        context.warnings.append(f"{suite.path}: {what}; add one, or read the numbers alone")
    elif not (suite.train or suite.candidate or suite.rows):
        what = "there are gates and no candidate to judge, so the run will end with exit 5"
        context.warnings.append(f"{suite.path}: {what}; add [adapter] and [train], or give --candidate")
    for gate in suite.gates:
        for mistake in checks.mistakes(gate):
            context.mistakes.add(gate.where, mistake)
    for spec in (e for e in suite.evals if e.stop == "early" and all(g.eval != e.name for g in suite.gates)):
        context.mistakes.add(spec.where, 'stop = "early" needs a gate to decide it')
    for gate, what in order_mistakes(suite.gates, context.candidates):
        context.mistakes.add(gate.where, what)
    for where, what in copy_mistakes(suite, context.plugins, context.made):
        context.mistakes.add(where, what)


# -- which subject is evaluated by which eval, in the order in which it happens ----------------------------------


def _shot_evals(context: Context, subject: str, tasks: Mapping[str, Task]) -> list[str]:
    """Return the evals a few-shot subject answers: those it or a gate names, else all that have targets."""
    baseline = context.suite.subjects[subject]
    gated = [g.eval for g in context.suite.gates if g.versus == subject]
    gated += [n for n, t in tasks.items() if t.marks == "pairs" and t.spec.against == subject]
    for name in (name for name in baseline.evals if name not in tasks):
        context.mistakes.add(baseline.where, f'evals names "{name}", which is no eval{did_you_mean(name, tasks)}')
    if chosen := {*baseline.evals, *gated}:
        return [name for name in tasks if name in chosen]
    alone = {name: t for name, t in tasks.items() if not (t.compares or t.brings_rows)}
    return [name for name, t in alone.items() if t.samples is None or any(s.target for s in t.samples)]


def _items(context: Context, tasks: Mapping[str, Task], prompted: Mapping[str, Sequence[str]]) -> Iterator[Item]:
    """Yield the items; `prompted` holds the evals of each few-shot subject."""
    for subject in (*context.baselines, *context.candidates):
        for name in prompted.get(subject, tasks):
            spec = tasks[name].spec
            if context.selecting and not spec.select and (spec.data or tasks[name].brings_rows):
                continue
            if _is_answered(context, subject, tasks[name]):
                yield Item(context.suite.path.name, subject, name)


def _is_answered(context: Context, subject: str, task: Task) -> bool:
    """Return whether an eval is put to a subject: what it compares with must be there before."""
    order, against = [*context.baselines, *context.candidates], task.spec.against
    if task.comparative:
        if against == PARENT:
            made = context.suite.copies.get(subject)
            against = made.from_ if made else subject
        return subject not in context.baselines and order.index(against) < order.index(subject)
    if task.marks == "pairs":
        early = subject in context.baselines or order.index(against) > order.index(subject)
        return subject == against or not early
    return True
