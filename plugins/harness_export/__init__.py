"""[[export]]: merged models ("safetensors") and adapters ("adapter"), copied byte by byte from what was gated, and
copies in fewer bits ("nf4", "int8"), which are candidates of their own.

Of an adapter one thing is not copied: where its base lay on this machine, or on the Hub; who loads it says.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from harness import ModelRef, UsageError, hookimpl

NOWHERE = {"base_model_name_or_path": None, "revision": None}


@hookimpl
def harness_exporters() -> dict[str, Callable[..., Path]]:
    from harness_export.quantised import int8, nf4

    return {"safetensors": safetensors, "adapter": adapter, "nf4": nf4, "int8": int8}


def safetensors(ref: ModelRef, to: Path) -> Path:
    """Copy a merged model: weights, configuration, tokenizer, chat template, generation configuration."""
    if ref.adapter:
        raise UsageError(f'export "safetensors" writes merged models, and {ref.name} is an adapter; use = "adapter"')
    return _copy(Path(ref.path), to)


def adapter(ref: ModelRef, to: Path) -> Path:
    """Copy an adapter in PEFT's format; it needs the base it was trained on."""
    if ref.adapter is None:
        raise UsageError(f'export "adapter" writes adapters, and {ref.name} is a merged model; use = "safetensors"')
    _copy(ref.adapter, to)
    path = to / "adapter_config.json"
    if path.is_file():
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **NOWHERE}, indent=2) + "\n", "utf-8")
    return to


def _copy(folder: Path, to: Path) -> Path:
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("harness-"):  # our own notes on how it was made
            shutil.copyfile(path, to / path.name)
    return to
