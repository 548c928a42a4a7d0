"""The gates of an export decided again from the rows in its evidence, as the run did.

Needs no model, and numpy and scipy only for what is not about 0/1 rows. The rows remain their producer's word, which
`harness verify --replay` tests. What cannot be decided again is listed, with its reason.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import schema
from harness.artifacts.attestation import EVIDENCE, ITEMS, recorded_attempt
from harness.artifacts.digests import digest_value, row_digest
from harness.artifacts.folders import ForeignFolder, parse_record
from harness.errors import missing_modules_message
from harness.gates.context import GateContext, GateRows, decide_in_context, describe_unmet_requirement
from harness.records import verdict_text
from harness.records.claims.gate import Gate
from harness.records.parts.attempts import InterimLooks
from harness.records.parts.part import Part
from harness.records.parts.waived import VoidWaiver, Waived
from harness.records.samples import Caveat, Draw, Labels, Result, Sample, Score
from harness.records.verdicts import Outcome, Verdict
from harness.release.lock_reader import LockedSuite
from harness.reports.report_json import from_json, require_wordable
from harness.stats import hypothesis_tests
from harness.texts.json_text import dumps, json_safe

COMBINES = ("harness_domain.cost:median_seconds", "harness_domain.cost:ratio_of_medians")  # ours, of values alone
NEAR_BOUND = 1e-7  # relative; a bound is where a p-value crosses alpha, and the search magnifies how that was rounded
RELATIVE_TOLERANCE = 1e-9  # by which other numbers may differ, since rows were summed in another order
WRITTEN = 2e-2  # by which numbers in texts may, which are rounded
BOUNDS = ("lower", "upper")
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")
Verdicts = Mapping[str, Mapping[str, Any]]  # by the id of their gate
Samples = Mapping[str, Sequence[Sample]]  # the rows of items.jsonl, by evaluation: of all subjects together
Results = Mapping[tuple[str, str], Result]  # and of each
Leaks = Mapping[str, Mapping[str, str]]
ABSOLUTE_TOLERANCE = 1e-12  # below which numbers are the same whatever their ratio


@dataclass
class RecomputationResult:
    """The gates that were decided again, reasons for the others, and the first difference.

    `wanted` are those that passed and block, or that a policy names; `missing` is the message about a module that some
    of the others need.
    """

    gates: list[str] = field(default_factory=list)
    wanted: Collection[str] = ()
    unable: dict[str, str] = field(default_factory=dict)
    differs: str = ""
    missing: str = ""

    @property
    def summary(self) -> str:
        done = len(self.gates)
        rest = [f'"{gate}" was not, because {why}' for gate, why in self.unable.items()]
        return "; ".join([f"{done} of {done + len(rest)} decided again from their rows", *rest])

    @property
    def share(self) -> float:
        """The share of wanted gates that were decided again."""
        return sum(g in self.gates for g in self.wanted) / len(self.wanted) if self.wanted else 1.0

    def find_shortfall(self, share: float, named: Collection[str]) -> str:
        """Return why a policy refuses this.

        It requires the gates `named`, and a `share` of the wanted ones.
        """
        if share and (lost := sorted(self.unable.keys() & set(named))):
            return (
                f'"{lost[0]}", which the policy names, was not decided again, because {self.unable[lost[0]]} '
                "(recomputed)"
            )
        if self.share >= share:
            return ""
        return (
            f"{self.summary}; that is {self.share:.0%} of the blocking gates, but the policy requires {share:.0%} "
            "(recomputed)"
        )


def recompute_verdicts(
    export: Path, manifest: Mapping[str, Any], locked: LockedSuite, verdicts: Verdicts, named: Collection[str] = ()
) -> RecomputationResult:
    """Decide the gates of a verified export again from its rows.

    The export's digests must have been checked before. The rows are compared with the lock's as well. Raises
    ValueError, KeyError or TypeError on malformed rows.
    """
    passed = {name for name, v in verdicts.items() if v["blocking"] and v["outcome"] == Outcome.PASS}
    recomputed = RecomputationResult(wanted={*named, *passed})
    lines = list(read_items(export, manifest))
    case = _CandidateEvidence(locked, manifest, verdicts, *_parse_evidence_rows(lines, manifest))
    for name in verdicts:
        if (gate := locked.gates.get(name)) is None:
            recomputed.differs = f'gate "{name}" is not in the lock'
        elif why := case.claim_error(gate):
            recomputed.differs = f'gate "{name}" {why}'
        elif why := case.unable_error(gate):
            recomputed.unable[name] = why
        else:
            try:
                why = case.difference_error(gate)
                recomputed.gates.append(name)
            except ModuleNotFoundError as error:
                why, recomputed.missing = "", missing_modules_message(error.name)
                recomputed.unable[name] = f"it {recomputed.missing}"
            recomputed.differs = f'gate "{name}" {why}' if why else ""
        if recomputed.differs:
            return recomputed
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

    def claim_error(self, gate: Gate) -> str:
        """Return how a verdict contradicts the gate and its context, whatever its rows."""
        recorded, metric = self.verdicts[gate.id], self.locked.metric(gate)
        for name, part in recorded["parts"].items():
            try:
                Part.class_of(name, part)
            except TypeError as error:
                return f"is malformed: {error}"
        claim = {"metric": gate.metric, "claim": gate.claim(), "versus": gate.versus, "blocking": gate.blocking}
        for key, want in claim.items():
            if recorded[key] != want:
                return f"has {key} {schema.format_toml(recorded[key])}, but the lock has {schema.format_toml(want)}"
        if recorded["outcome"] == Outcome.ERROR:
            return ""
        if metric and (mistakes := gate.find_metric_mistakes(metric)):
            return f"is invalid: {mistakes[0]}"
        context = self.make_context(gate)
        if context.obstacle:
            return f"is {recorded['outcome']}, but {context.obstacle}"
        if context.spends and not context.attempt and not (metric and metric.is_count):
            return "does not state its attempt number"
        try:
            level = context.alpha if metric and metric.is_count else context.level
        except ValueError as error:
            return f"has impossible interim analyses: {error}"
        return "" if _is_near(recorded["alpha"], level) else f"was decided at alpha {recorded['alpha']}, not {level:g}"

    def unable_error(self, gate: Gate) -> str:
        """Return why a gate cannot be decided again from the evidence alone."""
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
        """Decide a gate again, and return the first difference from the evidence."""
        if why := self.rows_error(gate):
            return why
        recorded = self.verdicts[gate.id]
        again = json.loads(dumps(asdict(self.decide(gate))))
        if again["outcome"] == Outcome.ERROR != recorded["outcome"]:
            return f"cannot be decided on the rows in the evidence: {again['why']}"
        return find_verdict_difference(recorded, again)

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
        """Decide a gate as the run did."""
        name, metric = str(self.manifest["candidate"]), self.locked.metric(gate)
        if metric and metric.combine:  # the code that makes it of all rows is ours
            module, _, function = self.locked.combines[gate.metric].partition(":")
            metric = replace(metric, combine=getattr(importlib.import_module(module), function))
        others = [self.results[run, gate.eval] for run in self.locked.runs if gate.of == "recipe"]
        ours = replace(self.results[name, gate.eval], other_runs=tuple(others))
        theirs = self.results[gate.versus, gate.eval] if gate.versus else None
        return decide_in_context(gate, GateRows(metric, ours, theirs, self.samples[gate.eval]), self.make_context(gate))

    def make_context(self, gate: Gate) -> GateContext:
        """Return what the gate's verdict follows from besides its rows, of the lock."""
        about, spec = self.locked.about, self.locked.evals[gate.eval]
        parts = self.verdicts[gate.id]["parts"]
        looks = parts.get(InterimLooks.name) or {}
        name = str(self.manifest["candidate"])
        outcomes = {other: str(verdict["outcome"]) for other, verdict in self.verdicts.items()}
        return GateContext(
            name, gate.alpha or about.alpha, recorded_attempt(self.verdicts[gate.id]), about.attempts == "spend",
            tuple(map(int, looks.get("looks", ()))), spec.get("rows_at_most"),
            obstacle=describe_unmet_requirement(gate, name, outcomes), slices=spec.get("slices") or (),
            leaks=self.leaks,
        )  # fmt: skip


