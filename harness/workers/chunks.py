"""Requests cut into chunks of a fixed cost, answered independently.

In half precision a row's score depends on the rows beside it. So a chunk is the same for any worker: chunks are cut in
the order of the texts and by cost alone, never by the number of workers, and a subject forgets its prefixes between two
of them. Then one process, two workers and five give the same bits.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Unpack

from harness.records.models import Generate, Generation, Logprob, ModelRef, Progress, Subject, stream_answers
from harness.records.samples import Prompt
from harness.texts.escaping import shorten_text

Numbered = Iterator[tuple[int, Any]]  # answers, each with the number of its request
Ask = Callable[[int, str, Sequence[Any], Mapping[str, Any]], Numbered]
Tell = Callable[[Progress], None]
PREFERRED_BATCH_ROWS = 1 << 14  # rows to hand out at once: pieces for many workers, whatever their number
CHUNK_CHARS = 1 << 15  # characters of a piece, what requests share counted once: about 64 rows
# Times the length of what they begin with that a piece costs at least: for answers it is run again for each piece, for
# scores a subject may keep it.
BEGINNINGS = {"generate": 16, "logprobs": 2, "token_kl": 2}
MAX_TRIES = 3  # of a piece, before its row at fault is looked for
CHARS_PER_TOKEN = 4  # characters for a token that is generated


def cut_chunks(method: str, requests: Sequence[Any], options: Mapping[str, Any], times: int = 1) -> list[list[int]]:
    """Return the numbers of requests, piece by piece: in the order of their texts, and those of a prompt together.

    `times` makes pieces so many times as large, as a loader may ask for.
    """
    texts = [
        _make_prefix_and_whole_text(request) if method == "logprobs" else (said := _join_prompt(request), said)
        for request in requests
    ]
    answer = _estimate_answer_chars(method, options)
    pieces, cost, first, last = list[list[int]](), 0, "", ("", "")
    for i in sorted(range(len(texts)), key=texts.__getitem__):
        prompt, text = texts[i]
        shared = common_prefix_length(first, text)
        full = cost - shared >= CHUNK_CHARS * times and cost >= BEGINNINGS[method] * shared
        if pieces and (prompt == last[0] or not full):
            cost += len(text) - common_prefix_length(last[1], text) + answer
            pieces[-1].append(i)
        else:
            cost, first = len(text) + answer, text
            pieces.append([i])
        last = texts[i]
    return pieces


def chunk_cost(method: str, requests: Sequence[Any], options: Mapping[str, Any]) -> int:
    """Estimate a chunk's cost in characters.

    It counts the requests and the longest answers that they allow.
    """
    pairs = method in ("logprobs", "count_tokens")
    return sum(len(_make_prefix_and_whole_text(r)[1] if pairs else _join_prompt(r)) for r in requests) + len(
        requests
    ) * _estimate_answer_chars(method, options)


def chunk_options(method: str, numbers: Sequence[int], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords with which some of the requests are asked: answers that are drawn have a seed each."""
    return {**Generate(**options).for_prompts(numbers).keywords} if method == "generate" else dict(options)


def common_prefix_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Count the characters or tokens that two begin with in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # slices are compared in C, so halving beats walking
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


