"""Standard output that survives a closed pipe, as of `head`.

The verdict and its exit code do not depend on the reader.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any


class ClosedPipeStream:
    """A text stream that discards output once its reader is gone.

    Characters that it cannot encode are written as escapes.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write a text and return its length.

        The text is discarded if the reader is gone.
        """
        self._call_ignoring_broken_pipe(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream, unless its reader is gone."""
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
    """Redirect prints to stderr if `wanted`, and yield stdout's writer."""
    write = sys.stdout.write
    with redirect_stdout(sys.stderr if wanted else sys.stdout):
        yield write
