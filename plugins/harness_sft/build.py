"""The rows as they will be trained on: TRL's own trainer, built on a skeleton of the base and never run."""
# ruff: noqa: TID253 (imported inside functions, only where rows are prepared)

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError

from harness import Built, UsageError
from harness_hf import config_of_class, find_class, format_one_line, load_config, load_tokenizer, quiet_loading
from harness_lora import check_base
from harness_sft.job import TrainingJob, check_method
from harness_sft.likelihood import choose_loss
from harness_sft.rows import SPLITTING_STRATEGIES, as_dataset
from harness_sft.train import quiet_libraries

SKELETON_LAYERS = 2  # of the skeleton: enough for what is passed on from layer to layer


def prepare_training(job: TrainingJob) -> Built:
    """Prepare rows as a training would. Raises UsageError for rows that it would refuse."""
    check_method(job.adapter)
    job.method.fits(job.adapter)
    if job.adapter is None:
        check_base(Path(job.ref.path))  # of which the trained model is written
    job = replace(job, recipe={**job.recipe, "report_to": None, "bf16": False, "fp16": False})
    with tempfile.TemporaryDirectory() as folder, quiet_loading(), quiet_libraries():
        config = job.config(Path(folder), "cpu")
        kept, _ = job.split()
        tokenizer = load_tokenizer(job.ref.path)
        # What a training draws later must not depend on whether the checks ran.
        with torch.random.fork_rng(devices=[]):
            model = build_small_model(job.ref.path)
            given = {"args": config, "train_dataset": as_dataset(kept), "processing_class": tokenizer}
            given |= {"ref_model": build_small_model(job.ref.path)} if job.method.reference else {}
            try:
                preview = job.method.preview()(model, **given)
            except (ValueError, TypeError, KeyError, RuntimeError, TemplateError) as error:
                raise UsageError(f"[train] TRL rejects the rows: {format_one_line(error)}") from error

            def batches(count: int) -> Iterator[Mapping[str, Any]]:
                """Yield batches spread evenly over the prepared data, in order."""
                data, size = preview.train_dataset, config.per_device_train_batch_size
                starts = range(0, len(data), size)
                for start in starts[:: max(1, len(starts) // count)][:count]:
                    yield preview.batch([data[i] for i in range(start, min(start + size, len(data)))])

            slow = "".join(choose_loss(model, batch) for batch in batches(1))
    packing, left = getattr(config, "packing", False), len(preview.train_dataset) * len(preview.answers)
    end = getattr(config, "truncation_mode", "keep_start") == "keep_end"
    about = (packing, batches, model, config, tokenizer.chat_template, end, slow)
    cut = None if packing and config.packing_strategy in SPLITTING_STRATEGIES else config.max_length
    return Built(tokenizer, preview.examples(), left, cut, *about)


def build_small_model(path: str) -> Any:
    """Return a small model of the base's architecture: its vocabulary and classes, few layers, random weights."""
    made = find_class(path, config := load_config(path))
    text = (config := config_of_class(made, config)).get_text_config()
    if (text.num_hidden_layers or 0) > SKELETON_LAYERS:
        text.num_hidden_layers = SKELETON_LAYERS
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:SKELETON_LAYERS]
    torch.manual_seed(0)  # what is told of it is the same every time
    return made._from_config(config, dtype=torch.float32).eval()
