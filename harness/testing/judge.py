"""A judge for tests: a server on this machine that speaks both APIs, and has the faults that judges have.

It reads the fenced JSON that it is sent, as a model would, and knows nothing of how it was made. `StubJudge` is a
context manager; point `base_url` at its `openai_url` or `anthropic_url`.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Mode = Literal[
    "fair",
    "always-A",
    "prefers-longer",
    "injectable",
    "flaky",
    "malformed",
    "slow",
    "429",
    "refuses",
    "unfit",
    "cut",
    "noisy",
]
FAULTS = {  # shares of calls, by mode
    "flaky": {"429": 0.10, "500": 0.05, "timeout": 0.02, "malformed": 0.02}, "malformed": {"malformed": 1.0},
}  # fmt: skip
ORDERS = re.compile(r"ignore all previous instructions", re.IGNORECASE)


@dataclass(frozen=True)
class ServedRequest:
    """One request that reached the server: what it was, how it ended, and the tokens that were billed for it."""

    digest: str  # of its body
    path: str
    outcome: str  # "ok", or the fault
    begun: float = 0.0  # seconds of a monotonic clock
    ended: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(eq=False, repr=False)
class StubJudge:
    """A loopback judge server; `mode` selects its behaviour, `log` lists requests.

    fair            prefers the answer that shares more words with the reference, else the request
    always-A        looks at places only
    prefers-longer  looks at lengths only
    injectable      does what an answer tells it, else is fair
    flaky           is fair, but for the shares `faults` of calls: 429, 500, timeout, malformed
    malformed       sends half of a JSON
    slow            is fair, after `hang` seconds
    429             refuses for as long as `refusals` last, with retry-after
    refuses         declines to judge
    unfit           gives a verdict that is none
    cut             ends in the middle, at the tokens it was allowed
    noisy           tosses a coin each time it compares answers to one of the share `noise` of requests, else is fair

    `latency` is the delay of every call in seconds, `hang` that of a timeout. Requests that contain the text `declines`
    are declined. With a `key`, requests with another key are rejected. `models` are the served models, `lacks` are
    unsupported fields of a request, `returned` is the reported model id, or a function of the number of the call. With
    `moved`, requests are redirected to that host.
    """

    mode: Mode = "fair"
    _: KW_ONLY
    latency: float = 0.0
    hang: float = 2.0
    faults: Mapping[str, float] | None = None
    refusals: int = 1_000_000
    retry_after: float = 0.1
    declines: str = ""
    key: str | None = None
    models: tuple[str, ...] = ("stub-judge",)
    lacks: tuple[str, ...] = ()
    returned: Any = "stub-judge-2026-01-01"
    moved: str = ""
    noise: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        self.faults = FAULTS.get(self.mode, {}) if self.faults is None else self.faults
        self.latency = self.hang if self.mode == "slow" else self.latency
        self.log, self.busy, self.busiest = list[ServedRequest](), 0, 0
        self._tosses = Counter[str]()  # by what was compared
        self._lock = threading.Lock()
        self._random = random.Random(self.seed)  # noqa: S311 -- faults, not secrets
        self._server = _StubServer(("127.0.0.1", 0), _Handler)
        self._server.stub = self
        self.anthropic_url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.openai_url = f"{self.anthropic_url}/v1"

    def __enter__(self) -> StubJudge:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, outcome: str = "ok") -> int:
        """Count the calls that ended so."""
        return sum(a.outcome == outcome for a in self.log)

    def repeated(self) -> int:
        """Count the calls repeated after the same call was answered."""
        answered = {asked.digest: asked.ended for asked in reversed(self.log) if asked.outcome == "ok"}  # at first
        return sum(asked.begun > answered.get(asked.digest, math.inf) for asked in self.log)

    def next_fault(self) -> str:
        """Choose the fault of the next call, or none."""
        with self._lock:
            if self.mode == "429":
                self.refusals -= 1
                return "429" if self.refusals >= 0 else ""
            drawn = self._random.random()
        for name, share in (self.faults or {}).items():
            if drawn < share:
                return name
            drawn -= share
        return ""

    def verdict(self, text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Judge the data of a request, in its schema's form."""
        data, wanted = read_fenced_json(text), schema.get("properties", {})
        if "verdict" not in wanted:
            met = self.mode != "always-A" and word_f1(data["answer"], data) > 0
            return {name: {"reason": self.mode, "met": met} for name in wanted}
        a, b = data["answer_A"], data["answer_B"]
        ours, theirs = (len(a), len(b)) if self.mode == "prefers-longer" else (word_f1(a, data), word_f1(b, data))
        verdict = "tie" if ours == theirs else "A" if ours > theirs else "B"
        if self.mode == "injectable" and bool(ORDERS.search(a)) != bool(ORDERS.search(b)):
            verdict = "A" if ORDERS.search(a) else "B"
        if self.mode == "noisy" and self.is_uncertain(data["request"]):
            verdict = self.toss(json.dumps([data["request"], a, b]))
        verdict = {"unfit": "neither", "always-A": "A"}.get(self.mode, verdict)
        return {"reason": f"{self.mode}: {data['request'][:40]}", "verdict": verdict}

    def is_uncertain(self, request: str) -> bool:
        """Return whether a noisy judge tosses a coin over a request."""
        return _number_of(f"{self.seed} {request}") < self.noise

    def toss(self, compared: str) -> str:
        """Return A or B, whenever the same is compared anew."""
        with self._lock:
            self._tosses[compared] += 1
            turn = self._tosses[compared]
        return "A" if _number_of(f"{self.seed} {turn} {compared}") < 0.5 else "B"

    def count_concurrent(self, step: int) -> None:
        with self._lock:
            self.busy += step
            self.busiest = max(self.busy, self.busiest)


