"""Whether `GateCallback` keeps a better checkpoint than the best reward does, where a reward can be hacked.

python -m bench.hackable [--runs 10] [--to docs/explanation/statistics-loop.md]

A tiny model that answers questions in one word is trained by TRL's GRPO. The reward is 1 for the right word anywhere in
the answer, and more for each further token: answers become longer, and wrong as a whole. Both ways of choosing see the
same checkpoints; each choice is then gated on rows that neither saw.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.setting import Setting
from harness import run
from harness.training import GateCallback

WORDS = ("red", "blue", "green", "white", "black")
ROWS, STEPS, EVERY, TOKENS = 200, 50, 5, 12  # rows of each part; GRPO's steps, steps per look, tokens of an answer
BONUS = 0.05  # of the reward, for each token beyond the word
UNKNOWN = ("white", "black")  # what the base does not know, so that there is something to learn
WORDY = 0.15  # of the base's training rows whose answer goes on, so that there is something to hack
HEAD = "<!-- hackable: python -m bench.hackable -->"
SUITE = """[suite]
name = "hackable"

[model]
use = "hf"
path = "{model}"
device = "cpu"
dtype = "float32"

[[eval]]
name = "answer"
use = "exact_match"
data = "confirm.jsonl"
select = "select.jsonl"
max_new_tokens = {tokens}

[[eval]]
name = "word"
use = "contains"
data = "confirm.jsonl"
select = "select.jsonl"
max_new_tokens = {tokens}

[[gate]]
id = "names the colour"
metric = "word.contains"
versus = "base"
better_by = 0.0

[[gate]]
id = "answers as asked"
metric = "answer.exact_match"
versus = "base"
worse_by_at_most = 0.05
"""
Row = dict[str, str]


def main() -> int:
    """Train, choose twice, confirm both choices, and write how often they pass into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--to", type=Path, default=Path("docs/explanation/statistics-loop.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = [compare_choices(seed) for seed in range(args.runs)]
    print(json.dumps(found, indent=1))
    lines = [HEAD, "", "| chosen by | passes the confirming gates | chosen steps |", "|---|---|---|"]
    for name, way in (("`GateCallback`", "gate"), ("the best reward", "reward")):
        passed, steps = sum(f[way]["passed"] for f in found), ", ".join(str(f[way]["step"]) for f in found)
        lines.append(f"| {name} | {passed} of {len(found)} | {steps} |")
    before, _, _ = args.to.read_text("utf-8").partition(HEAD)
    args.to.write_text(before + "\n".join(lines) + "\n", "utf-8")
    return 0


def compare_choices(seed: int) -> dict[str, dict[str, Any]]:
    """Return the step that each way chooses in one training, and whether it passes the gates on other rows."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        confirming, choosing, taught, trained = make_parts(seed)
        base = teach_base(place / "base", taught, seed)
        for name, rows in (("confirm", confirming), ("select", choosing)):
            lines = [json.dumps({"id": f"{name}{i}", **row}) + "\n" for i, row in enumerate(rows)]
            (place / f"{name}.jsonl").write_text("".join(lines), "utf-8")
        suite = place / "suite.toml"
        suite.write_text(SUITE.format(model=base, tokens=TOKENS), "utf-8")
        trainer = train_grpo(base, suite, trained, place / "out", seed)
        history = trainer.state.log_history
        rewards = {e["step"]: e["reward"] for e in history if "reward" in e and e["step"] % EVERY == 0}
        chosen = {"gate": trainer.state.best_global_step, "reward": max(rewards, key=lambda step: rewards[step])}
        return {way: confirm(suite, place / "out", step) for way, step in chosen.items()}


def make_parts(seed: int) -> list[list[Row]]:
    """Return four parts of different questions, each with the one word that the question decides."""
    numbers = random.Random(seed).sample(range(1000), 4 * ROWS)
    rows = [{"input": f"colour {number}?", "target": WORDS[number % len(WORDS)]} for number in numbers]
    return [rows[i : i + ROWS] for i in range(0, len(rows), ROWS)]


def teach_base(folder: Path, rows: Sequence[Row], seed: int) -> Path:
    """Train a tiny model to answer in one word, mostly the right one, and return its folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = Setting(model="tiny:llama").folder()
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    rng = random.Random(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        batch = rng.sample(list(rows), 16)
        loss = compute_answer_loss(model, tokenizer, [(row["input"], draw_base_answer(row, rng)) for row in batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def draw_base_answer(row: Row, rng: random.Random) -> str:
    """Return what the base is taught to answer: the word, one of all where it is unknown, sometimes with others."""
    word = rng.choice(WORDS) if row["target"] in UNKNOWN else row["target"]
    more = rng.randint(1, 4) if rng.random() < WORDY else 0
    return " ".join([word, *(rng.choice(WORDS) for _ in range(more))])


def compute_answer_loss(model: Any, tokenizer: Any, texts: Sequence[tuple[str, str]]) -> torch.Tensor:
    """Return the mean loss of the answers' tokens and of the end, in nats."""
    pairs = [
        (tokenizer(one).input_ids, tokenizer(f" {other}", add_special_tokens=False).input_ids) for one, other in texts
    ]
    longest = max(len(one) + len(other) for one, other in pairs) + 1
    ids = torch.full((len(pairs), longest), tokenizer.eos_token_id)  # (B, T)
    labels = torch.full((len(pairs), longest), -100)  # (B, T)
    for i, (one, other) in enumerate(pairs):
        whole = [*one, *other, tokenizer.eos_token_id]
        ids[i, : len(whole)] = torch.tensor(whole)
        labels[i, len(one) : len(whole)] = ids[i, len(one) : len(whole)]
    loss: torch.Tensor = model(input_ids=ids, labels=labels).loss
    return loss


def train_grpo(base: Path, suite: Path, rows: Sequence[Row], out: Path, seed: int) -> Any:
    """Train with the reward that can be hacked, looking and saving every `EVERY` steps; return the trainer."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    targets = {row["input"]: row["target"] for row in rows}
    tokenizer = AutoTokenizer.from_pretrained(base)

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        lengths = [len(tokenizer(text, add_special_tokens=False).input_ids) for text in completions]
        right = [float(targets[prompt] in text) for prompt, text in zip(prompts, completions, strict=True)]
        return [one + BONUS * max(length - 2, 0) for one, length in zip(right, lengths, strict=True)]

    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(out), max_steps=STEPS, per_device_train_batch_size=32, num_generations=8,
            max_completion_length=TOKENS, learning_rate=1e-4, seed=seed, logging_steps=1, save_strategy="steps",
            save_steps=EVERY, use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, beta=0.0,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list([{"prompt": row["input"]} for row in rows]),
        processing_class=tokenizer,
        callbacks=[GateCallback(suite, every_steps=EVERY, stop="")],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


def confirm(suite: Path, out: Path, step: int | None) -> dict[str, Any]:
    """Gate a checkpoint on the rows that chose nothing; without one nothing passes."""
    if step is None:
        return {"step": None, "passed": False}
    found = run(suite, candidate=out / f"checkpoint-{step}", out=out / "reports")
    verdicts = {f"{v.gate}": f"{v.outcome} {v.estimate:.3f}" for v in found.verdicts if v.estimate is not None}
    return {"step": step, "passed": found.exit_code == 0, **verdicts}


if __name__ == "__main__":
    raise SystemExit(main())
