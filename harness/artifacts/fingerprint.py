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

from harness.artifacts.folders import parse_record

FORMAT_VERSION = 1
MAX_NOISE_NATS = 0.25  # root mean square error of log-probabilities that an arithmetic may cause
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
    """Read a fingerprint; raises one of `json_text.MALFORMED`, also at a noise outside of the harness's range."""
    record = parse_record(data)
    if record.pop("format") != FORMAT_VERSION:
        raise ValueError("its format is another; export again")
    made = Fingerprint(**record)
    for probes, numbers in ((made.chat, 1), (made.text, 2)):  # which chat, or which text and how many of its words
        for probe in probes:
            *places, token = probe[: numbers + 1]
            values = probe[numbers + 1 :]
            counts = all(type(n) is int and 0 <= n < max(CHATS, TEXTS) for n in places) and type(token) is int
            if not counts or len(values) != TOP_LOGPROBS or not all(type(v) in (int, float) for v in values):
                raise ValueError(f"a probe is {probe!s:.60}")
    if type(made.seed) is not int or type(made.context) is not int or type(made.stored) is not str:
        raise TypeError("its seed, context or stored type is of another type")
    if error := find_noise_error(made.noise):
        raise ValueError(error)
    return made


def find_noise_error(noise: Mapping[str, Any]) -> str:
    """Return why the noise of an export is not taken, or an empty text.

    The bound of a comparison is made of it, and the export's producer wrote it.
    """
    for kind, nats in noise.items():
        if type(nats) not in (int, float) or not 0 < nats <= MAX_NOISE_NATS:
            return f"its noise of {kind} is {nats}; it must be above 0 and at most {MAX_NOISE_NATS} nats"
    return ""


def _make_random_texts(chance: random.Random, count: int, words: int) -> list[str]:
    known = COMMON.split()
    return [" ".join(chance.choice(known) for _ in range(words)) for _ in range(count)]
