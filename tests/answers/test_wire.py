"""The way to a server: proxies and certificates of the environment, and what must not come back from there."""

from __future__ import annotations

import json
import os
import re
import socket
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import harness_api
import harness_judge
from harness import UsageError
from harness.internals import http_client
from harness_judge import judge_client
from harness_judge.options import JudgeOptions
from harness_judge.prompts import pair_question
from harness_served.runtime import read_stream
from tests.helpers.late import import_late
from tests.helpers.local_http import LocalHandler, serve_locally

import_late("openai")
import_late("anthropic")
KEY = "sk-Not-A-Real-Key-0123456789"
AWAY = "http://models.invalid/v1"


def ask_judge(provider: str, url: str) -> None:
    judge = judge_client.open_judge_client(
        JudgeOptions(model="m", backend=provider, base_url=url, api_key_env="MY_KEY", retries=0, adversaries=0), None
    )
    with closing(judge):
        list(judge.ask([pair_question("q", "a", "b", "", "Be right.")]))


ASK: dict[str, Callable[[str], Any]] = {
    "api": lambda url: harness_api.load.open("m", base_url=url, api_key_env="MY_KEY"),
    "openai judge": lambda url: ask_judge("openai", url),
    "anthropic judge": lambda url: ask_judge("anthropic", url.removesuffix("/v1")),
    "anthropic": lambda url: harness_judge.open_source("m", base_url=url.removesuffix("/v1"), api_key_env="MY_KEY"),
}
clients = pytest.mark.parametrize("client", ASK)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know one key, and no proxy or certificates but a test's own."""
    for name in os.environ:
        if name.lower().endswith("_proxy") or name in http_client.CERTIFICATES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setattr("harness.answers.requests.FIRST_PAUSE_SECONDS", 0.01)  # before the second try


@pytest.fixture
def closed() -> str:
    """Return an address where nobody listens."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def read_usage_error(client: str, url: str = AWAY) -> str:
    with pytest.raises(UsageError) as caught:
        ASK[client](url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WRONG = {
    "socks": (
        "ALL_PROXY",
        "socks5://me:hunter22@proxy:1080",
        "ALL_PROXY: names a SOCKS proxy, .*pip install socksio",
    ),
    "port": (
        "HTTP_PROXY",
        "127.0.0.1:3128x",
        "HTTP_PROXY: is not the address of a proxy .*; give http://HOST:PORT, or unset the variable",
    ),
    "range": ("http_proxy", "http://127.0.0.1:312800", "http_proxy: is not the address of a proxy"),
    "scheme": ("ALL_PROXY", "quic://me:hunter22@proxy:1", "ALL_PROXY: is not the address of a proxy"),
    "host": ("ALL_PROXY", "http://:3128", "ALL_PROXY: is not the address of a proxy"),
    "slash": ("ALL_PROXY", "http://me:12/hunter22@proxy:1", "ALL_PROXY: is not the address of a proxy"),
    "file": (
        "SSL_CERT_FILE",
        "{tmp}/no.pem",
        'SSL_CERT_FILE: names ".*/no.pem", which does not exist; correct it',
    ),
    "folder": ("SSL_CERT_DIR", "{tmp}/no", 'SSL_CERT_DIR: names ".*/no", which does not exist'),
    "bundle": ("REQUESTS_CA_BUNDLE", "{tmp}/no.pem", 'REQUESTS_CA_BUNDLE: names ".*/no.pem", which does not exist'),
    "content": ("SSL_CERT_FILE", "{tmp}/empty.pem", "SSL_CERT_FILE: .*which contains no certificates"),
}


@pytest.mark.slow
@clients
@pytest.mark.parametrize("case", WRONG)
def test_an_environment_that_cannot_be_used_is_one_line(
    client: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the variable, what is wrong with it, and what to do; a password in it is not shown."""
    variable, value, says = WRONG[case]
    (tmp_path / "empty.pem").write_text("", "utf-8")
    monkeypatch.setenv(variable, value.format(tmp=tmp_path))
    said = read_usage_error(client)
    assert re.search(says, said), said
    assert "hunter22" not in said


