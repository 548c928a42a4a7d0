"""The gates of an export decided again from the rows in its evidence, as the run did.

Needs no model, and numpy and scipy only for what is not about 0/1 rows. The rows remain their producer's word, which
`harness verify --replay` tests. What cannot be decided again is listed, with its reason.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from harness import schema
from harness.artifacts.attestation import ITEMS, recorded_attempt, recorded_waiver
from harness.artifacts.digests import digest_value
from harness.errors import missing_modules_message
from harness.gates.attempts import AttemptNumber
from harness.gates.context import EvalContext, GateContext, GateRows, decide_in_context, make_context
from harness.gates.waivers import GateWaivers
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.parts.attempts import InterimLooks
from harness.records.parts.part import Part
from harness.records.verdicts import Outcome, Verdict
from harness.release.evidence_rows import EvidenceRows
from harness.release.lock_reader import LockedSuite
from harness.stats import hypothesis_tests
from harness.texts.json_text import dumps

COMBINES = ("harness_domain.cost:median_seconds", "harness_domain.cost:ratio_of_medians")  # ours, of values alone
NEAR_BOUND = 1e-7  # relative; a bound is where a p-value crosses alpha, and the search magnifies how that was rounded
RELATIVE_TOLERANCE = 1e-9  # by which other numbers may differ, since rows were summed in another order
ABSOLUTE_TOLERANCE = 1e-12  # below which numbers are the same whatever their ratio
BOUNDS = ("lower", "upper")
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")
RecordedVerdict = Mapping[str, Any]  # one of gates.json


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
        decided = len(self.gates)
        others = [f'"{gate}" was not, because {reason}' for gate, reason in self.unable.items()]
        return "; ".join([f"{decided} of {decided + len(others)} decided again from their rows", *others])

    @property
    def share(self) -> float:
        """The share of wanted gates that were decided again."""
        if not self.wanted:
            return 1.0
        return sum(gate in self.gates for gate in self.wanted) / len(self.wanted)

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
    manifest: Mapping[str, Any],
    locked: LockedSuite,
    verdicts: Mapping[str, RecordedVerdict],
    rows: EvidenceRows,
    attempts: Mapping[str, AttemptNumber],
    named: Collection[str] = (),
) -> RecomputationResult:
    """Decide the gates of a verified export again from its rows, which are compared with the lock's as well.

    Raises ValueError, KeyError or TypeError on malformed evidence.
    """
    passed = {name for name, v in verdicts.items() if v["blocking"] and v["outcome"] == Outcome.PASS}
    result = RecomputationResult(wanted={*named, *passed})
    evidence = CandidateEvidence(locked, manifest, verdicts, rows, attempts)
    for name in verdicts:
        if error := _decide_and_compare(name, evidence, result):
            result.differs = f'gate "{name}" {error}'
            return result
    result.differs = rows.find_digest_error(locked.digests)
    return result


def _decide_and_compare(name: str, evidence: CandidateEvidence, result: RecomputationResult) -> str:
    """Decide a gate again, and note whether that was possible. Returns the first difference from its verdict."""
    if (gate := evidence.locked.gates.get(name)) is None:
        return "is not in the lock"
    if error := evidence.find_claim_error(gate) or evidence.find_context_error(gate):
        return error
    if reason := evidence.find_obstacle(gate):
        result.unable[name] = reason
        return ""
    if error := evidence.find_rows_error(gate):
        return error
    try:
        error = evidence.find_difference(gate)
    except ModuleNotFoundError as missing:
        result.missing = missing_modules_message(missing.name)
        result.unable[name] = f"it {result.missing}"
        return ""
    result.gates.append(name)
    return error


@dataclass(frozen=True)
class CandidateEvidence:
    """What the verdicts on a candidate follow from, and the verdicts as recorded."""

    locked: LockedSuite
    manifest: Mapping[str, Any]
    verdicts: Mapping[str, RecordedVerdict]
    rows: EvidenceRows
    attempts: Mapping[str, AttemptNumber]  # by evaluation

    @property
    def candidate(self) -> str:
        return str(self.manifest["candidate"])

    # -- what is known without rows ----------------------------------------------------------------

    def find_claim_error(self, gate: Gate) -> str:
        """Return how a verdict contradicts the gate in the lock."""
        recorded, metric = self.verdicts[gate.id], self.locked.metric(gate)
        for name, part in recorded["parts"].items():
            try:
                Part.class_of(name, part)
            except TypeError as error:
                return f"is malformed: {error}"
        claim = {"metric": gate.metric, "claim": gate.claim(), "versus": gate.versus, "blocking": gate.blocking}
        for key, expected in claim.items():
            if recorded[key] != expected:
                return f"has {key} {schema.format_toml(recorded[key])}, but the lock has {schema.format_toml(expected)}"
        if recorded["outcome"] != Outcome.ERROR and metric and (mistakes := gate.find_metric_mistakes(metric)):
            return f"is invalid: {mistakes[0]}"
        return ""

    def find_context_error(self, gate: Gate) -> str:
        """Return how a verdict contradicts lock and ledger, whatever its rows: requires, attempt, looks, risk, waiver.

        Needs the standard library alone.
        """
        recorded, metric = self.verdicts[gate.id], self.locked.metric(gate)
        context = self.make_context(gate)
        is_error, is_budget = recorded["outcome"] == Outcome.ERROR, metric is not None and metric.is_count
        if context.obstacle and not is_error:
            return f"is {recorded['outcome']}, but {context.obstacle}"
        counted = context.attempt if not is_error and not is_budget else 0
        if (attempt := recorded_attempt(recorded)) != counted:
            return f"is recorded as attempt {attempt}, but the ledger gives {counted}"
        looks = list(context.looks) if counted and context.interim_looks else []
        recorded_looks = (recorded["parts"].get(InterimLooks.name) or {}).get("looks", [])
        if not _is_near(recorded_looks, looks):
            return f"is recorded after looks at {recorded_looks} rows, but the ledger gives {looks}"
        try:
            level = context.alpha if is_budget else context.level
        except ValueError as error:
            return f"has impossible interim analyses: {error}"
        if not _is_near(recorded["alpha"], level):
            return f"was decided at alpha {recorded['alpha']}, not {level:g}"
        return self._find_waiver_error(gate, context)

    def _find_waiver_error(self, gate: Gate, context: GateContext) -> str:
        """Return how a verdict's waiver differs from the one in the lock that covers it."""
        recorded, waiver = self.verdicts[gate.id], None
        if context.waivers and gate.blocking and recorded["outcome"] != Outcome.PASS:
            waiver = context.waivers.find_active(gate)
        if recorded_waiver(recorded) == (json.loads(dumps(asdict(waiver))) if waiver else None):
            return ""
        if recorded_waiver(recorded) is None:
            return "is recorded without its waiver in the lock"
        return "is waived, but the lock has no such waiver in force"

    def make_context(self, gate: Gate) -> GateContext:
        """Return what the gate's verdict follows from besides its rows, of the lock and the ledger."""
        evaluation, claim = self.locked.evals[gate.eval], self.locked.claims[gate.id]
        day = datetime.fromisoformat(self.manifest["started"]).date()
        looked_for_leaks = gate.eval in self.locked.left_out
        return make_context(
            gate,
            self.candidate,
            self.locked.about,
            EvalContext(evaluation.get("slices") or (), evaluation.get("rows_at_most")),
            self.attempts.get(gate.eval),
            {name: str(verdict["outcome"]) for name, verdict in self.verdicts.items()},
            GateWaivers(self.locked.waivers, claim.text, claim.digest, day),
            leaks=self.rows.leaks if looked_for_leaks else None,
        )

    # -- what its rows give ------------------------------------------------------------------------

    def find_obstacle(self, gate: Gate) -> str:
        """Return why a gate cannot be decided again from the evidence alone."""
        metric, evaluation = self.locked.metric(gate), self.locked.evals[gate.eval]
        if metric is None:
            return "it was not decided"
        if self.manifest["statistics"] != hypothesis_tests.METHOD_VERSION:
            return (
                f"it was decided with statistics version {self.manifest['statistics']}, and this "
                f"harness has {hypothesis_tests.METHOD_VERSION}"
            )
        if evaluation.get("private"):
            return f'the rows of "{gate.eval}" are private'
        combine = self.locked.combines.get(gate.metric)
        if combine and combine not in COMBINES:
            return (
                f"{metric.name} is computed from all rows at once by {combine}, whose code or texts "
                "are not available here"
            )
        if gate.clean_only and evaluation.get("stop") == "early":
            return "it stopped early, and rows that were not evaluated may be leaked"
        if self.verdicts[gate.id]["outcome"] == Outcome.ERROR and not self.make_context(gate).obstacle:
            missing = [subject for subject in self._subjects_of(gate) if not self._result_of(subject, gate)]
            if missing:
                return f'it was not decided: the evidence has no rows of "{missing[0]}::{gate.eval}"'
        return ""

    def find_rows_error(self, gate: Gate) -> str:
        """Return how a gate's rows differ from the lock's.

        It compares their number and order, and the rows left out with `clean_only`.
        """
        if self.make_context(gate).obstacle:  # of whose rows nothing follows
            return ""
        name, expected = gate.eval, self.locked.rows.get(gate.eval)
        early = self.locked.evals[name].get("stop") == "early"
        for subject in self._subjects_of(gate):
            item = f"{subject}::{name}"
            if (result := self._result_of(subject, gate)) is None:
                return f'has no rows of "{item}" in {ITEMS}'
            count, may_stop = len(result.scores), early and subject == self.candidate
            if expected is not None and count != expected and not (may_stop and count < expected):
                return f'has {count} rows of "{item}" in {ITEMS}, but the lock has {expected}'
            if bool(result.order) != may_stop:
                return f'has rows of "{item}" in another order than its eval uses'
        left_out = self.locked.left_out.get(name) if gate.clean_only else None
        leaks = sorted(self.rows.leaks.get(name, {}).items())
        if left_out is not None and digest_value(leaks) != left_out["sha256"]:
            return "leaves out other rows than the lock"
        return ""

    def find_difference(self, gate: Gate) -> str:
        """Decide a gate again, and return the first difference from the evidence."""
        recorded = self.verdicts[gate.id]
        again = json.loads(dumps(asdict(self.decide(gate))))
        if again["outcome"] == Outcome.ERROR != recorded["outcome"]:
            return f"cannot be decided on the rows in the evidence: {again['why']}"
        return find_verdict_difference(recorded, again)

    def decide(self, gate: Gate) -> Verdict:
        """Decide a gate as the run did."""
        candidate = self._result_of(self.candidate, gate)
        if candidate and gate.of == "recipe":
            runs = [self._result_of(run, gate) for run in self.locked.runs]
            candidate = replace(candidate, other_runs=tuple(run for run in runs if run is not None))
        baseline = self._result_of(gate.versus, gate) if gate.versus else None
        rows = GateRows(self._load_metric(gate), candidate, baseline, self.rows.samples.get(gate.eval, ()))
        return decide_in_context(gate, rows, self.make_context(gate))

    def _load_metric(self, gate: Gate) -> Metric | None:
        """Return a gate's metric, with our own code that makes it of all rows."""
        metric = self.locked.metric(gate)
        if metric is None or not metric.combine:
            return metric
        module, _, function = self.locked.combines[gate.metric].partition(":")
        return replace(metric, combine=getattr(importlib.import_module(module), function))

    def _subjects_of(self, gate: Gate) -> list[str]:
        """Return whose rows a gate is about."""
        runs = self.locked.runs if gate.of == "recipe" else ()
        return [self.candidate, *runs, *([gate.versus] if gate.versus else [])]

    def _result_of(self, subject: str, gate: Gate) -> Any:
        return self.rows.results.get((subject, gate.eval))


