"""How TRL's DPOTrainer and KTOTrainer go through the training of `harness_sft`. Imports torch inside functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness import UsageError
from harness_lora import MOVES_BASE
from harness_preference.rows import select_labelled, select_pairs
from harness_sft import Method

if TYPE_CHECKING:
    from harness import Adapter, ModelRef

REFUSED = {
    "sync_ref_model": "the reference is the model before training",
    "ref_model_mixup_alpha": "the reference is the model before training",
    "ref_model_sync_steps": "the reference is the model before training",
    "precompute_ref_log_probs": "the reference is asked in every step, which a resumed training can do again",
    "precompute_ref_batch_size": "the reference is asked in every step",
    "padding_free": "TRL does not do it at present",
    "pad_token": "the tokenizer's own is taken",
    "activation_offloading": "no test proves it here yet",
}


REFERENCE = 4  # bytes a parameter, in float32


def fits(adapter: Adapter | None) -> None:
    """Raise UsageError at an adapter without which the base is another model than it was: the reference is that."""
    if adapter is None:
        return
    config = adapter.peft_config()
    start = config.init_lora_weights
    if isinstance(start, str) and start.startswith(MOVES_BASE):
        raise UsageError(
            f'init_lora_weights "{start}": moves a part of the base into the adapter, and the reference is the base '
            "without it; remove it"
        )
    if config.bias != "none":
        raise UsageError(f'bias "{config.bias}": trains biases of the base, which is the reference; remove it')


def beside(ref: ModelRef, adapter: Adapter | None) -> dict[str, Any]:
    """Return the reference of a model of which all weights are trained: the same, loaded once more."""
    if adapter is not None:
        return {}
    from harness_hf import load_model
    from harness_sft import PLACED

    placed = {name: ref.options[name] for name in PLACED if name in ref.options}
    reference = load_model(ref.path, **(placed | {"dtype": "float32"}))
    return {"ref_model": reference.requires_grad_(False)}


def _dpo() -> Any:
    from harness_preference.trainer import CheckedDPO

    return CheckedDPO


def _kto() -> Any:
    from harness_preference.trainer import CheckedKTO

    return CheckedKTO


METHODS = {
    "dpo": Method("DPOConfig", _dpo, select_pairs, REFUSED, fits, REFERENCE, beside),
    "kto": Method("KTOConfig", _kto, select_labelled, REFUSED, fits, REFERENCE, beside),
}
