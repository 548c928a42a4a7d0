"""Remembered answers: asked once, written as they come, never another model's, and never worth a run."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import Generate, Sampling
from harness.answers.cache import CachedSubject, StageModels
from harness.answers.store import TABLE_VERSION, Responses, _compute_checksum, request_key
from harness.records.models import Logprob, ModelRef
from harness.testing import Project


class Model:
    """Answers a prompt with its length, and keeps what it was asked; it stops answering after `patience` requests."""

    name, digest, nbytes = "base", "d", 7

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.patience = 10**9

    def stream_generate(self, prompts: list[str], **options: Any) -> Iterator[tuple[int, str]]:
        """Answer the last prompt first."""
        for i, prompt in reversed(list(enumerate(prompts))):
            if not self.patience:
                raise RuntimeError("killed")
            self.patience -= 1
            self.asked.append((prompt, options))
            yield i, str(len(prompt))

    def logprobs(self, pairs: list[tuple[str, str]]) -> list[Logprob]:
        """Score by lengths; all at once."""
        self.asked += pairs
        return [Logprob(-float(len(p)), len(c), len(c), True) for p, c in pairs]

    def token_kl(self, texts: list[str], against: Any) -> list[tuple[float, int]]:
        """Compare lengths."""
        self.asked += texts
        return [(float(len(t)), len(t)) for t in texts]

    def render(self, messages: list[dict[str, str]]) -> str:
        """Write the contents."""
        self.asked += messages
        return " ".join(m["content"] for m in messages)


class World:
    """A model behind a cache, and how often it was loaded."""

    def __init__(self, folder: Path) -> None:
        self.path, self.model, self.loads = folder / "responses.sqlite", Model(), 0
        self.warnings: list[str] = []

    def subject(self, identity: str = "weights") -> CachedSubject:
        """Open the cache anew, as another run would."""

        @contextmanager
        def load() -> Iterator[list[Any]]:
            self.loads += 1
            yield [self.model]

        responses = Responses(self.path, self.warnings.append)
        return CachedSubject(ModelRef("base", "x", "d"), identity, StageModels(load), 0, responses)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A model and an empty cache."""
    return World(tmp_path)


def test_an_unchanged_request_is_asked_once(world: World) -> None:
    """Answers, scores, divergences and facts come from the cache, in order, without loading the model again."""
    for _ in range(2):
        subject = world.subject()
        assert subject.generate(["aa", "b", "aa"]) == ["2", "1", "2"]
        assert subject.logprobs([("abc", "d")]) == [Logprob(-3.0, 1, 1, True)]
        assert subject.token_kl(["abcd"], subject) == [(4.0, 4)]
        assert subject.render([{"role": "user", "content": "hi"}]) == "hi"
        assert subject.nbytes == 7
        subject.responses.close()
    assert world.loads == 1
    assert len(world.model.asked) == 2 + 1 + 1 + 1
    assert (subject.asked, subject.found) == (6, 6)


def test_answers_of_the_same_run_are_no_cache_hits(world: World) -> None:
    """What one evaluation asks and another asks again is remembered, and not counted as of an earlier run."""
    subject = world.subject()
    for _ in range(2):
        assert subject.generate(["aa", "b"]) == ["2", "1"]
    assert (len(world.model.asked), subject.asked, subject.found) == (2, 4, 0)
    subject.responses.close()
    again = world.subject()
    assert again.generate(["aa", "b", "c"]) == ["2", "1", "1"]
    assert (again.asked, again.found) == (3, 2)


def test_any_thread_may_ask(world: World) -> None:
    """Requests from eight threads are answered as from one, each once, and the model is loaded and asked by one."""
    subject, inside, most = world.subject(), list[int](), list[int]()
    stream = world.model.stream_generate

    def watched(prompts: list[str], **options: Any) -> Iterator[tuple[int, str]]:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        yield from stream(prompts, **options)
        inside.pop()

    world.model.stream_generate = watched  # type: ignore[method-assign]
    prompts = [["x" * n for n in range(start, start + 5)] for start in range(16)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(subject.generate, prompts))
    assert found == [[str(len(p)) for p in some] for some in prompts]
    assert world.loads == 1 and len(world.model.asked) == 20 and max(most) == 1
    assert (subject.asked, len(subject.pop_sent_prompts(["x"]))) == (80, 1)
    subject.responses.close()
    assert world.subject().generate(["x" * 19]) == ["19"] and world.loads == 1 and not world.warnings


def test_editing_one_prompt_asks_one_row(world: World) -> None:
    """Only what is new is asked."""
    world.subject().generate(["a", "bb", "ccc"])
    world.model.asked.clear()
    assert world.subject().generate(["a", "bbbb", "ccc"]) == ["1", "4", "3"]
    assert [prompt for prompt, _ in world.model.asked] == ["bbbb"]


