"""A few steps of a training, timed: real model, rows and recipe, nothing kept."""
# ruff: noqa: TID253 (imported inside functions, only where a training is timed)

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from harness import UsageError
from harness_hf import count_parameters, cpu_training, free_bytes, quiet_loading, resolve_device
from harness_sft.job import TrainingJob, check_method
from harness_sft.train import build_trainer, quiet_libraries
from harness_sft.trainer import CheckedTrainerMixin

STEPS, SECONDS = 3, 10.0  # timed at least, after a first one that is not
ID_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids", "completion_ids")
VALIDATION_ROWS = 8  # rows that a validation is timed on
# a parameter that is trained in full: itself, its gradient and two moments of Adam, each in float32
BYTES_PER_PARAMETER = 16


def measure_training(job: TrainingJob) -> dict[str, Any]:
    """Train a few steps and return the fields of a `Measured`.

    Either an adapter or all weights are trained. The last step is on the longest rows, where memory peaks. Raises
    UsageError if the weights and the states that a full training keeps of them do not fit into memory.
    """
    check_method(job.adapter)
    device = resolve_device(job.ref.options.get("device", "auto")).type
    if job.adapter is None:  # looked at before a machine is brought down by trying
        need, free = (
            (BYTES_PER_PARAMETER + job.method.reference) * count_parameters(Path(job.ref.path)),
            free_bytes(device),
        )
        if free is not None and need > free:
            what = f"needs more than {need / 1e9:,.1f} GB for weights and optimizer"
            raise UsageError(f"{what}, but only {free / 1000000000.0:,.1f} are free")
    begun = time.monotonic()
    job = replace(job, recipe={**job.recipe, "report_to": None, "patience": 0})
    with tempfile.TemporaryDirectory() as folder, quiet_loading(), quiet_libraries():
        config = job.config(Path(folder), device)
        config.save_strategy = SaveStrategy.NO
        trainer, facts = build_trainer(job, *job.split(), config)
        held, trainer.held_out = trainer.held_out, []
        watch = Stopwatch(trainer)
        trainer.add_callback(watch)
        with cpu_training(trainer.model):
            trainer.train()
            found: dict[str, Any] = watch.facts(begun)
            found["extra"] = _estimate_validation_seconds(trainer, held)
            rows = trainer.train_dataset
            order = sorted(range(len(rows)), key=lambda i: -_count_row_tokens(rows[i]))
            trainer.train_dataset = rows.select(order[: config.per_device_train_batch_size])
            trainer.training_step(trainer.model, next(iter(trainer.get_train_dataloader())))
    return found | {"trainable": facts["trainable_parameters"]}


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """A callback that times a training and stops it early."""

    def __init__(self, trainer: CheckedTrainerMixin) -> None:
        self.trainer = trainer
        self.marks: list[tuple[float, float, float]] = []  # after each step: clock, processor, tokens so far

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.marks.append((time.monotonic(), time.process_time(), float(self.trainer._total_train_tokens)))
        if len(self.marks) > STEPS and self.marks[-1][0] - self.marks[0][0] >= SECONDS:
            control.should_training_stop = True

    def facts(self, begun: float) -> dict[str, Any]:
        """Return the measured cost of the steps after the first.

        The first step is a part of the setup, which starts at `begun`; if it is the only one, its whole time counts.
        """
        first, last = self.marks[0], self.marks[-1]
        whole, epoch = self.trainer.state.max_steps, self.trainer.steps_per_epoch()
        tokens = round(self.trainer.counts["train"].tokens * whole / epoch)
        if len(self.marks) == 1:  # there is only one step, so it is all there is to time
            spent = dict.fromkeys(("seconds", "processor"), first[0] - begun)
            return {"steps": 1, "tokens": tokens} | spent | {"whole_steps": 1, "whole_tokens": tokens}
        timed = {"steps": len(self.marks) - 1, "tokens": round(last[2] - first[2])}
        spent = {"seconds": last[0] - first[0], "processor": last[1] - first[1]}
        own = first[2] * spent["seconds"] / max(last[2] - first[2], 1.0)  # what the first step is paid for anyway
        setup = max(0.0, first[0] - begun - own)
        return timed | spent | {"setup": setup, "whole_steps": whole, "whole_tokens": tokens}


def _estimate_validation_seconds(trainer: CheckedTrainerMixin, held: Sequence[Mapping[str, Any]]) -> float:
    """Estimate the seconds of all validations, one after each epoch."""
    if not held:
        return 0.0
    trainer.held_out = list(held[:VALIDATION_ROWS])
    begun = time.monotonic()
    trainer.validate()
    seconds = time.monotonic() - begun
    share = sum(map(_count_row_tokens, held)) / sum(map(_count_row_tokens, trainer.held_out))
    return float(seconds * share * -(-trainer.state.max_steps // trainer.steps_per_epoch()))


def _count_row_tokens(row: Mapping[str, Any]) -> int:
    """Return the tokens of a row: of a prompt and its answers, where these are apart."""
    return sum(len(ids) for name, ids in row.items() if name.endswith("input_ids") or name in ID_COLUMNS)
