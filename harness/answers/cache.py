"""Subjects that remember: the model behind them is loaded when something is asked that was not asked before."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import astuple
from functools import partial
from typing import Any, NamedTuple, TypeVar, Unpack

from harness.answers.store import Responses, request_key
from harness.errors import PLUGIN_ERRORS, UsageError
from harness.records.completion import Completion, completion_from_json, completion_to_json
from harness.records.models import Generate, Generation, Logprob, ModelRef, Subject, stream_answers
from harness.records.samples import Prompt
from harness.texts.escaping import drop_surrogates

T = TypeVar("T")
Stream = Generator[tuple[int, T], None, None]  # (number of the request, answer)


class RequestCount(NamedTuple):
    """Counts of requests and cache hits."""

    requests: int
    cache_hits: int


class StageModels:
    """The models of one stage: loaded together, when the first of them is needed. One thread asks at a time."""

    def __init__(self, load: Callable[[], AbstractContextManager[list[Subject]]]) -> None:
        self._load, self._open = load, ExitStack()
        self.lock = threading.RLock()
        self.loaded: Sequence[Subject] = []  # those that are in memory: all, or none
        self.broken: Exception | None = None  # why they cannot be loaded
        self.mended: dict[str, int] = {}  # by name: answers that held half a surrogate pair

    def __getitem__(self, number: int) -> Subject:
        if not self.loaded:
            try:
                self.loaded = self._open.enter_context(self._load())
            except Exception as error:
                self.broken = error
                raise
        return self.loaded[number]

    def notes(self) -> list[str]:
        """Return and clear the notes of the loaded models.

        A model with answers that contained a lone surrogate gets a note that these were replaced.
        """
        found = [
            (
                f'"{name}": {n} answers contain a lone surrogate, which is not a valid '
                "character; it is replaced by U+FFFD"
            )
            for name, n in self.mended.items()
        ]
        self.mended.clear()
        for subject in self.loaded:
            notes = getattr(subject, "notes", [])
            found += notes
            notes.clear()
        return found

    def close(self) -> None:
        """Free them, if they were loaded."""
        self.loaded = []
        self._open.close()


class CachedSubject:
    """A thread-safe subject that looks answers up before running its model.

    The cache key is `identity` and the request. `asked` counts the requests so far, `found` those that an
    earlier run answered.
    """

    def __init__(
        self,
        ref: ModelRef,
        identity: str,
        models: StageModels,
        number: int,
        responses: Responses,
        preferred_batch_rows: int | None = None,
    ) -> None:
        self.name, self.digest, self.preferred_batch_rows = ref.name, ref.digest, preferred_batch_rows
        self.identity, self.responses = f"{identity} {ref.digest}", responses  # a loader may forget the weights
        self._models, self._number = models, number
        self.asked = self.found = 0
        self.wants_endings = False  # whether an answer of which nobody knows how it ended is asked again, once
        self._sent: set[str] = set()  # prompts, since they were last told

    @property
    def loaded(self) -> Any:
        """The model itself, in memory."""
        return self._models[self._number]

    def generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> list[str]:
        """Answer each prompt; see `Subject`."""
        how = Generate(**options)
        self._sent.update(map(_stringify_prompt, prompts))
        budget = how.thought_budget
        asked = (how.max_new_tokens, list(how.stop), how.truncate, *([astuple(budget)] if budget else []))
        drawn = [how.sampling.temperature, how.sampling.top_p, how.sampling.top_k] if how.sampling else None
        seeds = how.sampling.seeds if how.sampling else (None,) * len(prompts)
        keys = [self._key("generate", p, asked, drawn, seed) for p, seed in zip(prompts, seeds, strict=True)]

        def ask(numbers: Sequence[int]) -> Stream[str]:
            keywords = how.for_prompts(numbers).keywords
            for number, answer in stream_answers(self.loaded, "generate", [prompts[i] for i in numbers], keywords):
                mended = drop_surrogates(answer)  # which every file, metric and judge can take
                if mended != answer:
                    self._models.mended[self.name] = self._models.mended.get(self.name, 0) + 1
                    answer = Completion(mended, **vars(answer)) if isinstance(answer, Completion) else mended
                yield number, Completion.of(answer) if self.wants_endings else answer

        return self._find_or_request_answers(
            keys,
            ask,
            completion_to_json,
            completion_from_json,
            lambda answer: isinstance(answer, Completion) or not self.wants_endings,
        )

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], *, truncate: bool = False) -> list[Logprob]:
        """Score each continuation after its prompt; see `Subject`."""
        self._sent.update(_stringify_prompt(prompt) for prompt, _ in pairs)
        ask = partial(self._ask, "logprobs", pairs, {"truncate": True} if truncate else {})
        return self._find_or_request_answers(
            [self._key("logprob", *pair, truncate) for pair in pairs], ask, astuple, _parse_logprob
        )

    def token_kl(self, texts: Sequence[str], against: CachedSubject) -> list[tuple[float, int]]:
        """Compare next-token distributions with another model's; see `Distributions`."""
        keys = [self._key("kl", against.identity, text) for text in texts]

        def ask(numbers: Sequence[int]) -> Stream[tuple[float, int]]:
            if not hasattr(self.loaded, "token_kl"):
                raise UsageError(
                    f'"{self.name}" does not return token distributions; use a model that runs locally (use = "hf")'
                )
            yield from enumerate(self.loaded.token_kl([texts[i] for i in numbers], against.loaded))

        return self._find_or_request_answers(keys, ask, list, _parse_divergence)

    def count_tokens(self, pairs: Sequence[tuple[Prompt, str]]) -> list[int]:
        """Count the tokens of each prompt and continuation together."""
        keys = [self._key("count", *pair) for pair in pairs]
        return self._find_or_request_answers(keys, partial(self._ask, "count_tokens", pairs, {}), int, _require_int)

    def render(self, messages: list[dict[str, str]]) -> str:
        """Render chat messages with the template, including the generation prompt."""

        def ask(_: Sequence[int]) -> Stream[str]:
            yield 0, self.loaded.render(messages)

        return self._find_or_request_answers([self._key("render", messages)], ask, str, _require_text)[0]

    def pop_sent_prompts(self, prompts: Sequence[Prompt], *, as_json: bool = False) -> list[str | None]:
        """Return prompts as the model got them since the last call.

        None stands for a prompt that was not sent, or has no known rendering. No model is loaded for it: messages are
        rendered by a loaded model, and cached. With `as_json` messages that cannot be rendered are returned as JSON.
        """
        got = [_stringify_prompt(prompt) in self._sent for prompt in prompts]
        self._sent.clear()
        keys = {i: self._key("render", p) for i, p in enumerate(prompts) if isinstance(p, list) and got[i]}
        known: dict[bytes, str] = self.responses.find(keys.values(), _require_text) if keys else {}
        loaded = self._models.loaded[self._number] if keys and self._models.loaded else None
        if render := getattr(loaded, "render", None):
            with suppress(*PLUGIN_ERRORS):  # what cannot be told is left out
                for number, key in keys.items():
                    if key not in known:
                        known[key] = drop_surrogates(str(render(prompts[number])))
                        self.responses.store(key, known[key])
            self.responses.flush()
        texts = {i: known.get(key) for i, key in keys.items()}
        if as_json:
            texts = {i: json.dumps(prompts[i], ensure_ascii=False) if t is None else t for i, t in texts.items()}
        return [(p if isinstance(p, str) else texts[i]) if got[i] else None for i, p in enumerate(prompts)]

    def __getattr__(self, name: str) -> Any:
        """Return a cached fact, else the model's own attribute.

        This serves everything that is not requested row by row. Texts and whole numbers, such as `nbytes`, are cached.
        """
        if name.startswith("_"):
            raise AttributeError(name)
        key = self._key("fact", name)
        known = self.responses.find([key], _require_bool_int_or_str)
        if key in known:
            return known[key]
        with self._models.lock:
            value = getattr(self.loaded, name)
        if isinstance(value, (int, str)):
            self.responses.store(key, value)
        return value

    def _ask(self, method: str, asked: Sequence[Any], options: Mapping[str, Any], some: Sequence[int]) -> Stream[Any]:
        return stream_answers(self.loaded, method, [asked[i] for i in some], options)

    def _key(self, kind: str, *request: Any) -> bytes:
        return request_key(self.identity, kind, *request)

    def _find_or_request_answers(
        self,
        keys: Sequence[bytes],
        ask: Callable[[Sequence[int]], Stream[T]],
        to_json: Callable[[T], Any],
        from_json: Callable[[Any], T],
        enough: Callable[[T], bool] = lambda _: True,
    ) -> list[T]:
        """Return cached answers, and request and store the missing ones.

        Each key is requested once, also if its cached answer is not `enough`. Answers are stored as they arrive.
        """
        with self._models.lock:
            return self._answer(keys, ask, to_json, from_json, enough)

    def _answer(
        self,
        keys: Sequence[bytes],
        ask: Callable[[Sequence[int]], Stream[T]],
        to_json: Callable[[T], Any],
        from_json: Callable[[Any], T],
        enough: Callable[[T], bool],
    ) -> list[T]:
        known = {k: answer for k, answer in self.responses.find(keys, from_json).items() if enough(answer)}
        self.asked += len(keys)
        self.found += sum(key in known and self.responses.is_from_before(key) for key in keys)
        first = {key: i for i, key in reversed(list(enumerate(keys))) if key not in known}
        if missing := sorted(first.values()):
            try:
                with closing(ask(missing)) as stream:
                    for number, answer in stream:
                        key = keys[missing[number]]
                        known[key] = answer
                        self.responses.store(key, to_json(answer))
            finally:
                self.responses.flush()
        if lacking := sum(key not in known for key in keys):
            raise ValueError(f'model "{self.name}" returned no answer for {lacking} of {len(keys)} requests')
        return [known[key] for key in keys]


def _stringify_prompt(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else repr(prompt)


def _require_text(value: Any) -> str:
    """Return a cached answer that must be a text.

    This and the functions below raise TypeError or ValueError for a value of another kind.
    """
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _require_int(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("not a whole number")
    return value


def _require_bool_int_or_str(value: Any) -> int | str:
    return value if isinstance(value, bool) else _require_text(value) if isinstance(value, str) else _require_int(value)


def _parse_logprob(value: Any) -> Logprob:
    total, tokens, size, greedy = value
    if not isinstance(greedy, bool):
        raise TypeError("not a log-probability")
    return Logprob(float(total), _require_int(tokens), _require_int(size), greedy)


def _parse_divergence(value: Any) -> tuple[float, int]:
    total, tokens = value
    return float(total), _require_int(tokens)


def uncached(subject: Subject) -> Subject:
    """Return the model itself, which remembers nothing: what is timed must be run."""
    return subject.loaded if isinstance(subject, CachedSubject) else subject


def count_requests(subject: Subject | None) -> RequestCount:
    """Return the counts of requests and cache hits so far.

    Both are 0 for a subject without a cache.
    """
    return RequestCount(subject.asked, subject.found) if isinstance(subject, CachedSubject) else RequestCount(0, 0)
