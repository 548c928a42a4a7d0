"""What a command on a hostile folder may not do: an audit hook that ends the process at the first such thing."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.hostile.world import MODULE

VIOLATION = 90  # exit code of a process that did it
STARTS = {
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn",
    "webbrowser.open", "pickle.find_class",
}  # fmt: skip
CONNECTS = {"socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}
WRITES = {"os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.utime", "os.rename", "os.link"}
SYSTEM = (
    "/usr", "/lib", "/lib64", "/sys", "/dev/null", "/dev/urandom", "/etc/localtime", "/etc/mime.types", "/etc/ssl",
    "/etc/ld.so.cache", "/etc/nsswitch.conf",
)  # fmt: skip
PROC = re.compile(
    r"/proc/(meminfo|cpuinfo|mounts|filesystems|sys/.*|(self|\d+)/(status|maps|stat|statm|mounts|fd|cgroup|mountinfo))?"
)
ROOT = Path(__file__).parents[2]


class Guard:
    """The rules for one command line: what it may read, where it may write, to which server it may speak."""

    def __init__(self, read: Sequence[Path], write: Sequence[Path], folder: Path, server: str, report: int) -> None:
        places = [*map(str, (sys.prefix, sys.base_prefix, sys.exec_prefix, ROOT)), *SYSTEM]
        self.write = [os.path.realpath(path) for path in write]
        self.read = [*self.write, *(os.path.realpath(path) for path in (*read, *places))]
        self.folder, self.server, self.report = os.path.realpath(folder), server, report
        self.asleep = False
        self.opened: set[str] = set()  # names below the folder

    def install(self) -> None:
        """Watch this process until it ends."""
        plain_open = os.open

        def checked_open(path: Any, flags: int, *args: Any, **options: Any) -> int:
            descriptor = plain_open(path, flags, *args, **options)
            place = Path(f"/proc/self/fd/{descriptor}").readlink()
            self.check_path(place, writes=bool(flags & (os.O_WRONLY | os.O_RDWR)))
            return descriptor

        os.open = checked_open  # type: ignore[assignment]  # the event of a name below a descriptor does not tell it
        sys.addaudithook(self.watch)

    def watch(self, event: str, args: tuple[Any, ...]) -> None:
        """End the process at an event that is not allowed."""
        if self.asleep:
            return
        self.asleep = True
        try:
            if check := CHECKS.get(event):
                check(self, *args)
            elif event in STARTS:
                if not (self._is_known_child(event, args) or self._is_row_class(event, args)):
                    self.fail(f"{event}: {args[:2]!r}")
            elif event in CONNECTS:
                self._check_address(event, args)
            elif event in WRITES and not (len(args) > 1 and isinstance(args[-1], int) and args[-1] >= 0):
                self.check_path(args[0], writes=True)
        finally:
            self.asleep = False

    @staticmethod
    def _is_known_child(event: str, args: tuple[Any, ...]) -> bool:
        """Return whether a new process is our own, or a client's that asks for the processor.

        Ours draw charts, and read two large tables at the same time.
        """
        from harness_report.svg import DRAWER

        words = [str(word) for word in args[1]] if event == "subprocess.Popen" and args[1] else []
        python = [sys.executable, "-P"]
        return words in ([*python, "-c", DRAWER], [*python, "-m", "harness.rows.sides"], ["uname", "-p"])

    @staticmethod
    def _is_row_class(event: str, args: tuple[Any, ...]) -> bool:
        """Return whether a class is one of the rows that our own process for a large table hands over."""
        return event == "pickle.find_class" and args[0] == "harness.rows.records"

    def check_path(self, path: Any, *, writes: bool) -> None:
        """Fail if a path leads elsewhere."""
        if isinstance(path, int):
            return
        real = os.path.realpath(os.fsdecode(path))
        if self._is_below(real, [self.folder]):
            self.opened.add(os.path.relpath(real, self.folder))
        known = self._is_below(real, self.write if writes else self.read) or PROC.fullmatch(real)
        if not (known or "pipe:[" in real or real.startswith(("/proc/self/fd", "/dev/shm")) or real == "/dev/null"):
            self.fail(f"{'write' if writes else 'open'}: {real}")

    def _check_open(self, path: Any, mode: Any, flags: int) -> None:
        below_descriptor = mode is None and not isinstance(path, int) and not Path(os.fsdecode(path)).is_absolute()
        if not below_descriptor:
            self.check_path(path, writes=bool((flags or 0) & (os.O_WRONLY | os.O_RDWR)))

    def _check_import(self, module: str, filename: Any, path: Any, *_: Any) -> None:
        places = [os.path.realpath(place) for place in path or sys.path if isinstance(place, str)]
        if module == MODULE or any(self._is_below(place, [self.folder]) for place in places):
            self.fail(f"import: {module} from {places[:2]}")

    def _check_code(self, code: Any, *_: Any) -> None:
        filename = getattr(code, "co_filename", "")
        is_file = bool(filename) and not filename.startswith("<")  # such as <string>, of a dataclass
        if is_file and self._is_below(os.path.realpath(filename), [self.folder]):
            self.fail(f"exec: {filename}")

    def _check_address(self, event: str, args: tuple[Any, ...]) -> None:
        address = next((arg for arg in args if isinstance(arg, (tuple, str))), "")
        host, port = (address if isinstance(address, tuple) else args)[:2]
        local = str(host) in ("127.0.0.1", "localhost", "::1")
        if not local or (self.server != "listens" and str(port) not in self.server.split(":")[-1:]):
            self.fail(f"{event}: {host}:{port}")

    @staticmethod
    def _is_below(path: str, places: Sequence[str]) -> bool:
        return any(path == place or path.startswith(place.rstrip("/") + "/") for place in places)

    def fail(self, what: str) -> None:
        """Report a violation with the frames that led to it, and end the process."""
        frames = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_stack() if "harness" in f.filename]
        os.write(self.report, f"{what} (at {' '.join(frames[-4:])})".encode("utf-8", "backslashreplace"))
        os._exit(VIOLATION)


CHECKS: dict[str, Callable[..., None]] = {
    "open": Guard._check_open,
    "import": Guard._check_import,
    "exec": Guard._check_code,
}
