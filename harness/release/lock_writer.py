"""The resolved suite, written down before a candidate is judged: every option, row, plugin and package."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from harness import schema
from harness.answers import keys
from harness.artifacts.digests import digest_value, file_digest
from harness.collection.collection import Collection
from harness.gates import contamination
from harness.plugins import Plugins
from harness.records.metrics import Metric
from harness.records.run import Run
from harness.records.samples import rows_digest
from harness.release.lock_reader import FORMAT_VERSION
from harness.stats.eprocess import interim_sizes
from harness.suite.tables import Suite
from harness.suite.waivers import claim_digest
from harness.texts import secrets


def make_lock(
    collection: Collection,
    run: Run,
    attempts: Mapping[str, Mapping[str, Mapping[str, str]]],
    leaks: contamination.Leaks | None = None,
) -> dict[str, Any]:
    """Return the resolved suite as plain data, with secrets redacted.

    Requires the rows that preflight read. `attempts` are digests of what each candidate's evaluation claims on which
    questions (`harness.gates.attempts`). With `leaks`, the rows left out by gates with `clean_only` are listed by
    number and digest.
    """
    suite = collection.suite
    rows = {name: task.samples or () for name, task in collection.tasks.items()}
    gates = [(g, [c for c in collection.candidates if g.applies_to(c)]) for g in suite.gates]
    left_out = contamination.count_left_out(leaks, suite.gates, rows) if leaks is not None else {}
    early = {name: rows[name] for name, task in collection.tasks.items() if task.spec.stop == "early"}
    stops = {name: interim_sizes(len(samples)) for name, samples in early.items() if samples}  # on whatever machine
    data: dict[str, dict[str, Any]] = {}  # number and digest of the rows
    if collection.training is not None:
        data["train"] = {"rows": len(collection.training), "sha256": digest_value(collection.training)}
    for name, task in collection.tasks.items():
        several = {name: task.samples, f"{name} (worked examples)": task.shots, f"{name} (select)": task.select}
        data |= {what: {"rows": len(some), "sha256": rows_digest(some)} for what, some in several.items() if some}
    return {
        "format": FORMAT_VERSION,
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
        "suite": {
            "name": suite.name,
            "file": suite.path.name,
            "digest": suite.digest,
            **_make_source_entry(suite),
            **_make_suite_tables(collection),
        },
        "gates": [
            {
                **own_keys(g),
                "claim": g.claim(),
                "blocking": g.blocking,
                "candidates": on,
                "digest": claim_digest(g, suite),
            }
            for g, on in gates
        ],
        "waivers": [dataclasses.asdict(waiver) for waiver in run.waivers],
        "attempts": attempts,
        "subjects": dict(run.digests),
        "metrics": {
            n: {m.name: _convert_metric_to_json(m) for m in t.metrics.values()} for n, t in collection.tasks.items()
        },
        "data": data,
        **({"looks": stops} if stops else {}),
        **({"left_out": left_out} if left_out else {}),
        "harness": run.harness,
        "plugins": list(describe_plugins(collection.plugins)),
        "python": platform.python_version(),
        "packages": dict(run.versions),
    }


def _make_source_entry(suite: Suite) -> dict[str, Any]:
    """Return a suite's digest with its source tables. With the tables, readers of the lock can recompute the digest."""
    return {"digest": suite.digest} | ({} if suite.source is None else {"source": suite.source})


def _make_suite_tables(collection: Collection) -> dict[str, Any]:
    """Return the suite's tables, with defaults for all plugin options."""
    suite, use = collection.suite, partial(lock_table, collection.plugins)
    about = own_keys(suite.header)
    made: dict[str, Any] = {"header": about, "model": use("loader", suite.model), "merge": suite.merges}
    made |= {"adapter": use("adapter", suite.adapter)} if suite.adapter else {}
    made |= {"train": use("trainer", suite.train)} if suite.train else {}
    made |= {"candidate": own_keys(suite.candidate)} if suite.candidate else {}
    if sweep := suite.sweep:
        made["sweep"] = {**own_keys(sweep), "alpha": sweep.alpha or suite.header.alpha}
        del made[sweep.table]["options"][sweep.option]  # there is no one value yet
    made["subjects"] = {name: use("loader", s) if s.use else own_keys(s) for name, s in suite.subjects.items()}
    made["evals"], folder = [], suite.path.parent
    for spec in suite.evals:  # with the files that an option names, such as a schema, which say what is measured, too
        given = [v for value in spec.options.values() for v in (value if isinstance(value, list) else [value])]
        # which says False where Path raises: of a text that is no name
        named = [v for v in given if isinstance(v, str) and v and os.path.isfile(folder / v)]  # noqa: PTH113
        found = {v: file_digest(folder / v) for v in named}
        made["evals"].append({**use("evaluator", spec), **({"files": found} if found else {})})
    made["exports"] = [use("exporter", e) for e in suite.exports]
    return made


