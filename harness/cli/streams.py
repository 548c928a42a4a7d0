"""Standard output whose reader may go away, as `head` does: the verdict and its exit code do not go with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any


class ClosedPipeStream:
    """A text stream that writes into nothing once its reader is gone, and spells out what it cannot encode."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write a text, or nothing where nobody reads; return its length."""
        self._call_ignoring_broken_pipe(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Write what waits."""
        self._call_ignoring_broken_pipe(self._stream.flush)

    def _call_ignoring_broken_pipe(self, call: Any) -> None:
        try:
            call()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def surviving_closed_pipes() -> Iterator[None]:
    """Let stdout and stderr outlive their readers while a command runs."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = ClosedPipeStream(sys.stdout), ClosedPipeStream(sys.stderr)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def reserve_stdout(wanted: bool) -> Iterator[Callable[[str], object]]:
    """Where it is `wanted`, turn all that is printed to stderr, and yield what writes to stdout."""
    write = sys.stdout.write
    with redirect_stdout(sys.stderr if wanted else sys.stdout):
        yield write
