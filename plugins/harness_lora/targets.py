"""Which modules of a base a new adapter is put on: the linears that a text goes through."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from harness import UsageError
from harness_hf import language_model_name

if TYPE_CHECKING:
    from peft import LoraConfig

ALL_LINEAR = "all-linear"
# linears of which only the weight is read
UNCALLED_MODULES = dict.fromkeys(("mamba", "falcon_mamba", "jamba"), ("dt_proj",))


def restrict_targets(config: LoraConfig, model: Any) -> LoraConfig:
    """Exclude modules that no text reaches from a new adapter.

    Of "all-linear" those that PEFT cannot adapt are excluded too. A tower for pictures would get no gradient from rows
    of text, and its update would stay zero. Returns the changed `config`.
    """
    left_out, given = [], config.exclude_modules
    if part := language_model_name(model):
        left_out.append(rf"(?!{re.escape(part)}\.).*")
    if config.target_modules == ALL_LINEAR and (
        ends := _find_unadaptable_module_names(config, model, text_linears(model))
    ):
        left_out.append(rf"(.*\.)?({'|'.join(sorted(ends))})")
    if left_out and given:
        left_out.append(given if isinstance(given, str) else rf"(.*\.)?({'|'.join(map(re.escape, given))})")
    if left_out:
        config.exclude_modules = "|".join(left_out)
    return config


def check_reached(targets: str | Collection[str], model: Any) -> None:
    """Raise UsageError if a target lies only in a tower. No row of text would train it."""
    names, part = [name for name, _ in model.named_modules()], language_model_name(model)
    if part is None or targets == ALL_LINEAR:
        return
    for target in [targets] if isinstance(targets, str) else sorted(targets):
        found = [name for name in names if matches_target(target, name, expression=isinstance(targets, str))]
        if found and not any(name.startswith(f"{part}.") for name in found):
            what = f'matches only "{found[0]}", which text inputs do not use'
            raise UsageError(f'target_modules "{target}": {what}; name modules of "{part}"')


def check_adaptable(config: LoraConfig, model: Any) -> None:
    """Raise UsageError if a new adapter names an unadaptable module.

    The message has the list of modules to write instead.
    """
    targets = config.target_modules
    if targets == ALL_LINEAR or not targets:
        return
    given = [targets] if isinstance(targets, str) else sorted(targets)
    names = [name for name, _ in model.named_modules()]
    matched = [n for n in names if any(matches_target(t, n, expression=isinstance(targets, str)) for t in given)]
    if refused := _find_unadaptable_module_names(config, model, matched):
        ends = {name.rpartition(".")[2] for name in matched} - refused
        linears = text_linears(model)
        ends = ends or {name.rpartition(".")[2] for name in linears} - _find_unadaptable_module_names(
            config, model, linears
        )
        what = f'cannot be adapted on a base of type "{model.config.model_type}"'
        listed = ", ".join(f'"{end}"' for end in sorted(ends))
        raise UsageError(f'target_modules "{min(refused)}": {what}; set target_modules = [{listed}]')


def matches_target(target: str, name: str, *, expression: bool) -> bool:
    """Return whether PEFT takes a module for a target: by an expression, or by its name or the end of it."""
    if expression:
        return re.fullmatch(target, name) is not None
    return name == target or name.endswith(f".{target}")


def text_linears(model: Any) -> list[str]:
    """Return the linear layers that a text passes, without the head."""
    import torch
    from transformers.pytorch_utils import Conv1D

    part, head = language_model_name(model), model.get_output_embeddings()
    named = ((n, m) for n, m in model.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D)) and m is not head)
    return [name for name, _ in named if part is None or name.startswith(f"{part}.")]


def list_towers(model: Any) -> list[str]:
    """Return the modules with parameters beside the language model. An example is "model.vision_tower"."""
    part, head = language_model_name(model), model.get_output_embeddings()
    if part is None:
        return []
    around = {".".join(part.split(".")[:i]) for i in range(part.count(".") + 1)}  # that the language model lies in
    beside = (
        (name, module)
        for name, module in model.named_modules()
        if name not in around and name.rpartition(".")[0] in around and name != part and module is not head
    )
    return [name for name, module in beside if any(True for _ in module.parameters())]


def _find_unadaptable_module_names(config: LoraConfig, model: Any, names: Sequence[str]) -> set[str]:
    """Return the last names of modules that PEFT cannot adapt.

    It refuses some, as Mamba's out_proj. Others it adapts without effect: those that return more than a tensor, and
    those that are never called, as Mamba's dt_proj.
    """
    from peft.tuners.lora import LoraModel

    found = set()
    for name in names:
        end = name.rpartition(".")[2]
        try:
            LoraModel._check_target_module_compatiblity(None, config, model, end)
        except ValueError:
            found.add(end)
        if end in UNCALLED_MODULES.get(model.config.model_type, ()):
            found.add(end)
        if returns_several_tensors(model.get_submodule(name)):
            found.add(end)
    return found


def returns_several_tensors(linear: Any) -> bool:
    """Return whether a linear layer returns several tensors.

    A class of its own may, such as a router, but PEFT adds to one tensor.
    """
    import torch

    if not isinstance(linear, torch.nn.Linear) or type(linear).forward is torch.nn.Linear.forward:
        return False
    with suppress(Exception), torch.no_grad():  # not made for a model without weights, or in 4 bits
        return isinstance(linear(linear.weight.new_zeros(1, linear.in_features)), tuple)
    return False
