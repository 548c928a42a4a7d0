"""Which subject is evaluated by which eval, in the order in which it happens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harness.collection.context import Context
from harness.collection.plan import Item, Task
from harness.errors import did_you_mean
from harness.records.gates import PARENT


def shot_evals(context: Context, subject: str, tasks: Mapping[str, Task]) -> list[str]:
    """Return the evals a few-shot subject answers: those it or a gate names, else all that have targets."""
    declared = context.suite.subjects[subject].evals
    gated = [g.eval for g in context.suite.gates if g.versus == subject]
    gated += [n for n, t in tasks.items() if t.marks == "pairs" and t.spec.against == subject]
    for name in declared:
        if name not in tasks:
            where = context.suite.subjects[subject].where
            context.mistakes.add(where, f'evals names "{name}", which is no eval{did_you_mean(name, tasks)}')
    prompting = [
        n
        for n, t in tasks.items()
        if not (t.compares or t.brings_rows) and (t.samples is None or any(s.target for s in t.samples))
    ]
    chosen = [*declared, *gated] if declared or gated else prompting
    return [name for name in tasks if name in chosen]


def items_of(context: Context, tasks: Mapping[str, Task], prompted: Mapping[str, Sequence[str]]) -> Iterator[Item]:
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
