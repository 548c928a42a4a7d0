"""A Hub of one process: enough of the API of model repositories for huggingface_hub's own client."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass
class FakeHub:
    """The repositories by name, and whether they are private."""

    url: str = ""
    status: int = 200  # of every answer that changes something
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)

    def create(self, name: str, *, private: bool) -> None:
        """Make a repository unless it exists."""
        self.private.setdefault(name, private)
        self.files.setdefault(name, {})

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        """Apply a commit."""
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del self.files[name][value["path"]]


@contextmanager
def start_fake_hub() -> Iterator[FakeHub]:
    """Serve an empty Hub."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, _, _, *parts = urlsplit(self.path).path.split("/")
            name = "/".join(parts[:2])
            if name not in hub.files:
                self.answer(404, {"error": "Repository not found"}, "RepoNotFound")
            elif parts[2:3] == ["tree"]:
                files = [
                    {"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in hub.files[name].items()
                ]
                self.answer(200, files)
            else:
                siblings = [{"rfilename": path} for path in hub.files[name]]
                self.answer(200, {"id": name, "private": hub.private[name], "siblings": siblings, "sha": "0" * 40})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            _, _, kind, *parts = urlsplit(self.path).path.split("/")
            name = "/".join(parts[:2])
            if hub.status != 200:
                self.answer(hub.status, {"error": "no"})
            elif kind == "repos":
                given = json.loads(body)
                name = f"{given['organization']}/{given['name']}" if given.get("organization") else given["name"]
                known = name in hub.files
                hub.create(name, private=bool(given.get("private")) or given.get("visibility") == "private")
                self.answer(409 if known else 200, {"url": f"{hub.url}/{name}"})
            elif kind == "validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif parts[2] == "preupload":
                paths = [one["path"] for one in json.loads(body)["files"]]
                modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
                self.answer(200, {"files": modes})
            else:
                hub.commit(name, [json.loads(line) for line in body.splitlines() if line])
                url = f"{hub.url}/{name}/commit/{'1' * 40}"
                self.answer(200, {"success": True, "commitUrl": url, "commitOid": "1" * 40})

        def answer(self, status: int, value: Any, error: str = "") -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if error:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
