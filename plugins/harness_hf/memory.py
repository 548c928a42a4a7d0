"""Memory: how much is free where a device computes, and rows so many at a time that a cache holds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

CACHED_VALUES = 1 << 20  # numbers; of 240 rows of 49,152 in bfloat16 log-probabilities take 17 ms instead of 63


def free_bytes(device: str) -> int | None:
    """Return the free memory of a device, in bytes. None if it is unknown."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None  # of what is no Linux


def iterate_row_slices(x: Tensor) -> Iterator[slice]:
    """Yield slices of the rows of x (N, V).

    A CPU's cache holds a few float32 copies of one. They are of like size, since a single row left over is summed up in
    another order; on other devices they have at most 256 rows.
    """
    size = max(1, CACHED_VALUES // max(x.shape[-1], 1)) if x.is_cpu else 256
    count, parts = len(x), -(-len(x) // size)  # of like size: a single row left over is summed up in another order
    return (slice(count * i // parts, count * (i + 1) // parts) for i in range(parts))
