"""Killed, or out of disk, anywhere in merge and export: the previous export or none, and nothing finished is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.testing import write_fake
from tests.test_suite import ROWS, SUITE, TRAIN

# Forks a child for every try; the child counts what it does to files from the merge on, and at one of these points is
# killed or told that the disk is full. Its points are audit events (PEP 578), so they are the same in every try.
DRIVER = """
import io, json, os, random, shutil, signal, sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import harness.runner, harness.terminal, harness.testing, scipy.stats  # once, not in every child
from harness.cli import main
from harness.verify import verify

EVENTS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "shutil.copyfile", "shutil.rmtree")
WORDS = ["run", "suite.toml", "-p", "harness.testing"]
export, trained = Path("exports/fake"), Path("cache/trained")


def run(skill, at=None, full=False):
    seen = [0, False]

    def hook(event, arguments):
        if event in ("open", "os.mkdir") and "/.merged" in str(arguments[0]):
            seen[1] = True
        if seen[1] and event in EVENTS:
            seen[0] += 1
            if seen[0] == at:
                if not full:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(28, "No space left on device", str(arguments[0]))

    sys.addaudithook(hook)
    text = io.StringIO()
    with redirect_stdout(text), redirect_stderr(text):
        code = main([*WORDS, "--set", f"train.skill={skill}"])
    return code, seen[0], text.getvalue()


def child(*arguments, **options):
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            answer = run(*arguments, **options)
        except BaseException as error:
            answer = (3, 0, repr(error))
        os.write(there, json.dumps(answer).encode())
        os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as f:
        told = f.read()
    status = os.waitpid(pid, 0)[1]
    return json.loads(told) if told else [-os.WTERMSIG(status), 0, ""]


def state():
    return (export / "model/model.safetensors").read_bytes() if export.exists() else b""


with redirect_stdout(io.StringIO()):
    main(["plugins", "-p", "harness.testing"])  # imports all of them, once
tries, full = int(sys.argv[1]), sys.argv[2] == "full"
rng = random.Random(7)
code, points, text = child(0.9)
assert code == 0, text
before, outcomes = state(), []
for number in range(tries):
    skill = round(0.905 + number / 1000, 4)
    at = rng.randrange(1, points + 1)
    code, _, text = child(skill, at=at, full=full)
    assert code in ((0, 4) if full else (0, -9)), (at, code, text)
    assert "Traceback" not in text, text
    if export.exists():
        assert verify(export).ok, (at, verify(export).refused)
    assert state() in (before, b"") or state() != before and verify(export).ok
    kept = state() == before
    adapters = sorted(str(p) for p in trained.glob("*/adapter"))
    code, _, text = child(skill)
    assert code == 0, text
    assert "reused" in text, text
    assert sorted(str(p) for p in trained.glob("*/adapter")) == adapters
    before = state()
    left = [p.name for p in [*export.parent.iterdir(), *trained.glob("*/.*")] if p.name != "fake"]
    assert not left, (at, left)
    outcomes.append(kept)
print(json.dumps({"points": points, "kept": sum(outcomes), "replaced": len(outcomes) - sum(outcomes)}))
"""


@pytest.mark.parametrize(("how", "tries"), [("killed", 50), ("full", 25)])
def test_stopped_anywhere(how: str, tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At fifty random points of merge and export a kill leaves a whole export, and the next run goes on from there."""
    write_fake(tmp_path / "base", 0.3)
    (tmp_path / "suite.toml").write_text(SUITE, "utf-8")
    for name, rows in (("test", ROWS), ("train", TRAIN)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-c", DRIVER, str(tries), how]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["points"] > 40
    assert found["kept"] > tries / 4  # both sides of the moment in which the export is replaced
