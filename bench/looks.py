"""What the looks of `GateCallback` cost a training, beside `harness run` on the same rows: seconds and memory."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.child import call
from bench.page import Bar, Section, format_gigabytes, format_table
from bench.setting import Setting
from bench.training import BATCH, DATA, LENGTH, SEED, make_training_rows

QUICK = {"rounds": 1, "steps": 2, "rows_per_look": 8}
EVERY_LOOK, MEMORY = 1.3, 1.1  # times an evaluation by `harness run`, and times the training's peak

SUITE = """[suite]
name = "looks"

[model]
use = "hf"
path = "{model}"
dtype = "{dtype}"
device = "{device}"

[[eval]]
name = "answer"
use = "exact_match"
data = "rows.jsonl"
select = "select.jsonl"
max_new_tokens = 16

[[gate]]
id = "keeps"
metric = "answer.exact_match"
versus = "base"
worse_by_at_most = 0.05
"""


def measure(
    setting: Setting, *, rounds: int = 3, steps: int = 6, rows_per_look: int = 64, data: str = DATA
) -> dict[str, Any]:
    """Train so many steps with two looks and without, and evaluate the base on the rows of a look, in turn."""
    given = {"steps": steps, "count": rows_per_look, "data": data}
    found: dict[str, list[dict[str, Any]]] = {"without": [], "with": [], "run": []}
    for _ in range(rounds):
        found["without"].append(call(train, setting, looks=False, **given))
        found["with"].append(call(train, setting, looks=True, **given))
        found["run"].append(call(evaluate, setting, count=rows_per_look, data=data))
    return {**given, "rounds": rounds, **found}


def train(setting: Setting, steps: int, count: int, data: str, *, looks: bool) -> dict[str, Any]:
    """Train a LoRA with TRL, looking in the middle and at the end; return the seconds of each look."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from harness.training import GateCallback

    seconds: list[float] = []

    class TimedCallback(GateCallback):
        def _judge(self, *args: Any) -> Any:
            begun = time.perf_counter()
            decision = super()._judge(*args)
            seconds.append(time.perf_counter() - begun)
            return decision

    with tempfile.TemporaryDirectory() as folder:
        suite = write_suite(Path(folder), setting, count, data)
        model = AutoModelForCausalLM.from_pretrained(setting.folder(), dtype=getattr(torch, setting.dtype))
        config = SFTConfig(
            output_dir=f"{folder}/out",
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            max_length=LENGTH,
            use_cpu=not setting.on_gpu,
            bf16=setting.dtype == "bfloat16",
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            seed=SEED,
        )
        trainer = SFTTrainer(
            model=model.to(setting.device),
            args=config,
            train_dataset=Dataset.from_list(make_training_rows(BATCH * steps, data)),
            processing_class=AutoTokenizer.from_pretrained(setting.folder()),
            peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[TimedCallback(suite, every_steps=max(steps // 2, 1), keep="", stop="")] if looks else [],
        )
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"looks": seconds, "losses": losses}


def evaluate(setting: Setting, count: int, data: str) -> dict[str, Any]:
    """Evaluate the base on the rows of a look by `harness run`; return the seconds that its item took."""
    from harness.cli.main import main as command

    with tempfile.TemporaryDirectory() as folder:
        suite = write_suite(Path(folder), setting, count, data)
        text = suite.read_text("utf-8").replace('data = "rows.jsonl"\nselect', "data").partition("[[gate]]")[0]
        suite.write_text(text, "utf-8")
        code = command(["run", str(suite), "--no-cache", "--out", f"{folder}/reports"])
        [report] = Path(folder).glob("reports/*/report.json")
        [item] = json.loads(report.read_text("utf-8"))["results"]
        return {"seconds": item["seconds"], "code": code}


def write_suite(folder: Path, setting: Setting, count: int, data: str) -> Path:
    """Write a suite that generates answers to some rows, and return its path."""
    pairs = [
        {"id": str(i), "input": r["prompt"], "target": r["completion"]}
        for i, r in enumerate(make_training_rows(2 * count, data))
    ]
    for name, some in (("select", pairs[:count]), ("rows", pairs[count:])):
        text = "".join(json.dumps(row) + "\n" for row in some)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    suite = folder / "suite.toml"
    suite.write_text(SUITE.format(model=setting.folder(), dtype=setting.dtype, device=setting.device), "utf-8")
    return suite


def section(found: dict[str, Any]) -> Section:
    """Write the part's table and its bars."""
    look = median(min(seconds) for seconds in zip(*(each["looks"] for each in found["with"]), strict=True))
    run = min(each["seconds"] for each in found["run"])
    peaks = {name: max(each["peak"] for each in found[name]) for name in ("without", "with")}
    same = all(a["losses"] == b["losses"] for a, b in zip(found["without"], found["with"], strict=True))
    text = [
        f"A LoRA trained by TRL for {found['steps']} steps of {BATCH} rows, with and without "
        f"[`GateCallback`](../how-to/gate-while-training.md), and `harness run` on the base: {found['count']} "
        "answers of at most 16 tokens each. The quickest of the rounds; of the two looks the mean.",
        format_table(
            ["", "seconds for the rows", "peak memory"],
            [
                ["`harness run`", f"{run:.1f}", ""],
                ["a look", f"{look:.1f}", format_gigabytes(peaks["with"])],
                ["training without looks", "", format_gigabytes(peaks["without"])],
            ],
        ),
    ]
    memory = peaks["with"] / peaks["without"]
    bars = [
        Bar("looks: time", f"{look / run:.2f} × `harness run`", f"≤ {EVERY_LOOK}", look / run <= EVERY_LOOK),
        Bar("looks: memory", f"{memory:.2f} × the training", f"≤ {MEMORY}", memory <= MEMORY),
        Bar("looks: losses", "equal" if same else "differ", "equal", same, result=True),
    ]
    return Section("Looks at a training", text, bars)