@pytest.mark.parametrize(
    "how",
    [
        {"max_new_tokens": 3},
        {"stop": ["x"]},
        {"truncate": True},
        {"sampling": Sampling(0.5, seeds=(1,))},
        {"sampling": Sampling(0.5, seeds=(2,))},
        {"sampling": Sampling(0.6, seeds=(1,))},
        {"sampling": Sampling(0.5, top_p=0.9, seeds=(1,))},
    ],
)
def test_another_way_of_asking_is_another_request(world: World, how: dict[str, Any]) -> None:
    """Options are part of the key, and the model gets them."""
    world.subject().generate(["a"])
    world.subject().generate(["a"], sampling=Sampling(0.7, seeds=(1,)))
    world.model.asked.clear()
    world.subject().generate(["a"], **how)
    assert len(world.model.asked) == 1
    assert how.items() <= world.model.asked[0][1].items()


def test_one_models_answers_are_never_anothers(world: World) -> None:
    """The identity is part of the key, and of both sides of a comparison."""
    for identity in ("weights", "other weights"):
        subject = world.subject(identity)
        subject.generate(["a"])
        subject.token_kl(["t"], subject)
        subject.token_kl(["t"], world.subject("third"))
        subject.responses.close()
    assert len(world.model.asked) == 6


def test_seeds_go_with_their_prompts(world: World) -> None:
    """What is asked again of a sampled batch keeps its own seeds."""
    world.subject().generate(["a"], sampling=Sampling(1.0, seeds=(5,)))
    world.subject().generate(["a", "a", "b"], sampling=Sampling(1.0, seeds=(5, 6, 7)))
    assert world.model.asked[-1][1]["sampling"].seeds == (6, 7)


def test_what_was_answered_before_a_crash_is_kept(world: World) -> None:
    """An exception in the middle of a batch loses nothing that had been answered."""
    world.model.patience = 3
    with pytest.raises(RuntimeError, match="killed"):
        world.subject().generate(["a", "bb", "ccc", "dddd"])
    world.model.patience = 10
    world.model.asked.clear()
    assert world.subject().generate(["a", "bb", "ccc", "dddd"]) == ["1", "2", "3", "4"]
    assert [prompt for prompt, _ in world.model.asked] == ["a"]


