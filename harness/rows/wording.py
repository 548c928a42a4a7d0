"""Options of a gate on rows in error messages: `--alpha 0.05` for the command, `alpha=0.05` for Python."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from harness.errors import UsageError

Caller = Literal["command", "python"]
CALLER: ContextVar[Caller] = ContextVar("CALLER", default="command")
FLAGS = {"tool": "as"}  # of arguments that are called otherwise
NUMBER = re.compile(r"[\d.]+")


class MissingOptionError(UsageError):
    """An option without which rows cannot be judged, a value that is likely meant, and what the option is for."""

    def __init__(self, *messages: str, name: str, value: object, reason: str) -> None:
        super().__init__(*messages)
        self.name, self.value, self.reason = name, value, reason


def write_option(name: str, value: object = "") -> str:
    """Return an option of a gate as its caller writes it.

    `name` is the argument of `harness.gate`.
    """
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if CALLER.get() == "command":
        if name == "better":
            return f"--{text}"
        return " ".join(filter(None, (f"--{FLAGS.get(name, name).replace('_', '-')}", "" if value is True else text)))
    if not text:
        return name
    plain = value is True or NUMBER.fullmatch(text)
    return f"{name}={text}" if plain else f'{name}="{text}"'


@contextmanager
def words_for(caller: Caller) -> Iterator[None]:
    """Word the options in messages for a caller, in a block."""
    token = CALLER.set(caller)
    try:
        yield
    finally:
        CALLER.reset(token)
