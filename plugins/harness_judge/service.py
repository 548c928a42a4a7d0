"""What the two APIs have in common: where they are, the key, and what their refusals mean."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from harness import UsageError, wire
from harness_judge.budget import Reserved
from harness_judge.desk import Trouble
from harness_judge.prompts import Question
from harness_judge.verdict import Reply, readable

HOMES = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}
KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
INSTALL = "pip install 'finetune-harness[judge]'"
CONNECT = 5.0  # seconds
OVERHEAD = 256  # tokens that a server may put around what we send
PASSING = (408, 409, 425, 429)  # and 5xx but 501
FOR_ALL = (401, 402, 403, 404)  # what is refused once so is refused always


class Service:
    """One API under one URL, and the key for it, which is never told.

    The key is read from the variable `key_env`, by default the provider's own, which only the provider's own server
    gets: a key is for those it was made for. Raises UsageError on a URL or a variable that cannot be used.
    """

    def __init__(self, provider: str, base_url: str = "", key_env: str = "") -> None:
        self.provider, self.url = provider, (base_url or HOMES[provider]).rstrip("/")
        if problem := wire.wrong_url(self.url):
            raise UsageError(f"base_url {problem}")
        if problem := wire.wrong_variable(key_env):
            raise UsageError(f"api_key_env {problem}")
        home = urlsplit(self.url).hostname == urlsplit(HOMES[provider]).hostname
        self.variable = key_env or (KEYS[provider] if home else "")
        self.key = os.environ.get(self.variable, "").strip() if self.variable else ""
        if self.variable and not self.key:
            raise UsageError(f'the environment variable {self.variable} is not set; it holds the key for "{self.url}"')
        if not (self.key.isascii() and self.key.isprintable()):
            raise UsageError(f"the environment variable {self.variable} holds characters that no key has; look at it")
        self.peer = wire.Peer(self.url, self.key)
        self.clean = self.peer.clean
        self.place = f'"{self.url}"{self.peer.through}'

    def hide(self, text: str) -> str:
        """Take the key out of what a judge said, of which a part may be a word."""
        return text.replace(self.key, "***") if self.key else text

    @contextmanager
    def asked(self, sdk: Any, timeout: float, refused: Callable[[Any], Trouble]) -> Iterator[None]:
        """Turn what an SDK raises into Trouble; `refused` returns that of an HTTP status."""
        try:
            yield
        except sdk.APITimeoutError:
            raise Trouble(f"gave no answer in {timeout:g} s (timeout)", passing=True, charged=True) from None
        except sdk.APIConnectionError as error:
            if bad := wire.bad_reply(error):  # one that was not read to its end
                moved = isinstance(bad, wire.Moved)
                raise Trouble(self.clean(str(bad)), passing=bad.passing, fatal=moved, charged=True) from None
            sent = type(error.__cause__).__name__ not in ("ConnectError", "ProxyError")
            why = self.clean(str(error.__cause__ or error))
            raise Trouble(f"the connection failed ({why})", passing=True, charged=sent) from None
        except sdk.APIStatusError as error:
            raise refused(error) from None
        except (ValueError, RecursionError):
            raise Trouble("answered with something that is no JSON", passing=True, charged=True) from None

    def refusal(self, model: str, error: Any) -> Trouble:
        """Return what an HTTP status means: something that may pass, or a mistake."""
        status, body = int(error.status_code), error.body
        if status == 401:  # what servers say here may show parts of a key
            what = f"the key in {self.variable} is refused" if self.variable else "it wants a key; set api_key_env"
            return Trouble(f"{what} (HTTP 401)", fatal=True)
        said = self.clean(wire.words(body) or error.response.text) or "no reason given"
        if status == 404:
            return Trouble(f'HTTP 404: {said}; is "{model}" a model it serves, and base_url right?', fatal=True)
        spent = "insufficient_quota" in json.dumps(body, default=str)  # a 429 that no waiting helps
        passing = not spent and (status in PASSING or (status >= 500 and status != 501))
        fatal = spent or status in FOR_ALL
        return Trouble(f"HTTP {status}: {said}", passing=passing, fatal=fatal, after=wire.pause(error.response.headers))


def most(question: Question, verdict_tokens: int) -> Reserved:
    """Return the most tokens a question can use: none is shorter than a byte of UTF-8."""
    sent = [*(m["content"] for m in question.messages()), json.dumps(dict(question.schema))]
    return Reserved(sum(len(text.encode("utf-8", "replace")) for text in sent) + OVERHEAD, verdict_tokens)


def checked(reply: Reply) -> Reply:
    """Return a reply that is JSON; raises Trouble for one that is not: what cannot be read was not answered."""
    if not readable(reply):
        raise Trouble("replied with something that is no JSON", passing=True, reply=reply)
    return reply


def installed(provider: str) -> Any:
    """Import a provider's SDK; raises UsageError when it is not there."""
    try:
        return __import__(provider)
    except ModuleNotFoundError:
        raise UsageError(f"needs the package {provider}; {INSTALL}") from None
