"""Requests cut into pieces of a fixed cost, each answered as if nothing had been asked before.

In half precision a row's score depends on the rows beside it. So a piece is the same whoever answers it: pieces are cut
in the order of the texts and by cost alone, never by the number of workers, and a subject forgets its prefixes between
two of them. Then one process, two workers and five give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Unpack

from harness.records.models import Generate, Generation, Logprob, Progress, Subject, streamed
from harness.records.samples import Prompt

APPETITE = 1 << 14  # rows to hand out at once: pieces for many workers, whatever their number
COST = 1 << 15  # characters of a piece, what requests share counted once: about 64 rows
# Times the length of what they begin with that a piece costs at least: for answers it is run again for each piece, for
# scores a subject may keep it.
BEGINNINGS = {"generate": 16, "logprobs": 2, "token_kl": 2}
ANSWER = 4  # characters for a token that is generated


def cut(method: str, requests: Sequence[Any], options: Mapping[str, Any], times: int = 1) -> list[list[int]]:
    """Return the numbers of requests, piece by piece: in the order of their texts, and those of a prompt together.

    `times` makes pieces so many times as large, as a loader may ask for.
    """
    texts = [_texts(request) if method == "logprobs" else (said := _text(request), said) for request in requests]
    answer = _answer(method, options)
    pieces: list[list[int]] = []
    cost, first, last = 0, "", ("", "")
    for i in sorted(range(len(texts)), key=texts.__getitem__):
        prompt, text = texts[i]
        shared = common(first, text)
        full = cost - shared >= COST * times and cost >= BEGINNINGS[method] * shared
        if pieces and (prompt == last[0] or not full):
            cost += len(text) - common(last[1], text) + answer
            pieces[-1].append(i)
        else:
            cost, first = len(text) + answer, text
            pieces.append([i])
        last = texts[i]
    return pieces


def cost_of(method: str, requests: Sequence[Any], options: Mapping[str, Any]) -> int:
    """Count the characters that requests hold, and those that may be answered."""
    pairs = method in ("logprobs", "count_tokens")
    return sum(len(_texts(r)[1] if pairs else _text(r)) for r in requests) + len(requests) * _answer(method, options)


def some(method: str, numbers: Sequence[int], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords with which some of the requests are asked: answers that are drawn have a seed each."""
    return {**Generate(**options).some(numbers).keywords} if method == "generate" else dict(options)


def common(one: str, other: str) -> int:
    """Count the characters two texts begin with in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # slices are compared in C, so halving beats walking
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


class InPieces:
    """A loaded subject that is asked in pieces: the one worker of a run that names no others."""

    def __init__(self, subject: Subject, tell: Callable[[Progress], None], times: int = 1) -> None:
        self.subject, self._tell, self._times = subject, tell, times
        self.appetite = APPETITE * times

    @property
    def name(self) -> str:
        return self.subject.name

    @property
    def digest(self) -> str:
        return self.subject.digest

    def generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> list[str]:
        """Answer each prompt; see `Subject`."""
        return self._all("generate", prompts, options)

    def stream_generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> Iterator[tuple[int, str]]:
        """Yield (number of the prompt, answer) as answers come."""
        return self._stream("generate", prompts, options)

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> list[Logprob]:
        """Score each continuation after its prompt; see `Subject`."""
        return self._all("logprobs", pairs, options)

    def stream_logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> Iterator[tuple[int, Logprob]]:
        """Yield (number of the pair, score) as scores come."""
        return self._stream("logprobs", pairs, options)

    def __getattr__(self, name: str) -> Any:
        """Answer all else as the subject does; comparing is cut as well, where it can compare."""
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.subject, name)
        return self._token_kl if name == "token_kl" else found

    def _token_kl(self, texts: Sequence[str], against: Any) -> list[tuple[float, int]]:
        return self._all("token_kl", texts, {"against": against.subject})

    def _all(self, method: str, requests: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
        found = dict(self._stream(method, requests, options))
        return [found[i] for i in range(len(requests))]

    def _stream(self, method: str, requests: Sequence[Any], options: Mapping[str, Any]) -> Iterator[tuple[int, Any]]:
        pieces, done = cut(method, requests, options, self._times), 0
        for numbers in pieces:
            fresh(self.subject, options.get("against"))
            asked = [requests[i] for i in numbers]
            for number, answer in streamed(self.subject, method, asked, some(method, numbers, options)):
                yield numbers[number], answer
            done += len(numbers)
            if len(pieces) > 1:
                self._tell(Progress(f"{self.name}: answers", done, len(requests)))


def fresh(*subjects: Any) -> None:
    """Let subjects forget what they keep of earlier requests to be faster."""
    for subject in subjects:
        if forget := getattr(subject, "forget", None):
            forget()


def _answer(method: str, options: Mapping[str, Any]) -> int:
    return ANSWER * Generate(**options).max_new_tokens if method == "generate" else 0


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(str(m.get("content") or "") for m in prompt)


def _texts(pair: tuple[Prompt, str]) -> tuple[str, str]:
    """Return the prompt of a pair, or its text where that is whole, and all of it."""
    prompt = _text(pair[0])
    return prompt or pair[1], prompt + pair[1]
