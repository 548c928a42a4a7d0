"""What the two APIs have in common: where they are, the key, and what their refusals mean."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from harness import UsageError, wire
from harness_judge.budget import Reserved
from harness_judge.desk import Trouble
from harness_judge.prompts import Question
from harness_judge.verdict import Reply, readable

HOMES = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}
KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")  # no lower case: a key that was written here by mistake has some
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
        problem = _wrong_url(self.url)
        if problem:
            raise UsageError(f"base_url {problem}")
        if key_env and not VARIABLE.fullmatch(key_env):
            raise UsageError(
                "api_key_env is no name of an environment variable (capital letters, digits, _), and is not shown,"
                " since it may be a key; write the variable's name, and revoke the key if it was one"
            )
        home = urlsplit(self.url).hostname == urlsplit(HOMES[provider]).hostname
        self.variable = key_env or (KEYS[provider] if home else "")
        self.key = os.environ.get(self.variable, "").strip() if self.variable else ""
        if self.variable and not self.key:
            raise UsageError(f'the environment variable {self.variable} is not set; it holds the key for "{self.url}"')
        if not (self.key.isascii() and self.key.isprintable()):
            raise UsageError(f"the environment variable {self.variable} holds characters that no key has; look at it")

    def hide(self, text: str) -> str:
        """Take the key out of what a server said."""
        return text.replace(self.key, "***") if self.key else text

    def clean(self, text: str, most: int = 200) -> str:
        """Make one line of what a server said, without the key and what a terminal would obey."""
        line = " ".join("".join(c if c.isprintable() else " " for c in self.hide(text)).split())
        return line if len(line) <= most else line[:most] + "…"

    def misbehaved(self, bad: wire.BadReply) -> Trouble:
        """Return the trouble that a reply is which was not read to its end."""
        return Trouble(self.clean(str(bad)), passing=bad.passing, fatal=isinstance(bad, wire.Moved), charged=True)

    def refusal(self, status: int, body: Any, text: str, headers: Mapping[str, str], model: str) -> Trouble:
        """Return what an HTTP status means: something that may pass, or a mistake."""
        if status == 401:  # what servers say here may show parts of a key
            what = f"the key in {self.variable} is refused" if self.variable else "it wants a key; set api_key_env"
            return Trouble(f"{what} (HTTP 401)", fatal=True)
        said = self.clean(_words(body) or text) or "no reason given"
        if status == 404:
            return Trouble(f'HTTP 404: {said}; is "{model}" a model it serves, and base_url right?', fatal=True)
        spent = "insufficient_quota" in json.dumps(body, default=str)  # a 429 that no waiting helps
        passing = not spent and (status in PASSING or (status >= 500 and status != 501))
        fatal = spent or status in FOR_ALL
        return Trouble(f"HTTP {status}: {said}", passing=passing, fatal=fatal, after=_after(headers))


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


def _wrong_url(url: str) -> str:
    """Return what is wrong with a URL; what cannot be read is not shown, for it may hold a password."""
    want = 'want a URL such as "http://localhost:8000/v1"'
    try:
        parts = urlsplit(url)
        there = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        there = False
    if not there:
        return f"cannot be read; {want}"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return f"holds a user name, or something after a ? or #, which would end up in reports; {want}"
    return ""


def _words(body: Any) -> str:
    """Return the message in an error's body, in one of the shapes that servers use."""
    if isinstance(body, dict):
        for name in ("message", "error", "detail"):
            if found := body.get(name):
                return _words(found) or json.dumps(found, default=str)
    return body if isinstance(body, str) else ""


def _after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds a server asks to wait: retry-after, in seconds or as a date (RFC 9110, 10.2.3)."""
    said = headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
