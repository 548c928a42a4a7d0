"""One server: requests with a key that is never told, tries, and what went wrong in one line."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from harness import UsageError, wire
from harness_api.options import Options

T = TypeVar("T")
INSTALL = "pip install 'finetune-harness[api]'"
CONNECT = 5.0  # seconds
PAUSE, LONGEST = 0.5, 30.0  # seconds before the second try, doubled with each, at most
PATIENCE = 300.0  # seconds a server may ask us to wait
PASSING = (408, 409, 424, 425, 429)  # and 5xx but 501; 424 is text-generation-inference's "failed while generating"
NEVER = threading.Event()


class Trouble(Exception):
    """A request that got no usable answer.

    A `passing` one may get it at the next try, `after` so many seconds. Of a refusal, `status` is HTTP's, `said` the
    server's own words, `field` the field of the request that they name. `hint` says what to do.
    """

    def __init__(
        self,
        what: str,
        *,
        passing: bool = False,
        after: float | None = None,
        status: int = 0,
        said: str = "",
        field: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(what)
        self.passing, self.after, self.status, self.said, self.field = passing, after, status, said, field
        self.hint = f"; {hint}" if hint else ""


class Refused(UsageError):
    """The server will not answer a request, however often it is asked."""

    def __init__(self, message: str, trouble: Trouble) -> None:
        super().__init__(message)
        self.trouble = trouble


class Server:
    """An OpenAI-compatible server."""

    def __init__(self, options: Options) -> None:
        self.url, self.timeout, self.tries = options.url, options.timeout, options.retries + 1
        self.variable, self._key = options.key()
        self.peer = wire.Peer(self.url, self._key)
        self.where = f'server "{self.url}"{self.peer.through}'
        try:
            import openai
        except ModuleNotFoundError:
            raise UsageError(f'loader "api": needs the package openai; {INSTALL}') from None
        self._client, self._headers = wire.openai_client(openai, self.peer)

    def ask(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        read: Callable[[Any], T],
        about: str = "",
        advice: str = "start it, or correct base_url",
        tries: int | None = None,
        timeout: float | None = None,
        stop: threading.Event = NEVER,
    ) -> T:
        """POST a body, or GET without one; return what `read` makes of the JSON that comes.

        Tries again, with pauses that double and those that the server asks for, until `stop` is set. `about` says in
        an error what the request was. Raises Refused, or UsageError when it gives up.
        """
        number, tries = 1, tries or self.tries
        while True:
            try:
                return read(self._once(path, body, timeout or self.timeout))
            except Trouble as trouble:
                what = f"{self.where}: {self.peer.clean(str(trouble), 300)}"
                if not trouble.passing:
                    raise Refused(f"{what}{about}{trouble.hint}", trouble) from None
                pause = trouble.after if trouble.after is not None else _pause(number)
                # A set event ends the pause too: nobody waits for this answer any more.
                if number >= tries or pause > PATIENCE or stop.wait(pause):
                    asked = f" and asks to wait {pause:.0f} s" if pause > PATIENCE else ""
                    after = f"after {number} {'try' if number == 1 else 'tries'}"
                    raise UsageError(f"{what}{asked}{about}, {after}; {advice}") from None
            number += 1

    def close(self) -> None:
        self._client.close()

    def holds_key(self, text: str) -> bool:
        return bool(self._key) and self._key in text

    def _once(self, path: str, body: Mapping[str, Any] | None, timeout: float) -> Any:
        import openai

        options = {"timeout": openai.Timeout(timeout, connect=min(CONNECT, timeout)), "headers": self._headers}
        try:
            if body is None:
                reply = self._client.get(path, cast_to=object, options=options)
            else:
                reply = self._client.post(path, cast_to=object, body=dict(body), options=options)
            reply = json.loads(reply) if isinstance(reply, str) else reply  # a text: it did not say that it is JSON
            self.peer.hear(str((body or {}).get("model")), reply)
            return reply
        except openai.APITimeoutError:
            raise Trouble(f"gave no answer in {timeout:g} s (timeout)", passing=True) from None
        except openai.APIConnectionError as error:
            if bad := wire.bad_reply(error):
                raise Trouble(str(bad), passing=bad.passing) from None
            raise Trouble(f"the connection failed ({error.__cause__ or error})", passing=True) from None
        except openai.APIStatusError as error:
            raise self._refusal(error) from None
        except (ValueError, RecursionError):
            raise Trouble("answered with something that is no JSON", passing=True) from None

    def _refusal(self, error: Any) -> Trouble:
        """Return what an HTTP status means: something that may pass, or a mistake."""
        status, body = int(error.status_code), error.body
        if status == 401:  # what servers say here may show parts of a key
            what = f"refuses the key that {self.variable} holds" if self.variable else "wants a key"
            hint = "export the right one" if self.variable else "name the variable that holds it with api_key_env"
            return Trouble(f"{what} (HTTP 401)", status=status, hint=hint)
        said = self.peer.clean(wire.words(body) or error.response.text)
        spent = getattr(error, "code", None) == "insufficient_quota"  # a 429 that no waiting helps
        passing = not spent and (status in PASSING or (status >= 500 and status != 501))
        field = str(body.get("param") or "") if isinstance(body, dict) else ""
        what = f"HTTP {status}: {said or 'no reason given'}"
        after = wire.pause(error.response.headers)
        return Trouble(what, passing=passing, after=after, status=status, said=said, field=field)


def _pause(number: int) -> float:
    """Return the pause after a try, up to a quarter less, so that those who failed together do not come back so."""
    return float(min(PAUSE * 2 ** (number - 1), LONGEST)) * (1 - random.random() / 4)  # noqa: S311 -- not for secrets
