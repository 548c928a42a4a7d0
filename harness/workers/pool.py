"""Models that answer in workers: pieces go to whoever is free, and one that a worker died on goes to another.

Nothing is lost or doubled when workers die: a piece counts once it was answered whole. The answers are those of one
process, for pieces do not depend on who answers them or in which order.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Unpack

from harness import capabilities
from harness.answers import keys
from harness.errors import UsageError
from harness.plugins import Plugins
from harness.records.models import Generation, Logprob, ModelRef, Progress, Subject
from harness.records.samples import Prompt
from harness.texts.shown import shorten
from harness.workers.pieces import APPETITE, cut, some
from harness.workers.protocol import (
    PROTOCOL,
    Lost,
    Worker,
    Workers,
    packed,
    read_answers,
    read_error,
    told_options,
    told_ref,
    unpacked,
)

DEATHS = 3  # of workers on one piece, or while they load, before it is the piece that is at fault
HUNG = 10  # times the median piece, after which a worker answers no more
PATIENCE = 600.0  # seconds that it has at least
OPENS = 300.0  # seconds for a process to begin, and to say what it is
FIRST = 3600.0  # seconds to load, and for a piece before any is known to have ended
TICK = 1.0  # seconds between two looks at the clock
VERSION = keys.versions()[keys.CORE]


class WorkersGone(UsageError):
    """No worker is left, or none can be had that answers: every other evaluation would end alike."""


@dataclass(frozen=True)
class Opening:
    """What workers open: models of a loader, with the plugins of a suite."""

    loader: str
    refs: Sequence[ModelRef]
    suite: str
    plugins: Sequence[str]
    piece: int = 1

    @classmethod
    def of(cls, plugins: Plugins, suite: Path, loader: str, refs: Sequence[ModelRef]) -> Opening:
        """Return what opens models with the plugins that are loaded here."""
        piece = capabilities.Loader.of(plugins.find("loader", loader).function).piece
        return cls(loader, refs, str(suite.resolve()), plugins.asked, piece)

    def message(self) -> str:
        """Return it as it is sent."""
        told = [told_ref(ref) for ref in self.refs]
        about = {"protocol": PROTOCOL, "harness": VERSION}
        return packed({"do": "open", **about, **vars(self), "refs": told, "plugins": list(self.plugins)})


@dataclass
class _Task:
    """What a worker is at: a piece that somebody waits for, one that nobody does any more, or loading."""

    worker: Worker
    begun: float
    method: str  # "" while it loads
    piece: int = 0
    wanted: int = 0
    owner: object = None


class Pool:
    """The workers of a stage and their models; not for several threads.

    `identities` are of each model, as the first worker tells them; another's must be the same.
    """

    def __init__(
        self,
        workers: Workers,
        opening: Opening,
        tell: Callable[[Progress], None],
        identities: tuple[str | None, ...] | None = None,
    ) -> None:
        self.workers, self.opening, self._tell = workers, opening, tell
        self.identities = identities
        self.subjects = [Pooled(self, i, ref) for i, ref in enumerate(opening.refs)]
        self.notes: list[str] = []
        self.alive: list[Worker] = []
        self.lost = 0
        self._idle: deque[Worker] = deque()
        self._at: dict[Future[str], _Task] = {}
        self._kept: list[tuple[_Task, Any]] = []  # what came while another asked
        self._took: list[float] = []
        self._failed = 0  # workers that died while they loaded
        self._about: Mapping[str, Any] = {}

    def open(self) -> tuple[str | None, ...]:
        """Start the workers, unless they are, and return their models' identities; raises UsageError."""
        if not self.alive:
            self.alive = self.workers.start()
            try:
                for worker, future in [(worker, worker.send(self.opening.message())) for worker in self.alive]:
                    self._check(worker, future)
            except Lost as lost:
                self.close()
                raise self._gone(str(lost)) from None
            except BaseException:
                self.close()
                raise
        assert self.identities is not None
        return self.identities

    @contextmanager
    def loaded(self) -> Iterator[list[Subject]]:
        """Yield the models once a worker has loaded them; those that still load join later. Ends the workers."""
        try:
            self.open()
            for worker in self.alive:
                self._load(worker)
            while not self._idle:
                self._next(None)
            yield list(self.subjects)
        finally:
            self.close()

    def close(self) -> None:
        """End the workers."""
        for worker in self.alive:
            worker.close()
        self.alive, self._at = [], {}
        self._idle.clear()

    def ask(
        self, number: int, method: str, requests: Sequence[Any], options: Mapping[str, Any]
    ) -> Iterator[tuple[int, Any]]:
        """Yield (number of the request, answer), piece by piece as they come.

        Raises what the model raises, and WorkersGone where no worker is left or three died on one piece.
        """
        whole = method in ("fact", "render", "count_tokens")
        pieces = [list(range(len(requests)))] if whole else cut(method, requests, options, self.opening.piece)
        waiting, deaths, done, owner = deque(range(len(pieces))), Counter[int](), 0, object()
        left = len(pieces)
        try:
            while left:
                while waiting and self._idle:
                    numbers = pieces[waiting[0]]
                    how = told_options(some(method, numbers, options))
                    asked = {"number": number, "requests": [requests[i] for i in numbers], "options": how}
                    self._give(method, asked, waiting.popleft(), owner)
                if (found := self._next(owner)) is None:
                    continue
                piece, answers = found
                numbers = pieces[piece]
                if isinstance(answers, Lost):
                    deaths[piece] += 1
                    if deaths[piece] == DEATHS:
                        first = _begin(requests[numbers[0]])
                        raise self._gone(f'{DEATHS} workers died on the same rows, the first is "{first}": {answers}')
                    waiting.appendleft(piece)
                    continue
                if isinstance(answers, Exception):
                    raise answers
                left, done = left - 1, done + len(numbers)
                if len(pieces) > 1:
                    self._tell(Progress(f"{self.subjects[number].name}: answers", done, len(requests), self.facts))
                yield from zip(numbers, answers, strict=True)
        finally:
            for task in self._at.values():
                task.owner = None if task.owner is owner else task.owner  # nobody waits for it any more
            self._kept = [(task, reply) for task, reply in self._kept if task.owner is not owner]

    @property
    def facts(self) -> dict[str, str | float]:
        """Return what a person should see of the workers while they answer."""
        return {"workers": len(self.alive), **({"lost": self.lost} if self.lost else {})}

    # -- messages ----------------------------------------------------------------------------------

    def _give(self, method: str, asked: Mapping[str, Any], piece: int, owner: object) -> None:
        worker, wanted = self._idle.popleft(), len(asked["requests"])
        sent = worker.send(packed({"do": "ask", "method": method, **asked}))
        self._at[sent] = _Task(worker, time.monotonic(), method, piece, wanted, owner)

    def _load(self, worker: Worker) -> None:
        self._at[worker.send(packed({"do": "load"}))] = _Task(worker, time.monotonic(), "")

    def _next(self, owner: object) -> tuple[int, Any] | None:
        """Return the number of an owner's piece that ended, with its answers or an error, or None if none did yet.

        Lost workers are replaced here, and who has loaded is free.
        """
        if not (self._at or self._kept):
            raise self._gone("no worker is left")
        ended, running = wait(self._at, timeout=0 if self._kept else TICK, return_when=FIRST_COMPLETED)
        for future in running:
            self._end_if_hung(self._at[future])
        for future in ended:
            task = self._at.pop(future)
            reply = self._reply(future, task)
            if isinstance(reply, Lost):
                self._again(task.worker, reply, loading=not task.method)
            else:
                self._idle.append(task.worker)
                if isinstance(reply, Exception) and not task.method:
                    raise reply
            if task.owner is not None:
                self._kept.append((task, reply))
        for i, (task, reply) in enumerate(self._kept):
            if task.owner is owner:
                del self._kept[i]
                return task.piece, reply
        return None

    def _reply(self, future: Future[str], task: _Task) -> list[Any] | Exception:
        """Return answers as what they must be, or the error that came instead of them."""
        try:
            reply = unpacked(future.result())
            if "error" in reply:
                return read_error(reply["error"])
            self._take_notes(reply)
            if not task.method:
                return []
            answers = read_answers(task.method, reply.get("answers"), task.wanted)
        except Lost as lost:
            return lost
        except (TypeError, ValueError) as error:
            return Lost(f"what it said is no answer: {error}")
        self._took.append(time.monotonic() - task.begun)
        return answers

    def _take_notes(self, reply: Mapping[str, Any]) -> None:
        for subject, notes in zip(self.subjects, reply.get("notes", []), strict=False):
            subject.hear(notes)
        for subject, digest in zip(self.subjects, reply.get("digests", []), strict=False):
            subject.digest = subject.digest or str(digest)

    # -- who answers -------------------------------------------------------------------------------

    def _end_if_hung(self, task: _Task) -> None:
        """End a worker that has been at a piece for much longer than others take; its future tells that it is lost."""
        known = task.method and self._took
        most = max(PATIENCE, HUNG * median(self._took)) if known else FIRST
        if time.monotonic() - task.begun > most:
            task.worker.close()

    def _again(self, worker: Worker, why: Lost, *, loading: bool) -> None:
        """Note a loss, and start a successor."""
        worker.close()
        self.alive.remove(worker)
        self.lost += 1
        self._failed += loading
        if self._failed >= DEATHS:
            raise self._gone(f"{DEATHS} workers died while they loaded the model, the last {why}")
        then = "" if loading else ", and what it was at went to another"
        self.notes.append(f"--on {self.workers.said}: {worker.name} was lost ({why}){then}")
        while successor := self.workers.again():
            self.alive.append(successor)
            try:
                self._check(successor, successor.send(self.opening.message()))
                return self._load(successor)
            except Lost as lost:  # as where its machine is about to go away too
                successor.close()
                self.alive.remove(successor)
                self._failed += 1
                if self._failed >= DEATHS:
                    raise self._gone(str(lost)) from None

    def _check(self, worker: Worker, future: Future[str]) -> None:
        """Refuse a worker of another harness, or whose models answer as others than the first one's; raises Lost."""
        try:
            reply = unpacked(future.result(OPENS))
        except (Lost, TimeoutError, ValueError) as why:
            raise Lost(f"{worker.name} cannot be started: {why or f'it said nothing in {OPENS:g} s'}") from None
        about = reply.get("about")
        about = about if isinstance(about, dict) else {}
        if "error" in reply:
            error = read_error(reply["error"])
            raise self._gone(f"{worker.name}: {error}") from error
        if (about.get("protocol"), about.get("harness")) != (PROTOCOL, VERSION):
            theirs = f"harness {about.get('harness')} (protocol {about.get('protocol')})"
            raise self._gone(f"{worker.name} has {theirs}, this is {VERSION} ({PROTOCOL}); install the same there")
        given = reply.get("identity")
        told = tuple(given) if isinstance(given, list) else ()
        if len(told) != len(self.opening.refs) or not all(one is None or isinstance(one, str) for one in told):
            raise Lost(f"{worker.name} does not say what its models are")
        if self.identities is None:
            self.identities, self._about = told, about
        if told != self.identities:
            raise self._gone(self._differs(worker, told, about))

    def _differs(self, worker: Worker, told: Sequence[Any], about: Mapping[str, Any]) -> str:
        """Return in a line how a worker's models differ from the others', and what may have made them so."""
        pairs = zip(self.opening.refs, told, self.identities or (), strict=False)
        name, theirs, ours = next(((r.name, t, o) for r, t, o in pairs if t != o), ("all", None, None))
        before = (self._about or {"versions": keys.versions()}).get("versions", {})
        before, now = (one if isinstance(one, dict) else {} for one in (before, about.get("versions")))
        other = [f"{n} {now.get(n)} against {before.get(n)}" for n in {**before, **now} if now.get(n) != before.get(n)]
        why = "; ".join(other) or 'the same versions, so another machine, weights, code or meaning of "auto"'
        return f'{worker.name} has identity {str(theirs)[:16]} of model "{name}", others have {str(ours)[:16]}: {why}'

    def _gone(self, why: str) -> WorkersGone:
        return WorkersGone(f"--on {self.workers.said}: {why}")


