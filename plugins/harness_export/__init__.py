"""[[export]]: merged models ("safetensors") and adapters ("adapter") as they were gated; copies in fewer bits ("nf4",
"int8", "fp8") and GGUF files ("gguf"), which are candidates of their own.

The first two are copied byte by byte. Of an adapter one thing is not copied: where its base and the base's class lay,
on this machine or on the Hub; who loads it says. A GGUF file holds other weights, so it is a candidate of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from harness import Exporter, ModelRef, UsageError, copy_files, exporter, hookimpl
from harness.internals import find_gguf, missing_modules_message

NO_BASE = {"base_model_name_or_path": None, "revision": None, "auto_mapping": None}
LOADING_OPTIONS = ("dtype", "device", "device_map", "threads", "cpu_kernels")  # what of [model] says how to load it
Quantization = Literal["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0"]


@hookimpl
def harness_exporters() -> dict[str, Exporter]:
    from harness_export.fp8 import fp8
    from harness_export.quantised import int8, nf4

    return {one.__name__: one for one in (safetensors, adapter, nf4, int8, fp8, gguf)}


def safetensors(ref: ModelRef, to: Path) -> Path:
    """Copy a merged model: weights, configuration, tokenizer, chat template, generation configuration."""
    if ref.adapter:
        raise UsageError(f'export "safetensors" writes merged models, but {ref.name} is an adapter; use = "adapter"')
    copy_files(ref, to)
    return to


def adapter(ref: ModelRef, to: Path, *, facts: dict[str, Any] | None = None) -> Path:
    """Copy an adapter in PEFT's format, and test its hot swap.

    It needs the base it was trained on. `facts` gets the milliseconds that the swap took. Raises CheckFailedError if it
    answers differently from the gated one.
    """
    from harness_export.hot_swap import check_hot_swap

    if ref.adapter is None:
        raise UsageError(f'export "adapter" writes adapters, but {ref.name} is a merged model; use = "safetensors"')
    copy_files(ref, to)
    path = to / "adapter_config.json"
    if path.is_file():
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **NO_BASE}, indent=2) + "\n", "utf-8")
    held = dict(ref.quantization) if ref.quantization else None
    placed = {name: ref.options[name] for name in LOADING_OPTIONS if name in ref.options}
    swapped = check_hot_swap(base=ref.path, gated=str(ref.adapter), exported=str(to), quantization=held, placed=placed)
    if facts is not None:
        facts.update(swapped)
    return to


def _require_gguf_exportable(model: Path, options: Mapping[str, Any]) -> None:
    """Raise UsageError if a model cannot be exported as GGUF.

    Also if `path` is not a GGUF file of such a model.
    """
    from harness_export.k_quants import K_QUANTS
    from harness_export.llama import read_llama_config

    if (model / "config.json").is_file():
        read_llama_config(model)
    if (quantization := options.get("quantization")) in K_QUANTS and find_spec("llama_cpp") is None:
        raise UsageError(f"{quantization} {missing_modules_message('llama_cpp')}")
    if made := options.get("path"):
        from harness_export.writing import check_gguf_types

        if quantization:
            raise UsageError('"path" names a GGUF file that is quantised already; remove "quantization"')
        check_gguf_types(_require_gguf_file(Path(made)))


@exporter(converts=True, check=_require_gguf_exportable)
def gguf(ref: ModelRef, to: Path, *, quantization: Quantization | None = None, path: str | None = None) -> Path:
    """Write model.gguf for llama.cpp, from a merged Llama.

    Or take the file at `path` for it. The file is read back and compared. F16 unless `quantization` says otherwise.
    Vectors stay in F32; with 4 or 5 bits, input and output embeddings are Q8_0, and in K-quants as llama.cpp makes
    them. Raises UsageError for a model that cannot be written so, CheckFailedError if the file that is read back is
    another model.
    """
    from harness_export.writing import write_gguf

    if ref.adapter:
        raise UsageError(f'export "gguf" writes merged models, but {ref.name} is an adapter; set from = "merged"')
    return write_gguf(Path(ref.path), to, quantization or "F16", _require_gguf_file(Path(path)) if path else None)


def _require_gguf_file(path: Path) -> Path:
    """Return the GGUF file at a path, or in its folder.

    Raises UsageError if there is none, or more than one.
    """
    try:
        if file := find_gguf(path) if path.is_dir() else path if path.is_file() else None:
            return file
    except ValueError as error:
        raise UsageError(f"path: {error}") from None
    raise UsageError(f'path is "{path}", but there is no GGUF file')
