"""Pools of workers that die, hang, lie and answer in any order: every request is answered once, or the run stops."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from harness.answers import keys
from harness.errors import CheckFailedError, UsageError
from harness.records.models import ModelRef, Progress, Sampling
from harness.workers import chunks, pool
from harness.workers.pool import LoadRequest, Pool, WorkersGoneError
from harness.workers.protocol import PROTOCOL, Worker, WorkerLostError

OPENING = LoadRequest("fake", [ModelRef("one", "x"), ModelRef("two", "y")], "suite.toml", [])
ABOUT = {"protocol": PROTOCOL, "harness": keys.library_versions()["harness"], "versions": {"torch": "2"}}


class Clock:
    """Time that passes when somebody waits for it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Fake:
    """A worker that answers when it is told to."""

    def __init__(self, crew: Crew, name: str) -> None:
        self.crew, self.name, self.closed, self.beats = crew, name, 0, True
        self.at: tuple[dict[str, Any], Future[str], Callable[[str], None]] | None = None
        self.given: set[int] = set()  # places of a piece that were answered by signs

    def send(self, message: str, hear: Callable[[str], None] = print) -> Future[str]:
        future: Future[str] = Future()
        asked = json.loads(message)
        if asked["do"] == "open":
            future.set_result(json.dumps(self.crew.opened(self)))
        else:
            assert self.at is None
            self.at, self.given = (asked, future, hear), set()
        return future

    def close(self, why: str = "closed") -> None:
        self.closed += 1
        self.end(WorkerLostError(why))

    def end(self, with_: str | Exception) -> None:
        if self.at:
            (_, future, _), self.at = self.at, None
            future.set_result(with_) if isinstance(with_, str) else future.set_exception(with_)


class Crew:
    """Workers that do what a seed says: answer, die, or say what is no answer."""

    elsewhere, said = False, "fake:3"

    def __init__(
        self,
        seed: int,
        *,
        deaths: float = 0.0,
        lies: float = 0.0,
        poison: str = "",
        most: int = 10**6,
        signs: float = 0.0,
    ) -> None:
        self.random, self.deaths, self.lies, self.poison, self.most = random.Random(seed), deaths, lies, poison, most
        self.all: list[Fake] = []
        self.signs = signs
        self.asked: list[list[str]] = []

    def start(self) -> list[Worker]:
        return [self.made() for _ in range(3)]

    def restart(self) -> Worker | None:
        return self.made() if len(self.all) < self.most else None

    def made(self) -> Worker:
        self.all.append(Fake(self, f"worker {len(self.all) + 1}"))
        return self.all[-1]

    def opened(self, worker: Fake) -> dict[str, Any]:
        return {"about": ABOUT, "identity": ["a", "b"]}

    def step(self) -> None:
        """Let one of those that are at something end it, or give some of its rows."""
        if busy := [worker for worker in self.all if worker.at]:
            worker = self.random.choice(busy)
            assert worker.at
            asked, _, hear = worker.at
            if self.random.random() < self.signs and asked["do"] == "ask":
                safe = [i for i, row in enumerate(asked["requests"]) if not self.poison or self.poison not in str(row)]
                some = [i for i in safe if i not in worker.given and self.random.random() < 0.5]
                rows = [row for row in self.rows(asked) if row[0] in some]
                worker.given.update(some)
                return hear(json.dumps({"sign": True, "rows": rows} if rows else {"sign": True}))
            worker.end(self.reply(worker, asked))

    def reply(self, worker: Fake, asked: dict[str, Any]) -> str | Exception:
        if asked["do"] == "load":
            return json.dumps({"digests": ["d1", "d2"], "notes": [["slow"], []]})
        rows = [json.dumps(request) for request in asked["requests"]]
        if self.random.random() < self.deaths or (self.poison and any(self.poison in row for row in rows)):
            return WorkerLostError("ended by SIGKILL")
        if self.random.random() < self.lies:
            return self.random.choice(
                ["", "[]", "{}", '{"rows": [1]}', '{"rows": "x"}', "\x00", '{"rows": [[99, ""]]}']
            )
        self.asked.append(rows)
        rows_left = [row for row in self.rows(asked) if row[0] not in worker.given]
        return json.dumps({"rows": rows_left, "notes": [["slow"], []]})

    def rows(self, asked: dict[str, Any]) -> list[tuple[int, Any]]:
        rows = [json.dumps(request) for request in asked["requests"]]
        seeds = (asked["options"].get("sampling") or {}).get("seeds") or [0] * len(rows)
        if asked["method"] == "generate":
            answers: list[Any] = [f"{r}|{s}|{len(rows)}" for r, s in zip(rows, seeds, strict=True)]
        else:
            answers = [[-float(len(r)), asked["number"], len(r), True] for r in rows]
        return list(enumerate(answers))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A pool's clock, and pieces so small that there are many."""
    made = Clock()
    monkeypatch.setattr(pool, "time", made)
    monkeypatch.setattr(chunks, "CHUNK_CHARS", 300)
    return made


