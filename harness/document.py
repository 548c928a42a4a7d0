"""What a command returns: one value, printed as text or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar

from harness.errors import ExitCode

Value = TypeVar("Value")


def to_plain_data(value: Any) -> Any:
    """Return a value with its dataclasses as dicts."""
    if is_dataclass(value):
        return {field.name: to_plain_data(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain_data(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain_data(entry) for entry in value]
    return value


def print_nothing(value: object) -> None:
    """Print no text, for a command that printed while it ran."""


@dataclass(frozen=True)
class Document(Generic[Value]):
    """What a command found.

    `print_text` prints the value for people. `to_data` returns the object that --json prints: by default the fields of
    a dataclass, or a mapping as it is. A command that fails raises UsageError instead.
    """

    value: Value
    print_text: Callable[[Value], None] = print_nothing
    exit_code: int = ExitCode.OK
    to_data: Callable[[Value], Mapping[str, Any]] = to_plain_data
