"""The claims of a lock, as an export's evidence holds it. With the standard library alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness import schema
from harness.gates.waivers import describe_claim
from harness.records.claims.gate import PARENT, Gate
from harness.records.metrics import Metric
from harness.records.samples import Score
from harness.records.suite_header import SuiteTable, name_of_run
from harness.records.waivers import Waiver
from harness.stats.eprocess import interim_sizes
from harness.stats.values import find_alpha_error

DERIVED_KEYS = ("claim", "blocking", "candidates", "digest")  # which are no keys of a gate
FORMAT_VERSION = 1  # of suite.lock.json; raised when an older `verify` would misread


@dataclass(frozen=True)
class LockedSuite:
    """The claims of a lock that bind a candidate's verdicts. Gates against a parent name the candidate's own parent."""

    about: SuiteTable
    gates: Mapping[str, Gate]
    metrics: Mapping[str, Mapping[str, Metric]]  # by evaluation; what makes one of all rows is not there to be called
    combines: Mapping[str, str] = field(default_factory=dict)  # EVAL.METRIC -> MODULE:NAME of what makes it of all rows
    evals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)  # of every evaluation
    digests: Mapping[str, str] = field(default_factory=dict)  # of the rows of every evaluation
    left_out: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    claims: Mapping[str, LockedClaim] = field(default_factory=dict)  # by gate
    waivers: tuple[Waiver, ...] = ()
    attempts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # of every evaluation that counts as one
    base: str = ""  # the digest of the model that candidates are made of
    parent: str | None = None  # what the candidate is a copy of
    runs: tuple[str, ...] = ()  # the names of a recipe's models beside the one that ships

    def metric(self, gate: Gate) -> Metric | None:
        return self.metrics.get(gate.eval, {}).get(gate.metric_name)


@dataclass(frozen=True)
class LockedClaim:
    """The claim of a gate as a waiver names it: in words, and the digest of all of it."""

    text: str
    digest: str


def read_lock(lock: Mapping[str, Any], candidate: str) -> LockedSuite:
    """Read the claims of a lock. Raises ValueError, KeyError or TypeError where it is malformed."""
    require_lock_format(lock)
    suite = lock["suite"]
    about: SuiteTable = _make_record_from_table(SuiteTable, suite["header"])
    if error := find_alpha_error(about.alpha):
        raise ValueError(f"alpha is {about.alpha}; {error}")
    parent = next((export["from_"] for export in suite["exports"] if export.get("name") == candidate), None)
    gates = _read_gates(lock["gates"], candidate)
    seeds = (suite.get("train") or {}).get("seeds", ())
    evals = {table["name"]: table for table in suite["evals"]}
    rows = {name: int(data["rows"]) for name, data in lock["data"].items()}
    _require_planned_looks(lock.get("looks", {}), evals, rows)
    return LockedSuite(
        about,
        gates={name: _resolve_parent(gate, parent) for name, gate in gates.items()},
        claims={
            table["id"]: LockedClaim(describe_claim(gates[table["id"]]), table["digest"]) for table in lock["gates"]
        },
        metrics={name: _read_metrics(tables) for name, tables in lock["metrics"].items()},
        combines={
            f"{name}.{metric}": str(table["combine"])
            for name, tables in lock["metrics"].items()
            for metric, table in tables.items()
            if table["combine"]
        },
        evals=evals,
        rows=rows,
        digests={name: str(data["sha256"]) for name, data in lock["data"].items()},
        left_out=lock.get("left_out", {}),
        waivers=tuple(_make_record_from_table(Waiver, table) for table in lock["waivers"]),
        attempts=lock["attempts"].get(candidate, {}),
        base=str(lock["subjects"]["base"]),
        parent=parent,
        runs=tuple(name_of_run(candidate, int(seed)) for seed in seeds[1:]),
    )


def _read_gates(tables: Sequence[Mapping[str, Any]], candidate: str) -> dict[str, Gate]:
    """Return the gates by id. Raises ValueError where their keys disagree with what else the lock says of them."""
    gates: dict[str, Gate] = {}
    for table in tables:
        keys = {key: value for key, value in table.items() if key not in DERIVED_KEYS}
        gate: Gate = _make_record_from_table(Gate, keys, where="")
        if mistakes := gate.find_mistakes():
            raise ValueError(f'gate "{gate.id}": {mistakes[0]}')
        derived = (gate.claim(), gate.blocking, gate.applies_to(candidate))
        if derived != (table["claim"], table["blocking"], candidate in table["candidates"]):
            raise ValueError(f'gate "{gate.id}": its keys and its "claim" disagree')
        if gate.id in gates:
            raise ValueError(f'gate "{gate.id}" occurs twice')
        gates[gate.id] = gate
    for gate in gates.values():
        for name in gate.requires:
            if name not in gates:
                raise ValueError(f'gate "{name}" is referenced but missing')
    return gates


def _resolve_parent(gate: Gate, parent: str | None) -> Gate:
    return replace(gate, versus=parent) if gate.versus == PARENT and parent else gate


def _read_metrics(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Metric]:
    metrics = {}
    for name, table in tables.items():
        combine = _raise_uncomputable if table["combine"] else None
        limits = _parse_range(table.get("range"))
        metrics[name] = Metric(name, table["better"], table["scale"], combine, labelled=table["labelled"], range=limits)
    return metrics


def _require_planned_looks(
    looks: Mapping[str, Sequence[int]], evals: Mapping[str, Mapping[str, Any]], rows: Mapping[str, int]
) -> None:
    """Raise ValueError unless evaluations that stop early may stop after as many rows as the method says."""
    early = [name for name, table in evals.items() if table.get("stop") == "early" and rows.get(name)]
    for name in early:
        if list(looks.get(name, ())) != list(interim_sizes(rows[name])):
            raise ValueError(f'the looks at the rows of "{name}" are not those of {rows[name]} rows')
    if stray := sorted(looks.keys() - set(early)):
        raise ValueError(f'"{stray[0]}" has looks, but does not stop early')


def require_lock_format(lock: Mapping[str, Any]) -> None:
    """Raise ValueError where a lock has the format of another version."""
    if type(lock["format"]) is not int or lock["format"] != FORMAT_VERSION:
        raise ValueError(f"the lock has format {lock['format']!r}, this harness reads {FORMAT_VERSION}")


def _make_record_from_table(cls: Any, table: Mapping[str, Any], **given: Any) -> Any:
    wrong: list[str] = []
    if (record := schema.read_table(cls, table, lambda _, mistake: wrong.append(mistake), **given)) is None:
        raise ValueError(wrong[0])
    return record


def _parse_range(limits: Sequence[Any] | None) -> tuple[float, float] | None:
    """Parse a range, with null for infinity."""
    if limits is None:
        return None
    low, high = limits
    return (-math.inf if low is None else float(low), math.inf if high is None else float(high))


def _raise_uncomputable(scores: Sequence[Score]) -> float:
    raise ValueError(f"a metric of {len(scores)} rows is computed by code that is not in the evidence")
