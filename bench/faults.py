"""Break workers, disks, the cache of answers and ranks of a training at random; each ends right or with one line.

python -m bench.faults [workers|disks|cache|ranks] [--count N] [--seed N]

Right are the scores, or the adapter, of a run that nobody disturbed; a line is exit code 4 (1 where the model raised)
without a traceback. Nothing may be left: no process after two seconds, no half export, and the next run passes. Prints
a line for each fault that ended otherwise, and then ends with 1. Disks need the right to mount a tmpfs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from harness.testing import ROWS, SUITE, TRAIN, write_fake

MARK = "HARNESS_BENCH_FAULTS"  # in the environment of all that a run starts
LOADER = r"""
import os, signal, sys, time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from harness import hookimpl, loader
from harness.testing import FakeSubject, identity, load as fake, open_source

HERE = Path(__file__).parent
LOST = {"kill": 9, "term": 15, "segv": 11, "abort": 6, "stop": 19}

def happens(where):
    told = (HERE / "fault.txt").read_text("utf-8").split() if (HERE / "fault.txt").exists() else []
    if not told or told[0] != where or os.getpid() == int(os.environ["DRIVER"] or 0):
        return ""
    if told[2] == "once":
        try:
            (HERE / "happened").touch(exist_ok=False)
        except FileExistsError:
            return ""
    what = told[1]
    if what in LOST:
        os.kill(os.getpid(), LOST[what])
    elif what == "exit":
        os._exit(3)
    elif what == "leave":
        os._exit(0)
    elif what == "hang":
        time.sleep(3600)
    elif what == "slow":
        time.sleep(3)
    elif what == "noise":
        os.write(1, b"x" * (1 << 22)); sys.stderr.write("y" * (1 << 22))
    elif what == "fork":
        if os.fork() == 0:
            time.sleep(3600)
    elif what == "raise":
        raise ValueError("row is odd")
    elif what == "deep":
        raise RecursionError("too deep")
    elif what == "sysexit":
        sys.exit(0)
    return what

@dataclass(frozen=True)
class Odd(FakeSubject):
    def generate(self, prompts, **options):
        answers = super().generate(prompts, **options)
        if any(p.endswith("w17") for p in prompts):
            what = happens("ask")
            answers = {"count": answers[:-1], "type": [7, *answers[1:]]}.get(what, answers)
        return answers

@loader(open=open_source, identity=identity)
@contextmanager
def load(refs, *, dtype: str = "auto"):
    happens("load")
    with fake(refs, dtype=dtype) as subjects:
        yield [Odd(s.name, s.skill, s.digest) for s in subjects]

@hookimpl
def harness_loaders():
    happens("open")
    return {"odd": load}
"""
LOST = ("kill", "term", "segv", "abort", "stop", "exit", "leave", "hang")
SCORES = re.compile(r"exact_match +([0-9.]+)")
FINE = ("slow", "noise", "fork")
WRONG = ("count", "type")
DONE = (0, 1, 6)  # exit codes of a run that came to its end
RAISED = ("raise", "deep", "sysexit")
DRIVER = """
import os, sys
os.environ["DRIVER"] = str(os.getpid())
from harness.cli.main import main
sys.exit(main())
"""
TRAINED = """
[suite]
name = "trained"

[model]
use = "hf"
path = "tiny:llama"
dtype = "float32"
device = "cpu"

[adapter]
use = "lora"
r = 4

[train]
use = "sft"
data = "train.jsonl"
max_steps = 24
save_steps = 4
gradient_accumulation_steps = 2
per_device_train_batch_size = 1
processes = 2

[[eval]]
name = "qa"
use = "exact_match"
data = "test.jsonl"
limit = 2

