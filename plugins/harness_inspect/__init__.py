"""[[eval]] use = "inspect": a task of Inspect, with its own solvers, tools, sandboxes and scorers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import Evaluator, Metric, Sample, Score, Subject, evaluator, hookimpl
from harness.internals import schema
from harness_inspect.options import InspectOptions


def metrics_for(options: Mapping[str, Any], folder: Path) -> list[Metric]:
    """Return a metric for each score of a task. Raises UsageError."""
    from harness_inspect.tasks import list_metrics, load_task

    asked = InspectOptions.of(options)
    return list_metrics(load_task(asked, folder), asked)


def rows_for(options: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Return a task's samples as rows. Metadata become columns. Raises UsageError."""
    from harness_inspect.tasks import list_rows, load_task

    return list_rows(load_task(InspectOptions.of(options), folder))


def remarks(scores: Sequence[Score]) -> Iterator[str]:
    """Yield causes of missing scores, and the task's ignored settings."""
    told = [score.details for score in scores]
    if failed := {i: why for details in told for i, why in details.get("failed", {}).items()}:
        sample, why = next(iter(failed.items()))
        yield f'{len(failed)} samples failed, for instance "{sample}": {why}'
    yield from dict.fromkeys(line for details in told for line in details.get("ignored", ()))


@evaluator(metrics_for=metrics_for, rows_for=rows_for, remarks=remarks, needs=lambda options: ("inspect_ai",))
@schema.accepts_options(InspectOptions)
def inspect(subject: Subject, samples: Sequence[Sample], options: InspectOptions, *, folder: Path) -> Iterator[Score]:
    """Score a task of Inspect: `task` is a file beside the suite with "@" and its name, or a registered name.

    `args` are the task's own, and `scorer` takes one of several. Requests of all running samples go to the model
    together, at most `max_new_tokens` long where the task says nothing; what stands between the two marks in `thought`
    is no part of an answer. A sample ends at the task's limits or these: `turn_limit` answers of the model (100),
    `time_limit` seconds (3600), `message_limit`, `token_limit`; it counts as Inspect scores it, and as cut. One that
    fails has no score. Values are from 0 to 1 unless `scale` is "mean". A sandbox is Inspect's own; `sandbox` names
    another one than the task's, and "local", which isolates nothing, is used only where it is named here. Raises
    UsageError when the task cannot be run, and where a scorer asks the model to grade its own answers.
    """
    from harness_inspect.run import score_samples

    yield from score_samples(subject, samples, options, folder)


@hookimpl
def harness_evaluators() -> dict[str, Evaluator]:
    return {"inspect": inspect}
