"""A judge's reply -> its verdict, by schema: what does not fit is no verdict, and nothing is searched for in text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

TURNED = {"A": "B", "B": "A", "tie": "tie"}


class NoVerdict(ValueError):
    """A reply that holds no verdict; says why in one line."""


@dataclass(frozen=True)
class Reply:
    """What a judge gave back: text (JSON), the model that says it wrote it, and tokens.

    `problem` says why there is no verdict in it though it was answered: a refusal, or an end before its end.
    """

    text: str
    model: str
    tokens_in: int = 0
    tokens_out: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Failed:
    """A question without a reply, and why; `asked` is false where the budget was used up."""

    why: str
    asked: bool = True


def reply_of(outcome: object) -> Reply:
    """Return what a question came to, if that is a reply; raises NoVerdict, with why it failed."""
    if isinstance(outcome, Reply):
        return outcome
    raise NoVerdict(str(getattr(outcome, "why", "there is no reply")))


def pair(reply: Reply) -> tuple[str, str]:
    """Return the verdict ("A", "B" or "tie") and the reason; raises NoVerdict."""
    found = _read(reply)
    if (verdict := found.get("verdict")) not in TURNED:
        raise NoVerdict(f"the verdict is {_show(verdict)} instead of A, B or tie")
    return str(verdict), str(found.get("reason", ""))


def check(reply: Reply, criteria: Iterable[str]) -> dict[str, tuple[bool, str]]:
    """Return whether each criterion is met, and the reason; raises NoVerdict."""
    found, verdicts = _read(reply), {}
    for name in criteria:
        one = found.get(name)
        if not isinstance(one, Mapping) or not isinstance(met := one.get("met"), bool):
            raise NoVerdict(f'criterion "{name}" is {_show(one)} instead of a reason and whether it is met')
        verdicts[name] = met, str(one.get("reason", ""))
    return verdicts


def _read(reply: Reply) -> Mapping[str, Any]:
    if reply.problem:
        raise NoVerdict(reply.problem)
    try:
        found = json.loads(reply.text)
    except ValueError:
        raise NoVerdict(f"replied {_show(reply.text)}, which is not JSON") from None
    if not isinstance(found, dict):
        raise NoVerdict(f"replied {_show(found)}, which is not an object")
    return found


def _show(value: Any) -> str:
    text = " ".join(json.dumps(value, ensure_ascii=False).split())
    return text if len(text) <= 80 else text[:80] + "…"
