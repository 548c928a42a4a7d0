"""What is chosen on select splits: the value of a sweep, a merge, and the evals that are looked at while training."""

from __future__ import annotations

from collections.abc import Mapping

from harness import schema
from harness.collection.context import Context
from harness.collection.plan import Task
from harness.errors import did_you_mean
from harness.gates.min_rows import unprovable_error
from harness.suite.tables import Sweep, alpha_of


def check_choices(context: Context, tasks: Mapping[str, Task]) -> None:
    """Check what chooses among merges and the trials of a sweep, and what is watched."""
    suite = context.suite
    if suite.choose:
        _check_chooser(context, f'{suite.path}: [merge] choose = "{suite.choose}"', suite.choose, tasks)
    if suite.sweep:
        _check_sweep(context, suite.sweep, tasks)
    _check_watched(context, tasks)


def _check_sweep(context: Context, sweep: Sweep, tasks: Mapping[str, Task]) -> None:
    """Check what decides a sweep, and warn where no trial could be shown to be better."""
    told = len(context.mistakes.found)
    _check_chooser(context, f'{sweep.where} by = "{sweep.by}"', sweep.by, tasks)
    if len(context.mistakes.found) > told:
        return
    gate, task = sweep.step, tasks[sweep.by.partition(".")[0]]
    metric = task.metrics[gate.metric_name]
    if metric.scale in ("count", "agreement"):
        context.mistakes.add(
            sweep.where, f'by is "{sweep.by}", of scale "{metric.scale}"; want a metric whose rows can be compared'
        )
    elif sweep.rule == "step" and (
        why := unprovable_error(gate, metric, task.rows_of(metric.name, select=True), alpha_of(gate, context.suite))
    ):
        context.warnings.append(f"{sweep.where}: {why}; the first value will be chosen")


def _check_chooser(context: Context, where: str, by: str, tasks: Mapping[str, Task]) -> None:
    """Check an EVAL.METRIC by which a model is chosen on select rows."""
    complain = context.complain(where)
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


def _check_watched(context: Context, tasks: Mapping[str, Task]) -> None:
    """Check which evals are looked at while training: rows to select by, and a model that compares with none."""
    train = context.suite.train
    if train is None or not train.watch:
        return
    complain = context.complain(train.where)
    trainer = context.plugins.provided.get(("trainer", train.use))
    if trainer and not schema.wants(trainer.function, "watch"):
        complain(f'watch: the trainer "{train.use}" cannot be watched; remove it')
    for name in train.watch:
        task = tasks.get(name)
        if task is None:
            complain(f'watch names "{name}", which is no eval{did_you_mean(name, tasks)}')
        elif task.spec.select is None:
            complain(f'watch: eval "{name}" has no select split; rows that are looked at cannot confirm')
        elif task.compares or task.marks or task.uncached:
            complain(f'watch: "{name}" needs more than the model that is trained; watch another')
