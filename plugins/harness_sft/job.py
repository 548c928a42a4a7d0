"""One training as data: what is trained, on what and how; what sets one of TRL's trainers apart; its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from harness import Adapter, Finding, ModelRef, Progress, Subject, UsageError
from harness.internals import disk_full_error
from harness_sft.config import build_config
from harness_sft.ranks import Ranks
from harness_sft.rows import Row, Select, split_rows

CHECKPOINTS = "checkpoints"  # a folder in that of a training
CHECKPOINT_FILE = "harness-checkpoint.json"  # written last, so its existence means that the checkpoint is whole


@dataclass(frozen=True)
class Method:
    """One of TRL's trainers: the name of its configuration, the class that is run, the rows it learns from."""

    config: str
    trainer: Callable[[], Any]  # which imports the class
    select: Select  # takes what is trained on out of rows
    preview: Callable[[], Any]  # which imports a class that only prepares the rows
    refused: Mapping[str, str] = field(default_factory=dict)  # fields that are not the user's, and what to do instead
    fits: Callable[[Adapter | None], None] = lambda adapter: None  # raises UsageError at one that it does not train
    reference: int = 0  # bytes for each parameter of what is kept beside a model of which all weights are trained
    # what the class is given besides model, rows and configuration
    beside: Callable[[ModelRef, Adapter | None], dict[str, Any]] = lambda ref, adapter: {}
    where: str = ""  # "MODULE:NAME", by which the processes of a training find it


def check_method(adapter: Adapter | None) -> None:
    """Raise UsageError for an adapter that is not a LoRA.

    Other PEFT methods are neither trained nor checked here.
    """
    if adapter is None:
        return
    config = adapter.peft_config()
    kind = getattr(config, "peft_type", None)
    if str(getattr(kind, "value", kind)) != "LORA":
        found = f"returned a {type(config).__name__}" if kind else f"returned {config!r:.40}, which is no PEFT method"
        raise UsageError(
            f"[adapter] peft_config() {found}; this trainer trains LoRA and whole models: use another trainer for it"
        )


def import_later(module: str, name: str) -> Callable[[], Any]:
    """Return a call that imports a class."""
    return lambda: getattr(import_module(module), name)


@dataclass(frozen=True)
class TrainingJob:
    """One training, or only its preparation or timing.

    `ranks` are the processes that do it together.
    """

    ref: ModelRef
    adapter: Adapter | None  # None: all weights are trained
    rows: Sequence[Mapping[str, Any]]
    recipe: Mapping[str, Any]
    seed: int
    method: Method
    out: Path = Path()
    progress: Callable[[Progress], None] = lambda _: None
    flag: Callable[[str, Finding], None] | None = None
    watch: Callable[[Subject], dict[str, float]] | None = None
    processes: int | str = 1  # that are to be started
    shard: bool = False  # whether they share the weights
    ranks: Ranks = field(default_factory=Ranks)

    def config(self, checkpoints: Path, device: str) -> Any:
        """Return TRL's configuration for a device ("cpu", "cuda" …).

        Raises UsageError for options that it refuses.
        """
        about: dict[str, Any] = {"name": self.method.config, "refused": self.method.refused}
        return build_config(self.recipe, checkpoints, seed=self.seed, device=device, **about)

    def split(self) -> tuple[list[Row], list[Row]]:
        """Return the training rows and the held-out rows.

        Raises UsageError as `split_rows` does, and for `patience` without held-out rows.
        """
        kept, held_out = split_rows(self.method.select(self.rows), self.recipe["validation"], self.seed)
        if self.recipe["patience"] and not held_out:
            raise UsageError("patience: there are no validation rows; set validation or validation_data")
        return kept, held_out


def last_whole_checkpoint(folder: Path, stamp: str | None = None) -> Path | None:
    """Return the last complete checkpoint. With `stamp`, only of the training with that stamp."""
    marks = folder.glob(f"checkpoint-*/{CHECKPOINT_FILE}")
    found = [mark.parent for mark in marks if stamp in (None, json.loads(mark.read_text("utf-8"))["stamp"])]
    return max(found, key=_parse_step, default=None)


def resume_hint(folder: Path) -> str:
    """Return advice on resuming a training that ended early."""
    last = last_whole_checkpoint(folder / CHECKPOINTS)
    return f"run again to resume from the last checkpoint, step {_parse_step(last)}" if last else "run again"


@contextmanager
def reporting_full_disk(folder: Path) -> Iterator[None]:
    """Raise UsageError in place of errors caused by a full disk.

    It names the folder's disk, and how to resume the training.
    """
    try:
        yield
    except BaseException as error:  # that of torch for slices is no Exception
        if full := disk_full_error(error, folder):
            raise UsageError(f"{full}; free space and {resume_hint(folder)}") from None
        raise


def _parse_step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def base_placement(ref: ModelRef, adapter: Adapter | None, *, sharded: bool) -> dict[str, Any]:
    """Return how a base that is trained is loaded: whole in float32, too; shared on the CPU, as where its slices go."""
    from harness_hf import resolve_device, resolve_dtype

    placed = {
        k: ref.options[k] for k in ("dtype", "device", "device_map", "threads", "cpu_kernels") if k in ref.options
    }
    chosen = placed.get("dtype", "auto")
    dtype = str(resolve_dtype(chosen, resolve_device(placed.get("device", "auto")))).removeprefix("torch.")
    if adapter is None or (chosen, dtype) == ("auto", "float16"):  # whose gradients vanish
        placed["dtype"] = dtype = "float32"
    if sharded:  # it need not fit there
        placed |= {"device": "cpu", "dtype": dtype}
        placed.pop("device_map", None)
    return placed
