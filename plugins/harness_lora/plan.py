"""Planned changes of a merge to a base's tensors, and obstacles."""
# ruff: noqa: TID253 (imported inside functions, only where something is merged)

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
from safetensors import safe_open
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from harness import CheckFailedError, UsageError
from harness.internals import formats
from harness_lora.fields import BASE_CHANGING_INITS, refused_fields
from harness_lora.files import WEIGHTS, AdapterTensor, Header, read_config, read_headers, split_name
from harness_lora.skeleton import AdaptedParameter, CheckpointLayout, TensorPlace, adapt_skeleton, adapted_targets

COPIED_PATTERNS = [
    "*token*",
    "vocab*",
    "merges.txt",
    "*.model",
    "tekken.json",
    "chat_template*",
    "generation_config.json",
]
COPIED_PATTERNS += [
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
]  # of pictures
COPIED_PATTERNS += ["LICENSE*", "NOTICE*", "*.safetensors.index.json", "config.json", formats.TEMPLATES]

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class MergePlan:
    """The planned changes to a base's tensors, by name.

    `config` has the ranks and alphas that PEFT gave to parameters.
    """

    config: Any
    places: Mapping[str, TensorPlace]
    added: Mapping[str, tuple[str, Tensors]]  # by which name PEFT knows it, and its parts, lora_A and so on
    replaced: Tensors  # modules_to_save
    rounded: frozenset[str]  # what a 4-bit load quantises
    transposed: frozenset[str]  # Conv1D keeps its weight as (in, out), and so does an embedding

    @property
    def must_change(self) -> set[str]:
        """Return the tensors that a merge must change. One that is rounded to 4 bits may change too."""
        return {*self.added, *self.replaced}


def check_mergeable(config: LoraConfig, *, trained: bool = False) -> None:
    """Raise UsageError if merging a LoraConfig is not proven. `trained` says that it was read from an adapter."""
    known, plain = {option.name for option in dataclasses.fields(LoraConfig)}, LoraConfig()
    for name, why in refused_fields(known).items():
        if getattr(config, name) != getattr(plain, name):
            raise UsageError(f'[merge] an adapter with "{name}" cannot be merged: {why}; ship the adapter')
    start = config.init_lora_weights
    if trained and isinstance(start, str) and start.startswith(BASE_CHANGING_INITS):
        how = "convert it with PEFT's path_initial_model_for_weight_conversion"
        raise UsageError(f'[merge] an adapter initialised with "{start}" belongs to a changed base; {how}')


def check_base(base: Path) -> tuple[dict[str, Header], Sequence[str]]:
    """Return a base's tensors, and the other files to copy. Raises UsageError if it cannot be merged onto."""
    there = read_headers(base)
    told = json.loads((base / "config.json").read_text("utf-8"))
    if told.get("quantization_config") and any(header.dtype not in ("F32", "BF16", "F16") for header in there.values()):
        raise UsageError(f'[merge] base "{base}": is stored quantised; merge onto the half-precision original')
    try:
        formats.check_indexes(base)
        names = formats.shipping_files(base, COPIED_PATTERNS)
    except formats.UnsafeFileError as error:
        raise UsageError(f'[merge] base "{base}": {error}') from None
    return there, names


def check_changed(changed: set[str], plan: MergePlan) -> None:
    """Raise CheckFailedError when no tensor changed that was to change."""
    if not changed & plan.must_change:
        what = f"0 of {len(plan.must_change)} adapted tensors changed, at least 1 must"
        how = (
            "the adapter is too small for the base's dtype: train longer or at a higher "
            "learning_rate, or ship the adapter"
        )
        raise CheckFailedError(f"merge: the merged model equals its base [merge-base]: {what}; {how}")


def make_plan(
    base: Path, adapter: Path, there: Mapping[str, Header], quantization: Mapping[str, Any] | None
) -> MergePlan:
    """Match the adapter's tensors with the base's. Raises UsageError if one cannot be merged."""
    added, replaced = dict[str, tuple[str, dict[str, torch.Tensor]]](), dict[str, torch.Tensor]()
    layout = CheckpointLayout(base, there)
    twins = {a.removesuffix(".weight"): b.removesuffix(".weight") for a, b in layout.twins.items()}
    linears = {n: type(m).__name__ for n, m in layout.model.named_modules() if type(m).__name__ in ("Linear", "Conv1D")}
    rounded = set()
    if quantization:  # all linears but the output layer, what is tied, and exceptions
        kept = HfQuantizer.get_modules_to_not_convert(layout.model, None, layout.model._keep_in_fp32_modules)
        rounded = {layout.tensor(name) for name in linears if should_convert_module(name, kept)}
    if None in rounded:
        raise UsageError(f'[merge] base "{base}": its files name layers differently from the model; use "original"')
    transposed = {layout.tensor(name) for name, kind in linears.items() if kind == "Conv1D"}
    adapted = adapt_skeleton(layout.model, read_config(adapter))
    config, known = adapted.peft_config["default"], dict(adapted_targets(adapted))
    with safe_open(adapter / WEIGHTS, "pt") as opened:
        stored = {key: opened.get_tensor(key) for key in read_headers(adapter, WEIGHTS)}
    # by the names that PEFT loads them by; those of experts may have been saved singly
    loaded = convert_peft_adapter_state_dict_for_transformers(adapted, config, stored)
    parts = {split_name(key): tensor for key, tensor in loaded.items()}
    for (module, part), tensor in parts.items():
        target = known.get(module) or AdaptedParameter(layout.parameter(module), module)
        found, tied = layout.tensors(target.parameter), module in twins
        if (
            tied and not part and (twin := parts.get(AdapterTensor(twins[module], ""))) is not None
        ):  # trained as one, saved twice
            tied = not torch.equal(tensor, twin)
            if not found and not tied:
                continue
        if not found or (tied and part != "trainable_tokens_delta"):
            raise UsageError(f"[merge] {find_merge_error(module, twins.get(module))}")
        if tied and part == "trainable_tokens_delta":  # of both copies, where the base stores the tied weight twice
            found = [*dict.fromkeys([*found, *layout.tensors(layout.twins[target.parameter])])]
        for name in found:
            transposed |= {name} if part.startswith("lora_embedding") else set()
            share, value = target.expert_part(layout.places[name], part.replace("lora_embedding", "lora"), tensor)
            if part:
                added.setdefault(name, (target.key, {}))[1][share] = value
            else:
                replaced[name] = value
    rest = (frozenset(filter(None, names)) for names in (rounded, transposed))
    return MergePlan(config, layout.places, added, replaced, *rest)


def find_merge_error(module: str, twin: str | None) -> str:
    """Explain why an adapted module's weight cannot be merged."""
    if twin is None:
        return (
            f'the adapter has weights for "{module}", which the base does not have; check which base it was trained on'
        )
    what = f'"{module}" and "{twin}" are one tied weight in this base, and the adapter changes each separately'
    return (
        f"{what}, which one merged weight cannot represent; ship the adapter, or train with targets that exclude them"
    )
