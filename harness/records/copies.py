"""Copies for code that is not the harness's own: what a plugin writes into them reaches no decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
IMMUTABLE_TYPES = {type(None), bool, int, float, str}


def detach_copy(value: T) -> T:
    """Return a copy of plain data: of dicts, lists, tuples, sets and dataclasses, all the way down.

    What is neither (texts, numbers, functions, loaded models) is shared. Of a subclass of dict, list, tuple or set a
    plain one is made, whose methods are the built-in ones.
    """
    return value if type(value) in IMMUTABLE_TYPES else _copier(type(value))(value)


def copy_record(kind: type[T], value: T) -> T:
    """Copy a record into exactly this class.

    It may be of a subclass; its fields are copied as by `detach_copy`.
    """
    made: Any = kind
    names = [f.name for f in fields(made) if f.init]
    return made(**{name: detach_copy(getattr(value, name)) for name in names})  # type: ignore[no-any-return]


def _make_copier(kind: type) -> Callable[[Any], Any]:
    """Return a function that copies values of a type.

    A dataclass that has only init fields, and neither `__new__` nor `__post_init__`, gets its fields set directly,
    without a call of its constructor.
    """
    if issubclass(kind, dict):
        return lambda value: {k: v if type(v) in IMMUTABLE_TYPES else _copier(type(v))(v) for k, v in value.items()}
    for made in (tuple, list, frozenset, set):
        if issubclass(kind, made):
            return lambda value: made([v if type(v) in IMMUTABLE_TYPES else _copier(type(v))(v) for v in value])
    if not is_dataclass(kind):
        return lambda value: value
    names = tuple(f.name for f in fields(kind) if f.init)
    if kind.__new__ is not object.__new__ or hasattr(kind, "__post_init__") or len(names) < len(fields(kind)):
        return lambda value: replace(value, **{name: detach_copy(getattr(value, name)) for name in names})
    put = object.__setattr__

    def filled(value: Any) -> Any:
        copy = object.__new__(kind)
        for name in names:
            held = getattr(value, name)
            put(copy, name, held if type(held) in IMMUTABLE_TYPES else _copier(type(held))(held))
        return copy

    return filled


_copier: Callable[[Any], Callable[[Any], Any]] = cache(_make_copier)
