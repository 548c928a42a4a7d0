"""Generation with a shared prefix's keys and values kept once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from harness_hf.batch import Batch
from harness_hf.cpu.attention import attend_to_prefix, can_cascade

VERIFIED_MODELS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # by model


class CascadeBatch(Batch):
    """A batch that attends to its common prefix without copying it."""

    copies_prefix = False

    def _run(self, given: dict[str, Any], cache: Cache) -> Any:
        with attend_to_prefix(self.start) if self.start is not None else nullcontext():
            return super()._run(given, cache)


def is_usable(model: PreTrainedModel, is_right: Callable[[], bool]) -> bool:
    """Return whether cascade batches reproduce a plain forward. This is tried once per model."""
    if not can_cascade(model):
        return False
    if model not in VERIFIED_MODELS:
        VERIFIED_MODELS[model] = is_right()
    return VERIFIED_MODELS[model]
