"""JSON Schemas: read, checked to be one, and matched without a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness import UsageError, shorten
from harness_domain import values

LONGEST = 160  # characters of what is wrong with a value that a note shows


def matcher(schema: Mapping[str, Any] | str, folder: Path) -> Callable[[Any], str]:
    """Return a function that says why a value does not match a schema, or nothing.

    `schema` is the schema, or the path of its file from `folder`; Draft 2020-12 where it does not say which. Raises
    UsageError where it is none, demands nothing, or refers to what is not in it.
    """
    where = f'schema "{schema}"' if isinstance(schema, str) else "schema"
    found = _read(schema, folder, where) if isinstance(schema, str) else schema
    if not isinstance(found, Mapping) or not found:
        raise UsageError(f"{where}: is {found!r:.60}, want an object that demands something")
    from jsonschema import exceptions, validators
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import EMPTY_REGISTRY, specification_with

    kind = validators.validator_for(found, default=None) if "$schema" in found else validators.Draft202012Validator
    if kind is None:
        raise UsageError(f"{where}: $schema is {found['$schema']!r:.80}, which is no draft of JSON Schema")
    try:
        kind.check_schema(found)
    except exceptions.SchemaError as error:
        raise UsageError(f"{where}: is none: {error.json_path}: {_short(error.message)}") from None
    _check_references(found, specification_with(kind.META_SCHEMA["$schema"]), where)
    validator = kind(found, registry=EMPTY_REGISTRY)

    def why(value: Any) -> str:
        try:
            error = exceptions.best_match(validator.iter_errors(value))
        except RecursionError:
            return "nests too deeply to be matched"
        except Unresolvable as missing:
            return f"cannot be matched: {_short(str(missing))}"
        return f"{error.json_path}: {_short(error.message)}" if error else ""

    return why


def _read(name: str, folder: Path, where: str) -> Any:
    try:
        return values.parse((folder / name).read_text("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{where}: cannot be read: {error.strerror}; looked for {folder / name}") from None
    except ValueError as error:
        raise UsageError(f"{where}: is no JSON: {error}") from None


def _check_references(schema: Mapping[str, Any], specification: Any, where: str) -> None:
    """Raise UsageError where a reference leads out of the schema, or nowhere."""
    from jsonschema_specifications import REGISTRY
    from referencing import Resource
    from referencing.exceptions import Unresolvable

    root = Resource.from_contents(schema, default_specification=specification)
    waiting = [(root, REGISTRY.resolver_with_root(root))]
    while waiting:
        here, resolver = waiting.pop()
        contents = here.contents if isinstance(here.contents, Mapping) else {}
        for reference in (contents[key] for key in ("$ref", "$dynamicRef") if key in contents):
            try:
                resolver.lookup(reference)
            except Unresolvable:
                what = f'refers to "{reference}", which is not in it; nothing is fetched, so put it into "$defs"'
                raise UsageError(f"{where}: {what}") from None
        waiting += [(inner, resolver.in_subresource(inner)) for inner in here.subresources()]


def _short(text: str) -> str:
    return shorten(text, LONGEST)
