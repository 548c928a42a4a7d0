"""Places of a checkpoint's tensors and PEFT's targets in a model.

The model is built without weights. transformers holds the experts of a layer as one stack of matrices, and a checkpoint
may hold each of them by itself, under other names; its own table of conversions maps one to the other.
"""
# ruff: noqa: TID253 (imported inside functions, only where something is merged or asked)

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from peft.utils import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from harness import UsageError
from harness_hf import build_skeleton, format_one_line, quiet_loading
from harness_lora.files import Header
from harness_lora.targets import returns_several_tensors


@dataclass(frozen=True)
class TensorPlace:
    """The part of a parameter that a checkpoint's tensor holds.

    It is all of it, or some rows, or those of one matrix in a stack.
    """

    parameter: str
    matrix: int | None = None
    begin: int = 0
    end: int | None = None
    how: str = ""  # the operations by which one is computed otherwise, which is not merged here

    @property
    def rows(self) -> slice:
        return slice(self.begin, self.end)

    def select(self, whole: torch.Tensor) -> torch.Tensor:
        """Return the tensor's part of a whole parameter, as a view."""
        return (whole if self.matrix is None else whole[self.matrix])[self.rows]


@dataclass(frozen=True)
class AdaptedParameter:
    """A parameter that a module of PEFT adapts: a matrix, or a stack of `stacked`, stored (in, out) if `turned`."""

    parameter: str
    key: str  # by which PEFT looks up its rank and its alpha
    stacked: int = 0
    turned: bool = False

    def expert_part(self, place: TensorPlace, part: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
        """Return an adapter part's name and value for one checkpoint tensor.

        A stack has A (E·r, in) and B (out, r·E), with the expert first in A's rows and last in B's columns; each of its
        E matrices gets B (out, r) and A (r, in), and a stack that is one tensor all of them.
        """
        if not self.stacked:
            return part, tensor if part in ("lora_A", "trainable_tokens_delta") else place.select(tensor)
        if part == "lora_A":
            tensor = tensor.reshape(self.stacked, -1, tensor.shape[1])
        else:
            tensor = tensor.reshape(len(tensor), -1, self.stacked).permute(2, 0, 1)
        if self.turned:
            part, tensor = {"lora_A": "lora_B", "lora_B": "lora_A"}[part], tensor.transpose(1, 2)
        tensor = tensor if place.matrix is None else tensor[place.matrix]
        return part, tensor[place.rows] if part == "lora_B" else tensor


class CheckpointLayout:
    """A base's model without weights, and its checkpoint's tensor places."""

    def __init__(self, base: Path, there: Mapping[str, Header]) -> None:
        self.model, self.there = build_skeleton(base), there
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        pairs = list(_iterate_tensor_places(self.model, there))
        self.places = dict(pairs)
        self.by_parameter: dict[str, list[str]] = defaultdict(list)  # the tensors that each is made of
        for name, place in pairs:
            self.by_parameter[place.parameter].append(name)
        tied = self.model.all_tied_weights_keys
        self.twins = {**{one: other for other, one in tied.items()}, **tied}  # parameters that are one, by name

    def parameter(self, module: str) -> str:
        """Return the name of a module's weight. A parameter's own name is returned unchanged."""
        return f"{module}.weight" if f"{module}.weight" in self.shapes else module

    def tensor(self, module: str) -> str | None:
        """Return the tensor that is a module's whole weight. None if it is put together otherwise."""
        found = self.by_parameter.get(parameter := self.parameter(module), ())
        return found[0] if len(found) == 1 and self.places[found[0]] == TensorPlace(parameter) else None

    def tensors(self, parameter: str) -> Sequence[str]:
        """Return the tensors that a parameter is made of.

        Raises UsageError if it is not just put together of them.
        """
        found = self.by_parameter.get(parameter, ())
        for name in found:
            if how := self.places[name].how:
                what = f'"{parameter}" is built from "{name}" by {how} on loading'
                then = "ship the adapter, or train with targets that exclude it"
                raise UsageError(f"[merge] {what}, for which an exact merge is not tested; {then}")
        return found


def adapt_skeleton(model: PreTrainedModel, config: LoraConfig) -> Any:
    """Put PEFT on a model without weights, and return it.

    Raises UsageError if PEFT refuses, or a target returns several tensors.
    """
    config = copy.deepcopy(config)  # into which PEFT may write other targets, ranks and alphas
    config.init_lora_weights = True  # the others are made from weights
    with quiet_loading(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            adapted = get_peft_model(model, config, low_cpu_mem_usage=True)
        except (ValueError, TypeError, IndexError, RuntimeError, NotImplementedError, KeyError) as error:
            if config.lora_dropout and ParamWrapper.__name__ in str(error):
                why = "lora_dropout: PEFT adapts this base's experts as bare parameters, which cannot have dropout"
                raise UsageError(f"{why}; set lora_dropout = 0, or name target_modules without experts") from None
            raise UsageError(f"does not fit the base: {format_one_line(error)}") from None
    for name, module in adapted.base_model.model.named_modules():
        base = module.get_base_layer() if isinstance(module, LoraLayer) else None
        if returns_several_tensors(base):
            what = f'"{name}" is a {type(base).__name__}, which returns more than the single tensor that PEFT expects'
            raise UsageError(f'target_modules: {what}; set exclude_modules = ["{name.rpartition(".")[2]}"]')
    return adapted


def adapted_targets(adapted: PeftModel) -> Iterator[tuple[str, AdaptedParameter]]:
    """Yield each module in an adapter's file and its adapted parameter."""
    for name, module in adapted.base_model.model.named_modules():
        if isinstance(module, ParamWrapper):
            whole = ".".join(part for part in name.split(".") if part != "base_layer")
            parameter = f"{whole}.{module.parameter_name}"
            stacked = module.num_experts if module.get_param().dim() == 3 else 0
            yield (
                name,
                AdaptedParameter(parameter, parameter, stacked, bool(stacked) and not module._did_swap_in_out_features),
            )
        elif isinstance(module, LoraLayer):
            yield name, AdaptedParameter(f"{name}.weight", name)


def whole_trained_parameters(adapted: PeftModel) -> Iterator[str]:
    """Yield the parameters that are trained whole or by rows."""
    for name, module in adapted.base_model.model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            yield from (f"{name}.{parameter}" for parameter, _ in module.original_module.named_parameters())


def _iterate_tensor_places(model: PreTrainedModel, there: Mapping[str, Header]) -> Iterator[tuple[str, TensorPlace]]:
    """Yield the place of each checkpoint tensor in the model.

    It is as transformers' `convert_and_load_state_dict_in_model` loads them.
    """
    conversions, prefix, known = get_model_conversion_mapping(model), model.base_model_prefix, model.state_dict()
    renamings = [c for c in conversions if isinstance(c, WeightRenaming)]
    converters = [c for c in conversions if isinstance(c, WeightConverter)]
    by_pattern = {pattern: c for c in converters for pattern in c.source_patterns}
    gathered: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in sorted(there, key=dot_natural_key):  # which is also their order in a stack
        parameter, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if parameter not in known and name in known:
            parameter, pattern = rename_source_key(name, [], [], prefix, known)
        if parameter in known and pattern is None:
            yield name, TensorPlace(parameter)
        elif parameter in known:
            gathered[parameter][str(pattern)].append(name)
    for parameter, sources in gathered.items():
        yield from _iterate_gathered_tensor_places(by_pattern[next(iter(sources))], parameter, sources, there)


def _iterate_gathered_tensor_places(
    converter: WeightConverter, parameter: str, sources: Mapping[str, Sequence[str]], there: Mapping[str, Header]
) -> Iterator[tuple[str, TensorPlace]]:
    """Yield the places of tensors that are stacked or concatenated.

    For tensors converted otherwise, yields the parameters that they are for, and how.
    """
    told = [(type(op).__name__, getattr(op, "dim", None)) for op in converter.operations]
    stacked = told[:1] == [("MergeModulelist", 0)]
    if told[stacked:] not in ([], [("Concatenate", int(stacked))]):
        how, (first, *_) = " and ".join(kind for kind, _ in told), converter.target_patterns
        for name, target in product(chain(*sources.values()), converter.target_patterns):
            yield name, TensorPlace(parameter.replace(first, target), how=how)
        return
    begin = end = 0
    for pattern in converter.source_patterns:
        for number, name in enumerate(sources.get(pattern, ())):
            end = begin + there[name].shape[0]
            yield name, TensorPlace(parameter, number if stacked else None, begin, end)
            begin = begin if stacked else end
        begin = end
