"""A judge's reply -> its verdict, by schema: what does not fit is no verdict, and nothing is searched for in text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.internals import read_json, shorten_to_line

SWAPPED_VERDICTS = {"A": "B", "B": "A", "tie": "tie"}


class PairVerdict(NamedTuple):
    """ "A", "B" or "tie", and the reason."""

    verdict: str
    reason: str


class NoVerdictError(ValueError):
    """A reply that holds no verdict; says why in one line."""


@dataclass(frozen=True)
class Reply:
    """A judge's reply: JSON text, reporting model and token counts.

    `problem` gives the reason for a reply without a verdict: a refusal or a truncation.
    """

    text: str
    model: str
    tokens_in: int = 0
    tokens_out: int = 0
    problem: str = ""


@dataclass(frozen=True)
class FailedQuestion:
    """A question without a reply, and the reason. `asked` is False if the budget was used up."""

    why: str
    asked: bool = True


def require_reply(outcome: object) -> Reply:
    """Return the reply to a question. Raises NoVerdictError with the reason if it failed."""
    if isinstance(outcome, Reply):
        return outcome
    raise NoVerdictError(str(getattr(outcome, "why", "there is no reply")))


def parse_pair_verdict(reply: Reply) -> PairVerdict:
    """Parse a pair's verdict ("A", "B" or "tie") and its reason. Raises NoVerdictError."""
    found = _parse_reply_object(reply)
    if not isinstance(verdict := found.get("verdict"), str) or verdict not in SWAPPED_VERDICTS:
        raise NoVerdictError(f"the verdict is {_quote_shortened_json(verdict)} instead of A, B or tie")
    return PairVerdict(str(verdict), str(found.get("reason", "")))


def parse_criteria_verdict(reply: Reply, criteria: Iterable[str]) -> dict[str, tuple[bool, str]]:
    """Return whether each criterion is met, and the reason; raises NoVerdictError."""
    found, verdicts = _parse_reply_object(reply), {}
    for name in criteria:
        one = found.get(name)
        if not isinstance(one, Mapping) or not isinstance(met := one.get("met"), bool):
            raise NoVerdictError(
                f'criterion "{name}" is {_quote_shortened_json(one)} instead of a reason and whether it is met'
            )
        verdicts[name] = met, str(one.get("reason", ""))
    return verdicts


def _parse_reply_object(reply: Reply) -> Mapping[str, Any]:
    if reply.problem:
        raise NoVerdictError(reply.problem)
    try:
        found = read_json(reply.text)  # strict: a key that stands twice has no value
    except (ValueError, RecursionError):
        raise NoVerdictError(f"replied {_quote_shortened_json(reply.text)}, which is not JSON") from None
    if not isinstance(found, dict):
        raise NoVerdictError(f"replied {_quote_shortened_json(found)}, which is not an object")
    return found


def _quote_shortened_json(value: Any) -> str:
    return shorten_to_line(json.dumps(value, ensure_ascii=False), 80)
