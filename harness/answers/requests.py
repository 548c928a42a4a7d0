"""Concurrent requests with results as they arrive, errors and retries."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")
FIRST_PAUSE_SECONDS = 0.5  # before the second try, doubled with each
MAX_PAUSE_SECONDS = 30.0
MAX_RETRY_AFTER_S = 300.0  # seconds a server may ask us to wait
NEVER = threading.Event()


@dataclass(eq=False)
class RequestError(Exception):
    """A request that got no usable answer.

    A `passing` one may get it at the next try, `after` so many seconds; a `fatal` one concerns all requests alike. Of a
    refusal, `status` is HTTP's, `said` the server's own words, `field` the field of the request that they name. `hint`
    says what to do. It was `charged` where nobody can tell, or `reply` says how much. `tries` were made.
    """

    what: str
    _: KW_ONLY
    passing: bool = False
    after: float | None = None
    fatal: bool = False
    status: int = 0
    said: str = ""
    field: str = ""
    hint: str = ""
    charged: bool = False
    reply: Any = None
    tries: int = 1

    def __str__(self) -> str:
        return self.what

    def retry_delay(self, tries: int, first: float | None = None) -> float:
        """Return the seconds before the next try, which double with each.

        They are up to a quarter less, so that requests that failed together do not come back together.
        """
        pause = min((first or FIRST_PAUSE_SECONDS) * 2.0 ** (tries - 1), MAX_PAUSE_SECONDS) * (1 - random.random() / 4)  # noqa: S311 -- no secret
        return max(pause, self.after or 0.0)


def retry(ask: Callable[[], R], tries: int, stop: threading.Event = NEVER) -> R:
    """Retry a call until it succeeds, at most `tries` times.

    Raises the last RequestError; there is no other try if it is not passing or its pause exceeds MAX_RETRY_AFTER_S.
    Setting `stop` ends the pause and the tries.
    """
    number = 0
    while True:
        number += 1
        try:
            return ask()
        except RequestError as trouble:
            trouble.tries = number
            pause = trouble.retry_delay(number)
            if not trouble.passing or number >= tries or pause > MAX_RETRY_AFTER_S or stop.wait(pause):
                raise


class RequestThreads(Generic[A, R]):
    """Daemon threads that each wait for one answer at a time.

    Daemons, since a server that hangs must not keep the process alive.
    """

    def __init__(self, size: int, ask: Callable[[A], R]) -> None:
        self.size, self._ask, self.running = size, ask, 0
        self._todo: SimpleQueue[tuple[Any, A] | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[Any, R | Exception]] = SimpleQueue()

    def __enter__(self) -> RequestThreads[A, R]:
        for _ in range(self.size):
            threading.Thread(target=self._process_request_queue, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        for _ in range(self.size):
            self._todo.put(None)

    def submit(self, name: Any, asked: A) -> None:
        """Let something be asked."""
        self.running += 1
        self._todo.put((name, asked))

    def next_result(self, timeout: float | None = None) -> tuple[Any, R | Exception] | None:
        """Return the name and answer of the next finished request.

        The exception stands for the answer if one was raised. None if no request finishes within `timeout` seconds.
        """
        try:
            ended = self._done.get(timeout=None if timeout is None else max(0.0, timeout))
        except Empty:
            return None
        self.running -= 1
        return ended

    def _process_request_queue(self) -> None:
        while (item := self._todo.get()) is not None:
            name, asked = item
            try:
                outcome: R | Exception = self._ask(asked)
            except Exception as error:  # judged where it is taken
                outcome = error
            self._done.put((name, outcome))


def map_concurrent(ask: Callable[[int, threading.Event], R], count: int, workers: int) -> Iterator[tuple[int, R]]:
    """Yield (number, answer) pairs in the order in which calls finish.

    The calls are `ask(number, event)` for 0 … count-1, at most `workers` at a time.

    If one raises, no other is started, running ones are awaited and yielded, and then the first exception is raised.
    The event is set from then on, and when the caller stops iterating.
    """
    stop, failed = threading.Event(), list[Exception]()

    def work(number: int) -> list[R]:
        if stop.is_set():
            return []  # passed over
        try:
            return [ask(number, stop)]
        except Exception:
            stop.set()
            raise

    with RequestThreads(min(workers, count), work) as pool:
        for number in range(count):
            pool.submit(number, number)
        try:
            while pool.running and (ended := pool.next_result()):
                number, outcome = ended
                if isinstance(outcome, Exception):
                    failed.append(outcome)
                else:
                    yield from ((number, answer) for answer in outcome)
        finally:
            stop.set()
    if failed:
        raise failed[0]
