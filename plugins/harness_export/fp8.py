"""Copies of a merged model in FP8 (e4m3).

They are made here or elsewhere, in the form that vLLM and transformers load. Written is compressed-tensors'
"float-quantized": linear layers except the head, in 8 bits with a scale for each row or each tensor, and activations
unchanged. Either way every number is compared with its parent's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from harness import CheckFailedError, ModelRef, UsageError, exporter
from harness.internals import formats, weight_files
from harness_export.quantised import Tell, check_is_merged, convert_model

MAX_E4M3 = 448.0  # of e4m3
SIGNIFICAND_BITS = 4  # the leading one and three behind it
SMALLEST_STEP = 2.0**-9
OTHER_TOOL_ADVICE = 'quantise the model with another tool, and name the result with path = "…"'
Scales = Literal["channel", "tensor"]
NOT_COMPARED = {"quantization_config", "compression_config", "dtype", "torch_dtype", "transformers_version"}
NOT_COMPARED |= {"_name_or_path", "use_cache"}


def check_fp8_options(model: Path, options: Mapping[str, Any]) -> None:
    """Raise UsageError if an FP8 copy cannot be made or read.

    That is if the model is quantised already, or the copy at `path` is not in FP8.
    """
    from harness_hf import is_fp8

    check_is_merged(model)
    if (made := options.get("path")) and not is_fp8(Path(made)):
        raise UsageError(f'path is "{made}", which is not a folder with FP8 weights (e4m3)')


@exporter(converts=True, check=check_fp8_options)
def fp8(ref: ModelRef, to: Path, *, progress: Tell, scales: Scales = "channel", path: str | None = None) -> Path:
    """Quantise the linear layers of a merged model to FP8.

    Or take a copy made elsewhere, in the folder `path`. Raises UsageError for a model with other names of layers in its
    files, CheckFailedError if a number is not its parent's, rounded.
    """
    parent, made = Path(ref.path), Path(path) if path else None
    check_fp8_options(parent, {"path": path} if path else {})
    return convert_model(
        "fp8", ref, to, progress, partial(_write_fp8_model, parent, to, scales), partial(compare_fp8, parent, to), made
    )


def _write_fp8_model(parent: Path, to: Path, scales: Scales) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    layers, ignored = _list_fp8_weights_and_ignored(parent)
    places: dict[str, str] = {}
    for file in weight_files(parent):
        found = load_file(parent / file)
        for name in layers & found.keys():
            weight = found[name]
            highest = weight.abs().amax(1, keepdim=True) if scales == "channel" else weight.abs().amax().reshape(1)
            # Rounded to the model's own dtype, in which they are kept; 0 where a row is.
            scale = (highest.float() / MAX_E4M3).to(weight.dtype)
            scale = torch.where(scale > 0, scale, torch.ones_like(scale))
            codes = (weight.float() / scale.float()).clamp(-MAX_E4M3, MAX_E4M3).to(torch.float8_e4m3fn)
            found |= {name: codes, f"{name}_scale": scale}
        save_file(found, to / file, {"format": "pt"})
        places |= dict.fromkeys(found, file)
    if lost := layers - places.keys():
        raise UsageError(f'export "fp8": "{min(lost)}" is in none of the model\'s files; {OTHER_TOOL_ADVICE}')
    for index in parent.glob(f"*{formats.INDEX}"):
        (to / index.name).write_text(json.dumps({"metadata": {}, "weight_map": places}, indent=2), "utf-8")
    weights = {"num_bits": 8, "type": "float", "strategy": scales, "symmetric": True, "dynamic": False}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    told = {"quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed"}
    config = json.loads((parent / "config.json").read_text("utf-8"))
    config["quantization_config"] = {**told, "ignore": ignored, "config_groups": {"group_0": group}}
    (to / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _list_fp8_weights_and_ignored(folder: Path) -> tuple[set[str], list[str]]:
    """Return the weights to quantise, and the names of ignored layers.

    Ignored is the head. Raises UsageError for a weight of more than two dimensions, which is no layer.
    """
    from torch.nn import Linear

    from harness_hf import build_skeleton

    model = build_skeleton(folder)
    if experts := [name for name, weight in model.named_parameters() if weight.ndim > 2]:
        raise UsageError(f'export "fp8": "{experts[0]}" is not a layer; {OTHER_TOOL_ADVICE}')
    linear, head = {n: m for n, m in model.named_modules() if isinstance(m, Linear)}, model.get_output_embeddings()
    return {f"{n}.weight" for n, m in linear.items() if m is not head}, [n for n, m in linear.items() if m is head]


def compare_fp8(parent: Path, copy: Path) -> dict[str, Any]:
    """Compare an FP8 copy with its parent and return the facts.

    Compared are every tensor, the configuration and the tokenizer; raises CheckFailedError if one differs.
    """
    import torch
    from safetensors import safe_open

    from harness_export.rounding import F16_STEP
    from harness_export.rounding import compare_rounding as compare_numbers
    from harness_export.writing import compare_tokenizers
    from harness_hf import read_fp8
    from harness_lora import read_headers

    there, wrong, total, layers = read_headers(parent), 0.0, 0.0, 0
    left = set(there)
    for file in weight_files(copy):
        for name, here, scale in read_fp8(copy, file):
            if name not in there:
                raise CheckFailedError(f'"{name}" is not in the parent model')
            left.discard(name)
            with safe_open(there[name].file, "pt") as opened:
                wanted = opened.get_tensor(name).float()
            if wanted.shape != here.shape:
                raise CheckFailedError(
                    f'"{name}" has shape {list(here.shape)}, but {list(wanted.shape)} in the parent model'
                )
            if scale is None:
                compare_numbers(name, wanted.numpy(), here.float().numpy(), 0)
                continue
            exponent = torch.frexp(here).exponent - SIGNIFICAND_BITS
            step = torch.ldexp(torch.ones_like(here), exponent).clamp_min(SMALLEST_STEP)
            allowed = step * scale * (0.5 + (here.abs() == MAX_E4M3)) + F16_STEP * wanted.abs()
            off, all_ = compare_numbers(name, wanted.numpy(), (here * scale).numpy(), allowed.numpy())
            wrong, total, layers = wrong + off, total + all_, layers + 1
    tied = {
        name for name in left if name == "lm_head.weight" and _read_transformers_config(copy).get("tie_word_embeddings")
    }
    if left - tied:
        raise CheckFailedError(f'"{min(left)}" is only in the parent model')
    ours, theirs = (
        {k: v for k, v in _read_transformers_config(f).items() if k not in NOT_COMPARED} for f in (copy, parent)
    )
    if odd := sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k)):
        raise CheckFailedError(
            f"config.json: {odd[0]} is {ours.get(odd[0])}, but {theirs.get(odd[0])} in the parent model"
        )
    compare_tokenizers(parent, copy)
    return {"relative_error": round(math.sqrt(wrong / max(total, 1e-300)), 6), "layers": layers}


def _read_transformers_config(folder: Path) -> dict[str, Any]:
    from transformers import AutoConfig

    return dict(AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False).to_dict())
