"""A whole run of lm_eval as one evaluation: the rows of all tasks of a group, weighted as lm_eval weights them.

A group's number is the mean of its tasks' numbers, by the tasks' sizes (`weight_by_size`) or each task alike; which
one it is its results file does not say, and its number does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.artifacts.digests import digest_value
from harness.errors import UsageError
from harness.records.scales import OnScale
from harness.rows.readers import fields as ask
from harness.rows.records import RawMetric, RawRow, RawRows, Wanted
from harness.rows.safe_read import SafeFiles
from harness.rows.wording import write_option

ALL = "all tasks"  # of a run whose tasks are in no group, or in several
HEX_DIGITS = 32


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that are judged by their mean: its name, its tasks, and the group's numbers by metric and filter."""

    name: str
    tasks: tuple[str, ...]
    numbers: Mapping[str, Any]


def find_group(files: SafeFiles, results: Path, tasks: set[str], want: Wanted, path: Path) -> TaskGroup | None:
    """Return the group that is meant: the one that is named, or, of a run with several tasks, what holds them all.

    None where a single task is meant. Raises UsageError where tasks of a group that is named have no rows.
    """
    told = files.read_json(results, constants=True) if results.is_file() else {}
    known = told.get("group_subtasks") if isinstance(told, dict) else None
    children = {name: list(map(str, own)) for name, own in (known or {}).items() if isinstance(own, list) and own}
    if want.task in tasks or (not want.task and len(tasks) < 2):
        return None
    numbers = {**(told.get("results") or {}), **(told.get("groups") or {})} if isinstance(told, dict) else {}
    inner = {name for own in children.values() for name in own}
    roots = [want.task] if want.task in children else [name for name in children if name not in inner]
    if want.task and want.task not in (*children, ALL):
        return None
    for name in roots:
        leaves = _list_tasks(name, children, frozenset())
        if lacking := sorted(set(leaves) - tasks) if want.task == name else []:
            what = f'group "{ask.display_name(name)}" has no rows of its task "{ask.display_name(lacking[0])}"'
            raise UsageError(f"{path}: {what}; run it with --log_samples")
        if want.task == name or (want.task != ALL and set(leaves) == tasks):
            return TaskGroup(name, tuple(sorted(leaves)), numbers.get(name) or {})
    keys = [{k for k in numbers.get(task) or {} if "," in k and "_stderr" not in k} for task in tasks]
    if all(keys) and not set.intersection(*keys):
        raise UsageError(_describe_no_common_metric(path, sorted(tasks)))
    return TaskGroup(ALL, tuple(sorted(tasks)), {})


def _describe_no_common_metric(path: Path, tasks: Sequence[str]) -> str:
    some = ", ".join(map(ask.display_name, tasks[:8]))
    what = f"has {len(tasks)} tasks ({some}) without a metric in common"
    return f"{path}: {what}; name one with {write_option('metric', 'TASK:NAME')}"


def _list_tasks(name: str, children: Mapping[str, Sequence[str]], above: frozenset[str]) -> list[str]:
    """Return the tasks of a group and its subgroups, each once."""
    if name in above:
        return []
    parts = [_list_tasks(one, children, above | {name}) if one in children else [one] for one in children[name]]
    return [*dict.fromkeys(task for part in parts for task in part)]


def join_tasks(group: TaskGroup, parts: Mapping[str, RawRows], path: Path) -> RawRows:
    """Return the rows of tasks as one run. Raises UsageError where they have no metric in common."""
    runs = [*parts.values()]
    shared = [name for name in runs[0].metrics if all(name in run.metrics for run in runs)]
    means = {str(key).partition(",")[0] for key in group.numbers}
    named = [name for name in shared if not means or name in means]
    if not named:
        raise UsageError(_describe_no_common_metric(path, [*parts]))
    weights, metrics = {}, {}
    for name in named:
        metrics[name], weights[name] = _make_group_metric(group, name, parts, path)
    repeated = Counter(content for run in runs for content in {row.content for row in run.rows})
    rows = [
        _make_group_row(row, task, named, weights, repeated[row.content] > 1)
        for task, run in parts.items() for row in run.rows
    ]  # fmt: skip
    first = runs[0]
    facts = {
        name: _join_fact_of_tasks(name, parts) for name in dict.fromkeys(name for run in runs for name in run.facts)
    }
    return replace(first, task=group.name, metrics=metrics, rows=rows, facts=facts, tasks=tuple(parts))


def _make_group_row(
    row: RawRow, task: str, names: Sequence[str], weights: Mapping[str, Mapping[str, float]], repeated: bool
) -> RawRow:
    """Convert a task's row to a row of the group.

    A question that occurs in several tasks is a separate one in each.
    """
    values = {name: row.values[name] for name in names if name in row.values}
    content = digest_value([task, row.content])[:HEX_DIGITS] if repeated and row.content else row.content
    return replace(
        row, key=f"{task}/{row.key}" if row.key else "", content=content, values=values,
        state=row.state if values or row.state != "scored" else "unscored",
        lengths={name: weights[name][task] for name in values if weights[name][task] != 1.0},
        slices={**row.slices, ask.TASK: task},
    )  # fmt: skip


def _make_group_metric(
    group: TaskGroup, name: str, parts: Mapping[str, RawRows], path: Path
) -> tuple[RawMetric, Mapping[str, float]]:
    """Return a group's metric, and the row weight of each task.

    The weights are 1 on average. Raises UsageError if the group's number fits neither weighting.
    """
    alike = dict.fromkeys(parts, 1.0)
    each = {task: run.metrics[name] for task, run in parts.items()}
    first = next(iter(each.values()))
    if any(m.unreadable or (m.scale and OnScale(m.scale).is_log) for m in each.values()):
        return RawMetric(unreadable="is not a mean of rows in every task"), alike
    if {m.better for m in each.values()} != {first.better}:
        return RawMetric(unreadable="is better when higher in one task and when lower in another"), alike
    values = {task: [r.values[name] for r in run.rows if name in r.values] for task, run in parts.items()}
    if not all(values.values()):
        return RawMetric(unreadable="has no number in one of the tasks"), alike
    total = sum(map(len, values.values()))
    equal = {task: total / (len(values) * len(own)) for task, own in values.items()}
    told = [v for key, v in group.numbers.items() if str(key).partition(",")[0] == name]
    told = [float(v) for v in told if isinstance(v, (int, float)) and not isinstance(v, bool) and v == v]
    by_size = math.fsum(v for own in values.values() for v in own) / total
    by_task = ask.mean_of_scores([ask.mean_of_scores(own) for own in values.values()])
    if not told or any(ask.are_close(by_size, number) for number in told):
        return RawMetric(first.better, first.scale, by_size), alike
    if any(ask.are_close(by_task, number) for number in told):
        return RawMetric(first.better, first.scale, by_task), equal
    what = f"its tasks give {by_size:.10g} by size and {by_task:.10g} alike, but its results file says {told[0]:.10g}"
    raise UsageError(f"{path} {ask.display_name(group.name)} {ask.display_name(name)}: {what}; it is of another run")


def _join_fact_of_tasks(name: str, parts: Mapping[str, RawRows]) -> str:
    """Return the setting that all tasks share, else each task's."""
    each = {task: run.facts.get(name, "") for task, run in parts.items()}
    return next(iter(each.values())) if len({*each.values()}) == 1 else ask.format_setting(each)
