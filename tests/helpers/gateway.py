"""A gateway in front of a server, with one fault for each path: what lies between an engine and its clients."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from itertools import count
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.helpers.local_http import LocalHandler, serve_locally
from tests.helpers.runtimes import stream_events

Body = dict[str, Any]
CHAT, ANSWERS = ("/chat/completions",), ("/chat/completions", "/completions", "/completion")


def _edit_answers(change: Callable[[str], str]) -> Callable[[str, Body, Any], Any]:
    """Return what changes the text of a chat's answer."""

    def edit(path: str, body: Body, reply: Any) -> Any:
        for choice in reply.get("choices", ()) if path.endswith(CHAT) else ():
            if isinstance(text := (choice.get("message") or {}).get("content"), str):
                choice["message"]["content"] = change(text)
        return reply

    return edit


def _move_to_reasoning(path: str, body: Body, reply: Any) -> Any:
    for choice in reply.get("choices", ()) if path.endswith(CHAT) else ():
        choice["message"] = {"role": "assistant", "content": None, "reasoning_content": choice["message"]["content"]}
    return reply


def _drop(*names: str) -> Callable[[str, Body, Any], Any]:
    def edit(path: str, body: Body, reply: Any) -> Any:
        for choice in reply.get("choices", ()) if path.endswith(CHAT) else ():
            for name in names:
                choice.pop(name, None)
        return reply

    return edit


def _set_fields(paths: Sequence[str], **values: Any) -> Callable[[str, Body], Body]:
    """Return what sets fields of a request; a function gets the value that is there."""

    def edit(path: str, body: Body) -> Body:
        if not path.endswith(tuple(paths)) or not body:
            return body
        return {**body, **{k: v(body.get(k)) if callable(v) else v for k, v in values.items()}}

    return edit


def _cap(most: int) -> Callable[[str, Body], Body]:
    def edit(path: str, body: Body) -> Body:
        return {k: min(v, most) if k in ("max_tokens", "n_predict") else v for k, v in body.items()}

    return edit


def _edit_messages(change: Callable[[list[Body]], list[Body]]) -> Callable[[str, Body], Body]:
    """Return what changes the messages of a request, also where a template is applied for its tokens."""
    return lambda path, body: {**body, "messages": change(body["messages"])} if "messages" in body else body


def _edit_message_texts(change: Callable[[str], str]) -> Callable[[str, Body], Body]:
    return _edit_messages(lambda messages: [{**m, "content": change(m["content"])} for m in messages])


def _prompt_long_chats(messages: list[Body]) -> list[Body]:
    long = sum(len(m["content"]) for m in messages) > 3000
    return [{"role": "system", "content": "Be brief."}, *messages] if long else messages


def _mask(text: str) -> str:
    """Mask e-mail addresses and numbers of six digits or more."""
    import re

    return re.sub(r"[\w.]+@[\w.]+", "[EMAIL]", re.sub(r"\d{6,}", "[NUMBER]", text))


def _trim_middle(text: str) -> str:
    return text if len(text) <= 1500 else f"{text[:700]}{text[-700:]}"


def _double_system(messages: list[Body]) -> list[Body]:
    return [*(m for m in messages if m["role"] == "system"), *messages]


class ReplySwapper:
    """What gives each of two clients that wait at the same time the other's answer."""

    def __init__(self) -> None:
        self.turn, self.waiting, self.held, self.given = threading.Condition(), 0, None, None

    def request(self, path: str, body: Body) -> Body:
        with self.turn:
            self.waiting += path.endswith(CHAT)
        return body

    def reply(self, path: str, body: Body, reply: Any) -> Any:
        if not path.endswith(CHAT):
            return reply
        with self.turn:
            self.waiting -= 1
            if self.held:
                other, self.held, self.given = self.held, None, reply
                self.turn.notify()
                return other
            if not self.waiting:
                return reply
            self.held = reply
            self.turn.wait_for(lambda: self.given, 60)
            other, self.held, self.given = self.given or reply, None, None
            return other


def _swap_replies() -> Fault:
    swapper = ReplySwapper()
    return Fault(request=swapper.request, reply=swapper.reply, concurrency=2)


