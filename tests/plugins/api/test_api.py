"""A served model: what the server offers, what can go wrong with it, and that no key is ever written."""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import harness_api
from harness.answers import requests
from harness.answers.requests import RequestError, map_concurrent
from harness.data import chat
from harness.data.chat import ARGUMENTS
from harness.errors import CheckFailedError, UsageError
from harness.records.models import ModelRef, Sampling
from harness.records.samples import Sample
from harness.testing import Project
from harness_api.options import ApiOptions
from harness_api.replies import read_answer
from harness_domain.tools import tool_calls
from harness_hf.tiny import build_tiny_model
from tests.helpers.late import import_late
from tests.helpers.local_http import LocalHandler, serve_locally

LONG = 60  # seconds in which what should not be waited for would end

import_late("openai")
KEY = "sk-Not-A-Real-Key-0123456789"
AWAY = "http://models.invalid/v1"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
Body = dict[str, Any]
Reply = tuple[int, Any]  # status, JSON (or bytes that are none)


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@dataclass
class Fake:
    """An OpenAI-compatible server whose answers, and misbehaviour, are in the test's hands.

    `troubles` are what the next requests get that are no probes; after them it answers.
    """

    url: str = ""
    models: list[Body] = field(default_factory=lambda: [{"id": "small", "owned_by": "fake"}])
    troubles: list[Callable[[Any], Reply | None]] = field(default_factory=list)
    refuses: Callable[[str, Body], Reply | None] = lambda path, body: None
    answer: Callable[[Body], Any] = lambda body: f"to {read_prompt(body)}"
    finish: str | None = "stop"
    signs: Callable[[Body], Body] = lambda body: {}  # who a reply says wrote it
    scores: tuple[str, ...] = ()  # of "prompt_logprobs", "echo", "tokenize", "detokenize"
    bos: bool = False
    value: Callable[[str], float] = lambda token: -len(token) / 8
    key: str = ""
    seen: list[tuple[str, Body, dict[str, str]]] = field(default_factory=list)
    now: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, path: str) -> list[Body]:
        """The bodies of requests to a path that were no probes of the loader."""
        return [body for where, body, _ in self.seen if where == path and not is_probe(body)]

    def reply(self, path: str, body: Body, headers: dict[str, str], handler: Any) -> Reply | None:
        with self.lock:
            self.seen.append((path, body, headers))
            trouble = self.troubles.pop(0) if self.troubles and body and not is_probe(body) else None
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            return 401, {"error": {"message": f"Incorrect API key provided: {headers.get('authorization')}"}}
        if trouble and (found := trouble(handler)) is not WELL:
            return found
        if path == "/v1/models":
            return 200, {"object": "list", "data": self.models}
        return self.refuses(path, body) or self.told(path, body)

    def told(self, path: str, body: Body) -> Reply:
        if path == "/tokenize" and "tokenize" in self.scores:
            text = body["prompt"] if "prompt" in body else "".join(m["content"] for m in body["messages"]) + "<answer>"
            return 200, {"tokens": self.encode(text, body.get("add_special_tokens", True))}
        if path == "/detokenize" and "detokenize" in self.scores:
            return 200, {"prompt": "".join(self.words[i] for i in body["tokens"])}
        if path == TEXT:
            choice = self.scored(body) or {"text": self.answer(body), "finish_reason": self.finish}
            return 200, {"choices": [choice], **self.signs(body)}
        if path == CHAT:
            message = self.answer(body)
            message = message if isinstance(message, dict) else {"role": "assistant", "content": message}
            return 200, {"choices": [{"message": message, "finish_reason": self.finish}], **self.signs(body)}
        return 404, {"detail": "Not Found"}

    # A token is a word with the space before it; its number is its place in `words`.
    words: list[str] = field(default_factory=lambda: ["<s>"])

    def encode(self, text: str, special: bool) -> list[int]:
        pieces = re.findall(r"<s>|<answer>|\s*[^\s<]+|\s+", text)
        with self.lock:
            self.words += [p for p in dict.fromkeys(pieces) if p not in self.words]
        return [0] * (self.bos and special) + [self.words.index(p) for p in pieces]

    def scored(self, body: Body) -> Body | None:
        """Return a choice with the log-probs of the prompt, if they are offered and asked for."""
        prompt = body["prompt"]
        ids = self.encode(prompt, True) if isinstance(prompt, str) else prompt
        texts = [self.words[i] for i in ids]
        if body.get("echo") and "echo" in self.scores:
            values = [None, *map(self.value, texts[1:]), -0.5]
            top = [None, *({t: v, "other": -0.5} for t, v in zip(texts[1:], values[1:], strict=False)), {"!": -0.5}]
            logprobs = {"tokens": [*texts, "!"], "token_logprobs": values, "top_logprobs": top}
            return {"text": "".join(texts) + "!", "logprobs": logprobs, "finish_reason": "length"}
        if "prompt_logprobs" in body and "prompt_logprobs" in self.scores:
            values = [self.value(t) for t in texts]
            entries = [
                {"logprob": v, "rank": 1 + (v < -0.5), "decoded_token": t} for v, t in zip(values, texts, strict=True)
            ]
            told = [None, *({str(i): entry} for i, entry in zip(ids[1:], entries[1:], strict=True))]
            return {"text": "!", "logprobs": None, "finish_reason": "length", "prompt_logprobs": told}
        return None


WELL: Any = (0, None)  # a trouble that was none


def is_probe(body: Body) -> bool:
    return read_prompt(body) == "The capital of France is"


def read_prompt(body: Body) -> str:
    return str(body["messages"][-1]["content"] if "messages" in body else body.get("prompt", ""))


def status(code: int, body: Any = None, **headers: str) -> Callable[[Any], Reply]:
    """Answer with a status."""

    def trouble(handler: Any) -> Reply:
        handler.extra = headers
        return code, body or {"error": {"message": f"status {code}"}}

    return trouble


def reply_with_garbage(handler: Any) -> Reply:
    return 200, b"<html>Bad gateway</html>"


def cut(handler: Any) -> Reply:
    return 200, b'{"choices": [{"text": "half'


def drop(handler: Any) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def stall(handler: Any) -> Reply:
    time.sleep(1.2)
    return WELL


def send_half_body(handler: Any) -> None:
    """Announce more bytes than come."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    drop(handler)


def trickle(handler: Any) -> None:
    """Send a body that never ends, one byte at a time, each within any pause that is allowed."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    drip(handler)


def trickle_headers(handler: Any) -> None:
    """Send the headers one byte at a time."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Padding: ")
    drip(handler)


def drip(handler: Any) -> None:
    with suppress(OSError):
        for _ in range(LONG * 20):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)
    drop(handler)


def send_gzip_bomb(handler: Any) -> None:
    """Send more than anybody wants, in few bytes."""
    pack = zlib.compressobj(wbits=31)
    data = b"".join(pack.compress(bytes(1 << 20)) for _ in range(65)) + pack.flush()
    handler.send_response(200)
    for name, value in {"Content-Encoding": "gzip", "Content-Length": str(len(data))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    with suppress(OSError):
        handler.wfile.write(data)


@pytest.fixture
def fake() -> Iterator[Fake]:
    """Run a fake server for one test."""
    yield from serve_fake(Fake())


def serve_fake(fake: Fake) -> Iterator[Fake]:
    class Handler(LocalHandler):
        extra: dict[str, str] = {}  # noqa: RUF012 -- replaced, never changed

        def answer(self, body: bytes) -> None:
            with fake.lock:
                fake.now += 1
                fake.most = max(fake.most, fake.now)
            try:
                headers = {k.lower(): v for k, v in self.headers.items()}
                path = re.sub("^http://[^/]*", "", self.path)  # of a request to a proxy, which we are then
                self.send_reply(fake.reply(path, json.loads(body or b"{}"), headers, self))
            finally:
                with fake.lock:
                    fake.now -= 1

        def send_reply(self, reply: Reply | None) -> None:
            if reply is None:
                self.close_connection = True
                return
            code, body = reply
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            extra, self.extra = self.extra, {}
            self.send(code, data, "text/html" if data.startswith(b"<") else "application/json", **extra)

    with serve_locally(Handler, hide_errors=True) as address:
        fake.url = f"{address}/v1"
        yield fake


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait little between tries, and know no key."""
    monkeypatch.setattr(requests, "FIRST_PAUSE_SECONDS", 0.01)
    for name in [n for n in os.environ if n.startswith("OPENAI_")]:
        monkeypatch.delenv(name)


def load(fake: Fake, **options: Any) -> Any:
    return harness_api.load([ModelRef("reference", "small")], base_url=fake.url, **options)


def open_(fake: Fake, path: str = "small", **options: Any) -> Any:
    return harness_api.load.open(path, base_url=fake.url, **options)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_the_shipped_suite_holds_a_candidate_against_a_reference(fake: Fake, project: Project) -> None:
    """suites/reference.toml, with another base and a stand-in server: each phrase is asked once, after ten examples."""
    fake.models = [{"id": "gpt-4.1-2025-04-14", "owned_by": "fake"}]
    suites = Path(__file__).parents[3] / "suites"
    text, plugin = ((suites / name).read_text("utf-8") for name in ("reference.toml", "harnessfile.py"))
    text = re.sub(r'path = "pypi:.*"\nsha256 = ".*"', 'path = "tiny:llama"', text)
    merged = build_tiny_model(project.folder / "merged", seed=5)
    sets = f"subject.reference.base_url={fake.url}", "eval.chapter.max_new_tokens=120", "eval.chapter.limit=20"
    told = [word for one in sets for word in ("--set", one)]
    outcome = project.write({"suite.toml": text, "harnessfile.py": plugin}).run(*told, "--candidate", str(merged))
    gates = {v.gate: v.outcome for v in outcome.report.verdicts}
    assert gates.keys() == {"near the reference", "better than the base"}
    prompts = [read_prompt(body) for body in fake.asked(TEXT)]
    assert (len(prompts), {p.count("Diagnosis: ") for p in prompts}) == (20, {11})


