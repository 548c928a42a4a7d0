"""Trainer options as TRL's configuration, for `sft` as SFTConfig.

FIELDS are those of SFTConfig, kept so that a suite can be checked without importing TRL. A test compares them with the
installed library; if another version of it is installed, only preflight reports mistakes. Imports TRL inside functions.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_type_hints

from harness import Mistakes, UsageError, did_you_mean
from harness.internals import missing_modules_message, schema, suggest_option
from harness_trackers import disable_telemetry

REPORTS = ("tensorboard", "wandb", "mlflow")  # which are also names of modules and of our extras
CONDITIONAL_FIELDS = {  # fields that TRL reads only with some values of another
    "label_smoothing": ("loss_type", {"robust", "exo_pair", "aot", "aot_unpaired"}),
    "label_smoothing_factor": ("loss_type", {"nll"}),
    "discopop_tau": ("loss_type", {"discopop"}),
    "f_alpha_divergence_coef": ("f_divergence_type", {"alpha_divergence"}),
}
VERSIONS = {"trl": "1.16.0", "transformers": "5.25.0"}  # of which FIELDS are the fields
REASONS = {  # what to do instead of fields of SFTConfig that are not the user's
    "checkpoints go to the run folder": "output_dir",
    "set seed in [suite]": "seed data_seed",
    "set device in [model]": "use_cpu",
    "set options in [model]": "model_init_kwargs",
    "code in a model's folder is never run": "trust_remote_code",
    "set warmup_ratio": "warmup_steps",
    "set gradient_checkpointing": "activation_checkpointing",
    "the harness shows the progress itself": "disable_tqdm",
    "a loss that is not finite stops the training": "logging_nan_inf_filter",
    'map the column to "text" in [train] columns': "dataset_text_field",
    "the rows are always prepared by the harness": "dataset_kwargs",
    "set validation, a share of the rows": "eval_strategy do_eval",
    "set patience": "load_best_model_at_end",
    "use [[export]]": "push_to_hub",
    "the last complete checkpoint is found automatically": "resume_from_checkpoint",
    "a resumed run must use the same rows": "ignore_data_skip",
    "an interrupted training resumes from its checkpoints": "save_only_model",
    "patience uses the validation loss": "metric_for_best_model greater_is_better",
    "[train] always trains": "do_train",
    "use [[eval]]": "do_predict include_for_metrics",
    "one process trains": "parallelism_config",
    "validation is measured after each epoch": "eval_steps eval_on_start eval_delay",
    "validation is the mean loss of unpacked rows, computed as in training": "eval_packing "
    "batch_eval_metrics eval_accumulation_steps eval_do_concat_batches eval_use_gather_object prediction_loss_only "
    "bf16_full_eval fp16_full_eval",
}
RESERVED_FIELDS = {name: why for why, names in REASONS.items() for name in names.split()}
# which mean more here
OWN_OPTIONS = {"validation", "patience", "warmup_ratio", "report_to", "bf16", "attn_implementation"}
NAMES: dict[Any, str] = {  # of the others, by what may be written for them in TOML
    int: "dataloader_num_workers dataloader_prefetch_factor dataset_num_proc ddp_bucket_cap_mb ddp_timeout "
    "gradient_accumulation_steps local_rank max_length max_steps per_device_eval_batch_size "
    "per_device_train_batch_size save_total_limit torch_empty_cache_steps",
    float: "adam_beta1 adam_beta2 adam_epsilon label_smoothing_factor learning_rate logging_steps max_grad_norm "
    "neftune_noise_alpha num_train_epochs router_aux_loss_coef save_steps weight_decay",
    str: "chat_template_path dataloader_multiprocessing_context ddp_backend debug eos_token fsdp length_column_name "
    "log_level log_level_replica logging_strategy loss_type lr_scheduler_type optim optim_args packing_strategy "
    "pad_token project run_name save_strategy torch_compile_backend torch_compile_mode trackio_bucket_id "
    "trackio_space_id train_sampling_strategy truncation_mode",
    bool: "activation_offloading assistant_only_loss auto_find_batch_size average_tokens_across_devices bf16 "
    "completion_only_loss dataloader_drop_last dataloader_in_order dataloader_persistent_workers "
    "dataloader_pin_memory ddp_broadcast_buffers ddp_find_unused_parameters ddp_static_graph enable_jit_checkpoint "
    "fp16 full_determinism gradient_checkpointing log_on_each_node logging_first_step packing padding_free "
    "remove_unused_columns restore_callback_states_from_checkpoint save_on_each_node shuffle_dataset "
    "skip_memory_metrics tf32 torch_compile use_cache use_liger_kernel",
    dict[str, Any] | str: "accelerator_config activation_checkpointing_kwargs deepspeed fsdp_config "
    "gradient_checkpointing_kwargs lr_scheduler_kwargs",
    str | list[str]: "optim_target_modules report_to",
    list[str]: "label_names",
    dict[str, bool]: "liger_kernel_config",
    bool | str: "include_num_input_tokens_seen",
    Literal[False] | str: "trackio_static_space_id",
    int | str: "pad_to_multiple_of",
}
FIELDS = {name: want for want, names in NAMES.items() for name in names.split()}


def check_config_fields(**options: Any) -> None:
    """Raise UsageError for unknown or mistyped options of SFTConfig.

    Only if the known version of TRL is installed, or none.
    """
    try:
        known = all(version(name) == kept for name, kept in VERSIONS.items())
    except PackageNotFoundError:  # it is the known one that would be installed
        known = True
    find_option_mistakes(options, FIELDS if known else {**FIELDS, **dict.fromkeys(options, Any)}).raise_errors()


def find_option_mistakes(
    options: Mapping[str, Any],
    hints: Mapping[str, Any],
    refused: Mapping[str, str] = RESERVED_FIELDS,
    config: str = "SFTConfig",
) -> Mistakes:
    """Return the mistakes of unknown, refused or mistyped options.

    `hints` has the types of the known fields.
    """
    mistakes, known = Mistakes(), set(hints) - set(refused) | OWN_OPTIONS
    for name, value in options.items():
        if name in refused or name.startswith("hub_"):
            mistakes.add(f'option "{name}"', f"cannot be set: {refused.get(name, 'use [[export]]')}")
        elif name not in known:
            mistakes.add(f'option "{name}"', f"is not a field of TRL's {config}{suggest_option(name, known)}")
        elif name not in OWN_OPTIONS and not schema.matches_type(value, hints[name]):
            mistakes.add(
                f'option "{name}"', f"is {schema.format_toml(value)}; it must be {schema.type_name(hints[name])}"
            )
    return mistakes


def build_config(
    recipe: Mapping[str, Any],
    checkpoints: Path,
    *,
    seed: int,
    device: str,
    name: str = "SFTConfig",  # its class in TRL
    refused: Mapping[str, str] | None = None,  # more fields that are not the user's, and what to do instead
) -> Any:
    """Return TRL's configuration of a recipe for a device.

    The device is "cpu", "cuda" and the like. Raises UsageError for values that TRL refuses.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL reports every trainer it makes
    import trl

    config = getattr(trl, name)
    _require_valid_trainer_options(recipe, config, {**RESERVED_FIELDS, **(refused or {})})
    _require_usable_recipe_values(recipe)
    options = {**recipe, "report_to": recipe["report_to"] or []}
    for ours in ("attn_implementation", "validation", "patience"):
        del options[ours]
    if options.get("packing"):  # its rows are flattened into one, whose attention is quadratic in all of them
        options["gradient_accumulation_steps"] *= options["per_device_train_batch_size"]
        options["per_device_train_batch_size"] = 1
    options["warmup_steps"] = options.pop("warmup_ratio")
    options["activation_checkpointing"] = options.pop("gradient_checkpointing")
    if options["bf16"] is None:
        import torch

        native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        options["bf16"] = device == "cuda" and native and not options.get("fp16")
    options = {"save_total_limit": 2, "use_cpu": device == "cpu"} | options
    fixed = {"disable_tqdm": True, "logging_nan_inf_filter": False, "seed": seed, "data_seed": seed}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"The `'keep_end'` truncation mode is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", r"`use_liger_kernel=True` is deprecated", FutureWarning)
            made = config(output_dir=str(checkpoints), **options, **fixed)
    except (TypeError, ValueError, ImportError, AssertionError) as error:
        raise UsageError(f"{name}: {' '.join(str(error).split())}") from None
    if made.n_gpu > 1:  # transformers would give each of them a batch in one step: another recipe, the same digest
        made._n_gpu = 1
    if made.train_batch_size != (rows := options["per_device_train_batch_size"]):
        what = f"is {rows}, but {made.train_batch_size} rows would form a batch here"
        how = "let the process use one GPU (CUDA_VISIBLE_DEVICES), or set processes"
        raise UsageError(f"per_device_train_batch_size: {what}; {how}")
    return made


