"""A machine with GPUs, for processes that it starts: device files, and a `torch` that sees what it is told to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.workers import gpus

TORCH = """\
import contextlib, json, os, types
told = json.loads({told!r})
__version__ = told["torch"]
version = types.SimpleNamespace(cuda=told["cuda"], hip=None)
named = os.environ.get("CUDA_VISIBLE_DEVICES")
if named is not None and named.startswith("MIG-"):  # of instances CUDA gives a process the first
    here = [told["cards"][int(named.split(",")[0][4:])]]
elif named is not None:
    here = []
    for one in named.split(","):
        if not one.isdigit() or int(one) >= len(told["cards"]):
            break
        here.append(told["cards"][int(one)])
else:
    here = told["cards"]

def init():
    raise RuntimeError(told["error"] or "No CUDA GPUs are available")

cuda = types.SimpleNamespace(
    init=init,
    is_available=lambda: bool(here and told["cuda"]) and not told["error"],
    device_count=lambda: len(here),
    get_device_properties=lambda i: types.SimpleNamespace(name=here[i][0], total_memory=here[i][1]),
    mem_get_info=lambda i: (here[i][2], here[i][1]),
    memory_reserved=lambda i: 0,
    device=contextlib.nullcontext,
    is_bf16_supported=lambda including_emulation: True,
)
"""
L4 = ("NVIDIA L4", 24_000_000_000, 23_000_000_000)
H100 = ("NVIDIA H100 80GB HBM3", 85_000_000_000, 84_000_000_000)


def machine(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *found: tuple[str, int, int],
    error: str = "",
    cuda: str | None = "13.0",
    device: str = "nvidia0",
) -> None:
    """Let this process be on a machine with such GPUs, and those that it starts see them."""
    told = {"torch": f"2.13.0+{'cu130' if cuda else 'cpu'}", "cuda": cuda, "cards": found, "error": error}
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(TORCH.format(told=json.dumps(told)), encoding="utf-8")
    (folder / device).touch()
    monkeypatch.setattr(gpus, "NODES", (str(folder / device),))
    monkeypatch.syspath_prepend(folder)
    for name in gpus.VISIBLE_DEVICES_VARIABLES:
        monkeypatch.delenv(name, raising=False)
