"""Run command lines on hostile folders, each in a fork of a process that has imported the harness already."""

from __future__ import annotations

import contextlib
import gc
import http.client
import importlib
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness.plugins import load_plugins
from tests.hostile import guard
from tests.hostile.commands import Line, list_lines
from tests.hostile.corpus import Case, list_cases
from tests.hostile.world import CANARY, FOLDERS, VARIABLE

MAX_SECONDS, MAX_BYTES = 10.0, 1_500_000_000
CODES = (0, 1, 4, 5, 6, 7, 8)
LIBRARIES = (
    "harness.cli.parser", "harness.release.verify", "harness.release.recomputation",
    "harness.planning.pair_forecast", "harness.cause.blame","harness.rows.suites",
    "harness.pipeline.run", "harness.cli.terminal", "scipy.stats", "harness_report.page", "harness_report.comparison",
    "harness_report.history", "harness_view.app", "harness_judge.calibrate", "harness_judge.disputes",
    "huggingface_hub", "openai", "harness_served.parity", "jsonschema", "securesystemslib.signer", "harness_api",
    "transformers.models.llama.modeling_llama", "harness_hf.sources", "harness_hf.subject", "harness_served.reference",
    "harness_served.fingerprint", "peft", "uvicorn.loops.auto", "uvicorn.protocols.http.auto", "uvicorn.lifespan.on",
    "anyio._backends._asyncio",
)  # fmt: skip
PAGES = ("/", "/run/run", "/run/run/events", "/compare?runs=run&runs=run", "/label/run")
TRUSTING = ("verify", "sign", "promote", "publish", "ask")  # commands that refuse what was changed
ESCAPES = re.compile(rb"\x1b\]|\x07")


