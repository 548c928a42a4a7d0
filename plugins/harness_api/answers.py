"""From a server's reply to a text, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness_api.server import Trouble

ENDED = (None, "stop", "length", "eos_token", "stop_sequence")  # the last two are text-generation-inference's


def choice(reply: Any) -> Mapping[str, Any]:
    """Return the one choice of a reply."""
    error = reply.get("error") if isinstance(reply, dict) else None
    if error:  # some gateways send errors with status 200
        raise Trouble(f"answered with an error: {str(error)[:200]}", passing=True)
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Trouble("answered without choices, so this is no answer", passing=True)
    first: dict[str, Any] = choices[0]
    return first


def text_of(reply: Any, stop: Sequence[str] = ()) -> str:
    """Return the answer in a reply, before the first stop string.

    An answer that was withheld, cut by other things than its length, or used up by hidden reasoning is no empty
    answer. Raises Trouble.
    """
    chosen = choice(reply)
    message = chosen.get("message")
    message = message if isinstance(message, dict) else {}
    text, ended = message.get("content", chosen.get("text")), chosen.get("finish_reason")
    if ended == "content_filter":
        raise Trouble("its content filter withheld the answer", hint="take the row out, or ask another server")
    if not isinstance(text, str):
        if _reasoned(reply, message):
            raise Trouble(_used_up(ended), hint=MORE)
        if message.get("refusal"):
            raise Trouble("the model gave a refusal in place of an answer", hint="take the row out")
        raise Trouble(f"answered with {type(text).__name__} as text (finish_reason {ended!r}), want a string")
    if ended not in ENDED:
        raise Trouble(f'ended an answer by "{ended}", want "stop" or "length"')
    if not text and ended == "length" and _reasoned(reply, message):
        raise Trouble(_used_up(ended), hint=MORE)
    return before(text, stop)


MORE = 'allow more with max_new_tokens, or less of it through body, such as { reasoning_effort = "low" }'


def before(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first of the stop strings."""
    found = [at for s in stop if s and (at := text.find(s)) >= 0]
    return text[: min(found)] if found else text


def _reasoned(reply: Mapping[str, Any], message: Mapping[str, Any]) -> bool:
    """Return whether a model thought in tokens that are no part of its answer."""
    usage = reply.get("usage")
    details = usage.get("completion_tokens_details") if isinstance(usage, dict) else None
    counted = details.get("reasoning_tokens") if isinstance(details, dict) else None
    return bool(counted or message.get("reasoning_content") or message.get("reasoning"))


def _used_up(ended: Any) -> str:
    return f"answered nothing but hidden reasoning (finish_reason {ended!r})"