class Pooled:
    """One of a pool's models, as a Subject."""

    def __init__(self, pool: Pool, number: int, ref: ModelRef) -> None:
        self.appetite = APPETITE * pool.opening.piece
        self.name, self.digest, self.number = ref.name, ref.digest, number
        self._pool, self._notes, self._heard = pool, list[str](), set[str]()
        self.facts: Mapping[str, Any] = {}  # what a worker's model came to know stays there

    @property
    def notes(self) -> list[str]:
        """What the model says of itself, once however many workers say so, and what became of the workers."""
        self._notes += self._pool.notes
        self._pool.notes.clear()
        return self._notes

    def hear(self, notes: Any) -> None:
        """Take what a worker's model says of itself."""
        new = [str(note) for note in notes if note not in self._heard] if isinstance(notes, list) else []
        self._heard.update(new)
        self._notes += new

    def generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> list[str]:
        """Answer each prompt; see `Subject`."""
        return self._all("generate", prompts, options)

    def stream_generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> Iterator[tuple[int, str]]:
        """Yield (number of the prompt, answer) as pieces of answers come."""
        return self._pool.ask(self.number, "generate", prompts, options)

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> list[Logprob]:
        """Score each continuation after its prompt; see `Subject`."""
        return self._all("logprobs", pairs, options)

    def stream_logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> Iterator[tuple[int, Logprob]]:
        """Yield (number of the pair, score) as pieces of scores come."""
        return self._pool.ask(self.number, "logprobs", pairs, options)

    def token_kl(self, texts: Sequence[str], against: Pooled) -> list[tuple[float, int]]:
        """Compare next-token distributions with those of another model of the same workers."""
        return self._all("token_kl", texts, {"against": against.number})

    def count_tokens(self, pairs: Sequence[tuple[Prompt, str]]) -> list[int]:
        """Count the tokens of each prompt and continuation together."""
        return self._all("count_tokens", pairs, {})

    def render(self, messages: list[dict[str, str]]) -> str:
        """Write chat messages as the template does, with the answer's turn opened."""
        return str(self._all("render", [messages], {})[0])

    def __getattr__(self, name: str) -> Any:
        """Ask a worker for a fact, such as `nbytes`."""
        if name.startswith(("_", "stream_")):
            raise AttributeError(name)
        with suppress(TypeError):
            return self._all("fact", [name], {})[0]
        raise AttributeError(name)

    def _all(self, method: str, requests: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
        found = dict(self._pool.ask(self.number, method, requests, options))
        return [found[i] for i in range(len(requests))]


def _begin(request: Any) -> str:
    """Return what a request asks, in a line: its beginning and its end, where rows differ behind examples."""
    text = request[0] or request[1] if isinstance(request, (list, tuple)) and len(request) == 2 else request
    if isinstance(text, list):
        text = str(text[-1].get("content")) if text and isinstance(text[-1], dict) else str(text)
    return shorten(" ".join(str(text).split()), 120)
