"""Others' native code that ends the process of a run is one line and exit code 4; an ordinary run has no guard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

from harness.cli import guard

CODE = """
import ctypes, os, signal, sys, time
from argparse import Namespace
from harness.cli.guard import as_interrupts, guarded

for number in (signal.SIGINT, signal.SIGHUP):  # which nohup, or a shell's background, has it ignore
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

def command(_):
    {does}

with as_interrupts():
    raise SystemExit(guarded(command, Namespace(on="ray:head:6379")))
"""
LINE = "error: a library ended the process {}; this is not a verdict; run again, finished work is kept\n"


def start(does: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CODE.format(does=does.replace("\n", "\n    "))]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env}
    return subprocess.Popen(command, start_new_session=True, **given)


@pytest.mark.parametrize(
    ("does", "how"), [("ctypes.CDLL(None).exit(1)", "with 1"), ("os.abort()", "by SIGABRT"), ("os._exit(0)", "with 0")]
)
def test_a_library_that_ends_the_process_is_no_verdict(does: str, how: str) -> None:
    """Ray's own code calls exit(1) where its head is gone, which a CI would read as a gate that failed."""
    process = start(does)
    assert (*process.communicate(), process.returncode) == ("", LINE.format(how), 4)


def test_what_a_command_returns_stands() -> None:
    """Its code is returned, printed is printed once, and a crash at the end of the process changes neither."""
    ends = "import atexit\natexit.register(os.abort)\nprint('once', os.isatty(2), os.readlink('/proc/self/fd/2')[:4])"
    process = start(f"{ends}\nreturn 6")
    assert (*process.communicate(), process.returncode) == ("once False pipe\n", "", 6)


WAITS = """
try:
    print(os.getpid(), flush=True)
    time.sleep(60)
except KeyboardInterrupt as error:
    print("interrupted", error, flush=True)
    time.sleep(0.2)
    return 2
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on(number: signal.Signals) -> None:
    """What is sent to the guard comes to the command; sent to the whole group it is one wish, and no second."""
    for send in (os.kill, os.killpg) if number != signal.SIGINT else (os.kill,):
        process = start(WAITS)
        assert process.stdout and process.stdout.readline()
        send(process.pid, number)
        name = "" if number == signal.SIGINT else number.name
        assert (process.communicate()[0].rstrip(), process.returncode) == (f"interrupted {name}".rstrip(), 2)


@pytest.mark.slow
def test_the_command_ends_with_its_guard() -> None:
    """Who kills the process that was started ends the run, as without a guard."""
    process = start(WAITS)
    assert process.stdout
    child = int(process.stdout.readline())
    process.kill()
    process.communicate(timeout=20)
    until = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert child != process.pid and not Path(f"/proc/{child}").exists()


def test_ordinary_runs_have_no_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there where a plugin provides the workers, the suite may load an engine, or code of one's own runs."""
    suite, other, own = tmp_path / "suite.toml", tmp_path / "vllm.toml", tmp_path / "own/suite.toml"
    own.parent.mkdir()
    for path in (own, own.with_name("harnessfile.py")):
        path.touch()
    suite.write_text('[model]\nuse = "hf"\n')
    other.write_text('[model]\nuse = "vllm"\n')
    monkeypatch.setattr(guard.os, "fork", lambda: pytest.fail("a guard"))
    plain = {"on": "", "suite": [suite, tmp_path / "none"], "overrides": ["train.r=2"]}
    for args in (None, Namespace(**plain), Namespace(**plain | {"on": "local:2"}), Namespace(suite=suite), Namespace()):
        assert guard.guarded(lambda _: 5, args) == 5
    for more in (
        {"on": "ray"},
        {"overrides": ["model.use=vllm"]},
        {"suite": [suite, other]},
        {"suite": own},
        {"plugins": ["mine"]},
    ):
        with pytest.raises(pytest.fail.Exception, match="a guard"):
            guard.guarded(lambda _: 5, Namespace(**plain | more))