[[gate]]
id = "floor"
metric = "qa.exact_match"
min = 0.0
"""


class Project:
    """A folder with a suite, which is run as a person would."""

    def __init__(self, folder: Path, suite: str, files: dict[str, str] | None = None) -> None:
        self.folder, self.cache = folder, folder / "cache"
        rows = {name: "".join(json.dumps(r) + "\n" for r in rows) for name, rows in (("test", ROWS), ("train", TRAIN))}
        given = {"suite.toml": suite, "test.jsonl": rows["test"], "train.jsonl": rows["train"], **(files or {})}
        for name, text in given.items():
            (folder / name).write_text(text, "utf-8")
        write_fake(folder / "base", 0.3)

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-c", DRIVER, "run", "suite.toml", "-p", "harness.testing", *words]
        env = {**os.environ, MARK: str(self.folder), "HARNESS_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    def run(self, *words: str, limit: float = 120.0) -> tuple[int, str]:
        process = self.start(*words)
        try:
            out, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            return 99, f"not done in {limit:g} s: {process.communicate()[0]}"
        return process.returncode, out

    def left(self) -> list[str]:
        """Return the command lines of processes of a run that are there after two seconds."""
        until, found = time.monotonic() + 2, ["?"]
        while found and time.monotonic() < until:
            found = []
            for place in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    if f"{MARK}={self.folder}".encode() in (place / "environ").read_bytes():
                        found.append((place / "cmdline").read_text("utf-8").replace("\0", " ")[:80])
            time.sleep(0.05)
        return found


def break_workers(chance: random.Random) -> tuple[str, str]:
    """Break a worker while it opens, loads or answers, once or always."""
    with tempfile.TemporaryDirectory() as place:
        project = Project(
            Path(place), SUITE.replace('use = "fake"\npath', 'use = "odd"\npath'), {"harnessfile.py": LOADER}
        )
        where = chance.choice(("ask", "ask", "load", "open"))
        what = chance.choice((*LOST, *FINE, *(RAISED + WRONG if where == "ask" else RAISED[:1])))
        often = chance.choice(("once", "always")) if what in LOST else "always"
        (project.folder / "fault.txt").write_text(f"{where} {what} {often}", "utf-8")
        code, out = project.run("--on", "local:2", "--patience", "1")
        right = {0} if what in FINE or (what in LOST and often == "once") else {1, 3, 4}
        name = f"{where} {what} {often}"
        if code not in right or ("Traceback" in out and what not in RAISED):
            return name, f"ended with {code}, want {right}: {out[-1500:]}"
        if what in LOST and often == "always" and "error:" not in out:
            return name, f"no line: {out[-1500:]}"
        if code == 0 and SCORES.findall(out) != score_undisturbed():
            return name, f"other scores: {out[-1500:]}"
        return name, f"left: {left}" if (left := project.left()) else ""


@cache
def score_undisturbed() -> list[str]:
    """Return the scores of the suite of fakes in one process, which nobody breaks."""
    with tempfile.TemporaryDirectory() as place:
        code, out = Project(Path(place), SUITE).run()
        assert code == 0 and SCORES.findall(out), out
        return SCORES.findall(out)


def fill_disks(chance: random.Random) -> tuple[str, str]:
    """Let one of a run's folders be on a disk of some kB; what is exported verifies, and with room it passes."""
    with tempfile.TemporaryDirectory() as place, mount_small_disks() as mount:
        project = Project(Path(place), SUITE)
        place_of = chance.choice(("cache", "reports", "exports"))
        size, inodes = chance.choice((4, 8, 16, 32, 64, 128, 256, 1024)), chance.choice((0, 0, 4, 8, 16, 40))
        mount(project.folder / place_of, size, inodes)
        code, out = project.run()
        export, name = project.folder / "exports/fake", f"{place_of} ({'full' if code else 'enough'})"
        if code not in (0, 4) or "Traceback" in out:
            return name, f"{size} kB, {inodes} inodes: ended with {code}: {out[-1500:]}"
        if (
            export.exists()
            and subprocess.run([sys.executable, "-m", "harness", "verify", str(export)], capture_output=True).returncode
        ):
            return name, f"{size} kB, {inodes} inodes: a half export"
        subprocess.run(["umount", str(project.folder / place_of)], check=True)
        code, out = project.run()
        return name, "" if code == 0 else f"with room: {code}: {out[-800:]}"


