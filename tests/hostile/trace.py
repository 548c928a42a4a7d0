"""Run a sample of the corpus under strace, which sees what native code opens, starts and connects to."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

STRACE = ["strace", "-ff", "-y", "--seccomp-bpf", "-e", "trace=execve,execveat,openat,openat2,open,connect", "-o"]
OPENED = re.compile(r"^open.*= \d+<(?P<path>.*)>$")
SECRET = re.compile(r"/hostile-[^/]+/(outside/|home/\.cache/huggingface/token)")
OWN = ("O_CREAT", "O_DIRECTORY", "O_PATH")  # the runner writes the secret, and removes its folder
PROGRAMS = re.compile(r'^execve\("(/[^"]*/)?(python[\d.]*|uname|strace)"')
LOCAL = ('inet_addr("127.0.0.1")', '"::1"', "AF_UNIX", "AF_UNSPEC", "AF_NETLINK")


def main() -> int:
    """Trace `python -m tests.hostile` with the same arguments; print each forbidden call."""
    with tempfile.TemporaryDirectory(prefix="trace-") as folder:
        command = [*STRACE, f"{folder}/trace", sys.executable, "-m", "tests.hostile", *sys.argv[1:]]
        code = subprocess.run(command, check=False).returncode
        traces = sorted(Path(folder).glob("trace.*"))
        calls = [call for path in traces for call in find_forbidden_calls(_read_lines(path))]
    print("".join(f"{call}\n" for call in calls), end="")
    print(f"{len(traces)} processes and threads traced, {len(calls)} forbidden calls", file=sys.stderr)
    return int(bool(code or calls or not traces))


def _read_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from (line.rstrip("\n") for line in file)


def find_forbidden_calls(lines: Iterable[str]) -> Iterator[str]:
    """Yield the calls that open a secret to read it, start another program, or connect elsewhere."""
    for line in lines:
        opened = OPENED.match(line)
        if (
            (opened and SECRET.search(opened["path"]) and not any(flag in line for flag in OWN))
            or (line.startswith("exec") and " = 0" in line and not PROGRAMS.match(line))
            or (line.startswith("connect(") and not any(place in line for place in LOCAL))
        ):
            yield line


if __name__ == "__main__":
    sys.exit(main())
