"""[adapter] use = "lora" or "qlora": what PEFT trains, on a base in full or in 4 bits, and how it is merged.

use = "none" trains all weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import harness
from harness import hookimpl
from harness.internals import lazily
from harness_lora.adapter import Lora, check_targets

if TYPE_CHECKING:
    from harness_lora.fields import MOVES_BASE
    from harness_lora.files import NOTE as ADAPTER_NOTE
    from harness_lora.files import Header, find_tensor, read_config, read_headers, split_name
    from harness_lora.merge import Merge, as_rows, copy_rest, workers
    from harness_lora.merge import fold as fold_scales
    from harness_lora.plan import check_base, check_mergeable, make_plan

__all__ = [
    "ADAPTER_NOTE",
    "MOVES_BASE",
    "Header",
    "Merge",
    "as_rows",
    "check_base",
    "check_mergeable",
    "check_targets",
    "copy_rest",
    "find_tensor",
    "fold_scales",
    "make_plan",
    "read_config",
    "read_headers",
    "split_name",
    "workers",
]
LATER = dict.fromkeys(__all__, "harness_lora.files")  # what is imported when it is asked for
LATER |= dict.fromkeys(("Merge", "as_rows", "copy_rest", "workers"), "harness_lora.merge")
LATER |= dict.fromkeys(("check_base", "check_mergeable", "make_plan"), "harness_lora.plan")
LATER |= {"MOVES_BASE": "harness_lora.fields", "fold_scales": "harness_lora.merge:fold"}
LATER |= {"ADAPTER_NOTE": "harness_lora.files:NOTE"}
__getattr__ = lazily(__name__, LATER)
QuantType = Literal["nf4", "fp4"]
ComputeDtype = Literal["auto", "float32", "bfloat16", "float16"]


@hookimpl
def harness_adapters() -> dict[str, Any]:
    return {"lora": lora, "qlora": qlora, "none": none}


@hookimpl
def harness_saboteurs() -> dict[str, Any]:
    return {"untrained adapter": untrained}


def untrained(base: Path, out: Path, *, seed: int) -> None:
    """An adapter as it is before the first step of training: it changes nothing."""
    import torch
    from peft import LoraConfig, get_peft_model

    from harness_hf import load_model, quiet

    torch.manual_seed(seed)
    model = load_model(base)
    with quiet():
        get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")).save_pretrained(out)


@harness.adapter(reads_foreign=True, measured_like=("qlora",))
def lora(
    *,
    r: int = 16,
    lora_alpha: int | None = None,
    lora_dropout: float = 0.05,
    target_modules: str | list[str] = "all-linear",
    **options: Any,
) -> Lora:
    """Adapt a base in its own precision; `options` are more fields of PEFT's LoraConfig, alpha unset is 2·r."""
    return Lora(_fields(r, lora_alpha, lora_dropout, target_modules, options))


@harness.adapter(measured_like=("lora",))
def qlora(
    *,
    r: int = 16,
    lora_alpha: int | None = None,
    lora_dropout: float = 0.05,
    target_modules: str | list[str] = "all-linear",
    quant_type: QuantType = "nf4",
    double_quant: bool = True,
    compute_dtype: ComputeDtype = "auto",
    **options: Any,
) -> Lora:
    """Adapt a base held in 4 bits by bitsandbytes; compute dtype "auto" is the dtype the model is loaded in."""
    quantization: dict[str, Any] = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": double_quant,
    }
    if compute_dtype != "auto":
        quantization["bnb_4bit_compute_dtype"] = compute_dtype
    return Lora(_fields(r, lora_alpha, lora_dropout, target_modules, options), quantization)


@harness.adapter(whole=True)
def none() -> None:
    """Adapt nothing: all weights are trained, and the trained model is the one that is gated."""


def _fields(
    r: int, alpha: int | None, dropout: float, targets: str | list[str], options: dict[str, Any]
) -> dict[str, Any]:
    """Return LoraConfig's fields; the scale alpha/r is the same for every rank, but where rslora sees to it."""
    if alpha is None:
        alpha = 32 if options.get("use_rslora") else 2 * r
    return {"r": r, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": targets, **options}