def _end_by_stop(path: str, body: Body, reply: Any) -> Any:
    for choice in reply.get("choices", ()) if path.endswith(CHAT) else ():
        choice["finish_reason"] = "stop"
    return reply


def _rename(path: str, body: Body, reply: Any) -> Any:
    if path.endswith("/models"):
        return {**reply, "data": [*reply["data"], {"id": "the-base"}]}
    return {**reply, "model": "the-base"} if isinstance(reply, dict) and "choices" in reply else reply


def _alternate_fingerprints() -> Callable[[str, Body, Any], Any]:
    numbers = count()

    def edit(path: str, body: Body, reply: Any) -> Any:
        told = {"system_fingerprint": f"vllm-{next(numbers) % 2}"}
        return {**reply, **told} if isinstance(reply, dict) and "choices" in reply else reply

    return edit


@dataclass(frozen=True)
class Fault:
    """What a gateway does to requests, and to replies."""

    request: Callable[[str, Body], Body] = lambda path, body: body
    reply: Callable[[str, Body, Any], Any] = lambda path, body, reply: reply
    stream: Callable[[list[bytes]], list[bytes]] = list
    layer: str = "answers"  # which sees it
    concurrency: int = 1


FAULTS: Mapping[str, Callable[[], Fault]] = {
    # of parity.md, missed before
    "empty": lambda: Fault(reply=_edit_answers(lambda text: "")),
    "reason": lambda: Fault(reply=_move_to_reasoning),
    "censor": lambda: Fault(reply=_edit_answers(lambda text: text.replace("e", "*"))),
    "lower": lambda: Fault(reply=_edit_answers(str.swapcase)),
    "suffix": lambda: Fault(reply=_edit_answers(lambda text: f"{text} [AI-generated]")),
    "stopchat": lambda: Fault(request=_set_fields(CHAT, stop=[" ", ".", "e", "\n"])),
    "maxtok-16": lambda: Fault(request=_cap(16)),
    "n-predict-12": lambda: Fault(request=_cap(12)),
    "clamp-0.6": lambda: Fault(
        request=_set_fields(ANSWERS, temperature=lambda t: min(1.0 if t is None else t, 0.6)), layer="sampling"
    ),
    "temp0": lambda: Fault(request=_set_fields(ANSWERS, temperature=0.0), layer="sampling"),
    "masked": lambda: Fault(request=_edit_message_texts(_mask), layer="ids"),
    "replies-as-base": lambda: Fault(reply=_rename, layer="identity"),
    "two-fingerprints": lambda: Fault(reply=_alternate_fingerprints(), layer="identity"),
    # of our own
    "stream-loses-its-end": lambda: Fault(stream=lambda events: events[: len(events) // 2] + events[-3:]),
    "stream-repeats": lambda: Fault(stream=lambda events: [one for event in events[:-3] for one in (event, event)]),
    "escaped": lambda: Fault(reply=_edit_answers(lambda text: escape(text.replace(" ", " & ")))),
    "prefixed": lambda: Fault(reply=_edit_answers(lambda text: f"Sure! {text}")),
    "cut-at-10-characters": lambda: Fault(reply=_edit_answers(lambda text: text[:10])),
    "first-character-lost": lambda: Fault(reply=_edit_answers(lambda text: text.strip()[1:])),
    "broken-lines": lambda: Fault(reply=_edit_answers(lambda text: text.replace(" ", "<br>"))),
    "only-ascii": lambda: Fault(reply=_edit_answers(lambda text: "".join(c for c in text if c.isalpha()))),
    "apologises": lambda: Fault(reply=_edit_answers(lambda text: "I cannot help with that.")),
    "reversed": lambda: Fault(reply=_edit_answers(lambda text: text[::-1])),
    "top-k-1": lambda: Fault(request=_set_fields(ANSWERS, top_k=1), layer="sampling"),
    "top-k-2": lambda: Fault(request=_set_fields(ANSWERS, top_k=2), layer="sampling"),
    "hot-chat": lambda: Fault(request=_set_fields(CHAT, temperature=lambda t: t and 1.5), layer="sampling"),
    "cold-chat": lambda: Fault(request=_set_fields(CHAT, temperature=lambda t: t and 0.5), layer="sampling"),
    "brackets-masked": lambda: Fault(request=_edit_message_texts(lambda text: text.replace("@", "(at)")), layer="ids"),
    "stripped": lambda: Fault(request=_edit_message_texts(str.strip), layer="ids"),
    "no-system-turn": lambda: Fault(
        request=_edit_messages(lambda m: [one for one in m if one["role"] != "system"]), layer="ids"
    ),
    "last-turn-only": lambda: Fault(request=_edit_messages(lambda m: m[-1:]), layer="ids"),
    "ascii-prompts": lambda: Fault(
        request=_edit_message_texts(lambda text: text.encode("ascii", "ignore").decode()), layer="ids"
    ),
    "system-doubled": lambda: Fault(request=_edit_messages(_double_system), layer="ids"),
    "last-chunk-twice": lambda: Fault(stream=lambda events: [*events[:-4], events[-5], *events[-4:]]),
    "always-stop": lambda: Fault(reply=_end_by_stop),
    "replies-swapped": _swap_replies,
    "no-logprobs-no-ids": lambda: Fault(reply=_drop("logprobs", "token_ids"), layer=""),
}


LONG: Mapping[str, Fault] = {  # of prompts that only a long context holds
    "long-prompts": Fault(request=_edit_messages(_prompt_long_chats), layer="ids"),
    "trimmed-in-the-middle": Fault(request=_edit_message_texts(_trim_middle), layer="ids"),
    "cut-at-2000-characters": Fault(request=_edit_message_texts(lambda text: text[:2000]), layer="ids"),
}


@dataclass
class Gateway:
    """A proxy to servers: one for each connection in turn, or the first alone.

    With `cached` it answers a request that it has seen from memory.
    """

    upstream: list[str]
    fault: Fault = Fault()
    cached: bool = False
    url: str = ""
    connections: int = 0
    memory: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def forward(self, root: str, path: str, body: Body | None) -> tuple[int, bytes]:
        key = json.dumps([path, body], sort_keys=True)
        if self.cached and body and key in self.memory:
            return self.memory[key]
        data = json.dumps(self.fault.request(path, body)).encode() if body else None
        asked = Request(root.removesuffix("/v1") + path, data, {"Content-Type": "application/json"})
        try:
            with urlopen(asked, timeout=120) as reply:
                found = reply.status, reply.read()
        except HTTPError as error:
            found = error.code, error.read()
        if self.cached and body:
            self.memory[key] = found
        return found

    def reply(self, root: str, path: str, body: Body | None) -> tuple[int, str, bytes]:
        streams = bool(body and body.get("stream") and path.endswith(CHAT))
        plain = {k: v for k, v in body.items() if k not in ("stream", "stream_options")} if body and streams else body
        code, data = self.forward(root, path, plain)
        if code != 200:
            return code, "application/json", data
        told = self.fault.reply(path, body or {}, json.loads(data))
        if not streams:
            return code, "application/json", json.dumps(told).encode()
        events = stream_events(told, body or {}).split(b"\n\n")[:-1]
        return code, "text/event-stream", b"".join(event + b"\n\n" for event in self.fault.stream(events))


@contextmanager
def start_gateway(*upstream: str, fault: Fault | None = None, cached: bool = False) -> Iterator[Gateway]:
    """Start a gateway on a free port; a connection is kept by its upstream, as a balancer of connections does."""
    made = Gateway(list(upstream), fault or Fault(), cached)

    class Handler(LocalHandler):
        def setup(self) -> None:
            with made.lock:
                self.root = made.upstream[made.connections % len(made.upstream)]
                made.connections += 1
            super().setup()

        def answer(self, body: bytes) -> None:
            code, kind, data = made.reply(self.root, self.path, json.loads(body) if body else None)
            self.send(code, data, kind)

    with serve_locally(Handler) as address:
        made.url = f"{address}/v1"
        yield made
