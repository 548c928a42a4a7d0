"""[[export]]: merged models ("safetensors") and adapters ("adapter"), copied byte by byte from what was gated."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from harness import ModelRef, UsageError, hookimpl


@hookimpl
def harness_exporters() -> dict[str, Callable[..., Path]]:
    return {"safetensors": safetensors, "adapter": adapter}


def safetensors(ref: ModelRef, to: Path) -> Path:
    """Copy a merged model: weights, configuration, tokenizer, chat template, generation configuration."""
    if ref.adapter:
        raise UsageError(f'export "safetensors" writes merged models, and {ref.name} is an adapter; use = "adapter"')
    return _copy(Path(ref.path), to)


def adapter(ref: ModelRef, to: Path) -> Path:
    """Copy an adapter in PEFT's format; it needs the base it was trained on."""
    if ref.adapter is None:
        raise UsageError(f'export "adapter" writes adapters, and {ref.name} is a merged model; use = "safetensors"')
    return _copy(ref.adapter, to)


def _copy(folder: Path, to: Path) -> Path:
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("harness-"):  # our own notes on how it was made
            shutil.copyfile(path, to / path.name)
    return to
