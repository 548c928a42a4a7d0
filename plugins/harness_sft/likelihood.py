"""The likelihood that is trained on: each logit computed once, and whether it is the model's own.

TRL computes it from the last hidden states and the output embeddings; a class whose head does more learns another, and
goes its own way. It projects a token to the vocabulary twice, since its backward recomputes the logits rather than keep
them. A LoRA's training needs less: its head is frozen, so the gradient of a token's log-probability towards its hidden
state, Wᵀ(e_y - p), is made along with the log-probability, and the backward only scales it.
"""
# ruff: noqa: TID253 (imported inside functions, only where a training begins)

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from trl.kernels import ChunkedLogProbFunction
from trl.trainer import utils as trl_utils
from trl.trainer.utils import FusedCausalLMOutput

from harness import UsageError
from harness.internals import out_of_memory
from harness_hf import fast_linear, pieces
from harness_sft.ranks import IGNORED

LOGITS = 1 << 24  # numbers in one tensor of logits, at most
OPTIONAL = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")  # TRL's names and order
TOKENS = 128  # of one row, that are looked at: the logits of a few, however large the vocabulary
NATS = 1e-3  # that a log-probability may be off, beside what rounding the largest logit makes, at most


def settle(model: Any, batch: Mapping[str, Any], *references: Any, dtype: torch.dtype | None = None) -> str:
    """Make sure that a model learns its own likelihood; return, in words, why it does without TRL's fused head if so.

    It does without, as do its `references`, where that is off by more than what rounding makes, in `dtype` or else in
    the model's. Raises UsageError where the other way does not give the model's own log-probabilities either.
    """
    apart, limit = difference(model, batch, dtype)
    if apart <= limit:
        return ""
    bare = [each.get_base_model() if hasattr(each, "get_base_model") else each for each in (model, *references)]
    for each in bare:
        use_own_logits(each)
    again, _ = difference(model, batch, dtype)
    name = type(bare[0]).__name__
    if not again <= limit:
        what = f"the log-probabilities in training differ by {again:.2g} nats from the model's own, limit {limit:.1g}"
        raise UsageError(f"[train] {name}: {what}, so TRL cannot train this model class; use another base")
    off = f"differs by {apart:.2g} nats from" if math.isfinite(apart) else "does not compute"
    return f"TRL's fused head {off} the log-probabilities of {name}: its own logits are used, which take more memory"


def difference(model: Any, batch: Mapping[str, Any], dtype: torch.dtype | None = None) -> tuple[float, float]:
    """Return by how many nats, at most, what is trained on is off the model's own log-probabilities, and the limit.

    They are those of supervised tokens of one row, without dropout. It is infinite where TRL's way raises, and 0 where
    the model's own forward does or gives what is not finite, which is another fault. No randomness is spent.
    """
    given, labels = _window(batch)
    mask, targets = labels[:, 1:] != IGNORED, labels[:, 1:]
    training = [module for module in model.modules() if module.training]

    def run(**more: Any) -> Any:
        try:
            return model(**given, use_cache=False, **more)
        except Exception as error:
            if out_of_memory(error):
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
        return 0.0, NATS
    z = own.logits[:, :-1].float()[mask.to(own.logits.device)]
    chosen = z.gather(1, targets[mask].to(z.device)[:, None])[:, 0]
    logp = chosen - z.logsumexp(-1)
    limit = NATS + torch.finfo(dtype or model.dtype).eps * float(torch.stack([chosen, z.amax(-1)]).abs().max())
    if not logp.isfinite().all():
        return 0.0, limit
    if found is None:
        return math.inf, limit
    trained = found.log_probs[mask.to(found.log_probs.device)].float().to(z.device)
    return float((trained - logp).abs().max().nan_to_num(math.inf)), limit


def use_own_logits(model: Any) -> None:
    """Replace the fused head that TRL gave a model: the same fields come from logits that its own forward makes."""
    fused = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **given: Any) -> Any:
        if not fused_lm_head:
            return fused(*args, labels=labels, **given)
        found = fused(*args, **given | {"use_cache": False})
        labels = labels[:, 1:].to(found.logits.device)
        mask = labels != IGNORED
        z, targets = found.logits[:, :-1][mask].float(), labels[mask]
        logp = z - z.logsumexp(-1, keepdim=True)
        with torch.no_grad():
            _, *others = facts(z, logp, logp.exp(), targets, OPTIONAL)
        each = zip(("log_probs", *OPTIONAL), (logp.gather(1, targets[:, None])[:, 0], *others), strict=True)
        fields = {name: x.new_zeros(mask.shape).masked_scatter(mask, x) for name, x in each}
        router = getattr(found, "aux_loss", None)  # which some classes have none of, and TRL adds
        return FusedCausalLMOutput(label_mask=mask, aux_loss=z.new_zeros(()) if router is None else router, **fields)

    model.forward = MethodType(forward, model)


