"""A run of its own in the experiment that `MLFLOW_EXPERIMENT_NAME` names, in the store of `MLFLOW_TRACKING_URI`."""

from __future__ import annotations

import os
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness_trackers.log import Told

METRICS, TAGS, LENGTH = 1000, 100, 5000  # in one batch, and characters of a tag: what every store takes


def log(told: Told) -> None:
    """Log a run; raises what MLflow raises."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

    from harness_trackers.log import COLUMNS, name_of

    client, now = MlflowClient(), int(time.time() * 1000)
    run = client.create_run(_experiment(client), run_name=told.name).info.run_id
    try:
        outcomes = {name_of("gate", g["candidate"], g["gate"]): g["outcome"] for g in told.gates}
        about = {name_of(key): value for key, value in told.about.items()}
        tags = [RunTag(key, value[:LENGTH]) for key, value in {**about, **outcomes}.items()]
        metrics = [Metric(name, value, now, 0) for name, value in told.metrics.items()]
        for some in _batches(metrics, METRICS):
            client.log_batch(run, metrics=some)
        for some in _batches(tags, TAGS):
            client.log_batch(run, tags=some)
        client.log_dict(run, {"columns": list(COLUMNS), "data": [list(row) for row in told.flips]}, "flips.json")
        columns = list(told.gates[0]) if told.gates else []
        rows = [[g[c] for c in columns] for g in told.gates]
        client.log_dict(run, {"columns": columns, "data": rows}, "gates.json")
        client.log_text(run, told.report, "report.json")
        if told.page:
            client.log_artifact(run, str(told.page))
    except BaseException:
        client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run, "FINISHED")


def _experiment(client: Any) -> str:
    """Return the experiment that a training would report to."""
    if not (name := os.environ.get("MLFLOW_EXPERIMENT_NAME")):
        return os.environ.get("MLFLOW_EXPERIMENT_ID", "0")
    known = client.get_experiment_by_name(name)
    return str(known.experiment_id if known else client.create_experiment(name))


def _batches(values: list[Any], size: int) -> list[list[Any]]:
    each = iter(values)
    return list(iter(lambda: list(islice(each, size)), []))