class _Recorder(BaseHTTPRequestHandler):
    """A server that tells the name of a model and nothing else, and keeps what it got."""

    received: list[bytes] = []  # noqa: RUF012 - one server a process

    def _keep(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.received.append(f"{self.requestline}\n{self.headers}".encode() + body)
        if self.path != "/v1/models":
            self.send_error(404)
            return
        reply = b'{"data": [{"id": "model"}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    do_GET = do_POST = do_HEAD = _keep  # noqa: N815 - the names that http.server calls

    def log_message(self, *args: object) -> None:
        """Print nothing."""


class Runner:
    """Makes a case's folder and runs a line on it."""

    def __init__(self, world: Path) -> None:
        for name in LIBRARIES:
            importlib.import_module(name)
        load_plugins(None, ())
        gc.collect()
        gc.freeze()  # a fork that collects garbage would copy it
        self.world = world
        self.opened: dict[Line, frozenset[str]] = {}
        self.place = Path(tempfile.mkdtemp(prefix="hostile-"))
        self.outside = self.place / "outside"
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Recorder)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        suite = (world / "yours/suite.toml").read_text("utf-8")
        judged = re.sub("base_url = .*", f'base_url = "{self.url}/v1"', suite)
        (self.place / "judged.toml").write_text(judged, "utf-8")

    def close(self) -> None:
        """Remove all that was made."""
        self.server.shutdown()
        self.server.server_close()
        shutil.rmtree(self.place, ignore_errors=True)

    def list_cases(self, line: Line) -> list[Case]:
        """Return the cases of a line: a record's leaves only where it opens the record, in turn with lines alike."""
        cases = list_cases(line.kind, self.world / "theirs" / FOLDERS[line.kind], self.outside, self.url)
        return [case for case in cases if not case.record or self._takes_leaf(line, case)]

    def _takes_leaf(self, line: Line, case: Case) -> bool:
        alike = [other for other in list_lines() if (other.kind, other.reading) == (line.kind, line.reading)]
        readers = [other for other in alike if case.record in self._find_opened(other)]
        return bool(readers) and line == readers[zlib.crc32(case.name.encode()) % len(readers)]

    def _find_opened(self, line: Line) -> frozenset[str]:
        """Return the files that a line opens in a valid folder."""
        if line not in self.opened:
            self.run(line, Case("unchanged", lambda folder: None))
            names = (self.place / "opened").read_text("utf-8").splitlines()
            folder = FOLDERS[line.kind] + "/"
            self.opened[line] = frozenset(name.removeprefix(folder) for name in names if name.startswith(folder))
        return self.opened[line]

    def run(self, line: Line, case: Case) -> str:
        """Run a line on a case and return what it did that it may not do, or nothing."""
        self._make_folder(line, case)
        _Recorder.received.clear()
        return self._run_in_fork(line, case)

    def _make_folder(self, line: Line, case: Case) -> None:
        for name in ("theirs", "outside", "out", "tmp", "cache", "home"):
            shutil.rmtree(self.place / name, ignore_errors=True)
            (self.place / name).mkdir()
        (self.outside / "secret.txt").write_text(CANARY, "utf-8")
        (self.place / "home/.cache/huggingface").mkdir(parents=True)
        (self.place / "home/.cache/huggingface/token").write_text(CANARY, "utf-8")
        name = FOLDERS[line.kind]
        shutil.copytree(self.world / "theirs" / name, self.place / "theirs" / name)
        case.change(self.place / "theirs" / name)
        if "{mine}" in line.folder:
            shutil.rmtree(self.place / "mine", ignore_errors=True)
            large = shutil.ignore_patterns("real", "reports", "run", "exports", "published", "cache")
            shutil.copytree(self.world / "yours", self.place / "mine", ignore=large)

    def _make_words(self, text: str) -> str:
        theirs = self.place / "theirs"
        places = {kind: theirs / name for kind, name in FOLDERS.items()}
        places |= {
            "runs": theirs / "reports",
            "yours": self.world / "yours",
            "mine": self.place / "mine",  # a copy of what is yours
            "judged": self.place / "judged.toml",  # a suite with a judge at the test server
            "out": self.place / "out",
        }
        return text.format(**places, server=self.url)

    def _run_in_fork(self, line: Line, case: Case) -> str:
        receiving, sending = os.pipe()
        output = self.place / "output"
        started, shared = time.monotonic(), _read_memory()
        child = os.fork()
        if child == 0:
            try:
                os.close(receiving)
                self._become(line, output, sending)
            finally:
                os._exit(97)
        os.close(sending)
        with os.fdopen(receiving, "rb") as report:
            handle = os.pidfd_open(child)
            ended = bool(select.select([handle], [], [], MAX_SECONDS)[0])
            os.close(handle)
            if not ended:
                os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            violation = report.read().decode()
        seconds = time.monotonic() - started
        code = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss * 1024 - shared
        problem = self._judge(line, ended, code, violation, peak, seconds, output.read_bytes())
        command, *_, last = line.words.split()
        accepted = code == 0 and case.is_foreign and command in TRUSTING and last != "--list"
        return problem or ("is accepted" if accepted else "")

    def _judge(self, line: Line, ended: bool, code: int, violation: str, peak: int, seconds: float, text: bytes) -> str:
        if not ended:
            return f"hangs: {seconds:.0f} s"
        if violation:
            return violation
        if code not in CODES or b"Traceback (most recent call last)" in text:
            last = text.decode("utf-8", "replace").strip().splitlines()[-6:]
            return f"exit {code}: {' | '.join(part.strip()[:160] for part in last)}"
        if peak > MAX_BYTES or b"out of memory" in text:
            return f"memory: {peak:,} bytes"
        if ESCAPES.search(text):
            return "an escape sequence in the output"
        if leaks := self._find_leaks(text):
            return f"the canary is in {leaks}"
        if _Recorder.received and not line.server:
            return f"the server received {_Recorder.received[0][:80]!r}"
        return ""

    def _find_leaks(self, text: bytes) -> str:
        canary = CANARY.encode()
        if canary in text:
            return "the output"
        if any(canary in data for data in _Recorder.received):
            return "what the server received"
        for name in ("out", "tmp", "cache", "theirs"):
            for folder, _, files in os.walk(self.place / name):
                for path in (Path(folder, file) for file in files):
                    small = path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 26
                    if small and canary in path.read_bytes():
                        return str(path.relative_to(self.place))
        return ""

    def _become(self, line: Line, output: Path, report: int) -> None:
        """Be a fresh process of the command line."""
        from harness.cli.main import main

        sys.dont_write_bytecode = True  # the first import of a module writes beside it, which is no finding
        descriptor = os.open(output, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", 1, "utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "OMP_NUM_THREADS") if name in os.environ}
        os.environ.clear()
        os.environ.update(kept)
        os.environ.update(
            HOME=str(self.place / "home"), TMPDIR=str(self.place / "tmp"), HARNESS_CACHE=str(self.place / "cache"),
            LOGNAME="user", AWS_SECRET_ACCESS_KEY=CANARY, OPENAI_API_KEY=CANARY,
            **{VARIABLE: CANARY, "HF_TOKEN": CANARY},
        )  # fmt: skip
        tempfile.tempdir = None
        os.chdir(self._make_words(line.folder) if line.folder else self.place / "out")
        sys.path = [*(path for path in sys.path if path), str(self.world / "site")]
        words = self._make_words(line.words).split()
        limit = _address_space() + 2 * MAX_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        listens = words[0] == "view"
        server = "listens" if listens else self.url if line.server else ""
        writes = [self.place / name for name in ("out", "tmp", "cache", "theirs", "mine")]
        opened = os.open(self.place / "opened", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        reads = [self.world / "yours", self.world / "site", self.place / "judged.toml"]
        watch = guard.Guard(reads, writes, self.place / "theirs", server, report)
        watch.install()
        if listens:
            threading.Thread(target=_ask_pages, args=(output,), daemon=True).start()
        try:
            code = int(main(words))
        except SystemExit as stop:
            code = int(stop.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(opened, "\n".join(watch.opened).encode("utf-8", "replace"))
        os._exit(code)


def _read_memory() -> int:
    """Return the bytes in memory of this process, which a fork of it shares."""
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * resource.getpagesize()


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text("utf-8").split()[0]) * resource.getpagesize()


def _ask_pages(output: Path) -> None:
    """Ask `harness view` for its pages, then end it."""
    found = None
    while not found:
        time.sleep(0.02)
        with contextlib.suppress(OSError):
            found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", os.pread(1, 1000, 0).decode())
    port, token = int(found[1]), found[2]
    for page in PAGES:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
            connection.request("GET", page, headers={"Cookie": f"harness-view-{port}={token}"})
            reply = connection.getresponse()
            data = b"" if page.endswith("/events") else reply.read()
            if reply.status == 500:
                os.write(2, b"Traceback (most recent call last): status 500 of " + page.encode() + b"\n")
            os.write(2, b"" if CANARY.encode() not in data else CANARY.encode())
            connection.close()
    os.kill(os.getpid(), signal.SIGINT)
