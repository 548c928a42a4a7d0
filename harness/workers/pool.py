"""Models that answer in workers: pieces go to whoever is free, and one that a worker died on goes to another.

Nothing is lost or doubled when workers die: a piece counts once it was answered whole. The answers are those of one
process, for pieces do not depend on who answers them or in which order.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any

from harness.answers import keys
from harness.errors import WorkersGoneError
from harness.plugins import Plugins
from harness.records.models import ModelRef, Progress, Subject
from harness.texts.numbers import format_duration
from harness.workers import protocol
from harness.workers.chunks import (
    ChunkQueue,
    Numbered,
    PooledSubject,
    Tell,
    chunk_cost,
    chunk_options,
    cut_chunks,
    describe_culprits,
)
from harness.workers.protocol import Worker, WorkerLostError, Workers

MAX_WORKER_DEATHS = 3  # of workers in a row that open or load, before it is the model that is at fault
HEARTBEAT_TIMEOUT_S = 600.0  # seconds that a worker may be silent, unless the user says another number
PATIENCE_FACTOR = 6  # times that: for one that lives to load, or to give a row
HANG_FACTOR = 10  # times what others took for as much work, if that is longer
MIN_CHARS_PER_S = 20.0  # characters asked and answered a second, before any is known to have been
POLL_INTERVAL_S = 1.0  # seconds between two looks at the clock
VERSION = keys.library_versions()[keys.CORE]


@dataclass(frozen=True)
class LoadRequest:
    """A request to open a loader's models, with a suite's plugins."""

    loader: str
    refs: Sequence[ModelRef]
    suite: str
    plugins: Sequence[str]
    piece: int = 1

    @classmethod
    def of(cls, plugins: Plugins, suite: Path, loader: str, refs: Sequence[ModelRef]) -> LoadRequest:
        """Return a request to open models with the plugins loaded here."""
        return cls(loader, refs, str(suite.resolve()), plugins.asked, plugins.find("loader", loader).capabilities.piece)

    def message(self) -> str:
        """Return it as it is sent."""
        told = [protocol.ref_to_json(ref) for ref in self.refs]
        about = {"protocol": protocol.PROTOCOL, "harness": VERSION}
        return protocol.pack_message({"do": "open", **about, **vars(self), "refs": told, "plugins": list(self.plugins)})


class _WrongReplyError(Exception):
    """An invalid reply from a worker that is alive and may retry."""


@dataclass(eq=False)
class _Errand:
    """A worker's current task: a chunk, or opening and loading models.

    The chunk's owner is None once nobody waits for it.
    """

    worker: Worker
    heard: float  # when it last said anything
    moved: float  # when it began, or last gave a row
    method: str = ""  # "" while it opens and loads
    piece: int = 0
    wanted: set[int] = field(default_factory=set)  # places in the piece that are not answered yet
    cost: int = 0
    owner: object = None


class Pool:
    """A stage's workers and their models; not thread-safe.

    `identities` are the models' identities as the first worker reports them; another's must be the same.
    """

    def __init__(
        self, workers: Workers, opening: LoadRequest, tell: Tell, patience: float = HEARTBEAT_TIMEOUT_S
    ) -> None:
        self.workers, self.opening, self._tell, self.patience = workers, opening, tell, patience
        self.identities: tuple[str | None, ...] | None = None
        self.notes: list[str] = []
        self.subjects = [
            PooledSubject(self.ask, self.notes, i, ref, opening.piece) for i, ref in enumerate(opening.refs)
        ]
        self.alive, self.lost = list[Worker](), 0
        self._idle: deque[Worker] = deque()
        self._at: dict[Future[str], _Errand] = {}
        self._said: SimpleQueue[tuple[_Errand, str]] = SimpleQueue()  # signs, from whatever thread heard them
        self._kept: list[tuple[_Errand, Any]] = []  # what came while another asked
        self._took = defaultdict[str, list[float]](list)  # seconds a character, by method
        self._failed = 0  # workers that died in a row before they had loaded
        self._about: Mapping[str, Any] = {}

    def start(self) -> tuple[str | None, ...]:
        """Start the workers, unless running, and return their models' identities.

        Raises UsageError.
        """
        if not self.alive:
            self.alive = self.workers.start()
            try:
                for worker, task, future in [(w, *self._start_errand(w, self.opening.message())) for w in self.alive]:
                    try:
                        self._check(worker, task, future)
                    except WorkerLostError as lost:
                        self._start_successor(worker, lost)
                if not self.alive:
                    raise self._make_workers_gone_error("no worker is left")
            except BaseException:
                self.close()
                raise
        assert self.identities is not None
        return self.identities

    @contextmanager
    def load_models(self) -> Iterator[list[Subject]]:
        """Yield the models once a worker has loaded them.

        Workers that are still loading join later. All workers end with the context.
        """
        try:
            self.start()
            for worker in self.alive:
                self._start_loading(worker)
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

    def ask(self, number: int, method: str, requests: Sequence[Any], options: Mapping[str, Any]) -> Numbered:
        """Yield (number of the request, answer) as they come.

        Raises what the model raises, and WorkersGone where no worker is left or a row is not answered three times.
        """
        whole = method in ("fact", "render", "count_tokens")
        work = ChunkQueue(
            [list(range(len(requests)))] if whole else cut_chunks(method, requests, options, self.opening.piece)
        )
        owner, several, done = object(), len(work.pieces) > 1, 0
        try:
            while work.left:
                while work.waiting and self._idle:
                    numbers = work.pieces[piece := work.waiting.popleft()]
                    asked, how = [requests[i] for i in numbers], chunk_options(method, numbers, options)
                    now, cost = time.monotonic(), chunk_cost(method, asked, how)
                    task = _Errand(self._idle.popleft(), now, now, method, piece, set(range(len(asked))), cost, owner)
                    told = {"do": "ask", "method": method, "number": number, "requests": asked}
                    message = protocol.pack_message({**told, "options": protocol.options_to_json(how)})
                    self._at[self._send(message, task)] = task
                if (found := self._next(owner)) is None:
                    continue
                task, came = found
                why = came if isinstance(came, (WorkerLostError, _WrongReplyError)) else None
                if came is None or why:
                    if fault := work.mark_failed(task.piece) if why else work.mark_answered(task.piece):
                        raise self._make_workers_gone_error(describe_culprits([requests[i] for i in fault], why))
                elif isinstance(came, Exception):
                    raise came
                elif rows := work.take_rows(task.piece, came):
                    done += len(rows)
                    if several:
                        facts = {"workers": len(self.alive), **({"lost": self.lost} if self.lost else {})}
                        self._tell(Progress(f"{self.subjects[number].name}: answers", done, len(requests), facts))
                    yield from rows
        finally:
            for task in self._at.values():
                task.owner = None if task.owner is owner else task.owner  # nobody waits for it any more
            self._kept = [(task, came) for task, came in self._kept if task.owner is not owner]

    # -- messages ----------------------------------------------------------------------------------

    def _send(self, message: str, task: _Errand) -> Future[str]:
        return task.worker.send(message, lambda said: self._said.put((task, said)))

    def _start_errand(self, worker: Worker, message: str) -> tuple[_Errand, Future[str]]:
        task = _Errand(worker, now := time.monotonic(), now)
        return task, self._send(message, task)

    def _start_loading(self, worker: Worker) -> None:
        task, loaded = self._start_errand(worker, protocol.pack_message({"do": "load"}))
        self._at[loaded] = task

    def _next(self, owner: object) -> tuple[_Errand, Any] | None:
        """Return the next result of an owner's chunks, or None yet.

        It is a task with rows, with an error, or with None once its chunk is complete. Lost workers are replaced here,
        and a worker that has loaded is idle. Raises the error of a model that cannot be loaded, and WorkersGoneError if
        no worker is left.
        """
        if not (self._at or self._kept):
            raise self._make_workers_gone_error("no worker is left")
        ready = any(task.owner is owner for task, _ in self._kept)
        ended, running = wait(self._at, timeout=0 if ready else POLL_INTERVAL_S, return_when=FIRST_COMPLETED)
        self._process_partial_messages()
        for future in running:
            self._end_if_hung(self._at[future])
        for future in ended:
            task = self._at.pop(future)
            came = self._parse_final_reply(future, task)
            if isinstance(came, WorkerLostError):
                self._again(task.worker, came, loading=not task.method)
            else:
                self._idle.append(task.worker)
                if isinstance(came, Exception) and not task.method:
                    raise came
            self._kept += [(task, came)] if isinstance(came, Exception) else [(task, came), (task, None)]
        for i, (task, came) in enumerate(self._kept):
            if task.owner is owner:
                del self._kept[i]
                return task, came
        self._kept = [(task, came) for task, came in self._kept if task.owner is not None]
        return None

    def _process_partial_messages(self) -> None:
        """Take the signs that came: who gives them lives, and rows are somebody's."""
        while not self._said.empty():
            task, said = self._said.get()
            task.heard = time.monotonic()
            with suppress(ValueError, TypeError):  # what is wrong with them shows in the end: they are still wanted
                if told := protocol.unpack_message(said).get("rows"):
                    self._kept.append((task, protocol.read_rows(task.method, told, task.wanted)))
                    task.moved = task.heard

    def _parse_final_reply(self, future: Future[str], task: _Errand) -> list[tuple[int, Any]] | Exception:
        """Return the validated last rows of a reply, or its error."""
        try:
            reply = protocol.unpack_message(future.result())
        except WorkerLostError as lost:
            return lost
        except ValueError as error:
            return WorkerLostError(f"it sent an invalid message: {error}")
        if "error" in reply:
            return protocol.error_from_json(reply["error"])
        try:
            for subject, notes in zip(self.subjects, reply.get("notes", []), strict=False):
                subject.add_notes(notes)
            for subject, digest in zip(self.subjects, reply.get("digests", []), strict=False):
                subject.digest = subject.digest or str(digest)
            rows = protocol.read_rows(task.method, reply.get("rows"), task.wanted) if task.method else []
            if task.wanted:
                raise ValueError(f"{len(task.wanted)} rows are missing")
        except (TypeError, ValueError) as error:
            return (
                _WrongReplyError(f"{task.worker.name}: {error}")
                if task.method
                else WorkerLostError(f"it sent an invalid reply: {error}")
            )
        if not task.method:
            self._failed = 0
            return []
        self._took[task.method].append((time.monotonic() - task.moved) / max(1, task.cost))
        return rows

    # -- who answers -------------------------------------------------------------------------------

    def _end_if_hung(self, task: _Errand) -> None:
        """Stop a worker without heartbeats or progress. Its future then raises WorkerLostError with the reason."""
        now = time.monotonic()
        if task.worker.beats and now - task.heard > self.patience:
            task.worker.close(
                f"it sent no heartbeat for {format_duration(self.patience)} and was stopped; --patience allows more"
            )
        elif (
            now - task.moved > PATIENCE_FACTOR * self.patience
        ):  # or what others took, of whom the median is not for each look
            took = self._took[task.method]
            others = (
                HANG_FACTOR * median(took) * task.cost
                if took
                else task.cost / MIN_CHARS_PER_S * self.patience / HEARTBEAT_TIMEOUT_S
            )
            if now - task.moved > (most := max(PATIENCE_FACTOR * self.patience, others)):
                what = "finished no row" if task.method else "did not finish loading"
                what += f" within {format_duration(most)}"
                task.worker.close(f"it sent heartbeats, but {what} and was stopped; --patience allows more")

    def _again(self, worker: Worker, why: WorkerLostError, *, loading: bool) -> None:
        """Note a loss, and start a successor."""
        then = "" if loading else ", and its rows were reassigned"
        if loading and self._failed + 1 >= MAX_WORKER_DEATHS:
            why = WorkerLostError(f"{MAX_WORKER_DEATHS} workers died while loading the model, the last: {why}")
        self.lost += 1
        if successor := self._start_successor(worker, why, failed=loading, then=then):
            self._start_loading(successor)

    def _start_successor(
        self, worker: Worker, why: WorkerLostError, *, failed: bool = True, then: str = ""
    ) -> Worker | None:
        """Start a successor of a lost worker.

        One that cannot be opened is replaced as well, as when a machine goes away. None if the backend has no more;
        raises WorkersGoneError after MAX_WORKER_DEATHS failures in a row.
        """
        while True:
            worker.close()
            self.alive.remove(worker)
            self._failed += failed
            if self._failed >= MAX_WORKER_DEATHS:
                raise self._make_workers_gone_error(str(why)) from None
            self.notes.append(f"{protocol.describe_workers(self.workers.said)}: {worker.name} was lost ({why}){then}")
            if (successor := self.workers.restart()) is None:
                return None
            worker, failed, then = successor, True, ""
            self.alive.append(worker)
            try:
                self._check(worker, *self._start_errand(worker, self.opening.message()))
            except WorkerLostError as lost:
                why = lost
            else:
                return worker

    def _check(self, worker: Worker, task: _Errand, future: Future[str]) -> None:
        """Check a worker's version and its models' identities.

        They must be this harness's and those of the first worker. Raises WorkerLostError if the worker cannot be
        started or identified, and WorkersGoneError if it reports an error or something differs.
        """
        try:
            while not future.done():
                wait([future], timeout=POLL_INTERVAL_S, return_when=FIRST_COMPLETED)
                self._process_partial_messages()
                self._end_if_hung(task)
            reply = protocol.unpack_message(future.result())
        except (WorkerLostError, ValueError) as why:
            raise WorkerLostError(f"{worker.name} cannot be started: {why}") from None
        about = found if isinstance(found := reply.get("about"), dict) else {}
        if "error" in reply:
            error = protocol.error_from_json(reply["error"])
            raise self._make_workers_gone_error(f"{worker.name}: {error}") from error
        if (about.get("protocol"), about.get("harness")) != (protocol.PROTOCOL, VERSION):
            theirs = f"harness {about.get('harness')} (protocol {about.get('protocol')})"
            what = f"{theirs}, but this is {VERSION} ({protocol.PROTOCOL})"
            raise self._make_workers_gone_error(f"{worker.name} has {what}; install the same version there")
        told = tuple(given) if isinstance(given := reply.get("identity"), list) else ()
        if len(told) != len(self.opening.refs) or not all(one is None or isinstance(one, str) for one in told):
            raise WorkerLostError(f"{worker.name} does not report the identity of its models")
        if self.identities is None:
            self.identities, self._about = told, about
        if told != self.identities:
            pairs = zip(self.opening.refs, told, self.identities, strict=False)
            name, *two = next(((r.name, t, o) for r, t, o in pairs if t != o), ("all", None, None))
            first = (self._about or {"versions": keys.library_versions()}).get("versions", {})
            before, now = (one if isinstance(one, dict) else {} for one in (first, about.get("versions")))
            changed = [n for n in {**before, **now} if now.get(n) != before.get(n)]
            what = "; ".join(f"{n} {now.get(n)} against {before.get(n)}" for n in changed)
            what = what or 'the same versions, so check machine, weights, code and the meaning of "auto"'
            identity = f'identity {str(two[0])[:16]} of model "{name}", but others have {str(two[1])[:16]}'
            raise self._make_workers_gone_error(f"{worker.name} has {identity}: {what}")

    def _make_workers_gone_error(self, why: str) -> WorkersGoneError:
        return WorkersGoneError(f"{protocol.describe_workers(self.workers.said)}: {why}")
