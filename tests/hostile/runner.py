"""Run command lines on hostile folders, in forks of a process that has imported the harness already."""

from __future__ import annotations

import gc
import importlib
import os
import re
import shutil
import tempfile
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness.plugins import load_plugins
from tests.hostile.commands import Line, list_lines
from tests.hostile.corpus import Case, list_cases
from tests.hostile.process import MAX_BYTES, Call, Ended, Process
from tests.hostile.world import CANARY, FOLDERS, VARIABLE

MAX_CALLS = 100  # of a process, before a new one takes its place
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

    def __init__(self, world: Path, seed: int = 0) -> None:
        """Make what cases share; the seed says which texts have their turn."""
        for name in LIBRARIES:
            importlib.import_module(name)
        load_plugins(None, ())
        gc.collect()
        gc.freeze()  # a fork that collects garbage would copy it
        self.world, self.seed = world, seed
        self.process: Process | None = None
        self.line: Line | None = None  # of the process
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
        self._stop()
        self.server.shutdown()
        self.server.server_close()
        shutil.rmtree(self.place, ignore_errors=True)

    def list_cases(self, line: Line) -> list[Case]:
        """Return the cases of a line: a record's leaves only where it opens the record, in turn with lines alike."""
        cases = list_cases(line.kind, self.world / "theirs" / FOLDERS[line.kind], self.outside, self.url)
        return [case for case in cases if not case.record or self._takes_leaf(line, case)]

    def _takes_leaf(self, line: Line, case: Case) -> bool:
        place, count = case.turn
        leaf = f"{line.kind} {line.reading} {case.record} {case.leaf}"
        if (zlib.crc32(leaf.encode()) + self.seed) % count != place:
            return False
        alike = [other for other in list_lines() if (other.kind, other.reading) == (line.kind, line.reading)]
        readers = [other for other in alike if case.record in self._find_opened(other)]
        return bool(readers) and line == readers[zlib.crc32(case.name.encode()) % len(readers)]

    def _find_opened(self, line: Line) -> frozenset[str]:
        """Return the files that a line opens in a valid folder."""
        if line not in self.opened:
            names = self._call(line, Case("unchanged", lambda folder: None))[0].opened
            folder = FOLDERS[line.kind] + "/"
            self.opened[line] = frozenset(name.removeprefix(folder) for name in names if name.startswith(folder))
        return self.opened[line]

    def run(self, line: Line, case: Case) -> str:
        """Run a line on a case and return what it did that it may not do, or nothing.

        What a process does that ran other cases before is said if one that did not does the same.
        """
        ended, problem = self._call(line, case)
        if problem and ended.calls > 1:
            self._stop()
            _, alone = self._call(line, case)
            return alone or f"after other cases: {problem}"
        return problem

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

    def _start(self, line: Line) -> Process:
        """Start a process of a line; it ends what was there for another line."""
        self._stop()
        server = "listens" if line.words.startswith("view ") else self.url if line.server else ""
        call = Call(
            words=self._make_words(line.words).split(),
            folder=Path(self._make_words(line.folder)) if line.folder else self.place / "out",
            output=self.place / "output",
            environment={
                "HOME": str(self.place / "home"),
                "TMPDIR": str(self.place / "tmp"),
                "HARNESS_CACHE": str(self.place / "cache"),
                "LOGNAME": "user",
                **dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "HF_TOKEN", VARIABLE), CANARY),
            },
            modules=self.world / "site",
            read=[self.world / "yours", self.world / "site", self.place / "judged.toml"],
            write=[self.place / name for name in ("out", "tmp", "cache", "theirs", "mine")],
            theirs=self.place / "theirs",
            server=server,
        )
        self.process, self.line = Process(call), line
        return self.process

    def _stop(self) -> None:
        if self.process:
            self.process.close()
        self.process = None

    def _call(self, line: Line, case: Case) -> tuple[Ended, str]:
        """Run a line on a case, in the process of the case before it unless that one ended or ran enough."""
        self._make_folder(line, case)
        _Recorder.received.clear()
        process = self.process
        if process is None or self.line != line or not process.is_alive or process.calls >= MAX_CALLS:
            process = self._start(line)
        ended = process.call()
        return ended, self._judge(line, case, ended, (self.place / "output").read_bytes())

    def _judge(self, line: Line, case: Case, ended: Ended, text: bytes) -> str:
        if not ended.in_time:
            return f"hangs: {ended.seconds:.0f} s"
        if ended.violation:
            return ended.violation
        if ended.code not in CODES or b"Traceback (most recent call last)" in text:
            last = text.decode("utf-8", "replace").strip().splitlines()[-6:]
            return f"exit {ended.code}: {' | '.join(part.strip()[:160] for part in last)}"
        if ended.peak_bytes > MAX_BYTES or b"out of memory" in text:
            return f"memory: {ended.peak_bytes:,} bytes"
        if ESCAPES.search(text):
            return "an escape sequence in the output"
        if leaks := self._find_leaks(text):
            return f"the canary is in {leaks}"
        if _Recorder.received and not line.server:
            return f"the server received {_Recorder.received[0][:80]!r}"
        words = line.words.split()
        trusts = words[0] in TRUSTING and words[-1] != "--list"
        is_accepted = trusts and case.is_foreign and ended.code == 0
        return "is accepted" if is_accepted else ""

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
