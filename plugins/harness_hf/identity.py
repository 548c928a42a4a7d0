"""What an answer of a model depends on, told without loading it: nothing here imports torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from harness import ModelRef, digest_of, keys
from harness_hf import sources

BFLOAT16 = {"avx512_bf16", "amx_bf16", "amx_tile", "bf16"}  # flags of a CPU that computes in it


def of(ref: ModelRef, folder: Path, options: Mapping[str, Any]) -> str:
    """Digest weights, adapter, quantisation, tokenizer, templates, options, hardware, libraries and our code.

    `options` are all of the loader's, with its defaults for those that are not given.
    """
    folders = [folder, *([ref.adapter] if ref.adapter else [])]
    files = [keys.of_folder(f, sources.folder_digest(f)) for f in folders]
    what = [files, ref.quantization, dict(options)]
    return digest_of([what, hardware(), keys.versions(), keys.switches(), keys.of_code([of])])


def described(folder: Path) -> str:
    """Digest what is beside the weights of a folder, the libraries that read it, and our code."""
    return digest_of([keys.of_folder(folder, "beside them"), keys.versions(), keys.of_code([described])])


@cache
def hardware() -> list[str]:
    """Return what distinguishes machines on which `auto` means another device or dtype."""
    kinds = {str(p).rstrip("0123456789") for p in Path("/dev").glob("nvidia[0-9]*")}
    kinds |= {d for d in ("/dev/kfd", "/dev/dxg") if Path(d).exists()}
    for about in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        with suppress(OSError):
            kinds |= {line for line in about.read_text("utf-8").splitlines() if line.startswith("Model")}
    # Which of several GPUs of a kind a worker has changes nothing; that it has none does.
    hidden = [str(os.environ.get(name) in ("", "-1")) for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")]
    flags: set[str] = set()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        flags = set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())
    return [platform.system(), platform.machine(), *sorted(kinds), *hidden, *sorted(flags & BFLOAT16)]
