"""JSON in answers: read as strictly as RFC 8259 is, and compared as values."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from harness.internals import schema

TOO_DEEP = f"is nested more than {schema.MAX_DEPTH} levels deep"
MOST_STARTS = 1000  # brackets that may begin a value: an answer of brackets alone would take minutes
BOM = "\ufeff"  # a byte order mark, which a file may begin with
FENCE = re.compile(  # of three or more backticks or tildes; the name of a language may stand on the same line
    r"(?<![`~])(?P<mark>`{3,}+|~{3,}+)[ \t]*"
    r"(?:[\w+-]*[ \t]*\r?\n|[A-Za-z][\w+-]*(?:[ \t]+(?=\S)|(?=[\[{])))?"
    r"(?P<inner>.*?)(?P=mark)[`~]*",
    re.DOTALL,
)


def remove_fence(text: str) -> str:
    """Return the content of a fence around a whole text. Other text is returned unchanged."""
    found = FENCE.fullmatch(text.strip())
    return found["inner"] if found else text


def find_fenced(text: str) -> list[str]:
    """Return the contents of all fences in a text."""
    return [found["inner"] for found in FENCE.finditer(text)]


def compose_unicode(value: Any) -> Any:
    """Return a JSON value with texts and keys in NFC. Keys that would collide are left as they are."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, list):
        return [compose_unicode(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    keys = {key: unicodedata.normalize("NFC", key) for key in value}
    keys = keys if len({*keys.values()}) == len(keys) else {key: key for key in keys}
    return {keys[key]: compose_unicode(inner) for key, inner in value.items()}


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises ValueError on anything else: NaN and infinities, a key that stands twice, what nests too deeply to be read,
    and whole numbers of thousands of digits.
    """
    try:
        return _require_shallow(
            json.loads(
                text.strip().removeprefix(BOM),
                object_pairs_hook=_make_object_with_unique_keys,
                parse_constant=_reject_nan_and_infinity,
            )
        )
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def parse_first_json(text: str, wanted: Callable[[Any], bool] = lambda value: True) -> Any:
    """Return the first `wanted` JSON object or list in a text.

    Falls back on the first of any kind; nested values are no candidates. Raises ValueError without one.
    """
    found, end = list[Any](), 0
    for start in (m.start() for m in islice(re.finditer(r"[{\[]", text), MOST_STARTS)):
        with suppress(ValueError):
            value, end = parse_json_at(text, start) if start >= end else (None, end)
            if value is not None and wanted(value):
                return value
            found += [] if value is None else [value]
    if not found:
        raise ValueError("contains no JSON object or list")
    return found[0]


def parse_json_at(text: str, start: int) -> tuple[Any, int]:
    """Parse the JSON value at a position, returning also its end. Raises ValueError if it is invalid."""
    try:
        value, end = json.JSONDecoder(
            object_pairs_hook=_make_object_with_unique_keys, parse_constant=_reject_nan_and_infinity
        ).raw_decode(text, start)
        return _require_shallow(value), end
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def is_equal_json(one: Any, other: Any) -> bool:
    """Return whether two JSON values are the same: 1 is 1.0 and not true, and the order of keys says nothing."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_equal_json(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_equal_json, one, other))
    return bool(one == other)


def flatten_fields(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return the leaf fields of nested objects, by path. A list is a leaf."""
    if not isinstance(value, Mapping) or (path and not value):
        return {path: value}
    return {place: leaf for key, inner in value.items() for place, leaf in flatten_fields(inner, (*path, key)).items()}


def drop_fields(value: Any, paths: Sequence[str], here: str = "") -> Any:
    """Return a value without the fields at some paths ("customer.id"). A path also applies to each object of a list."""
    if isinstance(value, list):
        return [drop_fields(inner, paths, here) for inner in value]
    if not isinstance(value, Mapping):
        return value
    return {k: drop_fields(v, paths, f"{here}{k}.") for k, v in value.items() if f"{here}{k}" not in paths}


def _require_shallow(value: Any) -> Any:
    if schema.is_deep(value):
        raise ValueError(TOO_DEEP)
    return value


def _make_object_with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f'has the key "{twice}" twice')
    return found


def _reject_nan_and_infinity(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
