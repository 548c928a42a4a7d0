"""Machine checks of `harness doctor`.

They cover Python, PyTorch, GPUs as the driver, NVML and PyTorch see them, libraries, disk and load.
"""

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
from typing import NamedTuple

from harness.errors import UsageError
from harness.files import cache_dir
from harness.plugins import load_plugins
from harness.texts.escaping import shorten_text
from harness.workers.gpus import GpuProbe, gpu_device_files, probe_gpus_of
from harness.workers.local import parse_workers

FINE, ODD, FAILS = "fine", "odd", "fails"
SIGNS = {FINE: "✓", ODD: "!", FAILS: "✗"}
PACKAGE = "finetune-harness"
DEVICES = ("auto", "cpu", "cuda", "mps")
PYTHONS = ((3, 11), (3, 13))  # the first and the last that its tests run on
LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets")
MIN_FREE_BYTES = 5e9  # free bytes of the cache below which doctor warns: a 1 B model and what is trained from it
INTERPRETER_TIMEOUT_S = 120.0  # seconds for another interpreter
BITS = "import bitsandbytes.cextension as c; print(type(c.lib).__name__)"
VERSION_CODE = "import importlib.metadata as m; print(m.version('vllm'))"


class Driver(NamedTuple):
    """NVIDIA's driver, and how many GPUs its library counts."""

    version: str
    gpus: int


@dataclass(frozen=True)
class MachineCheck:
    """The result of one machine check.

    `state` is "fine", "odd" if a run goes on, or "fails" if it would not.
    """

    name: str
    state: str
    text: str


def examine_machine(device: str = "auto", on: str = "", python: str | None = None) -> list[MachineCheck]:
    """Check this machine, and optionally another interpreter's environment."""
    first, last = (".".join(map(str, version)) for version in PYTHONS)
    fine = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    tested = "" if fine else f"; tested on {first} to {last}"
    package = f"{PACKAGE} {_find_version(PACKAGE) or 'not installed'}"
    said = f"{platform.python_version()}, {package}, {platform.platform()}{tested}"
    lines = [MachineCheck("Python", FINE if fine else ODD, said)]
    try:
        found = probe_gpus_of(python)
    except UsageError as error:
        return [*lines, MachineCheck("PyTorch", FAILS, str(error))]
    lines += [*_iterate_torch_and_gpu_checks(found, device), *_iterate_library_checks(found, python)]
    if on:
        try:
            parse_workers(on, load_plugins(None, []), {"python": python} if python else {})
        except UsageError as error:
            lines.append(MachineCheck("workers", FAILS, str(error)))
        else:
            lines.append(MachineCheck("workers", FINE, on))
    lines += [_check_cache(), *_iterate_version_checks()]
    cores, load = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 0.0
    with suppress(OSError, AttributeError):
        load = os.getloadavg()[0]
    busy = load > 0.5 * cores
    how = "; the machine is busy, so timings would be too long" if busy else ""
    return [*lines, MachineCheck("load", ODD if busy else FINE, f"{load:.1f} on {cores} cores{how}")]