def test_a_request_left_unanswered_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that drops a row fails the evaluation."""
    monkeypatch.setattr(Model, "stream_generate", lambda self, prompts, **_: iter([(0, "x")]))
    with pytest.raises(ValueError, match='model "base" returned no answer for 2 of 3 requests'):
        world.subject().generate(["a", "bb", "ccc"])


def test_a_damaged_cache_is_set_aside(world: World) -> None:
    """A truncated file costs a warning and time, and is not deleted; the next run has a cache again."""
    subject = world.subject()
    subject.generate([f"{i}" * i for i in range(1, 300)])
    subject.responses.close()
    whole = world.path.read_bytes()
    world.path.write_bytes(b"SQLite format 3\0" + whole[16 : len(whole) // 2])
    subject = world.subject()
    assert subject.generate(["1"]) == ["1"]
    subject.responses.close()
    (warning,) = world.warnings
    assert "database disk image is malformed" in warning
    world.path.write_text("no database at all, but long enough to be looked at as one" * 20)
    subject = world.subject()
    assert subject.generate(["1"]) == ["1"]
    subject.responses.close()
    assert len(world.warnings) == 2
    assert len(list(world.path.parent.glob("responses.damaged-*"))) == 2
    world.model.asked.clear()
    assert world.subject().generate(["1"]) == ["1"]
    assert not world.model.asked


def test_a_changed_value_is_asked_again(world: World) -> None:
    """A value that is not what was written is never an answer."""
    subject = world.subject()
    subject.generate(["abc"])
    subject.responses.close()
    with sqlite3.connect(world.path) as db:
        db.execute("""UPDATE responses SET value = '"4"'""")
    world.model.asked.clear()
    assert world.subject().generate(["abc"]) == ["3"]
    assert len(world.model.asked) == 1


@pytest.mark.slow
def test_no_flipped_byte_is_an_exception(world: World) -> None:
    """A run on a cache in which any one byte changed gets its answers, and a warning at most once."""
    subject = world.subject()
    asked = [f"{i}" * i for i in range(1, 60)]
    wanted = subject.generate(asked)
    subject.responses.close()
    with sqlite3.connect(world.path) as db:
        db.execute("PRAGMA journal_mode = DELETE")
    db.close()
    whole = world.path.read_bytes()
    schema = range(whole.index(b"CREATE TABLE") - 40, whole.index(b"CREATE TABLE") + 140)
    places = [*range(100), *schema, *random.Random(7).sample(range(len(whole)), 250)]
    told = 0
    for number, place in enumerate(places):
        for path in world.path.parent.iterdir():
            path.unlink()
        flipped = bytearray(whole)
        flipped[place] ^= 0xFF if number % 2 else 1 << number % 8
        world.path.write_bytes(bytes(flipped))
        world.warnings.clear()
        subject = world.subject()
        assert subject.generate([*asked, "new"]) == [*wanted, "3"], place
        subject.responses.close()
        assert len(world.warnings) <= 1, (place, world.warnings)
        told += len(world.warnings)
        if any(world.path.parent.glob("*.damaged-*")):
            again = world.subject()
            world.model.asked.clear()
            assert again.generate(["new"]) == ["3"]
            assert not world.model.asked, place
            again.responses.close()
    assert told > 100


@pytest.mark.parametrize("value", ["5", "null", '["x"]', "{", "[" * 100_000, "1e999"])
@pytest.mark.parametrize("kind", ["generate", "logprobs"])
def test_a_value_of_another_kind_is_damage(world: World, value: str, kind: str) -> None:
    """What is whole by its checksum and is no answer sets the file aside; the model is asked."""
    subject = world.subject()
    asked: list[Any] = ["abc"] if kind == "generate" else [("abc", "d")]
    wanted = getattr(subject, kind)(asked)
    subject.responses.close()
    with sqlite3.connect(world.path) as db:
        [(key,)] = db.execute("SELECT key FROM responses")
        db.execute("UPDATE responses SET value = ?, checksum = ?", (value, _compute_checksum(key, value)))
    db.close()
    for turn in range(2):
        subject = world.subject()
        assert getattr(subject, kind)(asked) == wanted
        subject.responses.close()
        assert len(world.warnings) == 1, turn
    assert '; it was renamed to "' in world.warnings[0]


@pytest.mark.parametrize("column", ["value", "checksum"])
@pytest.mark.parametrize("content", ["NULL", "1", "1.5", "x'ff00'", "'text'", "CAST(x'ffc0' AS TEXT)"])
def test_a_row_of_other_types_is_damage(world: World, column: str, content: str) -> None:
    """A row that holds anything but what was written sets the file aside, is told, and is asked again."""
    subject = world.subject()
    subject.generate(["abc"])
    subject.responses.close()
    with sqlite3.connect(world.path) as db:
        db.execute("ALTER TABLE responses RENAME TO old")
        db.execute("CREATE TABLE responses (key, value, checksum)")
        db.execute("INSERT INTO responses SELECT * FROM old")
        db.execute(f"UPDATE responses SET {column} = {content}")
    db.close()
    subject = world.subject()
    assert subject.generate(["abc"]) == ["3"]
    subject.responses.close()
    assert len(world.warnings) == 1
    assert '; it was renamed to "' in world.warnings[0]


def test_half_a_surrogate_pair_is_remembered(world: World) -> None:
    """An answer that UTF-8 has no bytes for is kept as any other."""
    responses = Responses(world.path, world.warnings.append)
    responses.store(b"k", "a\ud800")
    responses.close()
    responses = Responses(world.path, world.warnings.append)
    assert responses.find([b"k"]) == {b"k": "a\ud800"}
    responses.close()
    assert not world.warnings


def test_a_newer_cache_is_left_alone(world: World) -> None:
    """A cache of a newer version is neither read nor changed."""
    world.subject().generate(["a"])
    with sqlite3.connect(world.path) as db:
        db.execute(f"PRAGMA user_version = {TABLE_VERSION + 1}")
    before = world.path.read_bytes()
    assert world.subject().generate(["a", "b"]) == ["1", "1"]
    assert '": was written by a newer version of the harness; answers are not cached' in world.warnings[0]
    assert world.path.read_bytes() == before


def test_a_locked_cache_costs_a_warning(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that holds the file for long does not stop a run."""
    monkeypatch.setattr("harness.answers.store.LOCK_TIMEOUT_S", 0.1)
    subject = world.subject()
    subject.generate(["a"])
    other = sqlite3.connect(world.path)
    other.execute("BEGIN EXCLUSIVE")
    assert subject.generate(["a", "bb"]) == ["1", "2"]
    assert world.warnings == [f'cache "{world.path}": database is locked; answers are not cached from here on']
    other.close()
    assert subject.generate(["a", "bb"]) == ["1", "2"]


def test_odd_texts_have_keys() -> None:
    """Lone surrogates and every kind of request part can be named."""
    assert request_key("m", "generate", "\ud800", [1, None, 0.5]) != request_key("m", "generate", "\ud801", [1, None])


