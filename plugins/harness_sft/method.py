"""What sets one of TRL's trainers apart from another, so that all of them go through one training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness_sft.rows import Row

if TYPE_CHECKING:
    from harness import Adapter, ModelRef


@dataclass(frozen=True)
class Method:
    """One of TRL's trainers: the name of its configuration, the class that is run, the rows it learns from.

    `refused` has fields of the configuration that are not the user's, and what to do instead. `trainer` is imported
    when it is called, `select` takes what is trained on out of rows, `fits` raises UsageError at an adapter that it
    does not train, and `beside` returns what the class is given besides model, rows and configuration.
    """

    config: str
    trainer: Callable[[], Any]
    select: Callable[[Sequence[Mapping[str, Any]]], list[Row]]
    refused: Mapping[str, str] = field(default_factory=dict)
    fits: Callable[[Adapter | None], None] = lambda adapter: None
    reference: int = 0  # bytes for each parameter of what is kept beside a model of which all weights are trained
    beside: Callable[[ModelRef, Adapter | None], dict[str, Any]] = lambda ref, adapter: {}
    where: str = ""  # "MODULE:NAME", by which the processes of a training find it