def read_usage_error(call: Callable[[], Any]) -> str:
    """Return the one line of a UsageError, and see that it shows no key."""
    with pytest.raises(UsageError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    return str(caught.value)


# -- the loader and its options --------------------------------------------------------------------------------------


def test_importing_the_plugin_is_light() -> None:
    """`import harness_api` brings in no SDK, so that --help stays fast."""
    code = "import sys, harness_api; print([m for m in ('openai', 'httpx', 'httpx2', 'pydantic') if m in sys.modules])"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "[]"


def test_options_are_those_of_the_loader() -> None:
    """The dataclass behind `open` and `identity` has the names and defaults of the loader's signature."""
    keyword = {
        p.name: p.default for p in inspect.signature(harness_api.load).parameters.values() if p.kind is p.KEYWORD_ONLY
    }
    assert {f.name: f.default for f in fields(ApiOptions)} == keyword


def test_without_the_sdk_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> None:
    """A missing extra is one line, not a traceback."""
    monkeypatch.setitem(sys.modules, "openai", None)
    assert "pip install openai" in read_usage_error(lambda: open_(fake))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"base_url": "localhost:8000"}, "base_url: cannot be read; give a URL such as"),
        ({"base_url": "ftp://host/v1"}, "base_url: cannot be read"),
        ({"base_url": "http://host:port/v1"}, "base_url: cannot be read"),
        ({"base_url": f"http://me:{KEY}@host/v1"}, "base_url: contains a user name or a password"),
        (
            {"base_url": f"http://host/v1?key={KEY}"},
            'has a query ("?") or a fragment ("#"), which would appear in reports;',
        ),
        (
            {"api_key_env": KEY},
            (
                "is not the name of an environment variable (capital letters, digits, _); it is not "
                "shown here, since it may be a key"
            ),
        ),
        (
            {"api_key_env": "hf_abcdef"},
            (
                "is not the name of an environment variable (capital letters, digits, _); it is not "
                "shown here, since it may be a key"
            ),
        ),
        ({"concurrency": 0}, "concurrency: is 0; it must be 1 or more"),
        ({"retries": -1}, "retries: is -1; it must be 0 or more"),
        ({"timeout": 0.0}, "timeout: is 0; it must be a number of seconds above 0"),
        ({"context": 0}, "context: is 0; it must be 1 or more"),
        ({"body": {"temperature": 1}}, 'body: "temperature" is set by the harness; remove it'),
    ],
)
def test_a_wrong_option_is_one_clear_line(options: dict[str, Any], says: str) -> None:
    """Each names the option and what is wanted, and shows nothing that may be secret."""
    assert says in read_usage_error(lambda: harness_api.load.open("small", **options))


def test_opening_tells_what_the_server_offers(fake: Fake) -> None:
    """Facts come from a tiny request each, and the context from the list of models."""
    fake.models = [{"id": "small", "owned_by": "vllm", "max_model_len": 100}]
    fake.scores = ("prompt_logprobs", "tokenize")
    source = open_(fake)
    assert source.facts == {
        "server": fake.url,
        "served by": "vllm",
        "text prompts": "/completions",
        "messages": "/chat/completions",
        "log-probs of prompts": "prompt_logprobs",
        "tokens": "provided by the server",
        "context": 100,
    }
    assert source.context == 100
    assert source.count_tokens([("one two", " three"), (ask("one two"), "three four")]) == [3, 5]
    assert all(body.get("max_tokens", 1) == 1 for _, body, _ in fake.seen)


def test_lengths_are_not_checked_where_tokens_are_unknown(fake: Fake) -> None:
    """Without a tokenizer no context is named, however large it is said to be, so that zeros never pass for lengths."""
    source = open_(fake, context=100)
    assert (source.context, source.facts["context"], source.count_tokens([("a b", " c")])) == (None, 100, [0])
    assert source.facts["tokens"] == "unknown, so lengths are not checked"


