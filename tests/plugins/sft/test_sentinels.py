"""What is looked at while a model trains: no false alarm on noise, and every leap, standstill and NaN is seen."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from harness.cli.main import main  # noqa: E402
from harness.reports.report_json import read_run  # noqa: E402
from harness_lora import lora  # noqa: E402
from harness_sft.ranks import Ranks  # noqa: E402
from harness_sft.sentinels import WINDOW_LOSSES, InitialWeights, Spikes, all_finite  # noqa: E402
from tests.mutations.lab import EVAL, ROWS, Lab  # noqa: E402

Loss = Callable[[random.Random, int], float]
HEALTHY: dict[str, Loss] = {
    "normal noise": lambda r, i: 1 + r.gauss(0, 0.1),
    "noise of a small batch": lambda r, i: math.exp(r.gauss(0, 0.5)),
    "a hard row in fifty": lambda r, i: 1 + r.gauss(0, 0.1) + 5 * (r.random() < 0.02),
    "falling": lambda r, i: 5 * math.exp(-i / 2000) + 0.1 + 0.1 * abs(r.gauss(0, 1)),
    "nearly nothing": lambda r, i: 0.001 * math.exp(r.gauss(0, 1.5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEALTHY)
def test_no_false_spikes(kind: str) -> None:
    """Twenty thousand steps of ordinary noise have at most two spikes, however wide, skewed or small the noise is."""
    rng = random.Random(7)
    assert len(Spikes(HEALTHY[kind](rng, i) for i in range(20_000)).found) <= 2


def test_spikes() -> None:
    """A leap is told once, with its steps; it may last to the end, and one odd step is none."""
    calm = [1.0, 1.1] * WINDOW_LOSSES
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
        begin = InitialWeights(model)
        assert len(begin.find_unmoved(model, Ranks())) == len(begin.sums) == 4  # two B, weight and bias of the head
        weights = dict(model.named_parameters())
        for name in begin.sums:
            flat = weights[name].data.view(-1)
            flat[0] = torch.nextafter(flat[0], torch.tensor(9.0))
            assert name not in begin.find_unmoved(model, Ranks())
        assert begin.find_unmoved(model, Ranks()) == []


def test_all_finite() -> None:
    """One NaN or infinity among the weights is seen."""
    weights = [torch.ones(3), torch.ones(2, 2)]
    assert all_finite(weights)
    assert all_finite([])
    for value in (math.nan, math.inf):
        weights[1][1, 0] = value
        assert not all_finite(weights)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_watched_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A run tells after each epoch what it watches on select rows and the validation loss, and keeps the best epoch."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    lab = Lab(tmp_path / "lab")
    select = [{"input": f"Who has the {i}?\n", "target": f"box {i}"} for i in range(9)]
    held = [
        {"prompt": f"Where was the {t}?\n", "completion": f"#{t[::-1]}{t}"} for t in ("zither", "yoke", "xylophone")
    ]
    lab._write(ROWS, EVAL, 'select = "select.jsonl"\n', {"select.jsonl": select, "held.jsonl": held})
    asked = {"watch": '["qa"]', "watch_rows": 4, "validation_data": '"held.jsonl"', "patience": 1, "logging_steps": 1}
    asked |= {"learning_rate": 3e-2, "num_train_epochs": 6}
    words = [word for name, value in asked.items() for word in ("--set", f"train.{name}={value}")]
    main(["run", str(lab.folder / "suite.toml"), *words, "--out", str(tmp_path / "reports"), "-p", "no:checks"])
    printed = capsys.readouterr().out
    facts = read_run(next((tmp_path / "reports").iterdir())).facts["training"]
    losses, watched = facts["validation_loss"], facts["watched"]
    assert len(losses) == len(watched) < 6
    assert facts["kept_step"] == watched[losses.index(min(losses))]["step"]
    assert f"epoch 1: validation loss {losses[0]:.4f}, qa.exact_match 0.0000" in printed
    assert (
        f"no better than step {facts['kept_step']} for 1 epochs: stopped, step {facts['kept_step']} is kept" in printed
    )
