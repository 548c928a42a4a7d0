"""evidence/fingerprint.json: what an export says next to texts that a seed makes, so that a server can be compared
with it where the weights are not.

A probe is a chat of one message, or the first words of a text. Of each the likeliest token and the five greatest
log-probabilities are kept; the first probes are those where export and base differ most.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from harness.artifacts.strict_json import read_json

FORMAT_VERSION = 1
TOP_LOGPROBS = 5  # log-probabilities of a probe
CHATS, CHAT_WORDS = 80, 10
TEXTS, TEXT_WORDS = 60, 32
COMMON = """
the of and to in is that it was for on are as with his they at be this from have or by one had not but what all were
when we there can an your which their said if do will each about how up out them then she many some so these would
other into has more her two like him see time could no make than first been its who now people my made over did down
only way find use may water long little very after words called just where most know get through back much before go
good new write our used me man too any day same right look think also around another came come work three word must
because does part even place well such here take why things help put years different away again off went old number 17
42 1999 2,500 Paris London Berlin July Monday question answer invoice order refund contract ticket password account
error Python def return import list patient dose court law Größe 東京 naïve
"""
Probe = tuple[int | float, ...]  # its number, of a text how many words, the likeliest token, log-probabilities


@dataclass(frozen=True)
class Fingerprint:
    """The content of fingerprint.json.

    `noise` maps each arithmetic to the error it causes in a log-probability, in nats.
    """

    seed: int
    chat: list[Probe]
    text: list[Probe]
    vocabulary: str
    template: str | None
    context: int
    stored: str
    dtype: str
    noise: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT_VERSION, **asdict(self)}


def make_chats(seed: int) -> list[str]:
    """Return the messages of the chats."""
    return _make_random_texts(random.Random(f"chat {seed}"), CHATS, CHAT_WORDS)  # noqa: S311 -- no secret


def make_texts(seed: int) -> list[str]:
    """Return the texts from which probes take their first words."""
    return _make_random_texts(random.Random(f"text {seed}"), TEXTS, TEXT_WORDS)  # noqa: S311 -- no secret


def first_words(text: str, words: int) -> str:
    """Return the first words of a text."""
    return " ".join(text.split(" ")[:words])


def read_fingerprint(data: bytes) -> Fingerprint:
    """Read a fingerprint; raises one of `strict_json.MALFORMED`."""
    told = read_json(data)
    if told.pop("format") != FORMAT_VERSION:
        raise ValueError("its format is another; export again")
    found = Fingerprint(**told)
    for kind, size in ((found.chat, 1), (found.text, 2)):
        for probe in kind:
            *numbers, _ = (int(n) for n in probe[: size + 1])
            if len([float(v) for v in probe[size + 1 :]]) != TOP_LOGPROBS or not 0 <= numbers[0] < max(CHATS, TEXTS):
                raise ValueError(f"a probe is {probe!s:.60}")
    {str(k): float(v) for k, v in found.noise.items()}, int(found.seed), int(found.context), str(found.stored)
    return found


def _make_random_texts(chance: random.Random, count: int, words: int) -> list[str]:
    known = COMMON.split()
    return [" ".join(chance.choice(known) for _ in range(words)) for _ in range(count)]