def test_a_server_that_is_not_there_is_told_soon() -> None:
    """A closed port is one line after two tries, and not after the six of an answer."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    said = read_usage_error(lambda: harness_api.load.open("small", base_url=url))
    assert re.fullmatch(
        rf'server "{url}": the connection failed \(.*refused.*\), after 2 tries; start it, or correct base_url', said
    )


def test_a_server_that_stalls_at_the_start_is_told(fake: Fake) -> None:
    """A list of models that does not come is given up after the timeout."""
    fake.models = []
    fake.refuses = lambda path, body: stall(None)
    assert "did not answer within 0.1 s (timeout), after 2 tries" in read_usage_error(lambda: open_(fake, timeout=0.1))


def test_a_url_without_its_end_is_told(fake: Fake) -> None:
    """Where neither models nor endpoints are, the missing /v1 is suggested."""
    fake.url = fake.url.removesuffix("/v1")
    assert "; check whether base_url lacks /v1" in read_usage_error(lambda: open_(fake))


def test_a_page_in_place_of_an_api_is_told(fake: Fake) -> None:
    """A web server that answers everything with a page is no API."""
    fake.models = "page"  # type: ignore[assignment]
    assert "replied to /models without a list of models, after 2 tries" in read_usage_error(lambda: open_(fake))


def test_an_unknown_model_is_told_with_those_that_are_served(fake: Fake) -> None:
    """A name that is nearly right is corrected, else the names there are are listed."""
    fake.models = [{"id": "llama-3-8b"}, {"id": "qwen"}]
    assert read_usage_error(lambda: open_(fake, "llama-3-8B")).endswith(
        ': does not serve a model "llama-3-8B"; did you mean "llama-3-8b"?'
    )
    assert read_usage_error(lambda: open_(fake, "gpt")).endswith(
        ': does not serve a model "gpt"; known: "llama-3-8b", "qwen"'
    )


def test_a_server_without_a_list_of_models_is_taken_by_its_answers(fake: Fake) -> None:
    """The list is optional; what is asked of the endpoints decides."""
    fake.refuses = lambda path, body: (404, {"detail": "Not Found"}) if path == "/v1/models" else None
    fake.models = []
    assert open_(fake, "anything").path == "anything"


def test_an_adapter_is_refused(fake: Fake) -> None:
    """Nothing can be put on a model that is served."""
    ref = ModelRef("adapter", "small", adapter=Path("adapter"))
    said = read_usage_error(lambda: harness_api.load([ref], base_url=fake.url).__enter__())
    assert 'model "adapter": the loader "api" cannot load an adapter into a served model' in said


# -- the key ---------------------------------------------------------------------------------------------------------


def test_the_key_comes_from_the_environment_alone(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent to the server for which its variable was named, without what the SDK tells of machine and account."""
    monkeypatch.setenv("THEIR_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    fake.key = KEY
    with load(fake, api_key_env="THEIR_KEY") as [subject]:
        assert subject.generate(["a"]) == ["to a"]
    sent = {name for _, _, headers in fake.seen for name in headers}
    assert "authorization" in sent
    assert not sent & {"x-stainless-os", "x-stainless-arch", "x-stainless-runtime-version"}


def test_a_key_is_for_the_server_it_was_made_for(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """OPENAI_API_KEY and the account's names stay at home when another server is asked and nobody said otherwise."""
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, KEY)
    with load(fake) as [subject]:
        subject.generate(["a"])
    assert not [v for _, _, headers in fake.seen for v in headers.values() if KEY in v]
    assert not any("authorization" in headers for _, _, headers in fake.seen)


def test_a_missing_key_is_told_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's own server wants OPENAI_API_KEY, and a variable that was named must be there."""
    wants = "the environment variable OPENAI_API_KEY, which should hold its API key, is not set; set it"
    assert wants in read_usage_error(lambda: harness_api.load.open("gpt-4.1"))
    monkeypatch.setenv("OTHER", "  ")
    assert "the environment variable OTHER" in read_usage_error(lambda: harness_api.load.open("x", api_key_env="OTHER"))
    monkeypatch.setenv("OTHER", f"{KEY}\nX: y")
    assert "holds characters that no key contains; correct its value" in read_usage_error(
        lambda: harness_api.load.open("x", api_key_env="OTHER")
    )


def test_a_refused_key_is_told_without_showing_it(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own words, which repeat what it was sent, are not passed on."""
    fake.key = "another"
    assert (
        "requires an API key (HTTP 401); name the environment variable that holds it with api_key_env"
        in read_usage_error(lambda: open_(fake))
    )
    monkeypatch.setenv("MY_KEY", KEY)
    said = read_usage_error(lambda: open_(fake, api_key_env="MY_KEY"))
    assert "rejects the key in MY_KEY (HTTP 401); set the variable to the right key" in said


@pytest.mark.parametrize("code", [400, 403, 500])
def test_a_server_that_repeats_the_key_is_not_repeated(fake: Fake, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Whatever a server says in an error, or in an answer, the key is not in what we say."""
    monkeypatch.setenv("MY_KEY", KEY)
    with load(fake, api_key_env="MY_KEY", retries=0) as [subject]:
        fake.troubles = [status(code, {"error": {"message": f"you sent Bearer {KEY}\n\nto me"}})]
        assert "you sent Bearer *** to me" in read_usage_error(lambda: subject.generate(["a"]))
        fake.answer = lambda body: f"my key is {KEY}"
        assert "repeats its API key in an answer (the prompt ending 'a')" in read_usage_error(
            lambda: subject.generate(["a"])
        )


# -- a server that misbehaves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("probing", [True, False])
def test_nothing_goes_to_another_host(fake: Fake, monkeypatch: pytest.MonkeyPatch, code: int, probing: bool) -> None:
    """A redirect is one line that says where to; the other host gets no row and no key."""
    monkeypatch.setenv("MY_KEY", KEY)
    for other in serve_fake(Fake()):
        moved = status(code, Location=f"{other.url.replace('//', '//me:pw@')}/x?token={KEY}")
        if probing:
            fake.reply = lambda *request, moved=moved: moved(request[-1])  # type: ignore[method-assign]
            said = read_usage_error(lambda: open_(fake, api_key_env="MY_KEY"))
        else:
            with load(fake, api_key_env="MY_KEY") as [subject]:
                fake.troubles = [moved]
                said = read_usage_error(lambda: subject.generate(["a"]))
        assert f'server "{fake.url}": redirects to "{other.url}/x"; correct base_url' in said
        assert "pw" not in said
        assert not other.seen


@pytest.mark.slow
@pytest.mark.parametrize("slow", [trickle, trickle_headers])
def test_a_reply_is_whole_in_time(fake: Fake, slow: Callable[[Any], None]) -> None:
    """What bounds the pauses of a server bounds their sum too, which would be a minute; the next try gets an answer."""
    with load(fake, timeout=0.2, retries=1) as [subject]:
        fake.troubles = [slow]
        assert subject.generate(["a"]) == ["to a"]
        fake.troubles = [slow, slow]
        assert "did not complete its answer within 0.4 s" in read_usage_error(lambda: subject.generate(["a"]))
        assert fake.troubles == []


@pytest.mark.slow
def test_a_reply_has_a_bounded_size(fake: Fake) -> None:
    """A body larger than any answer is not read to its end, however small it is on the wire; nor asked for again."""
    with load(fake) as [subject]:
        fake.troubles = [send_gzip_bomb]
        assert "sent a reply of more than 64 MiB; check that base_url is a model server" in read_usage_error(
            lambda: subject.generate(["a"])
        )


def test_a_reply_nested_without_end_is_no_json(fake: Fake) -> None:
    """What a parser cannot descend into is told as garbage is."""
    with load(fake, retries=0) as [subject]:
        fake.troubles = [lambda handler: (200, b"[" * 100_000)]
        assert "sent a reply that is not JSON" in read_usage_error(lambda: subject.generate(["a"]))


# -- generation ------------------------------------------------------------------------------------------------------


def test_text_and_messages_go_where_they_belong(fake: Fake) -> None:
    """Text is completed as it is, messages are sent as they are, greedily and for so many tokens."""
    with load(fake) as [subject]:
        assert subject.generate(["a", ask("b")], max_new_tokens=7) == ["to a", "to b"]
    assert fake.asked(TEXT) == [{"model": "small", "prompt": "a", "temperature": 0, "max_tokens": 7}]
    assert fake.asked(CHAT) == [{"model": "small", "messages": ask("b"), "temperature": 0, "max_tokens": 7}]


def test_template_arguments_are_fields_of_the_request(fake: Fake) -> None:
    """Tools and template arguments go beside the messages, where servers read them, over those of `body`."""
    tool = {"type": "function", "function": {"name": "find"}}
    prompt: Any = [{**ask("b")[0], ARGUMENTS: {"enable_thinking": False, "tools": [tool]}}]
    fake.scores = ("prompt_logprobs", "tokenize")
    with load(fake, body={ARGUMENTS: {"enable_thinking": True, "effort": "low"}}) as [subject]:
        subject.generate([prompt, ask("c")])
        subject.count_tokens([(prompt, "d")])
    first, second = sorted(fake.asked(CHAT), key=read_prompt)
    assert (first["messages"], first["tools"]) == (ask("b"), [tool])
    assert first[ARGUMENTS] == {"enable_thinking": False, "effort": "low"}
    assert (second[ARGUMENTS], "tools" in second) == ({"enable_thinking": True, "effort": "low"}, False)
    counted = next(body for body in fake.asked("/tokenize") if "messages" in body)
    assert (counted["messages"], counted["tools"], counted[ARGUMENTS]) == (ask("b"), [tool], {"enable_thinking": False})


def test_text_goes_as_a_message_where_nothing_completes(fake: Fake) -> None:
    """OpenAI's chat models have no completions: a text prompt is one user message, and a fact says so."""
    wrong = {"error": {"message": "This is a chat model", "type": "invalid_request_error", "param": "model"}}
    fake.refuses = lambda path, body: (404, wrong) if path == TEXT else None
    assert open_(fake).facts["text prompts"] == "one user message to /chat/completions"
    with load(fake) as [subject]:
        assert subject.generate(["a"]) == ["to a"]
    assert fake.asked(CHAT)[0]["messages"] == ask("a")


def test_the_endpoint_can_be_chosen(fake: Fake) -> None:
    """`endpoint = "chat"` sends text as a message, and one that is not there is told."""
    with load(fake, endpoint="chat") as [subject]:
        subject.generate(["a"])
    assert (len(fake.asked(CHAT)), len(fake.asked(TEXT))) == (1, 0)
    fake.refuses = lambda path, body: (404, {"detail": "Not Found"}) if path == CHAT else None
    assert ': does not answer at "chat", HTTP 404: Not Found' in read_usage_error(lambda: open_(fake, endpoint="chat"))
    with load(fake) as [subject]:
        assert ": does not accept messages (" in read_usage_error(lambda: subject.generate([ask("a")]))


def test_fields_that_a_model_refuses_are_left_out(fake: Fake) -> None:
    """Reasoning models of OpenAI want max_completion_tokens, no temperature and no stop: we find out, and tell."""
    wants = [("max_tokens", "unsupported_parameter"), ("temperature", "unsupported_value"), ("stop", "unsupported")]

    def refuses(path: str, body: Body) -> Reply | None:
        if path == TEXT:
            return 404, {"error": {"message": "This is a chat model"}}
        for name, code in wants:
            if name in body:
                return 400, {"error": {"message": f"Unsupported: '{name}'", "param": name, "code": code}}
        if body.get("max_completion_tokens") == 1:
            words = "Could not finish the message because max_tokens or model output limit was reached."
            return 400, {"error": {"message": words, "type": "invalid_request_error"}}
        return None

    fake.refuses = refuses
    assert (
        open_(fake).facts["temperature"] == "the server's default, since it rejects 0: answers are sampled, not greedy"
    )
    fake.answer = lambda body: "yes; no"
    with load(fake) as [subject]:
        assert subject.generate(["a"], max_new_tokens=50, stop=[";"]) == ["yes"]
    assert fake.asked(CHAT)[-1] == {"model": "small", "messages": ask("a"), "max_completion_tokens": 50}


def test_stop_strings_beyond_what_servers_take_are_cut_here(fake: Fake) -> None:
    """Four are sent, and the answer ends before the first of all of them, also where the server leaves them in."""
    fake.answer = lambda body: "one f two a three"
    with load(fake) as [subject]:
        assert subject.generate(["x"], stop=["a", "", "b", "c", "d", "x", "f"]) == ["one "]
    assert fake.asked(TEXT)[0]["stop"] == ["a", "b", "c", "d"]


def test_sampling_is_sent_with_a_seed_per_prompt(fake: Fake) -> None:
    """Temperature, top_p, top_k and each row's own seed; temperature 0 is greedy."""
    fake.answer = lambda body: f"drawn {body.get('seed')}"
    with load(fake) as [subject]:
        drawn = subject.generate(["a", "b"], sampling=Sampling(0.7, 0.9, 5, (11, 12)))
        subject.generate(["c"], sampling=Sampling(0.0, seeds=(1,)))
        few = Sampling(1.0, seeds=(1,))
        assert "has 1 seeds for 2 prompts" in read_usage_error(lambda: subject.generate(["a", "b"], sampling=few))
    assert drawn == ["drawn 11", "drawn 12"]
    by_prompt = {b["prompt"]: b for b in fake.asked(TEXT)}
    assert {k: by_prompt["b"][k] for k in ("temperature", "top_p", "top_k", "seed")} == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "seed": 12,
    }
    assert by_prompt["c"]["temperature"] == 0
    assert "seed" not in by_prompt["c"]


def test_a_server_that_ignores_temperature_cannot_sample(fake: Fake) -> None:
    """Draws that are all the same greedy answer would pass for samples."""
    with load(fake) as [subject]:
        said = read_usage_error(lambda: subject.generate(["a"], sampling=Sampling(1.0, seeds=(1,))))
    assert "ignores temperature" in said


def test_more_fields_of_the_request_come_from_the_suite(fake: Fake) -> None:
    """`body` is sent with every request, and may not say what the harness decides."""
    with load(fake, body={"top_k": 0, "chat_template_kwargs": {"enable_thinking": False}}) as [subject]:
        subject.generate([ask("a")])
    assert fake.asked(CHAT)[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert fake.asked(CHAT)[0]["top_k"] == 0


def test_nothing_asked_is_nothing_sent(fake: Fake) -> None:
    """No prompts, and answers of no tokens, need no server."""
    with load(fake) as [subject]:
        assert (subject.generate([]), subject.generate(["a"], max_new_tokens=0)) == ([], [""])
    assert fake.asked(TEXT) == []


@pytest.mark.slow
def test_so_many_requests_are_under_way_and_no_more(fake: Fake) -> None:
    """The bound is reached and kept, and answers come back in order."""

    full = threading.Event()

    def slow(body: Body) -> str:
        if fake.now >= 3:
            full.set()
        full.wait(5)
        time.sleep(0.05)
        return f"to {read_prompt(body)}"

    with load(fake, concurrency=3) as [subject]:
        fake.answer, fake.most = slow, 0
        assert subject.generate([str(i) for i in range(12)]) == [f"to {i}" for i in range(12)]
    assert fake.most == 3


def test_answers_come_out_as_they_come_in(fake: Fake) -> None:
    """A slow row does not keep the others back."""
    hold = threading.Event()

    def answer(body: Body) -> str:
        if read_prompt(body) == "0":
            hold.wait(5)
        return read_prompt(body)

    fake.answer = answer
    with load(fake, concurrency=2) as [subject]:
        stream = subject.stream_generate([str(i) for i in range(5)])
        first = [next(stream) for _ in range(4)]
        assert sorted(first) == [(i, str(i)) for i in range(1, 5)]
        hold.set()
        assert list(stream) == [(0, "0")]


# -- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "trouble",
    [drop, send_half_body, reply_with_garbage, cut, stall, status(429), status(500), status(503), status(408)],
    ids=["drop", "half", "garbage", "cut", "stall", "429", "500", "503", "408"],
)
def test_what_passes_is_asked_again_and_nothing_is_lost(fake: Fake, trouble: Any) -> None:
    """Each trouble costs a try, never a row."""
    with load(fake) as [subject]:
        fake.troubles, subject.server.timeout = [trouble, trouble], 0.5
        assert subject.generate([str(i) for i in range(6)]) == [f"to {i}" for i in range(6)]
    assert len(fake.asked(TEXT)) >= 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (drop, r"the connection failed \(.+\)"),
        (reply_with_garbage, "sent a reply that is not JSON"),
        (cut, "sent a reply that is not JSON"),
        (stall, r"did not answer within 0.2 s \(timeout\)"),
        (status(429), "HTTP 429: status 429"),
        (status(502, b"<html>Bad</html>"), "HTTP 502: <html>Bad</html>"),
        (lambda _: (200, {"choices": []}), "sent a reply without choices"),
        (lambda _: (200, [1]), "sent a reply without choices"),
        (lambda _: (200, {"error": {"message": "no capacity"}}), "replied with an error: .*no capacity"),
    ],
    ids=["drop", "garbage", "cut", "stall", "429", "502", "no choices", "a list", "an error with status 200"],
)
def test_giving_up_is_one_line(fake: Fake, trouble: Any, says: str) -> None:
    """It names the server, what happened, the row, how many tries, and what to do."""
    with load(fake, retries=2, version="1") as [subject]:
        fake.troubles, subject.server.timeout = [trouble] * 3, 0.2
        said = read_usage_error(lambda: subject.generate([ask("Why?")]))
    row, advice = r"\(the prompt ending 'Why\?'\)", "run again, its answers are cached"
    assert re.fullmatch(rf'server "{fake.url}": {says}.* {row}, after 3 tries; {advice}', said), said


