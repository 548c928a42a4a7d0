"""What an answer of a model depends on, told without loading it: nothing here imports torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from harness.evidence import digest_of
from harness.subject import ModelRef
from harness_hf import sources

LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes")
BFLOAT16 = {"avx512_bf16", "amx_bf16", "amx_tile", "bf16"}  # flags of a CPU that computes in it


def of(ref: ModelRef, folder: Path, options: Mapping[str, Any]) -> str:
    """Digest weights, adapter, quantisation, tokenizer, templates, options, hardware, libraries and our code."""
    folders = [folder, *([ref.adapter] if ref.adapter else [])]
    files = [sources.folder_digest(f) for f in folders] + [_small_files(f) for f in folders]
    return digest_of([files, ref.quantization, dict(options), hardware(), _versions(), _code()])


def described(folder: Path) -> str:
    """Digest what is beside the weights of a folder, the libraries that read it, and our code."""
    return digest_of([_small_files(folder), _versions(), _code()])


@cache
def hardware() -> list[str]:
    """Tell machines apart on which `auto` means another device or dtype."""
    gpus = sorted(str(p) for p in Path("/dev").glob("nvidia[0-9]*")) + [
        d for d in ("/dev/kfd", "/dev/dxg") if Path(d).exists()
    ]
    for about in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with suppress(OSError):
            gpus += [line for line in about.read_text("utf-8").splitlines() if line.startswith("Model")]
    hidden = [os.environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")]
    flags: set[str] = set()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        flags = set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())
    return [platform.system(), platform.machine(), *gpus, *hidden, *sorted(flags & BFLOAT16)]


def _small_files(folder: Path) -> str:
    """Hash what is beside the weights: configuration, tokenizer, chat template, generation settings."""
    return digest_of([[p.name, hashlib.sha256(p.read_bytes()).hexdigest()] for p in _beside(folder)])


def _beside(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".json", ".jinja", ".model", ".txt") and path.name != sources.NOTE:
            yield path


@cache
def _versions() -> list[str]:
    found = [platform.python_version()]
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return found


@cache
def _code() -> str:
    """Hash this package: an answer of an older engine is not an answer of this one."""
    return digest_of([p.read_text("utf-8") for p in sorted(Path(__file__).parent.glob("*.py"))])