class ChunkQueue:
    """Pieces of requests by their numbers; not for several threads.

    A piece is asked again whole, so that its answers have the same bits, and what was given before is not given twice.
    One that fails three times is halved until a row is found, and what its halves answer counts for nothing.
    """

    def __init__(self, pieces: list[list[int]]) -> None:
        self.pieces, self.left, self.waiting = pieces, len(pieces), deque(range(len(pieces)))
        self._given, self._failed = set[int](), Counter[int]()
        self._halves, self._halved = set[int](), list[int]()

    def take_rows(self, piece: int, rows: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
        """Return the new ones of a piece's rows, by their requests."""
        if piece in self._halves:
            return []
        numbers = self.pieces[piece]
        new = [(numbers[place], answer) for place, answer in rows if numbers[place] not in self._given]
        self._given.update(number for number, _ in new)
        return new

    def mark_answered(self, piece: int) -> list[int]:
        """Mark a chunk as answered.

        Returns the rows that failed together, once all parts into which they were halved are answered; else an empty
        list.
        """
        self.left -= 1
        searched = piece in self._halves
        self._halves.discard(piece)
        return self._halved if searched and not self._halves else []

    def mark_failed(self, piece: int) -> list[int]:
        """Mark a chunk as failed, and retry or halve it.

        Returns the row that always fails once it is found, else an empty list.
        """
        self._failed[piece] += 1
        if piece not in self._halves and self._failed[piece] < MAX_TRIES:
            self.waiting.appendleft(piece)
            return []
        rest = [number for number in self.pieces[piece] if number not in self._given] or self.pieces[piece]
        if len(rest) == 1:
            return rest
        self._halves.discard(piece)
        self._halved, half = self._halved or rest, len(rest) // 2
        for part in (rest[half:], rest[:half]):
            self._halves.add(len(self.pieces))
            self.waiting.appendleft(len(self.pieces))
            self.pieces.append(part)
        self.left += 1
        return []


def describe_culprits(rows: Sequence[Any], why: Exception | None) -> str:
    """Return in a line which rows are never answered: one, and how that ended, or several that are only together."""
    first = rows[0]
    text = first[0] or first[1] if isinstance(first, (list, tuple)) and len(first) == 2 else first
    if isinstance(text, list):
        text = str(text[-1].get("content")) if text and isinstance(text[-1], dict) else str(text)
    row = (
        f'"{shorten_text(" ".join(str(text).split()), 120)}"'  # its beginning and its end: behind examples rows differ
    )
    if why is None:
        return (
            f"{len(rows)} rows failed {MAX_TRIES} times together, but not in halves; the first is {row}; check memory"
        )
    return f"row {row} always fails: {why}"


class StreamingSubject:
    """A subject with all answers from its method `_stream`.

    `_stream(method, requests, options)` yields (number of the request, answer) one by one.
    """

    def generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> list[str]:
        """Answer each prompt; see `Subject`."""
        return self._answer_all_in_order("generate", prompts, options)

    def stream_generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> Iterator[tuple[int, str]]:
        """Yield (number of the prompt, answer) as answers come."""
        return self._stream("generate", prompts, options)

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> list[Logprob]:
        """Score each continuation after its prompt; see `Subject`."""
        return self._answer_all_in_order("logprobs", pairs, options)

    def stream_logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> Iterator[tuple[int, Logprob]]:
        """Yield (number of the pair, score) as scores come."""
        return self._stream("logprobs", pairs, options)

    def _stream(self, method: str, requests: Sequence[Any], options: Mapping[str, Any]) -> Numbered:
        raise NotImplementedError

    def _answer_all_in_order(self, method: str, requests: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
        found = dict(self._stream(method, requests, options))
        return [found[i] for i in range(len(requests))]


class ChunkedSubject(StreamingSubject):
    """A loaded subject that is asked in pieces: the one worker of a run that names no others."""

    name: str  # this and all else that is not here is the subject's own
    digest: str

    def __init__(self, subject: Subject, tell: Tell, times: int = 1) -> None:
        self.subject, self._tell, self._times = subject, tell, times
        self.preferred_batch_rows = PREFERRED_BATCH_ROWS * times

    def __getattr__(self, name: str) -> Any:
        """Return the loaded subject's attribute. Its `token_kl`, if it has one, runs in chunks."""
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.subject, name)
        if name == "token_kl":
            return lambda texts, against: self._answer_all_in_order(name, texts, {"against": against.subject})
        return found

    def _stream(self, method: str, requests: Sequence[Any], options: Mapping[str, Any]) -> Numbered:
        pieces, done = cut_chunks(method, requests, options, self._times), 0
        for numbers in pieces:
            forget_all(self.subject, options.get("against"))
            asked = [requests[i] for i in numbers]
            for number, answer in stream_answers(self.subject, method, asked, chunk_options(method, numbers, options)):
                yield numbers[number], answer
            done += len(numbers)
            if len(pieces) > 1:
                self._tell(Progress(f"{self.name}: answers", done, len(requests)))


class PooledSubject(StreamingSubject):
    """One of a pool's models, as a Subject."""

    def __init__(self, ask: Ask, of_workers: list[str], number: int, ref: ModelRef, piece: int) -> None:
        self.preferred_batch_rows = PREFERRED_BATCH_ROWS * piece
        self.name, self.digest, self.number = ref.name, ref.digest, number
        self._ask, self._of_workers, self._notes, self._heard = ask, of_workers, list[str](), set[str]()
        self.facts: Mapping[str, Any] = {}  # what a worker's model came to know stays there

    @property
    def notes(self) -> list[str]:
        """Notes on the model and on lost workers.

        The same note from several workers appears once.
        """
        self._notes += self._of_workers
        self._of_workers.clear()
        return self._notes

    def add_notes(self, notes: Any) -> None:
        """Add the new ones of a worker's notes on its model."""
        new = [note for note in map(str, notes) if note not in self._heard] if isinstance(notes, list) else []
        self._heard.update(new)
        self._notes += new

    def token_kl(self, texts: Sequence[str], against: PooledSubject) -> list[tuple[float, int]]:
        """Compare next-token distributions with another model of the same workers."""
        return self._answer_all_in_order("token_kl", texts, {"against": against.number})

    def count_tokens(self, pairs: Sequence[tuple[Prompt, str]]) -> list[int]:
        """Count the tokens of each prompt and continuation together."""
        return self._answer_all_in_order("count_tokens", pairs, {})

    def render(self, messages: list[dict[str, str]]) -> str:
        """Render chat messages with the template, including the generation prompt."""
        return str(self._answer_all_in_order("render", [messages], {})[0])

    def __getattr__(self, name: str) -> Any:
        """Ask a worker for a fact, such as `nbytes`."""
        if name.startswith(("_", "stream_")):
            raise AttributeError(name)
        with suppress(TypeError):
            return self._answer_all_in_order("fact", [name], {})[0]
        raise AttributeError(name)

    def _stream(self, method: str, requests: Sequence[Any], options: Mapping[str, Any]) -> Numbered:
        return self._ask(self.number, method, requests, options)


def forget_all(*subjects: Any) -> None:
    """Clear the caches that subjects keep of earlier requests."""
    for subject in subjects:
        if forget := getattr(subject, "forget", None):
            forget()


def _estimate_answer_chars(method: str, options: Mapping[str, Any]) -> int:
    return CHARS_PER_TOKEN * Generate(**options).max_new_tokens if method == "generate" else 0


def _join_prompt(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(str(m.get("content") or "") for m in prompt)


def _make_prefix_and_whole_text(pair: tuple[Prompt, str]) -> tuple[str, str]:
    """Return a pair's prompt and its whole text. An empty prompt is replaced by the whole text."""
    prompt = _join_prompt(pair[0])
    return prompt or pair[1], prompt + pair[1]
