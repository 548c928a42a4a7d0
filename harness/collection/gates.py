"""Gates against what was collected: their subjects, metrics and slices, and whether the rows can prove them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.claims import contamination
from harness.claims.gate import PARENT, Gate
from harness.claims.group import COUNTED
from harness.claims.min_rows import Sizes, few_clusters_error, sizes_of, unprovable_error
from harness.collection.collected import Task
from harness.collection.context import Context
from harness.errors import did_you_mean
from harness.records.metrics import Metric
from harness.suite.tables import alpha_of


class GateChecks:
    """The checks of a suite's gates on its tasks."""

    def __init__(self, context: Context, tasks: Mapping[str, Task]) -> None:
        self.context, self.suite, self.tasks = context, context.suite, tasks
        self.evals = {e.name for e in context.suite.evals}
        self._counted: dict[tuple[str, str, tuple[str, ...] | None], Sizes] = {}

    def mistakes(self, gate: Gate) -> Iterator[str]:
        """Yield what is wrong with a gate's claim, and with the names of its eval, candidates and baseline."""
        baselines, candidates = self.context.baselines, self.context.candidates
        yield from gate.mistakes()
        if not gate.any_of and gate.eval not in self.evals:
            yield f'metric is "{gate.metric}"; no eval "{gate.eval}"{did_you_mean(gate.eval, self.evals)}'
        for candidate in (c for c in gate.on if c not in candidates):
            yield f'on names "{candidate}", which is no candidate{did_you_mean(candidate, candidates)}'
        if gate.versus == PARENT or gate.eval in self.suite.compared:
            what = f'versus is "{PARENT}"' if gate.versus == PARENT else f'eval "{gate.eval}" is against "{PARENT}"'
            if not self.suite.copies:
                yield f"{what}, and no [[export]] of the suite makes a copy"
            for candidate in (c for c in gate.on if c not in self.suite.copies):
                yield f'{what}, and "{candidate}" has none; leave out "on", or name copies'
        if gate.versus is not None and gate.versus not in (PARENT, *baselines):
            yield f'versus is "{gate.versus}", which is no baseline{did_you_mean(gate.versus, baselines)}'
        if task := self.tasks.get(gate.eval):
            yield from self._mistakes_on(gate, task)

    def _mistakes_on(self, gate: Gate, task: Task) -> Iterator[str]:
        """Yield what is wrong with a gate on its metric and rows, and warn of what these cannot prove."""
        if (metric := task.metrics.get(gate.metric_name)) is None:
            known = did_you_mean(gate.metric_name, task.metrics)
            yield f'metric is "{gate.metric}"; eval "{gate.eval}" has no metric "{gate.metric_name}"{known}'
            return
        if gate.versus and task.compares:
            yield f'"{gate.metric}" compares with {task.spec.against} by itself; claim min or max'
        yield from gate.mistakes_on(metric, None if task.samples is None else len(task.samples))
        if gate.group and metric.is_count:
            yield f'is one of "{gate.group}", {COUNTED}'
        against, more = ("max", "more") if metric.better == "higher" else ("min", "less")
        if getattr(gate, against) is not None:
            self.context.warnings.append(f'{gate.where}: {against} bounds "{metric.name}", of which {more} is better')
        if gate.cut_at_most is not None and not task.generates:
            yield f'cut_at_most: "{task.spec.use}" asks for no answers; leave it out'
        if gate.clean_only and not self.suite.trains:  # a gate is not clean because nobody looked
            yield "clean_only: the suite trains nothing, so there are no training rows to look for leaks in"
        elif gate.clean_only and task.spec.data is None:
            yield f'clean_only: leaks are looked for in rows that "data" names, and "{task.spec.use}" has none'
        elif gate.clean_only and not contamination.looks(self.context.plugins):
            yield f"clean_only: the harness's own check {contamination.CHECK} is not there; do not block it with -p no:"
        if gate.group and task.spec.rows_at_most is not None:
            yield f'stands in an any_of, and "{gate.eval}" has rows_at_most; claim it in a gate of its own'
        if gate.estimand == "clusters" and task.samples and all(s.cluster is None for s in task.samples):
            yield f'estimand is "clusters", and rows of "{gate.eval}" are in none; name their column with "cluster"'
        yield from self._slice_mistakes(gate, task)
        if task.spec.stop == "early":
            yield from _early_mistakes(gate, metric, task)
        if any("=" not in s for s in gate.slices) or gate.mistakes() or gate.mistakes_on(metric):
            return  # told already
        sizes = self._sizes(gate, task)
        why = unprovable_error(gate, metric, task.rows_of(metric.name), alpha_of(gate, self.suite), sizes)
        if why := why or few_clusters_error(gate, metric, sizes):
            self.context.warnings.append(f"{gate.where}: {why}")

    def _sizes(self, gate: Gate, task: Task) -> Sizes:
        """Return the sizes of a gate's slices, which are counted once for all gates on the same."""
        rows = task.rows_of(gate.metric_name) or ()
        some = gate.metric_name if len(rows) < len(task.samples or ()) else ""
        key = (task.spec.name, some, None if gate.slice is None else tuple(gate.slices))
        if key not in self._counted:
            self._counted[key] = sizes_of(gate, rows)
        return self._counted[key]

    def _slice_mistakes(self, gate: Gate, task: Task) -> Iterator[str]:
        """Yield which slices that a gate declares are no columns or values of its rows; warn where all are small."""
        declared = [s for s in gate.slices if "=" in s]
        for column in dict.fromkeys(s.partition("=")[0] for s in declared):
            if column not in task.spec.slices:
                known = did_you_mean(column, task.spec.slices)
                yield f'slice column "{column}" is not among the slices of "{gate.eval}"{known}'
                return
        if task.samples is None or not declared or len(declared) < len(gate.slices):
            return
        parts = self._sizes(gate, task)
        for name in (name for name, (rows, _) in parts.items() if not rows):
            column, _, value = name.partition("=")
            yield f'slice "{name}" has no rows{did_you_mean(value, {str(s.row.get(column)) for s in task.samples})}'
        if parts and max(rows for rows, _ in parts.values()) < gate.min_n:
            what = f"no slice has {gate.min_n} rows (min_n), so it cannot pass; add rows, or lower min_n"
            self.context.warnings.append(f"{gate.where}: {what}")


def _early_mistakes(gate: Gate, metric: Metric, task: Task) -> Iterator[str]:
    """Yield what keeps a gate from being decided row by row, where its eval has stop = "early"."""
    clustered = len({s.cluster or s.id for s in task.samples or ()}) < len(task.samples or ())
    why = {
        f'"{metric.name}" has no known range': not metric.is_share or metric.combine is not None,
        "rows in clusters are not independent": clustered or task.spec.cluster is not None,
        "slices are judged on all their rows": gate.slice is not None,
        "it counts over all rows": gate.kind.counts,
        "its test is of all rows": gate.kind.has_test and not gate.kind.counts,
        "it is about clusters": gate.estimand == "clusters",
        "it belongs to an any_of": bool(gate.group),
        "its margin is relative": gate.relative,
        "a parent may have answered fewer rows": gate.versus == PARENT,
        "it is marked when all answers are there": bool(task.marks),
    }
    for reason in (reason for reason, so in why.items() if so):
        yield f'eval "{gate.eval}" stops early, but {reason}; remove stop = "early"'
