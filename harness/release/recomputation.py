"""`harness verify --recompute`: decide the gates again from the rows in the evidence, as the run did.

Needs no model, and numpy and scipy only for what is not about 0/1 rows. The rows remain their producer's word, which
`harness verify --replay` tests. What rows alone cannot tell is counted, with its reason, and is never taken for
recomputed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.artifacts.attestation import EVIDENCE, ITEMS
from harness.artifacts.digests import digest_value, row_digest
from harness.artifacts.folders import ForeignFolder, parse_record
from harness.errors import UsageError, missing_modules_message
from harness.gates import contamination
from harness.gates.decide import decide
from harness.gates.gate import Gate
from harness.records.samples import Caveat, Draw, Labels, Result, Sample, Score
from harness.records.verdicts import Outcome, Verdict
from harness.release.lock_reader import LockedSuite
from harness.release.verdict_consistency import RELATIVE_TOLERANCE, Verdicts
from harness.reports.report_json import dumps
from harness.stats import hypothesis_tests

COMBINES = ("harness_domain.cost:median_seconds", "harness_domain.cost:ratio_of_medians")  # ours, of values alone
FLOATS = (
    "value", "baseline", "estimate", "uncapped", "effective", "threshold", "p_pass", "p_fail", "whole",
    "whole_baseline",
)  # fmt: skip
BOUNDS = ("lower", "upper")
NEAR_BOUND = 1e-7  # relative; a bound is where a p-value crosses alpha, and the search magnifies how that was rounded
SAME_KEYS = (
    "n", "risk", "labelled", "weightless", "clusters", "crossed", "method", "left_out", "repeated", "digest", "won",
    "lost", "won_count", "lost_count",
)  # fmt: skip
Samples = Mapping[str, Sequence[Sample]]  # the rows of items.jsonl, by evaluation: of all subjects together
Results = Mapping[tuple[str, str], Result]  # and of each
Leaks = Mapping[str, Mapping[str, str]]
ABSOLUTE_TOLERANCE = 1e-12  # below which numbers are the same whatever their ratio


@dataclass
class RecomputationResult:
    """The recomputed gates, reasons for the others, and the first difference."""

    gates: list[str] = field(default_factory=list)
    wanted: Collection[str] = ()  # those among all that block, or that a policy names
    unable: dict[str, str] = field(default_factory=dict)
    differs: str = ""

    @property
    def summary(self) -> str:
        done = len(self.gates)
        rest = [f'"{gate}" was not, because {why}' for gate, why in self.unable.items()]
        return "; ".join([f"recomputed {done} of {done + len(rest)} gates", *rest])

    @property
    def share(self) -> float:
        """The share of wanted gates that were recomputed."""
        return sum(g in self.gates for g in self.wanted) / len(self.wanted) if self.wanted else 0.0

    def find_shortfall(self, share: float | None, named: Collection[str]) -> str:
        """Return why a policy refuses this recomputation.

        It requires the gates `named`, and a `share` of the wanted ones.
        """
        if share and (lost := sorted(self.unable.keys() & set(named))):
            return (
                f'"{lost[0]}", which the policy names, was not recomputed, because {self.unable[lost[0]]} (recomputed)'
            )
        if share is None or self.share >= share:
            return ""
        return (
            f"{self.summary}; that is {self.share:.0%} of the blocking gates, but the policy requires {share:.0%} "
            "(recomputed)"
        )


def recompute_verdicts(
    export: Path, manifest: Mapping[str, Any], locked: LockedSuite, verdicts: Verdicts, named: Collection[str] = ()
) -> RecomputationResult:
    """Recompute the gates of a verified export from its rows.

    The export's digests and outcomes must have been checked before. The rows are compared with the lock's as well.
    Wanted gates are those that block and those in `named`. Raises UsageError if a gate needs a module that is missing,
    and ValueError, KeyError or TypeError on malformed rows.
    """
    recomputed = RecomputationResult(wanted={*named, *(name for name, v in verdicts.items() if v["blocking"])})
    lines = list(read_items(export, manifest))
    case = _CandidateEvidence(locked, manifest, verdicts, *_parse_evidence_rows(lines, manifest))
    for gate in (g for g in locked.gates.values() if g.id in verdicts):
        if why := case.unable_error(gate):
            recomputed.unable[gate.id] = why
            continue
        try:
            why = case.difference_error(gate)
        except ModuleNotFoundError as error:
            raise UsageError(f'gate "{gate.id}" {missing_modules_message(error.name)}') from None
        if why:
            recomputed.differs = f'gate "{gate.id}" {why}'
            return recomputed
        recomputed.gates.append(gate.id)
    recomputed.differs = _find_rows_digest_error(lines, locked)
    return recomputed


# -- the rows --------------------------------------------------------------------------------------


def read_items(export: Path, manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of an export. Raises ValueError at the end if their digest differs from the manifest's."""
    total, sha256 = hashlib.sha256(), manifest["files"][f"{EVIDENCE}/{ITEMS}"]["sha256"]
    for line in ForeignFolder(export).iterate_lines(f"{EVIDENCE}/{ITEMS}"):
        total.update(line)
        yield parse_record(line)
    if total.hexdigest() != sha256:
        raise ValueError(f"{ITEMS} changed while it was read")


