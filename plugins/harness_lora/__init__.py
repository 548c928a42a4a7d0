"""[adapter] use = "lora" or "qlora": what PEFT trains, on a base in full or in 4 bits, and how it is merged.

use = "none" trains all weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import harness
from harness import hookimpl
from harness.internals import attach_lazily
from harness_lora.adapter import Lora
from harness_lora.adapter import check_targets as check_targets

if TYPE_CHECKING:  # what is imported when it is asked for
    from harness import AdapterFactory, Saboteur
    from harness_lora.fields import MOVES_BASE as MOVES_BASE
    from harness_lora.files import ADAPTER_NOTE as ADAPTER_NOTE
    from harness_lora.files import Header as Header
    from harness_lora.files import find_tensor as find_tensor
    from harness_lora.files import read_config as read_config
    from harness_lora.files import read_headers as read_headers
    from harness_lora.files import split_name as split_name
    from harness_lora.merge import FolderMerger as FolderMerger
    from harness_lora.merge import as_rows as as_rows
    from harness_lora.merge import copy_rest as copy_rest
    from harness_lora.merge import fold_scales as fold_scales
    from harness_lora.merge import merge_threads as merge_threads
    from harness_lora.plan import check_base as check_base
    from harness_lora.plan import check_mergeable as check_mergeable
    from harness_lora.plan import make_plan as make_plan
    from harness_lora.skeleton import CheckpointLayout as CheckpointLayout
    from harness_lora.skeleton import TensorPlace as TensorPlace
    from harness_lora.targets import list_towers as list_towers
    from harness_lora.targets import restrict_targets as restrict_targets
    from harness_lora.targets import text_linears as text_linears

__getattr__, _ = attach_lazily(__name__, __file__)


@hookimpl
def harness_adapters() -> dict[str, AdapterFactory]:
    return {"lora": lora, "qlora": qlora, "none": none}


@hookimpl
def harness_saboteurs() -> dict[str, Saboteur]:
    return {"untrained adapter": untrained}


def untrained(base: Path, out: Path, *, seed: int) -> None:
    """An adapter as it is before the first step of training: it changes nothing."""
    import torch
    from peft import get_peft_model

    from harness_hf import load_model, quiet_loading
    from harness_lora.targets import restrict_targets

    torch.manual_seed(seed)
    model = load_model(base)
    with quiet_loading():
        get_peft_model(model, restrict_targets(lora(r=8).peft_config(), model)).save_pretrained(out)


@harness.adapter(reads_foreign=True, measured_like=("qlora",), needs=lambda options: ("torch", "peft"))
def lora(
    *,
    r: int = 16,
    lora_alpha: int | None = None,
    lora_dropout: float = 0.05,
    target_modules: str | list[str] = "all-linear",
    **options: Any,
) -> Lora:
    """Adapt a base in its own precision.

    `options` are more fields of PEFT's LoraConfig. Alpha unset is 2·r, or 32 with rslora.
    """
    return Lora(_make_config_fields(r, lora_alpha, lora_dropout, target_modules, options))


@harness.adapter(measured_like=("lora",), needs=lambda options: ("torch", "peft"))
def qlora(
    *,
    r: int = 16,
    lora_alpha: int | None = None,
    lora_dropout: float = 0.05,
    target_modules: str | list[str] = "all-linear",
    quant_type: Literal["nf4", "fp4"] = "nf4",
    double_quant: bool = True,
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    **options: Any,
) -> Lora:
    """Adapt a base held in 4 bits by bitsandbytes. Compute dtype "auto" is the dtype the model is loaded in."""
    quantization: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": quant_type}
    quantization["bnb_4bit_use_double_quant"] = double_quant
    if compute_dtype != "auto":
        quantization["bnb_4bit_compute_dtype"] = compute_dtype
    return Lora(_make_config_fields(r, lora_alpha, lora_dropout, target_modules, options), quantization)


@harness.adapter(whole=True)
def none() -> None:
    """Adapt nothing: all weights are trained, and the trained model is the one that is gated."""


def _make_config_fields(
    r: int, alpha: int | None, dropout: float, targets: str | list[str], options: dict[str, Any]
) -> dict[str, Any]:
    """Return the fields of a LoraConfig, with a default for alpha.

    It is 2·r, so that the scale alpha/r is the same for every rank, but 32 with rslora, which scales for the rank.
    """
    if alpha is None:
        alpha = 32 if options.get("use_rslora") else 2 * r
    return {"r": r, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": targets, **options}
