"""From a server's reply to a text, or the reason why there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness import Ended, Said
from harness_api.server import Trouble

STRINGS = ("stop_reason", "matched_stop")  # where vLLM and SGLang tell the stop string
ENDED: dict[Any, Ended] = {
    None: "", "stop": "eos", "length": "length", "tool_calls": "tool", "function_call": "tool",
    "eos_token": "eos", "stop_sequence": "stop",  # text-generation-inference's
}  # fmt: skip


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


def text_of(reply: Any, stop: Sequence[str] = ()) -> Said:
    """Return the answer in a reply, before the first stop string, and how it ended; calls of tools as Hermes has them.

    An answer that was withheld, cut by other things than its length, or used up by hidden reasoning is no empty
    answer. Raises Trouble.
    """
    chosen = choice(reply)
    message = _table(chosen.get("message"))
    text, ended = message.get("content", chosen.get("text")), chosen.get("finish_reason")
    called = _calls(message)
    text = text or "" if called and (text is None or isinstance(text, str)) else text
    if ended == "content_filter":
        raise Trouble("its content filter withheld the answer", hint="take the row out, or ask another server")
    if not isinstance(text, str):
        if _reasoned(reply, message):
            raise Trouble(_used_up(ended), hint=MORE)
        if message.get("refusal"):
            raise Trouble("the model gave a refusal in place of an answer", hint="take the row out")
        raise Trouble(f"answered with {type(text).__name__} as text (finish_reason {ended!r}), want a string")
    if not isinstance(ended, (str, type(None))) or ended not in ENDED:
        raise Trouble(f'ended an answer by "{ended}", want "stop" or "length"')
    if not text and not called and ended == "length" and _reasoned(reply, message):
        raise Trouble(_used_up(ended), hint=MORE)
    if not text and not called and ENDED[ended] == "tool":
        raise Trouble(f"answered with no text and no call (finish_reason {ended!r})")
    said = before(text, stop)
    how = "tool" if called and ended == "stop" else ENDED[ended]
    if said != text or (ended == "stop" and any(isinstance(chosen.get(key), str) for key in STRINGS)):
        how = "stop"
    tokens, thought = _tokens(reply)
    return Said(said + called, how, tokens, thought or 0)


def _calls(message: Mapping[str, Any]) -> str:
    """Return the calls of tools that a server's parser took out of an answer, as `tool_calls` reads them."""
    listed = message.get("tool_calls")
    calls = [call.get("function") for call in listed if isinstance(call, dict)] if isinstance(listed, list) else []
    calls = calls or [message.get("function_call")]  # as it was before there were several
    return "".join(f"<tool_call>\n{_call(call)}\n</tool_call>" for call in calls if isinstance(call, dict))


def _call(call: Mapping[str, Any]) -> str:
    """Return a call as JSON; arguments that are none stay as the model wrote them, and cannot be read."""
    given = call.get("arguments")
    arguments = given if isinstance(given, str) and given.strip() else json.dumps(given or {}, ensure_ascii=False)
    return f'{{"name": {json.dumps(call.get("name"), ensure_ascii=False)}, "arguments": {arguments}}}'


MORE = 'allow more with max_new_tokens, or less of it through body, such as { reasoning_effort = "low" }'


def before(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first of the stop strings."""
    found = [at for s in stop if s and (at := text.find(s)) >= 0]
    return text[: min(found)] if found else text


def _reasoned(reply: Mapping[str, Any], message: Mapping[str, Any]) -> bool:
    """Return whether a model thought in tokens that are no part of its answer."""
    return bool(_tokens(reply)[1] or message.get("reasoning_content") or message.get("reasoning"))


def _tokens(reply: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return how many tokens were generated, and how many of these for a thought; None where the server tells none."""
    usage = _table(reply.get("usage"))
    told = usage.get("completion_tokens"), _table(usage.get("completion_tokens_details")).get("reasoning_tokens")
    tokens, thought = (n if type(n) is int and n >= 0 else None for n in told)
    return tokens, thought


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _used_up(ended: Any) -> str:
    return f"answered nothing but hidden reasoning (finish_reason {ended!r})"
