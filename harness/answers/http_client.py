"""HTTP by the SDKs of APIs: a client that asks once, what went wrong in one line, and when to try again.

No redirect is followed, and a reply is whole in time and of a bounded size.
"""

from __future__ import annotations

import json
import math
import os
import re
import ssl
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from harness.answers.reasoning import cut_at_stop as cut_at_stop
from harness.answers.requests import FIRST_PAUSE_SECONDS as FIRST_PAUSE_SECONDS
from harness.answers.requests import MAX_RETRY_AFTER_S as MAX_RETRY_AFTER_S
from harness.answers.requests import NEVER as NEVER
from harness.answers.requests import RequestError as RequestError
from harness.answers.requests import RequestThreads as RequestThreads
from harness.answers.requests import map_concurrent as map_concurrent
from harness.answers.requests import retry as retry
from harness.errors import UsageError
from harness.texts import secrets
from harness.texts.numbers import format_duration
from harness.texts.shortening import shorten_to_line

CONNECT_TIMEOUT_S = 5.0  # seconds
# and 5xx but 501; 424 is text-generation-inference's "failed while generating"
RETRIED_STATUS_CODES = (408, 409, 424, 425, 429)
FOR_ALL = (401, 402, 403, 404)  # what is refused once so is refused always
MAX_REPLY_BYTES = 64 << 20  # bytes of a reply, decoded: log-probs of a long prompt have some 10 MB
HEADERS = {"content-encoding", "content-length", "transfer-encoding"}  # of the body as it was sent
DEFAULT_TIMEOUT_S = 3600.0  # seconds, where an SDK was given no timeout
# of server-sent events, and no other: a JSON text may hold U+2028 as it is
SSE_LINE_END = re.compile("\r\n|\n|\r")
MACHINE = ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version")  # what the SDK tells about us
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")  # the first that is set is taken
# a fact, and a reply's field
REPLY_FACTS = {"models that replied": "model", "system fingerprints": "system_fingerprint"}
MOST_NAMED = 8  # of each


class ReadKey(NamedTuple):
    """An API key from an environment variable, or its error."""

    key: str
    error: str


class ServerConnection:
    """A server: the proxy on the way to it, the key that it gets, and who its replies say wrote them.

    Loopback is asked directly. `through` names the proxy and its variable, never a user or a password. Raises
    UsageError where that variable cannot be used.
    """

    def __init__(self, url: str, key: str = "") -> None:
        self.url, self.key = url, key
        self.variable, self.address = _find_proxy(url)
        parts = urlsplit(self.address)
        self.proxy = f"{parts.netloc.rpartition('@')[2]} ({self.variable})" if self.address else ""
        self.through = f" through the proxy {self.proxy}" if self.proxy else ""
        self._secrets = (key, unquote(parts.password or parts.username or ""))
        self._wrote: dict[tuple[str, str], set[str]] = {}

    def redact(self, text: str, most: int = 200) -> str:
        """Return a server's text as one printable line.

        Parts of secrets are redacted, unprintable characters become spaces, and a line of more than `most` characters
        is cut.
        """
        text = secrets.redact_parts(text[: 20 * most], self._secrets)
        return shorten_to_line("".join(c if c.isprintable() else " " for c in text), most)

    def record_model(self, asked: str, reply: Any) -> None:
        """Record the model and system fingerprint that a reply names.

        They are kept under the requested model.
        """
        for what, field in REPLY_FACTS.items() if isinstance(reply, dict) else ():
            if isinstance(name := reply.get(field), str) and name:
                self._wrote.setdefault((asked, what), set()).add(self.redact(name, 100))

    def facts(self, asked: str) -> dict[str, Any]:
        """Return the proxy, and the reply facts for a requested model.

        These are the models and system fingerprints that its replies named so far, at most MOST_NAMED of each.
        """
        told: dict[str, Any] = {"proxy": self.proxy} if self.proxy else {}
        for what in REPLY_FACTS:
            if names := sorted(self._wrote.get((asked, what), ())):
                more = len(names) - MOST_NAMED
                told[what] = names[:MOST_NAMED] + ([f"and {more} more"] if more > 0 else [])
        return told


