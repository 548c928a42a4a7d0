"""Logging of verdicts to MLflow, TensorBoard, W&B or OpenTelemetry.

The tracker is the one that a training reported to. The plugin listens to the end of a run, and decides nothing. Nothing
is sent anywhere that the user did not name.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from harness import hookimpl

if TYPE_CHECKING:
    from harness import Run

TRACKERS = ("mlflow", "tensorboard", "wandb")
# keeps the libraries from reporting to their makers, and off the network, unless the user set otherwise
NO_TELEMETRY_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
}


def disable_telemetry() -> None:
    """Set the environment that keeps trackers from reporting to their makers.

    Call it before one is imported. Variables that are set already stay.
    """
    for name, value in NO_TELEMETRY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@hookimpl(trylast=True)  # after whoever writes report.html
def harness_run_finish(run: Run) -> None:
    told = run.facts.get("training", {}).get("report_to")
    names = [name for name in TRACKERS if name in told] if isinstance(told, (list, tuple)) else []
    names += ["otel"] * (os.environ.get("OTEL_LOGS_EXPORTER") == "otlp")
    if names:
        from harness_trackers.log import log_run

        disable_telemetry()
        log_run(run, names)
