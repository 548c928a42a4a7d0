"""Verdicts of the evidence against the claims in the lock: every outcome is made again from its own numbers.

With the standard library alone, so nothing is known of the rows: a producer who makes up all numbers alike is found
by `harness.release.recompute`, and one who makes up the rows by `harness verify --replay`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.claims.hypothesis import Hypothesis
from harness.internals import schema
from harness.records.gates import COUNTED, Gate
from harness.records.verdicts import Outcome
from harness.release.locked import Locked
from harness.stats.multiple import levels
from harness.stats.tests import holm, spent

NEAR = 1e-9  # relative, by which numbers may differ that are the same in the evidence
SUMS = 1e-6  # by which an estimate may differ from the values it is made of: rows were summed in another order
SURE = 0.25  # the largest alpha at which a claim that is proven has its estimate on the right side for certain
COUNTS = ("point", "failures counted")  # methods that take no risk: their p-values are 0 and 1
Verdicts = Mapping[str, Mapping[str, Any]]  # by the id of their gate
_FLOATS = ("value", "baseline", "estimate", "lower", "upper", "threshold", "whole", "whole_baseline")


def verdicts_error(locked: Locked, verdicts: Verdicts) -> str:
    """Return the first of what verdicts say that does not follow from their numbers and the lock, or nothing."""
    for name, verdict in verdicts.items():
        if name not in locked.gates:
            return f'gate "{name}" is not in the lock'
        if why := _Case(locked, verdicts, locked.gates[name], verdict).error():
            return f'gate "{name}" {why}'
    return ""


@dataclass(frozen=True)
class _Case:
    """One verdict, its gate, and the other verdicts on the candidate."""

    locked: Locked
    verdicts: Verdicts
    gate: Gate
    verdict: Mapping[str, Any]

    def error(self) -> str:
        """Return what is wrong with the verdict, or nothing."""
        return next((why for step in self.steps() if (why := step())), "")

    def steps(self) -> Iterator[Callable[[], str]]:
        """Yield what is asked; of a gate that could not be judged nothing but its claim, for it passes nothing."""
        yield self.claim_error
        if Outcome(self.verdict["outcome"]) is Outcome.ERROR:
            return
        yield self.meant_error
        yield self.numbers_error
        yield self.requirements_error
        yield self.alpha_error
        if self.gate.any_of:
            yield self.group_error
        elif self.verdict["p_pass"] is None or self.verdict["p_fail"] is None:
            yield self.unjudged_error
        else:
            yield from (self.rows_error, self.left_out_error, self.threshold_error)
            yield from (self.sides_error, self.sums_error, self.outcome_error)

    # -- the claim ---------------------------------------------------------------------------------

    def claim_error(self) -> str:
        """Return how the claim differs from the lock's, or nothing."""
        gate = self.gate
        claim = {"metric": gate.metric, "claim": gate.claim(), "versus": gate.versus, "blocking": gate.blocking}
        for key, want in (claim | {"group": gate.group}).items():
            if self.verdict[key] != want:
                return f"has {key} {schema.show(self.verdict[key])}, the lock {schema.show(want)}"
        return ""

    def meant_error(self) -> str:
        """Return why the claim cannot be meant for its metric, or nothing."""
        metric = self.locked.metric(self.gate)
        mistakes = self.gate.mistakes_on(metric) if metric else []
        return f"is refused: {mistakes[0]}" if mistakes else ""

    def numbers_error(self) -> str:
        """Return which number is none, or out of its range, or nothing."""
        v = self.verdict
        for key in (*_FLOATS, "alpha", "p_pass", "p_fail"):
            if v[key] is not None and not (_is_number(v[key]) and math.isfinite(v[key])):
                return f"has {key} {schema.show(v[key])}, which is no number"
        for key in ("p_pass", "p_fail"):
            if v[key] is not None and not 0 <= v[key] <= 1:
                return f"has {key} {v[key]}, want 0 to 1"
        counts = {"n": v["n"], "attempt": v["attempt"], "left_out": v["left_out"] or 0, "weightless": self.weightless}
        counts |= {key: v.get(key, 0) for key in ("won_count", "lost_count")}  # which older evidence does not tell
        odd = [key for key, x in counts.items() if not isinstance(x, int) or isinstance(x, bool) or x < 0]
        return f"has {odd[0]} {schema.show(counts[odd[0]])}, which counts nothing" if odd else ""

    def requirements_error(self) -> str:
        """Return which gate that it requires did not pass, or nothing."""
        unmet = [r for r in self.gate.requires if self.verdicts.get(r, {}).get("outcome") != Outcome.PASS]
        return f'is {self.verdict["outcome"]}, but requires "{unmet[0]}", which did not pass' if unmet else ""

    def alpha_error(self) -> str:
        """Return how the risk differs from the gate's, or from the share of it that an attempt has, or nothing."""
        about, v = self.locked.about, self.verdict
        alpha, want = v["alpha"], self.gate.alpha or about.alpha
        attempt = self.verdicts[self.gate.group]["attempt"] if self.gate.group else v["attempt"]
        if alpha is None:
            return "has no alpha"
        if about.attempts == "spend" and self.budget():
            return "" if 0 < alpha <= want else f"has alpha {alpha}, the lock {want}"
        if about.attempts == "spend":
            if not attempt:
                return "does not say which attempt it was"
            want = spent(want, attempt)
        if (most := self.locked.evals.get(self.gate.eval, {}).get("rows_at_most")) is not None and not self.budget():
            try:
                want = levels([int(n) for n in v.get("looks", ())], int(most), want)[-1]
            except ValueError as error:
                return f"has looks that there cannot be: {error}"
        return "" if _near(alpha, want) else f"was judged at alpha {alpha:g}, want {want:g}"

    def budget(self) -> bool:
        """Return whether it takes no risk, so that no attempt is told."""
        return bool(self.verdict["method"] == "point")

    # -- groups, and what a caveat keeps shut ------------------------------------------------------

    def group_error(self) -> str:
        """Return how the verdict differs from what its members come to, or nothing.

        As in `pipeline.adjudication`: Holm (1979) over their p-values, and one proven is enough.
        """
        if lacking := [m for m in self.gate.any_of if m not in self.verdicts]:
            return f'is any of several, of which "{lacking[0]}" has no verdict'
        members = [self.verdicts[m] for m in self.gate.any_of]
        if counts := next((m["gate"] for m in members if m["method"] in COUNTS), ""):  # before it was refused
            return f'is any of several, one of them "{counts}", {COUNTED}'
        outcomes = {m["outcome"] for m in members}
        if Outcome.PASS in outcomes or Outcome.ERROR in outcomes:
            want = Outcome.PASS if Outcome.PASS in outcomes else Outcome.ERROR
        else:
            want = Outcome.FAIL if outcomes == {Outcome.FAIL} else Outcome.INCONCLUSIVE
        p_pass = min(self.adjusted(self.gate.any_of).values())
        p_fail = max(1.0 if m["p_fail"] is None else m["p_fail"] for m in members)
        for key, p in (("p_pass", p_pass), ("p_fail", p_fail)):
            if self.verdict[key] is None or not _near(self.verdict[key], p):
                return f"has {key} {self.verdict[key]}, its members come to {p:g}"
        return self.difference_error(want, "its members say")

    def adjusted(self, members: Sequence[str]) -> dict[str, float]:
        """Return the members' p-values by Holm; one that could not be judged counts as 1."""
        p = [self.verdicts[m]["p_pass"] if m in self.verdicts else None for m in members]
        return dict(zip(members, holm([1.0 if x is None else x for x in p]), strict=True))

    def unjudged_error(self) -> str:
        """Return that an outcome has no p-values to follow from, or nothing."""
        outcome = self.verdict["outcome"]
        return f"is {outcome} without p-values" if outcome != Outcome.INCONCLUSIVE else ""

    def difference_error(self, want: Outcome, because: str) -> str:
        """Return that the outcome is not the one wanted, because of what, or nothing."""
        outcome = self.verdict["outcome"]
        return f"is told to be {outcome}, {because} {want}" if outcome != want else ""

    # -- one claim about rows ----------------------------------------------------------------------

    def rows_error(self) -> str:
        """Return how the rows judged differ from the lock's, or nothing.

        Early stopping, slices, leaks and weights of 0 make them fewer.
        """
        there, n = self.locked.rows.get(self.gate.eval), self.verdict["n"]
        if there is None:
            return ""
        judged = n + self.weightless + (self.verdict["left_out"] or 0) + self.verdict.get("copies", 0)
        fewer = self.gate.slice is not None or self.early
        if judged > there or (judged < there and not fewer):
            return f"was judged on {judged} rows, the lock has {there}"
        looks = self.locked.looks.get(self.gate.eval)
        if looks and judged not in looks and not self.gate.clean_only:  # looks count the rows that were left out, too
            return f"stopped at {judged} rows, where the lock has no look"
        return "" if n else "was judged on no row"

    @property
    def weightless(self) -> Any:
        return self.verdict.get("weightless", 0)  # older evidence counts such rows among the others

    def left_out_error(self) -> str:
        """Return how the number of rows that leak differs from the lock's, or nothing."""
        gone, gate = self.verdict["left_out"], self.gate
        if (gone is not None) != gate.clean_only:
            return "does not say how many rows leak" if gate.clean_only else f"was judged without {gone} rows"
        there = self.locked.left_out.get(gate.eval, {}).get("rows", 0) if gate.clean_only else 0
        if (gone or 0) > there or ((gone or 0) < there and gate.slice is None):
            return f"was judged without {gone} rows, the lock tells of {there} that leak"
        return ""

    @property
    def early(self) -> bool:
        return self.locked.evals.get(self.gate.eval, {}).get("stop") == "early"

    @property
    def hypothesis(self) -> Hypothesis:
        """The claim with its threshold and direction, put to no row."""
        metric = self.locked.metric(self.gate)
        if metric is None:
            raise ValueError(f'"{self.gate.eval}" has no metric "{self.gate.metric_name}"')
        return Hypothesis(self.gate, metric, [], None, [], self.verdict["alpha"])

    def threshold_error(self) -> str:
        """Return that the threshold is not the claim's, or nothing."""
        want, threshold = self.hypothesis.threshold, self.verdict["threshold"]
        fits = threshold is not None and _near(threshold, want)
        return "" if fits else f"has threshold {threshold}, its claim is about {want:g}"

    def sides_error(self) -> str:
        """Return that the estimate is on the wrong side of the threshold, so neither proven nor refuted, or nothing.

        A wealth that crossed is never taken back, whatever rows came later: its bound is on the side it crossed.
        """
        v, sign = self.verdict, self.hypothesis.sign
        outcome, crossed = v["outcome"], v["method"] == "e-process"
        if crossed and not self.early:
            return "was judged as if it could stop early"
        if self.early and not crossed and self.counted() is None:
            return "stops early, and was judged as if it could not"
        if outcome == Outcome.INCONCLUSIVE or (not crossed and v["alpha"] > SURE):
            return ""
        side = sign if outcome == Outcome.PASS else -sign
        at = v["estimate"] if not crossed else v["lower"] if side > 0 else v["upper"]
        if at is None:
            return f"is {outcome} without an estimate"
        beyond = side * (at - v["threshold"])
        right = beyond >= -_slack(at, v["threshold"])
        return "" if right else f"is {outcome} with {at:g}, on the wrong side of {v['threshold']:g}"

    def sums_error(self) -> str:
        """Return how the estimate differs from the values it is made of, or nothing; with slices it is one slice's."""
        v, hypothesis = self.verdict, self.hypothesis
        value, baseline, estimate = v["value"], v["baseline"], v["estimate"]
        if v["outcome"] == Outcome.PASS and value is None and not hypothesis.metric.is_log:
            return "is PASS without a value"
        if (baseline is not None) and not self.gate.versus:
            return "has a baseline, its claim is about a number"
        if self.gate.max_failures is not None:
            return self.failures_error()
        if v["slices"] or v["method"] == "e-process" or self.gate.cap is not None:
            return ""
        if estimate is None or value is None or (self.gate.versus and baseline is None):
            return "" if hypothesis.metric.is_log else "lacks its value or its baseline"
        if hypothesis.metric.is_log:
            value, baseline = math.log(value), None if baseline is None else math.log(baseline)
        terms = [value] if baseline is None else [value, -hypothesis.factor * baseline]
        fits = abs(math.fsum(terms) - estimate) <= SUMS * max(1.0, *map(abs, terms))
        return "" if fits else f"has estimate {estimate:g}, its values come to {math.fsum(terms):g}"

    def failures_error(self) -> str:
        """Return why a count of rows that failed cannot be, by how many there are and by the value, or nothing."""
        v, better = self.verdict, self.hypothesis.metric.better
        if not (0 <= v["estimate"] <= v["n"] and v["estimate"] == int(v["estimate"])):
            return f"counts {v['estimate']:g} failures of {v['n']} rows"
        perfect = 1.0 if better == "higher" else 0.0
        return f"counts no failure, its value is {v['value']}" if not v["estimate"] and v["value"] != perfect else ""

    def outcome_error(self) -> str:
        """Return how the outcome differs from what its numbers come to, or nothing."""
        v, alpha = self.verdict, self.verdict["alpha"]
        if v["slices"] or len(self.gate.slices) > 1:
            return self.sliced_error()
        if (met := self.counted()) is not None:
            if (v["p_pass"], v["p_fail"]) != ((0.0, 1.0) if met else (1.0, 0.0)):
                return "has p-values that its count does not come to"
            want = Outcome.PASS if met else Outcome.FAIL
        elif v["method"] in COUNTS:
            return f'was judged as "{v["method"]}", which its claim is not'
        else:
            want = _by_p(v["p_pass"], v["p_fail"], alpha)
        if want is Outcome.PASS and self.gate.group:
            beside = self.locked.gates[self.gate.group].any_of
            want = want if self.adjusted(beside)[self.gate.id] <= alpha else Outcome.INCONCLUSIVE
        if self.gate.clean_only and v["outcome"] == Outcome.INCONCLUSIVE:
            return ""  # with the rows that leak it was refuted
        return self.difference_error(want, "its numbers say")

    def counted(self) -> bool | None:
        """Return whether a count or a budget is met, or None where the claim is about a risk."""
        v, hypothesis, gate = self.verdict, self.hypothesis, self.gate
        if gate.max_failures is not None:
            return bool(v["estimate"] <= gate.max_failures)
        if hypothesis.metric.is_count:
            return bool(hypothesis.sign * v["estimate"] >= hypothesis.margin)
        return None

    def sliced_error(self) -> str:
        """Return how the outcome differs from what its slices come to, or nothing.

        Large ones must prove the claim, and there must be one; none may be refuted.
        """
        v, alpha = self.verdict, self.verdict["alpha"]
        slices = [(Outcome(s["outcome"]), bool(s["alarm"])) for s in v["slices"]]
        if self.gate.slice is None or not slices:
            return "has slices, its claim none" if slices else "lacks its slices"
        if odd := [s["name"] for s in v["slices"] if s["alarm"] != (s["n"] < self.gate.min_n)]:
            return f'takes slice "{odd[0]}" for what it is not: min_n is {self.gate.min_n}'
        large = [outcome for outcome, alarm in slices if not alarm]
        if any(outcome is Outcome.FAIL for outcome, _ in slices):
            want, proven = Outcome.FAIL, v["p_fail"] <= alpha
        elif large and all(outcome is Outcome.PASS for outcome in large):
            want, proven = Outcome.PASS, v["p_pass"] <= alpha
        else:
            want, proven = Outcome.INCONCLUSIVE, True
        if v["outcome"] == Outcome.INCONCLUSIVE and (self.gate.group or self.gate.clean_only):
            return ""  # by Holm, or with the rows that leak
        if want is Outcome.PASS and self.gate.group:
            beside = self.locked.gates[self.gate.group].any_of
            proven = self.adjusted(beside)[self.gate.id] <= alpha
        return self.difference_error(want, "its slices say") or (
            "" if proven else f"is {want}, its p-values do not say so"
        )


def _by_p(p_pass: float, p_fail: float, alpha: float) -> Outcome:
    if p_pass <= alpha:
        return Outcome.PASS
    return Outcome.FAIL if p_fail <= alpha else Outcome.INCONCLUSIVE


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _near(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=NEAR, abs_tol=1e-300)


def _slack(*numbers: float) -> float:
    return NEAR * max(1.0, *map(abs, numbers))
