"""The options of an eval of Inspect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from harness import UsageError

LIMITS = {"turn_limit": 100, "time_limit": 3600, "message_limit": None, "token_limit": None}
"""What ends a sample, and where: Inspect's limits by name, with what holds where neither suite nor task says one."""


@dataclass(frozen=True)
class InspectOptions:
    """The options of an eval; docs/reference/options.md explains them."""

    task: str
    args: dict[str, Any] | None = None
    scorer: str = ""
    scale: Literal["proportion", "mean"] = "proportion"
    sandbox: str = ""
    turn_limit: int | None = None
    time_limit: int | None = None
    message_limit: int | None = None
    token_limit: int | None = None
    max_new_tokens: int = 512
    thought: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (*LIMITS, "max_new_tokens"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise UsageError(f"{name} is {value}; it must be 1 or more")

    def limits(self, task: Any) -> dict[str, Any]:
        """Return the limits of a task's samples: the suite's, or else the task's, or else the default."""
        own = {name: getattr(self, name) for name in LIMITS}
        unset = {name: most for name, most in LIMITS.items() if getattr(task, name, None) is None}
        return {name: unset.get(name) if value is None else value for name, value in own.items()}

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> InspectOptions:
        """Select the known options of a suite's table. Raises UsageError if no task is named."""
        known: dict[str, Any] = {f.name: options[f.name] for f in fields(cls) if options.get(f.name) is not None}
        if not isinstance(known.get("task"), str):
            raise UsageError('name a task, such as task = "tasks/mine.py@name", or a registered one')
        return cls(**known)
