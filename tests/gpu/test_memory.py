"""What a training holds is told from a model without weights, and a card that is too small is refused ahead."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.errors import UsageError
from harness.records.models import ModelRef
from harness.testing import Project
from harness_hf import build_skeleton, load_model
from harness_lora import lora, qlora
from harness_sft import SFT, TrainingJob, sft
from harness_sft.memory import check_memory, estimate_memory
from harness_sft.train import base_bytes
from tests.helpers.late import import_late

schema = import_late("harness.schema")
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128_256, "dtype": "bfloat16"}
SIZES = {  # of Llama 3: layers, hidden size, that between, heads, heads of keys
    "8b": (32, 4096, 14_336, 32, 8),
    "70b": (80, 8192, 28_672, 64, 8),
}
ADAPTER: dict[str, Any] = {"r": 16, "target_modules": "all-linear"}


def make_training_job(folder: Path, size: str, adapter: Any, **given: Any) -> TrainingJob:
    """Return a training of a Llama that is a config.json."""
    names = "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"
    (folder / "config.json").write_text(json.dumps(LLAMA | dict(zip(names, SIZES[size], strict=True))))
    ref = ModelRef("base", str(folder), options={"dtype": "bfloat16", "device": "cpu"})
    recipe = schema.with_defaults(sft, {"per_device_train_batch_size": 2, "max_length": 2048})
    return TrainingJob(ref, adapter, (), recipe, 0, SFT, **given)


@pytest.mark.slow
def test_llama_of_8b(tmp_path: Path) -> None:
    """Weights are what meta sums, in 4 bits what the formats say, and each trained number has 16 bytes."""
    whole = make_training_job(tmp_path, "8b", lora(**ADAPTER))
    meta = sum(p.nbytes for p in build_skeleton(tmp_path, "bfloat16").parameters())
    found = estimate_memory(whole)
    assert found["weights"] == pytest.approx(meta, rel=0.1) and meta == 16_060_522_496
    assert found["trained"] == 16 * 41_943_040
    assert found["layer inputs"] == 2 * 2048 * 32 * 4096 * 2
    packed = estimate_memory(replace(whole, adapter=qlora(**ADAPTER)))
    head = 2 * 128_256 * 4096 * 2
    assert packed["weights"] == pytest.approx(head + (meta - head) / 4 * (1 + 2 / 64), rel=0.01)
    assert estimate_memory(replace(whole, adapter=None))["trained"] == 12 * 8_030_261_248


@pytest.mark.slow
def test_llama_of_70b(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fits eight cards of 80 GB that share it, and not one: that is said before a weight is read."""
    alone = make_training_job(tmp_path, "70b", lora(**ADAPTER))
    shared = estimate_memory(replace(alone, shard=True, processes=8))
    assert shared["weights"] == pytest.approx(141.1e9 / 8, rel=0.01)
    alone = replace(alone, ref=replace(alone.ref, options={"dtype": "bfloat16", "device": "cuda"}))
    card = SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=85_000_000_000)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    with pytest.raises(UsageError, match=r"needs 144.4 GB on a GPU .* H100 80GB HBM3 has 85.0; use = \"qlora\" in"):
        check_memory(alone)
    check_memory(replace(alone, shard=True, processes=8))
    check_memory(replace(alone, adapter=qlora(**ADAPTER)))


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [lora, qlora])
def test_what_is_loaded_is_what_was_told(adapter: Any, tiny_model: Path) -> None:
    """The bytes of a model in memory, its scales with it, are those of the plan to a tenth."""
    made = adapter(r=4)
    ref = ModelRef("base", str(tiny_model), options={"dtype": "float32", "device": "cpu"})
    told = estimate_memory(TrainingJob(ref, made, (), schema.with_defaults(sft, {}), 0, SFT))
    loaded = load_model(tiny_model, dtype="float32", device="cpu", quantization=made.quantization)
    assert told["weights"] == pytest.approx(base_bytes(loaded), rel=0.1)


SUITE = """
[suite]
name = "rated"
[model]
use = "hf"
path = "tiny:llama"
device = "cpu"
[adapter]
use = "lora"
r = 4
[train]
use = "sft"
data = "train.jsonl"
num_train_epochs = 3
[[eval]]
name = "held-out"
use = "perplexity"
data = "test.jsonl"
[[gate]]
id = "better"
metric = "held-out.perplexity"
versus = "base"
better_by = 0.01
"""


@pytest.mark.slow
def test_a_stated_rate(project: Project) -> None:
    """Hours come from tokens a second that somebody has seen elsewhere, memory from no weights."""
    rows = "".join(json.dumps({"prompt": f"{i} and", "completion": f" {i + 1}"}) + "\n" for i in range(40))
    texts = "".join(json.dumps({"text": f"{i} and {i + 1}"}) + "\n" for i in range(40, 60))
    suite = project.write({"suite.toml": SUITE, "train.jsonl": rows, "test.jsonl": texts})
    done = suite.harness("plan", str(suite.folder / "suite.toml"), "--rate", "10", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert next(s for s in found["stages"] if s["name"] == "train")["seconds"] == 3 * found["training_tokens"] / 10
    assert found["memory"].keys() == {"weights", "trained", "layer inputs"}
    said = suite.harness("plan", str(suite.folder / "suite.toml")).out
    assert "memory of each process, at least: 0.00 GB of weights" in said
    assert suite.harness("plan", str(suite.folder / "suite.toml"), "--rate", "0").code == 4
