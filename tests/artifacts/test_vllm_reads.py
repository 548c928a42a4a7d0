"""vLLM, in its own environment, loads the very tensors of what ships; needs `make vllm`'s environment."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.artifacts.formats import check_files, shipping_files
from harness.artifacts.model_files import weight_files
from harness.artifacts.safetensors import read_safetensors

PYTHON = Path(os.environ.get("VLLM_PYTHON", Path(__file__).parents[2] / ".vllm/bin/python"))
LOADS = """
import hashlib, json, sys
import torch
from vllm.config import LoadConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

found = []
for folder in sys.argv[1:]:
    loader = DefaultModelLoader(LoadConfig())
    tensors = loader._get_weights_iterator(DefaultModelLoader.Source(folder, revision=None))
    found.append({n: hashlib.sha256(t.contiguous().view(torch.uint8).numpy()).hexdigest() for n, t in tensors})
print(json.dumps(found))
"""
BESIDE: dict[str, Callable[[Path, bytes], object]] = {
    "nothing": lambda folder, other: None,
    "consolidated": lambda folder, other: (folder / "consolidated.safetensors").write_bytes(other),
    "stray": lambda folder, other: (folder / "zzz.safetensors").write_bytes(other),
    "pickle": lambda folder, other: (folder / "pytorch_model.bin").write_bytes(other),
}
needs_vllm = pytest.mark.skipif(not PYTHON.is_file(), reason="needs the environment of make vllm")


def hash_tensors(folder: Path) -> dict[str, str]:
    """Return the sha256 of each tensor that a folder is read from."""
    found = {}
    for name in weight_files(folder):
        about, data = read_safetensors(folder / name), (folder / name).read_bytes()
        for tensor, entry in about.tensors.items():
            begin, end = (about.start + at for at in entry["data_offsets"])
            found[tensor] = hashlib.sha256(data[begin:end]).hexdigest()
    return found


@needs_vllm
@pytest.mark.slow
def test_vllm_loads_the_tensors_that_ship(tiny_model: Path, tmp_path: Path) -> None:
    """Whatever lay beside the model; of the folders as they were, it would have loaded others."""
    folders, shipped = [], []
    weights = (tiny_model / "model.safetensors").read_bytes()
    for name, put in BESIDE.items():
        folder, to = tmp_path / name, tmp_path / f"{name}-shipped"
        shutil.copytree(tiny_model, folder)
        put(folder, weights[:-4096] + bytes(4096))
        to.mkdir()
        for file in shipping_files(folder):
            shutil.copyfile(folder / file, to / file)
        check_files(to)
        folders.append(folder)
        shipped.append(to)
    env = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    command = [str(PYTHON), "-P", "-c", LOADS, *map(str, shipped + folders)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=300)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found[: len(shipped)] == [hash_tensors(tiny_model)] * len(shipped)
    others = [
        name for name, tensors in zip(BESIDE, found[len(shipped) :], strict=True) if tensors != hash_tensors(tiny_model)
    ]
    assert others == ["consolidated", "stray"]


SERVES = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    about = {"dtype": "float32", "enforce_eager": True, "max_model_len": 128, "limit_mm_per_prompt": {"image": 0}}
    llm = LLM(model=sys.argv[1], skip_mm_profiling=True, **about)
    [answer] = llm.generate(["What colour is the sea?"], SamplingParams(temperature=0, max_tokens=4))
    print(json.dumps([list(llm.llm_engine.model_config.architectures), len(answer.outputs[0].token_ids)]))
"""


@needs_vllm
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_vllm_serves_a_multimodal_export_as_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text fine-tune of Gemma 3 that was merged and exported is loaded with its vision tower, and answers."""
    pytest.importorskip("peft")
    from harness.records.models import ModelRef
    from harness_export import safetensors
    from harness_lora import lora
    from tests.helpers import multimodal
    from tests.helpers.adapters import make_adapter

    wide = {"head_dim": 64, "hidden_size": 128, "num_attention_heads": 2}  # as vLLM's attention wants it
    monkeypatch.setattr(multimodal, "TEXT", multimodal.TEXT | wide)
    base, adapter, merged, out = (tmp_path / name for name in ("base", "adapter", "merged", "export"))
    made = lora(r=4, lora_dropout=0.0)
    multimodal.build("Gemma3ForConditionalGeneration", base)
    make_adapter(base, made, adapter)
    for folder in (merged, out):
        folder.mkdir()
    made.merge(str(base), adapter, merged, variant="original")
    safetensors(ModelRef("merged", str(merged)), out)
    env = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    env |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    script = tmp_path / "serve.py"  # its workers import it again
    script.write_text(SERVES)
    command = [str(PYTHON), "-P", str(script), str(out)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=300)
    told = next(line for line in done.stdout.splitlines() if line.startswith('[["'))
    assert json.loads(told) == [["Gemma3ForConditionalGeneration"], 4]
