"""The suite's JSON Schema, from table dataclasses and plugin signatures.

It keeps to draft 4, which TOML editors read.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from harness import schema
from harness.plugins import Plugins
from harness.records.claims.gate import DERIVED_FIELDS, KINDS, Gate
from harness.records.suite_header import SuiteTable
from harness.suite import tables

Schema = dict[str, Any]
DRAFT = "http://json-schema.org/draft-04/schema#"
NO_KEYS = ("options", *DERIVED_FIELDS)  # fields that no suite writes
NAMES: Mapping[type, str] = {
    str: "string", int: "integer", float: "number", bool: "boolean", dict: "object", list: "array", tuple: "array",
}  # fmt: skip
TABLES = {
    "suite": SuiteTable, "model": tables.Model, "rows": tables.ScoredRows, "adapter": tables.Use,
    "train": tables.Train, "candidate": tables.Candidate, "subject": tables.Baseline, "eval": tables.Eval,
    "gate": Gate, "export": tables.Export, "checks": tables.Ignored,
}  # fmt: skip


def suite_schema(plugins: Plugins) -> Schema:
    """Return the schema of a suite with these plugins."""
    merge = {"enum": list(tables.MERGES)}
    # a baseline: the base, a release, or with `use` a model of its own
    base, other = (
        {**_make_table_schema(tables.Baseline), "not": {"required": ["use"]}},
        _make_plugin_table_schema(plugins, "loader", tables.Baseline),
    )
    swept: Schema = {"type": "array", "minItems": 2}
    made = {
        "suite": _make_table_schema(SuiteTable),
        "model": _make_plugin_table_schema(plugins, "loader", tables.Model),
        "rows": {**named_schema(_make_table_schema(tables.ScoredRows)), "required": ["candidate"]},
        "adapter": _make_plugin_table_schema(plugins, "adapter", tables.Use),
        "train": _make_plugin_table_schema(plugins, "trainer", tables.Train),
        "sweep": {
            "type": "object",
            "description": "An option of [adapter] or [train] with the values it is tried with, and what decides.",
            "properties": {
                **{
                    "by": _make_type_schema(str),
                    "alpha": _make_type_schema(float),
                    "rule": {"enum": ["step", "best"], "default": "step"},
                },
                **{"adapter": named_schema(swept), "train": named_schema(swept)},
            },
            "patternProperties": {r"^(adapter|train)\.": swept},
            "additionalProperties": False,
            "required": ["by"],
        },
        "candidate": {
            **_make_table_schema(tables.Candidate),
            "oneOf": [{"required": ["adapter"]}, {"required": ["merged"]}],
        },
        "subject": named_schema({**other, "anyOf": [base, *other["anyOf"]]}),
        "eval": list_schema(_make_plugin_table_schema(plugins, "evaluator", tables.Eval), minItems=1),
        "gate": list_schema(
            {**_make_table_schema(Gate), "oneOf": [{"required": keys.split()} for kind in KINDS for keys in kind.keys]}
        ),
        "merge": {
            "type": "object",
            "description": "Onto which variants of the base an adapter is merged.",
            "properties": {
                "base": {"anyOf": [merge, list_schema(merge, minItems=1)]},
                "choose": _make_type_schema(str),
            },
            "additionalProperties": False,
        },
        "export": list_schema(_make_plugin_table_schema(plugins, "exporter", tables.Export)),
        "checks": _make_table_schema(tables.Ignored),
    }
    whole: Schema = {"$schema": DRAFT, "title": "A suite of finetune-harness", "type": "object", "properties": made}
    either = [{"required": ["model"], "not": {"required": ["rows"]}}, {"required": ["rows"]}]
    return {**whole, "additionalProperties": False, "required": ["suite", "eval"], "anyOf": either}


def table_keys(cls: type) -> dict[str, tuple[Any, Any]]:
    """Return a table's keys with their types and defaults.

    The default of a required key is `dataclasses.MISSING`.
    """
    hints, found = get_type_hints(cls), {}
    for field in (f for f in dataclasses.fields(cls) if f.name not in NO_KEYS):
        made = field.default_factory
        found[field.name.rstrip("_")] = hints[field.name], field.default if made is dataclasses.MISSING else made()
    return found


def _make_table_schema(cls: type) -> Schema:
    """Return the schema of a table without plugin options."""
    keys = table_keys(cls)
    optional = [name for name, (_, default) in keys.items() if default is not dataclasses.MISSING]
    return {
        "description": _get_docstring_first_line(cls),
        **object_schema({name: _make_key_schema(*key) for name, key in keys.items()}, *optional),
    }


def _make_plugin_table_schema(plugins: Plugins, kind: str, cls: type) -> Schema:
    """Return the schema of a table that says `use`: one for each plugin's callable, with its options."""
    own = _make_table_schema(cls)
    chosen = [p for (k, _), p in sorted(plugins.provided.items()) if k == kind]
    description, branches = own.pop("description"), list[Schema]()
    for provided in chosen:  # the table's own keys come before its options
        named, open_ended = schema.list_options(provided.function)
        hints = schema.parameter_types(provided.function)
        options = {
            n: _make_key_schema(hints.get(n, Any), p.default) for n, p in named.items() if n not in own["properties"]
        }
        use = {**own["properties"]["use"], "enum": [provided.name]}
        required = {*own.get("required", ()), *(n for n, p in named.items() if p.default is p.empty)}
        required |= {"use"} if use.get("default") != provided.name else set()
        about = {"title": provided.name, "description": _get_docstring_first_line(provided.function), "type": "object"}
        made = {**about, "properties": {**options, **own["properties"], "use": use}, "additionalProperties": open_ended}
        branches.append({**made, "required": sorted(required)} if required else made)
    return {"description": description, "anyOf": branches}


def object_schema(keys: Mapping[str, Schema], *optional: str) -> Schema:
    """Return the schema of an object with only these keys. All but the `optional` ones are required."""
    needed = [name for name in keys if name not in optional]
    made: Schema = {"type": "object", "properties": dict(keys), "additionalProperties": False}
    return {**made, "required": needed} if needed else made


def list_schema(item: Schema, **more: Any) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": item, **more}


def named_schema(item: Schema) -> Schema:
    """Return the schema of a table keyed by name."""
    return {"type": "object", "additionalProperties": item}


def _make_key_schema(want: Any, default: Any) -> Schema:
    """Return the schema of a key, with its default if JSON-serializable."""
    made = _make_type_schema(want)
    if default is not dataclasses.MISSING and default is not inspect.Parameter.empty and default is not None:
        with suppress(TypeError, ValueError):  # a default that no JSON holds
            made["default"] = json.loads(json.dumps(default, allow_nan=False))
    return made


def _make_type_schema(want: Any) -> Schema:
    """Return the schema of a type, as `schema.matches_type` understands it."""
    origin, args = get_origin(want), get_args(want)
    if origin is Literal:
        return {"enum": list(args)} if all(isinstance(a, (str, int, float)) for a in args) else {}
    if origin in (Union, types.UnionType):
        kinds = [_make_type_schema(a) for a in args if a is not type(None)]
        return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    if origin is not None and issubclass(origin, Mapping):
        return named_schema(_make_type_schema(args[1]) if args else {})
    if origin is not None:
        return list_schema(_make_type_schema(args[0]) if args else {})
    return {"type": NAMES[want]} if isinstance(want, type) and want in NAMES else {}


def _get_docstring_first_line(thing: Any) -> str:
    """Return the first line of a class's or callable's docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]
