"""The resolved suite, written down before a candidate is judged: every option, row, plugin and package."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import schema
from harness.answers import keys
from harness.artifacts.digests import digest_of, file_digest
from harness.claims import contamination
from harness.collection.collected import Collection
from harness.plugins import Plugins
from harness.records.metrics import Metric
from harness.records.run import Run
from harness.records.samples import Sample, rows_digest
from harness.release.locked import HASHED
from harness.stats.eprocess import looks
from harness.texts import secrets

FORMAT = HASHED


def lock(collection: Collection, run: Run, leaks: contamination.Leaks | None = None) -> dict[str, Any]:
    """Return what a suite comes to, once preflight has read its rows: as plain data, without anybody's secrets.

    Once it is known which rows leak, those that gates with `clean_only` leave out are told by number and digest.
    """
    suite = collection.suite
    rows = {name: task.samples or () for name, task in collection.tasks.items()}
    gates = [(g, [c for c in collection.candidates if g.applies_to(c)]) for g in suite.gates]
    left_out = contamination.locked(leaks, suite.gates, rows) if leaks is not None else {}
    early = {name: rows[name] for name, task in collection.tasks.items() if task.spec.stop == "early"}
    stops = {name: looks(len(samples)) for name, samples in early.items() if samples}  # on whatever machine
    data: dict[str, dict[str, Any]] = {}  # number and digest of the rows
    if collection.training is not None:
        data["train"] = {"rows": len(collection.training), "sha256": digest_of(collection.training)}
    for name, task in collection.tasks.items():
        several = {name: task.samples, f"{name} (worked examples)": task.shots, f"{name} (select)": task.select}
        data |= {what: {"rows": len(some), "sha256": rows_digest(some)} for what, some in several.items() if some}
    return {
        "format": FORMAT,
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
        "suite": {"name": suite.name, "file": suite.path.name, "digest": suite.digest, **_tables(collection)},
        "gates": [{**plain_table(g), "says": g.claim(), "blocking": g.blocking, "candidates": on} for g, on in gates],
        "subjects": dict(run.digests),
        "metrics": {n: {m.name: _metric(m) for m in t.metrics.values()} for n, t in collection.tasks.items()},
        "data": data,
        **({"looks": stops} if stops else {}),
        **({"left_out": left_out} if left_out else {}),
        "harness": run.harness,
        "plugins": list(plugins_of(collection.plugins)),
        "python": platform.python_version(),
        "packages": dict(run.versions),
    }


def _tables(collection: Collection) -> dict[str, Any]:
    """Return the suite's tables with the defaults of every plugin's options filled in."""
    suite, use = collection.suite, partial(table_of, collection.plugins)
    about = plain_table(suite.about)
    made: dict[str, Any] = {"about": about, "model": use("loader", suite.model), "merge": suite.merges}
    made |= {"adapter": use("adapter", suite.adapter)} if suite.adapter else {}
    made |= {"train": use("trainer", suite.train)} if suite.train else {}
    made |= {"candidate": plain_table(suite.candidate)} if suite.candidate else {}
    if sweep := suite.sweep:
        made["sweep"] = {**plain_table(sweep), "alpha": sweep.alpha or suite.about.alpha}
        del made[sweep.table]["options"][sweep.option]  # there is no one value yet
    made["subjects"] = {name: use("loader", s) if s.use else plain_table(s) for name, s in suite.subjects.items()}
    made["evals"], folder = [], suite.path.parent
    for spec in suite.evals:  # with the files that an option names, such as a schema, which say what is measured, too
        given = [v for value in spec.options.values() for v in (value if isinstance(value, list) else [value])]
        # which says False where Path raises: of a text that is no name
        named = [v for v in given if isinstance(v, str) and v and os.path.isfile(folder / v)]  # noqa: PTH113
        found = {v: file_digest(folder / v) for v in named}
        made["evals"].append({**use("evaluator", spec), **({"files": found} if found else {})})
    made["exports"] = [use("exporter", e) for e in suite.exports]
    return made


def table_of(plugins: Plugins, kind: str, table: Any) -> dict[str, Any]:
    """Return a table that names a plugin, with the defaults of all options, what is secret struck out."""
    options = schema.with_defaults(plugins.find(kind, table.use).function, table.options)
    return {**plain_table(table), "options": secrets.struck(options)}


def _metric(metric: Metric) -> dict[str, Any]:
    """Return a metric's direction, scale, range, and MODULE:NAME of the code that makes it of all rows."""
    inner = getattr(metric.combine, "func", metric.combine)  # the function that a `partial` calls
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    code = None if metric.combine is None else f"{inner.__module__}:{name}"
    return {"better": metric.better, "scale": metric.scale, "combine": code, "range": metric.range}


def plain_table(table: Any) -> dict[str, Any]:
    """Return the keys of a table as a lock has them, without the options of a plugin."""
    return {k: v for k, v in dataclasses.asdict(table).items() if k not in ("where", "options") and v is not None}


def digest_as_in(lock: Mapping[str, Any], samples: Sequence[Sample]) -> str:
    """Return the digest of rows by the recipe of a lock, which may be an older one."""
    return rows_digest(samples) if lock["format"] >= HASHED else digest_of([s.told for s in samples])


def plugins_of(plugins: Plugins) -> Iterator[dict[str, str | None]]:
    """Yield each plugin with the version and RECORD of what it was installed with, and its code as it is now."""
    points = {p.name: p.dist for p in importlib.metadata.entry_points(group="harness")}
    told: dict[Any, dict[str, str | None]] = {}  # of a distribution, whose files are read whenever it is asked
    for name, module in [("harness", sys.modules["harness"]), *plugins.manager.list_name_plugin()]:
        if isinstance(module, ModuleType) and module.__file__:
            dist = points.get(name) or (points.get("hf") if name == "harness" else None)
            if dist not in told:
                record = dist.read_text("RECORD") if dist else None
                digest = hashlib.sha256(record.encode()).hexdigest() if record else None
                told[dist] = {"distribution": f"{dist.name} {dist.version}" if dist else None, "record": digest}
            yield {"name": Path(name).name, **told[dist], "code": keys.of_content([module])}
