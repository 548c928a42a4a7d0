"""Verification of the evidence of a gate on another tool's rows: `harness verify FOLDER/gate`."""

from __future__ import annotations

import hashlib
import io
import json
import math
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.artifacts.attestation import recorded_waiver
from harness.artifacts.folders import FolderError, ForeignFolder, parse_record
from harness.document import Document
from harness.errors import ExitCode
from harness.gates.attempts import AttemptNumber
from harness.records.claims.gate import Gate
from harness.records.parts.waived import Waived
from harness.records.suite_header import SuiteTable
from harness.records.verdicts import Outcome
from harness.release import policy_checks
from harness.release.lock_reader import LockedSuite
from harness.release.policy import Policy
from harness.release.source import find_source_error
from harness.reports.report_json import from_json as made_of
from harness.rows.bundle import FORMAT, ITEMS, MANIFEST, SUITE, VERDICTS
from harness.rows.records import RawRow, RawRows
from harness.rows.suites import JudgedRows, Runs, judge_rows, read_runs, rows_suite
from harness.suite.tables import Eval, ScoredRows, Suite
from harness.texts.escaping import printable
from harness.texts.json_text import dumps

BINDINGS = ("none", "named", "claimed")  # what rows tell of what answered, each more than the one before
POLICY_KEYS = {  # keys of a policy that a bundle can meet; any other demand refuses it
    "suites", "gates", "stages", "max_age_days", "max_attempts", "recomputed", "cached_answers", "waivers", "ignored",
    "data", "harness", "binding", "claims", "digest",
}  # fmt: skip
TABLES = {"keys": "[[key]]", "served": "[served]"}  # as they stand in a policy
MAX_FILE_BYTES = 1 << 30  # of one file: bundles are written of at most 50,000 rows
RELATIVE_TOLERANCE = 1e-9  # by which numbers differ on another processor


def verify_bundle(folder: Path, args: Namespace, policy: Policy | None) -> Document[dict[str, Any]]:
    """Verify a bundle.

    The files must be as written, and the verdicts follow from the rows; these are read again from the sources if given.
    """
    steps, code, refused = dict[str, str](), ExitCode.OK, ""
    try:
        _run_verification_steps(folder, args, policy, steps)
    except Exception as error:  # of evidence that somebody made whatever is raised is a refusal
        reason = error.problem if isinstance(error, FolderError) else str(error)
        code, refused = ExitCode.REFUSED, printable(reason or type(error).__name__)
    verification = {"folder": str(folder), "ok": not refused, "refused": refused, "steps": steps}
    return Document(verification, _print_verification, code)


def _print_verification(verification: Mapping[str, Any]) -> None:
    for name, text in verification["steps"].items():
        print(f"{name}: {printable(text)}")
    if verification["refused"]:
        print(f"refused: {verification['folder']}: {verification['refused']}", file=sys.stderr)


def _run_verification_steps(folder: Path, args: Namespace, policy: Policy | None, steps: dict[str, str]) -> None:
    """Add the steps that passed. Raises ValueError and others at the first that does not."""
    if args.told_as or args.beside or args.suite or args.replay is not None:
        raise ValueError("scored rows are not an export: they have no model that could be replayed or attested")
    bundle = ForeignFolder(folder)
    manifest = bundle.read_record(MANIFEST)
    if manifest.get("format") != FORMAT:
        raise ValueError(f"is not a bundle of this version ({FORMAT})")
    if strange := sorted(bundle.list_files().keys() - {SUITE, ITEMS, VERDICTS, MANIFEST}):
        raise ValueError(f'"{strange[0]}" is not a file of the evidence; remove it')
    told, raw = manifest["files"], {name: bundle.read(name, MAX_FILE_BYTES) for name in (SUITE, ITEMS, VERDICTS)}
    there = {name: hashlib.sha256(data).hexdigest() for name, data in raw.items()}
    if odd := next((name for name in {**there, **told} if told.get(name) != there.get(name)), ""):
        raise ValueError(f"{odd} differs from the written file")
    bound = {f"{r['side']}: {r['binding']}" + (f" ({r['bound']})" if r["bound"] else "") for r in manifest["runs"]}
    steps |= {"files": f"{len(told)} as written", "binding": ", ".join(sorted(bound))}
    verdicts = parse_record(raw[VERDICTS])
    suite, runs = _parse_suite_and_rows(raw, manifest)
    attempts = {e: AttemptNumber(number, tuple(stages)) for e, (number, *stages) in manifest["attempts"].items()}
    again = judge_rows(suite, runs=runs, attempts=attempts)
    for one, other in zip(verdicts, json.loads(dumps([asdict(v) for v in again.verdicts])), strict=True):
        recorded = {**one, "parts": {name: part for name, part in one["parts"].items() if name != Waived.name}}
        if odd := [key for key, value in recorded.items() if not _is_equal_with_tolerance(value, other[key])]:
            raise ValueError(f'gate "{one["gate"]}": its rows give another {odd[0]}')
    steps["gates"] = f"{len(verdicts)} of {len(verdicts)} decided again from their rows"
    if policy:
        steps["policy"] = _require_policy_met(policy, manifest, again)
    if args.sources:
        steps["sources"] = _require_same_source_rows(suite, runs, args.sources)
    steps["verdicts"] = ", ".join(f"{v['outcome']} {v['gate']}" for v in verdicts)
    for v in verdicts:
        if v["blocking"] and v["outcome"] != Outcome.PASS and not recorded_waiver(v):
            raise ValueError(f'gate "{v["gate"]}" is {v["outcome"]}')


