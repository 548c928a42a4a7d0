"""The worker's side: answer messages with a loader's models, in a process of its own."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from harness.answers import keys
from harness.errors import PLUGIN_ERRORS, UsageError
from harness.plugins import load_plugins
from harness.records.models import ModelRef, stream_answers
from harness.workers import protocol
from harness.workers.chunks import forget_all
from harness.workers.loading import load_each

SEND_INTERVAL_S = 1.0  # seconds between two messages with rows
HEARTBEAT_S = 0.5  # seconds between two signs of life


class WorkerServer:
    """A worker's message handler: it opens, loads and queries models."""

    def __init__(self) -> None:
        self._refs: list[ModelRef] = []
        self._loader: Any = None
        self._loaded = ExitStack()  # until the process ends
        self._subjects: Sequence[Any] = ()

    def replies(self, text: str) -> Iterator[str]:
        """Yield heartbeats with rows, then the reply to a message.

        An error becomes a reply, too.
        """
        try:
            message = protocol.unpack_message(text)
            if message.get("do") == "ask":
                yield from self.ask(message)
                return
            do = {"open": self.open, "load": self.load}.get(str(message.get("do")))
            if do is None:
                raise ValueError(f"unknown message {message.get('do')!r}")
            yield protocol.pack_message(do(message))
        except PLUGIN_ERRORS as error:
            yield protocol.pack_message({"error": protocol.error_to_json(error)})

    def open(self, message: dict[str, Any]) -> dict[str, Any]:
        """Find the loader and identify the models without loading any.

        The reply also has the versions of this environment. If the protocol or the harness differs from the driver's,
        it has only these, for the driver to refuse.
        """
        versions = keys.library_versions()
        about = {"protocol": protocol.PROTOCOL, "harness": versions[keys.CORE], "versions": versions}
        if (message["protocol"], message["harness"]) != (protocol.PROTOCOL, versions[keys.CORE]):
            return {"about": about, "identity": []}  # refused by the driver, which can name both
        suite = Path(message["suite"]) if message["suite"] else None
        loader = load_plugins(suite, message["plugins"], elsewhere=True).find("loader", message["loader"])
        self._loader, identify = loader.function, loader.capabilities.identity
        self._refs = [protocol.ref_from_json(told) for told in message["refs"]]
        return {"about": about, "identity": [identify(ref, **ref.options) if identify else None for ref in self._refs]}

    def load(self, _: dict[str, Any]) -> dict[str, Any]:
        """Load the models into memory."""
        if self._loader is None:
            raise ValueError("no models were loaded")
        self._subjects = self._loaded.enter_context(load_each(self._loader, self._refs))
        return {"digests": [subject.digest for subject in self._subjects], "notes": self.notes()}

    def ask(self, message: dict[str, Any]) -> Iterator[str]:
        """Run a chunk of requests on one model.

        Yields heartbeats with rows as they come, and a last message that adds the models' notes. Raises ValueError for
        an unknown method, and UsageError if the model cannot compare distributions.
        """
        method, requests = message["method"], message["requests"]
        if method not in protocol.METHODS:
            raise ValueError(f"unknown method {method!r}")
        options = protocol.options_from_json(message["options"])
        subject = self._subjects[message["number"]]
        if method == "fact":
            answers: Iterator[tuple[int, Any]] = enumerate([getattr(subject, name) for name in requests])
        elif method == "render":
            answers = enumerate([subject.render(messages) for messages in requests])
        else:
            if method == "token_kl":
                options["against"] = self._subjects[options["against"]]
                if not hasattr(subject, method):
                    what = 'does not return token distributions; use a model that does, such as one with use = "hf"'
                    raise UsageError(f'"{subject.name}" {what}')
            forget_all(subject, options.get("against"))
            pairs = method in ("logprobs", "count_tokens")
            answers = stream_answers(subject, method, [tuple(r) for r in requests] if pairs else requests, options)
        rows, told = list[Any](), time.monotonic()
        for number, answer in answers:
            rows.append(
                (number, protocol.ANSWER_WRITERS[method](answer) if method in protocol.ANSWER_WRITERS else answer)
            )
            if time.monotonic() - told > SEND_INTERVAL_S:
                yield protocol.make_heartbeat(rows=rows)
                rows, told = [], time.monotonic()
        yield protocol.pack_message({"rows": rows, "notes": self.notes()})

    def notes(self) -> list[list[str]]:
        """Return and clear the notes of each model."""
        found = []
        for subject in self._subjects:
            said = getattr(subject, "notes", [])
            found.append(list(said))
            said.clear()
        return found


def main() -> None:
    """Answer messages from stdin on stdout until stdin ends.

    The end of stdin kills this process at once, even during a request. All other output goes to stderr.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver's to tell
    heard, said = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    messages: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_receive_messages, args=(heard, messages), daemon=True).start()
    desk, mouth, busy = WorkerServer(), threading.Lock(), threading.Event()
    threading.Thread(target=_send_heartbeats, args=(said, mouth, busy), daemon=True).start()
    while True:
        message = messages.get()
        busy.set()
        for reply in desk.replies(message):
            _send_message(said, mouth, reply)
        busy.clear()


def _send_message(said: IO[bytes], mouth: threading.Lock, message: str) -> None:
    try:
        with mouth:
            protocol.write_message(said, message)
    except OSError:  # nobody reads
        _kill_process_group_and_exit()


def _send_heartbeats(said: IO[bytes], mouth: threading.Lock, busy: threading.Event) -> None:
    """Tell that this process lives, however long the model takes: it computes without the interpreter's lock."""
    while True:
        time.sleep(HEARTBEAT_S)
        busy.wait()
        _send_message(said, mouth, protocol.make_heartbeat())


def _receive_messages(heard: IO[bytes], messages: queue.SimpleQueue[str]) -> None:
    """Pass messages on; when there are no more, end."""
    try:
        while (message := protocol.read_message(heard)) is not None:
            messages.put(message)
    except ValueError as error:
        print(error, file=sys.stderr, flush=True)
    _kill_process_group_and_exit()


def _kill_process_group_and_exit() -> None:
    """End at once, with all that was started here: the driver is gone, or wants no more."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(0)
