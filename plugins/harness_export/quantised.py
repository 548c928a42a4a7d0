"""Copies of a merged model in fewer bits, by bitsandbytes: NF4 and int8, as transformers writes and loads them.

Quantised on the CPU, tensor by tensor as they are read, and saved before any forward pass: on a CPU with AVX512-BF16
that would rewrite 4-bit weights in place. What was written is read back and compared in a process of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness import CONVERSION_NOTES, ModelRef, Progress, UsageError, exporter, formats, isolated

INSTALL = "pip install 'finetune-harness[hf]'"
SHARD = "5GB"
WRITTEN = ("config.json", "generation_config.json")  # by transformers, with what it must know of the quantisation
STEPS = 2  # quantise and write; read back


def check(model: Path, options: Mapping[str, Any]) -> None:
    """Raise UsageError where bitsandbytes is missing, or the model is quantised already."""
    if find_spec("bitsandbytes") is None:
        raise UsageError(f"bitsandbytes is not installed; {INSTALL}")
    path = model / "config.json"
    if path.is_file() and json.loads(path.read_text("utf-8")).get("quantization_config"):
        raise UsageError("the model is quantised already; bits that are gone do not come back")


@exporter(converts=True, check=check)
def nf4(ref: ModelRef, to: Path, *, progress: Callable[[Progress], None], double_quant: bool = True) -> Path:
    """Quantise the linear layers of a merged model to 4-bit NormalFloat in blocks of 64; the rest stays as it is.

    `double_quant` keeps the blocks' scales in 8 bits. Needs bitsandbytes, here and where it is loaded.
    """
    settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": double_quant}
    return _quantise("nf4", ref, to, settings, progress)


@exporter(converts=True, check=check)
def int8(ref: ModelRef, to: Path, *, progress: Callable[[Progress], None], threshold: float = 6.0) -> Path:
    """Quantise the linear layers of a merged model to 8 bits, row by row (LLM.int8); the rest stays as it is.

    Columns of the input with a value beyond `threshold` are computed in 16 bits; 0 computes none so. Needs
    bitsandbytes, here and where it is loaded.
    """
    return _quantise("int8", ref, to, {"load_in_8bit": True, "llm_int8_threshold": threshold}, progress)


def _quantise(
    kind: str, ref: ModelRef, to: Path, settings: Mapping[str, Any], progress: Callable[[Progress], None]
) -> Path:
    if ref.adapter:
        raise UsageError(f'export "{kind}" quantises whole models, and {ref.name} is an adapter; export the merged one')
    parent = Path(ref.path)
    check(parent, {})
    progress(Progress(kind, 0, STEPS, {"now": "quantising"}))
    write(parent, to, settings)
    progress(Progress(kind, 1, STEPS, {"now": "reading back"}))
    for name in formats.shipping(parent):  # beside the weights: tokenizer, chat template, licence
        if not name.endswith((".safetensors", formats.INDEX)) and name not in WRITTEN:
            (to / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(parent / name, to / name)
    asked, lost = {"parent": str(parent), "copy": str(to)}, "what was written could not be read back"
    (to / CONVERSION_NOTES).write_text(
        json.dumps({"facts": isolated.ask("harness_export.readback", asked, lost)}), "utf-8"
    )
    progress(Progress(kind, STEPS, STEPS, {"now": "done"}))
    return to


def write(parent: Path, to: Path, settings: Mapping[str, Any]) -> None:
    """Write weights and configuration, the rest of the weights in the parent's own dtype."""
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    from harness_hf import keep_4bit_layout, quiet, wrong_on_cpu

    config = AutoConfig.from_pretrained(str(parent), local_files_only=True, trust_remote_code=False)
    computes = {"bnb_4bit_compute_dtype": config.dtype} if "load_in_4bit" in settings and config.dtype else {}
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            str(parent),
            dtype="auto",
            quantization_config=BitsAndBytesConfig(**settings, **computes),
            device_map={"": "cpu"},
            local_files_only=True,
            trust_remote_code=False,
        )
        keep_4bit_layout(model)
        if wrong := wrong_on_cpu(model):
            raise UsageError(f'{wrong}; use = "int8"')
        model.save_pretrained(to, max_shard_size=SHARD)
