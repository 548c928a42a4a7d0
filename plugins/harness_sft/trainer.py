"""TRL's trainers with additional guarantees.

These are rows that count, finite numbers, complete checkpoints, and one progress report.
"""
# ruff: noqa: TID253 (imported inside functions, only where a training begins)

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerCallback, TrainerControl, TrainerState

from harness import Finding, ModelRef, Progress, TrainingStep, write_text
from harness.internals import format_duration
from harness_hf import assert_not_repacked, open_live_model
from harness_sft import sharding
from harness_sft.job import CHECKPOINT_FILE, TrainingJob, reporting_full_disk
from harness_sft.likelihood import choose_loss
from harness_sft.ranks import EpochSampler, pad_dataset, raise_finding
from harness_sft.rows import TokenCounts
from harness_sft.sentinels import FIRST_STEPS, InitialWeights, Spikes, all_finite
from harness_sft.sharding import ShardedTrainer


@dataclass(frozen=True)
class EpochEnd:
    """An epoch that ended: after which step, the validation loss in nats per token, and what was watched."""

    step: int
    loss: float | None
    watched: dict[str, float]


class AlreadyStoppedError(Exception):
    """A training that is resumed had been stopped already."""


class CheckedTrainerMixin(ShardedTrainer):
    """Put before one of TRL's trainers: it stops on what is not finite, and keeps adapters in float32.

    The class provides `_prepare_dataset`, which fills `counts`, `_prepare_rows`, `validate` and `sample_token_ids`.
    """

    train_dataset: Any

    def __init__(self, model: PreTrainedModel, *, job: TrainingJob, stamp: str, held_out: Any, **given: Any) -> None:
        self.job = job
        self.ranks = ranks = job.ranks
        self.counts: dict[str, TokenCounts] = {}
        self.stamp, self.flag = stamp, job.flag or raise_finding
        self.remembered: dict[str, Any] = {}  # what else a training that goes on must know
        self.slow = ""  # why it trains without TRL's fused head
        self.patience = job.recipe["patience"]  # epochs without a lower validation loss; 0 takes the last adapter
        cast = getattr(model, "is_loaded_in_4bit", False)
        trained = {name: p.data.clone() for name, p in model.named_parameters() if cast and p.requires_grad}
        super().__init__(model=model, **given)
        # TRL copies an adapter for a reference: a new one changes nothing, so the base is that.
        if "ref" in getattr(self.model, "peft_config", ()):
            self.model.delete_adapter("ref")
        # TRL casts adapters on a 4-bit base to bfloat16, where a step of Adam is often less than half a unit in the
        # last place and is lost; on most CPUs it is also several times slower.
        for name, parameter in self.model.named_parameters():
            if name in trained:
                parameter.data = trained[name]
        if ranks.sharded:
            sharding.shard_model(self.model, ranks, self.args.device.type)
            self.is_distributed_loading_by_transformers = True  # so that accelerate wraps it in nothing
        self.start = InitialWeights(self.model)
        self.rows = len(self.train_dataset)
        if ranks.count > 1:
            self.train_dataset = pad_dataset(self.train_dataset, self._train_batch_size * ranks.count)
        self.held_out = self._prepare_rows(held_out, "validation") if held_out else []
        self.remove_callback(PrinterCallback)
        self.watch = ProgressCallback(self, job.progress)
        self.add_callback(self.watch)

    def extra_facts(self) -> dict[str, Any]:
        """Return further facts of the training."""
        return {"own_logits": True} if self.slow else {}

    def choose_loss(self) -> str:
        """Make the model train on its own likelihood.

        Returns the reason in words if TRL's fused head is not used.
        """
        self._set_signature_columns_if_needed()
        first = self.train_dataset.select(range(min(self._train_batch_size, len(self.train_dataset))))
        rows = [{k: v for k, v in row.items() if k in self._signature_columns} for row in first]
        batch = self._prepare_inputs(self.data_collator(rows)) | {"output_router_logits": self.aux_loss_enabled}
        rough = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 or self.args.tf32 else None
        self.slow = choose_loss(self.model, batch, *filter(None, [getattr(self, "ref_model", None)]), dtype=rough)
        return self.slow

    def end_step(self) -> None:
        """Handle the end of a step. A hook for subclasses."""

    def steps_per_epoch(self) -> int:
        """Return the optimizer steps of an epoch, a partial last one included."""
        batches: int = math.ceil(len(self.train_dataset) / (self._train_batch_size * self.args.world_size))
        return -(-batches // int(self.args.gradient_accumulation_steps))

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.ranks.count == 1:
            return super()._get_train_sampler(train_dataset)
        shuffled = self.args.train_sampling_strategy == "random"
        return EpochSampler(self.rows, len(self.train_dataset), self.args.data_seed if shuffled else None)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)
        self.watch.step_loss += self._require_finite(
            float(loss), "the loss"
        )  # TRL divided it by the tokens of the whole step
        return loss

    def _get_grad_norm(self, model: PreTrainedModel, grad_norm: Any = None) -> Any:
        norm = sharding.gather_tensor(super()._get_grad_norm(model, grad_norm))
        self._require_finite(float(norm), "the gradient norm")
        return norm

    def _require_finite(self, value: float, what: str) -> float:
        if not math.isfinite(value):
            self.raise_divergence(f"{what} is {value} at step {self.state.global_step + 1}")
        return value

    def raise_divergence(self, what: str) -> None:
        """Stop the training because a value is not finite.

        This cannot be ignored: it raises CheckFailedError even if `flag` does not. Earlier checkpoints stay.
        """
        finding = Finding("error", what, (), "lower learning_rate, or look for damaged rows")
        self.flag("T2", finding)
        raise_finding("T2", finding)

    def _save_checkpoint(self, model: PreTrainedModel, trial: Any) -> None:
        with reporting_full_disk(Path(self.args.output_dir).parent):
            Trainer._save_checkpoint(self, model, trial)  # without TRL's model card
            self.ranks.wait()  # for each has written its randomness
            self.watch.saved = self.state.global_step
            if not self.ranks.first:
                return
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            steps, ends = ([asdict(one) for one in told] for told in (self.watch.steps, self.watch.ends))
            known = {"stamp": self.stamp, "steps": steps, "ends": ends, **self.remembered}
            write_text(folder / CHECKPOINT_FILE, json.dumps(known))
        if best := self.watch.best():  # others are worse, as a whole checkpoint knows by now
            for path in {*Path(self.args.output_dir).glob("best-*.safetensors")} - {
                self._make_best_weights_path(best.step)
            }:
                path.unlink()

    def run(self, checkpoint: Path | None) -> None:
        """Train, from a checkpoint if given, and restore the best weights.

        An interruption is saved as a checkpoint, then raised.
        """
        assert_not_repacked(self.model)
        try:
            if checkpoint:
                known = json.loads((checkpoint / CHECKPOINT_FILE).read_text("utf-8"))
                self.watch.steps = [TrainingStep(**step) for step in known["steps"]]
                self.watch.ends = [EpochEnd(**end) for end in known["ends"]]
                self.watch.spikes = Spikes(step.loss or 0.0 for step in self.watch.steps)
                self.remembered = {name: known[name] for name in self.remembered}
                with suppress(AlreadyStoppedError):
                    self.train(resume_from_checkpoint=str(checkpoint))
            else:
                self.train()
            self.restore_best()
        except KeyboardInterrupt:
            self.save_interrupted()
            raise
        assert_not_repacked(self.model)

    def save_best(self, step: int) -> None:
        """Write the trained weights after a step, atomically."""
        if not self.ranks.first and not self.ranks.sharded:
            return
        weights = {
            n: sharding.gather_tensor(p).contiguous() for n, p in self.model.named_parameters() if p.requires_grad
        }
        if not self.ranks.first:
            return
        path = self._make_best_weights_path(step)
        with reporting_full_disk(path.parent.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(weights, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)

    def restore_best(self) -> None:
        """Restore the weights with the lowest validation loss. Only if `patience` is set."""
        best = self.watch.best()
        self.ranks.wait()  # for the first may be writing them
        if self.patience and best and best.step != self.state.global_step:
            weights = load_file(self._make_best_weights_path(best.step))
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    if parameter.requires_grad:
                        sharding.write_parameter(parameter, weights[name])

    def _make_best_weights_path(self, step: int) -> Path:
        return Path(self.args.output_dir) / f"best-{step}.safetensors"

    def save_interrupted(self) -> None:
        """Save a checkpoint of the last complete step.

        It is not saved if the interruption fell between the step's optimizer and its end.
        """
        if self.watch.at_rest and self.state.global_step > self.watch.saved:
            self.watch.restore_randomness()
            self._save_checkpoint(self.model, None)


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """A callback that checks steps, reports progress and validates each epoch.

    It also remembers the random states between steps.
    """

    def __init__(self, trainer: CheckedTrainerMixin, progress: Callable[[Progress], None]) -> None:
        self.trainer, self.progress = trainer, progress
        self.steps: list[TrainingStep] = []  # those before an interruption too
        self.spikes = Spikes()
        self.ends: list[EpochEnd] = []  # of epochs
        self.trained: list[Any] = []
        self.updates = 0  # since this call began
        self.step_loss = 0.0
        self.at_rest, self.saved = False, 0
        self.began, self.began_at = 0.0, 0
        self.rate: float | None = None  # of learning, in this step

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.began, self.began_at, self.saved = time.monotonic(), state.global_step, state.global_step
        self.trained = [sharding.local_part(p.detach()) for p in self.trainer.model.parameters() if p.requires_grad]
        if told := self.trainer.choose_loss():
            self.progress(Progress("train", state.global_step, state.max_steps, remark=told))
        # An interruption may have come between the last step and its validation, or its end.
        self._validate_if_epoch_ended(state, control)
        if self.should_stop():
            raise AlreadyStoppedError

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.at_rest = False
        self.rate = float(self.trainer.optimizer.param_groups[0]["lr"])  # before the scheduler moves on

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        ranks, per_epoch = self.trainer.ranks, self.trainer.steps_per_epoch()
        self.step_loss = ranks.sum_over_processes(self.step_loss)[0] / ranks.count
        before = self.steps[self.began_at - 1] if self.began_at else TrainingStep(tokens=0)
        seconds = before.seconds + time.monotonic() - self.began
        epochs = state.global_step // per_epoch - self.began_at // per_epoch
        # Of this call some were added, each a row, to make the last batches of epochs whole.
        filled = epochs * (len(self.trainer.train_dataset) - self.trainer.rows)
        tokens = (before.tokens or 0) + int(self.trainer._total_train_tokens) - filled
        step = TrainingStep(state.global_step, seconds, state.epoch, self.step_loss, self.rate, tokens=tokens)
        self.steps.append(step)
        self.trainer.end_step()
        spike = self.spikes.add(self.step_loss)
        self.step_loss = 0.0
        self._look(state)
        self._record_random_states()
        self.at_rest = True
        leap = f"step {spike.first}: the loss spikes to {spike.loss:.3g}, {spike.before:.3g} before" if spike else ""
        remark = "; ".join(filter(None, [leap, self._validate_if_epoch_ended(state, control)]))
        control.should_training_stop = control.should_training_stop or self.should_stop()
        per_step = (time.monotonic() - self.began) / (state.global_step - self.began_at)
        loss, pace = round(self.steps[-1].loss or 0.0, 4), round(self.tokens_per_second(), 1)
        left = format_duration(per_step * (state.max_steps - state.global_step))
        facts: dict[str, str | float] = {"loss": loss, "tokens/s": pace, "left": left}
        self.progress(Progress("train", state.global_step, state.max_steps, facts, remark))
        ranks.stop_if_asked()

    def best(self) -> EpochEnd | None:
        """Return the epoch end with the lowest validation loss. The first of equals."""
        return min((end for end in self.ends if end.loss is not None), key=lambda end: end.loss or 0.0, default=None)

    def should_stop(self) -> bool:
        """Return whether validation has not improved for `patience` epochs."""
        best, patience = self.best(), self.trainer.patience
        return bool(patience and best and len(self.ends) - 1 - self.ends.index(best) >= patience)

    def _look(self, state: TrainerState) -> None:
        """Look at the weights before anything is saved of them: are they finite, and did the first steps move them."""
        trainer, sums = self.trainer, self.trainer.start.sums
        if not all_finite(self.trained):
            trainer.raise_divergence(f"the weights are not finite after step {state.global_step}")
        self.updates += not trainer.accelerator.optimizer_step_was_skipped
        if self.updates != FIRST_STEPS:
            return
        still, whole = (
            trainer.start.find_unmoved(trainer.model, trainer.ranks),
            not hasattr(trainer.model, "peft_config"),
        )
        if still and trainer.ranks.first and not (whole and len(still) < len(sums)):  # some may have no gradient
            kind = "trained" if whole else "adapted"
            what = f"{len(still)} of {len(sums)} {kind} weights have not changed after {FIRST_STEPS} steps"
            trainer.flag("T1", Finding("error", what, still, "check learning_rate, and which parameters are frozen"))

    def restore_randomness(self) -> None:
        python, numpy, cpu, gpus = self.randomness
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)

    def _record_random_states(self) -> None:
        gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self.randomness = (random.getstate(), np.random.get_state(), torch.get_rng_state(), gpus)

    def _validate_if_epoch_ended(self, state: TrainerState, control: TrainerControl) -> str:
        """Validate and watch at the end of an epoch or the training.

        Returns the results in words.
        """
        step, per_epoch = state.global_step, self.trainer.steps_per_epoch()
        wanted = self.trainer.held_out or self.trainer.job.watch
        done = any(end.step == step for end in self.ends)
        if not wanted or not step or done or (step % per_epoch and step != state.max_steps):
            return ""
        loss: float | None = None
        if self.trainer.held_out:
            loss = self.trainer.validate()
            if not math.isfinite(loss):
                self.trainer.raise_divergence(f"the validation loss is {loss} after step {step}")
            logs = control.should_log  # logging clears it, and the step's own loss would not be logged
            self.trainer.log({"eval_loss": loss})
            control.should_log = logs
        end = EpochEnd(step, loss, self._measure_live_model())
        self.ends.append(end)
        self.steps[-1] = replace(self.steps[-1], validation=end.loss)
        if self.trainer.patience and self.best() == end:
            self.trainer.save_best(step)
        numbers = {"validation loss": end.loss} if end.loss is not None else {}
        told = ", ".join(f"{name} {value:.4f}" for name, value in (numbers | end.watched).items())
        best = self.best()
        if self.should_stop() and best:
            told += (
                f", no better than step {best.step} for {self.trainer.patience} epochs: stopped, "
                f"step {best.step} is kept"
            )
        return f"epoch {step / per_epoch:.3g}: {told}"

    def _measure_live_model(self) -> dict[str, float]:
        """Measure the model in training, with its adapter, by `watch`.

        It is evaluated as the harness evaluates any model.
        """
        path, watch = self.trainer.job.ref.path, self.trainer.job.watch
        if watch is None:
            return {}
        with open_live_model(self.trainer.model, ModelRef("training", path, "training")) as subject:
            return watch(subject)

    def tokens_per_second(self) -> float:
        """Return the trained tokens per second, without padding.

        Counted since this call began, not since a training that it resumes.
        """
        return float(self.trainer._total_train_tokens / max(time.monotonic() - self.began, 1e-9))
