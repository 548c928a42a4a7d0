"""Workers as Ray actors: the numbers of one process, also when an actor is killed or a node goes away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import harness_ray
from harness import UsageError
from harness.testing import ROWS, SUITE, TRAIN, FakeSubject, Project, write_fake

HERE = """
import json, os, signal, sys, time
os.environ["RAY_raylet_start_wait_time_s"] = "300"  # beside busy processes a node takes over a minute to register
from pathlib import Path
from harness import UsageError
from harness.records.models import ModelRef
from harness.workers import chunks
from harness.workers.pool import LoadRequest, Pool
from harness_ray.cluster import RayWorkers, connect_ray
chunks.CHUNK_CHARS = 300
prompts = [f"question {i} say w{i}" for i in range(200)]
ref = ModelRef("base", sys.argv[1])
opening = LoadRequest("fake", [ref], "", ["harness.testing"])
"""
LOCAL = (
    HERE
    + """
pool = Pool(RayWorkers("", None), opening, lambda sign: None)
with pool.load_models() as [subject]:
    before = subject.generate(prompts)
    stream = subject.stream_generate(prompts)
    first = next(stream)
    import ray
    keys = ray.remote(num_cpus=0)(lambda: [name for name in os.environ if "API_KEY" in name])
    leaked = ray.get(keys.remote())
    ray.kill(pool.alive[0]._actor)
    after = dict([first, *stream])
    try:
        subject.lore
    except AttributeError as error:
        lacking = str(error)
    notes = subject.notes
    nbytes = subject.nbytes
wrong = Pool(RayWorkers("", None), LoadRequest("fakes", [ref], "", ["harness.testing"]), lambda sign: None)
try:
    wrong.start()
except UsageError as error:
    mistake = str(error)
print(json.dumps([before, [after[i] for i in range(200)], notes, nbytes, lacking, leaked, mistake, pool.lost]))
"""
)
NODES = (
    HERE
    + """
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 32}
from ray.cluster_utils import Cluster as Nodes
small = {"num_cpus": 1, "object_store_memory": 80 << 20}
nodes = Nodes(initialize_head=True, head_node_args={**small, "include_dashboard": False})
second = nodes.add_node(**small)
nodes.wait_for_nodes()
pool = Pool(RayWorkers(nodes.address, None), opening, lambda sign: None)
import harness_ray.cluster
harness_ray.cluster.RELEASE_TIMEOUT_S = 3.0
with pool.load_models() as [subject]:
    while len(pool.alive) < 2 or len(pool._idle) < 2:
        pool._next(None)
    stream = subject.stream_generate(prompts)
    first = next(stream)
    nodes.remove_node(second, allow_graceful=False)
    after = dict([first, *stream])
    until = time.monotonic() + 60  # an actor may answer on for a while without its node
    more = subject.generate(prompts)
    while not pool.lost and time.monotonic() < until:
        more = subject.generate(prompts)  # whoever is free is asked in turn
    notes, alive = subject.notes, len(pool.alive)
print(json.dumps([[after[i] for i in range(200)], more, notes, alive, pool.lost]))
import ray
ray.shutdown()
nodes.shutdown()
"""
)


def run(code: str, folder: Path) -> Any:
    """Run a driver in a process of its own, which must say nothing but its result and leave no process behind."""
    model = write_fake(folder / "base", 0.3)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENAI_API_KEY": "sk-1", "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)], env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, done.stdout
    assert not (folder / ".ray").exists()  # where Ray writes its tokens
    return json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_actors_answer_as_one_process_does(tmp_path: Path) -> None:
    """Also when one is killed; what they lack and what a suite gets wrong is told as here; no key reaches them."""
    (before, after, notes, nbytes, lacking, leaked, mistake, lost), err = run(LOCAL, tmp_path)
    prompts = [f"question {i} say w{i}" for i in range(200)]
    assert before == after == FakeSubject("base", 0.3).generate(prompts)
    assert lost == len(notes) == 1
    assert "was lost (ActorDiedError" in notes[0]
    assert (nbytes, "no attribute 'lore'" in lacking, leaked) == (1000, True, [])
    assert 'no loader "fakes"; did you mean "fake"?' in mistake
    assert err == ""


@pytest.mark.slow
def test_a_node_that_goes_away_loses_nothing(tmp_path: Path) -> None:
    """Of two nodes one is removed: its piece is answered on the other, and the run goes on with that alone."""
    (after, more, notes, alive, lost), _ = run(NODES, tmp_path)
    assert after == more == FakeSubject("base", 0.3).generate([f"question {i} say w{i}" for i in range(200)])
    assert (alive, lost) == (1, 1)
    assert "was lost" in notes[0]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("host", '": write "ray", "ray:HOST:PORT" or "ray:HOST:PORT?gpus=1"'),
        ("host:port", '": write "ray", "ray:HOST:PORT" or "ray:HOST:PORT?gpus=1"'),
        ("127.0.0.1:1", "there is no cluster (Connection refused); start one with ray start --head"),
        ("127.0.0.1:99999", "there is no cluster ("),
        ("nowhere.invalid:6379", "there is no cluster ("),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line(
    project: Project, place: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told at once, and not after a minute of Ray's own tries."""
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was asked for it"))
    suite = project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    outcome = suite.run("--on", f"ray:{place}")
    assert (outcome.code, says in outcome.out + outcome.err) == (4, True), outcome.out + outcome.err
    assert "Traceback" not in outcome.out + outcome.err


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is not installed is a line that says how to get it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match='needs the module "ray"; pip install ray'):
        harness_ray.workers("").start()
    with pytest.raises(UsageError, match="use --on local:N"):
        harness_ray.workers("", python="/usr/bin/python3")