def _require_policy_met(policy: Policy, manifest: Mapping[str, Any], again: JudgedRows) -> str:
    """Raise ValueError at the first unmet demand of a policy.

    A demand that the evidence of rows does not cover is unmet. Returns a summary.
    """
    if policy.binding is None:
        raise ValueError("scored rows are taken on trust, but the policy allows none (binding)")
    for side, run in ((side, run) for one in again.measured.values() for side, run in one.runs.items()):
        if BINDINGS.index(run.binding) < BINDINGS.index(policy.binding):
            raise ValueError(
                f'{side} has the binding "{run.binding}", but the policy requires "{policy.binding}" (binding)'
            )
    for name in (f.name for f in fields(Policy) if f.name not in POLICY_KEYS):
        if getattr(policy, name) != getattr(Policy([]), name):
            raise ValueError(f"evidence of scored rows lacks what the policy requires ({TABLES.get(name, name)})")
    told = {"candidate": "candidate", "started": manifest["started"], "ignored": []}
    told["answers"] = {"cache_hits": "an unknown number of"}
    suite = again.suite
    about: dict[str, Any] = {"name": suite.name, "digest": suite.digest}
    if suite.source is not None:
        about |= {"source": suite.source, "header": asdict(suite.header), "evals": [asdict(e) for e in suite.evals]}
    if why := find_source_error(about, [asdict(g) for g in suite.gates]):
        raise ValueError(why)
    lock: dict[str, Any] = {"suite": about, "harness": manifest["harness"], "data": {}, "plugins": []}
    metrics = {name: {one.metric.name: one.metric} for name, one in again.measured.items()}
    locked = LockedSuite(suite.header, {g.id: g for g in suite.gates}, metrics)
    met = policy_checks.match_policy(policy, lock, locked, {v.gate: asdict(v) for v in again.verdicts}, "candidate")
    for why in (*policy_checks.find_refusals(policy, told, lock, datetime.now(UTC)), *met.lacking.values()):
        raise ValueError(why)
    if not any(v.blocking for v in again.verdicts):
        what = "no blocking gate is on the candidate, so nothing was decided"
        raise ValueError(f'{what}; remove severity = "warn" from a gate')
    for v in again.verdicts:
        if v.blocks_release or (v.gate in policy.gates and v.outcome is not Outcome.PASS):
            raise ValueError(f'gate "{v.gate}" is {v.outcome}; waivers do not count for scored rows')
        if policy.max_attempts is not None and (v.attempt or 1) > policy.max_attempts:
            what = f'gate "{v.gate}" was attempted {v.attempt} times, but the policy allows {policy.max_attempts}'
            raise ValueError(f"{what} (max_attempts)")
    return f'binding is at least "{policy.binding}"'


def _require_same_source_rows(suite: Suite, runs: Runs, paths: list[str]) -> str:
    """Return how many rows were read again and are the same. Raises ValueError where they are not."""
    given = zip(("base", "candidate")[-len(paths) :], paths, strict=True)
    scored = {side: replace(suite.rows[side], path=str(Path(path).absolute())) for side, path in given}
    count = 0
    for name, there in read_runs(replace(suite, rows=scored)).items():
        for side, run in there.items():
            told = runs[name][side]
            if [*run.rows] != [*told.rows] or run.facts != told.facts or run.metrics != told.metrics:
                raise ValueError(f"{side} of {name}: the original files have other rows than the bundle")
            count += len(run.rows)
    return f"{count:,} rows read again, identical"


def _parse_suite_and_rows(raw: Mapping[str, bytes], manifest: Mapping[str, Any]) -> tuple[Suite, Runs]:
    told = parse_record(raw[SUITE])
    evals = tuple(made_of(Eval, e, "eval") for e in told["evals"])
    gates = tuple(made_of(Gate, g, "gate") for g in told["gates"])
    rows = {name: made_of(ScoredRows, r, name) for name, r in told["rows"].items()}
    about = made_of(SuiteTable, told["header"], "suite")
    suite = rows_suite(Path(Path(manifest["path"]).name), about, evals, gates, manifest["digest"], rows)
    suite = replace(suite, source=told.get("source"))
    items: dict[tuple[str, str], list[RawRow]] = {}
    for name, side, row in map(parse_record, io.BytesIO(raw[ITEMS])):
        items.setdefault((name, side), []).append(RawRow(**row))
    found: dict[str, dict[str, RawRows]] = {}
    for run in manifest["runs"]:
        name, side = run.pop("eval"), run.pop("side")
        whole = replace(made_of(RawRows, {**run, "rows": []}, "runs"), rows=items[name, side])
        found.setdefault(name, {})[side] = whole
    return suite, found


def _is_equal_with_tolerance(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE, abs_tol=RELATIVE_TOLERANCE)
    if isinstance(one, (list, dict)) and type(one) is type(other) and len(one) == len(other):
        return all(
            _is_equal_with_tolerance(one[k], other[k]) for k in (one if isinstance(one, dict) else range(len(one)))
        )
    return bool(one == other)
