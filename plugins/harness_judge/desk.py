"""Many questions to a judge behind an API: looked up first, asked once, tried again, within a budget.

One thread decides and writes; others only wait for the server. An answer is on the disk before the next call takes
its place, so a kill loses the calls under way and nothing else.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from harness import Responses, UsageError, keys, request_key
from harness_judge.budget import Budget, Reserved
from harness_judge.verdict import Reply

PATIENCE = 300.0  # seconds a server may ask us to wait
HOPELESS = 3  # questions that come to nothing before any is answered: the judge is not there


class Trouble(Exception):
    """A call without a usable reply.

    A `passing` one may get it at the next try, `after` so many seconds; a `fatal` one concerns all calls alike. It was
    `charged` where nobody can tell, or `reply` says how much.
    """

    def __init__(
        self,
        what: str,
        *,
        passing: bool = False,
        after: float | None = None,
        fatal: bool = False,
        charged: bool = False,
        reply: Reply | None = None,
    ) -> None:
        super().__init__(what)
        self.passing, self.after, self.fatal, self.charged, self.reply = passing, after, fatal, charged, reply


class Question(Protocol):
    """What is asked of a backend; `asked` holds all that a reply to it depends on, as JSON would."""

    @property
    def asked(self) -> list[Any]: ...


Asked = TypeVar("Asked", bound=Question)
Taken = TypeVar("Taken", bound=Question, contravariant=True)


class Backend(Protocol[Taken]):
    """A model behind an API; `ask` is called from several threads."""

    where: str
    identity: list[Any]  # what a reply depends on, but for the model that says it wrote it

    def ask(self, question: Taken) -> Reply:
        """Put a question, once. Raises Trouble."""
        ...

    def most(self, question: Taken) -> Reserved:
        """Return the most tokens a question can use."""
        ...

    def close(self) -> None:
        """Close its connections."""


@dataclass(frozen=True)
class Failed:
    """A question without a reply, and why; `asked` is false where the budget was used up."""

    why: str
    asked: bool = True


@dataclass(order=True)
class _Call:
    due: float
    number: int
    tries: int = 0


class Desk(Generic[Asked]):
    """Where questions are put to one judge. `models` holds the ids that replied, `capped` the cap that was reached."""

    def __init__(
        self,
        backend: Backend[Asked],
        budget: Budget,
        responses: Responses | None,
        *,
        concurrency: int = 8,
        retries: int = 5,
        pause: float = 0.5,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.backend, self.budget, self.responses = backend, budget, responses
        self.concurrency, self.tries, self.pause, self.progress = concurrency, retries + 1, pause, progress
        self.models: dict[str, None] = {}
        self.capped = ""
        self._identity = [self.backend.identity, keys.of_content([Desk])]  # how it is asked, and read
        self.asked = self.found = self.again = 0  # questions, those remembered, and tries beyond the first
        self.answered = self.failed = 0

    def close(self) -> None:
        """Close the backend's connections."""
        self.backend.close()

    def ask(self, questions: Sequence[Asked]) -> Iterator[tuple[int, Reply | Failed]]:
        """Yield (number, reply) for each question, remembered ones first. Raises UsageError when no judge is there."""
        same: dict[bytes, list[int]] = {}
        for i, question in enumerate(questions):
            same.setdefault(self._key(question, ""), []).append(i)
        self.asked += len(questions)
        known, done = self._remembered(questions), 0
        self.found += len(known)
        for i, reply in known.items():
            done += 1
            self.models.setdefault(reply.model)
            yield i, reply
        missing = {numbers[0]: numbers for numbers in same.values() if numbers[0] not in known}
        for first, outcome in self._put([(i, questions[i]) for i in missing]):
            for i in missing[first]:
                done += 1
                self.progress(done, len(questions))
                yield i, outcome

    # -- what is remembered ------------------------------------------------------------------------

    def _key(self, question: Asked, model: str) -> bytes:
        return request_key("judge", "judgment", self._identity, model, *question.asked)

    def _remembered(self, questions: Sequence[Asked]) -> dict[int, Reply]:
        """Look up what the model that replied last has said; which one that was is remembered too."""
        if self.responses is None:
            return {}
        alias = self._alias()
        model = self.responses.find([alias], counts=False).get(alias)
        if not isinstance(model, str):
            return {}
        wanted = [self._key(q, model) for q in questions]
        values = self.responses.find(wanted, lambda value: Reply(*value))
        return {i: values[key] for i, key in enumerate(wanted) if key in values}

    def _keep(self, question: Asked, reply: Reply) -> None:
        if self.responses is not None:
            if next(reversed(self.models), None) != reply.model:
                self.responses.keep(self._alias(), reply.model)
            self.responses.keep(self._key(question, reply.model), list(astuple(reply)))
            self.responses.flush()
        self.models.pop(reply.model, None)
        self.models[reply.model] = None  # the last one is the one that replied last

    def _alias(self) -> bytes:
        return request_key("judge", "model", self._identity)

    # -- what is asked -----------------------------------------------------------------------------

    def _put(self, questions: Sequence[tuple[int, Asked]]) -> Iterator[tuple[int, Reply | Failed]]:
        """Ask until every question has a reply, was given up, or the budget is used up."""
        by_number = dict(questions)
        ready, later = deque(_Call(0.0, i) for i in by_number), list[_Call]()
        with _Pool(min(self.concurrency, len(ready)), self.backend.ask) as pool:
            while ready or later or pool.running:
                while later and later[0].due <= time.monotonic():
                    ready.appendleft(heapq.heappop(later))
                while ready and pool.running < self.concurrency and self._reserve(by_number[ready[0].number]):
                    call = ready.popleft()
                    pool.put(call, by_number[call.number])
                if ready and not pool.running and self.budget.reached:
                    self.capped = self.budget.reached
                    why = f"not asked: {self.capped} was reached"
                    yield from ((c.number, Failed(why, asked=False)) for c in (*ready, *later))
                    return
                ended = pool.take(later[0].due - time.monotonic() if later else None)
                if ended is None:
                    continue
                call, outcome = ended
                question = by_number[call.number]
                reply = self._settle(question, outcome)
                if reply is not None:
                    yield call.number, reply
                elif isinstance(outcome, Trouble) and (pause := self._again(call, outcome)) is not None:
                    self.again += 1
                    heapq.heappush(later, _Call(time.monotonic() + pause, call.number, call.tries + 1))
                else:
                    failed = self._given_up(call, outcome, len(by_number))
                    if isinstance(failed, Exception):
                        self._drain(pool, by_number)
                        raise failed
                    yield call.number, failed

    def _reserve(self, question: Asked) -> bool:
        return self.budget.reserve(self.backend.most(question))

    def _settle(self, question: Asked, outcome: Reply | Exception) -> Reply | None:
        """Book what a call used, and keep its reply if it is one."""
        most = self.backend.most(question)
        used = outcome if isinstance(outcome, Reply) else getattr(outcome, "reply", None)
        if used is not None:
            self.budget.settle(most, used.tokens_in, used.tokens_out)
        elif not getattr(outcome, "charged", True):
            self.budget.settle(most, 0, 0)
        if not isinstance(outcome, Reply):
            return None
        self.answered += 1
        self._keep(question, outcome)
        return outcome

    def _again(self, call: _Call, trouble: Trouble) -> float | None:
        """Return the seconds until the next try, or None if there is none."""
        if not trouble.passing or call.tries + 1 >= self.tries:
            return None
        # Less up to a quarter, so that those that failed together do not come back together.
        pause = min(self.pause * 2.0**call.tries, 30.0) * (1 - random.random() / 4)  # noqa: S311 -- not for secrets
        pause = max(pause, trouble.after or 0.0)
        return pause if pause <= PATIENCE else None

    def _given_up(self, call: _Call, outcome: Reply | Exception, questions: int) -> Failed | Exception:
        """Return what a question without a reply is: a failure of its own, or the end of all."""
        assert not isinstance(outcome, Reply)
        if not isinstance(outcome, Trouble):
            return outcome
        self.failed += 1
        tries = f", after {call.tries + 1} tries" if call.tries else ""
        why = f"{outcome}{tries}"
        if outcome.fatal or (not self.answered + self.found and self.failed >= min(HOPELESS, questions)):
            return UsageError(f"{self.backend.where}: {why}")
        return Failed(why)

    def _drain(self, pool: _Pool[Asked], by_number: dict[int, Asked]) -> None:
        """Wait for what is under way, and keep it: it was paid for."""
        while pool.running:
            if ended := pool.take(None):
                self._settle(by_number[ended[0].number], ended[1])