def _find_rows_digest_error(lines: Sequence[Mapping[str, Any]], locked: LockedSuite) -> str:
    """Return an error if an evaluation's rows differ from the lock's.

    It names the evaluation. Rows that differ between subjects are an error as well.
    """
    digests: dict[str, dict[int, str]] = {}
    for row in lines:
        name, number = row["item"].partition("::")[2], row["number"]
        digest = row_digest(row) if "id" in row else row["row"]
        if digests.setdefault(name, {}).setdefault(number, digest) != digest:
            return f'row {number} of "{name}" differs between subjects'
    for name, rows in digests.items():
        if digest_value([rows[number] for number in sorted(rows)]) != locked.digests[name]:
            return f'the rows of "{name}" in {ITEMS} differ from those of the lock'
    return ""


def _parse_evidence_rows(
    lines: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any]
) -> tuple[Samples, Results, Leaks]:
    """Return the rows as they were judged. Raises ValueError when two lines differ about one row."""
    samples: dict[str, dict[int, Sample]] = {}
    leaks: dict[str, dict[str, str]] = {}
    rows: dict[tuple[str, str], list[tuple[int, int, Score]]] = {}
    for row in lines:
        subject, _, name = row["item"].partition("::")
        if "id" not in row:  # private, or not asked
            continue
        number, score = row["number"], score_from_row(row)
        about = {"cluster": row["cluster"], "second_cluster": row.get("second_cluster"), "key": row.get("key", "")}
        sample = Sample(row["id"], row=dict(row["slices"]), **about)
        if samples.setdefault(name, {}).setdefault(number, sample) != sample:
            raise ValueError(f'row {number} of "{name}" differs between subjects')
        if "leak" in row:
            leaks.setdefault(name, {})[row["id"]] = row["leak"]
        rows.setdefault((subject, name), []).append((number, row.get("place", -1), score))
    results = {
        key: _make_result_in_judged_order(key, placed, manifest["evaluations"]["::".join(key)])
        for key, placed in rows.items()
    }
    ordered = {name: [by_number[i] for i in sorted(by_number)] for name, by_number in samples.items()}
    for name, some in ordered.items():
        if len({s.id for s in some}) < len(some):
            raise ValueError(f'two rows of "{name}" have the same id')
    return ordered, results, leaks


