"""JSON that no two readers parse differently, written without secrets and without numbers that are not finite."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from harness.texts.secrets import redact_text

# what a reader meets in JSON that is not what it looks for
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, ArithmeticError, MemoryError)


def read_json(text: str | bytes, *, constants: bool = False) -> Any:
    """Parse JSON strictly.

    Raises ValueError at a duplicate key, and at NaN and the infinities unless `constants` is true.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    return (_WITH_CONSTANTS if constants else DECODER).decode(text)


def _reject_constant(name: str) -> None:
    """Raise ValueError at NaN and the infinities. Python's parser accepts them, JSON does not."""
    raise ValueError(f"it holds {name}, which is not a JSON number")


def _require_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object. Raises ValueError at a duplicate key; Python would take the last value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {json.dumps(twice)} occurs twice")
    return found


# one for millions of lines
DECODER = json.JSONDecoder(object_pairs_hook=_require_unique_keys, parse_constant=_reject_constant)
_WITH_CONSTANTS = json.JSONDecoder(object_pairs_hook=_require_unique_keys)


def dumps(value: Any) -> str:
    """Serialize a value as JSON, with secrets redacted. Non-finite numbers become null: JSON has none."""
    return json.dumps(json_safe(value), indent=1, ensure_ascii=False, default=str, allow_nan=False) + "\n"


def json_safe(value: Any) -> Any:
    """Return a value as JSON can hold it: without secrets, and null for a number that is not finite."""
    if isinstance(value, dict):
        return {str(k): json_safe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return redact_text(value) if isinstance(value, str) else value
