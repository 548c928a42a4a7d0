"""Which options `sft` takes of TRL's SFTConfig, kept so that a suite can be checked without importing TRL.

A test holds FIELDS against the installed library; where another version of it is installed, preflight alone tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from harness import Mistakes, did_you_mean, schema

VERSIONS = {"trl": "1.16.0", "transformers": "5.24.0"}  # of which FIELDS are the fields
OURS = {  # fields of SFTConfig that are not the user's, and what to do instead
    "output_dir": "checkpoints go to the run folder",
    "seed": "set seed in [suite]",
    "data_seed": "set seed in [suite]",
    "use_cpu": "set device in [model]",
    "model_init_kwargs": "set options in [model]",
    "trust_remote_code": "code of a model is never run",
    "warmup_steps": "set warmup_ratio",
    "activation_checkpointing": "set gradient_checkpointing",
    "disable_tqdm": "the harness shows the progress",
    "logging_nan_inf_filter": "a loss that is not finite stops the training",
    "dataset_text_field": 'map the column to "text" in [train] columns',
    "dataset_kwargs": "the rows are always prepared here",
    "eval_strategy": "set validation, a share of the rows",
    "do_eval": "set validation, a share of the rows",
    "load_best_model_at_end": "set patience",
    "push_to_hub": "use [[export]]",
    "resume_from_checkpoint": "the last whole checkpoint is found by itself",
    "ignore_data_skip": "a resumed run must see the same rows",
    "save_only_model": "a run is resumed from its checkpoints",
    "metric_for_best_model": "patience goes by the validation loss",
    "greater_is_better": "patience goes by the validation loss",
    "do_train": "a [train] is trained",
    "do_predict": "use [[eval]]",
    "include_for_metrics": "use [[eval]]",
    "parallelism_config": "one process trains",
} | dict.fromkeys(
    ("eval_steps", "eval_on_start", "eval_delay"), "validation is measured after each epoch"
) | dict.fromkeys(
    ("eval_packing", "batch_eval_metrics", "eval_accumulation_steps", "eval_do_concat_batches",
     "eval_use_gather_object", "prediction_loss_only", "bf16_full_eval", "fp16_full_eval"),
    "validation is the mean loss of rows that are not packed, computed as the training is",
)  # fmt: skip
OWN = {
    "validation",
    "patience",
    "warmup_ratio",
    "report_to",
    "bf16",
}  # of `sft`, which mean more


def _named(want: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), want)


FIELDS: dict[str, Any] = {  # the others, with what may be written for them in TOML
    **_named(
        int,
        "dataloader_num_workers dataloader_prefetch_factor dataset_num_proc ddp_bucket_cap_mb ddp_timeout "
        "gradient_accumulation_steps local_rank max_length max_steps per_device_eval_batch_size "
        "per_device_train_batch_size save_total_limit torch_empty_cache_steps",
    ),
    **_named(
        float,
        "adam_beta1 adam_beta2 adam_epsilon label_smoothing_factor learning_rate logging_steps max_grad_norm "
        "neftune_noise_alpha num_train_epochs router_aux_loss_coef save_steps weight_decay",
    ),
    **_named(
        str,
        "chat_template_path dataloader_multiprocessing_context ddp_backend debug eos_token fsdp length_column_name "
        "log_level log_level_replica logging_strategy loss_type lr_scheduler_type optim optim_args packing_strategy "
        "pad_token project run_name save_strategy torch_compile_backend torch_compile_mode trackio_bucket_id "
        "trackio_space_id train_sampling_strategy truncation_mode",
    ),
    **_named(
        bool,
        "activation_offloading assistant_only_loss auto_find_batch_size average_tokens_across_devices bf16 "
        "completion_only_loss dataloader_drop_last dataloader_in_order dataloader_persistent_workers "
        "dataloader_pin_memory ddp_broadcast_buffers ddp_find_unused_parameters ddp_static_graph enable_jit_checkpoint "
        "fp16 full_determinism gradient_checkpointing log_on_each_node logging_first_step packing padding_free "
        "remove_unused_columns restore_callback_states_from_checkpoint save_on_each_node shuffle_dataset "
        "skip_memory_metrics tf32 torch_compile use_cache use_liger_kernel",
    ),
    **_named(
        dict[str, Any] | str,
        "accelerator_config activation_checkpointing_kwargs deepspeed fsdp_config gradient_checkpointing_kwargs "
        "lr_scheduler_kwargs",
    ),
    **_named(str | list[str], "optim_target_modules report_to"),
    **_named(list[str], "label_names"),
    **_named(dict[str, bool], "liger_kernel_config"),
    **_named(bool | str, "include_num_input_tokens_seen"),
    **_named(Literal[False] | str, "trackio_static_space_id"),
    **_named(int | str, "pad_to_multiple_of"),
}


def look(**options: Any) -> None:
    """Raise UsageError on options that SFTConfig has not, or has with another type, if the known one is installed."""
    try:
        known = all(version(name) == kept for name, kept in VERSIONS.items())
    except PackageNotFoundError:  # it is the known one that would be installed
        known = True
    mistakes = Mistakes()
    add_mistakes(options, FIELDS if known else {**FIELDS, **dict.fromkeys(options, Any)}, mistakes)
    mistakes.raise_if_any()


def add_mistakes(
    options: Mapping[str, Any],
    hints: Mapping[str, Any],
    mistakes: Mistakes,
    refused: Mapping[str, str] = OURS,
    config: str = "SFTConfig",
) -> None:
    """Tell which options are none of the fields in `hints`, or have a value of another type."""
    known = set(hints) - set(refused) | OWN
    for name, value in options.items():
        if name in refused or name.startswith("hub_"):
            mistakes.add(f'option "{name}"', f"cannot be set: {refused.get(name, 'use [[export]]')}")
        elif name not in known:
            mistakes.add(f'option "{name}"', f"is no field of TRL's {config}{did_you_mean(name, known)}")
        elif name not in OWN and not schema.fits(value, hints[name]):
            mistakes.add(f'option "{name}"', f"is {schema.show(value)}, want {schema.kind(hints[name])}")
