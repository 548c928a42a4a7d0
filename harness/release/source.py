"""Consistency of a lock with the tables that its suite's digest covers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from harness import schema
from harness.artifacts.digests import digest_value
from harness.records.claims.gate import PARENT, Gate, assign_recipe_gates
from harness.records.suite_header import SuiteTable

DEFAULTS = json.loads(json.dumps(asdict(Gate(""))))  # of the keys of a gate that a lock leaves out
ANY_METRIC = ".?"  # how a gate on rows names an eval's only metric


def find_source_error(suite: Mapping[str, Any], gates: Sequence[Mapping[str, Any]]) -> str:
    """Return how a lock differs from the tables of its suite's digest.

    Raises ValueError, KeyError or TypeError if they are malformed.
    """
    if (source := suite.get("source")) is None:
        return ""
    if digest_value(source) != suite["digest"]:
        return "the suite's digest does not match its tables"
    for name in ("suite", "eval", "gate"):
        if not isinstance(source.get(name, []), (list, dict)):
            return f"the suite's table {name} is malformed"
    return next(_iterate_table_errors(source, suite, gates), "")


def _iterate_table_errors(
    source: Mapping[str, Any], suite: Mapping[str, Any], gates: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    yield from _iterate_header_errors(source, suite)
    yield from _iterate_gate_errors(source, suite, gates)
    yield from _iterate_eval_errors(source, suite)


def _iterate_header_errors(source: Mapping[str, Any], suite: Mapping[str, Any]) -> Iterator[str]:
    about = suite["header"]
    if source["suite"]["name"] != suite["name"]:
        yield (f'the suite is named "{suite["name"]}", but "{source["suite"]["name"]}" in the tables of its digest')
    for field in fields(SuiteTable):
        default = None if field.name == "name" else field.default
        wanted = source["suite"].get(field.name, default)
        if about.get(field.name, default) != wanted:
            yield f"{field.name} of the suite differs from the tables of its digest"


def _iterate_gate_errors(
    source: Mapping[str, Any], suite: Mapping[str, Any], gates: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    wrong, read = list[str](), list[Gate]()
    for table in source["gate"]:
        gate = schema.read_table(Gate, table, lambda _, what: wrong.append(what), where="", among=1)
        read += [gate] if gate else []
    if wrong:
        raise ValueError(wrong[0])
    copies = _list_copies(source, suite)
    compared = {str(e["name"]) for e in source["eval"] if e.get("against") == PARENT}
    about = {g.id for g in read if g.versus == PARENT or g.eval in compared}  # that only copies can meet
    recipe = next((str(e.get("from", "merged")) for e in source.get("export", [])), "")
    kept = assign_recipe_gates([replace(g, on=copies) if g.id in about and not g.on else g for g in read], recipe)
    made, there = {g.id: json.loads(json.dumps(asdict(g))) for g in kept}, {str(g["id"]): g for g in gates}
    if made.keys() != there.keys() or len(there) < len(gates):
        odd = sorted(made.keys() ^ there.keys())
        yield (f'gate "{odd[0] if odd else ""}" is not both in the lock and in the tables of the suite\'s digest')
        return
    for name, wanted in made.items():
        for key, given in wanted.items():
            value = there[name].get(key, DEFAULTS[key])
            any_metric = key == "metric" and given.endswith(ANY_METRIC) and str(value).startswith(given[:-1])
            if key != "where" and not any_metric and value != given:
                yield (f'{key} of gate "{name}" is {json.dumps(value)}, but {json.dumps(given)} in the suite\'s digest')


def _list_copies(source: Mapping[str, Any], suite: Mapping[str, Any]) -> list[str]:
    """Return the names of the copies made by exports.

    Raises ValueError if lock and digest disagree about the exports.
    """
    ours, theirs = source.get("export", []), suite.get("exports", [])
    if len(ours) != len(theirs):
        raise ValueError("the lock and the suite's digest have different exports")
    for one, other in zip(ours, theirs, strict=True):
        if (other.get("name") or None) not in ((one["name"],) if one.get("name") else (None, one["use"])):
            raise ValueError(f'an export of the lock is named "{other.get("name")}", but not in the suite\'s digest')
    return [str(e["name"]) for e in theirs if e.get("name")]


def _iterate_eval_errors(source: Mapping[str, Any], suite: Mapping[str, Any]) -> Iterator[str]:
    there = {str(e["name"]): e for e in suite["evals"]}
    for table in source["eval"]:
        if (name := str(table["name"])) not in there:
            yield f'eval "{name}" of the suite\'s digest is not in the lock'
            continue
        for key, value in table.items():
            locked = there[name][key] if key in there[name] else there[name].get("options", {}).get(key)
            if locked != value:
                yield (
                    f'{key} of eval "{name}" is {json.dumps(locked)}, but {json.dumps(value)} in the suite\'s digest'
                )
    if stray := sorted(there.keys() - {str(t["name"]) for t in source["eval"]}):
        yield f'eval "{stray[0]}" of the lock is not in the tables of the suite\'s digest'
