"""What is looked at: Python, PyTorch, GPUs as the driver, NVML and PyTorch have them, libraries, disk and load."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from harness.errors import UsageError
from harness.files import cache_dir
from harness.plugins import load_plugins
from harness.texts.shown import shorten
from harness_workers import Seen, nodes, seen, workers

FINE, ODD, FAILS = "fine", "odd", "fails"
SIGNS = {FINE: "✓", ODD: "!", FAILS: "✗"}
PACKAGE = "finetune-harness"
PYTHONS = ((3, 11), (3, 13))  # the first and the last that its tests run on
LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets")
ROOM = 5e9  # bytes in the cache, below which it is told: a model of 1 B and what is trained of it
PATIENCE = 120.0  # seconds for another interpreter
BITS = "import bitsandbytes.cextension as c; print(type(c.lib).__name__)"
INSTALLED = "import importlib.metadata as m; print(m.version('vllm'))"


@dataclass(frozen=True)
class Line:
    """One thing that was looked at; `state` is "fine", "odd" where a run goes on, or "fails" where it would not."""

    name: str
    state: str
    said: str


def examine(device: str = "auto", on: str = "", python: str | None = None) -> list[Line]:
    """Look at this machine, and at the environment of an interpreter if one is named."""
    first, last = (".".join(map(str, version)) for version in PYTHONS)
    fine = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    tested = "" if fine else f"; tested on {first} to {last}"
    package = f"{PACKAGE} {_version(PACKAGE) or 'not installed'}"
    said = f"{platform.python_version()}, {package}, {platform.platform()}{tested}"
    lines = [Line("Python", FINE if fine else ODD, said)]
    try:
        found = seen(python)
    except UsageError as error:
        return [*lines, Line("PyTorch", FAILS, str(error))]
    lines += [*_torch(found, device), *_libraries(found, python)]
    if on:
        try:
            workers(on, load_plugins(None, []), {"python": python} if python else {})
        except UsageError as error:
            lines.append(Line("workers", FAILS, str(error)))
        else:
            lines.append(Line("workers", FINE, on))
    lines += [_cache(), *_versions()]
    cores, load = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 0.0
    with suppress(OSError, AttributeError):
        load = os.getloadavg()[0]
    busy = load > 0.5 * cores
    how = "; the machine is busy, so timings would be too long" if busy else ""
    return [*lines, Line("load", ODD if busy else FINE, f"{load:.1f} on {cores} cores{how}")]


def _torch(found: Seen, device: str) -> Iterator[Line]:
    """Yield what the driver says and what PyTorch sees; why a run would refuse the device is in the run's own words."""
    if found.torch:
        yield Line("PyTorch", FINE, f"{found.torch}, built for {'GPUs' if found.built else 'CPUs'}")
    else:
        yield Line("PyTorch", ODD, f"{found.error}; pip install '{PACKAGE}[hf]' to run models on this machine")
    there, (driver, count) = nodes(), nvml()
    if there or count:
        listed = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
        told = f"{driver or 'unknown'}; GPUs: {listed} in /proc, {count} by NVML, {len(found.cards)} by PyTorch"
        hidden = any(name in os.environ for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"))
        differ = count != len(found.cards) and not hidden and "/dev/kfd" not in there
        yield Line("driver", ODD if differ else FINE, f"{told}{' (WSL2)' if '/dev/dxg' in there else ''}")
    for number, card in enumerate(found.cards):
        bits = "bfloat16" if card.bf16 else "no bfloat16: models run in float16 and train in float32"
        about = f"{card.kind}, {card.free / 1e9:.1f} of {card.memory / 1e9:.1f} GB free, {bits}"
        full = card.full(number)
        yield Line(f"GPU {number}", FAILS if full else FINE, f"[model] device: {full}" if full else about)
    if found.torch and (refused := found.refusal(device)):
        yield Line("device", FAILS, refused)
    elif not found.cards:
        yield Line("device", FINE, f"the CPU: {found.why_none() or 'GPUs are hidden'}")


def _libraries(found: Seen, python: str | None) -> Iterator[Line]:
    """Yield whether bitsandbytes can be loaded here, and where vLLM is."""
    if not python and (version := _version("bitsandbytes")):
        kind = _asked(sys.executable, BITS)
        fine = "Cuda" in kind or (not found.cards and kind == "BNBNativeLibrary")
        how = "" if fine else "; python -m bitsandbytes explains why, and QLoRA would fail"
        yield Line("bitsandbytes", FINE if fine else ODD, f"{version}, {kind or 'cannot be imported'}{how}")
    version, where = _asked(python or sys.executable, INSTALLED), f"in {python}" if python else "here"
    if python and not version:
        yield Line("vLLM", ODD, f'not in "{python}"; {python} -m pip install vllm {PACKAGE}')
    else:
        yield Line("vLLM", FINE, f"{version} {where}" if version else "not here; it needs its own environment")


def _cache() -> Line:
    try:
        folder = cache_dir()
    except UsageError as error:
        return Line("cache", FAILS, str(error))
    free = shutil.disk_usage(folder).free
    how = "" if free >= ROOM else "; free space with harness cache, or set HARNESS_CACHE to another disk"
    return Line("cache", ODD if how else FINE, f"{folder}, {free / 1e9:.1f} GB free{how}")


def _versions() -> Iterator[Line]:
    """Yield whether what is installed is what the tests ran with."""
    with suppress(ImportError, metadata.PackageNotFoundError):
        from packaging.requirements import Requirement

        asked = [Requirement(line) for line in metadata.requires(PACKAGE) or ()]
        there = [(one, version) for one in asked if one.name in LIBRARIES and (version := _version(one.name))]
        wrong = {f'"{one.name}{one.specifier}"' for one, version in there if version not in one.specifier}
        told = ", ".join(sorted({f"{one.name} {version}" for one, version in there}))
        how = f"; pip install {' '.join(sorted(wrong))}" if wrong else ""
        if there:
            yield Line("versions", ODD if wrong else FINE, f"{told}{how}")


def nvml() -> tuple[str, int]:
    """Return NVIDIA's driver and how many GPUs its library counts; nothing where there is none."""
    version, count = ctypes.create_string_buffer(80), ctypes.c_uint(0)
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libnvidia-ml.so.1")
        calls: list[Callable[[], int]] = [
            library.nvmlInit_v2,
            lambda: library.nvmlSystemGetDriverVersion(version, 80),
            lambda: library.nvmlDeviceGetCount_v2(ctypes.byref(count)),
        ]
        if any(call() for call in calls):
            return "", 0
    return version.value.decode("ascii", "replace"), count.value


def _version(package: str) -> str:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return ""


def _asked(python: str, code: str) -> str:
    """Return the last line that a few words of code print in an interpreter, or nothing."""
    with suppress(OSError, subprocess.SubprocessError, IndexError):
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True)
        return shorten(done.stdout.splitlines()[-1])
    return ""
