"""HTTP for the SDKs of APIs: no redirect is followed, and a reply is whole in time and of a bounded size."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from typing import Any
from urllib.parse import urljoin, urlsplit

LARGEST = 64 << 20  # bytes of a reply, decoded: log-probs of a long prompt have some 10 MB
HEADERS = {"content-encoding", "content-length", "transfer-encoding"}  # of the body as it was sent
FOREVER = 3600.0  # seconds, where an SDK was given no timeout


class BadReply(Exception):
    """A reply that is not read to its end; a `passing` one may be good at the next try."""

    def __init__(self, what: str, *, passing: bool = False) -> None:
        super().__init__(what)
        self.passing = passing


class Moved(BadReply):
    """A redirect, which would send rows and keys to another place."""


def http_client(sdk: Any) -> Any:
    """Return an HTTP client for an SDK, `openai` or `anthropic`, whose requests go to no other host.

    A reply that is not read to its end is an APIConnectionError of the SDK; `bad_reply` returns what it was.
    """

    class Client(sdk.DefaultHttpxClient):  # type: ignore[misc]
        def send(self, request: Any, **options: Any) -> Any:
            options |= {"stream": True, "follow_redirects": False}
            send = partial(super().send, request, **options)
            try:
                return _within(_seconds(request), lambda until: _whole(send(), until))
            except BadReply as bad:
                raise sdk.APIConnectionError(message=str(bad), request=request) from bad

        def __del__(self) -> None:
            with suppress(Exception):
                self.close()

    return Client()


def bad_reply(error: BaseException) -> BadReply | None:
    """Return the BadReply behind an SDK's error, if that is what it is."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, BadReply):
        cause = cause.__cause__
    return cause


def _seconds(request: Any) -> float:
    given = request.extensions.get("timeout", {})
    return sum(given.get(part) or FOREVER for part in ("connect", "read"))


def _within(seconds: float, call: Any) -> Any:
    """Return what a call returns in a thread of its own: an HTTP library bounds the pauses of a server, not their sum.

    A server that sends its headers byte by byte keeps the thread, never the caller.
    """
    result: Future[Any] = Future()
    until = time.monotonic() + seconds

    def work() -> None:
        try:
            result.set_result(call(until))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return result.result(seconds)
    except TimeoutError:
        if result.done():  # the call's own
            raise
        raise _late(seconds) from None


def _whole(response: Any, until: float) -> Any:
    """Return a response with its decoded body. Raises BadReply when it is moved, too slow or too large."""
    begun = time.monotonic()
    with closing(response):
        if response.has_redirect_location:
            raise Moved(f"is moved to {_place(response)}; correct base_url")
        blocks, size = [], 0
        for block in response.iter_bytes():
            blocks.append(block)
            size += len(block)
            if size > LARGEST:
                raise BadReply(f"answered with more than {LARGEST >> 20} MiB, which is no answer")
            if time.monotonic() > until:
                raise _late(until - begun)
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in HEADERS]
    return type(response)(
        response.status_code,
        headers=headers,
        content=b"".join(blocks),
        request=response.request,
        extensions=response.extensions,
    )


def _late(seconds: float) -> BadReply:
    return BadReply(f"gave no whole answer in {seconds:.3g} s", passing=True)


def _place(response: Any) -> str:
    """Return where a response points to, without what may be secret in it."""
    try:
        to = urlsplit(urljoin(str(response.request.url), response.headers["location"]))
        return f'"{to.scheme}://{to.hostname}{f":{to.port}" if to.port else ""}{to.path}"'
    except ValueError:
        return "another place"
