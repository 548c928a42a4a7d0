"""A run on workers that is stopped, however: a report where one can be written, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.testing import ROWS, SUITE, TRAIN, Project

SLOW = """
import contextlib, os, time
from pathlib import Path
from harness import hookimpl, loader
from harness.testing import identity, load, open_source

class Slow:
    def __init__(self, subject):
        self.subject = subject
    def __getattr__(self, name):
        return getattr(self.subject, name)
    def generate(self, prompts, **options):
        Path(f"busy-{os.getpid()}").touch()
        time.sleep(600)

@loader(open=open_source, identity=identity)
@contextlib.contextmanager
def slow(refs, *, dtype: str = "auto"):
    with load(refs, dtype=dtype) as subjects:
        yield [Slow(subject) for subject in subjects]

@hookimpl
def harness_loaders():
    return {"slow": slow}
"""


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 2), (signal.SIGTERM, 2), (signal.SIGKILL, -9)])
def test_no_worker_outlives_a_stopped_run(project: Project, stop: signal.Signals, code: int) -> None:
    """Ctrl-C and SIGTERM end it with its report, kill -9 without; the workers end in the middle of what they do."""
    folder = project.folder
    text = SUITE.replace('use = "fake"\npath', 'use = "slow"\npath')
    project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": SLOW})
    hears = "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler); os.cpu_count = lambda: 8"
    main = f"{hears}; import sys; from harness.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", main, "run", "suite.toml", "--on", "local:2", "-p", "harness.testing"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 60
    while not (busy := list(folder.glob("busy-*"))):
        assert driver.poll() is None and time.monotonic() < until, driver.communicate()[0]
        time.sleep(0.05)
    workers = [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/stat") if read_parent_pid(p) == driver.pid]
    assert len(workers) == 2 and int(busy[0].name.partition("-")[2]) in workers
    driver.send_signal(stop)
    said = driver.communicate(timeout=60)[0]
    assert driver.returncode == code, said
    assert "Traceback" not in said
    assert len(list(folder.glob("reports/*/report.json"))) == (code == 2)
    while any(Path(f"/proc/{pid}").exists() and read_parent_pid(Path(f"/proc/{pid}/stat")) for pid in workers):
        assert time.monotonic() < until + 60
        time.sleep(0.05)


def read_parent_pid(stat: Path) -> int:
    """Return the parent of a process; 0 where it has ended."""
    try:
        state, of = stat.read_text("ascii", "replace").rsplit(")", 1)[1].split()[:2]
    except OSError:
        return 0
    return 0 if state == "Z" else int(of)
