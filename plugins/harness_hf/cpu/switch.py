"""Whether the kernels of this package compute: by an option of a model, and by a variable of the process."""

from __future__ import annotations

import os
from typing import Any

from harness import UsageError

VARIABLE = "HARNESS_CPU_KERNELS"
CHOICE = "harness_cpu_kernels"  # an attribute of models: what their loader's option says


def kernels_enabled() -> bool:
    """Return whether the environment allows the kernels.

    Raises UsageError if HARNESS_CPU_KERNELS is neither 0 nor 1.
    """
    if (value := os.environ.get(VARIABLE, "1")) not in ("0", "1"):
        raise UsageError(f'{VARIABLE} "{value}": unknown value; set it to 0 or 1')
    return value == "1"


def uses_cpu_kernels(model: Any) -> bool:
    """Return whether this package's kernels may compute for a model.

    It does not ask whether the model is on the CPU.
    """
    return bool(getattr(model, CHOICE, True)) and kernels_enabled()