def read_fenced_json(text: str) -> dict[str, str]:
    """Return the JSON between the two fence lines that begin a request."""
    fence, data, end = text.split("\n")[:3]
    assert fence == end and fence.startswith("DATA-"), "the fence is broken"
    found: dict[str, str] = json.loads(data)
    return found


def _number_of(text: str) -> float:
    """Return a number from 0 to 1 by a text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def word_f1(answer: str, data: Mapping[str, str]) -> float:
    """Return the word F1 of an answer against reference or request."""
    ours = set(answer.lower().split())
    theirs = set((data.get("reference") or data["request"]).lower().split())
    return 2 * len(ours & theirs) / (len(ours) + len(theirs)) if ours and theirs else 0.0


class _StubServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    stub: StubJudge


class _Handler(BaseHTTPRequestHandler):
    """One connection, kept alive over many requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # header and body are two writes
    server: _StubServer

    def do_GET(self) -> None:
        stub, name = self.server.stub, self.path.rsplit("/", 1)[-1]
        if stub.key is not None and not self.authorised(stub.key):
            return self.error(401, "authentication_error", "invalid key")
        if name not in stub.models:
            return self.error(404, "not_found_error", f"model: {name}")
        self.send(200, {"id": name, "type": "model", "display_name": f"The {name}"})

    def do_POST(self) -> None:
        self.server.stub.count_concurrent(1)
        self.begun = time.monotonic()
        try:
            self.answer(self.rfile.read(int(self.headers["Content-Length"])))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client gave up, as it should
        finally:
            self.server.stub.count_concurrent(-1)

    def answer(self, raw: bytes) -> None:
        stub, body, digest = self.server.stub, json.loads(raw), hashlib.sha256(raw).hexdigest()
        if stub.moved:
            return self.send(307, {}, {"Location": f"{stub.moved}{self.path}"})
        if stub.key is not None and not self.authorised(stub.key):
            self.note(digest, "401")
            return self.error(401, "authentication_error", f"invalid key: {self.headers.get('Authorization')}")
        if body["model"] not in stub.models:
            self.note(digest, "404")
            return self.error(404, "not_found_error", f"model: {body['model']}")
        if unknown := next((name for name in stub.lacks if name in body), None):
            self.note(digest, "400")
            return self.error(400, "invalid_request_error", f"unsupported parameter: {unknown}", param=unknown)
        if fault := stub.next_fault():
            self.note(digest, fault)
        time.sleep(stub.hang if fault == "timeout" else stub.latency)
        if fault:
            return self.fail(fault, body)
        text, tokens_in, tokens_out = self.judge(body)
        self.note(digest, "ok", tokens_in, tokens_out)
        self.send(200, self.reply(body, text, tokens_in, tokens_out))

    def judge(self, body: Mapping[str, Any]) -> tuple[str, int, int]:
        """Return a reply's text with its billed input and output tokens. Four characters count as one token."""
        texts = [m["content"] for m in body["messages"]] + [str(body.get("system", ""))]
        told = body.get("response_format") or {}, body.get("output_config") or {}  # of OpenAI's API, and Anthropic's
        schema = told[0].get("json_schema", told[1].get("format", {})).get("schema")
        if schema is None:  # not asked to judge: it answers
            text = "stub " + " ".join(texts[0].split()[-3:])
        else:
            text = json.dumps(self.server.stub.verdict(body["messages"][-1]["content"], schema))
        return text, sum(map(len, texts)) // 4 + 1, len(text) // 4 + 1

    def reply(self, body: Mapping[str, Any], text: str, tokens_in: int, tokens_out: int) -> dict[str, Any]:
        """Write a reply as either API does."""
        stub = self.server.stub
        model = str(stub.returned(len(stub.log)) if callable(stub.returned) else stub.returned)
        declined = stub.declines and stub.declines in body["messages"][-1]["content"]
        refuses, cut = stub.mode == "refuses" or declined, stub.mode == "cut"
        text = text[: len(text) // 2] if cut else text
        if self.path.endswith("/messages"):
            usage = {"input_tokens": tokens_in, "output_tokens": tokens_out}
            ended = "refusal" if refuses else "max_tokens" if cut else "end_turn"
            content = [] if refuses else [{"type": "text", "text": text}]
            head = {"id": "msg_stub", "type": "message", "role": "assistant", "model": model, "usage": usage}
            return {**head, "content": content, "stop_reason": ended}
        usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
        said = {"content": None, "refusal": "I will not judge this."} if refuses else {"content": text, "refusal": None}
        choice = {"index": 0, "finish_reason": "length" if cut else "stop", "message": {"role": "assistant", **said}}
        about = {"id": "chatcmpl-stub", "object": "chat.completion", "model": model, "usage": usage}
        return {**about, "created": 0, "choices": [choice]}

    def fail(self, fault: str, body: Mapping[str, Any]) -> None:
        stub = self.server.stub
        if fault == "429":
            return self.error(429, "rate_limit_error", "slow down", {"retry-after": f"{stub.retry_after:g}"})
        if fault == "500":
            return self.error(500, "api_error", "internal error")
        if fault == "timeout":
            self.close_connection = True
            return self.send(200, {})
        text, *tokens = self.judge(body)
        self.send(200, self.reply(body, text[: len(text) // 2], *tokens))

    def authorised(self, key: str) -> bool:
        return key in (self.headers.get("Authorization", "").removeprefix("Bearer "), self.headers.get("x-api-key"))

    def note(self, digest: str, outcome: str, tokens_in: int = 0, tokens_out: int = 0) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        times = (self.begun, time.monotonic())
        self.server.stub.log.append(ServedRequest(digest, self.path, outcome, *times, tokens_in, tokens_out, headers))

    def error(
        self, status: int, kind: str, text: str, headers: Mapping[str, str] | None = None, param: str | None = None
    ) -> None:
        self.send(status, {"type": "error", "error": {"type": kind, "message": text, "param": param}}, headers)

    def send(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        about = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        for name, value in about.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: tests read the log of the stub."""
