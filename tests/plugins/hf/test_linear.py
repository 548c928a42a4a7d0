"""Linear layers through oneDNN: the products and gradients of the layers they stand for."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from harness_hf import memory  # noqa: E402
from harness_hf.cpu import linear  # noqa: E402

pytestmark = pytest.mark.skipif(not linear.is_onednn_available(), reason="no oneDNN for float32 here")


def make_linear_pair(bias: bool = True, trained: bool = True) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(5)
    plain = nn.Sequential(nn.Linear(24, 40, bias=bias).requires_grad_(trained))
    ours = copy.deepcopy(plain)
    linear.use_onednn(ours)
    return ours[0], plain[0]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("shape", [(24,), (7, 24), (2, 3, 24)])
def test_products_and_gradients(bias: bool, trained: bool, shape: tuple[int, ...]) -> None:
    """As near to float64 as the layer's own, towards the input, the weight and the bias."""
    ours, plain = make_linear_pair(bias, trained)
    assert type(ours) is linear.Linear
    found = []
    for layer in (ours, plain, copy.deepcopy(plain).double()):
        x = torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape).to(layer.weight.dtype).requires_grad_()
        y = layer(x)
        (y * torch.arange(40)).sum().backward()
        grads = [p.grad for p in layer.parameters()] if trained else []
        found.append([y, x.grad, *grads])
    for mine, theirs, exact in zip(*found, strict=True):
        assert mine.shape == theirs.shape
        assert (mine - exact).abs().max() <= 4 * (theirs - exact).abs().max() + 1e-5


def test_a_bias_alone_is_trained_and_the_result_changed_in_place() -> None:
    """As with `bias = "lora_only"`, and as block-diagonal adapters do with what a layer returns."""
    ours, plain = make_linear_pair(trained=False)
    found = []
    for layer in (ours, plain):
        assert layer.bias is not None
        layer.bias.requires_grad_()
        y = layer(torch.linspace(0, 1, 48).reshape(1, 2, 24))
        y += 1
        y.square().sum().backward()
        found.append(layer.bias.grad)
    assert torch.allclose(*found, rtol=1e-4)


def test_transposed_views_and_slices_are_read_as_they_are() -> None:
    """Strides of activations are no concern of the caller."""
    ours, plain = make_linear_pair()
    x = torch.randn(24, 9).t()
    sliced = torch.randn(9, 48)[:, ::2]
    for some in (x, sliced, torch.randn(3, 9, 24).transpose(0, 1)):
        with torch.no_grad():
            assert torch.allclose(ours(some), plain(some), atol=1e-5)


@pytest.mark.parametrize("case", ["empty", "float64", "autocast", "bfloat16"])
def test_all_else_is_the_layers_own(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not float32 on the CPU never comes to oneDNN."""
    ours, plain = make_linear_pair()
    monkeypatch.setattr(linear, "multiply", None)
    x = torch.randn(0 if case == "empty" else 3, 24)
    if case == "float64":
        ours, plain, x = ours.double(), plain.double(), x.double()
    if case == "bfloat16":
        ours, plain, x = ours.bfloat16(), plain.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        assert torch.equal(ours(x), plain(x))


def test_a_changed_weight_counts() -> None:
    """Nothing is remembered of a weight: what is written into it is multiplied by."""
    ours, plain = make_linear_pair()
    x = torch.randn(5, 24)
    with torch.no_grad():
        ours(x)
        for layer in (ours, plain):
            layer.weight.mul_(2)
        assert torch.allclose(ours(x), plain(x), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("double", [False, True])
def test_four_bit_layers(dtype: torch.dtype, double: bool) -> None:
    """They multiply by what bitsandbytes decodes, and pass the gradient on by it; in bfloat16 with its bits."""
    from bitsandbytes.nn import Linear4bit

    torch.manual_seed(6)
    kind = {"bias": True, "compute_dtype": dtype, "quant_type": "nf4", "compress_statistics": double}
    made: Any = nn.Sequential(Linear4bit(64, 32, **kind))
    made.to(dtype).to("cpu")
    layer = made[0]
    layer.support_avx512bf16_for_cpu = False
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    found = []
    for _ in range(2):
        x = torch.linspace(-1, 1, 6 * 64, dtype=dtype).reshape(2, 3, 64).requires_grad_()
        y = layer(x)
        (y * torch.arange(32)).sum().backward()
        with torch.inference_mode():
            found.append((y, x.grad, layer(x), layer(x[0, :1])))
        linear.use_onednn(made)
    assert type(layer) is not Linear4bit
    assert isinstance(layer, Linear4bit)
    for theirs, mine in zip(*found, strict=True):
        assert torch.allclose(theirs, mine, atol=1e-5 if dtype == torch.float32 else 0, rtol=0)


def test_weights_of_four_bits_are_decoded_once_where_they_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the part of the free memory that is asked for holds them, and in a training's backward too."""
    from bitsandbytes import functional
    from bitsandbytes.nn import Linear4bit

    decoded: list[int] = []
    decode = functional.dequantize_4bit
    monkeypatch.setattr(functional, "dequantize_4bit", lambda *args: decoded.append(1) or decode(*args))
    made: Any = nn.Sequential(Linear4bit(64, 32, bias=False, compute_dtype=torch.float32, quant_type="nf4")).to("cpu")
    made[0].weight.requires_grad_(False)
    x = torch.randn(3, 64)
    wanted = made(x)
    linear.use_onednn(made)
    full = 4 * 64 * 32
    cases = (4 * full - 1, 4, 3), (None, 4, 3), (4 * full, 4, 1), (4 * full, 16, 3), (16 * full, 16, 1)
    for free, part, times in cases:
        monkeypatch.setattr(linear, "free_bytes", lambda _, free=free: free)
        made[0].decoded = None
        linear.keep_decoded(made, part)
        decoded.clear()
        with torch.inference_mode():
            assert all(torch.allclose(made(x), wanted, atol=1e-5) for _ in range(3))
        assert len(decoded) == times
    linear.keep_decoded(made, 16, width=2)  # these are float32
    assert not made[0].keeps
    gradients = []
    for kept in False, True:
        made[0].keeps, x.grad = kept, None
        decoded.clear()
        made(x.requires_grad_()).sum().backward()
        gradients.append(x.grad)
        assert len(decoded) == 2 * (not kept)
    assert torch.equal(*gradients)
    assert all(name.startswith("0.weight") for name in made.state_dict())


@pytest.mark.parametrize("rows", [0, 1, 20, 21, 22, 43, 107, 1000])
def test_pieces_are_all_rows_in_order_and_none_is_left_alone(rows: int) -> None:
    found = list(memory.iterate_row_slices(torch.empty(rows, 49_152)))
    assert [i for piece in found for i in range(rows)[piece]] == list(range(rows))
    assert rows == 1 or all(piece.stop - piece.start > 1 for piece in found)
