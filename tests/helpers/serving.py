"""`harness view` in a thread, at a port of its own, and what a browser would send it."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode


@dataclass(frozen=True)
class Answer:
    """A reply: status, headers in lower case, body."""

    status: int
    headers: dict[str, str]
    body: str


@dataclass(frozen=True)
class Served:
    """A server and its port."""

    port: int
    token: str = ""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
        """Send a request as it stands; a header None is left out, and Host is the server's own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        cookie = {"Cookie": f"harness-view-{self.port}={self.token}"} if self.token else {}
        sent = {"Host": self.host, **cookie, **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection.putrequest(method, path, skip_host=True)
        for name, value in sent.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body.encode())))
        connection.endheaders(None if body is None else body.encode())
        reply = connection.getresponse()
        found = Answer(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read().decode())
        connection.close()
        return found

    def post(self, path: str, said: Mapping[str, Any], **headers: str) -> Answer:
        """Send a form as the server's own pages do."""
        return self.ask(path, "POST", urlencode(said), **{"Origin": f"http://{self.host}", **headers})


@contextmanager
def serve_runs(folder: Path, token: str = "tests", *, known: bool = True) -> Iterator[Served]:
    """Serve the runs in a folder, to who is `known` to have the token."""
    from harness_view.app import make_app, make_server
    from harness_view.runs import Runs

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        server = make_server(make_app(Runs(folder), frozenset({f"127.0.0.1:{port}"}), token))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Served(port, token if known else "")
        finally:
            server.should_exit = True
            thread.join()
