"""Whether the likelihood that is trained on is the model's own.

TRL computes it from the last hidden states and the output embeddings; a class whose head does more learns another, and
goes its own way.
"""
# ruff: noqa: TID253 (imported inside functions, only where a training begins)

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from types import MethodType
from typing import Any, NamedTuple

import torch
from trl.trainer.utils import FusedCausalLMOutput

from harness import UsageError
from harness.internals import memory_error
from harness_hf import IGNORED_LABEL, TOKEN_STATISTICS, compute_token_statistics

WINDOW_TOKENS = 128  # of one row, that are looked at: the logits of a few, however large the vocabulary
TOLERANCE_NATS = 1e-3  # that a log-probability may be off, beside what rounding the largest logit makes, at most


class Mismatch(NamedTuple):
    """The largest difference in nats, and the limit."""

    worst: float
    limit: float


def choose_loss(model: Any, batch: Mapping[str, Any], *references: Any, dtype: torch.dtype | None = None) -> str:
    """Make a model train on its own likelihood.

    TRL's fused head is replaced, in the `references` too, if it is off by more than rounding in `dtype`, by default the
    model's. Returns the reason in words, or an empty text if the fused head stays. Raises UsageError if the replacement
    does not give the model's own log-probabilities either.
    """
    apart, limit = logprob_mismatch(model, batch, dtype)
    if apart <= limit:
        return ""
    bare = [each.get_base_model() if hasattr(each, "get_base_model") else each for each in (model, *references)]
    for each in bare:
        use_own_logits(each)
    again, _ = logprob_mismatch(model, batch, dtype)
    name = type(bare[0]).__name__
    if not again <= limit:
        what = f"the log-probabilities in training differ by {again:.2g} nats from the model's own, limit {limit:.1g}"
        raise UsageError(f"[train] {name}: {what}, so TRL cannot train this model class; use another base")
    off = f"differs by {apart:.2g} nats from" if math.isfinite(apart) else "does not compute"
    return f"TRL's fused head {off} the log-probabilities of {name}: its own logits are used, which take more memory"


def logprob_mismatch(model: Any, batch: Mapping[str, Any], dtype: torch.dtype | None = None) -> Mismatch:
    """Return the largest difference between trained and own log-probabilities.

    It is in nats and comes with its limit, for supervised tokens of one row, without dropout. It is infinite if TRL's
    head raises, and 0 if the model's own forward does or gives values that are not finite, which is another fault. The
    random state is left unchanged.
    """
    given, labels = _select_supervised_window(batch)
    mask, targets = labels[:, 1:] != IGNORED_LABEL, labels[:, 1:]
    training = [module for module in model.modules() if module.training]

    def run(**more: Any) -> Any:
        try:
            return model(**given, use_cache=False, **more)
        except Exception as error:
            if memory_error(error):
                raise
            return None

    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            model.eval()
            own, found = run(), run(labels=labels, fused_lm_head=True)
    finally:
        for module in training:
            module.training = True
    if own is None or not mask.any():
        return Mismatch(0.0, TOLERANCE_NATS)
    z = own.logits[:, :-1].float()[mask.to(own.logits.device)]
    chosen = z.gather(1, targets[mask].to(z.device)[:, None])[:, 0]
    logp = chosen - z.logsumexp(-1)
    limit = TOLERANCE_NATS + torch.finfo(dtype or model.dtype).eps * float(
        torch.stack([chosen, z.amax(-1)]).abs().max()
    )
    if not logp.isfinite().all():
        return Mismatch(0.0, limit)
    if found is None:
        return Mismatch(math.inf, limit)
    trained = found.log_probs[mask.to(found.log_probs.device)].float().to(z.device)
    return Mismatch(float((trained - logp).abs().max().nan_to_num(math.inf)), limit)


def use_own_logits(model: Any) -> None:
    """Replace the fused head that TRL gave a model: the same fields come from logits that its own forward makes."""
    fused = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **given: Any) -> Any:
        if not fused_lm_head:
            return fused(*args, labels=labels, **given)
        found = fused(*args, **given | {"use_cache": False})
        labels = labels[:, 1:].to(found.logits.device)
        mask = labels != IGNORED_LABEL
        z, targets = found.logits[:, :-1][mask].float(), labels[mask]
        logp = z - z.logsumexp(-1, keepdim=True)
        with torch.no_grad():
            _, *others = compute_token_statistics(z, logp, logp.exp(), targets, TOKEN_STATISTICS)
        each = zip(("log_probs", *TOKEN_STATISTICS), (logp.gather(1, targets[:, None])[:, 0], *others), strict=True)
        fields = {name: x.new_zeros(mask.shape).masked_scatter(mask, x) for name, x in each}
        router = getattr(found, "aux_loss", None)  # which some classes have none of, and TRL adds
        return FusedCausalLMOutput(label_mask=mask, aux_loss=z.new_zeros(()) if router is None else router, **fields)

    model.forward = MethodType(forward, model)


def _select_supervised_window(batch: Mapping[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
    """Return a window around a batch's first supervised token.

    It is the inputs of the model, and their labels.
    """
    ids = batch["input_ids"]
    labels = batch["labels"] if "labels" in batch else ids.masked_fill(batch["completion_mask"] == 0, IGNORED_LABEL)
    [row, first] = next(iter((labels[:, 1:] != IGNORED_LABEL).nonzero().tolist()), [0, 0])
    at = slice(row, row + 1), slice(max(0, first - WINDOW_TOKENS // 2), first + WINDOW_TOKENS // 2)
    given = {name: batch[name][at] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
    return given | {name: True for name in ("output_router_logits",) if batch.get(name)}, labels[at]
