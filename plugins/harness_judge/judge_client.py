"""A judge, ready to be asked: a model that runs here, or one behind an API; and what it is as an instrument.

Many questions to an API are looked up first, asked once, tried again, within a budget. One thread decides and writes;
others only wait for the server. An answer is on the disk before the next call takes its place, so a kill loses the
calls under way and nothing else.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, TypeAlias

from harness import Responses, UsageError, digest_value
from harness.internals import http_client, keys, request_key
from harness_judge import prompts
from harness_judge.options import Budget, JudgeOptions
from harness_judge.prompts import Question
from harness_judge.service import AnthropicJudge, OpenAIJudge
from harness_judge.verdict import FailedQuestion, Reply

if TYPE_CHECKING:
    from harness_judge.local import LocalJudge

Told = Callable[[int, int], None]  # of how many questions have an answer, and how many there are
MAX_FIRST_FAILURES = 3  # questions that come to nothing before any is answered: the judge is not there
JudgeClient: TypeAlias = "RemoteJudge | LocalJudge"  # an API's desk, or a model that runs here


def open_judge_client(
    options: JudgeOptions, responses: Responses | None, progress: Told = lambda done, total: None,
    budget: Budget | None = None,
) -> JudgeClient:  # fmt: skip
    """Create the configured judge, without loading or calling it.

    `budget` is the rest of one, by default that of the options. Raises UsageError if the judge is unusable.
    """
    if options.backend_name == "local":
        from harness_judge.local import LocalJudge

        return LocalJudge(options.model_name, responses, options.local, progress)
    return RemoteJudge(options, responses, progress, budget or options.budget())


def judge_identity(options: JudgeOptions, models: dict[str, None]) -> dict[str, str]:
    """Return the identity of a judge that a calibration is valid for.

    It covers the model that replied last, the wording of the prompts, and the rubric.
    """
    asked = [options.mode, options.guideline, dict(options.criteria or {}), options.reference, options.k]
    rubric = digest_value([*asked, options.answer_chars, dict(options.body or {})])[:16]
    return {"model": next(reversed(models), ""), "prompt": prompts.prompts_digest()[:16], "rubric": rubric}


@dataclass(order=True)
class _Attempt:
    due: float
    number: int
    tries: int = 0


class RemoteJudge:
    """Where questions are put to one judge. `models` holds the ids that replied, `capped` the cap that was reached."""

    def __init__(self, options: JudgeOptions, responses: Responses | None, progress: Told, budget: Budget) -> None:
        self.backend = OpenAIJudge(options) if options.backend_name == "openai" else AnthropicJudge(options)
        self.budget, self.responses, self.progress = budget, responses, progress
        self.concurrency, self.tries = options.concurrency, options.retries + 1
        self.pause = http_client.FIRST_PAUSE_SECONDS
        self.models, self.capped = dict[str, None](), ""  # the id of what replied last is the last
        self._identity = [self.backend.identity, keys.digest_content([RemoteJudge])]  # how it is asked, and read
        self._alias = request_key("judge", "model", self._identity)
        self.asked = self.found = self.again = 0  # questions, those remembered, and tries beyond the first
        self.answered = self.failed = 0

    def close(self) -> None:
        """Close the backend's connections."""
        self.backend.close()

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply | FailedQuestion]]:
        """Yield (number, reply) for each question, remembered ones first. Raises UsageError when no judge is there."""
        same: dict[bytes, list[int]] = {}
        for i, question in enumerate(questions):
            same.setdefault(self._key(question, ""), []).append(i)
        self.asked += len(questions)
        known: dict[int, Reply] = {}
        if self.responses is not None:  # what the model that replied last has said; which one that was is kept too
            model = self.responses.find([self._alias], counts=False).get(self._alias)
            if isinstance(model, str):
                wanted = [self._key(q, model) for q in questions]
                values = self.responses.find(wanted, lambda value: Reply(*value))
                known = {i: values[key] for i, key in enumerate(wanted) if key in values}
        done = len(known)
        self.found += done
        for i, reply in known.items():
            self.models.setdefault(reply.model)
            yield i, reply
        missing = {numbers[0]: numbers for numbers in same.values() if numbers[0] not in known}
        for first, outcome in self._iterate_concurrent_replies({i: questions[i] for i in missing}):
            for i in missing[first]:
                done += 1
                self.progress(done, len(questions))
                yield i, outcome

    def _key(self, question: Question, model: str) -> bytes:
        return request_key("judge", "judgment", self._identity, model, question.messages(), question.schema, question.k)

    def _iterate_concurrent_replies(
        self, by_number: Mapping[int, Question]
    ) -> Iterator[tuple[int, Reply | FailedQuestion]]:
        """Yield replies until each question is settled, or the budget exhausted.

        Raises UsageError if the judge is unavailable.
        """
        ready, later = deque(_Attempt(0.0, i) for i in by_number), list[_Attempt]()
        with http_client.RequestThreads(min(self.concurrency, len(ready)), self.backend.ask) as pool:
            while ready or later or pool.running:
                while later and later[0].due <= time.monotonic():
                    ready.appendleft(heapq.heappop(later))
                while ready and pool.running < self.concurrency:
                    if not self.budget.reserve(self.backend.max_tokens(by_number[ready[0].number])):
                        break
                    call = ready.popleft()
                    pool.submit(call, by_number[call.number])
                if ready and not pool.running and self.budget.reached:
                    self.capped = self.budget.reached
                    why = f"not judged: {self.capped} was reached"
                    yield from ((c.number, FailedQuestion(why, asked=False)) for c in (*ready, *later))
                    return
                if (ended := pool.next_result(later[0].due - time.monotonic() if later else None)) is None:
                    continue
                call, outcome = ended
                if (reply := self._charge_budget_and_keep_reply(by_number[call.number], outcome)) is not None:
                    yield call.number, reply
                elif (
                    isinstance(outcome, http_client.RequestError) and (pause := self._again(call, outcome)) is not None
                ):
                    self.again += 1
                    heapq.heappush(later, _Attempt(time.monotonic() + pause, call.number, call.tries + 1))
                elif isinstance(failed := self._make_final_failure(call, outcome, len(by_number)), Exception):
                    while pool.running and (under_way := pool.next_result()):  # keep it: it was paid for
                        self._charge_budget_and_keep_reply(by_number[under_way[0].number], under_way[1])
                    raise failed
                else:
                    yield call.number, failed

    def _charge_budget_and_keep_reply(self, question: Question, outcome: Reply | Exception) -> Reply | None:
        """Settle the cost of a call, and store its reply. None if it has no reply."""
        most = self.backend.max_tokens(question)
        used = outcome if isinstance(outcome, Reply) else getattr(outcome, "reply", None)
        if used is not None:
            told = used.tokens_in or most.tokens_in, used.tokens_out or most.tokens_out  # 0: the server tells none
            self.budget.settle(most, *told)
        elif not getattr(outcome, "charged", True):
            self.budget.settle(most, 0, 0)
        if not isinstance(outcome, Reply):
            return None
        self.answered += 1
        if self.responses is not None:
            if next(reversed(self.models), None) != outcome.model:
                self.responses.store(self._alias, outcome.model)
            self.responses.store(self._key(question, outcome.model), list(astuple(outcome)))
            self.responses.flush()
        self.models.pop(outcome.model, None)
        self.models[outcome.model] = None
        return outcome

    def _again(self, call: _Attempt, trouble: http_client.RequestError) -> float | None:
        """Return the delay before the next retry, in seconds. None means no retry."""
        if not trouble.passing or call.tries + 1 >= self.tries:
            return None
        pause = trouble.retry_delay(call.tries + 1, self.pause)
        return pause if pause <= http_client.MAX_RETRY_AFTER_S else None

    def _make_final_failure(
        self, call: _Attempt, outcome: Reply | Exception, questions: int
    ) -> FailedQuestion | Exception:
        """Return a question's failure, or the error that ends the judging.

        That is a UsageError if the error is fatal, or the first questions failed without any reply.
        """
        assert not isinstance(outcome, Reply)
        if not isinstance(outcome, http_client.RequestError):
            return outcome
        self.failed += 1
        why = f"{outcome}, after {call.tries + 1} tries" if call.tries else f"{outcome}"
        if outcome.fatal or (not self.answered + self.found and self.failed >= min(MAX_FIRST_FAILURES, questions)):
            return UsageError(f"{self.backend.where}: {why}")
        return FailedQuestion(why)
