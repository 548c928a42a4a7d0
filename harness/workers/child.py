"""The worker's side: answer messages with a loader's models, in a process of its own."""

from __future__ import annotations

import gc
import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from harness import capabilities
from harness.answers import keys
from harness.errors import RAISES, UsageError
from harness.plugins import load_plugins
from harness.records.models import ModelRef, Subject
from harness.workers.loading import load_each
from harness.workers.pieces import fresh
from harness.workers.protocol import (
    METHODS,
    PROTOCOL,
    packed,
    read,
    read_options,
    read_ref,
    told_answers,
    told_error,
    unpacked,
    write,
)


class Desk:
    """What answers one message after the other: open models, load them, ask them."""

    def __init__(self) -> None:
        self._refs: list[ModelRef] = []
        self._loader: Any = None
        self._open: AbstractContextManager[list[Subject]] | None = None
        self._subjects: Sequence[Any] = ()

    def answer(self, text: str) -> str:
        """Return the reply to a message: what it asks for, or the error that it came to."""
        try:
            message = unpacked(text)
            do = {"open": self.open, "load": self.load, "ask": self.ask}.get(str(message.get("do")))
            if do is None:
                raise ValueError(f"a worker knows no message {message.get('do')!r}")
            return packed(do(message))
        except RAISES as error:
            return packed({"error": told_error(error)})

    def open(self, message: dict[str, Any]) -> dict[str, Any]:
        """Find the loader and name the models, without loading any; tell what this environment is."""
        versions = keys.versions()
        about = {"protocol": PROTOCOL, "harness": versions[keys.CORE], "versions": versions}
        if (message["protocol"], message["harness"]) != (PROTOCOL, versions[keys.CORE]):
            return {"about": about, "identity": []}  # refused by the driver, which can name both
        suite = Path(message["suite"]) if message["suite"] else None
        self._loader = load_plugins(suite, message["plugins"]).find("loader", message["loader"]).function
        self._refs = [read_ref(told) for told in message["refs"]]
        identify = capabilities.Loader.of(self._loader).identity
        identity = [identify(ref, **ref.options) if identify else None for ref in self._refs]
        return {"about": about, "identity": identity}

    def load(self, _: dict[str, Any]) -> dict[str, Any]:
        """Load the models into memory."""
        if self._loader is None:
            raise ValueError("no models were opened")
        self._open = load_each(self._loader, self._refs)
        self._subjects = self._open.__enter__()
        return {"digests": [subject.digest for subject in self._subjects], "notes": self.notes()}

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Ask one model a piece of requests."""
        method, requests = message["method"], message["requests"]
        if method not in METHODS:
            raise ValueError(f"a worker knows no method {method!r}")
        options = read_options(message["options"])
        subject = self._subjects[message["number"]]
        if method == "fact":
            answers: Sequence[Any] = [getattr(subject, name) for name in requests]
        elif method == "render":
            answers = [subject.render(messages) for messages in requests]
        else:
            if method == "token_kl":
                options["against"] = self._subjects[options["against"]]
                if not hasattr(subject, method):
                    what = 'does not give token distributions; use a model that does, such as those of "hf"'
                    raise UsageError(f'"{subject.name}" {what}')
            fresh(subject, options.get("against"))
            pairs = method in ("logprobs", "count_tokens")
            answers = getattr(subject, method)([tuple(r) for r in requests] if pairs else requests, **options)
        return {"answers": told_answers(method, answers), "notes": self.notes()}

    def notes(self) -> list[list[str]]:
        """Take what each model has to say about itself."""
        found = []
        for subject in self._subjects:
            said = getattr(subject, "notes", [])
            found.append(list(said))
            said.clear()
        return found

    def close(self) -> None:
        """Free the models."""
        self._subjects = ()
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None
        gc.collect()


def main() -> int:
    """Answer messages from stdin on stdout until stdin ends, which ends this process whatever it is doing.

    What else is printed goes to stderr.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver's to tell
    heard, said = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    messages: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(heard, messages), daemon=True).start()
    desk = Desk()
    while True:
        try:
            write(said, desk.answer(messages.get()))
        except OSError:  # nobody reads
            _end()


def _listen(heard: IO[bytes], messages: queue.SimpleQueue[str]) -> None:
    """Pass messages on; when there are no more, end."""
    try:
        while (message := read(heard)) is not None:
            messages.put(message)
    except ValueError as error:
        print(error, file=sys.stderr, flush=True)
    _end()


def _end() -> None:
    """End at once, with all that was started here: the driver is gone, or wants no more."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(0)
