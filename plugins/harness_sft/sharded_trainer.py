"""What a trainer of transformers does otherwise where processes share the weights between them.

Imports torch and transformers: import this module inside functions.
"""
# ruff: noqa: TID253 (imported only where a training begins)

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME

from harness_sft import sharding
from harness_sft.ranks import Ranks


class ShardedTrainer(Trainer):  # type: ignore[misc]
    """Put before a trainer: with shared weights it saves and takes up slices, and moves nothing that is whole."""

    ranks: Ranks

    def split(self) -> None:
        """Share the weights between the processes; raises UsageError where that does not come about."""
        sharding.shard(self.model, self.ranks, self.args.device.type)
        self.is_distributed_loading_by_transformers = True  # so that accelerate wraps it in nothing

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        if not self.ranks.sharded:  # else its slices are moved
            super()._move_model_to_device(model, device)

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        return nullcontext()  # after each batch of a step, so that no gradient stays whole

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not self.ranks.sharded:  # else it lies beside the optimizer's state
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.ranks.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        sharding.save(self.model, self.optimizer.optimizer, Path(output_dir))
        if self.ranks.first:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self.ranks.sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.ranks.sharded:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint:
            sharding.load(self.model, self.optimizer.optimizer, Path(checkpoint))
            known = torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
            self.lr_scheduler.load_state_dict(known)
