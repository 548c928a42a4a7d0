"""Folders as other tools write them after a fine-tune: the files and keys of each, around a plain PEFT adapter."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CLASS = {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama.modeling_llama"}
CARD = "---\nbase_model: {base}\nlibrary_name: peft\ntags:\n- lora\n---\n\n# Model Card for Model ID\n"
WORDS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
STATE = {"best_metric": None, "epoch": 1.0, "global_step": 60, "log_history": [{"loss": 2.1, "step": 10}]}


def edit_json(folder: Path, name: str = CONFIG, **keys: Any) -> None:
    """Change keys of a JSON file in a folder."""
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **keys}, indent=2), "utf-8")


def peft(adapter: Path, base: Path, to: Path) -> None:
    """PEFT's own save_pretrained of a LoraConfig without a task type: a class is named, and a card written."""
    shutil.copytree(adapter, to)
    edit_json(to, task_type=None, auto_mapping=CLASS, base_model_name_or_path=str(base))
    (to / "README.md").write_text(CARD.format(base=base), "utf-8")


def unsloth(adapter: Path, base: Path, to: Path) -> None:
    """Unsloth: its mark in the class that is named, its version, a 4-bit base of its own, tokenizer and template."""
    peft(adapter, base, to)
    edit_json(to, auto_mapping={**CLASS, "unsloth_fixed": True}, unsloth_version="2026.5.1", unsloth_fixed=True)
    edit_json(to, base_model_name_or_path="unsloth/smollm2-135m-instruct-bnb-4bit")
    _copy_tokenizer_files(base, to)


def axolotl(adapter: Path, base: Path, to: Path) -> None:
    """axolotl: the model's config.json beside the adapter, checkpoints below, logs that are no part of a model."""
    peft(adapter, base, to)
    edit_json(to, task_type="CAUSAL_LM", auto_mapping=None)
    _copy_tokenizer_files(base, to)
    shutil.copy(base / "config.json", to)
    (to / "debug.log").write_text("[INFO] trained\n", "utf-8")
    (to / "checkpoint-60").mkdir()
    (to / "checkpoint-60" / "optimizer.pt").write_bytes(pickle.dumps({"step": 60}))
    shutil.copy(to / WEIGHTS, to / "checkpoint-60")


def llama_factory(adapter: Path, base: Path, to: Path) -> None:
    """LLaMA-Factory: results, a log, a plot, and the training arguments as a pickle."""
    peft(adapter, base, to)
    edit_json(to, task_type="CAUSAL_LM", auto_mapping=None)
    _copy_tokenizer_files(base, to)
    for name in ("all_results.json", "train_results.json"):
        (to / name).write_text(json.dumps({"epoch": 1.0, "train_loss": 1.9, "train_runtime": 12.3}), "utf-8")
    (to / "trainer_state.json").write_text(json.dumps(STATE), "utf-8")
    (to / "trainer_log.jsonl").write_text('{"current_steps": 60, "total_steps": 60, "loss": 1.9}\n', "utf-8")
    (to / "training_args.bin").write_bytes(pickle.dumps({"learning_rate": 1e-4}))
    (to / "training_loss.png").write_bytes(b"\x89PNG\r\n\x1a\n")


def mlx_fused(merged: Path, base: Path, to: Path) -> None:
    """mlx_lm.fuse: a whole model whose safetensors say "mlx", with an index and a card."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(merged, to)
    tensors = load_file(to / "model.safetensors")
    save_file(tensors, to / "model.safetensors", metadata={"format": "mlx"})
    names = dict.fromkeys(sorted(tensors), "model.safetensors")
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size, "total_parameters": 1}, "weight_map": names}
    (to / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    (to / "README.md").write_text("---\nlibrary_name: mlx\ntags:\n- mlx\n---\n", "utf-8")


def mlx_adapter(adapter: Path, base: Path, to: Path) -> None:
    """mlx_lm.lora: an adapter of MLX's own, under names that no other library reads."""
    to.mkdir()
    rank = {"rank": 8, "dropout": 0.0, "scale": 20.0}
    config = {"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": rank, "model": str(base), "iters": 100}
    (to / CONFIG).write_text(json.dumps(config), "utf-8")
    shutil.copy(adapter / WEIGHTS, to / "adapters.safetensors")


ADAPTERS: dict[str, Callable[[Path, Path, Path], None]] = {
    "peft": peft,
    "unsloth": unsloth,
    "axolotl": axolotl,
    "llama_factory": llama_factory,
}


def _copy_tokenizer_files(base: Path, to: Path) -> None:
    for name in WORDS:
        if (base / name).is_file():
            shutil.copy(base / name, to)
