"""A suite to look at a model in training with, and trainers of TRL that train a tiny one for a few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PLUGIN = '''
from harness import Score, hookimpl, metric

@metric("likely", better="higher", scale="proportion")
@metric("nats", better="lower", scale="mean", range=(0.0, 50.0))
def likely(subject, samples, *, cut=5.6):
    """Is a target likelier than a cut, in nats per token?"""
    for sample, one in zip(samples, subject.logprobs([(s.input, s.target) for s in samples]), strict=True):
        nats = -one.total / one.tokens
        yield Score(sample.id, {"likely": float(nats < cut), "nats": min(nats, 50.0)})

@metric("text", better="higher", scale="proportion")
def speaks(subject, samples, *, max_new_tokens=4):
    """Does it say anything?"""
    for sample, answer in zip(samples, subject.generate([s.input for s in samples], max_new_tokens=max_new_tokens)):
        yield Score(sample.id, {"text": float(bool(answer.strip()))}, answer=answer)

@metric("same", better="higher", scale="proportion")
def repeats(subject, samples, *, max_new_tokens=3):
    """Is the answer the target?"""
    for sample, answer in zip(samples, subject.generate([s.input for s in samples], max_new_tokens=max_new_tokens)):
        yield Score(sample.id, {"same": float(answer == sample.target)}, answer=answer)

@hookimpl
def harness_evaluators():
    return {"likely": likely, "speaks": speaks, "repeats": repeats}
'''
SUITE = """
[suite]
name = "loop"

[model]
use = "hf"
path = "{model}"
device = "cpu"
dtype = "float32"

[[eval]]
name = "old"
use = "likely"
data = "old.jsonl"
select = "old-select.jsonl"

[[eval]]
name = "new"
use = "likely"
data = "new.jsonl"
select = "new-select.jsonl"

[[eval]]
name = "talk"
use = "speaks"
data = "new.jsonl"
select = "new-select.jsonl"

[[gate]]
id = "no-forgetting"
metric = "old.likely"
versus = "base"
worse_by_at_most = 0.05

[[gate]]
id = "learns"
metric = "new.nats"
versus = "base"
better_by = 0.1
allow_approximate = true
"""


def write_loop_suite(folder: Path, model: Path, text: str = SUITE, rows: int = 40) -> Path:
    """Write a suite with rows to confirm and to select on; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "harnessfile.py").write_text(PLUGIN)
    for name, first in (("old", 0), ("old-select", 1000), ("new", 2000), ("new-select", 3000)):
        kind = (
            (lambda i: f" {chr(65 + i % 26)}{chr(65 + i * 7 % 23)}Q")
            if name.startswith("old")
            else (lambda i: f" it is {i % 7}{i % 7}")
        )
        lines = [
            json.dumps({"id": f"{name}{i}", "input": f"{name} question {i}?", "target": kind(i)})
            for i in range(first, first + rows)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    path = folder / "suite.toml"
    path.write_text(text.replace("{model}", str(model)))
    return path


def write_forgetting_suite(folder: Path, model: Path) -> Path:
    """Write a suite whose guard's targets are what the base answers, so that any training far away from it loses."""
    from harness.records.models import ModelRef
    from harness_hf import load

    text = SUITE.replace('use = "likely"\ndata = "old.jsonl"', 'use = "repeats"\ndata = "old.jsonl"')
    path = write_loop_suite(folder, model, text.replace("old.likely", "old.same"), rows=60)
    with load([ModelRef("base", str(model))], dtype="float32", device="cpu") as [subject]:
        for name in ("old.jsonl", "old-select.jsonl"):
            rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
            answers = subject.generate([row["input"] for row in rows], max_new_tokens=3)
            lines = [json.dumps({**row, "target": str(said)}) for row, said in zip(rows, answers, strict=True)]
            (folder / name).write_text("\n".join(lines) + "\n")
    return path


def make_training_rows(count: int = 24) -> list[dict[str, Any]]:
    """Return rows of prompts and completions, and of preferences."""
    rows = []
    for i in range(count):
        good, bad = f" it is {i % 7}{i % 7}", f" or {i}"
        row = {"prompt": f"train question {i}?", "completion": good, "chosen": good, "rejected": bad}
        rows.append({**row, "label": i % 2 == 0})
    return rows


COLUMNS = {
    "sft": ("prompt", "completion"),
    "dpo": ("prompt", "chosen", "rejected"),
    "kto": ("prompt", "completion", "label"),
    "grpo": ("prompt",),
}
OWN: dict[str, dict[str, Any]] = {
    "sft": {"max_length": 64},
    "dpo": {"max_length": 64},
    "kto": {"max_length": 64},
    "grpo": {"max_completion_length": 4, "num_generations": 2},
}


def make_trainer(
    kind: str, model: Path, out: Path, *, adapter: bool = True, callbacks: Any = (), **options: Any
) -> Any:
    """Return a trainer of TRL of a tiny model."""
    import torch
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config, made = getattr(trl, f"{kind.upper()}Config"), getattr(trl, f"{kind.upper()}Trainer")
    given = {
        "output_dir": str(out), "max_steps": 6, "per_device_train_batch_size": 2, "learning_rate": 5e-3, "seed": 3,
        "logging_steps": 1, "report_to": [], "use_cpu": True, "bf16": False, "save_strategy": "no",
        "disable_tqdm": True, "gradient_checkpointing": False,
    }  # fmt: skip
    rows = [{name: row[name] for name in COLUMNS[kind]} for row in make_training_rows()]
    torch.manual_seed(0)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    lora = LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM") if adapter else None
    rewards = {"reward_funcs": lambda completions, **_: [float(len(c)) for c in completions]} if kind == "grpo" else {}
    return made(
        loaded,
        args=config(**{**given, **OWN[kind], **options}),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:2]) if "eval_strategy" in options else None,
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=lora,
        callbacks=list(callbacks),
        **rewards,
    )


def losses(trainer: Any) -> list[float]:
    """Return the logged losses of a training, exactly."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
