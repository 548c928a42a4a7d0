"""Evaluation of a model during training, on the select rows of evals.

For `[train] watch` and `harness.training`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from harness.collection.collection import Task
from harness.evaluation.evaluate import evaluate
from harness.records.models import Subject
from harness.records.samples import Result


def evaluate_live(tasks: Iterable[Task], subject: Subject, rows: int | None = None) -> dict[str, Result]:
    """Evaluate a model on select rows; return results by eval. `rows` limits each eval to its first rows."""
    found = {}
    for task in tasks:
        assert task.select  # collection or preflight read them
        some = replace(task, samples=task.select[:rows])
        found[task.spec.name] = evaluate(some, subject.name, subject, None, lambda _: None)
    return found


def live_metrics(results: Mapping[str, Result]) -> dict[str, float]:
    """Return metrics by EVAL.METRIC; NaN where rows have no score."""
    return {
        f"{name}.{metric}": math.nan if result.missing else value
        for name, result in results.items()
        for metric, value in result.metrics.items()
    }
