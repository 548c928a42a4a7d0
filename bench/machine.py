"""In words, what the numbers depend on beyond the code."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("torch", "transformers", "lm_eval", "peft", "trl", "bitsandbytes")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # they decide how fast float32 and bfloat16 are


def describe(device: str) -> dict[str, str]:
    """Return processor, memory, system and versions, and the GPU where that is the device."""
    name, flags = _read_processor()
    there = ", ".join(flag for flag in INSTRUCTIONS if flag in flags) or "none of " + ", ".join(INSTRUCTIONS)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = {
        "processor": f"{name}, {count_cores()} cores, {there}",
        "memory": f"{memory / 1e9:.0f} GB",
        "system": f"{_read_system_name()}, Python {platform.python_version()}",
        "libraries": ", ".join(f"{library} {version(library)}" for library in LIBRARIES),
    }
    if device.startswith("cuda"):
        import torch

        found["GPU"] = torch.cuda.get_device_name(device)
    return found


def count_cores() -> int:
    """Count the cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _read_processor() -> tuple[str, set[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    facts = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
    return facts.get("model name", platform.machine()), set(facts.get("flags", "").split())


def _read_system_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return f"{platform.system()} {platform.release()}"
