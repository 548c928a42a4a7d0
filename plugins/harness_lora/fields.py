"""Support for every field of PEFT's LoraConfig.

docs/reference/adapters.md is the same for people. A field in none of these tables, as a newer PEFT may have one, is
refused; a test fails until it is put in one.
"""

from __future__ import annotations

from collections.abc import Set

RESERVED_FIELDS = {  # not the user's, and why
    "task_type": "it is always CAUSAL_LM",
    "peft_type": "it is always LORA",
    "inference_mode": "the trainer sets it",
    "base_model_name_or_path": "the model determines it",
    "revision": "the model determines it",
    "auto_mapping": "PEFT sets it",
    "peft_version": "PEFT sets it",
}
# Trained and merged; tests/plugins/lora/test_adapters.py compares every one with PEFT's own merge.
MERGEABLE_FIELDS = {"r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform"}
MERGEABLE_FIELDS |= {
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
    "init_lora_weights",
    "use_rslora",
}
MERGEABLE_FIELDS |= {
    "use_dora",
    "modules_to_save",
    "bias",
    "lora_bias",
    "trainable_token_indices",
    "ensure_weight_tying",
}
MERGEABLE_FIELDS |= {"use_bdlora", "velora_config", "target_parameters"}
UNTRAINED_FIELDS = {  # not trained here; an adapter that was made with it elsewhere is merged
    "eva_config": "EVA needs a pass over the data before training, which is not supported",
    "corda_config": "CorDA needs a pass over the data before training, which is not supported",
    "lora_ga_config": "LoRA-GA needs gradients before training, which are not supported",
    "loftq_config": "LoftQ changes the base, which is not supported; use qlora",
    "monteclora_config": "its loss has a term that the trainer does not compute",
}
REFUSED_FIELDS = {
    "kasa_config": "KaSA changes the base permanently, and its loss has terms that the trainer does not compute",
    "alora_invocation_tokens": "it acts only after certain tokens, so no merged weight equals it",
    "arrow_config": "it routes between existing adapters; nothing is trained",
    "layer_replication": "it changes the layers of the model",
    "use_qalora": "PEFT supports it only on GPTQ bases, and silently trains a plain LoRA on others",
    "qalora_group_size": "it belongs to use_qalora, which is not supported",
    "megatron_config": "the trainer does not support Megatron",
    "megatron_core": "the trainer does not support Megatron",
    "runtime_config": "offloading is not supported",
}
FULL_PRECISION_FIELDS = {  # not on a base in 4 bits
    "use_bdlora": "PEFT silently trains a plain LoRA on a 4-bit base; use lora",
    "velora_config": "PEFT does not support it on a 4-bit base; use lora",
}
MOVES_BASE = ("pissa", "olora")  # move a part of the base's weight into the adapter; the trainer moves it back
PREPARED_FIELDS = {start: UNTRAINED_FIELDS[f"{start}_config"] for start in ("eva", "corda", "loftq", "lora_ga")}
BASE_CHANGING_INITS = (*MOVES_BASE, "corda", "loftq", "lora_ga")  # adapters to a base that is not the one on disk
ON_FLOATS = ("mica", "orthogonal", *MOVES_BASE)  # PEFT makes them from the base's weight, or in its dtype


def refused_fields(fields: Set[str]) -> dict[str, str]:
    """Return the unsupported fields and the reasons. Fields in none of the tables are among them."""
    unknown = fields - {*RESERVED_FIELDS, *MERGEABLE_FIELDS, *UNTRAINED_FIELDS, *REFUSED_FIELDS}
    return {**dict.fromkeys(unknown, "it is not tested yet"), **REFUSED_FIELDS}