def parse_verdict(recorded: Mapping[str, Any]) -> Verdict:
    """Parse a verdict of the evidence. Raises TypeError or ValueError where it is malformed or has unknown parts."""
    verdict: Verdict = from_json(Verdict, dict(recorded), "the verdict")
    require_wordable(verdict)
    return verdict


def find_verdict_difference(recorded: Mapping[str, Any], again: Mapping[str, Any]) -> str:
    """Return the first difference of a recorded verdict from the one that its rows give.

    A waiver is not decided by rows, and the reason is made of the notes.
    """
    if recorded.keys() != again.keys():
        return f"has other fields than a verdict: {', '.join(sorted(recorded.keys() ^ again.keys()))}"
    undecided = {name: part for name, part in recorded["parts"].items() if name in (Waived.name, VoidWaiver.name)}
    unknown = {name: part for name, part in recorded["parts"].items() if name not in Part.registry}
    again = {**again, "parts": {**again["parts"], **undecided, **unknown}}
    for key in ("value", "baseline", "estimate", *(key for key in again if key != "parts")):
        if key not in ("outcome", "why") and not _is_near(recorded[key], again[key], key):
            if isinstance(again[key], (int, float, str)) or again[key] is None:
                return f"has {key} {recorded[key]}, but the rows give {again[key]}"
            return f"has {key} that its rows do not give"
    for name in {**recorded["parts"], **again["parts"]}:
        if not _is_near(recorded["parts"].get(name), again["parts"].get(name)):
            return f'has a part "{name}" that its rows do not give'
    if recorded["outcome"] != again["outcome"]:
        return f"is recorded as {recorded['outcome']}, but its rows give {again['outcome']}"
    try:
        text = verdict_text.format_why(parse_verdict(recorded))
    except (TypeError, ValueError) as error:
        return f"is malformed: {error}"
    if recorded["why"] != json_safe(text):
        return "has a text that differs from its parts"
    return ""


def _is_near(one: Any, other: Any, key: str = "") -> bool:
    """Return whether two values of a verdict are equal but for rounding."""
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        near = NEAR_BOUND if key in BOUNDS else RELATIVE_TOLERANCE
        return math.isclose(one, other, rel_tol=near, abs_tol=ABSOLUTE_TOLERANCE)
    if isinstance(one, str) and isinstance(other, str):
        return one == other or _is_same_text(one, other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_is_near(a, b, key) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_near(value, other[name], name) for name, value in one.items())
    return False


def _is_same_text(one: str, other: str) -> bool:
    """Return whether two texts are equal but for how their numbers were rounded."""
    numbers, others = ([float(x) for x in NUMBER.findall(text)] for text in (one, other))
    near = all(math.isclose(a, b, rel_tol=WRITTEN) for a, b in zip(numbers, others, strict=False))
    return NUMBER.sub("#", one) == NUMBER.sub("#", other) and near