def make_pool(crew: Crew, clock: Clock, monkeypatch: pytest.MonkeyPatch, tell: Any = lambda _: None) -> Pool:
    """Return a pool of a crew, one of which ends something whenever it is waited for."""

    def wait(futures: Any, timeout: float, return_when: str) -> tuple[set[Any], set[Any]]:
        crew.step()
        clock.now += timeout
        ended = {future for future in futures if future.done()}
        return ended, {*futures} - ended

    monkeypatch.setattr(pool, "wait", wait)
    return Pool(crew, OPENING, tell)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(n, n + 50) for n in range(0, 300, 50)], ids=str)
def test_nothing_is_lost_or_doubled(seeds: range, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 300 random rounds answers are those of a pool whose workers live: same pieces, own seeds, in order."""
    for seed in seeds:
        rng = random.Random(seed)
        prompts = [f"question {rng.randrange(40)} " + "x" * rng.randrange(200) for _ in range(rng.randrange(1, 60))]
        options = {"max_new_tokens": 4, "stop": (), "sampling": Sampling(1.0, seeds=tuple(range(len(prompts))))}
        told: list[Progress] = []
        found = []
        for deaths, lies in ((0.0, 0.0), (rng.choice((0.05, 0.2)), rng.choice((0.0, 0.1)))):
            crew = Crew(seed, deaths=deaths, lies=lies, signs=0.5 if deaths else 0.0)
            monkeypatch.setattr(chunks, "MAX_TRIES", 1000)
            monkeypatch.setattr(pool, "MAX_WORKER_DEATHS", 1000)
            made = make_pool(crew, clock, monkeypatch, told.append)
            with made.load_models() as [one, two]:
                answers = one.generate(prompts, **options)  # type: ignore[arg-type]
                scores = two.logprobs([(p, " end") for p in prompts])
            assert all(worker.closed for worker in crew.all)
            assert made.lost == len(crew.all) - 3
            assert sum("was lost" in note for note in one.notes) == made.lost  # type: ignore[attr-defined]
            assert deaths or sorted(r for rows in crew.asked for r in rows) == sorted(
                [json.dumps(p) for p in prompts] + [json.dumps([p, " end"]) for p in prompts]
            )
            found.append((answers, scores))
        assert found[0] == found[1]
        assert [a.split("|")[:2] for a in found[0][0]] == [[json.dumps(p), str(i)] for i, p in enumerate(prompts)]
        assert all(0 < sign.done <= sign.total and sign.facts["workers"] == 3 for sign in told)


@pytest.mark.parametrize("signs", [0.0, 0.5])
@pytest.mark.parametrize("size", [300, 3000])
def test_a_row_on_which_workers_die_stops_the_run(
    size: int, signs: float, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found among those of its piece and named, and the error is not one of a single evaluation."""
    monkeypatch.setattr(chunks, "CHUNK_CHARS", size)
    prompts = [f"{i:03} " + "x" * 150 for i in range(40)]
    crew = Crew(0, poison="017", signs=signs)
    with make_pool(crew, clock, monkeypatch).load_models() as [one, _], pytest.raises(WorkersGoneError) as caught:
        one.generate(prompts, max_new_tokens=1)
    assert '--on "fake:3": row "017 xxx' in str(caught.value)
    assert "always fails: ended by SIGKILL" in str(caught.value)
    assert len(crew.all) <= 3 + chunks.MAX_TRIES + (2 if size == 300 else 5)
    assert all(worker.closed for worker in crew.all)


def test_a_row_that_gets_no_answer_costs_no_worker(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lives and says what is no answer is asked again, and nobody is said to have died."""
    monkeypatch.setattr(chunks, "CHUNK_CHARS", 3000)
    prompts = [f"{i:03} " + "x" * 150 for i in range(40)]
    crew = Crew(0)
    rows = crew.rows
    odd = lambda asked: [(i, 7 if "017" in asked["requests"][i] else answer) for i, answer in rows(asked)]  # noqa: E731
    monkeypatch.setattr(crew, "rows", odd)
    made = make_pool(crew, clock, monkeypatch)
    with made.load_models() as [one, _], pytest.raises(WorkersGoneError) as caught:
        one.generate(prompts, max_new_tokens=1)
    assert '"017 xxx' in str(caught.value)
    assert "an answer is not a text" in str(caught.value)
    assert "died" not in str(caught.value)
    assert (made.lost, len(crew.all)) == (0, 3)


def test_rows_that_kill_together_are_told_so(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a batch is too large for the memory: each half is answered, and with other bits than the whole."""
    monkeypatch.setattr(chunks, "CHUNK_CHARS", 3000)
    prompts = [f"{i:03} " + "x" * 150 for i in range(40)]
    crew = Crew(0)
    reply = crew.reply

    def many(worker: Any, asked: Any) -> Any:
        return WorkerLostError("ended by SIGKILL") if len(asked.get("requests", [])) > 15 else reply(worker, asked)

    monkeypatch.setattr(crew, "reply", many)
    with (
        make_pool(crew, clock, monkeypatch).load_models() as [one, _],
        pytest.raises(WorkersGoneError, match="times together, but not in halves; the first is"),
    ):
        one.generate(prompts, max_new_tokens=1)


def test_without_successors_it_goes_on_with_fewer(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crew that has no more workers ends with those it has, and the run stops when none is left."""
    prompts = [f"{i:03} " + "x" * 150 for i in range(20)]
    crew = Crew(3, most=3)
    with make_pool(crew, clock, monkeypatch).load_models() as [one, _]:
        crew.deaths = 1.0
        with pytest.raises(WorkersGoneError, match="no worker is left"):
            one.generate(prompts, max_new_tokens=1)


def test_a_successor_that_cannot_start_costs_no_run(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another is tried in its place, as where a whole machine goes away; three of them end the run."""
    prompts = [f"{i:03} " + "x" * 150 for i in range(20)]
    for broken in (1, 3):
        crew = Crew(0)
        made = make_pool(crew, clock, monkeypatch)
        sent, left = Fake.send, [broken]

        def send(worker: Fake, message: str, hear: Any, sent: Any = sent, left: list[int] = left) -> Future[str]:
            if json.loads(message)["do"] == "open" and left[0]:
                left[0] -= 1
                future: Future[str] = Future()
                future.set_exception(WorkerLostError("its node died"))
                return future
            return sent(worker, message, hear)

        with made.load_models() as [one, _], monkeypatch.context() as patched:
            patched.setattr(Fake, "send", send)
            stream = one.stream_generate(prompts, max_new_tokens=1)  # type: ignore[attr-defined]
            next(stream)
            busy = next(worker for worker in crew.all if worker.at)
            busy.end(WorkerLostError("ended by SIGKILL"))
            if broken == 1:
                assert len(dict(stream)) == 19
            else:
                with pytest.raises(WorkersGoneError, match="its node died"):
                    dict(stream)
        assert all(worker.closed for worker in crew.all)


@pytest.mark.parametrize(
    "sign", ["", '{"sign": true}', '{"sign": true, "rows": [[0, 7]]}'], ids=["silent", "alive", "odd"]
)
def test_a_worker_that_hangs_is_ended(sign: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes of silence are enough, an hour without a row where it lives; its piece goes to another."""
    prompts = [f"{i:03} " + "x" * 150 for i in range(20)]
    crew = Crew(0)
    made = make_pool(crew, clock, monkeypatch)
    with made.load_models() as [one, _]:
        one.generate(prompts[:3], max_new_tokens=1)
        step, stuck = crew.step, list[Fake]()

        def hang() -> None:
            if not stuck:
                stuck.extend([worker for worker in crew.all if worker.at and worker.at[0]["do"] == "ask"][:1])
            if sign and stuck and stuck[0].at:
                stuck[0].at[2](sign)
            if busy := [worker for worker in crew.all if worker.at and worker not in stuck]:
                worker = busy[0]
                assert worker.at
                worker.end(crew.reply(worker, worker.at[0]))

        monkeypatch.setattr(crew, "step", hang)
        begun = clock.now
        assert len(one.generate(prompts, max_new_tokens=1)) == 20
        least, how = (
            (
                3600,
                (
                    "worker 1 was lost (it sent heartbeats, but finished no row within 1 h 00 min and was "
                    "stopped; --patience allows more), and its rows were reassigned']"
                ),
            )
            if sign
            else (600, "it sent no heartbeat for 10 min 00 s and was stopped; --patience allows more")
        )
        assert least <= clock.now - begun < least + 100
        assert how in str(one.notes)  # type: ignore[attr-defined]
        monkeypatch.setattr(crew, "step", step)
    assert made.lost == len(stuck) == 1


@pytest.mark.parametrize("rows", [False, True])
def test_a_slow_worker_that_lives_is_left_alone(rows: bool, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick pieces before say nothing of slow ones: 640 s a piece with signs of life, and a day with rows."""
    crew = Crew(0)
    made = make_pool(crew, clock, monkeypatch)
    prompts = [f"{i:03} " + "x" * 150 for i in range(20)]
    with made.load_models() as [one, two]:
        two.logprobs([(p, " end") for p in prompts])
        step, since = crew.step, dict[int, float]()

        def slow() -> None:
            for worker in (w for w in crew.all if w.at):
                assert worker.at
                asked, future, hear = worker.at
                begun = since.setdefault(id(future), clock.now)
                left = [row for row in crew.rows(asked) if row[0] not in worker.given] if rows else []
                if left and clock.now - begun > 40_000 * (1 + len(worker.given)):
                    worker.given.add(left[0][0])
                    hear(json.dumps({"sign": True, "rows": left[:1]}))
                elif clock.now - begun > (86_400 if rows else 640) and not left:
                    worker.end(crew.reply(worker, asked))
                else:
                    hear('{"sign": true}')

        monkeypatch.setattr(pool, "POLL_INTERVAL_S", 100.0)
        monkeypatch.setattr(pool, "PATIENCE_FACTOR", 70 if rows else 6)
        monkeypatch.setattr(crew, "step", slow)
        assert len(one.generate(prompts, max_new_tokens=1)) == 20
        monkeypatch.setattr(crew, "step", step)
    assert made.lost == 0


@pytest.mark.parametrize("kind", [UsageError, CheckFailedError, ValueError])
def test_the_models_own_errors_arrive_as_they_are(
    kind: type[Exception], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker is lost by one, and the next evaluation is answered, also by those that were busy."""
    prompts = [f"{i:03} " + "x" * 150 for i in range(20)]
    crew = Crew(0)
    made = make_pool(crew, clock, monkeypatch)
    reply = crew.reply

    def fails(worker: Fake, asked: dict[str, Any]) -> str | Exception:
        if asked["do"] == "ask" and any("013" in r for r in asked["requests"]):
            return json.dumps({"error": {"kind": kind.__name__, "messages": ["row 13 is odd"], "trace": "Traceback"}})
        return reply(worker, asked)

    with made.load_models() as [one, _]:
        monkeypatch.setattr(crew, "reply", fails)
        with pytest.raises(kind, match="row 13 is odd"):
            one.generate(prompts, max_new_tokens=1)
        monkeypatch.setattr(crew, "reply", reply)
        assert len(one.generate(prompts, max_new_tokens=1)) == 20
    assert (made.lost, len(crew.all)) == (0, 3)


def test_an_abandoned_stream_leaves_the_workers_to_others(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops listening, or asks something else in between, gets no one else's answers."""
    prompts = [f"{i:03} " + "x" * 150 for i in range(20)]
    made = make_pool(Crew(5), clock, monkeypatch)
    with made.load_models() as [one, two]:
        stream = one.stream_generate(prompts, max_new_tokens=1)  # type: ignore[attr-defined]
        first = next(stream)
        assert [s.tokens for s in two.logprobs([(p, " end") for p in prompts])] == [1] * 20
        rest = dict([first, *stream])
        assert [json.loads(rest[i].split("|")[0]) for i in range(20)] == prompts
        stream = one.stream_generate(prompts, max_new_tokens=1)  # type: ignore[attr-defined]
        next(stream)
        stream.close()
        assert [s.tokens for s in two.logprobs([(p, " end") for p in prompts])] == [1] * 20


@pytest.mark.parametrize(
    ("opened", "says"),
    [
        (
            {"identity": ["a", "c"]},
            'worker 2 has identity c of model "two", but others have b: the same versions, so check machine',
        ),
        ({"about": {**ABOUT, "versions": {"torch": "3"}}, "identity": ["a", "c"]}, "torch 3 against 2"),
        ({"about": {**ABOUT, "harness": "0.0.1"}}, f"worker 2 has harness 0.0.1 (protocol {PROTOCOL}), but this is"),
        ({"about": {**ABOUT, "protocol": 9}}, "(protocol 9)"),
        ({"about": None}, "harness None"),
        ({"error": {"kind": "UsageError", "messages": ['no loader "fake"']}}, 'worker 2: no loader "fake"'),
    ],
)
def test_a_worker_unlike_the_others_is_refused(
    opened: dict[str, Any], says: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another identity, harness or protocol ends it before anything is asked, and both are shown."""
    crew = Crew(0)
    same = crew.opened
    monkeypatch.setattr(crew, "opened", lambda w: {**same(w), **(opened if w.name == "worker 2" else {})})
    with pytest.raises(WorkersGoneError) as caught, make_pool(crew, clock, monkeypatch).load_models():
        pass
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(worker.closed for worker in crew.all)


def test_workers_that_die_while_they_load_stop_the_run(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of them are enough to know."""
    crew = Crew(0)
    monkeypatch.setattr(crew, "reply", lambda *_: WorkerLostError("ended by SIGKILL"))
    with (
        pytest.raises(WorkersGoneError, match="3 workers died while loading the model, the last:"),
        make_pool(crew, clock, monkeypatch).load_models(),
    ):
        pass
    assert all(worker.closed for worker in crew.all)


def test_the_opening_names_models_as_they_are(tmp_path: Path) -> None:
    """References go there and back."""
    from harness.records.models import Seal
    from harness.workers.protocol import ref_from_json

    seal = Seal("w", {"a": "b"}, None, "base")
    refs = [ModelRef("a", "p", "d", tmp_path, {"load_in_4bit": True}, {"dtype": "float32"}, seal), ModelRef("b", "q")]
    assert [ref_from_json(told) for told in json.loads(LoadRequest("hf", refs, "s", ()).message())["refs"]] == refs
