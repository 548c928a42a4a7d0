"""The options of a trainer as TRL's configuration, `sft`'s as its SFTConfig. Imports TRL inside functions."""

from __future__ import annotations

import copy
import dataclasses
import os
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from harness import Mistakes, UsageError, did_you_mean, schema
from harness_sft.fields import OURS, add_mistakes
from harness_trackers import stay_alone

if TYPE_CHECKING:
    from trl import SFTConfig

REPORTS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}  # name -> module and extra

EFFECTIVE = {  # fields that TRL reads only with some values of another
    "label_smoothing": ("loss_type", {"robust", "exo_pair", "aot", "aot_unpaired"}),
    "label_smoothing_factor": ("loss_type", {"nll"}),
    "discopop_tau": ("loss_type", {"discopop"}),
    "f_alpha_divergence_coef": ("f_divergence_type", {"alpha_divergence"}),
}


def build_config(
    recipe: Mapping[str, Any],
    checkpoints: Path,
    *,
    seed: int,
    device: str,
    name: str = "SFTConfig",
    refused: Mapping[str, str] | None = None,
) -> Any:
    """Return the configuration of a recipe for a device ("cpu", "cuda" …); raises UsageError on what it refuses.

    `name` is its class in TRL; `refused` has more fields that are not the user's, and what to do instead.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL reports every trainer it makes
    import trl

    config = getattr(trl, name)
    _check_names(recipe, config, {**OURS, **(refused or {})})
    if recipe.get("use_liger_kernel"):
        _check_liger()
    options = dict(recipe)
    share, reports = options.pop("validation"), options.pop("report_to") or []
    if options.pop("patience") < 0:
        raise UsageError(f"patience: is {recipe['patience']}, want a number of epochs, or 0 for the last adapter")
    if not 0 <= share < 1:
        raise UsageError(f"validation: is {share}, want a share of the rows, at least 0 and below 1")
    _check_reports(reports)
    if options.get("packing"):  # its rows are flattened into one, whose attention is quadratic in all of them
        options["gradient_accumulation_steps"] *= options["per_device_train_batch_size"]
        options["per_device_train_batch_size"] = 1
    options["warmup_steps"] = options.pop("warmup_ratio")
    checkpointing = options.pop("gradient_checkpointing")
    if any(f.name == "activation_checkpointing" for f in dataclasses.fields(config)):
        options["activation_checkpointing"] = checkpointing
    else:
        options["gradient_checkpointing"] = checkpointing
    if options["bf16"] is None:
        options["bf16"] = device == "cuda" and _native_bf16() and not options.get("fp16")
    options = {"save_total_limit": 2, "use_cpu": device == "cpu", "report_to": reports} | options
    fixed = {"disable_tqdm": True, "logging_nan_inf_filter": False, "seed": seed, "data_seed": seed}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"The `'keep_end'` truncation mode is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", r"`use_liger_kernel=True` is deprecated", FutureWarning)
            made = config(output_dir=str(checkpoints), **options, **fixed)
    except (TypeError, ValueError, ImportError, AssertionError) as error:
        raise UsageError(f"{name}: {' '.join(str(error).split())}") from None
    return on_one_gpu(made, options["per_device_train_batch_size"])


def on_one_gpu(config: Any, rows: int) -> Any:
    """Return a configuration whose batches are the suite's on every machine, however many GPUs a process sees.

    transformers would give each of them a batch in one step, which is another recipe under the same digest. Raises
    UsageError where a batch would not be `rows` rows.
    """
    if config.n_gpu > 1:
        config._n_gpu = 1
    if config.train_batch_size != rows:
        raise UsageError(
            f"per_device_train_batch_size: is {rows}, and {config.train_batch_size} rows would be a batch here; "
            "let the process see one GPU (CUDA_VISIBLE_DEVICES), or say how many processes train"
        )
    return config


def whole_rows(config: SFTConfig) -> Any:
    """Return a configuration under which rows are neither cut nor shuffled; both come after they were looked at."""
    found = copy.copy(config)
    found.max_length, found.shuffle_dataset = None, False
    return found


def _check_names(recipe: Mapping[str, Any], config: type[Any], refused: Mapping[str, str]) -> None:
    mistakes = Mistakes()
    hints = get_type_hints(config)
    if config.__name__ == "DPOConfig":
        hints["loss_type"] = str | list[str]  # one of them need not be in a list
    known = {f.name: hints[f.name] for f in dataclasses.fields(config)}
    add_mistakes(recipe, known, mistakes, refused, config.__name__)
    if not 0 <= recipe["warmup_ratio"] < 1:
        mistakes.add("warmup_ratio", f"is {recipe['warmup_ratio']}, want a share of the steps, at least 0 and below 1")
    if (saves := recipe.get("save_strategy", "steps")) not in ("steps", "epoch"):
        want = 'want "steps" or "epoch": an interrupted training goes on from its checkpoints'
        mistakes.add("save_strategy", f"is {schema.show(saves)}, {want}")
    if recipe.get("truncation_mode") == "keep_end" and recipe.get("packing"):
        mistakes.add("truncation_mode", 'is "keep_end", and packed rows are cut at their end; set packing = false')
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "save_steps"):
        if recipe[name] < 1:
            mistakes.add(name, f"is {recipe[name]}, want at least 1")
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(config)}
    for name, (other, effective) in EFFECTIVE.items():
        chosen = recipe.get(other) or defaults.get(other) or "sigmoid"  # which is what DPOConfig makes of none
        if recipe.get(name) and not effective.intersection([chosen] if isinstance(chosen, str) else chosen):
            mistakes.add(name, f"has no effect with this {other}; want {' or '.join(sorted(effective))}, or remove it")
    mistakes.raise_if_any()


def _check_reports(reports: list[str]) -> None:
    if reports:  # transformers tells everybody of W&B's mode, where one is set
        stay_alone()
    mistakes = Mistakes()
    for name in reports:
        if name not in REPORTS:
            mistakes.add(f'report_to "{name}"', f"is unknown{did_you_mean(name, REPORTS)}")
        elif find_spec(REPORTS[name]) is None:
            mistakes.add(f'report_to "{name}"', f"is not installed; pip install 'finetune-harness[{name}]'")
    mistakes.raise_if_any()


def _check_liger() -> None:
    """Refuse Liger's kernels where they cannot run, before a model is loaded."""
    import torch

    if not torch.cuda.is_available():
        raise UsageError("use_liger_kernel: its kernels are written for GPUs, and this is a CPU; remove it")
    if find_spec("liger_kernel") is None:
        raise UsageError("use_liger_kernel: is not installed; pip install liger-kernel")


def _native_bf16() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
