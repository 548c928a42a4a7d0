"""Gate: the assert. Verdict: the assert applied to rows, at a stated risk. Ships: the one rule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from harness import stats
from harness.result import Metric, Result, Sample, Score


class Outcome(StrEnum):
    """What a gate says: proven, refuted, neither, or not evaluated."""

    PASS = "PASS"  # noqa: S105 -- a verdict, not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"


@dataclass(frozen=True)
class Gate:
    """`[[gate]]`: a claim about a metric, against a number or against a baseline on the same rows.

    Margins are in the metric's own units; for a perplexity they are relative (0.02 is 2 %).
    """

    id: str
    metric: str
    where: str
    min: float | None = None
    max: float | None = None
    versus: str | None = None
    better_by: float | None = None
    worse_by_at_most: float | None = None
    severity: Literal["block", "warn"] = "block"
    alpha: float | None = None
    on: list[str] = field(default_factory=list)
    slice: str | None = None

    @property
    def eval(self) -> str:
        return self.metric.partition(".")[0]

    @property
    def metric_name(self) -> str:
        return self.metric.partition(".")[2]

    @property
    def blocking(self) -> bool:
        return self.severity == "block"

    def mistakes(self) -> list[str]:
        """Return what is wrong with the claim itself, whatever the suite."""
        found = []
        if not (self.eval and self.metric_name):
            found.append(f'metric is "{self.metric}", want EVAL.METRIC, for instance "qa.exact_match"')
        margins = [m for m in (self.better_by, self.worse_by_at_most) if m is not None]
        bounds = [b for b in (self.min, self.max) if b is not None]
        if len(margins) + len(bounds) != 1:
            found.append('want one claim: "min", "max", or "versus" with "better_by" or "worse_by_at_most"')
        elif bool(margins) != (self.versus is not None):
            found.append('"versus" goes with "better_by" or "worse_by_at_most"')
        if any(m < 0 or not math.isfinite(m) for m in margins):
            found.append("a margin is zero or more; the metric knows its direction")
        if any(not math.isfinite(b) for b in bounds):
            found.append("a bound is a finite number")
        if self.alpha is not None and not 0 < self.alpha <= 0.5:
            found.append(f"alpha is {self.alpha}, want more than 0 and at most 0.5")
        if self.slice is not None and "=" not in self.slice:
            found.append(f'slice is "{self.slice}", want COLUMN=VALUE')
        return found

    def claim(self) -> str:
        """Say the claim in words."""
        if self.min is not None:
            return f"at least {_plain(self.min)}"
        if self.max is not None:
            return f"at most {_plain(self.max)}"
        if self.worse_by_at_most is not None:
            return f"worse than {self.versus} by at most {_plain(self.worse_by_at_most)}"
        return f"better than {self.versus}" + (f" by {_plain(self.better_by)}" if self.better_by else "")

    def applies_to(self, candidate: str) -> bool:
        return not self.on or candidate in self.on

    def covers(self, sample: Sample) -> bool:
        """Say whether a row is in the gate's slice."""
        if self.slice is None:
            return True
        column, _, value = self.slice.partition("=")
        return str(sample.row.get(column)) == value


@dataclass(frozen=True)
class Verdict:
    """A gate applied to one candidate: estimate and bounds on the claim's scale, and why.

    `estimate`, `lower`, `upper` and `threshold` are the metric's value for a claim about a number,
    and candidate minus baseline for a comparison (of log perplexity: the relative change).
    """

    gate: str
    candidate: str
    outcome: Outcome
    why: str
    metric: str
    claim: str
    blocking: bool
    versus: str | None = None
    value: float | None = None
    baseline: float | None = None
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    threshold: float | None = None
    alpha: float | None = None
    n: int = 0
    clusters: int | None = None
    method: str = ""
    rows_needed: int | None = None
    won: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    digest: str = ""


