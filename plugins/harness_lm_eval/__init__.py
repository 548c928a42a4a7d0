"""[[eval]] use = "lm_eval": any task of lm-evaluation-harness, with its own prompts, filters and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness import Evaluator, Metric, Sample, Score, Subject, evaluator, hookimpl
from harness.internals import schema
from harness_lm_eval import hub, scores
from harness_lm_eval.find import find_tasks
from harness_lm_eval.metrics import list_eval_metrics
from harness_lm_eval.tasks import TaskOptions, blame_task_code, build_tasks


def metrics_for(options: Mapping[str, Any], folder: Path) -> list[Metric]:
    """Return the metrics of a task from its YAML.

    It is light, since collection calls it. Raises UsageError if the task cannot be served.
    """
    asked = TaskOptions.of(options)
    found = []
    for gauge in list_eval_metrics(find_tasks(asked.task, folder, asked.include_path)):
        combine = partial(scores.aggregate_metric, name=gauge.name, alike=gauge.alike, asked=asked, folder=folder)
        found.append(Metric(gauge.name, gauge.better, gauge.scale or "other", None if gauge.scale else combine))
    return found


def rows_for(options: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Read a task's documents: a row each, with "task", "doc_id" and the document's fields. Raises UsageError."""
    served, _ = build_tasks(TaskOptions.of(options), folder)
    found = []
    with hub.quiet_libraries():
        for one in served.values():
            with blame_task_code(f'task "{one.name}": failed on a document'):
                one.requests(0, None)  # the first of each task is tried out
                some = [one.row(number) for number in range(len(one.docs))]
            names = [f"{one.name}:" * (len(served) > 1) + str(number) for number in range(len(some))]
            found += [{"id": name, **row} for name, row in zip(names, some, strict=True)]
    return found


@evaluator(metrics_for=metrics_for, rows_for=rows_for, needs=lambda options: ("lm_eval",))
@schema.accepts_options(TaskOptions)
def lm_eval(subject: Subject, samples: Sequence[Sample], options: TaskOptions, *, folder: Path) -> Iterator[Score]:
    """Score a task of lm-evaluation-harness as its HF backend would.

    The task may also be a group, a tag, or a YAML beside the suite. `shots` worked examples (else as many as the task
    says) are drawn for each document as lm_eval draws them; with `fixed_shots` they are the same for every document, so
    that they are computed once, and the numbers differ from published ones. `chat` applies the chat template, as a
    table with these template arguments, the examples as turns with `multiturn`. `docs` takes the first documents of
    each task.
    `gen_kwargs` goes over the task's generation_kwargs, `metadata` to tasks that want some, `include_path` names a
    folder of more tasks. The metrics are the task's; of several filters "metric@filter".

    Raises UsageError when the task cannot be served.
    """
    yield from scores.score_rows(subject, samples, options, folder)


@hookimpl
def harness_evaluators() -> dict[str, Evaluator]:
    return {"lm_eval": lm_eval}