@pytest.mark.slow
@clients
def test_a_proxy_that_is_down_is_named(client: str, closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line tells its host and its variable, and never user and password."""
    monkeypatch.setenv("http_proxy", f"http://me:hunter22@{closed}")
    said = read_usage_error(client)
    assert f"through the proxy {closed} (http_proxy)" in said
    assert "the connection failed" in said and "refused" in said
    assert "hunter22" not in said and "me:" not in said


@pytest.mark.slow
@clients
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "[::1]"])
def test_loopback_is_asked_directly(client: str, host: str, closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the environment gets rows and keys that stay on this machine; nor must it be one."""
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "socks5://nobody:x")
    assert "through the proxy" not in (
        said := read_usage_error(client, f"http://{host}:{closed.rpartition(':')[2]}/v1")
    )
    assert "the connection failed" in said


def test_no_proxy_is_heard(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that NO_PROXY names, or its domain, is asked directly; https has a variable of its own."""
    monkeypatch.setenv("HTTP_PROXY", closed)
    assert http_client.ServerConnection(AWAY).proxy == f"{closed} (HTTP_PROXY)"
    assert http_client.ServerConnection(AWAY.replace("http", "https")).proxy == ""
    for bypassed in ("models.invalid", ".invalid", "other, invalid", "*"):
        monkeypatch.setenv("NO_PROXY", bypassed)
        assert http_client.ServerConnection(AWAY).proxy == "", bypassed


def test_certificates_of_the_environment_are_those_that_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first variable that is set; SSL_CERT_DIR may be a list of folders."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "no.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / 'no'}{os.pathsep}{tmp_path}")
    trusted = http_client._make_ssl_context_from_env()
    assert not isinstance(trusted, bool) and trusted.get_ca_certs() == []
    monkeypatch.delenv("SSL_CERT_DIR")
    with pytest.raises(UsageError, match="REQUESTS_CA_BUNDLE"):
        http_client._make_ssl_context_from_env()
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    assert http_client._make_ssl_context_from_env() is True


@pytest.mark.parametrize(
    "form", [KEY, KEY[:20], b64encode(KEY.encode()).decode(), quote(KEY, safe=""), f"Bearer {KEY}"]
)
def test_no_part_of_a_key_comes_back_from_a_server(form: str) -> None:
    """Also the password of the proxy, which may answer in its place; one line, of a bounded length."""
    said = http_client.ServerConnection(AWAY, KEY).redact(f"you sent\n{form} \x1b[2J" + "x" * 1000)
    assert said.startswith("you sent ") and "***" in said and len(said) == 200 and said.isprintable()
    assert not [KEY[i : i + 8] for i in range(len(KEY) - 7) if KEY[i : i + 8] in said]


def test_the_password_of_a_proxy_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that repeats what it was sent is cleaned as a server is."""
    monkeypatch.setenv("HTTP_PROXY", "http://me:hunter%2322@proxy:3128")
    basic = b64encode(b"me:hunter#22").decode()
    assert "hunter" not in (
        said := http_client.ServerConnection(AWAY).redact(f"407: hunter#22, hunter%2322, Basic {basic}")
    )
    assert basic[4:12] not in said


def test_names_in_replies_are_bounded() -> None:
    """Eight of them are told, sorted, and how many more there were."""
    peer = http_client.ServerConnection("http://127.0.0.1:1/v1")
    for number in range(30):
        peer.record_model("small", {"model": f"m{number % 11:02}", "system_fingerprint": "fp" if number else None})
    for odd in (None, [], {"model": 3}, {"model": ""}):
        peer.record_model("small", odd)
    names = [f"m{n:02}" for n in range(8)]
    assert peer.facts("small") == {"models that replied": [*names, "and 3 more"], "system fingerprints": ["fp"]}
    assert peer.facts("other") == {}


class StreamHandler(LocalHandler):
    """A server that streams two tokens, one with line separators in it, and tells twice how its answer ended."""

    def answer(self, body: bytes) -> None:
        deltas = ({"content": "a\u2028b\x85"}, {"content": "c"}, {})
        events = [
            {"choices": [{"delta": d, "finish_reason": None if d.get("content") != "c" and d else "stop"}]}
            for d in deltas
        ]
        lines = [f"data: {json.dumps(event, ensure_ascii=False)}\r\n\r\n" for event in events]
        self.send(200, "".join([": hi\r\n", *lines, "data: [DONE]\r\n"]).encode(), "text/event-stream")


def test_only_line_ends_end_an_event_of_a_stream() -> None:
    """JSON may hold U+2028 and U+0085 as they are."""
    with serve_locally(StreamHandler) as url:
        client = http_client.Client("openai", http_client.ServerConnection(url), "", "")
        with closing(client):
            found = read_stream(client.send("/chat/completions", {"model": "m", "stream": True}, 10.0))
    assert (found.text, found.ended) == ("a\u2028b\x85c", "stop")