@pytest.mark.slow
def test_an_unchanged_suite_loads_no_model(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run answers from the cache, says so, and comes to the same verdicts; --no-cache asks again."""
    from harness import testing

    loads: list[str] = []
    inner = testing.FakeSubject.generate

    def generate(self: Any, prompts: Any, **options: Any) -> Any:
        loads.append(self.name)
        return inner(self, prompts, **options)

    monkeypatch.setattr(testing.FakeSubject, "generate", generate)
    first = suite.run()
    assert loads
    loads.clear()
    second = suite.run()
    assert not loads
    assert second.code == first.code == 0
    assert "cached)" in second.out
    assert "cached)" not in first.out
    assert [r.metrics for r in first.report.results] == [r.metrics for r in second.report.results]
    assert suite.run("--no-cache").code == 0
    assert loads


SLOW = """
import time
from contextlib import contextmanager
from pathlib import Path
from harness import hookimpl, testing

class Slow(testing.FakeSubject):
    def stream_generate(self, prompts, **options):
        for i, prompt in enumerate(prompts):
            time.sleep(0.02 if self.name == "base" else 0)  # which is asked first, and killed
            with Path("asked.txt").open("a") as f:
                f.write(f"{self.name} {prompt}\\n")
            yield i, self.generate([prompt])[0]

@contextmanager
def load(refs):
    with testing.load(refs) as subjects:
        yield [Slow(s.name, s.skill, s.digest) for s in subjects]

load.open = lambda path: testing.open_source(path)
load.identity = lambda ref: testing.identity(ref)

@hookimpl
def harness_loaders():
    return {"slow": load}
"""


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_a_killed_evaluation_goes_on(suite: Project) -> None:
    """After kill -9 in the middle of an evaluation, only the last half second is asked again."""
    rows = [{"id": f"{i}", "input": f"what is {i}", "target": f"{i}", "kind": "a"} for i in range(150)]
    suite.write({"harnessfile.py": SLOW, "test.jsonl": rows})
    code = "import sys; from harness.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "run", "suite.toml", "-p", "harness.testing", "--set", "model.use=slow"]
    asked = suite.folder / "asked.txt"

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=suite.folder, env=dict(os.environ), stdout=subprocess.DEVNULL)

    first = start()
    until = time.monotonic() + 60
    while not asked.exists() or len(asked.read_text().splitlines()) < 100:
        assert first.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = asked.read_text().splitlines()
    assert start().wait(timeout=120) in (0, 1, 6)
    again = asked.read_text().splitlines()[len(before) :]
    repeated = set(before) & set(again)
    assert len(repeated) <= 30  # half a second of answers, and one that was just on its way
    assert set(before) | set(again) == {
        f"{name} what is {i}" for name in ("base", "adapter", "merged") for i in range(150)
    }
    assert start().wait(timeout=120) in (0, 1, 6)
    assert len(asked.read_text().splitlines()) == len(before) + len(again)


@pytest.mark.slow
def test_a_second_run_needs_no_torch(tmp_path: Path, warm: Path) -> None:
    """An unchanged suite of a real model is answered without importing torch or transformers."""
    pytest.importorskip("transformers")
    check = "; assert not {'torch', 'transformers', 'peft', 'trl'} & sys.modules.keys() or sys.argv[1] == 'first'"
    code = f"import sys; from harness.cli.main import main; code = main(sys.argv[2:]){check}; sys.exit(code)"
    suite = Path(__file__).parents[2] / "suites/smoke.toml"
    for turn, python in (("first", str(warm / "python")), ("second", sys.executable)):
        command = [
            python,
            "-c",
            code,
            turn,
            "run",
            str(suite),
            "--out",
            str(tmp_path / "reports"),
            "--no-export",
        ]
        env = {**os.environ, "HARNESS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
        assert (done.returncode, done.stderr) == (0, "")


def test_how_answers_are_generated_is_one_record() -> None:
    """Keywords that change nothing are left out, seeds go with their prompts, and a misspelt keyword is a TypeError."""
    how = Generate(max_new_tokens=8, stop=("\n",), sampling=Sampling(0.7, seeds=(1, 2, 3)), truncate=True)
    assert Generate(**how.keywords) == how
    assert Generate(max_new_tokens=8).keywords == {"max_new_tokens": 8, "stop": ()}
    assert how.for_prompts([2, 0]).sampling == Sampling(0.7, seeds=(3, 1))
    assert Generate().for_prompts([5]) == Generate()
    assert how.drawn == how.sampling and Generate(sampling=Sampling(0.0)).drawn is None
    with pytest.raises(TypeError, match="max_tokens"):
        Generate(max_tokens=8)  # type: ignore[call-arg]
