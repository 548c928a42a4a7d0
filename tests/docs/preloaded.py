"""The command `harness` from a process that has imported torch already: each command is a fork of it.

`python -m tests.docs.preloaded SOCKET` serves; the script that `write_command` writes asks it, and is what a page's
blocks find on the PATH. A fork has the arguments, folder, environment, output and exit code of the command.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import stat
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

LIBRARIES = ("torch", "transformers", "peft", "trl", "datasets", "scipy.stats", "harness_hf", "harness_sft")
SCRIPT = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({place!r})
    asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(asked)
    sys.exit(int(server.recv(8) or b"70"))
"""


def write_command(folder: Path, place: Path) -> None:
    """Write the script `harness` that asks the server at `place`."""
    script = folder / "harness"
    script.write_text(SCRIPT.format(python=sys.executable, place=str(place)), "utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


def serve(place: str) -> None:
    """Answer at a socket until the process is ended; says "ready" on stdout once it can."""
    for name in LIBRARIES:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a fork
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        server.listen()
        print("ready", flush=True)
        while True:
            asking, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(asking)
            asking.close()


def _answer(asking: socket.socket) -> None:
    """Be the command that is asked for, and end."""
    head, files, _, _ = socket.recv_fds(asking, 8, 3)
    with asking.makefile("rb") as rest:
        words, folder, environment = json.loads(rest.read(int.from_bytes(head, "big")))
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    asking.sendall(str(_code(words)).encode())
    os._exit(0)


def _code(words: Sequence[str]) -> int:
    """Return the exit code of a command line, as a process that ran it would."""
    from harness.cli.main import main

    sys.argv[:] = ["harness", *words]
    try:
        return main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
