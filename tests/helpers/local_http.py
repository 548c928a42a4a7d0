"""A server of one handler on a free port of this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LocalHandler(BaseHTTPRequestHandler):
    """A handler that answers GET and POST alike, keeps its connection and writes nothing to the log."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one piece: in two, TCP waits 40 ms between them

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("content-length") or 0)))

    do_GET = do_POST  # noqa: N815 -- http.server's name

    def answer(self, body: bytes) -> None:
        """Reply to a request for `self.path`."""
        raise NotImplementedError

    def send(self, code: int, data: bytes, kind: str = "application/json", **headers: str) -> None:
        """Send a reply; `headers` replace the usual ones."""
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Write nothing to the log."""


@contextmanager
def serve_locally(handler: type[BaseHTTPRequestHandler], *, hide_errors: bool = False) -> Iterator[str]:
    """Serve in a thread and yield the address; `hide_errors` where clients give up."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if hide_errors:
        http.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
