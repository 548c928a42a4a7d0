"""One server: tries, and what went wrong in one line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from harness import UsageError, wire
from harness_api.options import Options

T = TypeVar("T")
MISSING = "loader \"api\": needs the package openai; pip install 'finetune-harness[api]'"


class Refused(UsageError):
    """The server will not answer a request, however often it is asked."""

    def __init__(self, message: str, trouble: wire.Trouble) -> None:
        super().__init__(message)
        self.trouble = trouble


class Server(wire.Client):
    """An OpenAI-compatible server."""

    def __init__(self, options: Options) -> None:
        self.url, self.timeout, self.tries = options.url, options.timeout, options.retries + 1
        variable, key = options.key()
        super().__init__("openai", wire.Peer(self.url, key), variable, MISSING)
        self.where = f'server "{self.url}"{self.peer.through}'

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
        stop: threading.Event = wire.NEVER,
    ) -> T:
        """POST a body, or GET without one; return what `read` makes of the JSON that comes.

        Tries again, with pauses that double and those that the server asks for, until `stop` is set. `about` says in
        an error what the request was. Raises Refused, or UsageError when it gives up.
        """
        try:
            return wire.insist(lambda: read(self.send(path, body, timeout or self.timeout)), tries or self.tries, stop)
        except wire.Trouble as trouble:
            what = f"{self.where}: {self.peer.clean(str(trouble), 300)}"
            if not trouble.passing:
                raise Refused(f"{what}{about}{trouble.hint}", trouble) from None
            asked = f" and asks to wait {trouble.after:.0f} s" if (trouble.after or 0.0) > wire.PATIENCE else ""
            after = f"after {trouble.tries} {'try' if trouble.tries == 1 else 'tries'}"
            raise UsageError(f"{what}{asked}{about}, {after}; {advice}") from None
