"""What is looked at while a model trains: no false alarm on noise, and every leap, standstill and NaN is seen."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from harness_lora import lora  # noqa: E402
from harness_sft.sentinels import WINDOW, Spikes, Start, all_finite  # noqa: E402

Loss = Callable[[random.Random, int], float]
HEALTHY: dict[str, Loss] = {
    "normal noise": lambda r, i: 1 + r.gauss(0, 0.1),
    "noise of a small batch": lambda r, i: math.exp(r.gauss(0, 0.5)),
    "a hard row in fifty": lambda r, i: 1 + r.gauss(0, 0.1) + 5 * (r.random() < 0.02),
    "falling": lambda r, i: 5 * math.exp(-i / 2000) + 0.1 + 0.1 * abs(r.gauss(0, 1)),
    "nearly nothing": lambda r, i: 0.001 * math.exp(r.gauss(0, 1.5)),
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_no_false_spikes(kind: str) -> None:
    """Twenty thousand steps of ordinary noise have at most two spikes, however wide, skewed or small the noise is."""
    rng = random.Random(7)
    assert len(Spikes(HEALTHY[kind](rng, i) for i in range(20_000)).found) <= 2


def test_spikes() -> None:
    """A leap is told once, with its steps; it may last to the end, and one odd step is none."""
    calm = [1.0, 1.1] * WINDOW
    [spike] = Spikes([*calm, 3.0, 3.2, 3.1, *calm]).found
    assert (len(calm) + 1, len(calm) + 5) == (spike.first, spike.last)
    assert (spike.loss, spike.before) == (3.0, pytest.approx(1.05))
    assert Spikes([*calm, 9.0, 9.0, *calm]).found == []
    [spike] = Spikes([*calm, *[2.0] * 500]).found
    assert spike.last == len(calm) + 500
    assert len(Spikes([*calm, *[2.0] * 9, *calm, *[2.0] * 9]).found) == 2


def test_start() -> None:
    """What has moved is told from what has not, from zero and from elsewhere, by the last place of one weight."""
    from peft import get_peft_model

    class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.config: Any = {"model_type": "none"}
            self.one, self.two, self.head = (torch.nn.Linear(8, 8) for _ in range(3))

    for start in (True, "pissa"):
        adapter = lora(r=2, init_lora_weights=start, target_modules=["one", "two"], modules_to_save=["head"])
        config = adapter.peft_config()
        config.task_type = None
        model = get_peft_model(Model(), config)
        begin = Start(model)
        assert len(begin.unmoved(model)) == len(begin.sums) == 4  # two B, weight and bias of the head
        weights = dict(model.named_parameters())
        for name in begin.sums:
            flat = weights[name].data.view(-1)
            flat[0] = torch.nextafter(flat[0], torch.tensor(9.0))
            assert name not in begin.unmoved(model)
        assert begin.unmoved(model) == []


def test_all_finite() -> None:
    """One NaN or infinity among the weights is seen."""
    weights = [torch.ones(3), torch.ones(2, 2)]
    assert all_finite(weights)
    assert all_finite([])
    for value in (math.nan, math.inf):
        weights[1][1, 0] = value
        assert not all_finite(weights)