def http_client(sdk: Any, peer: ServerConnection, *, fresh: bool = False) -> Any:
    """Return an HTTP client for an SDK that follows no redirects.

    `sdk` is `openai` or `anthropic`. With `fresh` each request gets a new connection, which a load balancer may send to
    another replica.

    A reply that is redirected, too slow or too large raises the SDK's APIConnectionError, caused by a RequestError.
    From the environment only the peer's proxy and CERTIFICATES are used; raises UsageError if they cannot be.
    """

    class Client(sdk.DefaultHttpxClient):  # type: ignore[misc]
        def send(self, request: Any, **options: Any) -> Any:
            options |= {"stream": True, "follow_redirects": False}
            if fresh:
                request.headers["Connection"] = "close"
            send = partial(super().send, request, **options)
            try:
                given = request.extensions.get("timeout", {})
                seconds = sum(given.get(part) or DEFAULT_TIMEOUT_S for part in ("connect", "read"))
                return _call_with_timeout(seconds, lambda until: _read_response_within_limits(send(), until, seconds))
            except RequestError as trouble:
                raise sdk.APIConnectionError(message=str(trouble), request=request) from trouble

        def __del__(self) -> None:
            try:  # noqa: SIM105 -- at the end of the process the names of this module are gone
                self.close()
            except Exception:  # noqa: S110
                pass

    trusted = _make_ssl_context_from_env()
    try:
        return Client(proxy=peer.address or None, verify=trusted, trust_env=False)
    except Exception as error:  # each version of the library has its own
        if not peer.address:
            raise
        raise _make_proxy_error(peer.variable, isinstance(error, ImportError)) from None


class Client:
    """A client of a server through the SDK "openai" or "anthropic".

    The server gets the peer's key and no other; `variable` is the environment variable that holds it. Raises UsageError
    with the text `missing` if the SDK is not installed, and as `http_client` does.
    """

    def __init__(
        self, provider: str, peer: ServerConnection, variable: str, missing: str, *, fresh: bool = False
    ) -> None:
        try:
            self.sdk: Any = __import__(provider)
        except ModuleNotFoundError:
            raise UsageError(missing) from None
        self.peer, self.variable, self.headers = peer, variable, dict[str, Any]()
        about: dict[str, Any] = {"base_url": peer.url, "api_key": peer.key or "none"}
        about |= {
            "max_retries": 0,
            "http_client": http_client(self.sdk, peer, fresh=fresh),
        }  # ours are counted, and can be ended
        if provider == "anthropic":
            self.client = self.sdk.Anthropic(**about, open_telemetry=False)
            self.client._custom_headers = {}  # ANTHROPIC_CUSTOM_HEADERS is for a server we do not know
            return
        self.client = self.sdk.OpenAI(**about)
        self.headers = {f"X-Stainless-{name}": self.sdk.omit for name in MACHINE}
        if not peer.key:
            self.headers["Authorization"] = self.sdk.omit
        if not is_openai(peer.url):  # the SDK would tell any server what the environment says of the account at OpenAI
            self.client.organization = self.client.project = self.client.admin_api_key = None

    def close(self) -> None:
        """Close its connections."""
        self.client.close()

    def send(self, path: str, body: Mapping[str, Any] | None, timeout: float) -> Any:
        """Send a request and return the reply's JSON.

        Without a body it is a GET. A streamed reply is returned as a list of events. Raises RequestError.
        """
        sdk = self.sdk
        connect = sdk.Timeout(timeout, connect=min(CONNECT_TIMEOUT_S, timeout))
        how: dict[str, Any] = {"cast_to": object, "options": {"timeout": connect, "headers": self.headers}}
        try:
            reply = self.client.get(path, **how) if body is None else self.client.post(path, body=dict(body), **how)
            if isinstance(reply, str) and reply.startswith(("data:", "event:", ":")):
                if (body or {}).get("stream"):
                    return self._parse_sse_events(str((body or {}).get("model")), reply)
                raise RequestError(
                    "streams its answers, although streaming was not requested", hint="turn streaming off", charged=True
                )
            reply = json.loads(reply) if isinstance(reply, str) else reply  # a text: it did not say that it is JSON
        except sdk.APITimeoutError:
            raise RequestError(
                f"did not answer within {format_duration(timeout)} (timeout)", passing=True, charged=True
            ) from None
        except sdk.APIConnectionError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, RequestError):
                cause = cause.__cause__
            if cause:  # of a reply that was not read to its end
                cause.what = self.peer.redact(cause.what)
                raise cause from None
            sent = type(error.__cause__).__name__ not in ("ConnectError", "ProxyError")
            why = self.peer.redact(str(error.__cause__ or error))
            raise RequestError(f"the connection failed ({why})", passing=True, charged=sent) from None
        except sdk.APIStatusError as error:
            raise self._make_status_error(error) from None
        except (ValueError, RecursionError):
            raise RequestError("sent a reply that is not JSON", passing=True, charged=True) from None
        self.peer.record_model(str((body or {}).get("model")), reply)
        return reply

    def _parse_sse_events(self, model: str, text: str) -> list[Any]:
        """Parse a stream of server-sent events. Raises ValueError if one is not JSON."""
        lines = SSE_LINE_END.split(text)
        told = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
        events = [json.loads(line) for line in told if line != "[DONE]"]
        for event in events[:1]:
            self.peer.record_model(model, event)
        return events

    def _make_status_error(self, error: Any) -> RequestError:
        """Return the RequestError for an HTTP error status.

        It distinguishes errors that may pass from mistakes.
        """
        status, body = int(error.status_code), error.body
        if status == 401:  # what servers say here may show parts of a key
            what = f"rejects the key in {self.variable}" if self.variable else "requires an API key"
            hint = (
                "set the variable to the right key"
                if self.variable
                else "name the environment variable that holds it with api_key_env"
            )
            return RequestError(f"{what} (HTTP 401)", status=status, hint=hint, fatal=True)
        said = self.peer.redact(error_message(body) or error.response.text)
        spent = "insufficient_quota" in json.dumps(body, default=str)  # a 429 that no waiting helps
        return RequestError(
            f"HTTP {status}: {said or 'no reason given'}",
            passing=not spent and (status in RETRIED_STATUS_CODES or (status >= 500 and status != 501)),
            after=retry_after(error.response.headers),
            fatal=spent or status in FOR_ALL,
            status=status,
            said=said,
            field=str(body.get("param") or "") if isinstance(body, dict) else "",
        )


