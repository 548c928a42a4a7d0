"""Killed, or out of disk, anywhere in merge and export: the previous export or none, and nothing finished is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.testing import ROWS, SUITE, TRAIN, write_fake

# Forks a child for every try; the child counts what it does to files from the merge on, and at one of these points is
# killed or told that the disk is full. Its points are audit events (PEP 578), so they are the same in every try.
DRIVER = """
import io, json, os, random, shutil, signal, sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import harness_report
from harness.cli.main import main
from harness.release.verify import verify_export

EVENTS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "shutil.copyfile", "shutil.rmtree")
WORDS = ["run", "suite.toml", "-p", "harness.testing"]
export, trained = Path("exports/fake"), Path("cache/trained")


def run(skill, at=None, full=False, page=True):
    if not page:
        harness_report.can_render = lambda: False
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


def rehearse(cache):
    # What a process imports and looks up is there in every child then; not of a page, which starts threads.
    shutil.copytree(".", "rehearsal")
    os.environ["HARNESS_CACHE"] = str(Path("rehearsal/cache").resolve())
    renders, harness_report.can_render = harness_report.can_render, lambda: False
    with chdir("rehearsal"), redirect_stdout(io.StringIO()):
        assert main(WORDS) == 0
    harness_report.can_render = renders
    os.environ["HARNESS_CACHE"] = cache
    shutil.rmtree("rehearsal")


os.fsync = lambda handle: None  # no kill of a process takes what the system has
rehearse(os.environ["HARNESS_CACHE"])
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
        assert verify_export(export).ok, (at, verify_export(export).refused)
    assert state() in (before, b"") or state() != before and verify_export(export).ok
    kept = state() == before
    adapters = sorted(str(p) for p in trained.glob("*/adapter"))
    code, _, text = child(skill, page=False)  # which takes longer than all else
    assert code == 0, text
    assert "reused" in text, text
    assert sorted(str(p) for p in trained.glob("*/adapter")) == adapters
    before = state()
    left = [p.name for p in [*export.parent.iterdir(), *trained.glob("*/.*")] if p.name != "fake"]
    assert not left, (at, left)
    outcomes.append(kept)
