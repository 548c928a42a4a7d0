"""Token statistics that TRL logs beside log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

TOKEN_STATISTICS = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")  # TRL's names and order


def compute_token_statistics(
    z: torch.Tensor, logp: torch.Tensor, p: torch.Tensor, targets: torch.Tensor, wanted: Sequence[str]
) -> list[torch.Tensor]:
    """Return the log-probabilities (n,) of targets, and the wanted statistics.

    The distributions p, their logs and the logits z are (n, V).
    """
    make: dict[str, Callable[[], torch.Tensor]] = {
        "entropy": lambda: -(p * logp).sum(-1),
        "log_sum_sq_probs": lambda: (p * p).sum(-1).log(),
        "mean_logits": lambda: z.mean(-1),
        "is_top1": lambda: z.argmax(-1) == targets,  # the first of the likeliest tokens
    }
    return [logp.gather(1, targets[:, None])[:, 0], *(make[name]() for name in wanted)]
