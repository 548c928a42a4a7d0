"""The log-probs of a prompt's tokens, in the two shapes that servers send them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness import CheckFailed, Logprob
from harness_api.answers import choice
from harness_api.server import Trouble

Way = Literal["prompt_logprobs", "echo"]
ROUNDING = 1e-4  # nats above 0 that an engine's arithmetic may give a token which is certain
WAYS: tuple[Way, ...] = ("prompt_logprobs", "echo")
BROKEN = "\N{REPLACEMENT CHARACTER}"  # a token that is part of a character, decoded by itself


@dataclass(frozen=True)
class Position:
    """A token of the prompt: its text if told, its log-probability (the first has none), if it is the likeliest."""

    text: str | None
    logprob: float | None
    greedy: bool


def request(way: Way) -> dict[str, Any]:
    """Return the fields that ask for the log-probs of a prompt, with the one generated token that servers insist on."""
    asked: dict[str, Any] = {"prompt_logprobs": 0} if way == "prompt_logprobs" else {"echo": True, "logprobs": 1}
    return {"temperature": 0, "max_tokens": 1, **asked}


def positions(reply: Any, way: Way) -> list[Position]:
    """Read the positions of a reply; after an echo the generated token is among them. Raises Trouble."""
    chosen = choice(reply)
    try:
        return _prompt(chosen["prompt_logprobs"]) if way == "prompt_logprobs" else _echo(chosen["logprobs"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Trouble(f'sent log-probs in a shape that is not the one of "{way}"') from None


def ids(reply: Any) -> list[int]:
    """Read the tokens of /tokenize."""
    found = reply.get("tokens") if isinstance(reply, dict) else None
    if not isinstance(found, list) or not all(isinstance(i, int) for i in found):
        raise Trouble("answered /tokenize without tokens", passing=True)
    return found


def added(scored: Sequence[Position], nbytes: int) -> Logprob:
    """Add up positions. Raises CheckFailed where one has no log-probability: none, not finite, or above 0."""
    logprobs = [math.nan if p.logprob is None else p.logprob for p in scored]
    if odd := [v for v in logprobs if not (math.isfinite(v) and v <= ROUNDING)]:
        what = f"the server sent what is no log-probability, which is finite and at most 0: {odd[:8]}"
        raise CheckFailed(f"log-probs: {what}; the served model may be broken")
    return Logprob(math.fsum(logprobs), len(scored), nbytes, all(p.greedy for p in scored))


def after(found: Sequence[Position], continuation: str) -> Sequence[Position] | None:
    """Return the last positions, those that spell the continuation exactly; None where no token begins with it.

    A token that is a part of a character hides where the character begins, so none may stand at the boundary.
    """
    spelt = ""
    for start in range(len(found) - 1, -1, -1):
        spelt = (found[start].text or "") + spelt
        if len(spelt) >= len(continuation):
            beside = [p.text for p in found[max(0, start - 1) : start + 1] if p.text is not None]
            whole = all(text and BROKEN not in text for text in beside)
            return found[start:] if spelt == continuation and whole else None
    return None


def spelling(found: Sequence[Position], text: str) -> Sequence[Position] | None:
    """Return the positions of an echo that spell the text, without the generated token; None where they do not.

    In front of them a server may have put its BOS.
    """
    for first in (0, 1):
        spelt = ""
        for end in range(first, len(found)):
            spelt += found[end].text or ""
            if spelt == text:
                return found[: end + 1]
            if len(spelt) > len(text):
                break
    return None


def _prompt(entries: Sequence[Mapping[str, Mapping[str, Any]] | None]) -> list[Position]:
    """Read vLLM's `prompt_logprobs = 0`: for every token one entry, its own; the first has none."""
    found = [Position(None, None, False)]
    if entries[0] is not None:
        raise ValueError("the first token is not predicted")
    for entry in entries[1:]:
        (own,) = list(entry.values()) if entry else []
        found.append(Position(str(own.get("decoded_token")), float(own["logprob"]), int(own["rank"]) == 1))
    return found


def _echo(logprobs: Mapping[str, Any]) -> list[Position]:
    """Read the legacy shape: parallel lists, and per place the likeliest tokens with their log-probs."""
    found = []
    lists = zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
    for number, (text, value, top) in enumerate(lists):
        if value is None:
            if number:
                raise ValueError("only the first token is not predicted")
            found.append(Position(str(text), None, False))
        else:
            best = max(float(v) for v in top.values())
            found.append(Position(str(text), float(value), float(value) >= best))
    return found
