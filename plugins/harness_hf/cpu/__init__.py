"""Kernels that compute on a CPU what PyTorch, PEFT and TRL compute there more slowly.

`cpu_kernels = false` under [model] leaves a model to those libraries, `HARNESS_CPU_KERNELS=0` all of a process. What
each kernel is worth stands in docs/explanation/performance-cpu.md.
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
    """Bound how long OpenMP threads spin, unless the user did; takes effect only before torch is imported."""
    chosen = os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    if not chosen and os.environ.get(VARIABLE) != "0":
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def use_cpu_kernels(model: Any, option: bool | None = None) -> None:
    """Replace a model's layers on the CPU by faster ones; without an option as it was chosen when it was loaded."""
    if option is not None:
        setattr(model, CHOICE, option)
    if uses_cpu_kernels(model):
        from harness_hf.cpu.linear import use_onednn

        use_onednn(model)


@contextmanager
def cpu_training(model: Any) -> Iterator[None]:
    """Train a model on the CPU with the kernels for its attention and its output layer; change nothing elsewhere."""
    with ExitStack() as stack:
        if model.device.type == "cpu" and uses_cpu_kernels(model):
            from harness_hf.cpu.attention import use_document_attention
            from harness_hf.cpu.head import project_labelled_once

            stack.enter_context(project_labelled_once())
            stack.enter_context(use_document_attention())
        yield