# -- the comparison --------------------------------------------------------------------------------


def find_verdict_difference(recorded: RecordedVerdict, again: RecordedVerdict) -> str:
    """Return the first difference of a recorded verdict from the one that its rows give."""
    if recorded.keys() != again.keys():
        return f"has other fields than a verdict: {', '.join(sorted(recorded.keys() ^ again.keys()))}"
    for key in ("value", "baseline", "estimate", *again):
        if key in ("outcome", "why", "parts") or _is_near(recorded[key], again[key], key):
            continue
        if isinstance(again[key], (int, float, str)) or again[key] is None:
            return f"has {key} {recorded[key]}, but the rows give {again[key]}"
        return f"has {key} that its rows do not give"
    if not isinstance(recorded["parts"], Mapping):
        return "has parts that are no object"
    known = {name: part for name, part in recorded["parts"].items() if name in Part.registry or _is_critical(part)}
    for name in {**known, **again["parts"]}:
        if not _is_near(known.get(name), again["parts"].get(name)):
            return f'has a part "{name}" that its rows do not give'
    if recorded["outcome"] != again["outcome"]:
        return f"is recorded as {recorded['outcome']}, but its rows give {again['outcome']}"
    if not _is_near(recorded["why"], again["why"]):
        return "has a text that differs from its parts"
    return ""