class _Pool(Generic[Asked]):
    """Threads that each wait for one call at a time; daemons, so that a server that hangs keeps nobody alive."""

    def __init__(self, size: int, ask: Callable[[Asked], Reply]) -> None:
        self.size, self._ask = size, ask
        self.running = 0
        self._todo: SimpleQueue[tuple[_Call, Asked] | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[_Call, Reply | Exception]] = SimpleQueue()

    def __enter__(self) -> _Pool[Asked]:
        for _ in range(self.size):
            threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, *why: object) -> None:
        for _ in range(self.size):
            self._todo.put(None)

    def put(self, call: _Call, question: Asked) -> None:
        self.running += 1
        self._todo.put((call, question))

    def take(self, timeout: float | None) -> tuple[_Call, Reply | Exception] | None:
        """Wait for the next call to end; None when `timeout` seconds have passed."""
        if not self.running:
            time.sleep(max(0.0, timeout or 0.0))
            return None
        try:
            ended = self._done.get(timeout=None if timeout is None else max(0.0, timeout))
        except Empty:
            return None
        self.running -= 1
        return ended

    def _work(self) -> None:
        while (item := self._todo.get()) is not None:
            call, question = item
            try:
                outcome: Reply | Exception = self._ask(question)
            except Exception as error:  # judged where it is taken
                outcome = error
            self._done.put((call, outcome))