def _iterate_torch_and_gpu_checks(found: GpuProbe, device: str) -> Iterator[MachineCheck]:
    """Yield the checks of PyTorch, the driver and the GPUs.

    The reason why a run would refuse the device is in the run's own words.
    """
    if found.torch:
        yield MachineCheck("PyTorch", FINE, f"{found.torch}, built for {'GPUs' if found.built else 'CPUs'}")
    else:
        yield MachineCheck(
            "PyTorch", ODD, f"{found.error}; pip install '.[hf]' in a clone to run models on this machine"
        )
    there, (driver, count) = gpu_device_files(), read_nvml()
    if there or count:
        listed = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
        told = f"{driver or 'unknown'}; GPUs: {listed} in /proc, {count} by NVML, {len(found.cards)} by PyTorch"
        hidden = any(name in os.environ for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"))
        differ = count != len(found.cards) and not hidden and "/dev/kfd" not in there
        yield MachineCheck("driver", ODD if differ else FINE, f"{told}{' (WSL2)' if '/dev/dxg' in there else ''}")
    for number, card in enumerate(found.cards):
        bits = "bfloat16" if card.bf16 else "no bfloat16: models run in float16 and train in float32"
        about = f"{card.kind}, {card.free / 1e9:.1f} of {card.memory / 1e9:.1f} GB free, {bits}"
        full = card.find_full_error(number)
        yield MachineCheck(f"GPU {number}", FAILS if full else FINE, f"[model] device: {full}" if full else about)
    if device.partition(":")[0] not in DEVICES:
        yield MachineCheck("device", FAILS, f'[model] device "{device}": unknown; known: {", ".join(DEVICES)}')
    elif found.torch and (refused := found.find_device_error(device)):
        yield MachineCheck("device", FAILS, refused)
    elif not found.cards:
        yield MachineCheck("device", FINE, f"the CPU: {found.no_gpu_reason() or 'GPUs are hidden'}")


def _iterate_library_checks(found: GpuProbe, python: str | None) -> Iterator[MachineCheck]:
    """Yield whether bitsandbytes can be loaded here, and where vLLM is."""
    if not python and (version := _find_version("bitsandbytes")):
        kind = _ask_interpreter(sys.executable, BITS)
        fine = "Cuda" in kind or (not found.cards and kind == "BNBNativeLibrary")
        how = "" if fine else "; python -m bitsandbytes explains why, and QLoRA would fail"
        yield MachineCheck("bitsandbytes", FINE if fine else ODD, f"{version}, {kind or 'cannot be imported'}{how}")
    version, where = _ask_interpreter(python or sys.executable, VERSION_CODE), f"in {python}" if python else "here"
    if python and not version:
        yield MachineCheck("vLLM", ODD, f'not in "{python}"; {python} -m pip install vllm . (in a clone)')
    else:
        yield MachineCheck("vLLM", FINE, f"{version} {where}" if version else "not here; it needs its own environment")


def _check_cache() -> MachineCheck:
    try:
        folder = cache_dir()
    except UsageError as error:
        return MachineCheck("cache", FAILS, str(error))
    free = shutil.disk_usage(folder).free
    how = "" if free >= MIN_FREE_BYTES else "; free space with harness cache, or set HARNESS_CACHE to another disk"
    return MachineCheck("cache", ODD if how else FINE, f"{folder}, {free / 1e9:.1f} GB free{how}")


def _iterate_version_checks() -> Iterator[MachineCheck]:
    """Yield a check of library versions against the package's requirements."""
    with suppress(ImportError, metadata.PackageNotFoundError):
        from packaging.requirements import Requirement

        asked = [Requirement(line) for line in metadata.requires(PACKAGE) or ()]
        there = [(one, version) for one in asked if one.name in LIBRARIES and (version := _find_version(one.name))]
        wrong = {f'"{one.name}{one.specifier}"' for one, version in there if version not in one.specifier}
        told = ", ".join(sorted({f"{one.name} {version}" for one, version in there}))
        how = f"; pip install {' '.join(sorted(wrong))}" if wrong else ""
        if there:
            yield MachineCheck("versions", ODD if wrong else FINE, f"{told}{how}")


def read_nvml() -> Driver:
    """Return the NVIDIA driver version and GPU count from NVML.

    They are empty and 0 without NVML.
    """
    version, count = ctypes.create_string_buffer(80), ctypes.c_uint(0)
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libnvidia-ml.so.1")
        calls: list[Callable[[], int]] = [
            library.nvmlInit_v2,
            lambda: library.nvmlSystemGetDriverVersion(version, 80),
            lambda: library.nvmlDeviceGetCount_v2(ctypes.byref(count)),
        ]
        if any(call() for call in calls):
            return Driver("", 0)
    return Driver(version.value.decode("ascii", "replace"), count.value)


def _find_version(package: str) -> str:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return ""


def _ask_interpreter(python: str, code: str) -> str:
    """Return the last line that code prints in an interpreter.

    Empty if it fails.
    """
    with suppress(OSError, subprocess.SubprocessError, IndexError):
        done = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, timeout=INTERPRETER_TIMEOUT_S, check=True
        )
        return shorten_text(done.stdout.splitlines()[-1])
    return ""
