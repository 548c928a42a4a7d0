"""A model that computes as a runtime does: in 16 bits, or its layers in 8 as llama.cpp has them."""

from __future__ import annotations

from typing import Any

import torch

BLOCK_VALUES = 32  # of Q8_0, and of what llama.cpp makes of a layer's inputs
HALF_DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}


def compute_as_runtime(model: Any, arithmetic: str) -> Any:
    """Let a model compute as a runtime does, and return it: in 16 bits, or its layers in 8 as llama.cpp has them.

    That is weights in Q8_0 and inputs of every linear layer rounded to int8, both in blocks of 32; an adapter stays as
    it is.
    """
    if arithmetic in HALF_DTYPES:
        return _cast(model, HALF_DTYPES[arithmetic])
    for name, module in model.named_modules() if arithmetic == "q8" else ():
        if isinstance(module, torch.nn.Linear) and "lora_" not in name and module.in_features % BLOCK_VALUES == 0:
            module.weight.data = _round_to_q8(module.weight.data)
            module.register_forward_pre_hook(lambda _, inputs: (_round_to_q8(inputs[0]), *inputs[1:]))
    return model


def _cast(model: Any, dtype: torch.dtype) -> Any:
    """Cast what is stored; what is computed, as the frequencies of positions, keeps its precision in every loader."""
    kept = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set
    ]
    for module, name, _ in kept:
        setattr(module, name, None)
    model.to(dtype)
    for module, name, buffer in kept:
        setattr(module, name, buffer)
    return model


def _round_to_q8(values: Any) -> Any:
    blocks = values.unflatten(-1, (-1, BLOCK_VALUES))
    scale = (blocks.abs().amax(-1, keepdim=True) / 127).half().to(values.dtype)  # which a block keeps in f16
    codes = torch.where(scale > 0, blocks / scale, torch.zeros_like(blocks)).round().clamp(-127, 127)
    return (codes * scale).flatten(-2)
