"""Reader of checkpoints with scaled FP8 (e4m3) weights.

A weight `X` has a scale `X_scale` (compressed-tensors, FBGEMM, ModelOpt) or `X_scale_inv` (transformers' fine-grained
FP8, DeepSeek): one number, one of each row, or one of each block. Some runtimes round activations to FP8 as well; that
does not concern the weights, and is not done here.

Imports torch inside functions.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import UsageError
from harness.internals import formats, read_safetensors, weight_files

if TYPE_CHECKING:
    from torch import Tensor

DTYPE = "F8_E4M3"
SCALES = ("_scale", "_scale_inv")
OF_ACTIVATIONS = ("input_scale", "k_scale", "v_scale", "q_scale", "activation_scale", "output_scale")
BLOCK_SIZE = 128  # rows and columns of a block where no configuration says
QUANTISATION_KEYS = ("quantization_config", "compression_config")


def is_fp8(folder: Path) -> bool:
    """Return whether a folder has FP8 weights, by file headers."""
    try:
        heads = [read_safetensors(folder / name) for name in weight_files(folder)]
    except (OSError, ValueError):
        return False  # told where the weights are read
    return any(e["dtype"] == DTYPE and n.endswith(".weight") for head in heads for n, e in head.tensors.items())


def read_fp8(folder: Path, file: str) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Yield name, numbers and scales of each weight of a file: of FP8 its codes, and as many scales, in float32.

    Raises UsageError at NaN, at a scale that is none, and at a weight without one.
    """
    import torch
    from safetensors import safe_open

    heads = {f: read_safetensors(folder / f).tensors for f in weight_files(folder)}
    files = {tensor: f for f, head in heads.items() for tensor in head}
    weights = [tensor for head in heads.values() for tensor, entry in head.items() if entry["dtype"] == DTYPE]
    scales_of = {f"{weight}{end}" for weight in weights for end in SCALES}
    with safe_open(folder / file, "pt") as opened:
        for name in heads[file]:
            if name in scales_of or name.endswith(OF_ACTIVATIONS):
                continue
            weight = opened.get_tensor(name)
            if weight.dtype is not torch.float8_e4m3fn:
                yield name, weight, None
                continue
            scale = next((f"{name}{end}" for end in SCALES if f"{name}{end}" in files), None)
            if scale is None or weight.ndim != 2:
                raise _make_fp8_error(
                    folder, name, "has no scale" if scale is None else f"has {weight.ndim} dimensions"
                )
            with safe_open(folder / files[scale], "pt") as other:
                scales = other.get_tensor(scale).float()
            if not bool((scales.isfinite() & (scales > 0)).all()):
                raise _make_fp8_error(folder, scale, "has a scale that is not above 0")
            codes = weight.float()
            if not bool(codes.isfinite().all()):
                raise _make_fp8_error(folder, name, "has NaN")
            yield name, codes, _broadcast_scales_to_weights(scales, codes, folder, scale)


def dequantize_folder(folder: Path, to: Path) -> None:
    """Write a folder's model in float32. Libraries that do not know FP8 can read the result."""
    from safetensors.torch import save_file

    for file in weight_files(folder):
        found = {n: (w.float() if scale is None else w * scale) for n, w, scale in read_fp8(folder, file)}
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, to / file, {"format": "pt"})
    for name in (n for n in formats.shipping_files(folder) if not n.endswith(".safetensors")):
        (to / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / name, to / name)
        if name.endswith(formats.INDEX):
            index = json.loads((folder / name).read_text("utf-8"))
            there = {t: f for f in weight_files(folder) for t in read_safetensors(to / f).tensors}
            (to / name).write_text(json.dumps({**index, "weight_map": there}, indent=2), "utf-8")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    plain = {key: value for key, value in config.items() if key not in (*QUANTISATION_KEYS, "torch_dtype")}
    (to / "config.json").write_text(json.dumps({**plain, "dtype": "float32"}, indent=2), "utf-8")


def _broadcast_scales_to_weights(scales: Tensor, codes: Tensor, folder: Path, name: str) -> Tensor:
    """Return a scale for each number."""
    if scales.numel() == 1:
        return scales.reshape(1, 1).expand_as(codes)
    scales = scales[:, None] if scales.ndim == 1 else scales
    for dimension, size in enumerate(codes.shape):
        many = scales.shape[dimension] if scales.ndim == 2 else 0
        block = {1: size, size: 1}.get(many)
        if not block:  # as the configuration says in the words of one library or another
            config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
            said: dict[str, Any] = next(
                (config[key] for key in QUANTISATION_KEYS if isinstance(config.get(key), dict)), {}
            )
            groups = [g.get("weights") or {} for g in (said.get("config_groups") or {}).values()]
            sizes = [said.get("weight_block_size"), *(weights.get("block_structure") for weights in groups)]
            block = next((list(size) for size in sizes if size), [BLOCK_SIZE, BLOCK_SIZE])[dimension]
        if math.ceil(size / block) != many:
            raise _make_fp8_error(
                folder, name, f"has the shape {list(scales.shape)}, for weights of {list(codes.shape)}"
            )
        scales = scales.repeat_interleave(block, dimension).narrow(dimension, 0, size)
    return scales


def _make_fp8_error(folder: Path, tensor: str, what: str) -> UsageError:
    return UsageError(f'model "{folder}": "{tensor}" {what}; quantise it again')