def read_key(variable: str) -> ReadKey:
    """Read an API key from an environment variable.

    The key is empty, with an error, if the variable is not set or holds characters that no key contains.
    """
    key = os.environ.get(variable, "").strip()
    if key and not (key.isascii() and key.isprintable()):
        return ReadKey(
            "", f"the environment variable {variable} holds characters that no key contains; correct its value"
        )
    return ReadKey(key, "" if key else "is not set")


def is_openai(url: str) -> bool:
    """Return whether a URL is OpenAI's own."""
    return f".{urlsplit(url).hostname}".endswith(".api.openai.com")


def find_url_error(url: str) -> str:
    """Return the error of a URL, else an empty text.

    An unreadable URL may be a password, so it is not shown.
    """
    want = 'give a URL such as "http://localhost:8000/v1"'
    try:
        parts = urlsplit(url)
        there = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        there = False
    if not there:
        return f"cannot be read; {want}"
    if "@" in parts.netloc:
        return "contains a user name or a password, which would appear in reports; give a key with api_key_env"
    if parts.query or parts.fragment:
        return f'has a query ("?") or a fragment ("#"), which would appear in reports; {want}'
    return ""


def find_variable_error(name: str) -> str:
    """Return the error of a key variable's name, else an empty text.

    A name with small letters may be the key itself, so it is not shown.
    """
    what = (
        "is not the name of an environment variable (capital letters, digits, _); it is not "
        "shown here, since it may be a key"
    )
    right = not name or re.fullmatch(r"[A-Z][A-Z0-9_]*", name)
    return "" if right else f"{what}; write the variable's name, and revoke the key if this was one"


