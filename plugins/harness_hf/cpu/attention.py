"""Faster attention on the CPU than PyTorch's own.

`attend_to_prefix`: rows that share a prefix attend to its keys and values, kept once, and to their own apart; the two
are combined by their log-sum-exps (Juravsky et al. 2024, "Hydragen"). `use_tiled_attention`: one long row in float32,
by tiles of queries small enough for their scores to stay in a core's cache, multiplied by oneDNN (see linear.py). Each
of these is verified against a plain forward before its results count.

`use_document_attention`: packed rows in training, where tokens see their own documents alone, without the rest of the
square.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from harness_hf.cpu.linear import is_onednn_available, multiply
from harness_hf.cpu.switch import uses_cpu_kernels

TILE_SCORES = 1 << 18  # scores of one tile: a megabyte
TILED = (torch.float32, torch.bfloat16)  # both in float32, which is the faster for products as small as these
# tokens, the mean of a token's document: of longer ones the scores, which are kept, are too many
MAX_SHORT_TOKENS = 128
MIN_TILED_QUERIES = 8  # queries; for fewer of them PyTorch's own attention is as fast
# times the scores of documents by themselves, at most, are those of some that are computed together
MAX_PADDING_RATIO = 2


def use_tiled_attention() -> AbstractContextManager[None]:
    """Compute attention of long rows by tiles, in float32.

    It takes effect wherever a model calls PyTorch's own attention.
    """

    @lru_cache(1)  # the layers share theirs
    def shown(mask: Tensor) -> Tensor:
        """Return an additive mask (T, L), without columns visible to all queries.

        These are the keys before the queries' own; they stay if any of them is masked.
        """
        mask = _make_additive_mask(mask, torch.float32)[0, 0].float()
        before = mask.shape[1] - mask.shape[0]
        return mask if mask[:, :before].any() else mask[:, before:].contiguous()

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any) -> Any:
        plain = query.dtype in TILED and query.is_cpu and not _has_unsupported_attention_terms(options)
        if not plain or len(query) > 1 or query.shape[2] < MIN_TILED_QUERIES:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        mask = None if attention_mask is None else shown(attention_mask)
        return _attend_by_tiles(query[0].float(), key[0].float(), value[0].float(), mask, scale).to(query.dtype)[
            None
        ], None

    return _replace_sdpa_temporarily(attend)


def _attend_by_tiles(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Return attention (T, H, D), computed by tiles of queries.

    The queries are (H, T, D), keys and values (G, L, D), the last T of them the queries' own. A query sees no key after
    its own and, of the last S, those that an additive mask (T, S) leaves it. Heads that share keys are multiplied
    together.
    """
    heads, length, width = query.shape
    groups, there = key.shape[:2]
    each, before = heads // groups, there - length
    size = max(16, TILE_SCORES // (there * each))
    if mask is None:
        mask = query.new_full((length, length), float("-inf")).triu_(1)
    first = there - mask.shape[-1]  # all see the keys before it
    query = query.view(groups, each, length, width) * scale
    found = query.new_empty(length, heads, value.shape[-1])
    for group in range(groups):
        for start in range(0, length, size):
            end = min(start + size, length)
            seen = before + end
            mine = query[group, :, start:end].reshape(-1, width)  # (H/G * t, D)
            scores = multiply(mine, key[group, :seen]).view(each, end - start, seen)
            scores[:, :, first:] += mask[start:end, : seen - first]
            part = multiply(scores.view(-1, seen).softmax(-1), value[group, :seen].t())
            found[start:end, group * each : (group + 1) * each] = part.view(each, end - start, -1).transpose(0, 1)
    return found


def use_document_attention() -> AbstractContextManager[None]:
    """Compute attention of packed rows within their documents, in float32.

    It takes effect wherever a model calls PyTorch's own attention.
    """
    documents = lru_cache(1)(_find_document_batches_in_mask)  # the layers share a mask

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any) -> Any:
        plain = (
            query.dtype in TILED
            and query.is_cpu
            and not _has_unsupported_attention_terms(options)
            and not options.get("dropout")
        )
        rows, _, length, _ = query.shape  # each of the rows has its own mask, the same for all heads
        own = attention_mask is not None and attention_mask.shape == (rows, 1, length, length)
        if not (plain and own and attention_mask.dtype == torch.bool and (found := documents(attention_mask))):
            return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        return PerDocument.apply(query, key, value, found, scale), None  # type: ignore[no-untyped-call]

    return _replace_sdpa_temporarily(attend)


