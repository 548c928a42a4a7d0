"""`harness verify --suite FILE`: the lock and its rows beside the deployer's own copy of suite and data.

No plugin is imported and nothing is fetched: what only they can read is told as not compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.artifacts.attestation import EVIDENCE, ITEMS
from harness.artifacts.digests import row_digest
from harness.artifacts.folders import ForeignFolder
from harness.collection.tasks import cluster_by_prompt, list_named_columns
from harness.data.reading import is_file_name, split_slice
from harness.data.resolver import resolve_suite_rows
from harness.data.rows import read_rows, to_samples
from harness.errors import Mistakes
from harness.records.samples import Sample, rows_digest
from harness.release.lock_writer import own_keys
from harness.schema import format_toml
from harness.suite.reader import read_suite
from harness.suite.tables import Eval, Suite
from harness.texts import secrets
from harness.texts.json_text import dumps

LOCK_KEYS = ("claim", "blocking", "candidates", "files")  # of a table in the lock, beside the suite's own keys
Tables = Mapping[str, Mapping[str, Any]]  # by what they are called
MODEL = (Sample("model"),)  # what an evaluation without data asks


@dataclass
class SuiteComparison:
    """The result of comparing a lock with a suite.

    `differences` has one line each, `notes` list the parts not compared, `same` names the evals with identical rows.
    """

    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)


def compare_suite(file: Path, export: Path, lock: Mapping[str, Any]) -> SuiteComparison:
    """Compare a verified lock with a copy of its suite and data. Raises UsageError if the copy is invalid."""
    suite, found = read_suite(file), SuiteComparison()
    locked = lock["suite"]
    if suite.digest != locked["digest"] and "candidate" in locked:  # which came with the command
        suite = read_suite(file, candidate=locked["candidate"])
    if suite.digest != locked["digest"]:
        found.differences.append(f"its digest is {locked['digest'][:16]}, but that of {file} is {suite.digest[:16]}")
        ours = {f'gate "{g.id}"': own_keys(g) for g in suite.gates}
        found.differences += _iterate_table_differences({f'gate "{g["id"]}"': g for g in lock["gates"]}, ours, file)
        evals = {f'eval "{e.name}"': {**own_keys(e), **secrets.redact_options(dict(e.options))} for e in suite.evals}
        given = {e.name: e.options for e in suite.evals}  # an option may be called as a key is, such as stop
        theirs = {
            f'eval "{e["name"]}"': {
                **e["options"],
                **e,
                **{k: v for k, v in e["options"].items() if k in given.get(e["name"], ())},
            }
            for e in locked["evals"]
        }
        found.differences += _iterate_table_differences(theirs, evals, file, defaults=True)
    for spec in suite.evals:
        if spec.name in lock["data"]:
            _compare_eval_rows_with_lock(found, suite, spec, export, lock)
    if beside := sorted(lock["data"].keys() - {e.name for e in suite.evals}):
        found.notes.append(f"not compared: {', '.join(beside)}")
    return found


def _iterate_table_differences(theirs: Tables, ours: Tables, file: Path, *, defaults: bool = False) -> Iterator[str]:
    """Yield the differences between the tables of a lock and a suite.

    With `defaults`, the lock may have additional keys.
    """
    for name in dict.fromkeys((*theirs, *ours)):
        if name not in ours or name not in theirs:
            yield f"{name} is not in {'the lock' if name in ours else file}"
            continue
        lock, copy = theirs[name], json.loads(dumps(ours[name]))
        for key in copy if defaults else {**lock, **copy}:
            if key not in LOCK_KEYS and lock.get(key) != copy.get(key):
                there, here = (format_toml(one[key]) if key in one else "missing" for one in (lock, copy))
                yield f"{key} of {name} is {there}, but {here} in {file}"


def _compare_eval_rows_with_lock(
    found: SuiteComparison, suite: Suite, spec: Eval, export: Path, lock: Mapping[str, Any]
) -> None:
    """Compare an eval's rows with the lock's, and record the result. Raises UsageError if the rows are invalid."""
    digest = lock["data"][spec.name]["sha256"]
    if spec.data is None:
        if rows_digest(MODEL) != digest:
            found.notes.append(f'rows of "{spec.name}" not compared: they come from its evaluator')
        return
    if not is_file_name(split_slice(spec.data, spec.where)[0]):
        why = f'"{spec.data}" can only be read with a plugin'
        found.notes.append(f'rows of "{spec.name}" not compared: {why}')
        return
    # As each kind of evaluator has them read: with targets of JSON, or joined by prompt.
    whole = read_rows(spec.data, suite.path.parent, lambda _: None, spec.where)
    kept = list_named_columns(spec)
    rows = resolve_suite_rows(whole, spec.columns, spec.template, kept=kept).rows[: spec.limit]
    how: dict[str, Any] = {key: getattr(spec, key) for key in ("columns", "cluster", "slices", "template")}
    readings, mistakes = list[list[Sample]](), Mistakes()
    for json_targets in (False, True):
        with mistakes.collecting():
            made = to_samples(rows, spec.where, arguments=spec.chat_template_kwargs, json_targets=json_targets, **how)
            readings += [made] if spec.cluster else [made, list(cluster_by_prompt(tuple(made)))]
    if not readings:
        mistakes.raise_errors()
    if any(rows_digest(samples) == digest for samples in readings):
        found.same.append(spec.name)
        return
    there, here = lock["data"][spec.name]["rows"], readings[0]
    which = (
        f"{there} rows, but {len(here)} in the copy"
        if there != len(here)
        else _find_first_difference(here, spec.name, export)
    )
    found.differences.append(f'rows of "{spec.name}" differ from those of {spec.data}{f": {which}" if which else ""}')


def _find_first_difference(samples: list[Sample], name: str, export: Path) -> str:
    """Return the first row that differs from the evidence."""
    for row in ForeignFolder(export).iterate_records(f"{EVIDENCE}/{ITEMS}"):
        if row["item"].partition("::")[2] == name and "number" in row:
            digest = row_digest(row) if "id" in row else row["row"]
            if digest != samples[row["number"]].digest:
                return f'the first is row "{samples[row["number"]].id}"'
    return ""