def error_message(body: Any) -> str:
    """Extract the message from an error body.

    The body may have any of the shapes that servers use.
    """
    if isinstance(body, dict):
        for name in ("message", "error", "detail"):
            if found := body.get(name):
                return error_message(found) or json.dumps(found, default=str)
    return body if isinstance(body, str) else ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds a server asks to wait: Retry-After, in seconds or as a date (RFC 9110, 10.2.3)."""
    said = headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _find_proxy(url: str) -> tuple[str, str]:
    """Return the proxy variable and proxy address for a URL.

    Both are empty if no proxy is used. Raises UsageError if the address is invalid.
    """
    target, found = urlsplit(url), getproxies()
    kind = next((k for k in (target.scheme, "all") if found.get(k)), "")
    host = target.hostname or ""
    try:
        loopback = ip_address(host).is_loopback
    except ValueError:
        loopback = host.rstrip(".") == "localhost"
    if not kind or loopback or proxy_bypass(target.netloc):
        return "", ""
    # Of http_proxy and HTTP_PROXY the small one counts.
    variable = max((n for n in os.environ if n.lower() == f"{kind}_proxy"), default="the system's settings")
    address = found[kind] if "://" in found[kind] else f"http://{found[kind]}"
    try:
        parts = urlsplit(address)
        # A password with a / in it would end up in the path, and its beginning among what is told.
        there = parts.hostname and (parts.port or True) and "@" not in parts.path + parts.query + parts.fragment
    except ValueError:
        there = False
    if not there:
        raise _make_proxy_error(variable)
    return variable, address


def _make_proxy_error(variable: str, socks: bool = False) -> UsageError:
    what = "is not the address of a proxy (not shown here, since it may hold a password); give http://HOST:PORT"
    if socks:
        what = "names a SOCKS proxy, which needs the package socksio; pip install socksio"
    return UsageError(f"{variable}: {what}, or unset the variable")


def _make_ssl_context_from_env() -> ssl.SSLContext | bool:
    """Return the SSL context that CERTIFICATES in the environment define.

    True, the library's default, if none of them is set. Raises UsageError if the path does not exist or contains no
    certificates.
    """
    for variable in CERTIFICATES:
        if place := os.environ.get(variable):
            why = "which does not exist"
            try:
                if Path(place).is_file():
                    return ssl.create_default_context(cafile=place)
                if any(Path(folder).is_dir() for folder in place.split(os.pathsep)):
                    return ssl.create_default_context(capath=place)
            except OSError:  # those of ssl are such, too
                why = "which contains no certificates"
            raise UsageError(f'{variable}: names "{place}", {why}; correct it, or unset the variable')
    return True


def _call_with_timeout(seconds: float, call: Any) -> Any:
    """Run a call in its own thread with a total timeout.

    An HTTP library bounds each pause of a server, not their sum. A server that sends its headers byte by byte blocks
    the thread, never the caller. `call` gets the deadline on the monotonic clock. Raises RequestError after `seconds`.
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
        raise _make_timeout_error(seconds) from None


def _read_response_within_limits(response: Any, until: float, seconds: float) -> Any:
    """Return a response with its decoded body. Raises RequestError if it is redirected, too slow or too large."""
    with closing(response):
        if response.has_redirect_location:
            place = "another address"  # without what may be secret in it, for it would send rows and keys there
            with suppress(ValueError):
                to = urlsplit(urljoin(str(response.request.url), response.headers["location"]))
                place = f'"{to.scheme}://{to.hostname}{f":{to.port}" if to.port else ""}{to.path}"'
            raise RequestError(f"redirects to {place}; correct base_url", fatal=True, charged=True)
        blocks, size = [], 0
        for block in response.iter_bytes():
            blocks.append(block)
            size += len(block)
            if size > MAX_REPLY_BYTES:
                raise RequestError(
                    f"sent a reply of more than {MAX_REPLY_BYTES >> 20} MiB; check that base_url is a model server",
                    charged=True,
                )
            if time.monotonic() > until:
                raise _make_timeout_error(seconds)
    return type(response)(
        response.status_code,
        headers=[(name, value) for name, value in response.headers.multi_items() if name.lower() not in HEADERS],
        content=b"".join(blocks),
        request=response.request,
        extensions=response.extensions,
    )


def _make_timeout_error(seconds: float) -> RequestError:
    return RequestError(f"did not complete its answer within {format_duration(seconds)}", passing=True, charged=True)
