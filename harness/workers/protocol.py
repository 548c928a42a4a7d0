"""The message protocol between a driver and its workers.

Messages are JSON, each behind its length. A message is data and never code: a worker's answers must have the types of
answers, and its error becomes one of a few types, by any name.
"""

from __future__ import annotations

import json
import os
import struct
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple
from pathlib import Path
from typing import IO, Any

from harness.answers.store import to_json_value
from harness.errors import CheckFailedError, UsageError
from harness.protocols import Worker as Worker
from harness.protocols import Workers as Workers
from harness.records import completion
from harness.records.models import Logprob, ModelRef, Sampling, Seal, ThoughtBudget

PROTOCOL = 3  # of the messages; a worker of another one is refused
MAX_MESSAGE_BYTES = 1 << 28  # bytes of a message
LENGTH = struct.Struct(">Q")
ROUNDING_NATS = 1e-3  # nats by which a sum of roundings may be on the wrong side of 0
METHODS = ("generate", "logprobs", "token_kl", "count_tokens", "render", "fact")
ERROR_TYPES: dict[str, type[Exception]] = {  # what a worker's error may become here; all others are RuntimeErrors
    e.__name__: e for e in (ValueError, TypeError, KeyError, MemoryError, OSError, ArithmeticError, AttributeError)
}


class WorkerLostError(Exception):
    """A lost worker, with the reason. Any other error is the model's own."""


def write_message(stream: IO[bytes], message: str) -> None:
    """Write a message; raises OSError where nobody reads it."""
    data = message.encode("ascii")
    stream.write(LENGTH.pack(len(data)) + data)
    stream.flush()


def read_message(stream: IO[bytes]) -> str | None:
    """Read a message, or None at the end of the stream.

    Raises ValueError for an invalid message.
    """
    if not (head := stream.read(LENGTH.size)):
        return None
    if len(head) < LENGTH.size or (size := LENGTH.unpack(head)[0]) > MAX_MESSAGE_BYTES:
        raise ValueError(f"invalid message: {head!r}")
    data = stream.read(size)
    if len(data) < size:
        raise ValueError(f"a message of {size} bytes ended after {len(data)}")
    return data.decode("ascii")


def describe_workers(said: str) -> str:
    """Return workers as somebody named them: by `--on`, or by the environment."""
    return f'{"HARNESS_ON" if os.environ.get("HARNESS_ON") == said else "--on"} "{said}"'


def make_heartbeat(**told: Any) -> str:
    """Return a message of a worker that is no reply yet: it lives, and may give rows."""
    return pack_message({"sign": True, **told})


def is_heartbeat(message: str) -> bool:
    """Return whether a message is one that `sign` made."""
    return message.startswith('{"sign": ')


def pack_message(message: Mapping[str, Any]) -> str:
    """Return a message as text, in ASCII: half a surrogate pair has no other bytes."""
    return json.dumps(message, default=lambda value: str(value) if isinstance(value, Path) else to_json_value(value))


def unpack_message(text: str) -> dict[str, Any]:
    """Return a message; raises ValueError where a text is none."""
    message = json.loads(text)
    if not isinstance(message, dict):
        raise ValueError("a message is not an object")
    return message


# -- models and requests -----------------------------------------------------------------------------


def ref_to_json(ref: ModelRef) -> dict[str, Any]:
    """Return a reference to a model as JSON has it."""
    return {**asdict(ref), "adapter": str(ref.adapter) if ref.adapter else None}


def ref_from_json(told: Mapping[str, Any]) -> ModelRef:
    """Return the reference that `ref_to_json` wrote."""
    adapter, seal = told["adapter"], told["seal"]
    sealed = Seal(**{**seal, "beside": tuple(seal["beside"])}) if seal else None
    return ModelRef(**{**told, "adapter": Path(adapter) if adapter else None, "seal": sealed})


