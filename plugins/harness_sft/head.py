"""Log-probabilities of the supervised tokens, with each logit computed once.

TRL projects a token to the vocabulary twice, since its backward recomputes the logits rather than keep them. A LoRA's
training needs less: its head is frozen, so the gradient of a token's log-probability towards its hidden state,
Wᵀ(e_y - p), is made along with the log-probability, and the backward only scales it.

Imports torch and TRL: import this module inside functions.
"""
# ruff: noqa: TID253 (imported only where a training begins)

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from trl.kernels import ChunkedLogProbFunction
from trl.trainer import utils as trl_utils

from harness_hf import fast_linear

LOGITS = 1 << 24  # numbers in one tensor of logits, at most
OPTIONAL = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")  # TRL's names and order


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
            z = fast_linear(hidden[here], weight, bias).float().mul_(scale)  # (n, V)
            logp = z - z.logsumexp(-1, keepdim=True)
            p = logp.exp()
            parts.append(facts(z, logp, p, targets[here], outputs))
            if gradient is not None:
                p.neg_().scatter_add_(1, targets[here, None], torch.ones_like(p[:, :1]))
                gradient[here] = fast_linear(p.mul_(scale).to(hidden.dtype), weight.t(), None)
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
            found: tuple[torch.Tensor | None, ...] = ChunkedLogProbFunction.apply(
                hidden, weight, bias, targets, temperature, chunk_size, softcap, logit_scale, outputs
            )
            return found
        wanted = [name for name in OPTIONAL if name in outputs]
        logprobs, *others = FrozenHead.apply(  # type: ignore[no-untyped-call]
            hidden, weight, bias, targets, logit_scale / temperature, wanted
        )
        given = dict(zip(wanted, others, strict=True))
        return logprobs, *map(given.get, OPTIONAL)


@contextmanager
def each_logit_once() -> Iterator[None]:
    """Let TRL project only positions that have a label to the vocabulary, as it does on a GPU, and only once.

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
    """Return the log-probabilities (n,) of targets, and of distributions p (n, V) what is wanted of OPTIONAL.

    These are the entropy, the log of the sum of squares, the mean logit, and whether the target is the first of the
    likeliest tokens.
    """
    make: dict[str, Callable[[], torch.Tensor]] = {
        "entropy": lambda: -(p * logp).sum(-1),
        "log_sum_sq_probs": lambda: (p * p).sum(-1).log(),
        "mean_logits": lambda: z.mean(-1),
        "is_top1": lambda: z.argmax(-1) == targets,
    }
    return [logp.gather(1, targets[:, None])[:, 0], *(make[name]() for name in wanted)]
