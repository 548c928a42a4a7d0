"""A worker as a child process: killed, cut off, lied to, in another environment; and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import CheckFailedError, UsageError
from harness.records.models import ModelRef
from harness.testing import ROWS, SUITE, TRAIN, Project, write_fake
from harness.workers import gpus, local
from harness.workers.gpus import worker_environment
from harness.workers.local import ChildWorker, LocalWorkers
from harness.workers.pool import LoadRequest, Pool, WorkersGoneError
from harness.workers.protocol import (
    LENGTH,
    PROTOCOL,
    WorkerLostError,
    error_from_json,
    error_to_json,
    pack_message,
    unpack_message,
)
from tests.helpers.gpus import L4, machine

ASK = {"do": "ask", "number": 0, "options": {}}
LOADER = """
import contextlib, os, sys
from harness import hookimpl, loader
from harness.testing import identity, load as fake, open_source

def opens(path, *, dtype: str = "auto", python: str | None = None):
    return open_source(path, dtype=dtype)

def names(ref, *, dtype: str = "auto", python: str | None = None):
    return identity(ref, dtype=dtype) + ("" if python is None else " apart")

@loader(open=opens, identity=names)
@contextlib.contextmanager
def load(refs, *, dtype: str = "auto", python: str | None = None):
    print("a library says hello")
    os.write(1, b"and C code too")
    with fake(refs, dtype=dtype) as subjects:
        yield subjects

@hookimpl
def harness_loaders():
    return {"apart": load}
"""


@pytest.fixture
def child() -> Iterator[ChildWorker]:
    """A worker with a fake model open."""
    made = ChildWorker(sys.executable, "worker 1", worker_environment(None, ours=True))
    yield made
    made.close()
    assert wait_until_gone(made._process.pid)


def wait_until_gone(pid: int) -> bool:
    """Return whether a process ends within some seconds, or is no more than a zombie."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def send_and_unpack(child: ChildWorker, message: dict[str, Any] | str) -> dict[str, Any]:
    """Return what a worker replies."""
    return unpack_message(child.send(message if isinstance(message, str) else pack_message(message)).result(60))


def make_load_message(folder: Path, loader: str = "fake") -> str:
    """Return the message that opens the fake model in a folder."""
    ref = ModelRef("base", str(write_fake(folder / "base", 0.3)))
    return LoadRequest(loader, [ref], "", ["harness.testing"]).message()


@pytest.mark.slow
def test_a_worker_answers_as_the_model_does_here(child: ChildWorker, tmp_path: Path) -> None:
    """Answers, scores, divergences, facts and errors come over as they are."""
    from harness.testing import FakeSubject

    here = FakeSubject("base", 0.3)
    assert len(send_and_unpack(child, make_load_message(tmp_path))["identity"]) == 1
    assert len(send_and_unpack(child, {"do": "load"})["digests"]) == 1
    prompts: list[Any] = ["say one", [{"role": "user", "content": "say « two"}]]
    assert send_and_unpack(child, {**ASK, "method": "generate", "requests": prompts})["rows"] == number_answers(
        here.generate(prompts)
    )
    scores = send_and_unpack(child, {**ASK, "method": "logprobs", "requests": [["say one", " one"]]})["rows"]
    assert scores == number_answers(
        [s.total, s.tokens, s.bytes, s.greedy] for s in here.logprobs([("say one", " one")])
    )
    divergent = send_and_unpack(child, {**ASK, "method": "token_kl", "requests": ["a b"], "options": {"against": 0}})
    assert divergent["rows"] == [[0, [0.0, 2]]]
    assert send_and_unpack(child, {**ASK, "method": "fact", "requests": ["nbytes"]})["rows"] == [[0, 1000]]
    assert send_and_unpack(child, {**ASK, "method": "fact", "requests": ["lore"]})["error"]["kind"] == "AttributeError"


