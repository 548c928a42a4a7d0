"""[train] use = "sft": supervised fine-tuning of an adapter, or of all weights, with TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness import hookimpl
from harness.internals import attach_lazily, gpu_device_files, schema
from harness_sft.config import build_config, check_config_fields
from harness_sft.job import Method as Method
from harness_sft.job import TrainingJob as TrainingJob
from harness_sft.job import check_method
from harness_sft.job import import_later as import_later
from harness_sft.options import MemoryOptions as MemoryOptions
from harness_sft.options import StepOptions as StepOptions
from harness_sft.options import SupervisedOptions
from harness_sft.options import TrainingOptions as TrainingOptions
from harness_sft.rows import Row as Row
from harness_sft.rows import Select as Select
from harness_sft.rows import TokenCounts as TokenCounts
from harness_sft.rows import check_shapes as check_shapes
from harness_sft.rows import encode_dataset as encode_dataset
from harness_sft.rows import name_rows as name_rows
from harness_sft.rows import select_columns
from harness_sft.rows import take_columns as take_columns

if TYPE_CHECKING:
    from harness import Adapter, Built, Finding, ModelRef, Progress, Subject, Trainer
    from harness_sft.job import base_placement as base_placement
    from harness_sft.train import train_model as train_model
    from harness_sft.trainer import CheckedTrainerMixin as CheckedTrainerMixin

__getattr__, _ = attach_lazily(__name__, __file__)
Rows = Sequence[Mapping[str, Any]]
CLASSES = "harness_sft.supervised"
SFT = Method(
    "SFTConfig",
    import_later(CLASSES, "CheckedTrainer"),
    select_columns,
    import_later(CLASSES, "Preview"),
    where="harness_sft:SFT",
)


@hookimpl
def harness_trainers() -> dict[str, Trainer]:
    return {"sft": sft}


@schema.accepts_options(SupervisedOptions)
def check(
    options: SupervisedOptions,
    *,
    processes: int | str = 1,
    shard: bool = False,
    adapter: Adapter | None = None,
    ref: ModelRef | None = None,
) -> None:
    """Check the options by building the real SFTConfig.

    Raises UsageError for options that it refuses, that only the harness may set, or that no GPU can hold.
    """
    from harness_sft.processes import reject_processes, reject_shards

    check_method(adapter)
    recipe = options.recipe()
    if shard:
        reject_shards(processes, recipe, adapter)
    config = build_config(recipe, Path("checkpoints"), seed=0, device="cpu")
    reject_processes(processes, recipe, config.gradient_accumulation_steps)
    if ref and gpu_device_files():
        from harness_sft.memory import check_memory

        check_memory(TrainingJob(ref, adapter, (), recipe, 0, SFT, processes=processes, shard=shard))


def trainer_capabilities(cls: type[TrainingOptions], method: Method) -> dict[str, Callable[..., Any]]:
    """Return a trainer's capabilities besides training.

    `check` checks its options, `build` prepares its rows, `measure` times a few steps, and `memory` returns the bytes
    that are held at least; each raises UsageError as a training would.
    """

    @schema.accepts_options(cls)
    def check(options: TrainingOptions, *, adapter: Adapter | None = None) -> None:
        check_method(adapter)
        job = TrainingJob(harness.ModelRef("base", ""), None, (), options.recipe(), 0, method)
        job.config(Path("checkpoints"), "cpu")

    @schema.accepts_options(cls)
    def build(ref: ModelRef, adapter: Adapter | None, rows: Rows, options: TrainingOptions, *, seed: int) -> Built:
        from harness_sft.build import prepare_training

        return prepare_training(TrainingJob(ref, adapter, rows, options.recipe(), seed, method))

    @schema.accepts_options(cls)
    def measure(
        ref: ModelRef, adapter: Adapter | None, rows: Rows, options: TrainingOptions, *, seed: int
    ) -> dict[str, Any]:
        from harness_sft.measure import measure_training

        return measure_training(TrainingJob(ref, adapter, rows, options.recipe(), seed, method))

    @schema.accepts_options(cls)
    def memory(
        ref: ModelRef,
        adapter: Adapter | None,
        options: TrainingOptions,
        *,
        processes: int | str = 1,
        shard: bool = False,
    ) -> dict[str, int]:
        from harness_sft.memory import estimate_memory

        return estimate_memory(
            TrainingJob(ref, adapter, (), options.recipe(), 0, method, processes=processes, shard=shard)
        )

    def needs(_: Mapping[str, Any]) -> tuple[str, ...]:
        return ("torch", "transformers", "trl", "datasets", "accelerate")

    return {"check": check, "build": build, "measure": measure, "memory": memory, "needs": needs}


@harness.trainer(**trainer_capabilities(SupervisedOptions, SFT) | {"look": check_config_fields, "check": check})
@schema.accepts_options(SupervisedOptions)
def sft(
    ref: ModelRef,
    adapter: Adapter | None,
    rows: Rows,
    out: Path,
    options: SupervisedOptions,
    *,
    progress: Callable[[Progress], None],
    seed: int,
    flag: Callable[[str, Finding], None] | None = None,
    watch: Callable[[Subject], dict[str, float]] | None = None,
    processes: int | str = 1,
    shard: bool = False,
) -> Path:
    """Train an adapter on prompt/completion, `messages` or `text` rows.

    It is written to `out`, which is returned. Without an adapter all weights are trained, in float32, and the whole
    model is written in the base's dtype.

    The loss is on the completion if there is a prompt. `warmup_ratio` and `validation` are shares (of the steps, of the
    rows held out by `seed`), lengths are in tokens; a packed batch is one flattened row, so with `packing` the batch
    size multiplies the accumulation instead. `bf16` unset is mixed precision where a GPU computes in it. With
    `patience`, training stops when the validation loss has not fallen below its lowest for so many epochs, and the
    adapter of the best epoch is written. `watch` is called with the model as a Subject after each epoch, and its
    results are reported. `processes` train together, each on its share of a step's batches; "auto" is one per GPU. With
    `shard`, each holds a slice of the weights, gradients and moments (PyTorch's FSDP2, experimental). `options` are
    further fields of TRL's SFTConfig.

    Raises UsageError for options and rows that cannot be trained on, RuntimeError if a loss, a gradient or a weight is
    not finite (T2), or a module has not moved after the first steps (T1); `flag(code, finding)` is called first, and
    may raise another. A call after an interruption resumes from the last checkpoint and ends with the same bits.
    """
    from harness_sft.train import train_model

    how: dict[str, Any] = {"progress": progress, "flag": flag, "watch": watch, "processes": processes, "shard": shard}
    return train_model(TrainingJob(ref, adapter, rows, options.recipe(), seed, SFT, out, **how))
