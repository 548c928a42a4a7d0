"""Errors that name the file and line of a third-party plugin."""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import CheckFailedError, UsageError
from harness.texts.escaping import shorten_text

T = TypeVar("T")
PLUGIN_MODULES: set[str] = set()  # the outermost names of such plugins' modules, of those that were loaded


def error_location(error: BaseException) -> str:
    """Return `FILE:LINE: what it raised` for the innermost plugin that did, or an empty text for one of ours."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package in PLUGIN_MODULES and not isinstance(error, (UsageError, CheckFailedError)):
            return f"{_shorten_path(frame.f_code.co_filename)}:{line}: {type(error).__name__}: {error}"
        if package.startswith("harness_"):
            return ""
    return ""


def plugin_error(function: Callable[..., Any], what: str, made: Any = None) -> UsageError:
    """Return a UsageError at the location of a plugin's function.

    The line is that of its definition, or the one at which the generator `made` is paused.
    """
    inner = function
    while isinstance(inner, functools.partial) or hasattr(inner, "__wrapped__"):
        inner = inner.func if isinstance(inner, functools.partial) else inner.__wrapped__
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    code = getattr(inner, "__code__", getattr(getattr(inner, "__call__", None), "__code__", None))  # noqa: B004
    line = getattr(getattr(made, "gi_frame", None), "f_lineno", code and code.co_firstlineno)
    return UsageError(f"{_shorten_path(code.co_filename)}:{line}: {name}{what}" if code else f"{name}{what}")


@contextmanager
def blame_plugin(function: Callable[..., Any], room: str) -> Iterator[None]:
    """Convert errors raised in module `room` into a plugin's UsageError.

    No plugin raises them: the module itself cannot use the result of a plugin's function. Errors raised elsewhere pass.
    """
    try:
        yield
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__") not in (room, "contextlib"):
            raise
        raise plugin_error(function, f": {error}") from None


def checked_return(function: Callable[..., Any], value: T, kind: Any, want: str) -> T:
    """Return a plugin function's result. Raises UsageError if it has the wrong type."""
    if isinstance(value, kind):
        return value
    raise plugin_error(function, f" returned {shorten_text(repr(value), 60)}; it must return {want}")


def refuse_returned_error(function: Callable[..., Any], value: Any) -> None:
    """Raise UsageError where a plugin's check returned its refusal."""
    if value is False or isinstance(value, str | BaseException):
        raise plugin_error(function, f" returned {shorten_text(repr(value), 60)}; it must raise UsageError instead")


def checked_rows(function: Callable[..., Any], rows: Any) -> list[dict[str, Any]]:
    """Return the rows that a plugin's function returned. Raises UsageError where they are not a list of dicts."""
    want = "a list of dicts"
    return [checked_return(function, row, dict, want) for row in checked_return(function, rows, list | tuple, want)]


def checked_items(function: Callable[..., Any], values: Any, kind: Any, want: str) -> Iterator[Any]:
    """Yield the items of a plugin function's result.

    Raises UsageError if the result cannot be iterated over or an item has the wrong type.
    """
    many = f"an iterable of {want}" + " (is a yield missing?)" * (values is None)
    if isinstance(values, str | bytes):  # whose letters are texts, too
        checked_return(function, values, list, many)
    for value in checked_return(function, values, Iterable, many):
        if not isinstance(value, kind):
            raise plugin_error(function, f" yielded {shorten_text(repr(value), 60)}; it must yield {want}", values)
        yield value


def _shorten_path(file: str) -> str:
    """Return a file as a person would name it from here."""
    return os.path.relpath(file) if Path(file).is_relative_to(Path.cwd()) else file
