"""Signals that end a process, turned into what Ctrl-C does: the report is written, and training can go on."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TWICE = 1.0  # seconds in which a second is the same wish: sent to the group, and passed on by who watches
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGTERM and SIGHUP, unless somebody ignores them (nohup) or handles them already."""
    mine = threading.current_thread() is threading.main_thread()
    caught = [s for s in ENDING if mine and signal.getsignal(s) is signal.SIG_DFL]
    last = -TWICE

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before >= TWICE:
            raise KeyboardInterrupt(signal.Signals(number).name)

    for number in caught:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)
