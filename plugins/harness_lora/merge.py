"""Merge a LoRA into its base, one tensor at a time: safetensors in, sum in float32, one cast, safetensors out.

PEFT's `merge_and_unload` is not used: on a 4-bit model it quantises the sum again, which can round the whole
fine-tune away, and in half precision it rounds the update before it is added.

Imports torch: import this module inside functions.
"""
# ruff: noqa: TID253 (imported only where something is merged)

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.constants import EMBEDDING_LAYER_NAMES
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from safetensors.torch import save_file

from harness.errors import Finding, UsageError
from harness_lora.headers import Header, find_tensor, metadata_of, read_headers, split_name

# Fields whose effect on the merged weights is proven equal to PEFT's adapter in tests/plugins/test_lora.py, or that
# have none. Any other one that is not at its default is refused.
PROVEN = {"r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform"}
PROVEN |= {"layers_pattern", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "modules_to_save"}
PROVEN |= {"init_lora_weights", "fan_in_fan_out", "inference_mode", "task_type", "peft_type", "peft_version"}
PROVEN |= {"base_model_name_or_path", "revision", "auto_mapping"}
WEIGHTS = "adapter_model.safetensors"
EMBEDDINGS = frozenset(EMBEDDING_LAYER_NAMES)
REWRITTEN = ("pissa", "olora", "corda", "loftq", "lora_ga")  # adapters to a base that is not the one on disk

FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
COPIED = ["*token*", "vocab*", "merges.txt", "*.model", "tekken.json", "chat_template*", "generation_config.json"]
COPIED += ["LICENSE*", "NOTICE*", "*.safetensors.index.json"]

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """What becomes of a base's tensors, by name."""

    added: Mapping[str, tuple[str, Tensors]]  # module and its parts, lora_A and so on
    replaced: Tensors  # modules_to_save
    rounded: frozenset[str]  # what a 4-bit load quantises
    transposed: frozenset[str]  # Conv1D keeps its weight as (in, out)


def check_mergeable(config: Any, *, trained: bool = False) -> None:
    """Raise UsageError for a LoraConfig whose merge is not proven; `trained` when it is read from an adapter."""
    for field in dataclasses.fields(LoraConfig):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if field.name not in PROVEN and getattr(config, field.name) != default:
            raise UsageError(f'[merge] an adapter with "{field.name}": a merge of it is not proven; ship the adapter')
    targets = config.target_modules or ()
    if not isinstance(targets, str) and not EMBEDDINGS.isdisjoint(targets):
        raise UsageError("[merge] an adapter of an embedding: a merge of it is not proven; ship the adapter")
    start = config.init_lora_weights
    if trained and isinstance(start, str) and start.startswith(REWRITTEN):
        raise UsageError(
            f'[merge] an adapter initialised with "{start}": it belongs to a rewritten base; '
            "convert it with PEFT's path_initial_model_for_weight_conversion"
        )


def merge_folder(
    base: Path, adapter: Path, out: Path, config: Any, quantization: Mapping[str, Any] | None, note: Mapping[str, Any]
) -> None:
    """Write the merged model to `out`; with `quantization`, onto the base as a 4-bit load has it.

    Memory: one file of the base and one tensor in float32. Raises UsageError when the base or the adapter is of a
    kind that cannot be merged, RuntimeError when what was written is not finite or not what was to change.
    """
    there = read_headers(base)
    _refuse_quantised(base, there)
    plan = _plan(base, adapter, there, quantization)
    if not plan.replaced and not any(p["lora_A"].any() and p["lora_B"].any() for _, p in plan.added.values()):
        raise Finding("merge: the adapter is zero, so the merged model would be its base; was anything trained?")
    for file in sorted({header.file for header in there.values()}):
        tensors = [name for name, header in there.items() if header.file == file]
        with safe_open(file, "pt") as opened:
            merged = {name: _merge(name, opened.get_tensor(name), plan, config, quantization, note) for name in tensors}
        save_file(merged, out / file.name, metadata={"format": "pt", **metadata_of(file)})
        del merged
    _copy_rest(base, out)
    _verify(there, out, plan)


def _plan(base: Path, adapter: Path, there: Mapping[str, Header], quantization: Mapping[str, Any] | None) -> Plan:
    added: dict[str, tuple[str, dict[str, torch.Tensor]]] = {}
    replaced: dict[str, torch.Tensor] = {}
    model = _skeleton(base)
    tied = {name.removesuffix(".weight") for pair in model.all_tied_weights_keys.items() for name in pair}
    with safe_open(adapter / WEIGHTS, "pt") as opened:
        for key in read_headers(adapter, WEIGHTS):
            module, part = split_name(key)
            tensor = find_tensor(module, there)
            if tensor is None or module in tied or part.startswith("lora_embedding"):
                raise UsageError(f'[merge] "{key}": an embedding, or tied to one, cannot be merged; ship the adapter')
            if part:
                added.setdefault(tensor, (module, {}))[1][part] = opened.get_tensor(key)
            else:
                replaced[tensor] = opened.get_tensor(key)
    linears = _linears(model)
    rounded = {find_tensor(name, there) for name in _quantised(model, linears)} if quantization else set()
    if None in rounded:
        raise UsageError(f'[merge] base "{base}": its files name layers otherwise than the model; use "original"')
    transposed = {find_tensor(name, there) for name, kind in linears.items() if kind == "Conv1D"}
    return Plan(added, replaced, frozenset(filter(None, rounded)), frozenset(filter(None, transposed)))


