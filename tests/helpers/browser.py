"""Chromium without a window, driven over a pipe: what a page looks like, says on its console, and answers."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
LOUD = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Page.javascriptDialogOpening")


class Browser:
    """One tab. `console` holds whatever a page logged, raised, or was refused by its policy."""

    def __init__(self, to: int, heard: int) -> None:
        self.to, self.heard, self.buffer = to, heard, b""
        self.numbers, self.console, self.session = itertools.count(1), [], ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol, and return what it answers."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        os.write(self.to, json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        while True:
            said = self._next()
            if said.get("id") == number:
                assert "error" not in said, said
                return said["result"]

    def look(self, width: int = 1300, *, dark: bool = False) -> None:
        """Have a window of a width, on a screen that is light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, page: Path, width: int = 1300, *, dark: bool = False, hash: str = "") -> None:
        """Open a page at a width, and wait until it is there."""
        self.look(width, dark=dark)
        self.call("Page.navigate", url="about:blank")
        self.console: list[dict[str, Any]] = []
        self.visit(page.resolve().as_uri() + hash)

    def visit(self, url: str) -> None:
        """Go to an address, and wait until its page is there."""
        self.call("Page.navigate", url=url)
        self.until("location.protocol !== 'about:'")

    def until(self, expression: str) -> None:
        """Wait until a page is there of which an expression holds."""
        while not self.value(f"document.readyState === 'complete' && ({expression})"):
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """Evaluate an expression in the page, and wait for what it promises."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, path: Path, width: int, height: int | None = None) -> None:
        """Write what the page looks like, all of it or its first `height` pixels."""
        tall = height or self.value("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": tall, "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def printed(self) -> int:
        """Return how many sheets of paper the page takes."""
        pdf = self.call("Page.printToPDF", preferCSSPageSize=True)["data"]
        return len(re.findall(rb"/Type /Page\b", base64.b64decode(pdf)))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            block = os.read(self.heard, 1 << 20)
            assert block, "the browser ended"
            self.buffer += block
        message, _, self.buffer = self.buffer.partition(b"\0")
        said: dict[str, Any] = json.loads(message)
        if said.get("method") in LOUD:
            self.console.append(said["params"])
        return said


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """Yield a tab of a Chromium with a profile of its own, and end it."""
    assert CHROMIUM
    commands, ours = os.pipe()
    heard, theirs = os.pipe()

    def handles() -> None:  # the protocol's pipe is 3 to read from and 4 to write to
        os.dup2(commands, 13), os.dup2(theirs, 14)
        os.dup2(13, 3), os.dup2(14, 4)

    words = [CHROMIUM, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(words, preexec_fn=handles, close_fds=False, **quiet)
    os.close(commands), os.close(theirs)
    try:
        yield Browser(ours, heard)
    finally:
        process.terminate()
        process.wait()
        os.close(ours), os.close(heard)
