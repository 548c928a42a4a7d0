"""The catalogue of everything that a suite can name.

It has the plugins with their options and metrics, the data sources, tables and keys.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.data.reading import FILES
from harness.data.rows import ALIASES
from harness.errors import PLUGIN_ERRORS
from harness.plugins import Plugins, Provided
from harness.records.metrics import Metric
from harness.schema import format_toml, list_options, parameter_types, type_name, with_defaults
from harness.texts.wrapping import join_paragraphs

Keys = Mapping[str, tuple[Any, Any]]  # type and default, by key
OTHER_TABLES = {"sweep": 'by, alpha, rule, and one option such as "adapter.r"', "merge": "base, choose"}  # read by hand


def catalogue_lines(told: Mapping[str, Any], whole: bool) -> Iterator[str]:
    """Yield the lines of a catalogue.

    With `whole` everything is listed in short; otherwise the chosen entries are described in full.
    """
    for p in told["plugins"]:
        yield f"{p['kind']} {p['name']}  ({p['plugin']})"
        lines = p["about"].split("\n")[:1] if whole else join_paragraphs(p["about"])
        yield from (f"    {line}".rstrip() for line in lines if p["about"])
        if whole and p["options"]:
            yield f"    options: {', '.join(p['options'])}{' …' if p['open_ended'] else ''}"
        yield from (
            f"    {name}: {_describe_type_and_default(**option)}" for name, option in p["options"].items() if not whole
        )
        if p["open_ended"] and not whole:
            yield "    … and the options of the library behind it"
        if p["metrics"]:
            yield f"    metrics: {', '.join(p['metrics'])}"
    if whole:
        yield "data"
        yield from (f"    {line}" for line in told["data"])
        yield "columns"  # of rows, which are understood without `columns =`
        yield "id, input, target; or text or messages instead of them"
        for meant in dict.fromkeys(ALIASES.values()):
            yield f"{meant}, also called {' or '.join((name for name, to in ALIASES.items() if to == meant))}"
    for table, words in OTHER_TABLES.items() if whole else ():
        yield from (f"table [{table}]", f"    {words}")
    for table, keys in told["tables"].items():
        yield f"table [{table}]"
        if whole:
            yield f"    {', '.join(keys)}"
        yield from (f"    {key}: {_describe_type_and_default(**about)}" for key, about in keys.items() if not whole)


def catalogue_data(
    chosen: Sequence[Provided], plugins: Plugins, tables: Mapping[str, Keys], whole: bool
) -> dict[str, Any]:
    """Return a catalogue as plain data: plugins with their options, tables with their keys, and sources of data."""
    found, sources = [], list[str]()
    for p in chosen:
        (named, open_ended), hints = list_options(p.function), parameter_types(p.function)
        options = {
            n: {"type": type_name(hints.get(n, Any)), **_make_default_entry(o.default)} for n, o in named.items()
        }
        told = {"kind": p.kind, "name": p.name, "plugin": p.plugin, "about": inspect.getdoc(p.function) or ""}
        found.append({**told, "options": options, "open_ended": open_ended, "metrics": list(_describe_metrics(p))})
    keys = {
        t: {k: {"type": type_name(w), **_make_default_entry(d)} for k, (w, d) in ks.items()} for t, ks in tables.items()
    }
    if whole:  # what may stand after `data =`
        sources = [f"a file: {', '.join(FILES)}", "hub:NAME[/CONFIG]:SPLIT, a data set of the Hub"]
        for one in plugins.hook.harness_read_samples.get_hookimpls():
            about = (inspect.getdoc(one.function) or "").partition("\n")[0]
            sources.append(f"the sources of {one.plugin_name}" + (f": {about}" if about else ""))
    return {"plugins": found, "tables": keys, "data": sources}


def _describe_type_and_default(type: str, default: Any = None, required: bool = False) -> str:
    if required:
        return f"{type}, required"
    return f"{type}, optional" if default is None else f"{type}, default {format_toml(default)}"


def _make_default_entry(value: Any) -> dict[str, Any]:
    nothing = value is dataclasses.MISSING or value is inspect.Parameter.empty
    return {"required": True} if nothing else {"default": value}


def _describe_metrics(provided: Provided) -> list[str]:
    """Describe an evaluator's metrics, for the defaults of its options."""
    if provided.kind != "evaluator":
        return []
    metrics: Sequence[Metric] = getattr(provided.function, "metrics", ())
    if made := provided.capabilities.metrics_for:
        try:
            metrics = made(with_defaults(provided.function, {}))
        except PLUGIN_ERRORS:  # without an option there are none
            return ["as its options determine"]
    return [f"{m.name} ({m.scale}, {m.better} is better)" for m in metrics]
