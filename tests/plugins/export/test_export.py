"""[[export]] nf4, int8: fewer bits, read back from the disk, gated against what they were made of, and verified."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

from safetensors.torch import load_file, save_file  # noqa: E402

from harness.errors import CheckFailedError, UsageError  # noqa: E402
from harness.records.models import ModelRef  # noqa: E402
from harness.release.verify import verify_export  # noqa: E402
from harness.testing import Project  # noqa: E402
from harness_export.quantised import check_bitsandbytes_options, compare_quantized, int8, nf4, write_quantized  # noqa: E402
from harness_hf.models import load_model, quiet_loading  # noqa: E402
from harness_hf.sources import count_parameters  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_children")]
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
INT8 = {"load_in_8bit": True}
TEXTS = [{"id": f"t{i}", "text": f"the quick brown fox {i} jumps over {i * 7} lazy dogs"} for i in range(40)]
SUITE = """
[suite]
name = "copies"
[model]
path = "base"
dtype = "float32"
device = "cpu"
[candidate]
merged = "merged"
[[eval]]
name = "text"
use = "perplexity"
data = "text.jsonl"
[[eval]]
name = "size"
use = "size"
[[eval]]
name = "moved"
use = "drift"
data = "text.jsonl"
against = "parent"
[[eval]]
name = "forgot"
use = "drift"
data = "text.jsonl"
[[eval]]
name = "speed"
use = "latency"
data = "text.jsonl"
limit = 2
new_tokens = 2
rounds = 1
[[gate]]
id = "close"
metric = "text.perplexity"
allow_approximate = true
versus = "parent"
worse_by_at_most = "10%"
[[gate]]
id = "small"
metric = "size.bytes"
max = 250_000
on = ["nf4", "strict"]
[[gate]]
id = "fluent"
metric = "text.perplexity"
allow_approximate = true
max = 1000
on = ["merged"]
[[gate]]
id = "near"
metric = "moved.kl"
allow_approximate = true
max = 0.0001
on = ["strict"]
[[export]]
use = "safetensors"
to = "exports/merged"
[[export]]
use = "nf4"
to = "exports/nf4"
[[export]]
use = "nf4"
name = "strict"
double_quant = false
to = "exports/strict"
"""


def write_tuned_model(base: Path, to: Path) -> Path:
    """Write a model that differs from the base by a little noise."""
    shutil.copytree(base, to)
    torch.manual_seed(1)
    tensors = {k: v + 0.01 * torch.randn_like(v) for k, v in load_file(to / "model.safetensors").items()}
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


def test_copies_are_gated_and_shipped(project: Project, tiny_model: Path) -> None:
    """The NF4 copy passes against its parent and ships; a stricter one fails; the merged model ships all the same."""
    shutil.rmtree(project.folder / "base")
    shutil.copytree(tiny_model, project.folder / "base")
    write_tuned_model(tiny_model, project.folder / "merged")
    outcome = project.write({"suite.toml": SUITE, "text.jsonl": TEXTS}).run()
    assert outcome.code == 1, outcome.out + outcome.err
    run = outcome.report
    assert [(e.candidate, e.written) for e in run.exports] == [("merged", True), ("nf4", True), ("strict", False)]
    assert 'gate "near" is FAIL on strict' in run.exports[2].reasons[0]
    for name in ("merged", "nf4"):
        assert verify_export(project.folder / "exports" / name).ok
    facts = run.facts["nf4"]
    assert facts["layers"] == 14
    assert 0.01 < facts["kl"] < 0.1 < facts["relative_error"] + 0.05 < 0.2
    measured = {(r.subject, r.eval): r.metrics for r in run.results}
    assert measured["nf4", "size"]["parameters"] == measured["merged", "size"]["parameters"]
    assert measured["nf4", "size"]["bytes"] < measured["merged", "size"]["bytes"] / 2
    assert measured["nf4", "moved"]["kl"] < measured["nf4", "forgot"]["kl"]
    assert ("merged", "moved") not in measured
    assert measured["nf4", "speed"]["latency_ratio"] > 0
    card = (project.folder / "exports/nf4/README.md").read_text("utf-8")
    assert f"relative_error {facts['relative_error']}" in card
    assert "needs bitsandbytes" in card
    assert "bitsandbytes" not in (project.folder / "exports/merged/README.md").read_text("utf-8")
    assert str(project.folder) not in (project.folder / "exports/nf4/model/config.json").read_text("utf-8")
    again = project.run()
    assert "cached" in again.out
    assert [v.outcome for v in again.report.verdicts] == [v.outcome for v in run.verdicts]


def test_copy_loads_where_there_is_no_harness(tiny_model: Path, tmp_path: Path) -> None:
    """A fresh process with transformers alone computes what the parent computes in 4 bits, but for rounding."""
    write_quantized(tiny_model, tmp_path / "nf4", NF4)
    code = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
for module in model.modules():
    module.support_avx512bf16_for_cpu = False  # or a CPU that has it computes in 16 bits
with torch.no_grad():
    torch.save(model(torch.arange(5, 40)[None]).logits, sys.argv[2])
"""
    words = [sys.executable, "-c", code, str(tmp_path / "nf4"), str(tmp_path / "logits")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    quantised = load_model(tiny_model, dtype="float32", device="cpu", quantization=NF4)
    with torch.no_grad():
        there = torch.load(tmp_path / "logits", weights_only=True)
        torch.testing.assert_close(there, quantised(torch.arange(5, 40)[None]).logits, rtol=1e-5, atol=1e-5)


def write_model_variant(name: str, folder: Path, wide: int = 128) -> Path:
    """Write a small random model: tied and in bfloat16, with biases in float16, or with GPT-2's kind of layers."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    small = {"vocab_size": 261, "hidden_size": 64, "intermediate_size": wide, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 4, "max_position_embeddings": 128}
    models: dict[str, Any] = {
        "tied": lambda: LlamaForCausalLM(LlamaConfig(**small, tie_word_embeddings=True)).bfloat16(),
        "bias": lambda: LlamaForCausalLM(LlamaConfig(**small, attention_bias=True, mlp_bias=True)).half(),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=261, n_embd=64, n_layer=1, n_head=4, n_positions=128)),
    }
    with quiet_loading():
        models[name]().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("settings", [NF4, {**NF4, "bnb_4bit_use_double_quant": False}, INT8])
@pytest.mark.parametrize("name", ["tied", "bias", "gpt2"])
def test_what_is_written_is_its_parent_rounded(
    name: str, settings: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    """Read back, every quantised number is its parent's, rounded; the rest is equal; no parameter is lost."""
    parent = write_model_variant(name, tmp_path / "parent")
    for file in tiny_model.glob("token*"):
        shutil.copy(file, parent)
    write_quantized(parent, tmp_path / "copy", settings)
    for file in parent.glob("token*"):
        shutil.copy(file, tmp_path / "copy")
    facts = compare_quantized(parent, tmp_path / "copy")
    assert facts["layers"] == (4 if name == "gpt2" else 7)
    assert facts["kl"] < 0.01
    assert facts["relative_error"] < (0.02 if settings is INT8 else 0.12)
    assert count_parameters(tmp_path / "copy") == count_parameters(parent)


@pytest.mark.parametrize("settings", [NF4, INT8])
@pytest.mark.parametrize("damage", ["a layer's bits", "the head", "NaN"])
def test_damage_is_found(damage: str, settings: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    """A tensor that is not its parent's, rounded, is named."""
    copy = tmp_path / "copy"
    write_quantized(tiny_model, copy, settings)
    for file in tiny_model.glob("token*"):
        shutil.copy(file, copy)
    tensors = load_file(copy / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight" if damage == "a layer's bits" else "lm_head.weight"
    whole = tensors[name]
    tensors[name] = whole.flip(0).contiguous() if damage != "NaN" else whole.index_fill(0, torch.tensor([3]), torch.nan)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckFailedError, match=f'"{name}" differs from its parent\'s rounded value'):
        compare_quantized(tiny_model, copy)


def test_what_cannot_be_quantised(tiny_model: Path, tmp_path: Path) -> None:
    """An adapter, and a model that is quantised already, are refused with the reason."""
    ref = ModelRef("adapter", str(tiny_model), adapter=tmp_path)
    for exporter in (nf4, int8):
        with pytest.raises(UsageError, match="adapter is an adapter; export the merged model"):
            exporter(ref, tmp_path, progress=lambda _: None)
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}', "utf-8")
    with pytest.raises(UsageError, match="is quantised already"):
        check_bitsandbytes_options(tmp_path, {})


def test_width_that_a_cpu_reads_wrongly(tmp_path: Path) -> None:
    """Where bitsandbytes decodes a layer wrongly on the CPU, what is evaluated here is not what a GPU would serve."""
    parent = write_model_variant("tied", tmp_path / "parent", wide=96)
    with pytest.raises(UsageError, match=r'mlp.down_proj" has 96 inputs, not a multiple of 64.*use = "int8"'):
        write_quantized(parent, tmp_path / "copy", NF4)
    with pytest.raises(UsageError, match=r'has 96 inputs, not a multiple of 64.*use = "lora", or a GPU'):
        load_model(parent, device="cpu", quantization=NF4)
    write_quantized(parent, tmp_path / "copy", INT8)


def test_a_whole_model_is_not_the_quantised_one(tiny_model: Path) -> None:
    """A copy in which nothing is quantised is no copy."""
    with pytest.raises(CheckFailedError, match="no layer was quantised"):
        compare_quantized(tiny_model, tiny_model)