def _is_critical(part: Any) -> bool:
    """Return whether a part must be known; one that does not say so must."""
    return not isinstance(part, Mapping) or part.get("critical") is not False


def _is_near(recorded: Any, again: Any, key: str = "") -> bool:
    """Return whether two values of a verdict are equal but for rounding."""
    if _is_number(recorded) and _is_number(again):
        tolerance = NEAR_BOUND if key in BOUNDS else RELATIVE_TOLERANCE
        return math.isclose(recorded, again, rel_tol=tolerance, abs_tol=ABSOLUTE_TOLERANCE)
    if type(recorded) is not type(again):
        return False
    if isinstance(recorded, str):
        return recorded == again or _is_same_text(recorded, again)
    if isinstance(recorded, list):
        return len(recorded) == len(again) and all(
            _is_near(value, other, key) for value, other in zip(recorded, again, strict=True)
        )
    if isinstance(recorded, dict):
        return recorded.keys() == again.keys() and all(
            _is_near(value, again[name], name) for name, value in recorded.items()
        )
    return bool(recorded == again)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_same_text(recorded: str, again: str) -> bool:
    """Return whether two texts are equal but for how the last digits of their numbers were rounded."""
    if NUMBER.sub("#", recorded) != NUMBER.sub("#", again):
        return False
    pairs = zip(NUMBER.findall(recorded), NUMBER.findall(again), strict=True)
    return all(_is_same_rounded_number(Decimal(number), Decimal(other)) for number, other in pairs)


def _is_same_rounded_number(number: Decimal, other: Decimal) -> bool:
    """Return whether two written numbers differ by no more than one in the last digit of the shorter one."""
    exponent = max(int(number.as_tuple().exponent), int(other.as_tuple().exponent))
    return number == other or (exponent < 0 and abs(number - other) <= Decimal(1).scaleb(exponent))