def damage_answers(chance: random.Random) -> tuple[str, str]:
    """Damage the cache of answers; the verdicts are those of new answers, and nothing ends the run."""
    with tempfile.TemporaryDirectory() as place:
        project = Project(Path(place), SUITE)
        assert project.run("--no-export")[0] == 0
        path = project.cache / "responses.sqlite"
        data = bytearray(path.read_bytes())
        kind = chance.choice(("flip", "flips", "cut", "zeros", "text", "empty", "swap"))
        if kind == "flip" or kind == "flips":
            for _ in range(1 if kind == "flip" else 200):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del data[chance.randrange(len(data)) :]
        elif kind == "zeros":
            start = chance.randrange(len(data))
            data[start : start + 4096] = bytes(min(4096, len(data) - start))
        elif kind == "swap":
            a, b = (chance.randrange(len(data) // 4096) * 4096 for _ in "ab")
            data[a : a + 4096], data[b : b + 4096] = data[b : b + 4096], data[a : a + 4096]
        else:
            data = bytearray(b"no database" if kind == "text" else b"")
        path.write_bytes(data)
        code, out = project.run("--no-export")
        right = code == 0 and SCORES.findall(out) == score_undisturbed()
        return kind, "" if right and "Traceback" not in out else f"{code}: {out[-1500:]}"


def kill_ranks(chance: random.Random) -> tuple[str, str]:
    """End one of two ranks, or their parent, at a random moment of a training; the next run has the same adapter."""
    with tempfile.TemporaryDirectory() as place:
        project = Project(Path(place), TRAINED)
        who, number = chance.choice(("rank", "rank", "parent")), chance.choice((9, 15, 2, 11))
        name = f"{who} {signal.Signals(number).name}"
        process, until = project.start("-v"), time.monotonic() + 120
        pids: list[int] = []
        while len(pids) < 2 and process.poll() is None and time.monotonic() < until:
            pids = [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if _is_rank(p, process.pid)]
            time.sleep(0.1)
        time.sleep(chance.uniform(0.0, 6.0))
        with suppress(ProcessLookupError):
            os.kill(process.pid if who == "parent" else chance.choice(pids or [process.pid]), number)
        out, _ = process.communicate(timeout=180)
        code = process.returncode
        right = {*DONE, 2, 4, -9, -11} if who == "parent" else {*DONE, 2, 4}  # it may have been done by then
        if code not in right or "Traceback" in out or "GLHF" in out:
            return name, f"ended with {code}: {out[-1500:]}"
        if left := project.left():
            return name, f"left: {left}"
        code, out = project.run(limit=300)
        same = hash_adapter(project) == train_undisturbed()
        return name, "" if code in DONE and same else f"then {code}, {'same' if same else 'other'}: {out[-800:]}"


@cache
def train_undisturbed() -> str:
    """Return the digest of the adapter that a training writes which nobody disturbs."""
    with tempfile.TemporaryDirectory() as place:
        project = Project(Path(place), TRAINED)
        code, out = project.run(limit=300)
        assert code in DONE, out
        return hash_adapter(project)


def hash_adapter(project: Project) -> str:
    (path,) = project.cache.glob("trained/*/adapter/adapter_model.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_rank(path: Path, parent: int) -> bool:
    with suppress(OSError, ValueError, IndexError):
        stat = (path.parent / "stat").read_text("utf-8").rpartition(")")[2].split()
        return "harness_sft.worker" in path.read_text("utf-8") and int(stat[1]) == parent
    return False


@contextmanager
def mount_small_disks() -> Iterator[Callable[[Path, int, int], None]]:
    """Yield what mounts a small tmpfs on a folder; all are gone afterwards."""
    mounted: list[Path] = []

    def mount(folder: Path, size: int, inodes: int) -> None:
        folder.mkdir(exist_ok=True)
        options = f"size={size}k" + (f",nr_inodes={inodes}" if inodes else "")
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
        mounted.append(folder)

    try:
        yield mount
    finally:
        for folder in mounted:
            subprocess.run(["umount", str(folder)], capture_output=True)


KINDS = {"workers": break_workers, "disks": fill_disks, "cache": damage_answers, "ranks": kill_ranks}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    seen, begun, wrong = Counter[str](), time.monotonic(), 0
    for number in range(args.count):
        name, why = KINDS[args.kind](random.Random(f"{args.seed} {number}"))
        seen[name] += 1
        if why:
            wrong += 1
            print(f"{args.kind} {args.seed} {number}, {name}: {why}", flush=True)
    print(
        f"{args.kind}: {args.count} faults, {wrong} ended otherwise, in {time.monotonic() - begun:.0f} s: {dict(seen)}"
    )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