def score_from_row(row: Mapping[str, Any]) -> Score:
    """Rebuild the Score of a public row from its evidence. The answer is its digest."""

    def number(value: Any) -> float:
        return math.nan if value is None else float(value)

    def numbers(told: Mapping[str, Any]) -> dict[str, float]:
        return {str(name): number(value) for name, value in told.items()}

    values, weights = numbers(row["values"]), numbers(row["weights"])
    about: dict[str, Any] = {
        "finish_reason": row.get("finish_reason", ""),
        "tokens": row.get("tokens"),
        "answer": row["answer_hash"],
    }
    about["lost"] = tuple(str(name) for name in row.get("lost", ()))
    about["partly_lost"] = numbers(row.get("partly_lost", {}))
    about["draws"] = tuple(
        Draw(numbers(draw["values"]), finish_reason=draw.get("finish_reason", ""), tokens=draw.get("tokens"))
        for draw in row.get("draws", ())
    )
    return Score(str(row["id"]), values, number(row["weight"]), weights=weights, **about)


def _make_result_in_judged_order(
    key: tuple[str, str], rows: list[tuple[int, int, Score]], about: Mapping[str, Any]
) -> Result:
    """Return a result with its rows as judged.

    These are in the data's order; `order` holds the order of evaluation if they were shuffled. Raises ValueError if a
    row occurs twice or the order has gaps.
    """
    numbers = sorted(number for number, _, _ in rows)
    if len(set(numbers)) < len(numbers):
        raise ValueError(f'a row of "{"::".join(key)}" occurs twice')
    placed = sorted((place, score.id) for _, place, score in rows if place >= 0)
    if placed and [place for place, _ in placed] != list(range(len(rows))):
        raise ValueError(f'the order of the rows of "{"::".join(key)}" has gaps')
    caveats = tuple(Caveat(c["text"], c["outcome"], tuple(c["metrics"])) for c in about["caveats"])
    labels = []
    for told in about.get("labels", ()):
        truth, said, clusters, sides = (tuple(told[key]) for key in ("truth", "said", "clusters", "sides"))
        ids = tuple(map(str, told.get("rows", ())))
        labels.append(Labels(str(told["metric"]), truth, said, clusters, str(told["side"]), sides, ids))
    scores = tuple(score for _, _, score in sorted(rows, key=lambda row: row[0]))
    how: dict[str, Any] = {"order": tuple(i for _, i in placed), "caveats": caveats, "labels": tuple(labels)}
    return Result(*key, scores, {}, about["weights"], rows=about["rows"], **how)