def judge(
    gate: Gate,
    metric: Metric | None,
    candidate: Result | None,
    baseline: Result | None,
    samples: Sequence[Sample],
    alpha: float,
    *,
    name: str,
    seed: int = 0,
) -> Verdict:
    """Apply a gate to the candidate `name`; whatever is missing, not finite or not paired is an ERROR."""
    about = (gate.metric, gate.claim(), gate.blocking, gate.versus)
    blank = Verdict(gate.id, name, Outcome.ERROR, "", *about, alpha=gate.alpha or alpha)
    covered = [s for s in samples if gate.covers(s)]
    problem = _problem(gate, metric, candidate, baseline, covered)
    if problem or metric is None or candidate is None:
        return replace(blank, why=problem or "there is no result")
    ours = _rows(candidate, covered)
    theirs = _rows(baseline, covered) if baseline else None
    question = _Question(gate, metric, ours, theirs, [s.cluster or s.id for s in covered], blank.alpha or alpha, seed)
    try:
        test = question.answer()
    except ValueError as error:
        return replace(blank, why=str(error))
    won, lost = _flips(metric, ours, theirs) if theirs else ((), ())
    verdict = replace(
        blank,
        value=metric.value(ours),
        baseline=metric.value(theirs) if theirs else None,
        estimate=test.estimate,
        lower=test.lower,
        upper=test.upper,
        threshold=question.threshold,
        n=test.n,
        clusters=test.clusters,
        method=test.method,
        won=won,
        lost=lost,
        digest=candidate.digest,
    )
    return _conclude(verdict, test, question)


def ships(verdicts: Iterable[Verdict], gates: Sequence[Gate], candidate: str) -> list[str]:
    """Return why a candidate may not ship: one line per blocking gate that is not a PASS; empty when it may."""
    said = {v.gate: v for v in verdicts if v.candidate == candidate}
    wanted = [g for g in gates if g.blocking and g.applies_to(candidate)]
    if not wanted:
        return [f"no blocking gate applies to {candidate}"]
    reasons = []
    for gate in wanted:
        verdict = said.get(gate.id)
        if verdict is None:
            reasons.append(f'gate "{gate.id}" has no verdict on {candidate}')
        elif verdict.outcome is not Outcome.PASS:
            reasons.append(f'gate "{gate.id}" is {verdict.outcome} on {candidate}: {verdict.why}')
    return reasons


def _problem(
    gate: Gate, metric: Metric | None, candidate: Result | None, baseline: Result | None, covered: Sequence[Sample]
) -> str:
    """Return why the gate cannot be judged, or nothing."""
    if candidate is None:
        return f'"{gate.eval}" was not evaluated'
    if metric is None:
        return f'"{gate.eval}" has no metric "{gate.metric_name}"'
    if not covered:
        return f'slice "{gate.slice}" has no rows' if gate.slice else "there are no rows"
    if gate.versus:
        if baseline is None:
            return f'the baseline "{gate.versus}" was not evaluated'
        if baseline.digest == candidate.digest:
            return f"is the very model it is compared with (digest {candidate.digest[:12]}); nothing was changed"
    for result in (candidate, baseline):
        if result and (problem := _unfit(result, metric, covered)):
            return f"{result.subject}: {problem}"
    return ""


def _unfit(result: Result, metric: Metric, covered: Sequence[Sample]) -> str:
    scores = {s.id: s for s in result.scores}
    missing = [s.id for s in covered if s.id not in scores]
    if missing:
        return f"{len(missing)} of {len(covered)} rows got no score, {_some(missing)}"
    if metric.combine:
        return "" if math.isfinite(metric.value(_rows(result, covered))) else f"{metric.name} is not a finite number"
    rows = [scores[s.id] for s in covered]
    if lacking := [s.id for s in rows if metric.name not in s.values]:
        return f'{len(lacking)} rows have no "{metric.name}", {_some(lacking)}'
    odd = [s.id for s in rows if not (math.isfinite(s.values[metric.name]) and math.isfinite(s.weight_of(metric.name)))]
    if odd:
        return f"{metric.name} is not a finite number on {len(odd)} rows, {_some(odd)}"
    if math.fsum(s.weight_of(metric.name) for s in rows) <= 0 or any(s.weight_of(metric.name) < 0 for s in rows):
        return f"the weights of {metric.name} do not sum to more than zero"
    return ""


def _some(ids: Sequence[str]) -> str:
    return "for instance " + ", ".join(f'"{i}"' for i in ids[:3])


