"""What merging, or converting, changed: a candidate beside the one it was made of, on the rows that both were asked.

No gate need ask it, so it is told whatever was asked; it decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from harness.collection.plan import Plan, Task
from harness.gates.eligibility import Unjudgeable, case_of
from harness.gates.hypothesis import hypothesis_on
from harness.gates.inference import infer
from harness.gates.outcome import changed_rows
from harness.records.gates import Gate
from harness.records.metrics import Metric
from harness.records.run import Change
from harness.records.samples import Result
from harness.texts.numbers import difference, number

NO_ROWS = ("count", "agreement")  # scales of what is not of single rows
Results = Mapping[tuple[str, str], Result]  # by subject and eval


def changes_of(plan: Plan, results: Results) -> list[Change]:
    """Return what changed of every metric that is made of rows, from each candidate to what was made of it."""
    found = []
    for before, after in _steps(plan):
        for name, task in plan.tasks.items():
            ours, theirs = results.get((after, name)), results.get((before, name))
            if ours and theirs and not task.uncached:
                metrics = [m for m in task.metrics.values() if not (m.combine or m.labelled or m.scale in NO_ROWS)]
                changes = (_change(task, m, ours, theirs, plan.suite.about.alpha) for m in metrics)
                found += [change for change in changes if change]
    return found


def sentences(plan: Plan, changes: Sequence[Change]) -> list[str]:
    """Return a sentence for every metric that a step changed: of the gates, and the first of each evaluation."""
    copies, first = plan.suite.copies, {f"{n}.{next(iter(t.metrics))}" for n, t in plan.tasks.items() if t.metrics}
    named = first | {g.metric for g in plan.suite.gates}
    changes = [c for c in changes if f"{c.eval}.{c.metric}" in named]
    steps = (f"making {c.after} of {c.before}" if c.after in copies else _merging(c) for c in changes)
    return [words for c, step in zip(changes, steps, strict=True) if (words := _words(c, step))]


def _steps(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield every candidate that was made of another one, after that one."""
    merged = {plan.suite.merged(variant) for variant in plan.suite.merges}
    for name in plan.candidates:
        if copy := plan.suite.copies.get(name):
            yield copy.from_, name
        elif name in merged:
            yield "adapter", name


def _change(task: Task, metric: Metric, ours: Result, theirs: Result, alpha: float) -> Change | None:
    """Compare two results as a gate with margin 0 would; None where they cannot be compared.

    Of rows that were looked at one after the other, until a gate was decided, nothing more is inferred.
    """
    both = {s.id for s in ours.scores} & {s.id for s in theirs.scores}
    samples = [s for s in task.samples or () if s.id in both]
    gate = Gate("", f"{task.spec.name}.{metric.name}", versus=theirs.subject, better_by=0.0, severity="warn")
    ours_there, theirs_there = (
        replace(r, order=(), caveats=(), scores=tuple(s for s in r.scores if s.id in both)) for r in (ours, theirs)
    )
    case = case_of(gate, metric, ours_there, theirs_there, samples, alpha)
    if isinstance(case, Unjudgeable):
        return None
    whole = hypothesis_on(case, case.rows)
    rows = changed_rows(whole)
    found = Change(
        task.spec.name,
        metric.name,
        whole.baseline,
        whole.value,
        len(whole.ours),
        rows.won_count,
        rows.lost_count,
        rows.won,
        rows.lost,
        scale=metric.scale,
        before=theirs.subject,
        after=ours.subject,
    )
    if ours.order or theirs.order:
        return found
    try:
        test = infer(whole).test
    except (ValueError, ModuleNotFoundError):  # nothing varies, or no gate of the suite needs numpy
        return found
    if not all(map(math.isfinite, (test.estimate, test.lower, test.upper))):
        return found
    return replace(found, estimate=test.estimate, lower=test.lower, upper=test.upper)


def _merging(change: Change) -> str:
    return "merging" if change.after == "merged" else f"the merge {change.after}"


def _words(change: Change, step: str) -> str:
    """Return what a step changed of a metric, or nothing: where no row changed, or it is no more than rounding."""
    c, name = change, f"{change.eval}.{change.metric}"
    if not (c.won or c.lost):
        return ""
    values = f"{number(c.theirs)} to {number(c.ours)}"
    sure = c.lower is not None and c.upper is not None and (c.lower > 0 or c.upper < 0)
    bounds = f", {_figure(c, c.estimate)} [{_figure(c, c.lower)}, {_figure(c, c.upper)}]" if c.lower is not None else ""
    if c.scale != "proportion" and (not sure or number(c.theirs) == number(c.ours)):
        return ""
    if not sure:
        rows = f"changed {name} on {c.won + c.lost} rows, {c.lost} lost and {c.won} won"
        return f"{step} {rows}, which shows no difference ({values}{bounds})"
    if c.lost > c.won:
        return f"{step} cost {name} {_rows(c.lost)} and won {c.won} ({values}{bounds})"
    return f"{step} won {name} {_rows(c.won)} and cost {c.lost} ({values}{bounds})"


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def _figure(change: Change, x: float | None) -> str:
    """Write a difference as its kind of metric is; that of a perplexity is told by its logarithm."""
    if x is None:
        return "nan"
    return difference(change.scale, math.expm1(x) if change.scale == "perplexity" else x)
