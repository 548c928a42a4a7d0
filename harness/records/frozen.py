"""Copies for code that is not the harness's own: what a plugin writes into them reaches no decision."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
PLAIN = {type(None), bool, int, float, str}


def isolated(value: T) -> T:
    """Return a copy of plain data: of dicts, lists, tuples, sets and dataclasses, all the way down.

    What is neither (texts, numbers, functions, loaded models) is shared. Of a subclass of dict, list, tuple or set a
    plain one is made, whose methods are the built-in ones.
    """
    return _copied(value)  # type: ignore[no-any-return]


def plain(kind: type[T], value: T) -> T:
    """Return a record of exactly this kind, with copies of the fields of one that may be of a subclass."""
    made: Any = kind
    names = [f.name for f in fields(made) if f.init]
    return made(**{name: _copied(getattr(value, name)) for name in names})  # type: ignore[no-any-return]


def _copied(value: Any) -> Any:
    if type(value) in PLAIN:
        return value
    if isinstance(value, dict):
        return {k: v if type(v) in PLAIN else _copied(v) for k, v in value.items()}
    for kind in (tuple, list, frozenset, set):
        if isinstance(value, kind):
            return kind([v if type(v) in PLAIN else _copied(v) for v in value])
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{name: _copied(getattr(value, name)) for name in _names(type(value))})
    return value


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if f.init)
