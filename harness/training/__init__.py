"""Evaluate a model while another library trains it: `GateCallback`, for any trainer of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.lazy import attach_lazily

if TYPE_CHECKING:  # imports transformers, so only when it is asked for
    from harness.training.callback import GateCallback as GateCallback

__getattr__, __all__ = attach_lazily(__name__, __file__)
