"""GPU detection and assignment for worker processes.

PyTorch in a process like a worker's lists the GPUs. /proc is not read for their number: WSL2 and ROCm have none there,
LXD hides them, and in a container they may be the host's. Imports torch inside functions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from harness.errors import UsageError
from harness.texts import secrets
from harness.texts.escaping import shorten_text
from harness.texts.numbers import format_duration

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
VISIBLE_DEVICES_VARIABLES = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")  # ROCm reads both, the first of them first
NODES = ("/dev/nvidia[0-9]*", "/dev/nvmap", "/dev/dxg", "/dev/kfd")  # a driver's: NVIDIA, Jetson, WSL2, ROCm
DRIVER_TIMEOUT_S = 120.0  # seconds for a driver to answer
MIN_FREE_SHARE = 0.05  # of a card: less free memory than that, and nothing loads


class Gpu(NamedTuple):
    """A GPU: what it is called, its bytes and those that are free, and whether it computes in bfloat16."""

    kind: str
    memory: int
    free: int
    bf16: bool

    def find_full_error(self, number: int | str) -> str:
        """Return that it is full, or an empty text."""
        if self.free >= MIN_FREE_SHARE * self.memory:
            return ""
        left = f"{self.free / 1e9:.1f} of {self.memory / 1e9:.1f} GB are free"
        return f"GPU {number} is full: {left}; end the process that uses it (see nvidia-smi), or hide the GPU"


class GpuProbe(NamedTuple):
    """PyTorch and the GPUs as one process sees them.

    `built` is whether PyTorch is built for GPUs, `error` why it can use none.
    """

    torch: str
    built: bool
    error: str
    cards: tuple[Gpu, ...] = ()

    def no_gpu_reason(self) -> str:
        """Explain why no GPU is visible, and how to fix it.

        Empty if one is visible, or if they are hidden from the process.
        """
        variable, named = visible_gpus()
        if self.cards or named == []:
            return ""
        if not gpu_device_files():
            return "no GPU was found on this machine; nvidia-smi or rocminfo must list one"
        if not self.built:
            return f"PyTorch {self.torch} is built for CPUs; install a build for CUDA or ROCm (pytorch.org)"
        if "too old" in self.error or named is None:
            how = f"PyTorch {self.torch} cannot use the driver: {self.error}"
            return f"{how}; update the driver, or install a build for it"
        return f'{variable} = "{os.environ[variable]}" names no GPU of this machine; nvidia-smi -L lists them'

    def find_device_error(self, device: str) -> str:
        """Return why a model cannot be loaded on a device: "auto" passes no GPU over that PyTorch was built for."""
        why = self.no_gpu_reason() if device.partition(":")[0] in ("auto", "cuda") else ""
        passed_over = device == "auto" and not (gpu_device_files() and self.built)
        return f'[model] device "{device}": {why}; or set device = "cpu"' if why and not passed_over else ""


def gpu_device_files() -> list[str]:
    """Return the device files that show a GPU driver."""
    return sorted(str(p) for place in NODES for p in Path("/").glob(place.lstrip("/")))


def visible_gpus() -> tuple[str, list[str] | None]:
    """Return the variable that selects GPUs, and the GPUs it names. These are None if it is not set."""
    variable = next((name for name in VISIBLE_DEVICES_VARIABLES if name in os.environ), VISIBLE_DEVICES_VARIABLES[-1])
    if variable not in os.environ:
        return variable, None
    return variable, [name for name in os.environ[variable].split(",") if name.strip() not in ("", "-1")]


def probe_gpus() -> GpuProbe:
    """Probe this process's PyTorch and GPUs."""
    import torch

    built = bool(torch.version.cuda or torch.version.hip)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of an old driver, and goes on
        if torch.cuda.is_available():
            return GpuProbe(torch.__version__, built, "", tuple(map(read_gpu, range(torch.cuda.device_count()))))
    try:
        if built and visible_gpus()[1] != []:
            torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return GpuProbe(torch.__version__, built, " ".join(str(error).split()).partition(". ")[0])
    return GpuProbe(torch.__version__, built, "")


def read_gpu(number: int) -> Gpu:
    """Describe a GPU of this process. Memory reserved by this process itself counts as free."""
    import torch

    about = torch.cuda.get_device_properties(number)
    free = torch.cuda.mem_get_info(number)[0] + torch.cuda.memory_reserved(number)
    with torch.cuda.device(number):
        return Gpu(about.name, about.total_memory, free, torch.cuda.is_bf16_supported(including_emulation=False))


