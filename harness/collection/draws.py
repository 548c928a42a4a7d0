"""Several answers a row: what an eval may say of them, and the metrics that it gets."""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness.collection.collection import Task
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric

SPREAD = ".spread"  # behind the name of a metric: how much its answers differ within a row


def find_draw_mistakes(task: Task) -> Iterator[str]:
    """Yield the mistakes in an eval's sampling settings."""
    spec, use = task.spec, task.spec.use
    if not 0 <= spec.temperature < math.inf:
        yield f"temperature is {spec.temperature:g}; it must be 0 (greedy) or more"
    if not 0 < spec.top_p <= 1:
        yield f"top_p is {spec.top_p:g}; it must be more than 0 and at most 1"
    if spec.top_k < 0:
        yield f"top_k is {spec.top_k}; it must be 0 (all tokens) or more"
    if task.repeats < 1 or spec.repeats == 0:
        yield f"repeats is {spec.repeats}; it must be 1 or more"
    if wrong := [j for j in spec.pass_at if not 1 <= j <= task.repeats]:
        has = f"each row has {task.repeats} answers" if task.repeats > 1 else "each row has one answer"
        yield f"pass_at names {wrong[0]}, but {has}; give numbers from 1 to repeats"
    needy = {
        "top_p": spec.top_p != 1,
        "top_k": spec.top_k,
        "seeds": spec.seeds != "shared",
        "repeats": task.repeats > 1,
    }
    if spec.temperature == 0:
        yield from (f"{key} needs sampled answers; set temperature above 0" for key, given in needy.items() if given)
        return
    if not task.generates or task.uncached:
        yield f'"{use}" generates no answers that could be sampled; remove temperature'
    elif task.marks and task.repeats > 1:
        yield f'"{use}" grades one answer per row, when all are there; remove repeats'
    elif task.repeats > 1 and (whole := [m.name for m in task.metrics.values() if m.combine]):
        yield f'"{use}" computes {whole[0]} from all rows at once, so a row has one answer; remove repeats'


def make_draw_metrics(task: Task) -> dict[str, Metric]:
    """Return the metrics of several answers per row.

    They are added to those of one answer, which become means over the answers. A proportion for which higher is better
    gets `pass@j`, the best of j answers; `all@k`, the worst of all; `maj@k`, the most frequent one, if the evaluator
    defines the votes of answers. Every mean gets the `spread` within the rows.
    """
    found, k = dict[str, Metric](), task.repeats
    for metric in task.metrics.values() if k > 1 else ():
        if not metric.is_mean:
            continue
        names = [f"pass@{j}" for j in dict.fromkeys(task.spec.pass_at)]
        names += [f"all@{k}", *([f"maj@{k}"] if task.capabilities.votes else [])]
        for name in names if metric.is_share and metric.better == "higher" else ():
            found[f"{metric.name}.{name}"] = Metric(f"{metric.name}.{name}", "higher", "proportion")
        found[metric.name + SPREAD] = Metric(metric.name + SPREAD, "lower")
    return found


def find_gate_mistakes(gate: Gate, task: Task) -> Iterator[str]:
    """Yield mistakes of a gate on metrics of several answers."""
    name, every = gate.metric_name, f"all@{task.repeats}"
    if name.endswith(SPREAD) and name in task.metrics:
        yield f'"{gate.metric}" says how answers differ within a row; claim "{gate.metric.removesuffix(SPREAD)}"'
    if ".maj@" in name and name not in task.metrics and task.repeats > 1 and not task.capabilities.votes:
        yield f'"{task.spec.use}" does not say what an answer votes for; claim {every} or pass@k'
    if gate.max_failures is not None and gate.cap is None and f"{name}.{every}" in task.metrics:
        yield f"max_failures counts rows of a 0/1 metric, but {name} is a mean of answers; claim {gate.metric}.{every}"
