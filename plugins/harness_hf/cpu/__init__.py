"""Faster CPU kernels in place of PyTorch's, PEFT's and TRL's.

`cpu_kernels = false` under [model] turns them off for a model, `HARNESS_CPU_KERNELS=0` for a process.
docs/explanation/performance-cpu.md measures each kernel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from harness_hf.cpu.switch import CHOICE, VARIABLE
from harness_hf.cpu.switch import kernels_enabled as kernels_enabled
from harness_hf.cpu.switch import uses_cpu_kernels as uses_cpu_kernels

SPIN_COUNT = "3000"  # turns that a thread waits for others before it sleeps; libgomp's own 300,000 take 3 ms


def limit_spinning() -> None:
    """Limit how long OpenMP threads spin, unless the user did.

    It takes effect only before torch is imported.
    """
    chosen = os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    if not chosen and os.environ.get(VARIABLE) != "0":
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def use_cpu_kernels(model: Any, option: bool | None = None) -> None:
    """Replace a model's layers on the CPU by faster ones.

    Without `option` the choice made at loading holds.
    """
    if option is not None:
        setattr(model, CHOICE, option)
    if uses_cpu_kernels(model):
        from harness_hf.cpu.linear import use_onednn

        use_onednn(model)


@contextmanager
def cpu_training(model: Any) -> Iterator[None]:
    """Use faster attention and output kernels for training on the CPU.

    A model on another device is left alone.
    """
    with ExitStack() as stack:
        if model.device.type == "cpu" and uses_cpu_kernels(model):
            from harness_hf.cpu.attention import use_document_attention
            from harness_hf.cpu.head import project_labelled_once

            stack.enter_context(project_labelled_once())
            stack.enter_context(use_document_attention())
        yield
