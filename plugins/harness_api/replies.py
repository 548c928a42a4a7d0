"""Parsers of a server's replies.

They return a completion or the log-probs of a prompt's tokens, or raise an error with the reason why there is none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness import CheckFailedError, Completion, FinishReason, Logprob
from harness.internals import REPLACEMENT_CHARACTER, http_client

STRINGS = ("stop_reason", "matched_stop")  # where vLLM and SGLang tell the stop string
FINISH_REASONS: dict[Any, FinishReason] = {
    None: "", "stop": "eos", "length": "length", "tool_calls": "tool", "function_call": "tool",
    "eos_token": "eos", "stop_sequence": "stop",  # text-generation-inference's
}  # fmt: skip
MORE_TOKENS_ADVICE = 'raise max_new_tokens, or reduce reasoning through body, such as { reasoning_effort = "low" }'
Way = Literal["prompt_logprobs", "echo"]
ROUNDING_NATS = 1e-4  # nats above 0 that an engine's arithmetic may give a token which is certain
WAYS: tuple[Way, ...] = ("prompt_logprobs", "echo")


def single_choice(reply: Any) -> Mapping[str, Any]:
    """Return the one choice of a reply."""
    if error := as_object(reply).get("error"):  # some gateways send errors with status 200
        raise http_client.RequestError(f"replied with an error: {str(error)[:200]}", passing=True)
    choices = as_object(reply).get("choices")
    if not (isinstance(choices, list) and choices and isinstance(first := choices[0], dict)):
        raise http_client.RequestError("sent a reply without choices", passing=True)
    return first


def read_answer(reply: Any, stop: Sequence[str] = ()) -> Completion:
    """Parse a reply into a completion, cut at the first stop string.

    Tool calls are appended in Hermes's format. Raises RequestError for an answer that was withheld, cut by anything but
    its length, or used up by hidden reasoning: that is no empty answer.
    """
    chosen = single_choice(reply)
    message = as_object(chosen.get("message"))
    text, ended = message.get("content", chosen.get("text")), chosen.get("finish_reason")
    called = _format_tool_calls_as_tags(message)
    text = text or "" if called and (text is None or isinstance(text, str)) else text
    if ended == "content_filter":
        raise http_client.RequestError(
            "its content filter withheld the answer", hint="remove the row, or use another server"
        )
    usage = as_object(reply.get("usage"))
    told = usage.get("completion_tokens"), as_object(usage.get("completion_tokens_details")).get("reasoning_tokens")
    tokens, thought = (n if type(n) is int and n >= 0 else None for n in told)  # None where a server tells none
    reasoned = thought or message.get("reasoning_content") or message.get("reasoning")  # which is no part of the answer
    used_up = f"answered only with hidden reasoning (finish_reason {ended!r})"
    if not isinstance(text, str):
        if reasoned:
            raise http_client.RequestError(used_up, hint=MORE_TOKENS_ADVICE)
        if message.get("refusal"):
            raise http_client.RequestError("the model refused to answer", hint="remove the row")
        raise http_client.RequestError(
            f"sent a {type(text).__name__} as text (finish_reason {ended!r}) instead of a string"
        )
    if not isinstance(ended, (str, type(None))) or ended not in FINISH_REASONS:
        raise http_client.RequestError(f'sent the finish_reason "{ended}" instead of "stop" or "length"')
    if not text and not called and ended == "length" and reasoned:
        raise http_client.RequestError(used_up, hint=MORE_TOKENS_ADVICE)
    if not text and not called and FINISH_REASONS[ended] == "tool":
        raise http_client.RequestError(f"sent neither text nor a tool call (finish_reason {ended!r})")
    said, how = http_client.cut_at_stop(text, stop), "tool" if called and ended == "stop" else FINISH_REASONS[ended]
    if said != text or (ended == "stop" and any(isinstance(chosen.get(key), str) for key in STRINGS)):
        how = "stop"
    return Completion(said + called, how, tokens, thought or 0)


def _format_tool_calls_as_tags(message: Mapping[str, Any]) -> str:
    """Format the tool calls of a parsed answer as Hermes's tags.

    A server's parser took them out of the text; `tool_calls` reads them.
    """
    listed = message.get("tool_calls")
    calls = [call.get("function") for call in listed if isinstance(call, dict)] if isinstance(listed, list) else []
    calls = calls or [message.get("function_call")]  # as it was before there were several
    called = ""
    for call in (call for call in calls if isinstance(call, dict)):
        given, name = call.get("arguments"), json.dumps(call.get("name"), ensure_ascii=False)
        # Arguments that are no JSON stay as the model wrote them, and cannot be read.
        arguments = given if isinstance(given, str) and given.strip() else json.dumps(given or {}, ensure_ascii=False)
        called += f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'
    return called


def as_object(value: Any) -> Mapping[str, Any]:
    """Return a reply's object, empty for any other value."""
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Position:
    """A token of the prompt: its text if told, its log-probability (the first has none), if it is the likeliest."""

    text: str | None
    logprob: float | None
    greedy: bool


