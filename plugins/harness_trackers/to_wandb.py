"""A run of its own in the project that `WANDB_PROJECT` names; a folder to be synced, unless the user set WANDB_MODE."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness_trackers.log import Told


def log(told: Told) -> None:
    """Log a run; raises what W&B raises."""
    import wandb

    from harness_trackers.log import COLUMNS, name_of

    project = os.environ.get("WANDB_PROJECT", "huggingface")  # the trainer's
    quiet = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True)
    about = {name_of(key): value for key, value in told.about.items()}
    with wandb.init(
        project=project,
        name=told.name,
        group=told.suite,
        job_type="verdicts",
        config=about,
        settings=quiet,
        reinit="create_new",  # the training's own may still be open
    ) as run:
        columns = list(told.gates[0]) if told.gates else []
        tables = {
            "gates": wandb.Table(columns=columns, data=[[g[c] for c in columns] for g in told.gates]),
            "flips": wandb.Table(columns=list(COLUMNS), data=[list(row) for row in told.flips]),
        }
        run.log({**told.metrics, **tables}, step=0)
        run.summary.update({name_of("outcome", g["candidate"], g["gate"]): g["outcome"] for g in told.gates})
        artifact = wandb.Artifact(name_of(f"{told.name}-report").replace("/", "_").replace(" ", "_"), type="report")
        with artifact.new_file("report.json", mode="w", encoding="utf-8") as f:
            f.write(told.report)
        if told.page:
            artifact.add_file(str(told.page), name="report.html")
        run.log_artifact(artifact)