def number_answers(answers: Iterable[Any]) -> list[list[Any]]:
    return [[i, answer] for i, answer in enumerate(answers)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "message",
    ['{"do": "eval"}', "[]", "nothing", "{}", '{"do": "ask", "method": "close"}', '{"do": "open"}', '{"do": "load"}'],
)
def test_what_is_no_message_is_an_error_and_no_end(message: str, child: ChildWorker, tmp_path: Path) -> None:
    """An unknown message, method or model is told, and the next one is answered."""
    assert send_and_unpack(child, message)["error"]["messages"]
    assert "identity" in send_and_unpack(child, make_load_message(tmp_path))


def test_a_killed_worker_is_lost_with_how_it_ended(child: ChildWorker) -> None:
    """Whoever waits hears the signal."""
    os.kill(child._process.pid, signal.SIGSTOP)
    future = child.send("{}")
    os.kill(child._process.pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="was killed by SIGKILL"):
        future.result(60)
    with pytest.raises(WorkerLostError):
        child.send("{}").result(60)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", LENGTH.pack(1 << 40), LENGTH.pack(10) + b"{}"], ids=repr)
def test_garbage_ends_a_worker(data: bytes, child: ChildWorker) -> None:
    """What is no message, is too long, or is cut off ends it, and nothing hangs."""
    assert child._process.stdin
    child._process.stdin.write(data)
    child._process.stdin.close()
    assert wait_until_gone(child._process.pid)


@pytest.mark.parametrize("data", [b"Welcome to Python!", LENGTH.pack(1 << 40), LENGTH.pack(10) + b"{}", b""], ids=repr)
def test_garbage_from_a_worker_is_a_loss(data: bytes, tmp_path: Path) -> None:
    """Whatever a program says that is no worker, its message is refused and it is ended."""
    made = ChildWorker(
        write_interpreter(tmp_path, f"import sys; sys.stdout.buffer.write({data!r}); print('oh no', file=sys.stderr)"),
        "w",
        {},
    )
    with pytest.raises(WorkerLostError, match="oh no"):
        made.send("{}").result(60)
    made.close()
    assert wait_until_gone(made._process.pid)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import time; time.sleep(60)", "it sent no heartbeat for 0.5 s and was stopped"),
        (
            "print('Welcome to Python!', flush=True); import time; time.sleep(60)",
            "invalid message: b'Welcome '",
        ),
        ("import sys; sys.exit('no room')", "exited with code 1: no room"),
    ],
)
def test_who_ended_a_worker_is_told(code: str, says: str, tmp_path: Path) -> None:
    """What we ended says why, and not that a signal came; what ended by itself says how; three tries are made."""
    ref, crew = ModelRef("base", "x"), LocalWorkers("1", write_interpreter(tmp_path, code))
    with pytest.raises(WorkersGoneError) as caught:
        Pool(
            crew, LoadRequest("fake", [ref], "", []), lambda _: None, patience=0.5 if "heartbeat" in says else 60
        ).start()
    assert says in str(caught.value)
    assert "SIGKILL" not in str(caught.value)
    assert crew.started == 3


