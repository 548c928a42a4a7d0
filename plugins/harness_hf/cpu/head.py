"""Log-probabilities for LoRA training, with each logit computed once.

TRL projects a token to the vocabulary twice, since its backward recomputes the logits rather than keep them. A LoRA's
training needs less: its head is frozen, so the gradient of a token's log-probability towards its hidden state, Wᵀ(e_y -
p), is made along with the log-probability, and the backward only scales it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from trl.kernels import ChunkedLogProbFunction
from trl.trainer import utils as trl_utils

from harness_hf.cpu.linear import fast_linear
from harness_hf.logprobs import TOKEN_STATISTICS, compute_token_statistics
from harness_hf.memory import iterate_row_slices

MAX_LOGITS = 1 << 24  # numbers in one tensor of logits, at most


class FrozenHead(torch.autograd.Function):
    """Log-probabilities (N,) of targets, and the statistics that TRL logs. Only the hidden states get a gradient."""

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
        size = max(1, MAX_LOGITS // len(weight))  # tokens at a time
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None  # (N, H)
        parts = []
        for start in range(0, len(hidden), size):
            here = slice(start, start + size)
            logits, wanted = fast_linear(hidden[here], weight, bias), targets[here]  # (n, V), (n,)
            for rows in iterate_row_slices(logits):
                z = logits[rows].float().mul_(scale)
                logp, p = z.log_softmax(-1), z.softmax(-1)  # twice as fast as an exponential of the first
                parts.append(compute_token_statistics(z, logp, p, wanted[rows], outputs))
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
        outputs: Sequence[str] = TOKEN_STATISTICS,
    ) -> tuple[torch.Tensor | None, ...]:
        trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        mixed = hidden.dtype != weight.dtype or torch.is_autocast_enabled(hidden.device.type)
        if trained or mixed or softcap or not hidden.is_cpu or not len(hidden):
            rest = (temperature, chunk_size, softcap, logit_scale, outputs)
            return tuple(ChunkedLogProbFunction.apply(hidden, weight, bias, targets, *rest))
        wanted = [name for name in TOKEN_STATISTICS if name in outputs]
        scale = logit_scale / temperature
        logprobs, *others = FrozenHead.apply(hidden, weight, bias, targets, scale, wanted)  # type: ignore[no-untyped-call]
        return logprobs, *map(dict(zip(wanted, others, strict=True)).get, TOKEN_STATISTICS)


@contextmanager
def project_labelled_once() -> Iterator[None]:
    """Make TRL project only labelled positions, and each only once.

    On a GPU TRL projects only these; elsewhere it projects all, and on a CPU that is a quarter of a small model's time.
    The choice hangs on these two names of TRL; nothing computed from the log-probabilities afterwards looks at them.
    """
    before = trl_utils._use_triton, trl_utils._ChunkedLogProbFunction
    trl_utils._use_triton, trl_utils._ChunkedLogProbFunction = lambda device: True, LogProbs
    try:
        yield
    finally:
        trl_utils._use_triton, trl_utils._ChunkedLogProbFunction = before
