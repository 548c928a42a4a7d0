"""Lines that are printed: safe to show, and wrapped at words where a person reads them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

from harness.texts.shown import bounded, shown
from harness.texts.wrapping import wrapped


def say(line: str, to: Any = None) -> None:
    """Print a line that may hold text of others to stdout, or to another stream; on a screen it wraps at words."""
    stream = sys.stdout if to is None else to
    width = None
    with suppress(OSError, ValueError):
        width = os.get_terminal_size(stream.fileno()).columns if on_screen(stream) else None
    for part in wrapped(bounded(shown(line)), width):
        print(part, file=stream)


def on_screen(file: Any) -> bool:
    """Return whether a person looks at a file; a pipe and the log of a CI job are no screen, whatever they claim."""
    if os.environ.get("CI", "false").lower() not in ("", "0", "false"):
        return False
    return bool(getattr(file, "isatty", bool)())
