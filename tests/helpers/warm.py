"""A Python that has imported torch already: each command is a fork of it, and ends as the command would.

`python warm.py SOCKET` serves until its standard input ends. The `python` and `harness` that it writes ask it. A
fork has the arguments, folder, environment, umask, ignored signals, streams and exit code of the command; it ends with
whoever started it, gets the signals that he does, and dies of the signal that the command dies of. What it starts by
`sys.executable` is warm, too. Not for a test of the start itself: of imports, their time, and limits of memory.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

LIBRARIES = ("torch", "transformers", "peft", "trl", "datasets", "scipy.stats", "harness_hf", "harness_sft")
SCRIPT = """\
#!{python} -IS
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({place!r})
    umask = os.umask(0)
    ignored = [n for n in range(1, signal.NSIG) if signal.getsignal(n) is signal.SIG_IGN]
    told = {{"words": [*{before!r}, *sys.argv[1:]], "folder": os.getcwd(), "environment": dict(os.environ)}}
    asked = json.dumps({{**told, "umask": umask, "ignored": ignored}}).encode()
    socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(asked)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):  # whoever reads what the fork writes sees its end
        os.dup2(nothing, number)
    pid = int(server.recv(8) or b"0")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    code = int(server.recv(8) or b"70")
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
"""


@contextmanager
def serve_warm_python() -> Iterator[Path]:
    """Serve, and yield a folder with a `python` and a `harness` that ask the server."""
    ours = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/socket"
        for name in ("python", "harness", "pytest"):
            script, before = Path(folder, name), [str(ours / name)] if name != "python" else []
            script.write_text(SCRIPT.format(python=sys.executable, place=place, before=before), "utf-8")
            script.chmod(script.stat().st_mode | stat.S_IXUSR)
        command = [sys.executable, __file__, place]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}  # read once
        with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdin and server.stdout and server.stdout.readline() == b"ready\n"
            yield Path(folder)
            server.stdin.close()


@contextmanager
def use_warm_python(folder: Path) -> Iterator[None]:
    """Let `sys.executable`, by which children are started, be the `python` of a folder."""
    before, sys.executable = sys.executable, str(folder / "python")
    try:
        yield
    finally:
        sys.executable = before


def serve(place: str) -> Sequence[str]:
    """Answer at a socket until standard input ends; return only in a fork, with the words of its command."""
    for name in LIBRARIES:
        importlib.import_module(name)
    sys.executable = str(Path(place).with_name("python"))
    gc.collect()
    gc.freeze()
    forks: dict[int, tuple[int, socket.socket]] = {}  # by a handle that can be read once the fork has ended
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        server.listen()
        os.write(1, b"ready\n")
        while True:
            ready = select.select([0, server, *forks, *(asking for _, asking in forks.values())], [], [])[0]
            for handle, (pid, asking) in list(forks.items()):
                if handle in ready:
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with suppress(OSError), asking:
                        asking.sendall(str(code).encode())
                    os.close(handle)
                    del forks[handle]
                elif asking in ready or 0 in ready:  # nobody is there any more
                    os.killpg(pid, signal.SIGKILL)
            if 0 in ready:
                os._exit(0)
            if server in ready:
                asking, _ = server.accept()
                head, files, _, _ = socket.recv_fds(asking, 8, 3)
                with asking.makefile("rb") as rest:
                    asked = json.loads(rest.read(int.from_bytes(head, "big")))
                if (pid := os.fork()) == 0:
                    for one in (server, asking, *(other for _, other in forks.values())):
                        one.close()
                    return _become(files, **asked)
                with suppress(OSError):
                    os.setpgid(pid, pid)
                for file in files:
                    os.close(file)
                asking.sendall(f"{pid:8}".encode())
                forks[os.pidfd_open(pid)] = pid, asking


def _become(
    files: Sequence[int], words: list[str], folder: str, environment: dict[str, str], umask: int, ignored: Sequence[int]
) -> Sequence[str]:
    """Be as an interpreter is that has just begun, and return its words."""
    with suppress(OSError):
        os.setpgid(0, 0)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.umask(umask)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in ignored else usual)
    sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
    by_line = os.isatty(1) or bool(environment.get("PYTHONUNBUFFERED"))
    sys.stdout = os.fdopen(1, "w", 1 if by_line else -1, "utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
    random.seed()
    return words


def run(words: Sequence[str]) -> None:
    """Do as the interpreter does with its words: `-c CODE`, `-m MODULE` or a file, and what follows."""
    safe = words[:1] == ["-P"] or bool(os.environ.get("PYTHONSAFEPATH"))
    words = words[1:] if words[:1] == ["-P"] else words
    kind, first, *_ = [*words, ""]
    if kind == "-c":
        sys.path[:0] = [] if safe else [""]
        sys.argv[:] = ["-c", *words[2:]]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(first, "<string>", "exec"), vars(sys.modules["__main__"]))
    elif kind == "-m":
        sys.path[:0] = [] if safe else [str(Path.cwd())]
        sys.argv[:] = words[1:]
        runpy.run_module(first, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(kind).resolve().parent))
        sys.argv[:] = words
        runpy.run_path(kind, run_name="__main__")


def end(code: int) -> None:
    """End as the interpreter does: threads, what was registered, streams."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = 120
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


def run_and_get_code(words: Sequence[str]) -> int:
    """Run a command, tell what it raises, and return its exit code."""
    try:
        run(words)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file
    end(run_and_get_code(serve(sys.argv[1])))