def write_interpreter(folder: Path, code: str) -> str:
    """Write an interpreter that runs this code, whatever module it is asked for."""
    path = folder / f"python-{abs(hash(code))}"
    path.write_text(f"#!{sys.executable}\n{code}\n", "utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.mark.slow
def test_a_worker_ends_with_its_driver(tmp_path: Path) -> None:
    """When the driver is killed its pipe closes, and the worker ends in the middle of what it does."""
    code = (
        "import sys, time; from harness.workers.gpus import worker_environment; "
        "from harness.workers.local import ChildWorker; "
        "from harness.workers.protocol import pack_message; "
        "made = ChildWorker(sys.executable, 'w', worker_environment(None, ours=True)); made.send('{}').result(); "
        "print(made._process.pid, flush=True); time.sleep(60)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert driver.stdout
    pid = int(driver.stdout.readline())
    driver.kill()
    driver.communicate()
    assert wait_until_gone(pid)


def test_no_key_reaches_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is secret by its name, or by its value, stays with the driver; threads and devices are set unless told."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-123")
    monkeypatch.setenv("HF_TOKEN", "hf_123")
    told = {
        "DATABASE_URL": "postgres://me:letmein@host/db",
        "HTTPS_PROXY": "http://me:letmein@proxy:3128",
        "SLACK_HOOK": "https://hooks.slack.com/services/T0001/B0002/abcdefgh1234",
        "PLAIN_PROXY": "http://proxy:3128",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = worker_environment("3", ours=True)
    assert not {"OPENAI_API_KEY", "HF_TOKEN", "DATABASE_URL", "HTTPS_PROXY", "SLACK_HOOK"} & found.keys()
    assert found["PLAIN_PROXY"] == "http://proxy:3128"
    assert (found["CUDA_VISIBLE_DEVICES"], found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"]) == ("3", "1", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert worker_environment(None, ours=False)["MKL_NUM_THREADS"] == "4"


def test_errors_keep_their_kind_and_run_nothing() -> None:
    """A mistake and a finding arrive as they are; no name of a worker's makes another class."""
    for error in (
        UsageError("one", "two"),
        CheckFailedError("broken"),
        ValueError("odd"),
        RuntimeError("out of memory"),
    ):
        again = error_from_json(json.loads(json.dumps(error_to_json(error))))
        assert (type(again), str(again)) == (type(error), str(error))
    assert str(error_from_json({"kind": "SystemExit", "messages": ["0"]})) == "SystemExit: 0"
    assert type(error_from_json({"kind": "SystemExit", "messages": ["0"]})) is RuntimeError
    assert str(error_from_json(None)) == "None: no message"


# -- as a person runs it -----------------------------------------------------------------------------


@pytest.fixture
def suite(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project that passes, on a machine of eight cores."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(gpus, "NODES", ())
    return project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN})


@pytest.mark.slow
def test_a_suite_runs_on_workers_with_the_same_verdicts(suite: Project) -> None:
    """Metrics, verdicts, lock and attempt are those of one process, and what was asked there is not asked again."""
    here = suite.run()
    told = [(r.id, r.metrics) for r in here.report.results]
    digest = json.loads(max(suite.folder.glob("reports/*/suite.lock.json")).read_text("utf-8"))["suite"]["digest"]
    there = suite.run("--on", "local:2", "--no-cache")
    assert (there.code, [(r.id, r.metrics) for r in there.report.results]) == (0, told)
    locked = json.loads(max(suite.folder.glob("reports/*/suite.lock.json")).read_text("utf-8"))
    assert locked["suite"]["digest"] == digest
    cached = suite.run("--on", "local:2")
    assert all(r.cache_hits == r.requests for r in cached.report.results)


@pytest.mark.parametrize(
    ("on", "says"),
    [
        ("locl:2", '--on "locl:2": is not a worker backend; did you mean "local"?'),
        ("local", ('--on "local:": give a number of workers, such as "local:2", or "local:2x4" with four GPUs each')),
        ("local:none", 'give a number of workers, such as "local:2", or "local:2x4" with four GPUs each'),
        ("local:0", 'give a number of workers, such as "local:2", or "local:2x4" with four GPUs each'),
        ("local:9", ": this machine has 8 cores, and no GPU; use at most 8"),
    ],
)
def test_workers_that_cannot_be_are_a_mistake(on: str, says: str, suite: Project) -> None:
    """One clear line, before anything is done."""
    outcome = suite.run("--on", on)
    assert (outcome.code, outcome.err.count("\n"), says in outcome.err) == (4, 1, True), outcome.err


@pytest.mark.parametrize(
    ("count", "lost", "seen"),
    [("2", 0, ["4", "5", "4"]), ("2", 1, ["4", "5", "5"]), ("1", 0, ["4,5", "4,5"])],
)
def test_a_worker_alone_sees_every_gpu(
    count: str, lost: int, seen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is spread over several has them all; of several workers each has one, and so has its successor."""
    machine(tmp_path, monkeypatch, *[L4] * 6)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    given: list[str] = []

    def start(python: str, name: str, environment: dict[str, str]) -> SimpleNamespace:
        given.append(environment["CUDA_VISIBLE_DEVICES"])
        return SimpleNamespace(has_ended=False)

    monkeypatch.setattr(local, "ChildWorker", start)
    crew = LocalWorkers(count)
    crew.start()[lost].has_ended = True  # type: ignore[attr-defined]
    crew.restart()
    assert given == seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            'import sys; sys.exit("No module named harness")',
            "worker 3 cannot be started: exited with code 1: No module named harness",
        ),
        (
            "import sys, harness; harness.__version__ = '0.0.1'\nfrom harness.workers.child import main; main()",
            f"worker 1 has harness 0.0.1 (protocol {PROTOCOL}), but this is",
        ),
        (
            "import harness.plugins as p, harness.workers.child as c\n"
            "c.load_plugins = lambda suite, asked, **_: p.load_plugins(None, ())\nc.main()",
            'worker 1: no loader "apart"',
        ),
    ],
)
def test_an_environment_that_is_no_good_is_one_line(code: str, says: str, suite: Project) -> None:
    """Without the harness, with another version, without the plugin: told before anything is asked; nothing is left."""
    path = json.dumps(write_interpreter(suite.folder, f"import sys; sys.path[:0] = {sys.path!r}\n{code}"))
    text = SUITE.replace('use = "fake"\npath = "base"', f'use = "apart"\npath = "base"\npython = {path}')
    outcome = suite.write({"suite.toml": text, "harnessfile.py": LOADER}).run()
    assert (outcome.code, says in outcome.out) == (4, True), outcome.out + outcome.err
    assert "Traceback" not in outcome.out + outcome.err


@pytest.mark.slow
def test_a_model_answers_in_an_environment_of_its_own(suite: Project) -> None:
    """An interpreter in [model] is a worker of it, whose identity is its own and whose prints disturb nobody."""
    path = json.dumps(
        write_interpreter(
            suite.folder, f"import sys; sys.path[:0] = {sys.path!r}\nfrom harness.workers.child import main\nmain()"
        )
    )
    text = SUITE.replace('use = "fake"\npath = "base"', f'use = "apart"\npath = "base"\npython = {path}')
    outcome = suite.write({"suite.toml": text, "harnessfile.py": LOADER}).run()
    assert outcome.code == 0, outcome.out + outcome.err
    assert "says hello" not in outcome.out + outcome.err


def test_a_worker_that_is_not_the_models_interpreter_is_refused(tmp_path: Path) -> None:
    """A python that is none is a line."""
    with pytest.raises(UsageError, match="name the interpreter of an environment"):
        LocalWorkers("1", str(tmp_path / "none")).start()


@pytest.mark.slow
def test_a_pool_of_children_survives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 of one loses nothing; the note says so, and no process is left."""
    from harness.workers import chunks

    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(gpus, "NODES", ())
    monkeypatch.setattr(chunks, "CHUNK_CHARS", 100)
    ref = ModelRef("base", str(write_fake(tmp_path / "base", 0.3)))
    pool = Pool(LocalWorkers("2"), LoadRequest("fake", [ref], "", ["harness.testing"]), lambda _: None)
    prompts = [f"question {i} say w{i}" for i in range(300)]
    pids = set()
    with pool.load_models() as [subject]:
        stream = subject.stream_generate(prompts)  # type: ignore[attr-defined]
        found = dict([next(stream)])
        pids |= {worker._process.pid for worker in pool.alive}  # type: ignore[attr-defined]
        # one that is at a piece, or gets the next: the answers cannot be complete before its loss is seen
        killed = pool._idle[0] if pool._idle else next(task.worker for task in pool._at.values() if task.method)
        os.kill(killed._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        found |= dict(stream)
        pids |= {worker._process.pid for worker in pool.alive}  # type: ignore[attr-defined]
        notes = subject.notes  # type: ignore[attr-defined]
    from harness.testing import FakeSubject

    assert [found[i] for i in range(300)] == FakeSubject("base", 0.3).generate(prompts)
    assert len(notes) == 1 and "was lost (was killed by SIGKILL)" in notes[0]
    assert len(pids) == 3 and all(map(wait_until_gone, pids))
    with pytest.raises(WorkersGoneError):
        Pool(LocalWorkers("1"), LoadRequest("fakes", [ref], "", ["harness.testing"]), lambda _: None).start()