print(json.dumps({"points": points, "kept": sum(outcomes), "replaced": len(outcomes) - sum(outcomes)}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "tries"), [("killed", 24), ("full", 12)])
def test_stopped_anywhere(how: str, tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At random points of merge and export a kill leaves a whole export, and the next run goes on from there."""
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


# The same with a real merge. A child is killed at a file event, or in the middle of what it writes of a tensor.
MERGES = """
import itertools, json, os, random, signal, sys
from pathlib import Path

from harness.artifacts.digests import file_digests
from harness.files import replace_folder
from harness_lora import lora

out, rng = Path("merged"), random.Random(7)
EVENTS = ("open", "os.rename", "os.mkdir", "os.chmod", "shutil.copyfile", "shutil.rmtree")


def merge(adapter, at=None):
    seen, write, copy = itertools.count(1), os.pwrite, os.copy_file_range

    def half(to, data, offset):
        if next(seen) == at:
            write(to, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(to, data, offset)

    def half_copied(source, to, size, start):
        if next(seen) == at:
            copy(source, to, size // 2, start)
            os.kill(os.getpid(), signal.SIGKILL)
        return copy(source, to, size, start)

    def hook(event, arguments):
        if event in EVENTS and "merged" in str(arguments[0]) and next(seen) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    os.pwrite, os.copy_file_range = half, half_copied
    sys.addaudithook(hook)
    with replace_folder(out) as folder:
        lora().merge("base", Path(adapter), folder, variant="original")
    return next(seen) - 1


def child(*arguments):
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            answer = merge(*arguments)
        except BaseException as error:
            answer = repr(error)
        os.write(there, json.dumps(answer).encode())
        os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as f:
        told = f.read()
    status = os.waitpid(pid, 0)[1]
    return json.loads(told) if told else -os.WTERMSIG(status)


from harness_lora.skeleton import build_skeleton

build_skeleton(Path("base"))  # imports what a merge needs, once and not in every child
points, wanted, outcomes = 0, {}, []
for adapter in ("two", "one"):
    points = child(adapter)
    assert type(points) is int and points > 0, points
    wanted[adapter] = file_digests(out)
assert wanted["one"] != wanted["two"]
there = "one"
for at in sorted(rng.sample(range(1, points + 1), 20)):
    other = {"one": "two", "two": "one"}[there]
    assert child(other, at) == -9, at
    assert file_digests(out) in wanted.values(), at
    outcomes.append(file_digests(out) == wanted[there])
    assert child(other) > 0
    assert file_digests(out) == wanted[other], at
    assert sorted(os.listdir()) == ["base", "merged", "one", "two"], os.listdir()
    there = other
print(json.dumps({"points": points, "kept": sum(outcomes)}))
"""

# On a small disk of its own; a file takes all but some of the room.
FULL = """
import io, json, os, shutil, sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import peft, transformers, harness_lora.merge  # once, not in every child
from harness.cli.main import main
from harness.artifacts.digests import file_digests
from harness.release.verify import verify_export


def run(candidate):
    text = io.StringIO()
    with redirect_stdout(text), redirect_stderr(text):
        code = main(["run", "suite.toml", "--candidate", candidate])
    return code, text.getvalue()


def child(candidate):
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            answer = run(candidate)
        except BaseException as error:
            answer = (3, repr(error))
        os.write(there, json.dumps(answer).encode())
        os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as f:
        told = f.read()
    os.waitpid(pid, 0)
    return json.loads(told)


def leave(free):
    Path("filler").unlink(missing_ok=True)
    with open("filler", "wb") as f:
        os.posix_fallocate(f.fileno(), 0, shutil.disk_usage(".").free - free)


code, text = child("one")
assert code == 0, text
before, where = file_digests(Path("out")), []
for free in map(int, sys.argv[1:]):
    leave(free << 10)
    code, text = child("two")
    assert (code, "No space left on device" in text, "Traceback" in text) == (4, True, False), (free, code, text)
    assert file_digests(Path("out")) == before and verify_export(Path("out")).ok, free
    where.append(max(("", "merge", "export"), key=lambda stage: text.find(f"\\n{stage}  ")))
    left = [p.name for p in [*Path().glob(".*"), *Path("cache/trained").glob("*/.*")]]
    assert not left, (free, left)
Path("filler").unlink()
merged = {p: p.stat().st_ino for p in Path("cache/trained").glob("*/merged-original")}
code, text = child("two")
assert code == 0, text
assert len(merged) == 2 and all(p.stat().st_ino == inode for p, inode in merged.items())  # not made again
assert verify_export(Path("out")).ok and file_digests(Path("out")) != before
print(json.dumps(where))
"""

UNVERIFIED = """
from harness import hookimpl
from harness_lora import lora
from harness_lora.adapter import Lora

class Unverified(Lora):
    verify = None  # it reads what was written, in a process that takes seconds to start

@hookimpl
def harness_adapters():
    return {"unverified": lambda: Unverified(lora().fields)}
"""
REAL = """
[suite]
name = "real"
[model]
path = "base"
[adapter]
use = "unverified"
[[eval]]
name = "fluency"
use = "perplexity"
data = "texts.jsonl"
[[gate]]
id = "fluent"
metric = "fluency.perplexity"
allow_approximate = true
max = 1e9
[[export]]
use = "safetensors"
to = "out"
"""


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and two adapters of it."""
    from harness_lora import lora
    from tests.helpers.adapters import make_adapter

    folder = tmp_path_factory.mktemp("adapters")
    shutil.copytree(tiny_model, folder / "base")
    for name, noise in (("one", 0.05), ("two", 0.1)):
        make_adapter(folder / "base", lora(), folder / name, noise)
    return folder


@pytest.mark.slow
@pytest.mark.xdist_group("merged adapters")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_real_merge_killed_anywhere(adapters: Path, warm: Path, tmp_path: Path) -> None:
    """Killed at twenty points, within tensors too, a merge leaves the model before it, and the next one is whole."""
    shutil.copytree(adapters, tmp_path, dirs_exist_ok=True)
    done = subprocess.run([str(warm / "python"), "-c", MERGES], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["points"] > 30
    assert found["kept"] > 10


@pytest.mark.slow
@pytest.mark.xdist_group("merged adapters")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_real_disk_that_is_full(adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the room ends, the export that is there stays, and with more room the next run goes on."""
    shutil.copytree(adapters, tmp_path / "made")
    (tmp_path / "made/suite.toml").write_text(REAL, "utf-8")
    (tmp_path / "made/harnessfile.py").write_text(UNVERIFIED, "utf-8")
    lines = "".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(4))
    (tmp_path / "made/texts.jsonl").write_text(lines, "utf-8")
    (tmp_path / "disk").mkdir()
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "disk/cache"))
    script = 'mount -t tmpfs -o size=16m tmpfs disk || exit 77; cp -r made/* disk; cd disk; exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-c", FULL, "0", "250", "700"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode in (1, 77) and "Traceback" not in done.stderr:
        pytest.skip("this system lets nobody mount a disk of his own")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["", "merge", "export"]