def list_gpus(python: str | None = None) -> list[str]:
    """Return the names of GPUs for processes of an interpreter.

    In the variable that selects GPUs, a name gives its GPU to a process.
    """
    return [name for name, _ in list_named_gpus(python)]


def list_named_gpus(python: str | None = None) -> list[tuple[str, Gpu]]:
    """Return the GPUs and the names that select them.

    A process has one instance (MIG) of a divided card, by its name.
    """
    if not gpu_device_files():
        return []
    _, named = visible_gpus()
    if named and all(name.startswith("MIG-") for name in named):
        return [(name, one) for name in named for one in probe_gpus_of(python, name).cards[:1]]
    cards = probe_gpus_of(python).cards
    return list(zip(named if named is not None else map(str, range(len(cards))), cards, strict=False))


def assign_gpus(who: str, count: int, python: str | None = None, each: int = 0) -> list[str]:
    """Return the GPUs for each of `count` processes.

    Each gets one, or `each` of them with names joined by commas; the list is empty if none are required and the machine
    has none. Raises UsageError if there are too few GPUs, or without GPUs too few cores, or if processes would get GPUs
    of different kinds.
    """
    found = list_named_gpus(python)
    there, what = (len(found), "GPUs") if found or each else (os.cpu_count() or 1, "cores, and no GPU")
    if count > (most := there // (each or 1)):
        cut = "; name its MIG instances in CUDA_VISIBLE_DEVICES" if any(" MIG " in one.kind for _, one in found) else ""
        raise UsageError(f"{who}: this machine has {there} {what}; use at most {most}{cut}")
    if len(kinds := sorted({one.kind for _, one in found[: count * (each or 1)]})) > 1:
        what = f"{' and '.join(kinds)} do not compute the same bits"
        raise UsageError(f"{who}: {what}; name GPUs of one kind in {visible_gpus()[0]}")
    names, each = [name for name, _ in found], each or 1
    return [",".join(names[i : i + each]) for i in range(0, len(names) - each + 1, each)]


def probe_gpus_of(python: str | None = None, device: str | None = None) -> GpuProbe:
    """Probe the GPUs in a process of an interpreter.

    It sees one device, or all of this process's. Raises UsageError if the interpreter cannot be run or the driver does
    not answer.
    """
    return _probe_gpus_in_interpreter(
        python or sys.executable, tuple(sorted(worker_environment(device, ours=python is None).items()))
    )


@cache
def _probe_gpus_in_interpreter(python: str, told: tuple[tuple[str, str], ...]) -> GpuProbe:
    command = [python, "-m", "harness.workers.gpus"]
    try:
        done = subprocess.run(
            command, env=dict(told), capture_output=True, text=True, timeout=DRIVER_TIMEOUT_S, check=False
        )
    except OSError as error:
        raise UsageError(f'python "{python}": {error.strerror}; name the interpreter of an environment') from None
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"the GPU driver did not answer for {format_duration(DRIVER_TIMEOUT_S)}; check it with nvidia-smi"
        ) from None
    with suppress(ValueError, TypeError):
        version, built, why, found = json.loads(done.stdout.splitlines()[-1] if done.stdout else "")
        return GpuProbe(version, built, why, tuple(Gpu(*one) for one in found))
    return GpuProbe("", False, shorten_text((done.stderr.strip().splitlines() or ["it printed nothing"])[-1]))


def worker_environment(device: str | None, *, ours: bool) -> dict[str, str]:
    """Return the environment of a worker: one GPU or one thread unless told, nobody's keys, and our modules if ours."""
    found = {k: v for k, v in os.environ.items() if not secrets.is_secret(k) and secrets.redact_text(v) == v}
    if device is not None:
        found[visible_gpus()[0]] = device
    for name in THREADS:
        found.setdefault(name, os.environ.get("OMP_NUM_THREADS", "1"))
    found["PYTHONSAFEPATH"] = "1"  # nothing is imported from the folder that this process happens to be in
    if ours:
        found["PYTHONPATH"] = os.pathsep.join(p or "." for p in sys.path)
    return found


if __name__ == "__main__":
    print(json.dumps(probe_gpus()))
