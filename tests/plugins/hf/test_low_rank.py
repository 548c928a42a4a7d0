"""PEFT's LoRA layers in fewer steps: what they computed before, bit for bit, but what is trained in half precision."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from torch import nn  # noqa: E402

from harness_hf.cpu import linear  # noqa: E402

pytestmark = pytest.mark.skipif(not linear.is_onednn_available(), reason="no oneDNN for float32 here")


class Two(nn.Module):
    """Two layers, so that the second passes a gradient on to the first."""

    def __init__(self, four_bits: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 96, bias=True, dtype=dtype), nn.Linear(96, 32, dtype=dtype)
        if four_bits:
            from bitsandbytes.nn import Linear4bit

            for name, i, o in ("one", 64, 96), ("two", 96, 32):
                made: Any = Linear4bit(i, o, bias=True, compute_dtype=dtype, quant_type="nf4")
                made.support_avx512bf16_for_cpu = False
                setattr(self, name, made.to(dtype).to("cpu"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.two(torch.tanh(self.one(x)))
        return found


def make_adapted_model(four_bits: bool, dtype: torch.dtype, alpha: int = 24, **config: Any) -> Any:
    torch.manual_seed(4)
    model = Two(four_bits, dtype)
    told = peft.LoraConfig(r=8, lora_alpha=alpha, target_modules=["one", "two"], init_lora_weights=False, **config)
    made = peft.get_peft_model(model, told)
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return made


def copy_with_peft_layers(model: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Return a model as it is with PEFT's own layers, and with ours; the rest is the same."""
    theirs, ours = copy.deepcopy(model), model
    linear.use_onednn(ours)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "peft.tuners.lora", None)
        linear.use_onednn(theirs)
    return ours, theirs


def run(model: Any, dtype: torch.dtype, trained_input: bool = True) -> list[torch.Tensor]:
    """Return what a model says and its gradients, of everything that has one."""
    x = torch.linspace(-2, 2, 2 * 3 * 64).reshape(2, 3, 64).to(dtype).requires_grad_(trained_input)
    y = model(x)
    (y.float() * torch.arange(32)).sum().backward()
    return [y, *([x.grad] if trained_input else []), *(p.grad for p in model.parameters() if p.requires_grad)]


def list_layer_modules(model: Any) -> set[str]:
    return {type(module).__module__ for module in model.modules() if hasattr(module, "lora_A")}


def is_within_bf16_rounding(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether tensors in bfloat16 are what its rounding makes of the same."""
    return bool((one - other).norm() <= 0.01 * other.norm())


@pytest.mark.parametrize("four_bits", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained_input", [False, True])
@pytest.mark.parametrize("alpha", [24, 16, 8, 1])
def test_results_and_gradients_are_peft_s_own(
    four_bits: bool, dtype: torch.dtype, trained_input: bool, alpha: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scaled by 3, 2, 1 and an eighth, and where the input needs no gradient; without gradients as well."""
    ours, theirs = copy_with_peft_layers(make_adapted_model(four_bits, dtype, alpha), monkeypatch)
    assert list_layer_modules(ours) == {linear.__name__} and list_layer_modules(theirs).isdisjoint(
        list_layer_modules(ours)
    )
    same = torch.equal if dtype == torch.float32 else is_within_bf16_rounding
    for mine, other in zip(run(ours, dtype, trained_input), run(theirs, dtype, trained_input), strict=True):
        assert mine.dtype == other.dtype and same(mine, other)
    with torch.inference_mode():
        x = torch.randn(5, 64).to(dtype)
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("how", ["dropout", "dora", "bias", "disabled", "merged", "autocast", "two", "half"])
def test_all_else_is_peft_s_own(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no single plain adapter in float32 never comes to the one node."""
    config = {"dropout": {"lora_dropout": 0.5}, "dora": {"use_dora": True}, "bias": {"lora_bias": True}}.get(how, {})
    model = make_adapted_model(False, torch.float32, **config)
    if how == "two":
        model.add_adapter("other", peft.LoraConfig(r=4, target_modules=["one"], init_lora_weights=False))
        model.base_model.set_adapter(["default", "other"])
    if how == "half":
        model.to(torch.bfloat16)
    ours, theirs = copy_with_peft_layers(model, monkeypatch)
    monkeypatch.setattr(linear, "LoraLinearFunction", None)
    found = []
    for each in (ours, theirs):
        torch.manual_seed(2)
        if how == "merged":
            each.merge_adapter()
        x = torch.linspace(-1, 1, 64 * 3).reshape(3, 64).to(torch.bfloat16 if how == "half" else torch.float32)
        if how == "disabled":
            with each.disable_adapter():
                found.append(each(x))
        else:
            with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
                found.append(each(x))
    assert torch.equal(*found)


@pytest.mark.parametrize(("rank", "outputs"), [(1, 24), (8, 1), (2, 3), (16, 100)])
def test_narrow_layers_have_peft_s_bits(rank: int, outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate of one output, as mixtures of experts have, and an adapter of rank 1 too."""
    torch.manual_seed(7)
    config = peft.LoraConfig(r=rank, target_modules=["0"], init_lora_weights=False)
    ours, theirs = copy_with_peft_layers(
        peft.get_peft_model(nn.Sequential(nn.Linear(48, outputs)), config), monkeypatch
    )
    x = torch.randn(33, 48)
    for model in (ours, theirs):
        (model(x) * torch.arange(1, outputs + 1)).square().sum().backward()
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
    assert all(torch.equal(p.grad, q.grad) for p, q in pairs if p.requires_grad)


@pytest.mark.parametrize("four_bits", [False, True])
def test_half_precision_is_about_as_near_to_exact_gradients(four_bits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PEFT's float32 beside a base in bfloat16, of two layers; of thirty that rounding is all there is."""
    ours, theirs = copy_with_peft_layers(make_adapted_model(four_bits, torch.bfloat16), monkeypatch)
    exact = copy.deepcopy(theirs).double()
    if four_bits:
        for name in ("one", "two"):
            getattr(exact, name).base_layer.compute_dtype = torch.float64
    torch.manual_seed(8)
    off = {"ours": 0.0, "theirs": 0.0}
    for _ in range(8):
        x = torch.randn(40, 64)
        found = {}
        for name, model, dtype in ("ours", ours, "bf"), ("theirs", theirs, "bf"), ("exact", exact, "64"):
            model.zero_grad()
            model(x.to(torch.bfloat16 if dtype == "bf" else torch.float64)).double().square().sum().backward()
            found[name] = torch.cat([p.grad.double().flatten() for p in model.parameters() if p.requires_grad])
        for name in off:
            off[name] += float((found[name] - found["exact"]).norm() / found["exact"].norm())
    assert off["ours"] <= 1.5 * off["theirs"]


def test_a_whole_training_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty steps of Adam in float32 end at the same weights."""
    ours, theirs = copy_with_peft_layers(make_adapted_model(True, torch.float32), monkeypatch)
    for model in (ours, theirs):
        torch.manual_seed(1)
        optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
        for _ in range(20):
            model(torch.randn(4, 7, 64, dtype=torch.float32)).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    weights = [{n: p.data for n, p in model.named_parameters() if p.requires_grad} for model in (ours, theirs)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
