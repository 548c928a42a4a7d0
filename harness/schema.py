"""Declare once: a dataclass field or a keyword-only parameter is the schema, the check and the doc."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from harness.errors import suggest_option
from harness.texts.shortening import shorten

# options that are given by the harness, not by the suite
INJECTED_PARAMETERS = {
    "against",
    "facts",
    "flag",
    "folder",
    "marking",
    "processes",
    "progress",
    "seed",
    "shard",
    "watch",
}
# tables and lists in each other, in a suite or a row; what goes deeper is no data, and breaks recursion
MAX_DEPTH = 100
MAX_INTEGER = 2**63 - 1  # a whole number of TOML
MAX_VALUE_CHARS = 200  # characters of a value that an error shows
# what an annotation may raise that is not for us
ANNOTATION_ERRORS = (NameError, AttributeError, SyntaxError, TypeError)
Complain = Callable[[str, str], None]  # (key, what is wrong)
T = TypeVar("T")


def read_table(cls: type[T], table: Mapping[str, Any], complain: Complain, **given: Any) -> T | None:
    """Build a dataclass from a TOML table, reporting all mistakes.

    These are unknown keys, wrong types and missing keys. A field `from_` is the key `from`; a field `options` takes the
    remaining keys; fields in `given` are no keys.
    """
    fields = {f.name.rstrip("_"): f for f in dataclasses.fields(cls) if f.name not in given}  # type: ignore[arg-type]
    rest = fields.pop("options", None)
    hints = field_hints(cls)  # type: ignore[arg-type]
    values = {key: value for key, value in given.items() if key in hints}
    options: dict[str, Any] = {}
    wrong: list[tuple[str, str]] = []
    for key, value in table.items():
        if key not in fields and rest:
            options[key] = value
        elif key not in fields:
            wrong.append((key, f'unknown key "{key}"{suggest_option(key, fields)}'))
        elif not matches_type(value, hints[fields[key].name]):
            wrong.append((key, f'"{key}" is {format_toml(value)}; it must be {type_name(hints[fields[key].name])}'))
        else:
            values[fields[key].name] = value
    for key, f in fields.items():
        if key not in table and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            close = difflib.get_close_matches(key, options, n=1)  # among those that went to a plugin
            wrong.append(("", f'"{key}" is missing' + (f'; is "{close[0]}" a misspelling of it?' if close else "")))
    if rest:
        values["options"] = options
    for key, what in wrong:
        complain(key, what)
    return None if wrong else cls(**values)


@functools.cache
def field_hints(cls: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields by name, read once."""
    return get_type_hints(cls)