def test_without_a_version_nobody_says_that_answers_are_kept(fake: Fake) -> None:
    """The line tells how they would be."""
    with load(fake, retries=0) as [subject]:
        fake.troubles = [status(500)]
        said = read_usage_error(lambda: subject.generate(["a"]))
    assert said.endswith('after 1 try; run again; with version = "…" its answers would have been cached')


def test_what_was_answered_comes_before_the_error(fake: Fake) -> None:
    """Rows under way when another fails are waited for and yielded, and no further row is begun."""
    began, failed = threading.Event(), threading.Event()

    def answer(body: Body) -> str:
        if read_prompt(body) == "1":
            began.set()
            failed.wait(5)
            time.sleep(0.1)
        return "done"

    def fail(handler: Any) -> Reply:
        began.wait(5)
        failed.set()
        return 400, {"error": {"message": "too long", "param": "prompt"}}

    fake.answer = answer
    with load(fake, concurrency=2) as [subject]:
        fake.refuses = lambda path, body: fail(None) if body.get("prompt") == "0" else None
        stream = subject.stream_generate([str(i) for i in range(9)])
        found = {}
        with pytest.raises(UsageError, match=r"HTTP 400: too long \(the prompt ending '0'\)"):
            found.update(stream_into(stream, found))
    assert 1 in found
    assert len(fake.asked(TEXT)) < 9


def stream_into(stream: Iterator[tuple[int, str]], found: dict[int, str]) -> dict[int, str]:
    for number, answer in stream:
        found[number] = answer
    return found


def test_a_refusal_is_not_asked_again(fake: Fake) -> None:
    """What the server will never answer costs one request."""
    with load(fake) as [subject]:
        fake.troubles = [status(400, {"detail": "context length exceeded"})]
        assert "HTTP 400: context length exceeded" in read_usage_error(lambda: subject.generate(["a"]))
        spent = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
        fake.troubles = [status(429, spent)]
        assert "HTTP 429: You exceeded your current quota" in read_usage_error(lambda: subject.generate(["a"]))
    assert len(fake.asked(TEXT)) == 2


@pytest.mark.slow
def test_a_server_that_says_when_is_asked_then(fake: Fake) -> None:
    """Retry-After is waited for, in seconds or as a date; more than five minutes is not."""
    with load(fake) as [subject]:
        fake.troubles = [status(429, **{"Retry-After": "0.3"})]
        begun = time.monotonic()
        assert subject.generate(["a"]) == ["to a"]
        assert time.monotonic() - begun >= 0.3
        fake.troubles = [status(503, **{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})]
        assert subject.generate(["a"]) == ["to a"]
        fake.troubles = [status(429, **{"Retry-After": "3600"})]
        said = read_usage_error(lambda: subject.generate(["a"]))
    assert "HTTP 429: status 429 and asks to wait 1 h 00 min (the prompt ending 'a'), after 1 try" in said


@pytest.mark.parametrize(
    ("message", "finish", "says"),
    [
        ("half an ans", "content_filter", "its content filter withheld the answer"),
        ({"content": None}, "stop", "sent a NoneType as text (finish_reason"),
        ({"content": None, "refusal": "I will not"}, "stop", "the model refused to answer"),
        ({"content": [{"text": "a"}]}, "stop", "sent a list as text (finish_reason"),
        ({"content": None, "reasoning_content": "hmm"}, "length", "answered only with hidden reasoning (finish_reason"),
        ({"content": "", "reasoning": "hmm"}, "length", "answered only with hidden reasoning (finish_reason"),
        ("half an ans", "abort", 'sent the finish_reason "abort" instead of "stop" or "length"'),
    ],
)
def test_what_is_no_answer_is_never_an_empty_one(fake: Fake, message: Any, finish: str, says: str) -> None:
    """It is told with its row, at once; a row is not scored as wrong because nobody answered it."""
    fake.answer = lambda body: message
    with load(fake) as [subject]:
        fake.finish = finish
        assert says in read_usage_error(lambda: subject.generate([ask("a")]))
    assert len(fake.asked(CHAT)) == 1


@pytest.mark.parametrize("usage", [[1], "much", {"completion_tokens_details": [1]}, {"completion_tokens_details": 3}])
def test_usage_of_another_kind_tells_nothing(usage: Any) -> None:
    """A reply without a text is told as such, whatever a server writes where the counts of tokens belong."""
    choices = [{"finish_reason": "length", "message": {"content": None}}]
    with pytest.raises(RequestError, match=r"sent a NoneType as text \(finish_reason"):
        read_answer({"usage": usage, "choices": choices})


@pytest.mark.parametrize(
    ("choice", "usage", "ended", "tokens"),
    [
        ({"finish_reason": "stop"}, {"completion_tokens": 3}, "eos", 3),
        ({"finish_reason": "stop", "stop_reason": "."}, None, "stop", None),
        ({"finish_reason": "stop", "stop_reason": 2}, None, "eos", None),
        ({"finish_reason": "stop", "matched_stop": "."}, {"completion_tokens": "3"}, "stop", None),
        ({"finish_reason": "length"}, {"completion_tokens": 8}, "length", 8),
        ({"finish_reason": "eos_token"}, {}, "eos", None),
        ({"finish_reason": "stop_sequence"}, {}, "stop", None),
        ({"finish_reason": None}, {}, "", None),
        ({}, {}, "", None),
    ],
)
def test_a_reply_tells_how_it_ended(choice: Body, usage: Any, ended: str, tokens: int | None) -> None:
    """As far as its server says; nothing is made up where it gives no reason."""
    said = read_answer({"choices": [{**choice, "text": "an answer"}], "usage": usage}, ["|"])
    assert (said, said.finish_reason, said.tokens, said.thought_tokens) == ("an answer", ended, tokens, 0)
    assert read_answer({"choices": [{**choice, "text": "an|answer"}]}, ["|"]).finish_reason == "stop"


NOW = {"id": "1", "type": "function", "function": {"name": "now", "arguments": '{"in": "Oslo"}'}}
HERMES = '<tool_call>\n{"name": "now", "arguments": {"in": "Oslo"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("message", "finish", "text"),
    [
        ({"content": None, "tool_calls": [NOW]}, "tool_calls", HERMES),
        ({"tool_calls": [NOW, NOW]}, "stop", HERMES + HERMES),
        ({"content": "Let me see.", "tool_calls": [NOW]}, "tool_calls", "Let me see." + HERMES),
        ({"content": "", "function_call": NOW["function"]}, "function_call", HERMES),
        ({"content": None, "tool_calls": [{"function": {"name": "a"}}]}, "tool_calls", None),
        ({"content": "", "tool_calls": [{"function": {"name": "a", "arguments": '{"cut'}}]}, "tool_calls", None),
    ],
)
def test_calls_that_a_server_took_out_are_an_answer(message: Body, finish: str, text: str | None) -> None:
    """They stand in it as Hermes has them, which `tool_calls` reads; broken arguments stay broken."""
    said = read_answer({"choices": [{"message": message, "finish_reason": finish}]}, ["\n"])
    assert said.finish_reason == "tool"
    assert said == text if text else said.startswith('<tool_call>\n{"name": "a", "arguments": {')