def lock_table(plugins: Plugins, kind: str, table: Any) -> dict[str, Any]:
    """Return a plugin's table with all options, and secrets redacted."""
    options = schema.with_defaults(plugins.find(kind, table.use).function, table.options)
    return {**own_keys(table), "options": secrets.redact_options(options)}


def _convert_metric_to_json(metric: Metric) -> dict[str, Any]:
    """Return a metric's direction, scale, combining function and range. The function is given as MODULE:NAME."""
    inner = getattr(metric.combine, "func", metric.combine)  # the function that a `partial` calls
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    code = None if metric.combine is None else f"{inner.__module__}:{name}"
    return {
        "better": metric.better,
        "scale": metric.scale,
        "combine": code,
        "range": metric.range,
        "labelled": metric.labelled,
    }


def own_keys(table: Any) -> dict[str, Any]:
    """Return the keys of a table that go into a lock. Options of a plugin and unset keys are left out."""
    return {k: v for k, v in dataclasses.asdict(table).items() if k not in ("where", "options") and v is not None}


def describe_plugins(plugins: Plugins) -> Iterator[dict[str, str | None]]:
    """Yield each plugin with a digest of its imported code. The distribution is only a label."""
    loaded = [("harness", sys.modules["harness"]), *plugins.manager.list_name_plugin()]
    modules = {id(plugin) for _, plugin in loaded if isinstance(plugin, ModuleType)}
    tops = {plugin.__name__.partition(".")[0] for _, plugin in loaded if isinstance(plugin, ModuleType)}
    for name, plugin in loaded:
        place = plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__module__
        top = place.partition(".")[0]
        if plugin is not None and (id(plugin) in modules or top not in tops):  # an object of these has their code
            content = keys.digest_content([plugin])  # of the whole package: which module of it is a plugin counts, too
            code = content if top == place else digest_value([place, content])
            yield {"name": Path(name).name, "distribution": _find_distribution_label(top), "code": code}


def _find_distribution_label(module: str) -> str | None:
    """Return the distribution of a module, marked if its code was modified.

    Anybody running the harness can forge this label, so it is for people only.
    """
    named = importlib.metadata.entry_points(group=keys.GROUP)
    dist = next((p.dist for p in named if p.dist and p.module.partition(".")[0] == module), None)
    if module == keys.CORE:
        with suppress(importlib.metadata.PackageNotFoundError):  # of a fork by another name
            dist = importlib.metadata.distribution(keys.DISTRIBUTION)
    file = getattr(sys.modules.get(module), "__file__", None)
    if dist is None or file is None:
        return None
    source = json.loads(dist.read_text("direct_url.json") or "{}")
    editable = bool(source.get("dir_info", {}).get("editable"))
    root = urlsplit(str(source.get("url"))).path if editable else str(dist.locate_file(""))
    there = Path(file).resolve().is_relative_to(Path(unquote(root)).resolve())
    if there and editable:
        return f"{dist.name} {dist.version} (editable)"
    whole = there and _is_unchanged_since_install(dist, module)
    return f"{dist.name} {dist.version}{'' if whole else ' (not as installed)'}"


def _is_unchanged_since_install(dist: importlib.metadata.Distribution, module: str) -> bool:
    """Return whether a module's files match their distribution's record."""
    listed = [f for f in dist.files or () if f.parts[0] in (module, f"{module}.py") and f.hash]
    found = (hashlib.new(f.hash.mode, f.read_binary()).digest() for f in listed if f.hash)
    told = [f.hash.value for f in listed if f.hash]
    return bool(listed) and [base64.urlsafe_b64encode(d).decode().rstrip("=") for d in found] == told