def accepts_options(cls: type[Any]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Let a callable accept the fields of a dataclass as keywords.

    It receives them as one object, its parameter `options`. As in `read_table`, a field `options` takes the remaining
    keywords.
    """
    made = {f.name: f.default_factory for f in dataclasses.fields(cls) if f.default_factory is not dataclasses.MISSING}
    fields = {f.name: made[f.name]() if f.name in made else f.default for f in dataclasses.fields(cls) if f.init}
    open_ended, hints = fields.pop("options", None) is not None, field_hints(cls)  # type: ignore[arg-type]

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        own = {p.name: p for p in inspect.signature(function).parameters.values() if p.name != "options"}

        @functools.wraps(function)
        def call(*args: Any, **given: Any) -> T:
            kept = {name: given.pop(name) for name in own if name in given}
            if open_ended:
                given["options"] = {name: given.pop(name) for name in list(given) if name not in fields}
            return function(*args, **kept, options=cls(**given))

        keyword = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
        taken = [
            keyword(n, default=inspect.Parameter.empty if d is dataclasses.MISSING else d) for n, d in fields.items()
        ]
        taken += [inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)] if open_ended else []
        call.__signature__ = inspect.Signature([*own.values(), *taken])  # type: ignore[attr-defined]
        call.__annotations__ = function.__annotations__ | {n: h for n, h in hints.items() if n in fields}
        return call

    return decorate


def list_options(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return a plugin's options, and whether it passes others to a library."""
    parameters = inspect.signature(function).parameters.values()
    named = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in INJECTED_PARAMETERS}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def with_defaults(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options a plugin's callable gets: those that are given, and its defaults for the others."""
    named, _ = list_options(function)
    return {n: p.default for n, p in named.items() if p.default is not p.empty} | dict(options)


def parameter_types(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a callable's parameters. Types that only type checkers can resolve are left out."""
    function = _unwrap_callable(function)
    with suppress(*ANNOTATION_ERRORS):
        return get_type_hints(function)
    found, inner = {}, inspect.unwrap(function)
    for name, want in inspect.get_annotations(function).items():
        with suppress(*ANNOTATION_ERRORS):
            one = types.SimpleNamespace(__annotations__={name: want})
            found[name] = get_type_hints(one, dict(getattr(inner, "__globals__", {})))[name]
    return found


def _unwrap_callable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an instance's `__call__`, if it is written in Python. Anything else is returned unchanged."""
    call = getattr(type(function), "__call__", None)  # noqa: B004 - the function itself, not whether there is one
    return call if inspect.isfunction(call) else function


def has_parameter(function: Callable[..., Any], name: str) -> bool:
    """Return whether a callable has a parameter of this name."""
    return name in inspect.signature(function).parameters


def find_signature_error(function: Callable[..., Any], given: Sequence[str], names: Sequence[str]) -> str:
    """Return why a callable does not accept these arguments and keywords."""
    signature = inspect.signature(function)
    options = {*list_options(function)[0], *INJECTED_PARAMETERS} - {*names}
    asked = [p for n, p in signature.parameters.items() if n not in options]
    try:
        inspect.Signature(asked).bind(*given, **dict.fromkeys(names))
    except TypeError as error:
        return f"{signature} must accept ({', '.join(given)}, *, {', '.join((*names, 'its options'))}): {error}"
    return ""


def check_options(function: Callable[..., Any], options: Mapping[str, Any], complain: Complain) -> None:
    """Report unknown, mistyped and missing options of a plugin's callable."""
    (known, open_ended), hints = list_options(function), parameter_types(function)
    for key, value in options.items():
        want = hints.get(key, Any)
        if key in known and not matches_type(value, want):
            complain(key, f'"{key}" is {format_toml(value)}; it must be {type_name(want)}')
        elif key not in known and not open_ended:
            complain(key, f'unknown option "{key}"{suggest_option(key, known)}')
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in options:
            complain("", f'option "{key}" is missing')


def is_deep(value: Any) -> bool:
    """Return whether a value nests more than `MAX_DEPTH` levels deep."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        outer = (o.values() if isinstance(o, dict) else o for o in level if isinstance(o, (dict, list)))
        if not (level := [inner for values in outer for inner in values]):
            return False
    return True


def find_value_error(value: Any) -> str:
    """Return why a suite's value is invalid, regardless of its key.

    All of the harness relies on it: numbers are finite, integers fit 64 bits, texts are UTF-8 without NUL, tables do
    not nest too deeply.
    """
    if is_deep(value):
        return f"nests tables or lists more than {MAX_DEPTH} levels deep"
    waiting = [value]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict):
            waiting += [*here, *here.values()]
        elif isinstance(here, list):
            waiting += here
        elif isinstance(here, float) and not math.isfinite(here):
            return f"is {here}; it must be a finite number"
        elif isinstance(here, int) and abs(here) > MAX_INTEGER:
            return f"is {format_toml(here)}; it must be an integer of 64 bits"
        elif isinstance(here, str) and ("\0" in here or here != here.encode("utf-8", "ignore").decode()):
            return "contains an invalid character (NUL, or a lone surrogate)"
    return ""


def matches_type(value: Any, want: Any) -> bool:
    """Return whether a TOML value has the wanted type.

    An integer counts as a float, a list as a sequence or a tuple.
    """
    origin, args = get_origin(want), get_args(want)
    if want is Any or want is inspect.Parameter.empty:
        return True
    if origin is Literal:
        return value in args
    if origin in (Union, types.UnionType):
        return any(matches_type(value, a) for a in args)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(matches_type(v, args[1]) for v in value.values())
    if origin is not None:
        return isinstance(value, list) and all(matches_type(v, args[0]) for v in value)
    if want is float or want is int:
        return isinstance(value, (int, want)) and not isinstance(value, bool)
    if want is tuple:
        return isinstance(value, list)
    return isinstance(value, want) if isinstance(want, type) else True


def type_name(want: Any) -> str:
    """Return the name of a type in the terms of TOML."""
    origin, args = get_origin(want), get_args(want)
    names = {str: "a string", int: "an integer", float: "a number", bool: "true or false", dict: "a table"}
    if origin is Literal:
        return " or ".join(format_toml(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(a) for a in args if a is not type(None))
    if origin is not None and issubclass(origin, Mapping):
        return "a table"
    if origin is not None or want in (list, tuple):
        inner = {str: "strings", int: "integers", float: "numbers"}.get(args[0], "values") if args else "values"
        return f"a list of {inner}"
    return str(names.get(want, getattr(want, "__name__", want)))


def format_toml(value: Any) -> str:
    """Format a value as TOML, truncated to `MAX_VALUE_CHARS` characters.

    Python cannot print integers of more than 4,300 digits, so huge ones are given by their length.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return f"a number of {value.bit_length() * 3 // 10} digits"  # Python writes none of more than 4,300
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return shorten(text, MAX_VALUE_CHARS)
