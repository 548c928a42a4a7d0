"""What a worker may say: any message, broken anywhere; and what a driver may say to a worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from hypothesis import strategies as st

from harness.answers import keys
from harness.errors import CheckFailedError, UsageError
from harness.records.models import Logprob, ModelRef
from harness.workers.child import WorkerServer
from harness.workers.pool import LoadRequest, Pool
from harness.workers.protocol import ERROR_TYPES, PROTOCOL, Worker
from tests.fuzz.breaking import draw_json_edits, draw_text_edits, dump_json
from tests.fuzz.driving import fuzz

OPENING = LoadRequest("fake", [ModelRef("one", "x")], "suite.toml", ["harness.testing"])
ABOUT = {"protocol": PROTOCOL, "harness": keys.library_versions()["harness"], "versions": {"torch": "2"}}
ERROR = {"error": {"kind": "UsageError", "messages": ["row 3 is odd"], "errno": 5, "trace": "x"}}
SAID: dict[str, Any] = {
    "open": {"about": ABOUT, "identity": ["a"]},
    "load": {"digests": ["d"], "notes": [["slow"]]},
    "generate": {"rows": [[0, "one"], [1, "two"]], "notes": [["slow"]]},
    "logprobs": {"rows": [[0, [-1.0, 1, 4, True]], [1, [-2.0, 1, 4, False]]], "notes": [[]]},
}
ASK = {
    "do": "ask",
    "method": "generate",
    "number": 0,
    "requests": ["a"],
    "options": {"max_new_tokens": 3, "stop": ["x"]},
}


class Says:
    """Workers that say one thing wrong, three times at most."""

    elsewhere, said, beats = False, "fake:1", True

    def __init__(self, where: str, text: str) -> None:
        self.where, self.text, self.name = where, text, "worker"

    def start(self) -> list[Worker]:
        return [self]

    def restart(self) -> Worker | None:
        return Says(self.where, self.text)

    def send(self, message: str, hear: Callable[[str], None]) -> Future[str]:
        asked = json.loads(message)
        kind = asked["method"] if asked["do"] == "ask" else asked["do"]
        told: Future[str] = Future()
        if kind == self.where:
            hear(self.text)
        told.set_result(self.text if kind == self.where else json.dumps(SAID[kind]))
        return told

    def close(self, why: str = "") -> None:
        """Do nothing: it is no process."""


def draw_broken_message(where: str) -> st.SearchStrategy[tuple[str, str]]:
    bodies = st.one_of(
        draw_json_edits(SAID[where]).map(dump_json),
        draw_json_edits(ERROR).map(dump_json),
        draw_text_edits(json.dumps(SAID[where])).map(lambda data: data.decode("utf-8", "replace")),
    )
    return st.tuples(st.just(where), bodies)


@fuzz(st.sampled_from(list(SAID)).flatmap(draw_broken_message))
def test_a_workers_word_is_taken_or_refused(reply: tuple[str, str]) -> None:
    """Answers are what they must be, or one of a few errors is raised; nothing hangs."""
    pool = Pool(Says(*reply), OPENING, lambda _: None)
    try:
        with pool.load_models() as [subject]:
            assert all(isinstance(x, str) for x in subject.generate(["a", "b"], max_new_tokens=2))
            assert all(isinstance(x, Logprob) for x in subject.logprobs([("a", " b"), ("a", " c")]))
            assert all(isinstance(x, str) for x in subject.notes)  # type: ignore[attr-defined]
    except (UsageError, CheckFailedError, RuntimeError, *ERROR_TYPES.values()) as error:
        assert not isinstance(error, (TypeError, KeyError, AttributeError)) or hasattr(error, "__notes__"), error  # noqa: PT017


@fuzz(
    st.one_of(
        draw_json_edits(json.loads(OPENING.message())).map(dump_json),
        draw_json_edits(ASK).map(dump_json),
        draw_text_edits(json.dumps(ASK)).map(lambda data: data.decode("utf-8", "replace")),
    )
)
def test_a_worker_replies_to_anything(message: str) -> None:
    """Whatever a driver says, the reply is a message."""
    assert all(isinstance(json.loads(reply), dict) for reply in WorkerServer().replies(message))