def _find_document_batches_in_mask(mask: Tensor) -> list[DocumentBatch]:
    """Return the documents of a mask (B, 1, T, T), in batches.

    In such a mask a token sees those before it in its own document. Empty for another mask, and for documents so long
    that PyTorch's own attention is better.
    """
    rows, _, length, _ = mask.shape
    place = torch.arange(length)
    first = mask[:, 0].view(torch.uint8).argmax(-1)  # (B, T)
    seen = (place <= place[:, None]) & (place >= first[..., None])  # (B, T, T)
    if not torch.equal(mask[:, 0], seen) or not torch.equal(first.gather(1, first), first):  # as of a sliding window
        return []
    begins = [*(first == place).flatten().nonzero()[:, 0].tolist(), rows * length]
    sizes = [end - begin for begin, end in pairwise(begins)]
    if sum(n * n for n in sizes) > MAX_SHORT_TOKENS * rows * length:
        return []
    alike: list[list[int]] = []
    for size in sizes:
        together = [*(alike or [[]])[-1], size]
        if len(together) * max(together) ** 2 <= MAX_PADDING_RATIO * sum(n * n for n in together):
            alike[-1:] = [together]
        else:
            alike.append([size])
    return [DocumentBatch(some, end - sum(some)) for some, end in zip(alike, accumulate(map(sum, alike)), strict=True)]


class DocumentBatch:
    """Documents of similar lengths, padded to the longest and computed together.

    They follow one another from the token `begin` on; the longest has L tokens.
    """

    def __init__(self, sizes: list[int], begin: int) -> None:
        self.shape = len(sizes), max(sizes)
        lengths, inside = torch.tensor(sizes)[:, None], torch.arange(max(sizes))
        begins, own = begin + lengths.cumsum(0) - lengths, inside < lengths  # (C, 1), (C, L)
        self.tokens = (begins + inside.minimum(lengths - 1)).flatten()  # the last of each pads it
        self.own, self.asks = own.flatten().nonzero()[:, 0], own[:, None, None, :, None].float()
        self.later = torch.full((max(sizes),) * 2, float("-inf")).triu_(1)

    def gather(self, x: Tensor, groups: int) -> Tensor:
        """Return the documents' part of x, in float32.

        x is (B, T, H, D), the result (C * G, H/G * L, D).
        """
        part = x.flatten(0, 1).index_select(0, self.tokens).view(*self.shape, groups, -1, x.shape[-1])
        part = part.permute(0, 2, 3, 1, 4)  # (C, G, H/G, L, D)
        return torch.empty(part.shape).copy_(part).view(self.shape[0] * groups, -1, x.shape[-1])

    def scatter(self, part: Tensor, groups: int, like: Tensor) -> Tensor:
        """Return a part by token, in the dtype of `like`.

        The part is (C * G, H/G * L, D), the result (N, H, D).
        """
        part = part.view(self.shape[0], groups, -1, self.shape[1], part.shape[-1]).permute(0, 3, 1, 2, 4)
        part = like.new_empty(part.shape).copy_(part)
        return part.view(len(self.tokens), -1, part.shape[-1]).index_select(0, self.own)


