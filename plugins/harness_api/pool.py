"""Many requests at a time, results as they come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")


Ask = Callable[[int, threading.Event], T]
Done = SimpleQueue[tuple[int, Future[T]] | None]


def each(ask: Ask[T], count: int, workers: int) -> Iterator[tuple[int, T]]:
    """Yield (number, ask(number)) for 0 … count-1 as they are done, at most `workers` at a time.

    When one raises, no other is begun, those under way are waited for and yielded, and then the first exception is
    raised. The event is set from then on, and when the caller stops listening.
    """
    numbers: SimpleQueue[int] = SimpleQueue()
    done: Done[T] = SimpleQueue()
    stop = threading.Event()
    for number in range(count):
        numbers.put(number)
    running = min(workers, count)
    for _ in range(running):
        # Daemons: a server that hangs must not keep an interrupted program alive.
        threading.Thread(target=_work, args=(ask, numbers, done, stop), daemon=True).start()
    failed: BaseException | None = None
    try:
        while running:
            item = done.get()
            if item is None:
                running -= 1
                continue
            number, result = item
            error = result.exception()
            if error is None:
                yield number, result.result()
            failed = failed or error
    finally:
        stop.set()
    if failed:
        raise failed


def _work(ask: Ask[T], numbers: SimpleQueue[int], done: Done[T], stop: threading.Event) -> None:
    """Take numbers until there are none, or one failed."""
    while not stop.is_set():
        try:
            number = numbers.get_nowait()
        except Empty:
            break
        result: Future[T] = Future()
        try:
            result.set_result(ask(number, stop))
        except Exception as error:  # raised again where the results are read
            stop.set()
            result.set_exception(error)
        done.put((number, result))
    done.put(None)
