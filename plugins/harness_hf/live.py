"""A model in training as a temporary Subject. It is given back as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from harness import ModelRef, UsageError
from harness_hf.classes import load_config
from harness_hf.models import assert_not_repacked, keep_4bit_layout
from harness_hf.subject import HFSubject
from harness_hf.tokens import ModelTokenizer

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
PROBE = 'Straße 42, naïve café:\n\tdef f(x):  return x**2 != 3.14  # 東京 🚀 "ok"'


@contextmanager
def open_live_model(
    model: Any, ref: ModelRef, *, base: bool = False, processing_class: Any = None
) -> Iterator[HFSubject]:
    """Yield a Subject that answers with a model in memory.

    A PEFT model answers with its adapter, or without as its `base`. `ref.path` names the folder of the base, which has
    the tokenizer that is used. The model is in eval mode meanwhile; training mode of each module, `requires_grad`,
    `use_cache` and all random states are restored. Raises UsageError if the model is not of the base's architecture,
    encodes text differently with its `processing_class`, is sharded, or has an adapter that only adds prompt tokens.
    """
    model = _unwrap_model(model)
    adapted = hasattr(model, "peft_config")
    causal = model.get_base_model() if adapted else model
    if why := _find_base_mismatch_error(model, causal, ref.path, processing_class):
        raise UsageError(f"the model in training {why}")
    assert_not_repacked(causal)
    keep_4bit_layout(causal)
    options = {name: ref.options[name] for name in ("batch_tokens", "reference") if name in ref.options}
    with _restore_training_state_on_exit(model), model.disable_adapter() if base and adapted else nullcontext():
        model.eval()
        subject = HFSubject(ref, ref.path, causal, ModelTokenizer.of(ref.path), nullcontext, **options)
        try:
            yield subject
        finally:
            subject.scorer.close()


def _unwrap_model(model: Any) -> Any:
    """Return the model inside DDP, DataParallel and torch.compile."""
    parallel = (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    while isinstance(model, parallel) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, parallel) else model._orig_mod
    return model


def _find_base_mismatch_error(model: Any, causal: Any, path: str, processing_class: Any) -> str:
    """Return the reason a model cannot be evaluated as its base's. Empty if it can."""
    sharded = "FullyShardedDataParallel" in {type(module).__name__ for module in model.modules()}
    if sharded or any(hasattr(p, "device_mesh") or hasattr(p, "ds_id") for p in model.parameters()):
        return "is sharded between processes (FSDP, ZeRO-3), and no process can evaluate it alone; use DDP"
    if any(getattr(one, "is_prompt_learning", False) for one in getattr(model, "peft_config", {}).values()):
        return "has an adapter that only adds prompt tokens; use LoRA"
    ours, theirs = causal.config.get_text_config(), load_config(path).get_text_config()
    for name in ("model_type", *SIZES):
        if (one := getattr(ours, name, None)) != (other := getattr(theirs, name, None)):
            return f'has {name} {one}, the suite\'s base "{path}" has {other}; name the base in [model] path'
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    own = ModelTokenizer.of(path)
    if tokenizer is not None and ModelTokenizer(tokenizer).encode_prompts([PROBE]) != own.encode_prompts([PROBE]):
        return (
            f'has another tokenizer than the suite\'s base "{path}"; train with that, or name the base in [model] path'
        )
    return ""


@contextmanager
def _restore_training_state_on_exit(model: Any) -> Iterator[None]:
    """Restore the training state that evaluation changes.

    That is training mode, `requires_grad`, `use_cache` and random states.
    """
    modes = [(module, module.training) for module in model.modules()]
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    configs = [(config, config.use_cache) for config in _list_configs_with_use_cache(model)]
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, wanted in trained:
            parameter.requires_grad_(wanted)
        for config, cached in configs:
            config.use_cache = cached
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)


def _list_configs_with_use_cache(model: Any) -> list[Any]:
    """Return a model's configurations that have `use_cache`, each once."""
    found = (getattr(module, name, None) for module in model.modules() for name in ("config", "generation_config"))
    return list({id(one): one for one in found if hasattr(one, "use_cache")}.values())