class PerDocument(torch.autograd.Function):
    """Attention (B, T, H, E) within documents: queries (B, H, T, D), keys (B, G, T, D) and values (B, G, T, E)."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, documents: list[DocumentBatch], scale: float
    ) -> Tensor:
        given, groups, parts, kept = [x.transpose(1, 2) for x in (query, key, value)], key.shape[1], [], []
        for alike in documents:
            q, k, v = (alike.gather(x, groups) for x in given)  # (C * G, H/G * L, D), (C * G, L, D), (C * G, L, E)
            scores = (q.mul_(scale) @ k.transpose(1, 2)).view(-1, groups, q.shape[1] // k.shape[1], *alike.later.shape)
            share = scores.add_(alike.later).softmax(-1).mul_(alike.asks).view(*q.shape[:2], -1)  # of padding none
            parts.append(alike.scatter(share @ v, groups, query))
            kept += [q, k, v, share]
        ctx.save_for_backward(*kept)
        ctx.documents, ctx.scale, ctx.groups = documents, scale, groups
        return torch.cat(parts).view(*given[0].shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        groups, kept, parts = ctx.groups, ctx.saved_tensors, []  # asked once: checkpointing computes them anew
        for alike, q, k, v, share in zip(ctx.documents, *(kept[i::4] for i in range(4)), strict=True):
            g = alike.gather(grad, groups)
            to_v = share.transpose(1, 2) @ g
            to_scores = torch._softmax_backward_data(g @ v.transpose(1, 2), share, -1, torch.float32)
            found = (to_scores @ k).mul_(ctx.scale), to_scores.transpose(1, 2) @ q, to_v
            parts.append([alike.scatter(x, groups, grad) for x in found])
        whole = [torch.cat(each) for each in zip(*parts, strict=True)]  # (N, H or G, D or E)
        return *(x.view(*grad.shape[:2], x.shape[1], -1).transpose(1, 2) for x in whole), None, None


def attend_to_prefix(prefix: Cache | None) -> AbstractContextManager[None]:
    """Make all rows attend to a prefix's keys and values too.

    It takes effect wherever a model calls PyTorch's own attention.
    """

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any) -> Any:
        known = prefix.layers[module.layer_idx]  # type: ignore[union-attr]
        return _attend_with_shared_prefix(
            query, key, value, attention_mask, (known.keys, known.values), **options
        ), None

    return _replace_sdpa_temporarily(attend)


def can_cascade(model: PreTrainedModel) -> bool:
    """Return whether a prefix may be kept apart.

    Whether that reproduces a plain forward must be tried.
    """
    attention = getattr(model.config.get_text_config(), "_attn_implementation", "")
    return model.device.type == "cpu" and attention == "sdpa" and uses_cpu_kernels(model)


def can_tile(model: PreTrainedModel) -> bool:
    """Return whether tiled attention changes anything for a model. Whether it is right must be tried."""
    return can_cascade(model) and model.dtype in TILED and is_onednn_available()


@contextmanager
def _replace_sdpa_temporarily(attend: Callable[..., Any]) -> Iterator[None]:
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]  # of a training, too, in which something is measured
    ALL_ATTENTION_FUNCTIONS["sdpa"] = attend
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = before


def _has_unsupported_attention_terms(options: dict[str, Any]) -> bool:
    """Return whether attention has extra terms, not computed here."""
    return any(options.get(name) is not None for name in ("position_bias", "softcap", "s_aux"))


def _make_additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def _attend_with_shared_prefix(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    prefix: tuple[Tensor, Tensor],
    scaling: float | None = None,
    **options: Any,
) -> Tensor:
    """Return attention to a shared prefix and to own keys.

    The queries are (B, H, T, D), the prefix (1, G, P, D), own keys and values (B, G, L, D), the result (B, T, H, D).
    Among their own keys the queries are causal, unless a mask (B, 1, T, L) is given. Raises NotImplementedError if
    attention has extra terms.
    """
    if _has_unsupported_attention_terms(options):
        raise NotImplementedError("attention with a term of its own")
    rows, heads, length, size = query.shape
    groups = key.shape[1]
    asked = query.reshape(rows, groups, -1, size)  # (B, G, H/G * T, D)
    together = asked.transpose(0, 1).reshape(1, groups, -1, size)  # all rows ask the same prefix
    far, far_sum = _attend_flash_with_logsumexp(together, *prefix, scale=scaling)
    far = far.reshape(groups, rows, -1, far.shape[-1]).transpose(0, 1).reshape(rows, heads, length, -1)
    far_sum = far_sum.reshape(groups, rows, -1).transpose(0, 1).reshape(rows, heads, length)
    mask = None if mask is None else _make_additive_mask(mask, query.dtype)
    if length == 1:
        near, near_sum = _attend_flash_with_logsumexp(asked, key, value, mask=mask, scale=scaling)
        near, near_sum = near.reshape(far.shape), near_sum.reshape(far_sum.shape)
    else:
        key, value = (states.repeat_interleave(heads // groups, dim=1) for states in (key, value))
        near, near_sum = _attend_flash_with_logsumexp(query, key, value, mask=mask, causal=mask is None, scale=scaling)
    share = torch.sigmoid(far_sum - near_sum)[..., None].to(query.dtype)  # the prefix's share of the softmax
    return (near + (far - near) * share).transpose(1, 2).contiguous()


def _attend_flash_with_logsumexp(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float | None, mask: Tensor | None = None, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Return attention and the log-sum-exps of its scores. Their shapes are (B, H, T, D) and (B, H, T)."""
    if mask is not None:
        mask = mask.expand(-1, -1, query.shape[2], -1)
    found, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=mask, scale=scale
    )
    return found, sums
