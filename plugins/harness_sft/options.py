"""The options of trainings: what all have, in three parts between which each has its own, and those of `sft`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Attention = Literal["eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"]


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Options for training length, learning rate and batches."""

    num_train_epochs: float = 3
    max_steps: int = -1
    learning_rate: float = 2e-4
    lr_scheduler_type: str = "cosine"
    warmup_ratio: float = 0.05  # a share of the steps
    per_device_train_batch_size: int = 2
    gradient_accumulation_steps: int = 4
    max_length: int = 1024  # tokens


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """Options that save memory."""

    gradient_checkpointing: bool = False
    bf16: bool | None = None  # unset: mixed precision where a GPU computes in it
    attn_implementation: Attention | None = None  # of the training; scores come from the model's own


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options for validation, saving and reporting, and TRL's further ones."""

    validation: float = 0.0  # a share of the rows
    patience: int = 0  # epochs
    save_steps: int = 50
    logging_steps: int = 10
    report_to: list[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def recipe(self) -> dict[str, Any]:
        """Return all of them by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "options"} | dict(self.options)


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """Options for what is learnt of supervised rows, and for packing them."""

    assistant_only_loss: bool = True  # of messages; otherwise all of them are learnt
    packing: bool = False


@dataclass(frozen=True, kw_only=True)
class SupervisedOptions(TrainingOptions, MemoryOptions, RowOptions, StepOptions):
    """The options of `sft`; fields of the last base come first."""
