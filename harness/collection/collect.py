"""Suite -> Plan: what will be evaluated, with every name, option and local file checked.

No torch, no tokenizer, no network (but for a plugin's own data that is not in the cache yet).
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.collection.choices import check_choices
from harness.collection.context import Context, check_tables
from harness.collection.conversions import copy_mistakes, with_copies
from harness.collection.gates import GateChecks
from harness.collection.items import items_of, shot_evals
from harness.collection.plan import Plan, Task, trains_whole
from harness.collection.sources import Sources
from harness.collection.tasks import task_of, with_shots
from harness.collection.training import training_rows
from harness.errors import UsageError
from harness.gates.validate import order_mistakes
from harness.plugins import Plugins
from harness.suite.tables import Suite


def collect(
    suite: Suite, plugins: Plugins, *, remote: bool = False, limit: int | None = None, selecting: bool = False
) -> Plan:
    """Check names, options and data of a suite, and list its items.

    With `remote` data sets of the Hub are read too. `limit` takes the first rows of every eval, `selecting` those
    of its select split. Raises UsageError with every mistake.
    """
    context = _context(suite, plugins, remote, limit, selecting)
    sources = Sources(context)
    check_tables(context)
    training, origins = training_rows(context, sources)
    tasks = {t.spec.name: t for spec in context.suite.evals if (t := task_of(context, sources, spec))}
    check_choices(context, tasks)
    _check_gates(context, tasks)
    context.mistakes.raise_if_any()
    prompted = {subject: shot_evals(context, subject, tasks) for subject in context.suite.subjects}
    for name in _shown(context.suite, prompted):
        tasks[name] = with_shots(context, sources, tasks[name])
    context.mistakes.raise_if_any()
    items = tuple(items_of(context, tasks, prompted))
    if selecting and not any(e.select for e in context.suite.evals):
        raise UsageError(f'{suite.path}: --select: no eval has a select split; give one select = "data/select.jsonl"')
    return Plan(
        context.suite,
        plugins,
        tasks,
        context.baselines,
        context.candidates,
        items,
        tuple(training) if training is not None else None,
        tuple(origins),
        tuple(context.warnings),
        selecting=selecting,
    )


def _context(suite: Suite, plugins: Plugins, remote: bool, limit: int | None, selecting: bool) -> Context:
    suite = with_copies(suite, plugins)
    made, copies = _made(suite, plugins), suite.copies.values()
    candidates = tuple(name for one in made for name in (one, *(e.name for e in copies if e.from_ == one)))
    baselines = ("base", *suite.subjects)
    return Context(suite, plugins, remote, limit, selecting, baselines, candidates, made)


def _made(suite: Suite, plugins: Plugins) -> tuple[str, ...]:
    """Return the models that training and merging, or somebody else, make, in the order they come to be."""
    if (suite.candidate and suite.candidate.merged) or trains_whole(suite, plugins):
        return ("merged",)
    if not (suite.train or suite.candidate):
        return ()
    return ("adapter", *dict.fromkeys(suite.merged(variant) for variant in suite.merges))


def _check_gates(context: Context, tasks: Mapping[str, Task]) -> None:
    """Check the gates one by one and in their order, and that what stops early or is copied is gated."""
    suite, checks = context.suite, GateChecks(context, tasks)
    if not suite.gates:
        what = "there is no [[gate]], so nothing is decided and the run will end with exit 5"
        context.warnings.append(f"{suite.path}: {what}; add one, or read the numbers alone")
    elif not context.candidates:
        what = "there are gates and no candidate to judge, so the run will end with exit 5"
        context.warnings.append(f"{suite.path}: {what}; add [adapter] and [train], or give --candidate")
    for gate in suite.gates:
        checks.check(gate)
    for spec in suite.evals:
        if spec.stop == "early" and all(g.eval != spec.name for g in suite.gates):
            context.mistakes.add(spec.where, 'stop = "early" needs a gate to decide it')
    for gate, what in order_mistakes(suite.gates, context.candidates):
        context.mistakes.add(gate.where, what)
    for where, what in copy_mistakes(suite, context.plugins, context.made):
        context.mistakes.add(where, what)


def _shown(suite: Suite, prompted: Mapping[str, list[str]]) -> list[str]:
    """Return the evals of which worked examples are shown."""
    shown = [name for subject, names in prompted.items() if suite.subjects[subject].examples for name in names]
    return list(dict.fromkeys(shown))
