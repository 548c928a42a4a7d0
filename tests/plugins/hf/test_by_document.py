"""Packed rows that are trained on: attention within documents is PyTorch's under their mask, and its gradients."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.nn.functional import scaled_dot_product_attention  # noqa: E402

from harness import ModelRef  # noqa: E402
from harness_hf import load_model  # noqa: E402
from harness_hf.cpu import attention  # noqa: E402
from harness_hf.cpu.attention import use_document_attention  # noqa: E402
from harness_lora import lora  # noqa: E402
from harness_sft import sft  # noqa: E402

Lengths = list[list[int]]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many documents there were each time that attention was computed within them."""
    found: list[int] = []
    apply = attention.PerDocument.apply
    monkeypatch.setattr(
        attention.PerDocument,
        "apply",
        lambda *args: found.append(sum(each.shape[0] for each in args[3])) or apply(*args),
    )
    return found


def make_document_mask(lengths: Lengths) -> torch.Tensor:
    """Return the mask (B, 1, T, T) of rows of documents."""
    each = [torch.block_diag(*(torch.ones(n, n).tril() for n in row)).bool() for row in lengths]
    return torch.stack(each)[:, None]


@pytest.mark.parametrize("lengths", [[[5, 1, 9, 3]], [[18]], [[4, 14], [9, 9]]])
@pytest.mark.parametrize(("heads", "groups", "wide"), [(4, 4, 8), (6, 2, 8), (4, 1, 5)])
def test_results_and_gradients_are_pytorch_s(lengths: Lengths, heads: int, groups: int, wide: int) -> None:
    """In one row and in two, with heads that share keys, and with values of another width."""
    torch.manual_seed(3)
    shapes = (heads, 8), (groups, 8), (groups, wide)
    given = [torch.randn(len(lengths), h, 18, w, requires_grad=True) for h, w in shapes]
    mask, weights = make_document_mask(lengths), torch.randn(len(lengths), 18, heads, wide)
    found = attention._find_document_batches_in_mask(mask)
    assert [int(n) for each in found for n in each.asks.flatten(1).sum(1)] == [n for row in lengths for n in row]
    assert torch.equal(torch.cat([each.tokens[each.own] for each in found]), torch.arange(18 * len(lengths)))
    ours: Any = attention.PerDocument.apply(*given, found, 0.3)
    theirs = scaled_dot_product_attention(*given, attn_mask=mask, scale=0.3, enable_gqa=True).transpose(1, 2)
    assert torch.allclose(ours, theirs, atol=1e-6)
    grads = [torch.autograd.grad((x * weights).sum(), given) for x in (ours, theirs)]
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*grads, strict=True))


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(1, 1, 12, 12, dtype=torch.bool).tril().triu(-3),  # a sliding window
        torch.ones(1, 1, 12, 12, dtype=torch.bool),  # all see all
        make_document_mask([[12]]) & (torch.arange(12) >= 4),  # padding on the left, which sees nothing
        make_document_mask([[12]]) & (torch.arange(12) < 8),  # and on the right
        make_document_mask([[6, 6]]) | (torch.arange(12) < 2),  # a beginning that all share
        make_document_mask([[2 * attention.MAX_SHORT_TOKENS, 4]]),  # long documents
    ],
)
def test_other_masks_are_left_to_pytorch(mask: torch.Tensor) -> None:
    assert attention._find_document_batches_in_mask(mask) == []


@pytest.mark.parametrize("case", ["one mask for two rows", "a mask a head", "what is added", "keys before"])
def test_masks_of_another_shape_are_pytorch_s(case: str) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    torch.manual_seed(5)
    rows, before = (2 if case == "one mask for two rows" else 1), (4 if case == "keys before" else 0)
    query, key, value = (torch.randn(rows, 4, 9 + more, 8) for more in (0, before, before))
    mask = torch.nn.functional.pad(make_document_mask([[4, 5]]), (before, 0), value=True)
    if case == "a mask a head":
        mask = torch.cat([make_document_mask([lengths]) for lengths in ([4, 5], [9], [2, 7], [3, 3, 3])], 1)
    if case == "what is added":
        mask = torch.zeros(mask.shape).masked_fill(~mask, float("-inf")) + 0.5 * make_document_mask([[4, 5]])
    with use_document_attention():
        found, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](torch.nn.Module(), query, key, value, mask, is_causal=False)
    assert torch.allclose(found, scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_s_gradients_are_as_near_to_exact_ones(dtype: str, tiny_model: Path, used: list[int]) -> None:
    """As those that PyTorch's own attention gives in the same dtype, of a model's loss on a packed row."""
    positions = torch.cat([torch.arange(n) for n in (7, 20, 12)])[None]
    ids = torch.randint(5, 200, positions.shape, generator=torch.Generator().manual_seed(2))

    def gradients(dtype: str, way: Any) -> torch.Tensor:
        model = load_model(tiny_model, dtype=dtype, device="cpu")
        with way():
            model(input_ids=ids, position_ids=positions, labels=ids, use_cache=False).loss.backward()
        return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])

    ours = gradients(dtype, use_document_attention)
    assert used and set(used) == {3}
    exact = gradients("float32", contextlib.nullcontext)
    theirs = (gradients(dtype, contextlib.nullcontext) - exact).norm() / exact.norm()
    assert (ours - exact).norm() / exact.norm() <= (1e-6 if dtype == "float32" else 1.1 * theirs)


@pytest.mark.parametrize("how", ["trained", "checkpointed", "timed"])
def test_a_training_on_packed_rows_attends_so(how: str, tiny_model: Path, tmp_path: Path, used: list[int]) -> None:
    """And a forecast times what a training does."""
    rows = [{"prompt": f"What is {i}?", "completion": f" {i}, that is all."} for i in range(12)]
    ref = ModelRef("base", str(tiny_model), digest="d" * 64, options={"device": "cpu", "dtype": "float32"})
    recipe = {"num_train_epochs": 1, "packing": True, "max_length": 128, "per_device_train_batch_size": 1}
    recipe |= {"gradient_checkpointing": True} if how == "checkpointed" else {}
    if how == "timed":
        sft.measure(ref, lora(), rows, seed=3, **recipe)
    else:
        sft(ref, lora(), rows, tmp_path / "adapter", progress=lambda _: None, seed=3, **recipe)
    assert max(used) > 2


def test_what_is_measured_within_a_training_leaves_its_attention() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    with use_document_attention():
        during = ALL_ATTENTION_FUNCTIONS["sdpa"]
        with attention.use_tiled_attention():
            assert ALL_ATTENTION_FUNCTIONS["sdpa"] not in (before, during)
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is during is not before
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before
