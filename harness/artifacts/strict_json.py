"""JSON that no two readers parse differently."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

# what a reader meets in JSON that is not what it looks for
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, ArithmeticError, MemoryError)


def read_json(text: str | bytes, *, constants: bool = False) -> Any:
    """Parse JSON strictly.

    Raises ValueError at a duplicate key, and at NaN and the infinities unless `constants` is true.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    return (_WITH_CONSTANTS if constants else DECODER).decode(text)


def reject_constant(name: str) -> None:
    """Raise ValueError at NaN and the infinities. Python's parser accepts them, JSON does not."""
    raise ValueError(f"it holds {name}, which is not a JSON number")


def _require_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object. Raises ValueError at a duplicate key; Python would take the last value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {json.dumps(twice)} occurs twice")
    return found


DECODER = json.JSONDecoder(
    object_pairs_hook=_require_unique_keys, parse_constant=reject_constant
)  # one for millions of lines
_WITH_CONSTANTS = json.JSONDecoder(object_pairs_hook=_require_unique_keys)
