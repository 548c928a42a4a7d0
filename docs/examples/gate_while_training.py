"""Train a LoRA with TRL; a suite looks at the model every 20 steps: python gate_while_training.py MODEL SUITE ROWS."""

import sys

import torch
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from harness.training import GateCallback

model, suite, rows = sys.argv[1:]
recipe = {"max_steps": 60, "learning_rate": 1e-3, "logging_steps": 10, "save_strategy": "no"}
trainer = SFTTrainer(
    model=model,
    args=SFTConfig(output_dir="out", use_cpu=not torch.cuda.is_available(), **recipe),
    train_dataset=load_dataset("json", data_files=rows, split="train"),
    peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"),
    callbacks=[GateCallback(suite, every_steps=20)],
)
trainer.train()
