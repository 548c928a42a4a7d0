"""The claims of a lock, as an export's evidence holds it. With the standard library alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness import schema
from harness.records.claims.gate import PARENT, Gate
from harness.records.metrics import Metric
from harness.records.samples import Score
from harness.records.suite_header import SuiteTable, name_of_run
from harness.stats.values import find_alpha_error

FORMAT_VERSION = 1  # of suite.lock.json; raised when an older `verify` would misread


@dataclass(frozen=True)
class LockedSuite:
    """The claims of a lock that bind a candidate's verdicts. Gates against a parent name the candidate's own parent."""

    about: SuiteTable
    gates: Mapping[str, Gate]
    metrics: Mapping[str, Mapping[str, Metric]]  # by evaluation; what makes one of all rows is not there to be called
    combines: Mapping[str, str]  # EVAL.METRIC -> MODULE:NAME of what makes it of all rows
    evals: Mapping[str, Mapping[str, Any]]
    rows: Mapping[str, int]  # of every evaluation
    left_out: Mapping[str, Mapping[str, Any]]
    looks: Mapping[str, Sequence[int]]  # after how many rows evaluations that stop early may stop
    parent: str | None = None  # what the candidate is a copy of
    digests: Mapping[str, str] = field(default_factory=dict)  # of the rows of every evaluation
    runs: tuple[str, ...] = ()  # the names of a recipe's models beside the one that ships

    def metric(self, gate: Gate) -> Metric | None:
        return self.metrics.get(gate.eval, {}).get(gate.metric_name)


def read_lock(lock: Mapping[str, Any], candidate: str) -> LockedSuite:
    """Read the claims of a lock. Raises ValueError, KeyError or TypeError where it is malformed."""
    require_lock_format(lock)
    suite = lock["suite"]
    parent = next((e["from_"] for e in suite["exports"] if e.get("name") == candidate), None)
    gates: dict[str, Gate] = {}
    for table in lock["gates"]:
        own = {k: v for k, v in table.items() if k not in ("claim", "blocking", "candidates")}
        gate: Gate = _make_record_from_table(Gate, own, where="")
        if mistakes := gate.find_mistakes():
            raise ValueError(f'gate "{gate.id}": {mistakes[0]}')
        derived = (gate.claim(), gate.blocking, gate.applies_to(candidate))
        if derived != (table["claim"], table["blocking"], candidate in table["candidates"]):
            raise ValueError(f'gate "{gate.id}": its keys and its "claim" disagree')
        if gate.id in gates:
            raise ValueError(f'gate "{gate.id}" occurs twice')
        gates[gate.id] = replace(gate, versus=parent) if gate.versus == PARENT and parent else gate
    if stray := [n for g in gates.values() for n in g.requires if n not in gates]:
        raise ValueError(f'gate "{stray[0]}" is referenced but missing')
    about: SuiteTable = _make_record_from_table(SuiteTable, suite["header"])
    if error := find_alpha_error(about.alpha):
        raise ValueError(f"alpha is {about.alpha}; {error}")
    tables = {(e, m): table for e, metrics in lock["metrics"].items() for m, table in metrics.items()}
    metrics: dict[str, dict[str, Metric]] = {}
    for (name, metric), table in tables.items():
        combine = _raise_uncomputable if table["combine"] else None
        limits = table.get("range")
        known = (
            None if limits is None else (_parse_range_end(limits[0], -math.inf), _parse_range_end(limits[1], math.inf))
        )
        metrics.setdefault(name, {})[metric] = Metric(metric, table["better"], table["scale"], combine, range=known)
    combines = {f"{e}.{m}": str(t["combine"]) for (e, m), t in tables.items() if t["combine"]}
    rows = {name: int(data["rows"]) for name, data in lock["data"].items()}
    evals = {e["name"]: e for e in suite["evals"]}
    looks = {name: tuple(map(int, counts)) for name, counts in lock.get("looks", {}).items()}
    told = {name: str(data["sha256"]) for name, data in lock["data"].items()}
    runs = tuple(name_of_run(candidate, int(seed)) for seed in (suite.get("train") or {}).get("seeds", ())[1:])
    known_rows = rows, lock.get("left_out", {}), looks
    return LockedSuite(about, gates, metrics, combines, evals, *known_rows, parent, told, runs)


def require_lock_format(lock: Mapping[str, Any]) -> None:
    """Raise ValueError where a lock has the format of another version."""
    if type(lock["format"]) is not int or lock["format"] != FORMAT_VERSION:
        raise ValueError(f"the lock has format {lock['format']!r}, this harness reads {FORMAT_VERSION}")


def _make_record_from_table(cls: Any, table: Mapping[str, Any], **given: Any) -> Any:
    wrong: list[str] = []
    if (record := schema.read_table(cls, table, lambda _, mistake: wrong.append(mistake), **given)) is None:
        raise ValueError(wrong[0])
    return record


def _parse_range_end(end: Any, infinite: float) -> float:
    """Parse one end of a range, with null for infinity."""
    return infinite if end is None else float(end)


def _raise_uncomputable(scores: Sequence[Score]) -> float:
    raise ValueError(f"a metric of {len(scores)} rows is computed by code that is not in the evidence")