def _rows(result: Result, covered: Sequence[Sample]) -> list[Score]:
    scores = {s.id: s for s in result.scores}
    return [scores[s.id] for s in covered]


def _flips(metric: Metric, ours: Sequence[Score], theirs: Sequence[Score]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ids of the rows a 0/1 metric won and lost against the baseline."""
    if metric.scale != "proportion":
        return (), ()
    sign = 1 if metric.better == "higher" else -1
    change = {o.id: sign * (o.values[metric.name] - t.values[metric.name]) for o, t in zip(ours, theirs, strict=True)}
    return tuple(i for i, d in change.items() if d > 0), tuple(i for i, d in change.items() if d < 0)


class _Question:
    """One claim about rows, oriented so that larger is better, and the test that statistics.md chooses for it."""

    def __init__(
        self,
        gate: Gate,
        metric: Metric,
        ours: Sequence[Score],
        theirs: Sequence[Score] | None,
        clusters: Sequence[str],
        alpha: float,
        seed: int,
    ) -> None:
        self.metric, self.ours, self.theirs = metric, ours, theirs
        self.alpha, self.seed = alpha, seed
        self.clusters = list(clusters) if len(set(clusters)) < len(clusters) else None
        if gate.versus:
            self.sign = 1 if metric.better == "higher" else -1
            self.margin = gate.better_by if gate.better_by is not None else -(gate.worse_by_at_most or 0.0)
            if metric.scale == "perplexity":
                self.margin = -math.log1p(-self.margin) if self.margin < 1 else math.inf
            self.threshold = self.sign * self.margin
        else:
            bound = gate.min if gate.min is not None else gate.max
            assert bound is not None  # Gate.mistakes saw to it
            self.sign = 1 if gate.min is not None else -1
            self.threshold = math.log(bound) if metric.scale == "perplexity" and bound > 0 else bound
            self.margin = self.sign * self.threshold

    def answer(self) -> stats.Test:
        """Run the test; returns it on the claim's own scale. Raises ValueError when it cannot be run."""
        test = self._test()
        if self.sign > 0 or test.method.startswith("exact binomial"):
            return test
        return replace(test, estimate=-test.estimate, lower=-test.upper, upper=-test.lower)

    def _test(self) -> stats.Test:
        if self.metric.scale == "count":
            return stats.point(self._all(range(len(self.ours))), self.margin, len(self.ours))
        if self.metric.combine:
            return self._bootstrap()
        if self._binary():
            return self._binary_test()
        values, weights = self._values()
        if self.clusters and len(set(self.clusters)) < stats.FEW_CLUSTERS:
            return self._bootstrap()
        return stats.cluster_t(values, weights, self.clusters, self.margin, self.alpha, support=self._support())

    def _binary(self) -> bool:
        rows = [*self.ours, *(self.theirs or ())]
        plain = all(s.values[self.metric.name] in (0, 1) and s.weight_of(self.metric.name) == 1 for s in rows)
        return plain and self.clusters is None and self.metric.scale == "proportion"

    def _binary_test(self) -> stats.Test:
        name, n = self.metric.name, len(self.ours)
        if self.theirs is None:
            right = sum(int(s.values[name]) for s in self.ours)
            if self.sign > 0:
                return stats.binomial(right, n, self.threshold, self.alpha)
            test = stats.binomial(n - right, n, 1 - self.threshold, self.alpha)
            return replace(test, estimate=1 - test.estimate, lower=1 - test.upper, upper=1 - test.lower)
        pairs = zip(self.ours, self.theirs, strict=True)
        changes = [self.sign * (o.values[name] - t.values[name]) for o, t in pairs]
        wins, losses = sum(c > 0 for c in changes), sum(c < 0 for c in changes)
        if self.margin == 0:
            return stats.mcnemar(wins, losses, n, self.alpha)
        return stats.tango(wins, losses, n, -self.margin, self.alpha)

    def _values(self) -> tuple[list[float], list[float]]:
        """Return what each row says of the claim, and its weight: the values, or the paired differences."""
        name = self.metric.name
        weights = [s.weight_of(name) for s in self.ours]
        if self.theirs is None:
            return [self.sign * s.values[name] for s in self.ours], weights
        for o, t in zip(self.ours, self.theirs, strict=True):
            if not math.isclose(o.weight_of(name), t.weight_of(name), rel_tol=1e-9):
                unit = "tokens" if self.metric.scale == "perplexity" else "weight"
                raise ValueError(
                    f'row "{o.id}" has {o.weight_of(name):g} {unit} here and {t.weight_of(name):g} in the baseline; '
                    "with different tokenizers compare bits_per_byte"
                )
        pairs = zip(self.ours, self.theirs, strict=True)
        return [self.sign * (o.values[name] - t.values[name]) for o, t in pairs], weights

    def _all(self, rows: Iterable[int]) -> float:
        """Return the oriented claim's quantity, computed on some of the rows."""
        chosen = list(rows)
        metric = self.metric
        ours = metric.value([self.ours[i] for i in chosen])
        theirs = metric.value([self.theirs[i] for i in chosen]) if self.theirs is not None else None
        if metric.scale == "perplexity":
            ours, theirs = math.log(ours), None if theirs is None else math.log(theirs)
        return self.sign * (ours if theirs is None else ours - theirs)

    def _bootstrap(self) -> stats.Test:
        clusters = self.clusters or [s.id for s in self.ours]
        support = self._support()
        return stats.cluster_bootstrap(self._all, clusters, self.margin, self.alpha, self.seed, support=support)

    def _support(self) -> tuple[float, float] | None:
        """Return the range a row's value can have, oriented, where it is known."""
        if self.metric.scale != "proportion" or self.metric.combine:
            return None
        if self.theirs is not None:
            return -1.0, 1.0
        return (0.0, 1.0) if self.sign > 0 else (-1.0, 0.0)


def _conclude(verdict: Verdict, test: stats.Test, question: _Question) -> Verdict:
    """Turn p-values into an outcome, and say why in one line."""
    alpha = question.alpha
    if test.p_pass <= alpha:
        outcome = Outcome.PASS
    elif test.p_fail <= alpha:
        outcome = Outcome.FAIL
    else:
        outcome = Outcome.INCONCLUSIVE
    needed = stats.rows_needed(test, question.threshold, alpha) if outcome is Outcome.INCONCLUSIVE else None
    verdict = replace(verdict, outcome=outcome, rows_needed=needed)
    return replace(verdict, why=_why(verdict, question))


def _why(verdict: Verdict, question: _Question) -> str:
    """Say estimate, interval, rows and method; for an inconclusive one how many rows would decide it."""
    estimate, lower, upper = (float(x or 0.0) for x in (verdict.estimate, verdict.lower, verdict.upper))
    perplexity = question.metric.scale == "perplexity"
    if question.theirs is not None:
        change = [math.expm1(x) if perplexity else x for x in (estimate, lower, upper)]
        digits = "+.1%" if perplexity else "+.4g" if question.metric.scale != "proportion" else "+.3f"
        text = f"{_number(verdict.value)} against {_number(verdict.baseline)}"
        text += f", {change[0]:{digits}} [{change[1]:{digits}}, {change[2]:{digits}}]"
        if verdict.won or verdict.lost:
            text += f", {len(verdict.won)} won and {len(verdict.lost)} lost"
    else:
        values = [math.exp(x) if perplexity else x for x in (estimate, lower, upper)]
        text = f"{_number(values[0])} [{_number(values[1])}, {_number(values[2])}]"
    if verdict.method == "point":
        return text.partition(" [")[0]
    text += f", n={verdict.n}" + (f" in {verdict.clusters} clusters" if verdict.clusters else "")
    text += f", {verdict.method}"
    if verdict.rows_needed:
        text += f"; about {verdict.rows_needed} rows would decide it"
    elif verdict.outcome is Outcome.INCONCLUSIVE:
        text += "; more rows like these would not decide it"
    return text


def _plain(x: float) -> str:
    return f"{x:,.0f}" if x == int(x) and abs(x) >= 1000 else f"{x:g}"


def _number(x: Any) -> str:
    if x is None:
        return "–"
    return f"{x:.3f}" if abs(x) < 10 else f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.2f}"
