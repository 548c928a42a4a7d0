"""Judged answers as they will be trained on: TRL's own trainer, built on a skeleton of the base and never run.

Imports torch and TRL: import this module inside functions.
"""
# ruff: noqa: TID253 (imported only where rows are prepared)

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError
from trl import DPOTrainer, KTOTrainer

from harness import Built, Example, UsageError
from harness_hf import load_tokenizer, one_line, quiet
from harness_lora import check_base
from harness_preference.methods import METHODS
from harness_sft import as_dataset, build_config, quiet_libraries, settle, skeleton, split_by

if TYPE_CHECKING:
    from harness import Adapter, ModelRef

IGNORED = -100
ANSWERS = {"dpo": ("chosen_ids", "rejected_ids"), "kto": ("completion_ids",)}  # the first is what is to be learnt


def build(
    name: str,
    ref: ModelRef,
    adapter: Adapter | None,
    rows: Sequence[Mapping[str, Any]],
    recipe: Mapping[str, Any],
    *,
    seed: int,
) -> Built:
    """Prepare rows as a training would, each answer an example; raises UsageError on what it would refuse."""
    method = METHODS[name]
    method.fits(adapter)
    if adapter is None:
        check_base(Path(ref.path))  # of which the trained model is written
    recipe = {**recipe, "report_to": None, "bf16": False, "fp16": False}
    with tempfile.TemporaryDirectory() as folder, quiet(), quiet_libraries():
        about: dict[str, Any] = {"name": method.config, "refused": method.refused}
        config = build_config(recipe, Path(folder), seed=seed, device="cpu", **about)
        kept, _ = split_by(recipe, rows, seed, method.select)
        tokenizer = load_tokenizer(ref.path)
        # What a training draws later must not depend on whether the checks ran.
        with torch.random.fork_rng(devices=[]):
            model = skeleton(ref.path)
            given = {"args": config, "train_dataset": as_dataset(kept), "processing_class": tokenizer}
            try:
                class_ = {"dpo": DPOTrainer, "kto": KTOTrainer}[name]
                trainer = class_(model, ref_model=skeleton(ref.path), **given)
                whole = trainer._prepare_dataset(given["train_dataset"], tokenizer, _uncut(config), "whole")
            except (ValueError, TypeError, KeyError, RuntimeError, TemplateError) as error:
                raise UsageError(f"[train] TRL refuses the rows: {one_line(error)}") from error
            batches = partial(_batches, trainer)
            slow = "".join(settle(model, batch) for batch in batches(1))
    examples = [
        Example(row["row"], row["prompt_ids"] + row[column], [IGNORED] * len(row["prompt_ids"]) + row[column])
        for column in ANSWERS[name]
        for row in whole
    ]
    end = getattr(config, "truncation_mode", "keep_start") == "keep_end"
    left, cut = len(trainer.train_dataset) * len(ANSWERS[name]), config.max_length
    template = tokenizer.chat_template
    return Built(tokenizer, examples, left, cut, False, batches, model, config, template, end, slow)


def _uncut(config: Any) -> Any:
    import copy

    found = copy.copy(config)
    found.max_length = None
    return found


def _batches(trainer: Any, count: int) -> Iterator[Mapping[str, Any]]:
    """Yield batches that are spread over the data, their labels written as other trainers have them."""
    data, size = trainer.train_dataset, trainer.args.per_device_train_batch_size
    starts = range(0, len(data), size)
    for start in starts[:: max(1, len(starts) // count)][:count]:
        batch = trainer.data_collator([data[i] for i in range(start, min(start + size, len(data)))])
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
        yield {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