def test_calls_of_a_server_are_evaluated(fake: Fake) -> None:
    """`tool_calls` reads what the server's parser took out of the text, right or wrong."""
    fake.finish, fake.answer = "tool_calls", lambda body: {"content": None, "tool_calls": [NOW]}
    tool = {"name": "now", "parameters": {"type": "object", "properties": {"in": {"type": "string"}}}}
    rows = [
        Sample(
            place,
            chat.join_arguments(ask(place), {"tools": [tool]}),
            f'[{{"name": "now", "arguments": {{"in": "{place}"}}}}]',
        )
        for place in ("Oslo", "Rome")
    ]
    with load(fake) as [subject]:
        scores = list(tool_calls(subject, rows))
    assert [(s.values["name"], s.values["call"], s.note) for s in scores] == [(1, 1, None), (1, 0, None)]
    assert fake.asked(CHAT)[0]["tools"] == [tool]


@pytest.mark.parametrize("calls", [None, [], ["x"], [{"function": None}], "now"])
def test_a_call_that_is_none_is_no_answer(calls: Any) -> None:
    """A server that says that it calls a tool, and neither calls nor speaks, is told."""
    message = {"content": None, "tool_calls": calls}
    with pytest.raises(RequestError, match="sent a"):
        read_answer({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    with pytest.raises(RequestError, match=r"sent neither text nor a tool call \(finish_reason"):
        read_answer({"choices": [{"message": {**message, "content": ""}, "finish_reason": "tool_calls"}]})


def test_an_empty_answer_is_an_answer(fake: Fake) -> None:
    """A model that ends at once said nothing, and that is what it said."""
    fake.answer = lambda body: ""
    with load(fake) as [subject]:
        assert subject.generate(["a", ask("b")]) == ["", ""]


def test_an_interrupted_stream_begins_no_more_requests() -> None:
    """Whoever stops listening stops the asking, and is not kept waiting."""
    begun, answer, others = [], threading.Event(), set(threading.enumerate())

    def slow(number: int, stop: threading.Event) -> int:
        begun.append(number)
        if number:
            answer.wait(LONG)
        return number

    stream = map_concurrent(slow, 50, 2)
    next(stream)
    stream.close()  # while nobody answers
    answer.set()
    for thread in set(threading.enumerate()) - others:
        thread.join(LONG)
    assert len(begun) <= 3


# -- log-probs -------------------------------------------------------------------------------------------------------

WAYS = [("prompt_logprobs", "tokenize"), ("echo", "tokenize"), ("prompt_logprobs",), ("echo",)]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("scores", WAYS, ids="+".join)
def test_a_continuation_gets_its_own_tokens(fake: Fake, scores: tuple[str, ...], bos: bool) -> None:
    """In each shape, with a BOS or not: exactly the tokens after the prompt; lm_eval moves spaces that end it."""
    fake.scores, fake.bos = scores, bos
    pairs = [("one two", " three four"), ("one two ", "three"), ("one two", " a\nb c")]
    with load(fake) as [subject]:
        assert subject.logprobs(pairs[::2]) == subject.logprobs(pairs, truncate=True)[::2]
        found = subject.logprobs(pairs, truncate=True)
        if "tokenize" in scores:  # behind "one two ", as generation opens it
            (apart,) = subject.logprobs(pairs[1:2])
            assert (apart.total, apart.tokens, apart.bytes) == (-5 / 8, 1, 5)
        else:
            assert "no token begins exactly where" in read_usage_error(lambda: subject.logprobs(pairs[1:2]))
    assert [(p.total, p.tokens, p.bytes, p.greedy) for p in found] == [
        (-(6 + 5) / 8, 2, 11, False),
        (-6 / 8, 1, 5, False),
        (-6 / 8, 3, 6, True),
    ]


@pytest.mark.parametrize("scores", WAYS, ids="+".join)
def test_a_whole_text_is_scored_from_its_first_predicted_token(fake: Fake, scores: tuple[str, ...]) -> None:
    """After a BOS or a prefix all of it; else the first token is given, so neither it nor its bytes count."""
    fake.scores = scores
    with load(fake) as [subject]:
        assert [(p.tokens, p.bytes) for p in subject.logprobs([("", "ab cde f"), ("", "")])] == [(2, 6), (0, 0)]
    fake.bos = True
    with load(fake) as [subject]:
        for as_lm_eval in (False, True):
            (found,) = subject.logprobs([("", "ab cde f")], truncate=as_lm_eval)
            extra = as_lm_eval and "tokenize" in scores  # the BOS after a BOS
            assert (found.tokens, found.bytes, found.total) == (3 + extra, 8, -(2 + 4 + 2 + 3 * extra) / 8)
    fake.bos = False
    if "tokenize" in scores:
        with load(fake, prefix="<s>") as [subject]:
            assert [(p.tokens, p.bytes) for p in subject.logprobs([("", "ab cde f")])] == [(3, 8)]


@pytest.mark.parametrize("scores", WAYS[2:], ids="+".join)
def test_a_token_across_the_boundary_is_refused(fake: Fake, scores: tuple[str, ...]) -> None:
    """Where no token begins with the continuation no number would be exact."""
    fake.scores = scores
    with load(fake) as [subject]:
        assert "no token begins exactly where the continuation does" in read_usage_error(
            lambda: subject.logprobs([("unbeliev", "able")])
        )


@pytest.mark.parametrize("scores", WAYS[:2], ids="+".join)
def test_a_token_across_the_boundary_is_encoded_apart(fake: Fake, scores: tuple[str, ...]) -> None:
    """Where the server tells tokens the continuation is encoded by itself, as the loader "hf" does."""
    fake.scores = scores
    with load(fake) as [subject]:
        found = subject.logprobs([("unbeliev", "able"), ("how unbeliev", "able yes")])
        cut = subject.logprobs([("unbeliev", "able"), ("how unbeliev", "able yes")], truncate=True)
    assert [(p.total, p.tokens) for p in found] == [(-4 / 8, 1), (-(4 + 4) / 8, 2)]
    assert [(p.total, p.tokens) for p in cut] == [(-4 / 8, 1), (-4 / 8, 1)]  # as lm_eval


def test_parts_of_characters_hide_no_boundary() -> None:
    """Beside a token that decodes to nothing or to a replacement character nothing is taken for exact."""
    from harness_api.replies import Position, continuation_positions

    def found(*texts: str | None) -> list[Position]:
        return [Position(t, -1.0, True) for t in texts]

    assert continuation_positions(found("a", "", "é", " b"), " b") == found(" b")
    assert continuation_positions(found("a", "", "é", " b"), "é b") is None
    assert continuation_positions(found("a", "\ufffd", " b"), " b") is None
    assert continuation_positions(found(None, "b"), "b") == found("b")
    assert continuation_positions(found("ab", "c"), "bc") is None


def test_messages_are_scored_where_tokens_are_told(fake: Fake) -> None:
    """The continuation follows the rendered messages; without tokens nobody knows where it begins."""
    fake.scores = ("prompt_logprobs", "tokenize", "detokenize")
    with load(fake) as [subject]:
        (found,) = subject.logprobs([(ask("one two"), "three four")])
        assert not subject.notes
    assert (found.tokens, found.bytes, found.total) == (2, 10, -(5 + 5) / 8)
    fake.scores = ("prompt_logprobs",)
    with load(fake) as [subject]:
        assert "continuations of messages cannot be scored" in read_usage_error(
            lambda: subject.logprobs([(ask("a"), "b")])
        )


@dataclass
class Prefixing(Fake):
    """A server whose tokenizer begins a text with a space, as Llama 2's and Mistral's do; of old it loses them."""

    loses: bool = False

    def encode(self, text: str, special: bool) -> list[int]:
        return super().encode(text if text.startswith("<") else " " + text, special)

    def told(self, path: str, body: Body) -> Reply:
        if path == "/detokenize" and self.loses:
            return 200, {"text": "".join(self.words[i] for i in body["tokens"])[2:]}
        status, reply = super().told(path, body)
        return status, {k: v.removeprefix(" ") if k == "prompt" else v for k, v in reply.items()}


def test_answers_after_messages_are_cut_where_generation_begins() -> None:
    """A server whose tokenizer puts a space before a text scores "green" as it generates it, or says that it cannot."""
    told = ("prompt_logprobs", "tokenize")
    for scores, loses, joined in (
        ((*told, "detokenize"), False, True),
        (told, False, False),
        ((*told, "detokenize"), True, False),
    ):
        with contextmanager(serve_fake)(Prefixing(scores=scores, loses=loses)) as fake, load(fake) as [subject]:
            (found,) = subject.logprobs([(ask("one two"), "green")])
            assert (found.tokens, found.total) == (1, -5 / 8 if joined else -6 / 8)
            assert [
                note
                for note in subject.notes
                if (
                    "answers after messages are tokenised separately: the server gives no text that has the same tokens"
                )
                in note
            ] == subject.notes
            assert bool(subject.notes) is not joined


def test_long_rows_are_refused_cut_or_windowed(fake: Fake) -> None:
    """A prompt that does not fit is refused, or loses its beginning when told to; a whole text is scored in windows."""
    fake.models = [{"id": "small", "max_model_len": 6}]
    fake.scores = ("prompt_logprobs", "tokenize")
    words = " ".join("abcdefghijkl")
    with load(fake) as [subject]:
        said = read_usage_error(lambda: subject.logprobs([(words, " yes")]))
        assert ": a row has 13 tokens, but there is room for 5; shorten the row ending ' yes'" in said
        assert [(p.tokens, p.total) for p in subject.logprobs([(words, " yes")], truncate=True)] == [(1, -4 / 8)]
        fake.seen = []
        (whole,) = subject.logprobs([("", words)])
        assert [len(b["prompt"]) for b in fake.asked(TEXT)] == [5, 5, 5]  # each with as much before it as fits
        assert (whole.tokens, whole.total, whole.bytes) == (11, -11 * 2 / 8, len(words) - 1)
        subject.generate([words], max_new_tokens=2, truncate=True)
        assert [fake.words[i] for i in fake.asked(TEXT)[-1]["prompt"]] == [" i", " j", " k", " l"]
    assert max(len(b["prompt"]) for b in fake.asked(TEXT) if "prompt_logprobs" in b) == 5


def test_a_server_without_log_probs_says_so_when_asked(fake: Fake) -> None:
    """Also one that ignores the question, or answers it for what it generated alone, as llama.cpp does."""
    content = [{"id": 1, "token": "!", "logprob": -0.4, "top_logprobs": [{"token": "!", "logprob": -0.4}]}]
    own = {"text": "!", "logprobs": {"content": content}, "finish_reason": "length"}
    old = {"tokens": ["!"], "token_logprobs": [-0.4], "top_logprobs": [{"!": -0.4}], "text_offset": [0]}
    for choice in ({"text": "!", "finish_reason": "length"}, own, {**own, "logprobs": old}):
        fake.refuses = lambda path, body, choice=choice: (200, {"choices": [choice]}) if path == TEXT else None
        assert open_(fake).facts["log-probs of prompts"] == "not supported"
        with load(fake) as [subject]:
            assert "provides no log-probs of prompts, which this evaluation needs" in read_usage_error(
                lambda: subject.logprobs([("a", " b")])
            )
        assert ': does not provide log-probs of prompts by "echo"' in read_usage_error(
            lambda: open_(fake, logprobs="echo")
        )


@pytest.mark.parametrize("scores", WAYS, ids="+".join)
@pytest.mark.parametrize("value", [math.nan, -math.inf, 3.0, 2e-4])
def test_log_probs_that_are_none_are_a_finding(fake: Fake, scores: tuple[str, ...], value: float) -> None:
    """A broken model is told, not averaged; what an engine's rounding puts above 0 is taken as it is."""
    fake.scores = scores
    with load(fake) as [subject]:
        fake.value = lambda token: value if token == " bad" else -1.0
        with pytest.raises(CheckFailedError, match=r"not a log-probability.*: \[(nan|-inf|3.0|0.0002)\]"):
            subject.logprobs([("a", " bad b")])
        fake.value = lambda token: 1e-4 if token == " bad" else -1.0
        assert subject.logprobs([("a", " bad b")])[0].total == -0.9999


@pytest.mark.parametrize(
    "told",
    [
        {"prompt_logprobs": [None, None, None]},
        {"prompt_logprobs": [None]},
        {"prompt_logprobs": None},
        {"prompt_logprobs": [None, {"1": {"logprob": -1.0, "decoded_token": " b"}}]},
        {"prompt_logprobs": [None, {"1": {"logprob": -1, "rank": 1}, "2": {"logprob": -2, "rank": 2}}]},
        {"prompt_logprobs": [None, {"1": {"logprob": "x", "rank": 1, "decoded_token": " b"}}]},
        {},
    ],
)
def test_malformed_log_probs_are_refused(fake: Fake, told: Body) -> None:
    """A shape that was not announced is told in one line."""
    fake.scores = ("prompt_logprobs", "tokenize")
    with load(fake) as [subject]:
        fake.refuses = lambda path, body: (200, {"choices": [{"text": "!", **told}]}) if path == TEXT else None
        said = read_usage_error(lambda: subject.logprobs([("a", " b")]))
    assert "sent log-probs" in said


def test_an_empty_continuation_is_refused(fake: Fake) -> None:
    """It has no log-probability."""
    fake.scores = ("echo",)
    with load(fake) as [subject]:
        assert (
            "an empty continuation has no log-probability; correct the choices of the row with the prompt ending 'a'"
            in read_usage_error(lambda: subject.logprobs([("a", "")]))
        )


# -- everything a server can do -------------------------------------------------------------------------------------


def send_raw_bytes(*parts: bytes, reset: bool = False) -> Callable[[Any], None]:
    """Send bytes, and end the connection."""

    def trouble(handler: Any) -> None:
        handler.wfile.write(b"".join(parts))
        handler.wfile.flush()
        if reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
        else:
            drop(handler)

    return trouble


def reply_with_encoding(data: bytes, encoding: str = "gzip") -> Callable[[Any], Reply]:
    """Answer with a body of an encoding."""
    return lambda handler: status(200, data, **{"Content-Encoding": encoding})(handler)


def says(body: Any) -> Callable[[Any], Reply]:
    return lambda handler: (200, body)


def set_(**fields: Any) -> Callable[[Fake], None]:
    """Change what a server does from now on."""
    return lambda fake: vars(fake).update(fields)


def echo(change: Callable[[Body], Body]) -> Callable[[Fake], None]:
    """Change the log-probs of an echo."""

    def refuses(fake: Fake, path: str, body: Body) -> Reply | None:
        if choice := fake.scored(body) if path == TEXT else None:
            choice["logprobs"] |= change(choice["logprobs"])
        return (200, {"choices": [choice]}) if choice else None

    return lambda fake: vars(fake).update(refuses=partial(refuses, fake))


@dataclass(frozen=True)
class Mode:
    """What a server does, and what comes of it: a part of the line of error, or without one the right answer."""

    trouble: Any = None  # at two requests, unless it passes
    line: str = ""
    change: Callable[[Fake], None] = lambda fake: None
    scores: bool = False  # log-probs are asked for
    timeout: float = 10.0
    options: Body = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)


def make_mode(trouble: Any = None, **more: Any) -> Mode:
    return Mode(trouble, "", **more)


GOOD = b'{"choices": [{"text": "to a", "finish_reason": "stop"}]}'
OK, LENGTH, CHUNKED = b"HTTP/1.1 200 OK\r\n", b"Content-Length: %d\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"
SPENT = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
FAILED, NO_JSON, NO_CHOICES = "the connection failed", "sent a reply that is not JSON", "sent a reply without choices"
SHAPE, NO_LOGPROB = 'sent log-probs in another format than that of "echo"', "not a log-probability"
MODES = {
    "HTTP/1.0 without a length": make_mode(send_raw_bytes(b"HTTP/1.0 200 OK\r\n\r\n", GOOD)),
    "HTTP/1.0, cut": Mode(send_raw_bytes(b"HTTP/1.0 200 OK\r\n\r\n", GOOD[:30]), NO_JSON),
    "no HTTP": Mode(send_raw_bytes(b"HELLO\r\n\r\n"), FAILED),
    "100 before 200": make_mode(send_raw_bytes(b"HTTP/1.1 100 Continue\r\n\r\n", OK, LENGTH % len(GOOD), GOOD)),
    "a header without end": Mode(send_raw_bytes(OK, b"X: ", b"x" * 200_000), FAILED),
    "one drop": make_mode([drop]),
    "drops": Mode(drop, FAILED),
    "one reset": make_mode([send_raw_bytes(reset=True)]),
    "resets": Mode(send_raw_bytes(OK, reset=True), FAILED),
    "a length too long": Mode(send_half_body, FAILED),
    "a length too short": Mode(send_raw_bytes(OK, LENGTH % 20, GOOD), NO_JSON),
    "a length that is none": Mode(send_raw_bytes(OK, b"Content-Length: many\r\n\r\n", GOOD), FAILED),
    "chunked": make_mode(send_raw_bytes(OK, CHUNKED, b"%x\r\n" % len(GOOD), GOOD, b"\r\n0\r\n\r\n")),
    "chunked, cut": Mode(send_raw_bytes(OK, CHUNKED, b"%x\r\n" % len(GOOD), GOOD), FAILED),
    "a chunk without a size": Mode(send_raw_bytes(OK, CHUNKED, b"xyz\r\n", GOOD), FAILED),
    "gzip": make_mode(reply_with_encoding(zlib.compress(GOOD, wbits=31))),
    "gzip, cut": Mode(reply_with_encoding(zlib.compress(GOOD, wbits=31)[:30]), f"{FAILED}|{NO_JSON}"),
    "gzip that is none": Mode(reply_with_encoding(GOOD), FAILED),
    "gzip of 65 MiB": Mode(send_gzip_bomb, "sent a reply of more than 64 MiB; check that base_url is a model server"),
    "an encoding nobody knows": make_mode(reply_with_encoding(GOOD, "zz")),
    "one stall": make_mode([stall], timeout=0.6),
    "stalls": Mode(stall, r"did not answer within 0.2 s \(timeout\)", timeout=0.2),
    "a slow body": Mode(trickle, "did not complete its answer within 0.4 s", timeout=0.2),
    "slow headers": Mode(trickle_headers, "did not complete its answer within 0.4 s", timeout=0.2),
    "server-sent events": Mode(says(b"data: " + GOOD + b"\n\n"), NO_JSON),
    "HTML": Mode(reply_with_garbage, NO_JSON),
    "half a JSON": Mode(cut, NO_JSON),
    "nothing": Mode(says(b""), NO_JSON),
    "JSON nested without end": Mode(says(b"[" * 100_000), NO_JSON),
    "bytes that are no UTF-8": Mode(says(b'{"choices": "\xff"}'), f"{NO_JSON}|{NO_CHOICES}"),
    "null": Mode(says(None), NO_CHOICES),
    "a number": Mode(says(3), NO_CHOICES),
    "no choices": Mode(says({"choices": []}), NO_CHOICES),
    "choices that are no list": Mode(says({"choices": {"text": "to a"}}), NO_CHOICES),
    "two choices": make_mode(says({"choices": [json.loads(GOOD)["choices"][0], {"text": "no"}]})),
    "an error with status 200": Mode(says({"error": {"message": f"no {KEY[:20]}"}}), r"replied with an error: .*no \*\*\*"),  # noqa: E501
    "HTTP 204": Mode(send_raw_bytes(b"HTTP/1.1 204 No Content\r\n\r\n"), f"{NO_JSON}|{NO_CHOICES}"),
    "HTTP 300": Mode(status(300), "HTTP 300"),
    "HTTP 307": Mode(status(307, Location="http://other/v1"), 'redirects to "http://other/v1"; correct base_url'),
    "HTTP 400, nested without end": Mode(status(400, b'{"error":' * 900 + b"1" + b"}" * 900), "HTTP 400: "),
    "HTTP 401": Mode(status(401), r"rejects the key in MY_KEY \(HTTP 401\)"),
    "HTTP 403": Mode(status(403, {"error": f"Bearer {KEY} may not"}), r"HTTP 403: Bearer \*\*\* may not"),
    "HTTP 404": Mode(status(404), "HTTP 404: status 404"),
    "HTTP 405": Mode(status(405), "HTTP 405"),
    "HTTP 408": make_mode([status(408)]),
    "HTTP 409": make_mode([status(409)]),
    "HTTP 413": Mode(status(413, b"<html>too large</html>"), "HTTP 413: <html>too large"),
    "HTTP 422": Mode(status(422, {"detail": [{"msg": "no such field"}]}), "HTTP 422: .*no such field"),
    "HTTP 429": make_mode([status(429)]),
    "HTTP 429 that stays": Mode(status(429), "HTTP 429: status 429 .*after 2 tries"),
    "HTTP 429, in no time": make_mode([status(429, **{"Retry-After": "0"})]),
    "HTTP 429, in the past": make_mode([status(429, **{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})]),
    "HTTP 429, whenever": make_mode([status(429, **{"Retry-After": "soon"})]),
    "HTTP 429, in hours": Mode(status(429, **{"Retry-After": "9999"}), "asks to wait 2 h 46 min .*after 1 try"),
    "HTTP 429, never": make_mode([status(429, **{"Retry-After": "inf"})]),
    "a quota that is used up": Mode([status(429, SPENT)], "HTTP 429: You exceeded"),
    "HTTP 500": Mode(status(500, {"error": b64encode(KEY.encode()).decode()}), r"HTTP 500: \*\*\*.{0,3} \("),
    "HTTP 501": Mode([status(501)], "HTTP 501"),
    "HTTP 503": make_mode([status(503, b"busy")]),
    "HTTP 529": make_mode([status(529)]),
    "a number as text": Mode(line=r"sent a int as text \(finish_reason", change=set_(answer=lambda body: 3)),
    "null as text": Mode(line=r"sent a NoneType as text \(finish_reason", change=set_(answer=lambda body: None)),
    "a list as text": Mode(line=r"sent a list as text \(finish_reason", change=set_(answer=lambda body: ["to a"])),
    "an answer withheld": Mode(line="content filter withheld", change=set_(finish="content_filter")),
    "an end of another kind": Mode(line='sent the finish_reason "abort x" instead of "stop" or "length"', change=set_(finish="abort\nx")),  # noqa: E501
    "another model's name": make_mode(change=set_(signs=lambda body: {"model": "quite-another"})),
    "a name that changes": make_mode(change=set_(signs=lambda body: {"model": str(time.monotonic_ns())})),
    "a name that is none": make_mode(change=set_(signs=lambda body: {"model": ["a"], "system_fingerprint": 3})),
    "a fingerprint that changes": make_mode(change=set_(signs=lambda body: {"system_fingerprint": str(time.time())})),
    "log-probs": make_mode(scores=True),
    "NaN": Mode(line=rf"{NO_LOGPROB}.*\[nan\]", change=set_(value=lambda token: math.nan), scores=True),
    "-inf": Mode(line=NO_LOGPROB, change=set_(value=lambda token: -math.inf), scores=True),
    "1e999": Mode(line=NO_LOGPROB, change=set_(value=lambda token: math.inf), scores=True),
    "+3.0": Mode(line=rf"{NO_LOGPROB}.*\[3.0\]", change=set_(value=lambda token: 3.0), scores=True),
    "a log-prob as a word": Mode(line=SHAPE, change=set_(value=lambda token: "low"), scores=True),
    "dropped log-probs": Mode(line=SHAPE, change=echo(lambda told: {"token_logprobs": [None] * 3}), scores=True),
    "no log-probs any more": Mode(line=SHAPE, change=echo(lambda told: {"tokens": None}), scores=True),
    "empty lists": Mode(line="do not spell", change=echo(lambda told: {name: [] for name in told}), scores=True),
    "lists of other lengths": Mode(line=SHAPE, change=echo(lambda told: {"tokens": ["a", " b"]}), scores=True),
    "tokens of another text": Mode(line="do not", change=echo(lambda told: {"tokens": ["a", "c", "!"]}), scores=True),
    "TLS to plain HTTP": Mode(line=FAILED, options={"base_url": "https://127.0.0.1:{port}/v1"}),
    "a proxy for loopback": make_mode(env={"HTTP_PROXY": "http://127.0.0.1:9"}),
    "a proxy": make_mode(options={"base_url": AWAY}, env={"HTTP_PROXY": "http://me:hunter22@127.0.0.1:{port}"}),
    "a proxy that is down": Mode(
        line=rf'server "{AWAY}" through the proxy 127.0.0.1:9 \(HTTP_PROXY\): {FAILED} \(.*refused.*\)',
        options={"base_url": AWAY},
        env={"HTTP_PROXY": "http://me:hunter22@127.0.0.1:9"},
    ),
    "a proxy that wants a password": Mode(
        status(407, b"not you: bWU6aHVudGVyMjI="),
        r"through the proxy 127.0.0.1:\d+ \(ALL_PROXY\): HTTP 407: not you: \S*\*\*\*",
        options={"base_url": AWAY},
        env={"ALL_PROXY": "me:hunter22@127.0.0.1:{port}"},
    ),
    "a SOCKS proxy": Mode(line="ALL_PROXY: names a SOCKS", options={"base_url": AWAY}, env={"ALL_PROXY": "socks5://p:1"}),
    "a proxy that is none": Mode(line="HTTP_PROXY: is no", options={"base_url": AWAY}, env={"HTTP_PROXY": "p:3128x"}),
    "no certificates": Mode(line='SSL_CERT_FILE: names "/no.pem", which does not exist', env={"SSL_CERT_FILE": "/no.pem"}),  # noqa: E501
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_every_mode_of_a_server(fake: Fake, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whatever a server, or what stands before it, does: the right answer or one line, and no part of a secret."""
    mode, port = MODES[name], fake.url.split(":")[-1].removesuffix("/v1")
    monkeypatch.setenv("MY_KEY", KEY)
    for variable, value in mode.env.items():
        monkeypatch.setenv(variable, value.format(port=port))
    options = {k: v.format(port=port) for k, v in mode.options.items()}
    fake.scores = ("echo",) if mode.scores else ()

    def ask() -> Any:
        more = {"base_url": fake.url, "api_key_env": "MY_KEY", "retries": 1, **options}
        with harness_api.load([ModelRef("reference", "small")], **more) as [subject]:
            subject.server.timeout = mode.timeout
            mode.change(fake)
            fake.troubles = mode.trouble if isinstance(mode.trouble, list) else [mode.trouble] * 2 * bool(mode.trouble)
            return subject.logprobs([("a", " b")])[0].total if mode.scores else subject.generate(["a"])

    if not mode.line:
        assert ask() == (-2 / 8 if mode.scores else ["to a"])
        return
    with pytest.raises((UsageError, CheckFailedError)) as caught:
        ask()
    said = str(caught.value)
    assert re.search(mode.line, said), said
    assert said.isprintable() and len(said) < 600
    assert not [part for part in (KEY[:8], KEY[8:16], KEY[16:24], "hunter22") if part in said], said


# -- what is remembered, and whole runs ------------------------------------------------------------------------------


def test_answers_are_remembered_only_under_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Identity is None without one; with one it names what matters and nothing else, and never the key."""
    ref = ModelRef("reference", "small")

    def name(**options: Any) -> str | None:
        return harness_api.load.identity(ref, **options)

    assert name() is None
    here = {"base_url": "http://localhost:8000/v1", "version": "2026-11"}
    same = [
        {"concurrency": 1},
        {"timeout": 1.0},
        {"retries": 0},
        {"api_key_env": "K"},
        {"base_url": here["base_url"] + "/"},
    ]
    other = [
        {"version": "2026-12"},
        {"base_url": "http://localhost:8001/v1"},
        {"endpoint": "chat"},
        {"logprobs": "echo"},
        {"context": 5},
        {"prefix": "<s>"},
        {"body": {"top_k": 1}},
    ]
    assert {name(**{**here, **change}) for change in same} == {name(**here)}
    assert len({name(**{**here, **change}) for change in [{}, *other]}) == len(other) + 1
    assert name(**here) != harness_api.load.identity(ModelRef("reference", "large"), **here)
    monkeypatch.setenv("K", KEY)
    assert KEY not in str(name(**here, api_key_env="K"))


SUITE = """
[suite]
name = "served"

[model]
use = "fake"
path = "base"

[subject.reference]
use = "api"
path = "small"
base_url = "{url}"
api_key_env = "SERVED_KEY"
retries = 1
version = "1"

[[eval]]
name = "qa"
use = "exact_match"
data = "rows.jsonl"
"""


@pytest.mark.slow
def test_a_reference_behind_an_api_is_a_baseline(fake: Fake, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that a failing server ended keeps what was answered, the next asks the rest, and no key is in any file."""
    monkeypatch.setenv("SERVED_KEY", KEY)
    fake.key = KEY
    rows = [{"id": str(i), "input": f"question {i}", "target": f"to question {i}"} for i in range(20)]
    project.write({"suite.toml": SUITE.format(url=fake.url), "rows.jsonl": rows})
    fake.troubles = [*[lambda _: WELL] * 10, *[status(500, {"error": {"message": f"key {KEY}"}})] * 20]
    first = project.run()
    assert first.code == 4, first.out + first.err
    assert "HTTP 500: key ***" in first.out + first.err
    assert "run again, its answers are cached" in first.out + first.err
    fake.troubles, fake.seen = [], []
    again = project.run()
    assert 0 < len(fake.asked(TEXT)) <= 10
    (report,) = [r for r in again.report.results if r.subject == "reference"]
    assert report.metrics["exact_match"] == 1.0
    fake.seen = []
    project.run()
    assert fake.asked(TEXT) == []
    files = [p for p in project.folder.rglob("*") if p.is_file()]
    assert any(p.name == "responses.sqlite" for p in files)
    assert not [p for p in files if KEY.encode() in p.read_bytes()]
    assert KEY not in first.out + first.err + again.out + again.err


TUNED = """
[suite]
name = "tuned"

[model]
use = "api"
path = "small"
base_url = "{url}"

[candidate]
merged = "tuned"

[[eval]]
name = "qa"
use = "exact_match"
data = "rows.jsonl"

[[gate]]
id = "better"
metric = "qa.exact_match"
versus = "base"
better_by = 0.0
"""


@pytest.mark.slow
def test_a_candidate_is_gated_where_it_is_served(fake: Fake, project: Project) -> None:
    """Base and tuned model under two names of one server: the better one passes, without weights here."""
    fake.models = [{"id": "small"}, {"id": "tuned"}]
    fake.answer = lambda body: f"to {read_prompt(body)}" if body["model"] == "tuned" else "what?"
    rows = [{"id": str(i), "input": f"question {i}", "target": f"to question {i}"} for i in range(20)]
    project.write({"suite.toml": TUNED.format(url=fake.url), "rows.jsonl": rows})
    done = project.run()
    assert (done.code, done.verdict("better")) == (0, "PASS"), done.out + done.err
    fake.models = [{"id": "small"}]
    assert 'does not serve a model "tuned"' in project.run().err


@pytest.mark.slow
def test_who_replied_stands_among_the_facts(fake: Fake, project: Project) -> None:
    """Names and fingerprints of replies, of every served subject; a gateway that routes is a warning, told once."""
    fake.models = [{"id": "small"}, {"id": "tuned"}]
    fake.answer = lambda body: f"to {read_prompt(body)}" if body["model"] == "tuned" else "what?"
    fake.signs = lambda body: {"model": f"{body['model']}-1", "system_fingerprint": "fp_1"}
    rows = [{"id": str(i), "input": f"question {i}", "target": f"to question {i}"} for i in range(20)]
    again = '\n[subject.again]\nuse = "api"\npath = "small"\nbase_url = "{url}"\nbody = {{ top_k = 1 }}\n'
    more = '\n[[eval]]\nname = "other"\nuse = "exact_match"\ndata = "rows.jsonl"\n'
    text = (TUNED + again + more).format(url=fake.url)
    project.write({"suite.toml": text, "rows.jsonl": rows})
    done = project.run()
    assert done.code == 0, done.out + done.err
    facts = done.report.facts
    assert (facts["model"]["path"], facts["model"]["models that replied"]) == ("small", ["small-1"])
    assert (facts["tuned" if "tuned" in facts else "merged"]["models that replied"]) == ["tuned-1"]
    assert facts["again"]["system fingerprints"] == ["fp_1"]
    assert "E6" not in {f.code for f in done.report.findings}
    fake.signs = lambda body: {"model": f"small-{1 + ('top_k' in body)}"}
    done = project.run()
    (flag,) = [f for f in done.report.findings if f.code == "E6"]
    assert (flag.severity, flag.what) == ("warning", '"small" was answered by small-1 for base; by small-2 for again')
    assert done.code == 0 and "warning  E6 changing-served-model" in done.out
    many = iter(range(10_000))
    fake.signs = lambda body: {"model": f"small-{next(many) % 11:02}"}
    done = project.run()
    assert done.report.facts["model"]["models that replied"][-2:] == ["small-07", "and 3 more"]
    assert "E6" in {f.code for f in done.report.findings}


@pytest.mark.slow
def test_name_of_a_served_model_comes_with_the_command(fake: Fake, project: Project) -> None:
    """--candidate takes what a server serves, as [candidate] does; of several the best on the select rows."""
    fake.models = [{"id": "small"}, {"id": "tuned"}, {"id": "other"}]
    fake.answer = lambda body: f"to {read_prompt(body)}" if body["model"] == "tuned" else "what?"
    rows = [{"id": str(i), "input": f"question {i}", "target": f"to question {i}"} for i in range(40)]
    suite = TUNED.replace('[candidate]\nmerged = "tuned"\n', "").replace(
        'data = "rows.jsonl"', 'data = "rows.jsonl[:20]"\nselect = "rows.jsonl[20:]"'
    )
    project.write({"suite.toml": suite.format(url=fake.url), "rows.jsonl": rows})
    done = project.run("--candidate", "other", "--candidate", "tuned")
    assert (done.code, done.verdict("better")) == (0, "PASS"), done.out + done.err
    assert "of 2 candidates tuned was chosen on selection rows" in done.out


# -- the real thing --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tiny_model: Path, warm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Run `transformers serve` with the tiny model, told in its generation config how its chat turns end."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    folder = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "generation_config.json").read_text("utf-8"))
    names = json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    ends = [t["id"] for t in names if t["content"] in ("</s>", "<|end|>")]
    (folder / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": ends}), "utf-8")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(warm / "python"), str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    command += ["--device", "cpu"]
    command += ["--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    log = folder.parent / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=env, stdout=out, stderr=out)
        try:
            wait_for(port, server, log)
            yield f"http://127.0.0.1:{port}/v1", folder
        finally:
            server.terminate()
            server.wait(30)


def wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text("utf-8", "replace")
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text("utf-8", "replace"))


@pytest.mark.slow
def test_transformers_serve_answers_as_the_model_does_here(
    served: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text, chats and stop strings: the served model's greedy answers are those of the same model in this process."""
    import harness_hf

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    url, folder = served
    prompts = [ask(f"Name {n} colours.") for n in range(8)] + [f"Once upon {n}" for n in range(8)]
    ref = ModelRef("m", str(folder))
    source = harness_api.load.open(str(folder), base_url=url)
    assert source.facts["text prompts"] == "/completions"
    with harness_api.load([ref], base_url=url) as [there], harness_hf.load([ref], dtype="float32") as [here]:
        for stop in ((), ("3", "W", ":", "R", "F")):
            expected = here.generate(prompts, max_new_tokens=12, stop=stop)
            assert there.generate(prompts, max_new_tokens=12, stop=stop) == expected
        assert any(expected)
        assert "provides no log-probs" in read_usage_error(lambda: there.logprobs([("a", " b")]))
        assert "ignores temperature" in read_usage_error(
            lambda: there.generate(["a"], sampling=Sampling(1.0, seeds=(1,)))
        )
    assert "does not serve a model" in read_usage_error(lambda: harness_api.load.open("other", base_url=url))


REAL = """
[suite]
name = "real"

[model]
use = "hf"
path = "{folder}"
dtype = "float32"

[subject.reference]
use = "api"
path = "{folder}"
base_url = "{url}"

[[eval]]
name = "qa"
use = "regex"
pattern = "[A-Z]"
max_new_tokens = 8
data = "rows.jsonl"
"""


@pytest.mark.slow
@pytest.mark.xdist_group("served model")
def test_a_run_against_transformers_serve(served: tuple[str, Path], project: Project) -> None:
    """In a whole run the reference that is served gives, row for row, the answers of the base that runs here."""
    from harness.reports.run_folder import read_answers

    url, folder = served
    rows = [{"id": str(i), "input": ask(f"Say {i}."), "target": "x"} for i in range(6)]
    project.write({"suite.toml": REAL.format(folder=folder, url=url), "rows.jsonl": rows})
    done = project.run()
    assert done.code == 5, done.out + done.err  # measured, and nothing is gated
    run = max((project.folder / "reports").glob("real-*"))
    base, reference = (read_answers(run, name, "qa") for name in ("base", "reference"))
    assert [row["resps"] for row in base.values()] == [row["resps"] for row in reference.values()]
    assert len(base) == 6