def _require_valid_trainer_options(recipe: Mapping[str, Any], config: type[Any], refused: Mapping[str, str]) -> None:
    hints = get_type_hints(config)
    if config.__name__ == "DPOConfig":
        hints["loss_type"] = str | list[str]  # one of them need not be in a list
    known = {f.name: hints[f.name] for f in dataclasses.fields(config)}
    mistakes = find_option_mistakes(recipe, known, refused, config.__name__)
    if not 0 <= recipe["warmup_ratio"] < 1:
        mistakes.add(
            "warmup_ratio", f"is {recipe['warmup_ratio']}; it must be a share of the steps, at least 0 and below 1"
        )
    if (saves := recipe.get("save_strategy", "steps")) not in ("steps", "epoch"):
        want = 'it must be "steps" or "epoch", since an interrupted training resumes from its checkpoints'
        mistakes.add("save_strategy", f"is {schema.format_toml(saves)}; {want}")
    if recipe.get("truncation_mode") == "keep_end" and recipe.get("packing"):
        mistakes.add(
            "truncation_mode", 'is "keep_end", but packed rows are truncated at their end; set packing = false'
        )
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "save_steps"):
        if recipe[name] < 1:
            mistakes.add(name, f"is {recipe[name]}; it must be 1 or more")
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(config)}
    for name, (other, effective) in CONDITIONAL_FIELDS.items():
        chosen = recipe.get(other) or defaults.get(other) or "sigmoid"  # which is what DPOConfig makes of none
        if recipe.get(name) and not effective.intersection([chosen] if isinstance(chosen, str) else chosen):
            mistakes.add(
                name,
                f"has no effect with this {other}; set that to {' or '.join(sorted(effective))}, or remove this option",
            )
    mistakes.raise_errors()