# -- the gates -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _CandidateEvidence:
    locked: LockedSuite
    manifest: Mapping[str, Any]
    verdicts: Verdicts
    samples: Samples
    results: Results
    leaks: Leaks

    def unable_error(self, gate: Gate) -> str:
        """Return why a gate cannot be recomputed from the evidence alone."""
        name, metric = gate.eval, self.locked.metric(gate)
        combine = self.locked.combines.get(gate.metric)
        if self.verdicts[gate.id]["outcome"] == Outcome.ERROR or metric is None:
            return "it was not decided"
        if self.manifest["statistics"] != hypothesis_tests.METHOD_VERSION:
            return (
                f"it was decided with statistics version {self.manifest['statistics']}, and this "
                f"harness has {hypothesis_tests.METHOD_VERSION}"
            )
        if self.locked.evals[name].get("private"):
            return f'the rows of "{name}" are private'
        if combine and combine not in COMBINES:
            return (
                f"{metric.name} is computed from all rows at once by {combine}, whose code or texts "
                "are not available here"
            )
        if gate.clean_only and self.locked.evals[name].get("stop") == "early":
            return "it stopped early, and rows that were not evaluated may be leaked"
        return ""

    def difference_error(self, gate: Gate) -> str:
        """Recompute a gate, and return the first difference from the evidence."""
        if why := self.rows_error(gate):
            return why
        recorded = self.verdicts[gate.id]
        again = json.loads(dumps(asdict(self.decide(gate))))
        if again["outcome"] == Outcome.ERROR != recorded["outcome"]:
            return f"cannot be decided on the rows in the evidence: {again['why']}"
        recorded, again = (_flatten_run_values(verdict) for verdict in (recorded, again))
        for key in (*FLOATS, *BOUNDS, *(key for key in {**recorded, **again} if key.startswith("runs "))):
            if not _is_near_or_both_none(
                recorded.get(key), again.get(key), NEAR_BOUND if key in BOUNDS else RELATIVE_TOLERANCE
            ):
                return f"has {key} {recorded.get(key)}, but the rows give {again.get(key)}"
        if key := next((key for key in SAME_KEYS if recorded[key] != again[key]), ""):
            return f"has a {key} that its rows do not give"
        for one, other in zip(recorded["slices"], again["slices"], strict=False):
            same = all(one[key] == other[key] for key in ("name", "n", "outcome", "alarm"))
            if not (same and all(_is_near_or_both_none(one[key], other[key], NEAR_BOUND) for key in BOUNDS)):
                return f'has results for slice "{one["name"]}" that its rows do not give'
        if len(recorded["slices"]) != len(again["slices"]):
            return "has other slices than its rows"
        same = again["outcome"] == recorded["outcome"]
        return "" if same else f"is recorded as {recorded['outcome']}, but its rows give {again['outcome']}"

    def rows_error(self, gate: Gate) -> str:
        """Return how a gate's rows differ from the lock's.

        It compares their number and order, and the rows left out with `clean_only`.
        """
        name, candidate = gate.eval, self.manifest["candidate"]
        early, there = self.locked.evals[name].get("stop") == "early", self.locked.rows.get(name)
        others = self.locked.runs if gate.of == "recipe" else ()
        for subject in (candidate, *others, *((gate.versus,) if gate.versus else ())):
            if (result := self.results.get((subject, name))) is None:
                return f'has no rows of "{subject}::{name}" in {ITEMS}'
            fewer = early and subject == candidate
            if there is not None and len(result.scores) != there and not (fewer and len(result.scores) < there):
                return f'has {len(result.scores)} rows of "{subject}::{name}" in {ITEMS}, but the lock has {there}'
            if bool(result.order) != fewer:
                return f'has rows of "{subject}::{name}" in another order than its eval uses'
        leaks = sorted(self.leaks.get(name, {}).items())
        if gate.clean_only and digest_value(leaks) != self.locked.left_out[name]["sha256"]:
            return "leaves out other rows than the lock"
        return ""

    def decide(self, gate: Gate) -> Verdict:
        """Decide a gate like `harness.pipeline.adjudication`, at the recorded alpha."""
        name, metric, samples = str(self.manifest["candidate"]), self.locked.metric(gate), self.samples[gate.eval]
        if metric and metric.combine:  # the code that makes it of all rows is ours
            module, _, function = self.locked.combines[gate.metric].partition(":")
            metric = replace(metric, combine=getattr(importlib.import_module(module), function))
        ours, alpha = self.results[name, gate.eval], float(self.verdicts[gate.id]["alpha"])
        theirs = self.results[gate.versus, gate.eval] if gate.versus else None
        others = [self.results[run, gate.eval] for run in self.locked.runs if gate.of == "recipe"]
        ours = replace(ours, other_runs=tuple(others))
        ask = partial(decide, gate, metric, ours, theirs, samples, alpha, name=name)
        if not gate.clean_only:
            return ask()
        return contamination.decide_without_leaks(
            gate, samples, self.leaks, lambda w: ask(without=w), name=name, alpha=alpha
        )


def _flatten_run_values(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a verdict with one key per run of a recipe."""
    return {**verdict, **{f"runs {i}": value for i, value in enumerate(verdict["runs"], 1)}}


def _is_near_or_both_none(one: float | None, other: float | None, relative: float) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=relative, abs_tol=ABSOLUTE_TOLERANCE)
