"""JSON of which no two readers make two things."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

# what a reader meets in JSON that is not what it looks for
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, ArithmeticError, MemoryError)


def read_json(text: str | bytes, *, constants: bool = False) -> Any:
    """Return what a text says; raises ValueError where a key stands twice, or at NaN and the infinities but if told."""
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    return (_WITH_CONSTANTS if constants else DECODER).decode(text)


def reject_constant(name: str) -> None:
    """Raise at NaN and the infinities, which Python reads and JSON does not know."""
    raise ValueError(f"it holds {name}, which is not a JSON number")


def _require_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; raise at two values under one key, of which Python takes the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {json.dumps(twice)} occurs twice")
    return found


DECODER = json.JSONDecoder(
    object_pairs_hook=_require_unique_keys, parse_constant=reject_constant
)  # one for millions of lines
_WITH_CONSTANTS = json.JSONDecoder(object_pairs_hook=_require_unique_keys)