def _merge(
    name: str, weight: torch.Tensor, plan: Plan, config: Any, quantization: Mapping[str, Any] | None, note: Any
) -> torch.Tensor:
    """Return a tensor of the merged model, in the dtype it has in the base."""
    if name in plan.replaced:
        return plan.replaced[name].to(weight.dtype).contiguous()
    if name not in plan.added and name not in plan.rounded:
        return weight
    turned = name in plan.transposed
    new = weight.T if turned else weight
    if name in plan.rounded and quantization:
        new = round_to_4bit(new, quantization, getattr(torch, note.get("dtype", "float32")))
    if name in plan.added:
        new = add_lora(new.float(), *plan.added[name], config)
    return (new.T if turned else new).to(weight.dtype).contiguous()


def add_lora(weight: torch.Tensor, module: str, parts: Tensors, config: Any) -> torch.Tensor:
    """Return W + s·B·A in float32, W of shape (out, in); for DoRA m·(W + s·B·A)/‖W + s·B·A‖, norms per row of out.

    s is alpha/r, or alpha/√r with rslora (Kalajdzievski 2023, arXiv:2312.03732); DoRA: Liu et al. 2024,
    arXiv:2402.09353, section 4.1. Raises Finding when the rank is not the configuration's.
    """
    a, b = parts["lora_A"].float(), parts["lora_B"].float()
    r = config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), module), config.r)
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), module), config.lora_alpha)
    if a.shape[0] != r:
        raise Finding(f'adapter: "{module}" has rank {a.shape[0]}, its configuration says {r}')
    total: torch.Tensor = weight + (alpha / (math.sqrt(r) if config.use_rslora else r)) * (b @ a)
    if config.use_dora:
        norm = torch.linalg.norm(total, dim=1, keepdim=True)
        total = parts["lora_magnitude_vector"].float().view(-1, 1) / norm * total
    return total


def round_to_4bit(weight: torch.Tensor, quantization: Mapping[str, Any], dtype: torch.dtype) -> torch.Tensor:
    """Return a weight as it comes back from the 4-bit load of a model in `dtype`, in float32 on the CPU."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Params4bit

    device = "cuda" if torch.cuda.is_available() else "cpu"
    held = Params4bit(
        weight.to(dtype).contiguous(),
        requires_grad=False,
        compress_statistics=quantization["bnb_4bit_use_double_quant"],
        quant_type=quantization["bnb_4bit_quant_type"],
    ).to(device)
    back: torch.Tensor = dequantize_4bit(held.data, held.quant_state)
    return back.float().cpu()


def _skeleton(base: Path) -> Any:
    """Build the model without weights, to know which of its modules are what."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(base), local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _linears(model: Any) -> dict[str, str]:
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    return {name: kind for name, kind in kinds.items() if kind in ("Linear", "Conv1D")}


def _quantised(model: Any, linears: Iterable[str]) -> list[str]:
    """Return the linears that transformers holds in 4 bits: all but the output layer, what is tied, and exceptions."""
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    return [name for name in linears if should_convert_module(name, kept)]


def _refuse_quantised(base: Path, there: Mapping[str, Header]) -> None:
    config = json.loads((base / "config.json").read_text("utf-8"))
    if config.get("quantization_config") and any(header.dtype not in FLOATS for header in there.values()):
        raise UsageError(f'[merge] base "{base}": is stored quantised; merge onto the half-precision original')


def _copy_rest(base: Path, out: Path) -> None:
    """Copy tokenizer, chat template, generation config and licence byte for byte; the config without quantisation."""
    for pattern in COPIED:
        for file in base.glob(pattern):
            if file.is_file() and not (out / file.name).exists():
                shutil.copyfile(file, out / file.name)
    templates = base / "additional_chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, out / templates.name)
    text = (base / "config.json").read_text("utf-8")
    config = json.loads(text)
    if config.pop("quantization_config", None):
        text = json.dumps(config, indent=2) + "\n"
    (out / "config.json").write_text(text, "utf-8")


def _verify(there: Mapping[str, Header], out: Path, plan: Plan) -> None:
    """Read what was written: all finite, what was targeted changed, nothing else did."""
    must, may = plan.added.keys() | plan.replaced.keys(), plan.rounded
    changed = set()
    for file in sorted({header.file for header in there.values()}):
        tensors = [name for name, header in there.items() if header.file == file]
        with safe_open(file, "pt") as old, safe_open(out / file.name, "pt") as new:
            for name in tensors:
                before, after = old.get_tensor(name), new.get_tensor(name)
                if after.is_floating_point() and not torch.isfinite(after).all():
                    raise Finding(f'merge: "{name}" is not finite; the adapter is broken')
                if before.shape != after.shape or before.dtype != after.dtype:
                    raise Finding(f'merge: "{name}" has another shape or dtype than in the base')
                if not torch.equal(before, after):
                    changed.add(name)
    if not changed & must:
        raise Finding("merge: the merged model equals its base; the adapter is too small for the base's dtype")
    if must - changed:
        raise Finding(f'merge: "{min(must - changed)}" did not change, though the adapter has weights for it')
    if changed - must - may:
        raise Finding(f'merge: "{min(changed - must - may)}" changed, though nothing targets it')
