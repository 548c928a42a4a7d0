"""Checks for unmoved weights, non-finite weights and loss spikes."""
# ruff: noqa: TID253 (imported inside functions, only where a training begins)

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel

from harness_sft.ranks import Ranks
from harness_sft.sharding import local_part

FIRST_STEPS = 3  # after which every adapted module must have moved; a warmup makes the first of them a step of zero
RECENT_LOSSES = 5  # losses whose median is the smoothed one: one or two hard batches are no spike
WINDOW_LOSSES = 20  # losses before them that it is compared with
DEVIATIONS, SHARE, NATS = 6.0, 0.25, 0.1  # a spike is above their median by all three
NORMAL = 1.4826 / math.sqrt(2)  # times the median step from one to the next is the deviation of normal noise
# in the names of weights that get a gradient at once
MOVING_WEIGHTS = ("lora_B", "lora_embedding_B", "modules_to_save")


@dataclass
class Spike:
    """Steps with a smoothed loss far above the one before.

    Steps count from 1. `loss` is the highest smoothed loss.
    """

    first: int
    last: int
    loss: float
    before: float


class Spikes:
    """The leaps in a series of losses, one a step: the smoothed loss against the median of those before it.

    It is far above them when it exceeds each of them, and their median by six of their deviations, a quarter of it,
    and a tenth of a nat. Deviations are those of log(loss + 0.1), for the noise of a loss grows with it, and are
    estimated from the median step between neighbours, so that a loss that falls is not a noisy one. While it is high,
    it does not count as "before".
    """

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self.found: list[Spike] = []
        self.before: deque[float] = deque(maxlen=WINDOW_LOSSES)
        self.recent: deque[float] = deque()
        self.step, self.inside = 0, False
        for loss in losses:
            self.add(loss)

    def add(self, loss: float) -> Spike | None:
        """Add the loss of the next step and return a new spike.

        None unless one begins with this step.
        """
        self.step += 1
        self.recent.append(loss)
        if len(self.recent) < RECENT_LOSSES:
            return None
        smoothed, began = median(self.recent), False
        if len(self.before) == WINDOW_LOSSES and smoothed > self._compute_spike_threshold():
            if began := not self.inside:
                self.found.append(Spike(self.step - RECENT_LOSSES // 2, self.step, smoothed, median(self.before)))
            self.found[-1].last, self.found[-1].loss = self.step, max(smoothed, self.found[-1].loss)
            self.inside = True
            self.recent.popleft()
        else:
            self.inside = False
            self.before.append(self.recent.popleft())
        return self.found[-1] if began else None

    def _compute_spike_threshold(self) -> float:
        middle = median(self.before)
        levels = [math.log(loss + NATS) for loss in self.before]
        deviation = NORMAL * median(abs(b - a) for a, b in pairwise(levels))
        noise = math.exp(math.log(middle + NATS) + DEVIATIONS * deviation) - NATS
        return max(noise, middle * (1 + SHARE), middle + NATS, *self.before)


class InitialWeights:
    """Checksums of the trained weights before the first step.

    Each is one exact number instead of a copy.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.sums = {name: _sum_bits_as_integers(parameter) for name, parameter in _iterate_moving_weights(model)}

    def find_unmoved(self, model: PreTrainedModel, ranks: Ranks) -> list[str]:
        """Return the weights that have not changed in any process."""
        found = [(n, self.sums.get(n) == _sum_bits_as_integers(p), p) for n, p in _iterate_moving_weights(model)]
        # In half precision a first, small step may be lost on a weight that is not zero, so only zeros count there.
        moved = ranks.sum_over_processes(
            *(float(not same or (p.dtype != torch.float32 and bool(p.any()))) for _, same, p in found)
        )
        return [name for (name, *_), elsewhere in zip(found, moved, strict=True) if not elsewhere]


def all_finite(parameters: list[Any]) -> bool:
    """Return whether all weights that this process holds are finite.

    Their norm is tested.
    """
    return not parameters or math.isfinite(float(torch.nn.utils.get_total_norm(parameters)))


def _iterate_moving_weights(model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    """Yield the weights that a first gradient moves: of an adapter not the A of a LoRA, which waits for its B."""
    whole = not hasattr(model, "peft_config")
    for name, parameter in model.named_parameters():
        if (whole or any(part in name for part in MOVING_WEIGHTS)) and parameter.is_floating_point():
            yield name, local_part(parameter.detach())  # of weights that processes share, each looks at what it holds


def _sum_bits_as_integers(tensor: Any) -> int:
    """Return the sum of a tensor's bits as integers: a change of the last place of one weight changes it."""
    width = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return int(tensor.contiguous().view(width).sum(dtype=torch.int64))
