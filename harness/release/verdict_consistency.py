"""Verdicts of the evidence against the claims in the lock: every outcome is made again from its own numbers.

With the standard library alone, so nothing is known of the rows: a producer who makes up all numbers alike is found
by `harness.release.recomputation`, and one who makes up the rows by `harness verify --replay`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from harness import schema
from harness.gates.gate import Gate, Oriented
from harness.gates.outcome import combine_slice_outcomes, decide_outcome
from harness.records import verdict_text
from harness.records.claim_spec import Note
from harness.records.metrics import Metric
from harness.records.verdicts import Outcome, Risk
from harness.release.lock_reader import LockedSuite
from harness.reports.report_json import json_safe
from harness.stats.hypothesis_tests import attempt_alpha, has_few_drawn_sizes
from harness.stats.multiple_testing import interim_levels
from harness.stats.significance import is_significant

RELATIVE_TOLERANCE = 1e-9  # relative, by which numbers may differ that are the same in the evidence
MAX_ALPHA = 0.25  # the largest alpha at which a claim that is proven has its estimate on the right side for certain
COUNTS = ("point", "failures counted")  # methods that take no risk: their p-values are 0 and 1
Verdicts = Mapping[str, Mapping[str, Any]]  # by the id of their gate
_BOUNDS = ("estimate", "lower", "upper")  # of a verdict on slices they are those of the one that decides
_FOUND = (*_BOUNDS, "value", "baseline", "effective", "n", "method", "risk", "uncapped")
_FLOATS = ("uncapped", "value", "baseline", "estimate", "lower", "upper", "threshold", "whole", "whole_baseline")


def find_verdicts_error(locked: LockedSuite, verdicts: Verdicts) -> str:
    """Return the first inconsistency of verdicts, their numbers and the lock."""
    for name, verdict in verdicts.items():
        if name not in locked.gates:
            return f'gate "{name}" is not in the lock'
        # At the first that is wrong it ends, so that what follows can count on it.
        if why := next(filter(None, _VerdictCheck(locked, verdicts, locked.gates[name], verdict).steps()), ""):
            return f'gate "{name}" {why}'
    return ""


@dataclass(frozen=True)
class _VerdictCheck:
    """The consistency check of one verdict with its gate.

    Verdicts on other gates of the candidate are context. The `..._error` methods return an error, or an empty text.
    """

    locked: LockedSuite
    verdicts: Verdicts
    gate: Gate
    verdict: Mapping[str, Any]

    def steps(self) -> Iterator[str]:
        """Yield the errors of the verdict; some may be empty.

        Of an ERROR only claim and text are checked, for it lets no export pass.
        """
        gate = self.gate
        claim = {"metric": gate.metric, "claim": gate.claim(), "versus": gate.versus, "blocking": gate.blocking}
        for key, want in claim.items():
            if self.verdict[key] != want:
                yield f"has {key} {schema.format_toml(self.verdict[key])}, but the lock has {schema.format_toml(want)}"
        outcome = Outcome(self.verdict["outcome"])
        if outcome is Outcome.ERROR:
            yield self.words_error()
            return
        metric = self.locked.metric(self.gate)
        yield from (f"is invalid: {mistake}" for mistake in (self.gate.find_metric_mistakes(metric) if metric else ()))
        yield self.numbers_error()
        unmet = (r for r in self.gate.requires if self.verdicts.get(r, {}).get("outcome") != Outcome.PASS)
        yield from (f'is {outcome}, but requires "{name}", which did not pass' for name in unmet)
        yield self.alpha_error()
        yield self.risk_error()
        if self.verdict["p_pass"] is None or self.verdict["p_fail"] is None:
            yield f"is {outcome} without p-values" if outcome is not Outcome.INCONCLUSIVE else ""
        else:
            yield from self.of_rows()
        yield self.words_error()

    def words_error(self) -> str:
        """Return how the claim, notes or text contradict the verdict."""
        v, metric = self.verdict, self.locked.metric(self.gate)
        about, told = v["claim_spec"], [Note(**note) for note in v["notes"]]
        metrics = (metric, None) if v["outcome"] == Outcome.ERROR else (metric,)  # which may be why it is one
        claim = next((one for one in map(self.gate.claim_spec, metrics) if json_safe(asdict(one)) == about), None)
        if claim is None:
            return "has a claim that its gate does not make"
        for note in told:
            keys = _FOUND if note.kind == "found" else _BOUNDS if note.kind == "slice" else ()
            if odd := [key for key in keys if (note.params.get(key) or 0) != (v.get(key) or 0)]:
                said, has = schema.format_toml(note.params.get(odd[0])), schema.format_toml(v.get(odd[0]))
                return f"has {odd[0]} {has}, but its notes say {said}"
        return (
            ""
            if v["why"] == json_safe(verdict_text.format_notes(claim, told))
            else "has a text that differs from its notes"
        )

    def numbers_error(self) -> str:
        """Return the first number that is malformed or out of range."""
        v = self.verdict
        for key in (*_FLOATS, "alpha", "p_pass", "p_fail"):
            x = v[key]
            number = isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)
            if x is not None and not number:
                return f"has {key} {schema.format_toml(x)}, which is not a number"
        for key in ("p_pass", "p_fail"):
            if v[key] is not None and not 0 <= v[key] <= 1:
                return f"has {key} {v[key]}; it must be from 0 to 1"
        counts = {"n": v["n"], "attempt": v["attempt"], "left_out": v["left_out"] or 0}
        counts |= {key: v[key] for key in ("weightless", "won_count", "lost_count")}
        odd = [key for key, x in counts.items() if not isinstance(x, int) or isinstance(x, bool) or x < 0]
        return f"has {odd[0]} {schema.format_toml(counts[odd[0]])}, which is not a count" if odd else ""

    def alpha_error(self) -> str:
        """Return how alpha differs from its share of the gate's alpha.

        Attempts and interim analyses may each spend a part of that.
        """
        about, v = self.locked.about, self.verdict
        alpha, want = v["alpha"], self.gate.alpha or about.alpha
        if alpha is None:
            return "has no alpha"
        budget = v["method"] == "point"  # it takes no risk, so that no attempt is told
        if about.attempts == "spend" and budget:
            return "" if 0 < alpha <= want else f"has alpha {alpha}, but the lock has {want}"
        if about.attempts == "spend":
            if not v["attempt"]:
                return "does not state its attempt number"
            want = attempt_alpha(want, v["attempt"])
        if (most := self.locked.evals.get(self.gate.eval, {}).get("rows_at_most")) is not None and not budget:
            try:
                want = interim_levels([int(n) for n in v["looks"]], int(most), want)[-1]
            except ValueError as error:
                return f"has impossible interim analyses: {error}"
        return "" if _is_near(alpha, want) else f"was decided at alpha {alpha:g} instead of {want:g}"

    def risk_error(self) -> str:
        """Return how the recorded kind of risk contradicts gate and metric."""
        gate, told = self.gate, self.verdict["risk"]
        if self.locked.metric(gate) is None or self.verdict["p_pass"] is None:
            return "" if told in get_args(Risk) else f"has risk {schema.format_toml(told)}, which is unknown"
        if told == "exact" and has_few_drawn_sizes(self.verdict["effective"]):
            return f"claims an exact risk with an effective number of {self.verdict['effective']:.0f} clusters"
        # that clusters are few and uneven is told by the rows, see `recompute`
        fits = told in (self.risk, "approximate")
        return "" if fits else f"has {told or 'no'} risk, but its claim has {self.risk}"

    @property
    def risk(self) -> str:
        """The kind of risk that follows from gate and metric."""
        metric = self.locked.metric(self.gate)
        return self.gate.risk(metric) if metric else ""

    @property
    def is_barred(self) -> bool:
        """Whether the gate's risk forbids it to pass."""
        return self.gate.forbids_risk(str(self.verdict["risk"]))

    def difference_error(self, want: Outcome, because: str) -> str:
        outcome = self.verdict["outcome"]
        return f"is recorded as {outcome}, but {because} {want}" if outcome != want else ""

    # -- one claim about rows ----------------------------------------------------------------------

    def of_rows(self) -> Iterator[str]:
        """Yield the errors of a claim about rows; some may be empty."""
        gate, v, gone = self.gate, self.verdict, self.verdict["left_out"]
        yield self.rows_error()
        if (gone is not None) != gate.clean_only:
            yield (
                "does not state how many rows are leaked"
                if gate.clean_only
                else f"leaves out {gone} rows, but its gate does not have clean_only"
            )
        there = self.locked.left_out.get(gate.eval, {}).get("rows", 0) if gate.clean_only else 0
        if (gone or 0) > there or ((gone or 0) < there and gate.slice is None):
            yield f"leaves out {gone} rows, but the lock lists {there} leaked rows"
        sign, margin, _ = self.oriented
        limit = sign * margin
        if self.gate.relative and not self.metric.is_log:  # a share of the baseline, with slices of the driver's
            found = next((n["params"] for n in v["notes"] if n["kind"] in ("found", "slice")), v)
            limit = self.gate.margin * sign * (found["baseline"] or 0.0)
        if v["threshold"] is None or not _is_near(v["threshold"], limit):
            yield f"has threshold {v['threshold']}, but its claim is about {limit:g}"
        yield self.sides_error()
        # The estimate is made of the values; with slices it is one slice's.
        if v["outcome"] == Outcome.PASS and v["value"] is None and not self.metric.is_log:
            yield "is PASS without a value"
        if v["baseline"] is not None and not gate.versus:
            yield "has a baseline, but its claim is about a number"
        yield gate.kind.find_inconsistency(gate, self.metric, v)
        yield self.runs_error()
        if v["slices"] or len(gate.slices) > 1:
            yield self.sliced_error()
            return
        if (met := self.counted()) is not None:
            if (v["p_pass"], v["p_fail"]) != ((0.0, 1.0) if met else (1.0, 0.0)):
                yield "has p-values that do not follow from its count"
            want = Outcome.PASS if met else Outcome.FAIL
        elif v["method"] in COUNTS:
            yield f'was decided by "{v["method"]}", which does not fit its claim'
            return
        else:
            want = decide_outcome(v["p_pass"], v["p_fail"], v["alpha"])
        if want is Outcome.PASS and self.is_barred:
            want = Outcome.INCONCLUSIVE
        if not (gate.clean_only and v["outcome"] == Outcome.INCONCLUSIVE):  # with the rows that leak it was refuted
            yield self.difference_error(want, "its numbers give")

    def rows_error(self) -> str:
        """Return how the number of judged rows contradicts the lock.

        Early stopping, slices, labels, leaks and weights of 0 reduce it.
        """
        there, n = self.locked.rows.get(self.gate.eval), self.verdict["n"]
        if there is None:
            return ""
        judged = n + self.verdict["weightless"] + (self.verdict["left_out"] or 0)
        fewer = self.gate.slice is not None or self.early or bool(self.verdict["labelled"])
        if judged > there or (judged < there and not fewer):
            return f"was decided on {judged} rows, but the lock has {there}"
        looks = self.locked.looks.get(self.gate.eval)
        if looks and judged not in looks and not self.gate.clean_only:  # looks count the rows that were left out, too
            return f"stopped at {judged} rows, where the lock has no interim analysis"
        return "" if n else "was decided on no rows"

    @property
    def early(self) -> bool:
        return self.locked.evals.get(self.gate.eval, {}).get("stop") == "early"

    @property
    def metric(self) -> Metric:
        if (metric := self.locked.metric(self.gate)) is None:
            raise ValueError(f'"{self.gate.eval}" has no metric "{self.gate.metric_name}"')
        return metric

    @property
    def oriented(self) -> Oriented:
        """The claim turned so that larger is better."""
        return self.gate.kind.oriented(self.gate, self.metric)

    def sides_error(self) -> str:
        """Return an error if the estimate contradicts the outcome.

        An e-process that crossed stays crossed, regardless of later rows, so its bound is compared instead.
        """
        v, sign = self.verdict, self.oriented[0]
        outcome, crossed = v["outcome"], v["method"] == "e-process"
        if crossed and not self.early:
            return "was decided as if it could stop early"
        if self.early and not crossed and self.counted() is None:
            return "can stop early, but was decided as if it could not"
        if outcome == Outcome.INCONCLUSIVE or (not crossed and v["alpha"] > MAX_ALPHA):
            return ""
        side = sign if outcome == Outcome.PASS else -sign
        at = v["estimate"] if not crossed else v["lower"] if side > 0 else v["upper"]
        if at is None:
            return f"is {outcome} without an estimate"
        right = side * (at - v["threshold"]) >= -RELATIVE_TOLERANCE * max(1.0, abs(at), abs(v["threshold"]))
        return "" if right else f"is {outcome} with {at:g}, which is on the wrong side of {v['threshold']:g}"

    def runs_error(self) -> str:
        """Return how a recipe's runs contradict the lock's seeds or the value.

        The value must be the mean of the runs, on the test scale.
        """
        runs, v = self.verdict["runs"], self.verdict
        wanted = 1 + len(self.locked.runs) if self.gate.of == "recipe" else 0
        if len(runs) != wanted:
            return (
                f"has {len(runs)} runs, but the lock has {wanted} seeds" if wanted else "has runs, but claims one model"
            )
        if not runs or v["value"] is None or v["slices"]:
            return ""
        values = [self.metric.to_test_scale(float(run)) for run in (*runs, v["value"])]
        mean = math.fsum(values[:-1]) / wanted
        return "" if _is_near_sum(mean, values[-1]) else f"has value {v['value']:g}, but its runs do not give that"

    def counted(self) -> bool | None:
        """Return whether a count or a budget is met. None if the claim carries a statistical risk."""
        if not (self.gate.kind.counts or self.metric.is_count):
            return None
        sign, v = self.oriented[0], self.verdict
        return bool(sign * (v["estimate"] - v["threshold"]) >= -RELATIVE_TOLERANCE * max(1.0, abs(v["threshold"])))

    def sliced_error(self) -> str:
        """Return how the outcome contradicts its slices.

        Large slices must prove the claim, at least one must exist, and none may be refuted.
        """
        v, alpha = self.verdict, self.verdict["alpha"]
        slices = [(Outcome(s["outcome"]), bool(s["alarm"])) for s in v["slices"]]
        if self.gate.slice is None or not slices:
            return "has slices, but its claim has none" if slices else "lacks its slices"
        if odd := [s["name"] for s in v["slices"] if s["alarm"] != (s["n"] < self.gate.min_n)]:
            return f'treats slice "{odd[0]}" wrongly: min_n is {self.gate.min_n}'
        want = combine_slice_outcomes(slices)
        proven = {Outcome.FAIL: v["p_fail"], Outcome.PASS: v["p_pass"]}.get(want, 0.0)
        if v["outcome"] == Outcome.INCONCLUSIVE and self.gate.clean_only:
            return ""  # with the rows that leak
        if want is Outcome.PASS and self.is_barred:
            return self.difference_error(Outcome.INCONCLUSIVE, "its risk gives")
        unproven = "" if is_significant(proven, alpha) else f"is {want}, but its p-values do not give that"
        return self.difference_error(want, "its slices give") or unproven


def _is_near_sum(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE, abs_tol=RELATIVE_TOLERANCE)


def _is_near(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-300)
