"""Speeds that a test may hold: a ratio to work that the same process does then, since no two machines are as fast.

A bound is several times what a quiet machine shows: a neighbour slows work on memory more than the additions.
"""

from __future__ import annotations

import time
from collections.abc import Callable

TRIES = 3  # of which the quickest counts: others may be using the machine


def time_call(work: Callable[[], object], tries: int = TRIES) -> float:
    """Return the seconds of a processor that a call takes."""
    return min(_time_once(work) for _ in range(tries))


def count_loop_rounds(work: Callable[[], object], tries: int = TRIES) -> float:
    """Return how many loops of a million additions, of some 30 ms, would take as long as a call."""
    return time_call(work, tries) / time_call(lambda: sum(range(1_000_000)) + sum(i for i in range(1_000_000)))


def _time_once(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun
