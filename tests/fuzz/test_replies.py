"""What a server may reply: any status, any headers, any body."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import strategies as st

from harness.answers import requests
from harness.errors import CheckFailedError, UsageError
from harness.internals import http_client
from harness.records.models import ModelRef
from harness_api import load, replies
from harness_served.dialects import read_completion
from harness_served.runtime import read_answer
from tests.fuzz.breaking import VALUES, draw_json_edits, draw_text_edits, dump_json
from tests.fuzz.driving import fuzz
from tests.helpers.late import import_late
from tests.helpers.local_http import LocalHandler, serve_locally

import_late("openai")

CHAT: dict[str, Any] = {
    "id": "1",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "one", "refusal": None}}
    ],
    "usage": {"completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 0}},
}
TEXT: dict[str, Any] = {
    "choices": [
        {
            "text": "say one!",
            "finish_reason": "length",
            "logprobs": {
                "tokens": ["say", " one", "!"],
                "token_logprobs": [None, -0.5, -0.1],
                "top_logprobs": [None, {" one": -0.5}, {"!": -0.1}],
            },
            "prompt_logprobs": [None, {"1": {"logprob": -0.5, "rank": 1, "decoded_token": " one"}}],
        }
    ]
}
LLAMA: dict[str, Any] = {
    **{"content": "one", "tokens": [1, 2], "tokens_evaluated": 3, "stop_type": "eos"},
    "generation_settings": {"temperature": 0.8, "top_k": 40},
    "completion_probabilities": [{"id": 1, "logprob": -0.5}, {"id": 2, "logprob": -0.1}],
}
MODELS: dict[str, Any] = {"object": "list", "data": [{"id": "small", "owned_by": "vllm", "max_model_len": 100}]}
TOKENS: dict[str, Any] = {"tokens": [0, 1, 2], "count": 3, "max_model_len": 100}
ERROR: dict[str, Any] = {"error": {"message": "no", "type": "x", "param": "temperature", "code": 3}}
KINDS = {"/v1/models": MODELS, "/tokenize": TOKENS, "/v1/completions": TEXT, "/v1/chat/completions": CHAT}
STATUS = st.sampled_from([200] * 8 + [201, 204, 299, 301, 304, 400, 401, 404, 408, 422, 429, 500, 501, 503, 599, 999])
HEADERS = st.dictionaries(
    st.sampled_from(
        ["Content-Type", "Retry-After", "Content-Encoding", "Location", "X-Request-Id", "Transfer-Encoding"]
    ),
    st.sampled_from(
        ["", "0", "-1", "nan", "inf", "1e9", "text/html", "application/json; charset=utf-99", "gzip", "chunked", "é"]
    )
    | st.just("Mon, 99 Foo 2026 00:00:00 GMT"),
    max_size=2,
)


@dataclass
class Reply:
    """What the server says to every request of one path; elsewhere it is well."""

    path: str = ""
    status: int = 200
    headers: dict[str, str] | None = None
    body: bytes = b""
    cut: int = 0  # bytes announced that never come


class Handler(LocalHandler):
    """One reply, and the connection is closed."""

    protocol_version = "HTTP/1.0"

    reply = Reply()

    def answer(self, body: bytes) -> None:
        given = (
            self.reply if self.path == self.reply.path else Reply(body=dump_json(KINDS.get(self.path, ERROR)).encode())
        )
        length = {"Content-Length": str(len(given.body) + given.cut)}
        self.send(given.status, given.body, **length | (given.headers or {}))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server on this machine that says what `Handler.reply` is."""
    with pytest.MonkeyPatch.context() as patch, serve_locally(Handler, hide_errors=True) as address:
        patch.setattr(requests, "FIRST_PAUSE_SECONDS", 0.001)
        patch.setattr(requests, "MAX_RETRY_AFTER_S", 0.01)
        yield f"{address}/v1"


def ask_endpoint(url: str, endpoint: Any) -> None:
    options: dict[str, Any] = {"base_url": url, "retries": 1, "timeout": 2.0, "endpoint": endpoint}
    try:
        source = load.open("small", **options)  # type: ignore[attr-defined]
        source.count_tokens([("say one", " two")])
        with load([ModelRef("reference", "small")], **options) as [subject]:
            subject.generate(["say one", [{"role": "user", "content": "say two"}]])
            subject.logprobs([("say", " one")])
    except (UsageError, CheckFailedError) as error:
        assert "\n" not in str(error)  # noqa: PT017 -- most replies are no error, and that is well too


def draw_reply(path: str) -> st.SearchStrategy[Reply]:
    whole = KINDS[path]
    bodies = st.one_of(
        draw_json_edits(whole).map(lambda x: dump_json(x).encode("utf-8", "surrogatepass")),
        draw_text_edits(dump_json(whole)),
        draw_json_edits(ERROR).map(lambda x: dump_json(x).encode("utf-8", "surrogatepass")),
        st.sampled_from([b"", b"<html>", b"null", b"data: {}\n\ndata: [DONE]\n\n", b"\x1f\x8b\x08"]),
    )
    return st.builds(Reply, st.just(path), STATUS, HEADERS, bodies, st.sampled_from([0, 0, 0, 10, -1]))


@pytest.mark.slow
@fuzz(st.sampled_from(sorted(KINDS)).flatmap(draw_reply), st.sampled_from(["auto", "chat", "completions"]))
def test_replies(reply: Reply, endpoint: str, url: str) -> None:
    """Whatever comes back, there are answers, or one line says why there are none."""
    Handler.reply = reply
    ask_endpoint(url, endpoint)


@fuzz(draw_json_edits(CHAT) | draw_json_edits(TEXT) | draw_json_edits(LLAMA) | VALUES)
def test_answers(reply: Any) -> None:
    """Each reader of a reply gives a text or a Trouble, whatever JSON it was."""
    readers = (
        partial(replies.read_answer, stop=("\n",)),
        lambda r: read_answer(r).text,
        lambda r: read_completion(r).text,
    )
    for read in readers:
        try:
            assert isinstance(read(reply), str)
        except http_client.RequestError as trouble:
            assert str(trouble)  # noqa: PT017 -- most replies are answers
