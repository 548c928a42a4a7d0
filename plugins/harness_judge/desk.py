"""Many questions to a judge behind an API: looked up first, asked once, tried again, within a budget.

One thread decides and writes; others only wait for the server. An answer is on the disk before the next call takes
its place, so a kill loses the calls under way and nothing else.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass

from harness import Responses, UsageError, keys, request_key, wire
from harness_judge.budget import Budget
from harness_judge.prompts import Question
from harness_judge.service import API
from harness_judge.verdict import Reply

HOPELESS = 3  # questions that come to nothing before any is answered: the judge is not there


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


class Desk:
    """Where questions are put to one judge. `models` holds the ids that replied, `capped` the cap that was reached."""

    def __init__(
        self,
        backend: API,
        budget: Budget,
        responses: Responses | None,
        *,
        concurrency: int = 8,
        retries: int = 5,
        pause: float = wire.PAUSE,
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

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply | Failed]]:
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

    def _key(self, question: Question, model: str) -> bytes:
        return request_key("judge", "judgment", self._identity, model, *question.asked)

    def _remembered(self, questions: Sequence[Question]) -> dict[int, Reply]:
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

    def _keep(self, question: Question, reply: Reply) -> None:
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

    def _put(self, questions: Sequence[tuple[int, Question]]) -> Iterator[tuple[int, Reply | Failed]]:
        """Ask until every question has a reply, was given up, or the budget is used up."""
        by_number = dict(questions)
        ready, later = deque(_Call(0.0, i) for i in by_number), list[_Call]()
        with wire.Pool(min(self.concurrency, len(ready)), self.backend.ask) as pool:
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
                elif isinstance(outcome, wire.Trouble) and (pause := self._again(call, outcome)) is not None:
                    self.again += 1
                    heapq.heappush(later, _Call(time.monotonic() + pause, call.number, call.tries + 1))
                else:
                    failed = self._given_up(call, outcome, len(by_number))
                    if isinstance(failed, Exception):
                        self._drain(pool, by_number)
                        raise failed
                    yield call.number, failed

    def _reserve(self, question: Question) -> bool:
        return self.budget.reserve(self.backend.most(question))

    def _settle(self, question: Question, outcome: Reply | Exception) -> Reply | None:
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

    def _again(self, call: _Call, trouble: wire.Trouble) -> float | None:
        """Return the seconds until the next try, or None if there is none."""
        if not trouble.passing or call.tries + 1 >= self.tries:
            return None
        pause = trouble.pause(call.tries + 1, self.pause)
        return pause if pause <= wire.PATIENCE else None

    def _given_up(self, call: _Call, outcome: Reply | Exception, questions: int) -> Failed | Exception:
        """Return what a question without a reply is: a failure of its own, or the end of all."""
        assert not isinstance(outcome, Reply)
        if not isinstance(outcome, wire.Trouble):
            return outcome
        self.failed += 1
        tries = f", after {call.tries + 1} tries" if call.tries else ""
        why = f"{outcome}{tries}"
        if outcome.fatal or (not self.answered + self.found and self.failed >= min(HOPELESS, questions)):
            return UsageError(f"{self.backend.where}: {why}")
        return Failed(why)

    def _drain(self, pool: wire.Pool[Question, Reply], by_number: dict[int, Question]) -> None:
        """Wait for what is under way, and keep it: it was paid for."""
        while pool.running:
            if ended := pool.take(None):
                self._settle(by_number[ended[0].number], ended[1])