def options_to_json(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of requests as JSON has them."""
    return {**options, **{n: asdict(options[n]) for n in ("sampling", "thought_budget") if options.get(n)}}


def options_from_json(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that `options_to_json` wrote."""
    options = dict(told)
    if drawn := told.get("sampling"):
        options["sampling"] = Sampling(**{**drawn, "seeds": tuple(drawn["seeds"])})
    if budget := told.get("thought_budget"):
        options["thought_budget"] = ThoughtBudget(**budget)
    return options


# -- answers -----------------------------------------------------------------------------------------


def read_rows(method: str, told: Any, wanted: set[int]) -> list[tuple[int, Any]]:
    """Parse rows into numbers and answers, removing these from `wanted`.

    Raises ValueError or TypeError for invalid answers, and for rows that were not requested or come twice.
    """
    if not isinstance(told, list):
        raise TypeError("its rows are not a list")
    rows = [(_require_non_negative_int(number), ANSWER_READERS[method](value)) for number, value in told]
    numbers = {number for number, _ in rows}
    if len(numbers) < len(rows) or not numbers <= wanted:
        raise ValueError("it sent a row that was not requested, or sent one twice")
    wanted -= numbers
    return rows


def _require_exact_type(value: Any, kinds: tuple[type, ...], what: str) -> Any:
    """Return a value that is of exactly one of the types.

    Subclasses do not count, since JSON's true is no number. Raises TypeError for any other value.
    """
    if type(value) not in kinds:
        raise TypeError(what)
    return value


def _require_non_negative_int(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("an answer is not an integer from 0 on")
    return value


def _parse_logprob(value: Any) -> Logprob:
    total, tokens, size, greedy = value
    if not _require_number(total) <= ROUNDING_NATS:  # nor is NaN
        raise ValueError(f"an answer has the log-probability {total}, which is above 0")
    greedy = _require_exact_type(greedy, (bool,), "an answer is not true or false")
    return Logprob(_require_number(total), _require_non_negative_int(tokens), _require_non_negative_int(size), greedy)


def _parse_divergence(value: Any) -> tuple[float, int]:
    total, tokens = value
    if not _require_number(total) >= -ROUNDING_NATS:
        raise ValueError(f"an answer has the divergence {total}, which is below 0")
    return _require_number(total), _require_non_negative_int(tokens)


def _require_number(value: Any) -> float:
    return float(_require_exact_type(value, (int, float), "an answer is not a number"))


# the others are JSON already
ANSWER_WRITERS: dict[str, Callable[[Any], Any]] = {"logprobs": astuple, "generate": completion.completion_to_json}
ANSWER_READERS: dict[str, Callable[[Any], Any]] = {
    "generate": completion.completion_from_json,
    "logprobs": _parse_logprob,
    "token_kl": _parse_divergence,
    "count_tokens": _require_non_negative_int,
    "render": lambda value: _require_exact_type(value, (str,), "an answer is not a text"),
    "fact": lambda value: _require_exact_type(
        value, (str, int, float, bool, type(None)), "a fact is neither a text nor a number"
    ),
}


# -- errors ------------------------------------------------------------------------------------------


def error_to_json(error: BaseException) -> dict[str, Any]:
    """Return an error as JSON has it."""
    kind = next((c for c in type(error).__mro__ if c in (UsageError, CheckFailedError)), type(error)).__name__
    messages = list(error.messages) if isinstance(error, UsageError) else [str(error)]
    told: dict[str, Any] = {"kind": kind, "messages": messages, "trace": traceback.format_exc()}
    if type(error) is OSError and error.strerror:
        told |= {"errno": error.errno, "messages": [error.strerror], "file": error.filename and str(error.filename)}
    return told


def error_from_json(told: Any) -> Exception:
    """Return the error that a worker tells of: a mistake of the user, a finding, or one of the model's."""
    told = told if isinstance(told, dict) else {}
    kind, given = str(told.get("kind")), told.get("messages")
    messages = [str(m) for m in given] if isinstance(given, list) and given else ["no message"]
    if kind == "UsageError":
        return UsageError(*messages)
    if kind == "CheckFailedError":
        return CheckFailedError(messages[0])
    if kind == "OSError" and isinstance(told.get("errno"), int):
        return OSError(told["errno"], messages[0], *([told["file"]] if isinstance(told.get("file"), str) else []))
    said = messages[0] if kind in (*ERROR_TYPES, "RuntimeError") else f"{kind}: {messages[0]}"
    error = ERROR_TYPES.get(kind, RuntimeError)(said)
    error.add_note(f"in a worker:\n{told.get('trace')}")
    return error
