"""The memory that a training holds at least.

It is computed from a model without weights.
"""
# ruff: noqa: TID253 (imported inside functions, only where a training is planned)

from __future__ import annotations

import math
from typing import Any

import torch
from peft import get_peft_model
from torch import nn

from harness import UsageError
from harness.internals import list_gpus
from harness_hf import build_skeleton, quiet_loading, resolve_device
from harness_lora import restrict_targets
from harness_sft.job import TrainingJob, base_placement, check_method

BLOCK, NESTED = 64, 256  # numbers that share a scale in 4 bits, and scales that share one with double quantisation
MOMENTS = {"adafactor": 0, "sgd": 0}  # bytes a trained number, by the beginning of the optimizer's name; Adam's are 8
BYTES_8BIT = 2  # of an optimizer in 8 bits


def estimate_memory(job: TrainingJob) -> dict[str, int]:
    """Return the bytes that each process holds, by kind.

    Raises UsageError if the adapter does not fit the base.
    """
    check_method(job.adapter)
    model: Any = build_skeleton(job.ref.path, base_placement(job.ref, job.adapter, sharded=True)["dtype"])
    bits = job.adapter.quantization if job.adapter else None
    head, whole = model.get_output_embeddings(), {id(p) for p in model.parameters()}
    packed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear) and m is not head} if bits else set()
    if job.adapter:
        try:
            with quiet_loading():
                model = get_peft_model(
                    model, restrict_targets(job.adapter.peft_config(), model), low_cpu_mem_usage=True
                )
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            raise UsageError(f"[adapter] does not fit the base: {' '.join(str(error).split())}") from None
    parameters = list(model.parameters())
    frozen = sum(
        _count_4bit_weight_bytes(p, bits) if id(p) in packed else p.nbytes for p in parameters if id(p) in whole
    )
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    optim = str(job.recipe.get("optim", "adamw_torch"))
    moments = BYTES_8BIT if "8bit" in optim else next((n for name, n in MOMENTS.items() if optim.startswith(name)), 8)
    found = {"weights": frozen, "trained": (4 + moments + (4 if job.adapter else job.method.reference)) * trained}
    if job.shard:
        count = max(1, len(list_gpus())) if job.processes == "auto" else int(job.processes)
        found = {name: math.ceil(size / count) for name, size in found.items()}
    # The inputs of layers are those of a batch of the longest rows, which are held until its gradient is made.
    text = model.config.get_text_config()
    rows = job.recipe["per_device_train_batch_size"] * (job.recipe.get("max_length") or 0)
    return found | {"layer inputs": rows * text.num_hidden_layers * text.hidden_size * model.dtype.itemsize}


def check_memory(job: TrainingJob) -> None:
    """Raise UsageError if a training exceeds the GPU's memory.

    Weights, gradients and moments are counted, before an hour is lost.
    """
    device = resolve_device(job.ref.options.get("device", "auto"))
    if device.type != "cuda" or job.ref.options.get("device_map"):
        return
    found, card = estimate_memory(job), torch.cuda.get_device_properties(device.index or 0)
    if (need := found["weights"] + found["trained"]) > card.total_memory:
        has = (
            f"needs {need / 1000000000.0:,.1f} GB on a GPU for weights, gradients and optimiser "
            f"states, but {card.name} has"
        )
        how = 'use = "qlora" in [adapter] loads the base in 4 bits, and shard = true splits it between processes'
        raise UsageError(f"{has} {card.total_memory / 1e9:,.1f}; {how}")


def _count_4bit_weight_bytes(parameter: torch.Tensor, bits: Any) -> int:
    """Return the bytes of a 4-bit weight and its scales.

    With double quantisation each scale takes one byte, else four.
    """
    scales = math.ceil(parameter.numel() / BLOCK)
    nested = bits.get("bnb_4bit_use_double_quant")
    return math.ceil(parameter.numel() / 2) + (scales + 4 * math.ceil(scales / NESTED) if nested else 4 * scales)