def _window(batch: Mapping[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
    """Return a few tokens around the first supervised one of a batch, as the model gets them, and their labels."""
    ids = batch["input_ids"]
    labels = batch["labels"] if "labels" in batch else ids.masked_fill(batch["completion_mask"] == 0, IGNORED)
    [row, first] = next(iter((labels[:, 1:] != IGNORED).nonzero().tolist()), [0, 0])
    at = slice(row, row + 1), slice(max(0, first - TOKENS // 2), first + TOKENS // 2)
    given = {name: batch[name][at] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
    return given | {name: True for name in ("output_router_logits",) if batch.get(name)}, labels[at]


class FrozenHead(torch.autograd.Function):
    """Log-probabilities (N,) of targets, and of the distributions what TRL logs: no gradient but towards the hidden."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        scale: float,
        outputs: Sequence[str],
    ) -> tuple[torch.Tensor, ...]:
        size = max(1, LOGITS // len(weight))  # tokens at a time
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None  # (N, H)
        parts = []
        for start in range(0, len(hidden), size):
            here = slice(start, start + size)
            logits, wanted = fast_linear(hidden[here], weight, bias), targets[here]  # (n, V), (n,)
            for rows in pieces(logits):
                z = logits[rows].float().mul_(scale)
                logp, p = z.log_softmax(-1), z.softmax(-1)  # twice as fast as an exponential of the first
                parts.append(facts(z, logp, p, wanted[rows], outputs))
                if gradient is not None:  # in the place of the logits, which are not needed any more
                    p.neg_().scatter_add_(1, wanted[rows, None], torch.ones_like(p[:, :1]))
                    logits[rows] = p.mul_(scale)
            if gradient is not None:
                gradient[here] = fast_linear(logits, weight.t())
        ctx.save_for_backward(gradient)
        logprobs, *others = (torch.cat(each) for each in zip(*parts, strict=True))
        ctx.mark_non_differentiable(*others)
        ctx.set_materialize_grads(False)
        return logprobs, *others

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor | None, *_: Any) -> tuple[torch.Tensor | None, ...]:
        [gradient] = ctx.saved_tensors
        return None if grad is None else (grad[:, None] * gradient).to(gradient.dtype), *(None,) * 5


class LogProbs:
    """Stands for TRL's function: ours where the head is frozen and on the CPU, else TRL's own."""

    @staticmethod
    def apply(
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        chunk_size: int,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        outputs: Sequence[str] = OPTIONAL,
    ) -> tuple[torch.Tensor | None, ...]:
        trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        mixed = hidden.dtype != weight.dtype or torch.is_autocast_enabled(hidden.device.type)
        if trained or mixed or softcap or not hidden.is_cpu or not len(hidden):
            rest = (temperature, chunk_size, softcap, logit_scale, outputs)
            return tuple(ChunkedLogProbFunction.apply(hidden, weight, bias, targets, *rest))
        wanted = [name for name in OPTIONAL if name in outputs]
        scale = logit_scale / temperature
        logprobs, *others = FrozenHead.apply(hidden, weight, bias, targets, scale, wanted)  # type: ignore[no-untyped-call]
        return logprobs, *map(dict(zip(wanted, others, strict=True)).get, OPTIONAL)


@contextmanager
def each_logit_once() -> Iterator[None]:
    """Make TRL project only positions that have a label to the vocabulary, as it does on a GPU, and only once.

    Elsewhere it projects all of them, and on a CPU that is a quarter of a small model's time. The choice hangs on
    these two names; what is computed of the log-probabilities afterwards does not look at them.
    """
    before = trl_utils._use_triton, trl_utils._ChunkedLogProbFunction
    trl_utils._use_triton, trl_utils._ChunkedLogProbFunction = lambda device: True, LogProbs
    try:
        yield
    finally:
        trl_utils._use_triton, trl_utils._ChunkedLogProbFunction = before


def facts(
    z: torch.Tensor, logp: torch.Tensor, p: torch.Tensor, targets: torch.Tensor, wanted: Sequence[str]
) -> list[torch.Tensor]:
    """Return the log-probabilities (n,) of targets, and of distributions p (n, V) what is wanted of OPTIONAL."""
    make: dict[str, Callable[[], torch.Tensor]] = {
        "entropy": lambda: -(p * logp).sum(-1),
        "log_sum_sq_probs": lambda: (p * p).sum(-1).log(),
        "mean_logits": lambda: z.mean(-1),
        "is_top1": lambda: z.argmax(-1) == targets,  # the first of the likeliest tokens
    }
    return [logp.gather(1, targets[:, None])[:, 0], *(make[name]() for name in wanted)]
