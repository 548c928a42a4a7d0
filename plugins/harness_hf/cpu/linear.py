"""Linear layers on the CPU through oneDNN.

For float32 `torch.nn.functional.linear` calls MKL, which on processors of other makers than its own reaches less than
half of what they can do; oneDNN compiles its kernels for what the processor has. The products are IEEE's, summed in
another order.

PEFT's LoRA layers make a node of the graph of every cast, product and scaling, and keep a float32 copy of what they
read until the backward. Here a layer is one node with the frozen product it adds to, which keeps what it read as it
came; its results are PEFT's to the bit, but of a training in bfloat16, which multiplies as autocast does. (Where
several layers read the same, their gradients are added up in another order.)
"""

from __future__ import annotations

import math
import platform
import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from harness_hf.memory import free_bytes


@cache
def is_onednn_available() -> bool:
    """Return whether oneDNN multiplies float32 here: on x86, where it was measured, and where PyTorch has it."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch._C._has_mkldnn:
        return False
    try:
        return bool(torch.equal(multiply(torch.ones(2, 3), torch.ones(4, 3)), torch.full((2, 4), 3.0)))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x Wᵀ + b without a gradient: x (…, I), weight (O, I), bias (O,), result (…, O)."""
    done: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return done


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x Wᵀ + b, by oneDNN where that is faster.

    There is no gradient. x is (N, I), weight (O, I), bias (O,).
    """
    fast = x.dtype == weight.dtype == torch.float32 and x.is_cpu and is_onednn_available()
    return multiply(x, weight, bias) if fast else nn.functional.linear(x, weight, bias)


class LinearFunction(torch.autograd.Function):
    """x Wᵀ + b and its gradients, for rows x (N, I). With more dimensions the result would be a view."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x = multiply(grad, weight.t()) if ctx.needs_input_grad[0] else None  # (N, I)
        to_weight = multiply(grad.t(), x.t()) if ctx.needs_input_grad[1] else None  # (O, I)
        return to_x, to_weight, grad.sum(0) if ctx.needs_input_grad[2] else None