def prompt_logprobs_fields(way: Way) -> dict[str, Any]:
    """Return the request fields for the log-probs of a prompt.

    They include the one generated token that servers insist on.
    """
    asked: dict[str, Any] = {"prompt_logprobs": 0} if way == "prompt_logprobs" else {"echo": True, "logprobs": 1}
    return {"temperature": 0, "max_tokens": 1, **asked}


def read_positions(reply: Any, way: Way) -> list[Position]:
    """Parse the positions in a reply. An echo includes the generated token. Raises RequestError."""
    chosen = single_choice(reply)
    try:
        return (
            _parse_vllm_prompt_logprobs(chosen["prompt_logprobs"])
            if way == "prompt_logprobs"
            else _parse_echoed_logprobs(chosen["logprobs"])
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise http_client.RequestError(f'sent log-probs in another format than that of "{way}"') from None


def read_token_ids(reply: Any) -> list[int]:
    """Read the tokens of /tokenize."""
    found = as_object(reply).get("tokens")
    if not isinstance(found, list) or not all(isinstance(i, int) for i in found):
        raise http_client.RequestError("replied to /tokenize without tokens", passing=True)
    return found


def read_text(reply: Any) -> str:
    """Read the text of /detokenize, under vLLM's name or SGLang's."""
    found = as_object(reply)
    if not isinstance(text := found.get("prompt", found.get("text")), str):
        raise http_client.RequestError("replied to /detokenize without text")
    return text


def sum_logprobs(scored: Sequence[Position], nbytes: int) -> Logprob:
    """Add up positions. Raises CheckFailedError where one has no log-probability: none, not finite, or above 0."""
    logprobs = [math.nan if p.logprob is None else p.logprob for p in scored]
    if odd := [v for v in logprobs if not (math.isfinite(v) and v <= ROUNDING_NATS)]:
        what = f"the server sent a number that is not a log-probability (finite and at most 0): {odd[:8]}"
        raise CheckFailedError(f"log-probs: {what}; check the served model, which may be broken")
    return Logprob(math.fsum(logprobs), len(scored), nbytes, all(p.greedy for p in scored))


def continuation_positions(found: Sequence[Position], continuation: str) -> Sequence[Position] | None:
    """Return the last positions that spell the continuation exactly.

    None if no token begins with it. A token that is a part of a character hides where the character begins, so none may
    stand at the boundary.
    """
    spelt = ""
    for start in range(len(found) - 1, -1, -1):
        spelt = (found[start].text or "") + spelt
        if len(spelt) >= len(continuation):
            beside = [p.text for p in found[max(0, start - 1) : start + 1] if p.text is not None]
            whole = all(text and REPLACEMENT_CHARACTER not in text for text in beside)
            return found[start:] if spelt == continuation and whole else None
    return None


def spelling_positions(found: Sequence[Position], text: str) -> Sequence[Position] | None:
    """Return the positions of an echo that spell the text.

    The generated token is left out, a BOS that the server put in front stays. None if they do not spell the text.
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


def _parse_vllm_prompt_logprobs(entries: Sequence[Mapping[str, Mapping[str, Any]] | None]) -> list[Position]:
    """Read vLLM's `prompt_logprobs = 0`: for every token one entry, its own; the first has none."""
    found = [Position(None, None, False)]
    if entries[0] is not None:
        raise ValueError("the first token is not predicted")
    for entry in entries[1:]:
        (own,) = list(entry.values()) if entry else []
        found.append(Position(str(own.get("decoded_token")), float(own["logprob"]), int(own["rank"]) == 1))
    return found


def _parse_echoed_logprobs(logprobs: Mapping[str, Any]) -> list[Position]:
    """Read the legacy shape: parallel lists, and per place the likeliest tokens with their log-probs."""
    found = list[Position]()
    for text, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True):
        if value is None and found:
            raise ValueError("only the first token is not predicted")
        greedy = value is not None and float(value) >= max(float(v) for v in top.values())
        found.append(Position(str(text), None if value is None else float(value), greedy))
    return found
