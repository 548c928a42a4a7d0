"""What only a card can tell: the same model there and, in float64, here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.records.models import ModelRef
from harness_hf.models import load_model
from harness_hf.scoring import Scorer
from harness_hf.subject import load_subjects, release_subjects
from harness_sft import sft

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
PAIRS = [([*range(5, 45), i], [50 + i, 7, 9]) for i in range(16)]
LIMITS = {"float32": 1e-3, "bfloat16": 0.15, "float16": 0.03}  # nats per token, as the scorer allows on average


@pytest.mark.parametrize("dtype", LIMITS)
def test_scores_are_those_of_float64(dtype: str, tiny_model: Path) -> None:
    """Shared prefixes are kept, and no score is further off than the dtype allows."""
    scorer = Scorer(load_model(tiny_model, dtype=dtype, device="cuda"), 256)
    found = dict(scorer.score(PAIRS))
    wanted = dict(
        Scorer(load_model(tiny_model, dtype="float32", device="cpu").double(), 256, reference=True).score(PAIRS)
    )
    assert scorer.packs, scorer.why_plain
    assert all(abs(found[i].total - wanted[i].total) / 3 < LIMITS[dtype] for i in wanted)


def test_answers_are_those_of_the_cpu(tiny_model: Path) -> None:
    """Greedy answers of a model whose choices are no ties are the same in float32."""
    said = {}
    for device in ("cuda", "cpu"):
        placed = {"dtype": "float32", "device": device, "device_map": None, "threads": None}
        subjects = load_subjects([ModelRef("base", str(tiny_model))], [str(tiny_model)], placed)
        said[device] = subjects[0].generate([f"{i} is" for i in range(8)], max_new_tokens=16)
        release_subjects(subjects)
    assert said["cuda"] == said["cpu"]


def test_a_training_moves_an_adapter_on_the_card(tiny_model: Path, tmp_path: Path) -> None:
    """One process takes one card, whichever others it sees, and gives its memory back."""
    from harness_lora import qlora

    before = torch.cuda.memory_allocated()
    rows = [{"prompt": f"{i} and", "completion": f" {i + 1}"} for i in range(16)]
    ref = ModelRef("base", str(tiny_model), digest="d" * 64, options={"device": "cuda"})
    given: dict[str, Any] = {"max_steps": 4, "learning_rate": 1e-2, "max_length": 64}
    out = sft(ref, qlora(r=4), rows, tmp_path / "adapter", progress=lambda _: None, seed=3, **given)
    assert (out / "adapter_model.safetensors").is_file()
    assert torch.cuda.memory_allocated() == before


@pytest.mark.parametrize(("name", "package"), [("flex_attention", "torch"), ("flash_attention_2", "flash_attn")])
def test_attention_for_cards_learns_what_sdpa_does(name: str, package: str, tiny_model: Path, tmp_path: Path) -> None:
    """Kernels that only a card has, in bfloat16 as they want it: the losses are those of PyTorch's own."""
    from harness_lora import lora

    pytest.importorskip(package)
    rows = [{"prompt": f"{i} and", "completion": f" {i + 1}"} for i in range(16)]
    ref = ModelRef("base", str(tiny_model), digest="d" * 64, options={"device": "cuda", "dtype": "bfloat16"})
    given: dict[str, Any] = {"max_steps": 4, "learning_rate": 1e-2, "max_length": 64, "logging_steps": 1}
    losses: dict[str, list[float]] = {}
    for attention in ("sdpa", name):
        told = losses.setdefault(attention, [])
        given["progress"] = lambda p, told=told: told.append(p.facts["loss"]) if "loss" in p.facts else None
        sft(ref, lora(r=4), rows, tmp_path / attention, seed=3, attn_implementation=attention, **given)
    assert losses["sdpa"] and losses[name] == pytest.approx(losses["sdpa"], abs=0.05)