def _require_usable_recipe_values(recipe: Mapping[str, Any]) -> None:
    """Raise UsageError for a recipe that cannot run here.

    Before a model is loaded, it refuses missing kernels and reports, and numbers out of range.
    """
    if recipe.get("use_liger_kernel"):
        _require_gpu_for_kernels("use_liger_kernel: its kernels are")
        if find_spec("liger_kernel") is None:
            raise UsageError(f"use_liger_kernel: {missing_modules_message('liger_kernel')}")
    if (kernel := recipe["attn_implementation"]) not in (None, "eager", "sdpa"):
        _require_gpu_for_kernels(f"attn_implementation: {kernel} is")
        package = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}.get(kernel, "torch")
        if find_spec(package) is None:
            raise UsageError(f"attn_implementation: {kernel} {missing_modules_message(package)}")
    if (epochs := recipe["num_train_epochs"]) <= 0 and recipe["max_steps"] <= 0:
        raise UsageError(f"num_train_epochs: is {epochs:g}, so nothing is trained; set it above 0, or set max_steps")
    if recipe["patience"] < 0:
        raise UsageError(f"patience: is {recipe['patience']}; it must be a number of epochs, or 0 for the last adapter")
    if not 0 <= (share := recipe["validation"]) < 1:
        raise UsageError(f"validation: is {share}; it must be a share of the rows, at least 0 and below 1")
    mistakes = Mistakes()
    if recipe["report_to"]:  # transformers tells everybody of W&B's mode, where one is set
        disable_telemetry()
    for name in recipe["report_to"] or ():
        if name not in REPORTS:
            mistakes.add(f'report_to "{name}"', f"is unknown{did_you_mean(name, REPORTS)}")
        elif find_spec(name) is None:
            mistakes.add(f'report_to "{name}"', missing_modules_message(name))
    mistakes.raise_errors()


def _require_gpu_for_kernels(kernels: str) -> None:
    import torch

    if not torch.cuda.is_available():
        raise UsageError(f"{kernels} written for GPUs, but this is a CPU; remove it")
