"""Lines that are printed: safe to show, and wrapped at words where a person reads them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

from harness.texts.escaping import limit_length, printable
from harness.texts.wrapping import wrap_line


def print_line(line: str, to: Any = None) -> None:
    """Print a line with foreign text in it escaped.

    It goes to stdout, or to another stream; on a screen it wraps at words.
    """
    stream = sys.stdout if to is None else to
    width = None
    with suppress(OSError, ValueError):
        width = os.get_terminal_size(stream.fileno()).columns if is_screen(stream) else None
    for part in wrap_line(limit_length(printable(line)), width):
        print(part, file=stream)


def is_screen(file: Any) -> bool:
    """Return whether a person reads a file on a terminal.

    Pipes and the log of a CI job are none, even if they claim to be.
    """
    if os.environ.get("CI", "false").lower() not in ("", "0", "false"):
        return False
    return bool(getattr(file, "isatty", bool)())
