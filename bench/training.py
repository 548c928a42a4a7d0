"""The same QLoRA recipe by a plain TRL script and by `[train] use = "sft"`, in turn."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from bench.child import ROOT, call
from bench.page import Bar, Section, format_table
from bench.setting import Setting

QUICK = {"rounds": 1, "steps": 2, "pairs": 2}
BATCH, LENGTH, SEED, RANK = 8, 256, 17, 16
DATA = "icd10:train"
MADE = "made"  # on the spot, for machines that fetch nothing
LAST = 10  # steps that the loss is the mean of, as in the note beside our adapters


def measure(setting: Setting, *, rounds: int = 4, steps: int = 18, data: str = DATA, pairs: int = 15) -> dict[str, Any]:
    """Train `rounds` times each, so many steps of 8 rows; then `pairs` steps with sentinels and as many without."""
    sides = {"ours": train_with_harness, "theirs": train_with_trl}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            found[name].append(call(side, setting, steps=steps, data=data))
    cost = call(time_sentinels, setting, pairs=pairs, data=data)
    return {"rounds": rounds, "steps": steps, "data": data, **found, "sentinels": cost}


def make_training_rows(count: int, data: str) -> list[dict[str, Any]]:
    """Return the first rows of a suite's own data, or made ones."""
    from harness.data.rows import read_rows, to_training_rows

    if data == MADE:
        return [{"prompt": f"{i} times {i} and {'so ' * (i % 60)}is", "completion": f" {i * i}"} for i in range(count)]
    sys.path.insert(0, str(ROOT / "suites"))
    from harnessfile import harness_read_samples

    found = read_rows(data, ROOT / "suites", harness_read_samples, "bench")
    return to_training_rows(found[:count], {}, "bench")


def train_with_trl(setting: Setting, steps: int, data: str) -> dict[str, Any]:
    """Train as the libraries' own documentation would have one write it."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    path, dtype = setting.folder(), getattr(torch, setting.dtype)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
    )
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, quantization_config=quantization)
    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out,
            max_steps=steps,
            learning_rate=2e-4,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            per_device_train_batch_size=BATCH,
            max_length=LENGTH,
            bf16=setting.dtype == "bfloat16",
            use_cpu=setting.device == "cpu",
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            seed=SEED,
        )
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(make_training_rows(steps * BATCH, data)),
            processing_class=AutoTokenizer.from_pretrained(path),
            peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules="all-linear"),
        )
        tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset)
        seconds = trainer.train().metrics["train_runtime"]
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-LAST:]
    return {"rate": tokens / seconds, "loss": sum(losses) / len(losses)}


def train_with_harness(setting: Setting, steps: int, data: str) -> dict[str, Any]:
    """Train with the harness's trainer."""
    recipe = {"max_steps": steps, "per_device_train_batch_size": BATCH, "max_length": LENGTH}
    facts = train(setting, make_training_rows(steps * BATCH, data), gradient_accumulation_steps=1, **recipe)
    return {"rate": facts["tokens_per_second"], "loss": facts["train_loss"]}


def time_sentinels(setting: Setting, pairs: int, data: str) -> dict[str, Any]:
    """Train on one row again and again, every second step with the sentinels asleep; return the seconds of each."""
    from harness_sft import trainer

    marks: list[float] = []
    look, add = trainer.ProgressCallback._look, trainer.Spikes.add

    def asleep() -> bool:
        return len(marks) % 2 == 0  # the steps with odd numbers; the first of them is not counted

    trainer.ProgressCallback._look = lambda self, state: None if asleep() else look(self, state)  # type: ignore[method-assign]
    trainer.Spikes.add = lambda self, loss: None if asleep() else add(self, loss)  # type: ignore[method-assign]
    longest = max(make_training_rows(pairs, data), key=lambda row: len(str(row)))
    steps = 2 * pairs + 1

    def mark(progress: Any) -> None:
        if progress.done:
            marks.append(time.perf_counter())

    recipe = {"max_steps": steps, "per_device_train_batch_size": BATCH, "max_length": LENGTH}
    train(setting, [longest] * (steps * BATCH), mark, gradient_accumulation_steps=1, **recipe)
    seconds = [b - a for a, b in pairwise(marks)]
    return {"awake": seconds[::2], "asleep": seconds[1::2]}


def train(
    setting: Setting, data: list[dict[str, Any]], progress: Callable[[Any], None] = lambda _: None, **recipe: Any
) -> dict[str, Any]:
    """Train a QLoRA with the harness's trainer and return the facts that it writes beside the adapter."""
    from harness.records.models import ModelRef
    from harness_lora import qlora
    from harness_sft import sft

    dtype: Any = setting.dtype
    adapter: Any = qlora(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, compute_dtype=dtype)
    ref = ModelRef("base", setting.folder(), options={"dtype": setting.dtype, "device": setting.device})
    with tempfile.TemporaryDirectory() as folder:
        out = sft(ref, adapter, data, Path(folder) / "adapter", progress=progress, seed=SEED, **recipe)
        facts: dict[str, Any] = json.loads((out / "harness-adapter.json").read_text("utf-8"))["facts"]
    return facts


def section(found: dict[str, Any]) -> Section:
    """Write the part's table."""
    lines = []
    for name, side in (("ours", "we"), ("theirs", "plain TRL")):
        for number, each in enumerate(found[name], 1):
            memory, loss = f"{each['peak'] / 1e9:.2f} GB", f"{each['loss']:.4f}"
            lines.append([side, number, f"{each['rate']:.1f}", loss, memory])
    rate, peak = (
        {name: median(each[what] for each in found[name]) for name in ("ours", "theirs")} for what in ("rate", "peak")
    )
    pairs = found["sentinels"]
    cost = median(a / b for a, b in zip(pairs["awake"], pairs["asleep"], strict=True)) - 1
    ratio, memory = rate["ours"] / rate["theirs"], peak["ours"] / peak["theirs"]
    text = [
        f"QLoRA (NF4, rank {RANK}, all linear layers) on rows of `{found['data']}`, {found['steps']} steps of {BATCH} "
        "rows, each training in a process of its own.",
        format_table(["", "round", "tokens a second", "mean loss", "peak memory"], lines),
        f"The sentinels cost {cost:.1%} of a step: the median over {len(pairs['awake'])} pairs of steps on the same "
        "row, one with them and one without, in one training.",
    ]
    bars = [
        Bar("training: tokens a second", f"{ratio:.2f}× plain TRL's", "≥ 0.95×", ratio >= 0.95),
        Bar("training: peak memory", f"{memory:.2f} of plain TRL's", "≤ 1.00", memory <= 1),
        Bar("training: cost of the sentinels", f"{cost:.1%} of a step", "≤ 2 %", cost <= 0.02),
    ]
    return Section("Training", text, bars)