class FrozenLinearFunction(torch.autograd.Function):
    """x Wᵀ + b of a frozen layer, with x's gradient.

    The rows x are (N, I); a 4-bit weight is decoded.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any) -> Tensor:
        ctx.layer = layer
        return fast_linear(x, _decode_frozen_weight(layer, x), layer.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return fast_linear(grad, _decode_frozen_weight(ctx.layer, grad).t()), None


class LoraLinearFunction(torch.autograd.Function):
    """A frozen layer with its LoRA, and their gradients.

    It is x Wᵀ + b + s · x Aᵀ Bᵀ for rows x (N, I), A (R, I) and B (O, R) in float32. If `rounded`, the LoRA's part is
    rounded to the dtype of W x before it is added. A LoRA that learns beside bfloat16 is multiplied in it, as autocast
    does. A scale that is a power of two changes no bit, and is applied where numbers are few.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, scale: float, layer: Any, rounded: bool, learns: bool
    ) -> Tensor:
        early, late = (scale, 1.0) if math.frexp(scale)[0] == 0.5 else (1.0, scale)
        if learns:
            a, b = a.to(x.dtype), b.to(x.dtype)
        inner = _scale_in_place(fast_linear(x.to(a.dtype), a), early)  # (N, R)
        ctx.save_for_backward(x, inner, a, b)
        ctx.layer, ctx.scales = layer, (early, late)
        done = fast_linear(x, _decode_frozen_weight(layer, x), layer.bias)  # (N, O)
        if a.dtype != torch.float32:
            return done.addmm_(inner, b.t(), alpha=late)
        more = _scale_in_place(multiply(inner, b), late)
        return done.add_(more.to(done.dtype)) if rounded else more.add_(done).to(done.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, a, b = ctx.saved_tensors
        early, late = ctx.scales
        wide = grad.to(a.dtype)  # (N, O)
        wide = wide if late == 1 else wide * late  # not in place: a gradient of its dtype is not copied above
        to_inner = _scale_in_place(fast_linear(wide, b.t()), early)  # (N, R)
        to_x = to_a = to_b = None
        if ctx.needs_input_grad[0]:  # (N, I)
            to_x = fast_linear(grad, _decode_frozen_weight(ctx.layer, grad).t())
            if a.dtype == torch.float32:
                to_x += multiply(to_inner, a.t()).to(x.dtype)
            else:
                to_x.addmm_(to_inner, a)
        if ctx.needs_input_grad[1]:
            to_a = fast_linear(to_inner.t(), x.to(a.dtype).t())  # (R, I)
        if ctx.needs_input_grad[2]:  # (O, R); its transpose is twice as fast, with its bits but for sides of 1
            turned = 1 < inner.shape[1] < wide.shape[1]
            to_b = fast_linear(inner.t(), wide.t()).t() if turned else fast_linear(wide.t(), inner.t())
        return to_x, to_a, to_b, None, None, None, None


class Linear(nn.Linear):
    """An nn.Linear with oneDNN's float32 products on the CPU. All else is as it was."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if not x.dtype == weight.dtype == torch.float32 or not weight.is_cpu or not _is_plain_cpu_input(x):
            return super().forward(x)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
            done: Tensor = LinearFunction.apply(_flatten_rows(x), weight, bias)  # type: ignore[no-untyped-call]
            return done.view(*x.shape[:-1], -1)
        return multiply(x, weight, bias)


def use_onednn(model: nn.Module) -> None:
    """Make a model's CPU layers compute as the classes here do.

    These are its float32, 4-bit and LoRA layers; without oneDNN they are left alone.
    """
    if not is_onednn_available():
        return
    quantised = sys.modules.get("bitsandbytes.nn")  # no 4-bit layer without it, and importing it is slow
    lora = sys.modules.get("peft.tuners.lora")  # no adapter without it
    kinds = {getattr(lora, name): name for name in ("Linear", *(["Linear4bit"] if quantised else [])) if lora}
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.is_cpu and module.weight.dtype == torch.float32:
            module.__class__ = Linear
        elif quantised and type(module) is quantised.Linear4bit and module.weight.is_cpu:
            module.__class__ = _make_linear4bit()
        elif name := kinds.get(type(module)):
            module.__class__ = _make_lora_layer_class(name)


def keep_decoded(model: nn.Module, part: int = 4, width: int = 4) -> None:
    """Make frozen 4-bit layers keep their decoded weights.

    Weights are decoded at their first use, bit for bit, and must not change. As many layers keep theirs as fit into the
    `part`th part of the free memory, and into `width` bytes per weight of them all.
    """
    layers: list[Any] = [each for each in model.modules() if hasattr(each, "keeps")]
    weights = [each.weight.quant_state.shape.numel() for each in layers]
    room = min((free_bytes("cpu") or 0) // part, width * sum(weights))
    for each, size in zip(layers, weights, strict=True):
        each.keeps = (taken := size * each.compute_dtype.itemsize) <= room
        room -= taken if each.keeps else 0


@cache
def _make_linear4bit() -> type[nn.Module]:
    """Return bitsandbytes' 4-bit layer with the float32 products of oneDNN."""
    from bitsandbytes import nn as quantised

    class Linear4bit(quantised.Linear4bit):  # type: ignore[misc]
        keeps, decoded = False, None  # see `keep_decoded`

        def forward(self, x: Tensor) -> Any:
            if not (_is_frozen_cpu_layer(self, x.dtype) and _is_plain_cpu_input(x)):
                return super().forward(x)
            return FrozenLinearFunction.apply(_flatten_rows(x), self).view(*x.shape[:-1], -1)  # type: ignore[no-untyped-call]

    return Linear4bit


@cache
def _make_lora_layer_class(name: str) -> type[nn.Module]:
    """Return a PEFT layer that computes in fewer steps where possible."""
    from peft.tuners import lora

    def forward(self: Any, x: Tensor, *args: Any, **given: Any) -> Tensor:
        one = None if args or given else _find_only_adapter(self, x)
        if one is None:
            done: Tensor = kind.forward(self, x, *args, **given)
            return done
        a, b, scale = self.lora_A[one].weight, self.lora_B[one].weight, self.scaling[one]
        # bitsandbytes' layer rounds before it adds, where the other one adds before it rounds
        how = name == "Linear4bit", torch.is_grad_enabled() and a.requires_grad and x.dtype == torch.bfloat16
        done = LoraLinearFunction.apply(_flatten_rows(x), a, b, scale, self.base_layer, *how)  # type: ignore[no-untyped-call]
        return done.view(*x.shape[:-1], -1)

    kind: Any = getattr(lora, name)
    made: type[nn.Module] = type(name, (kind,), {"forward": forward, "__module__": __name__})
    return made


def _find_only_adapter(layer: Any, x: Tensor) -> str | None:
    """Return the name of a layer's only plain LoRA adapter.

    None unless the layer is frozen and the adapter's matrices are float32 on the CPU.
    """
    names, base = layer.active_adapters, layer.base_layer
    if len(names) != 1 or names[0] not in layer.lora_A or layer.lora_variant or layer.disable_adapters or layer.merged:
        return None
    a, b, left_out = (each[names[0]] for each in (layer.lora_A, layer.lora_B, layer.lora_dropout))
    plain = type(a) is type(b) is Linear and b.bias is None and isinstance(left_out, nn.Identity)
    plain = plain and not (base._forward_hooks or base._forward_pre_hooks or "forward" in vars(base))
    whole = a.weight.dtype == b.weight.dtype == torch.float32 and a.weight.is_cpu and b.weight.is_cpu
    return str(names[0]) if plain and whole and _is_frozen_cpu_layer(base, x.dtype) and _is_plain_cpu_input(x) else None


def _is_frozen_cpu_layer(layer: Any, dtype: torch.dtype) -> bool:
    """Return whether a CPU layer is frozen and computes in `dtype`."""
    weight, bias = layer.weight, layer.bias
    if not (type(layer) is nn.Linear or type(layer).__module__ == __name__) or not weight.is_cpu:
        return False
    computes = weight.dtype
    if hasattr(layer, "compute_dtype"):  # in 4 bits; what is not yet set bitsandbytes sets at the first call
        state = getattr(weight, "quant_state", None)
        known = layer.compute_type_is_set and state is not None and not getattr(state, "packing_format_for_cpu", False)
        computes = layer.compute_dtype if known else None
    learns = weight.requires_grad or (bias is not None and (bias.requires_grad or bias.dtype != dtype))
    return computes == dtype and not learns


def _decode_frozen_weight(layer: Any, like: Tensor) -> Tensor:
    """Return the weight (O, I) of a frozen layer, decoded if 4-bit."""
    weight: Tensor = layer.weight
    if (state := getattr(weight, "quant_state", None)) is None:
        return weight
    if layer.keeps and layer.decoded is not None:
        return layer.decoded  # type: ignore[no-any-return]
    from bitsandbytes.functional import dequantize_4bit

    found: Tensor = dequantize_4bit(weight.data, state).to(like.dtype)
    if layer.keeps:
        layer.decoded = found
    return found


def _scale_in_place(x: Tensor, scale: float) -> Tensor:
    """Multiply in place."""
    return x if scale == 1 else x.mul_(scale)


def _flatten_rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _is_plain_cpu_input(x: Tensor) -> bool:
    """Return whether an input is non-empty, on the CPU, without autocast."""
    return x.is_cpu and x.numel() > 0 and not torch.is_autocast_enabled("cpu")
