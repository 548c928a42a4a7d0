"""Gate + rows -> Verdict: what cannot be judged is an ERROR, slices are judged each, and a line says why."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from harness.gates.hypothesis import Answer, Question
from harness.gates.needed import CLOSE, Needed, rows_needed
from harness.records.gates import Gate, Outcome, Slice, Verdict
from harness.records.metrics import Metric
from harness.records.samples import Caveat, Labels, Result, Sample, Score
from harness.stats import tests
from harness.stats.tests import holm

SIZES = "cluster sizes tell of the outcome"
NAMED = 3  # rows and slices that a line names as examples


@dataclass(frozen=True)
class _Case:
    """What a gate is judged on."""

    gate: Gate
    metric: Metric
    candidate: dict[str, Score]
    baseline: dict[str, Score] | None
    alpha: float
    blank: Verdict
    early: bool = False
    labels: Labels | None = None

    def question(self, rows: Sequence[Sample]) -> Question:
        ours = [self.candidate[s.id] for s in rows]
        theirs = [self.baseline[s.id] for s in rows] if self.baseline is not None else None
        clusters = [s.cluster or s.id for s in rows]
        how: dict[str, Any] = {"early": self.early, "labels": self.labels}
        return Question(self.gate, self.metric, ours, theirs, clusters, self.alpha, **how)

    def part(self, rows: Sequence[Sample], question: Question) -> _Part:
        """Judge some of the rows by themselves. Raises ValueError when nothing can be said of them."""
        answer = question.answer(ties=True)
        return _Part(answer, _conclude(_measured(self.blank, question), answer, question))


@dataclass(frozen=True)
class _Part:
    """One slice judged by itself."""

    answer: Answer
    verdict: Verdict


def judge(
    gate: Gate,
    metric: Metric | None,
    candidate: Result | None,
    baseline: Result | None,
    samples: Sequence[Sample],
    alpha: float,
    *,
    name: str,
    columns: Sequence[str] = (),
    without: Collection[str] = (),
) -> Verdict:
    """Apply a gate to the candidate `name` at risk `alpha`; what is missing, not finite or not paired is an ERROR.

    `columns` are the eval's slices, of which the worst is named when the claim was not proven; `without` holds ids
    of rows that are left out (`harness.gates.contamination`).
    """
    blank = unjudged(gate, name, "", alpha)
    if shut := _shut(gate, candidate, baseline):
        outcome = Outcome.INCONCLUSIVE if shut.outcome == "INCONCLUSIVE" else Outcome.ERROR  # a caveat opens no gate
        return replace(blank, outcome=outcome, why=shut.text)
    kept = [s for s in samples if s.id not in without] if without else samples
    parts = gate.parts(kept)
    covered = list({s.id: s for rows in parts.values() for s in rows}.values()) if gate.slice else list(kept)
    if candidate and candidate.order:
        by_id = {s.id: s for s in kept}
        covered = [by_id[i] for i in candidate.order if i in by_id]
    ours, theirs = (None if r is None else {s.id: s for s in r.scores} for r in (candidate, baseline))
    problem = _problem(gate, metric, candidate, baseline, parts)
    if problem or metric is None or candidate is None or ours is None:
        return replace(blank, why=problem or "there is no result")
    blank = replace(blank, digest=candidate.digest)
    labels = candidate.labels_of(metric.name)
    if labels and (gate.slice or gate.estimand == "clusters"):
        of = "slices" if gate.slice else "the mean over clusters"
        return replace(blank, why=f"the labels that correct {metric.name} are of all rows, and tell nothing of {of}")
    case = _Case(gate, metric, ours, theirs, alpha, blank, early=bool(candidate.order), labels=labels)
    for result, scores in ((candidate, ours), (baseline, theirs)):
        if result and scores is not None and (problem := _unfit(result, scores, metric, covered, samples)):
            return replace(blank, n=len(covered), why=f"{result.subject}: {problem}")
    question = case.question(covered)
    blank = _measured(blank, question)
    try:
        if len(parts) > 1 or (gate.slice and blank.n < gate.min_n):
            return _each(case, question, blank, parts)
        verdict = _conclude(blank, question.answer(), question)
    except ValueError as error:
        return replace(blank, why=str(error))
    whole = gate.slice is None and not case.early
    return replace(verdict, driver=_worst(case, verdict, covered, columns) if whole else "")


def _measured(blank: Verdict, question: Question) -> Verdict:
    """Add what was measured on a question's rows, and on how many."""
    n, weightless = len(question.ours), question.weightless
    return replace(blank, value=question.value, baseline=question.baseline, n=n, weightless=weightless)


def unjudged(gate: Gate, candidate: str, why: str, alpha: float) -> Verdict:
    """Return the ERROR of a gate that was not put to any row."""
    about = (gate.metric, gate.claim(), gate.blocking, gate.versus)
    return Verdict(gate.id, candidate, Outcome.ERROR, why, *about, alpha=alpha, group=gate.group)


def told_by_sizes(why: str) -> str:
    """Return what a reason says of clusters whose sizes tell of the outcome, or nothing."""
    return next((part for part in why.split("; ") if part.startswith(SIZES)), "")


# -- what cannot be judged -------------------------------------------------------------------------


def _shut(gate: Gate, *results: Result | None) -> Caveat | None:
    """Return the caveat that keeps a gate from being decided by its rows, an ERROR before an INCONCLUSIVE."""
    found = [c for r in results if r for c in r.caveats if c.shuts(gate.metric_name)]
    return min(found, key=lambda c: c.outcome != "ERROR", default=None)


def _problem(
    gate: Gate,
    metric: Metric | None,
    candidate: Result | None,
    baseline: Result | None,
    parts: dict[str, list[Sample]],
) -> str:
    """Return why the gate cannot be judged, or nothing."""
    if candidate is None:
        return f'"{gate.eval}" was not evaluated'
    if metric is None:
        return f'"{gate.eval}" has no metric "{gate.metric_name}"'
    if not parts:
        return "there are no rows"
    if empty := [name for name, rows in parts.items() if not rows]:
        return f'slice "{empty[0]}" has no rows' if gate.slice else "there are no rows"
    if gate.versus:
        if baseline is None:
            return f'the baseline "{gate.versus}" was not evaluated'
        if baseline.digest == candidate.digest:
            return f"is the very model it is compared with (digest {candidate.digest[:12]}); nothing was changed"
        if candidate.rows and baseline.rows and candidate.rows != baseline.rows:
            return f'the baseline "{gate.versus}" was evaluated on other rows than the candidate'
    return ""


def _unfit(
    result: Result, scores: dict[str, Score], metric: Metric, covered: Sequence[Sample], samples: Sequence[Sample]
) -> str:
    """Return what is wrong with a result's rows, or nothing."""
    missing = [s.id for s in covered if s.id not in scores]
    if missing:
        return f"{len(missing)} of {len(covered)} rows got no score, {_some(missing)}"
    if strange := list(scores.keys() - {s.id for s in samples}):
        return f"was evaluated on {len(strange)} rows that are not the gate's, {_some(strange)}"
    if len(scores) < len(result.scores):
        return "scored a row twice"
    rows = [scores[s.id] for s in covered]
    if metric.scale == "agreement":
        return ""  # of labels, and of no row
    if metric.combine:
        return "" if math.isfinite(metric.value(rows)) else f"{metric.name} is not a finite number"
    name = metric.name
    if lacking := [s.id for s in rows if name not in s.values]:
        return f'{len(lacking)} rows have no "{name}", {_some(lacking)}'
    values, weights = [s.values[name] for s in rows], [s.weight_of(name) for s in rows]
    finite = [math.isfinite(v) and math.isfinite(w) for v, w in zip(values, weights, strict=True)]
    if not all(finite):
        odd = [s.id for s, fine in zip(rows, finite, strict=True) if not fine]
        return f"{name} is not a finite number on {len(odd)} rows, {_some(odd)}"
    if math.fsum(weights) <= 0 or min(weights) < 0:
        return f"the weights of {name} do not sum to more than zero"
    if metric.scale == "proportion" and not (min(values) >= 0 and max(values) <= 1):
        beyond = [s.id for s, v in zip(rows, values, strict=True) if not 0 <= v <= 1]
        return f"{name} is a proportion, and not from 0 to 1 on {len(beyond)} rows, {_some(beyond)}"
    return ""


def _some(ids: Sequence[str]) -> str:
    return "for instance " + ", ".join(f'"{i}"' for i in ids[:NAMED])


# -- one question ----------------------------------------------------------------------------------


def _conclude(blank: Verdict, answer: Answer, question: Question) -> Verdict:
    """Turn p-values into an outcome, and say why in one line."""
    test = answer.test
    won, lost = question.flips()
    outcome = _outcome(test.p_pass, test.p_fail, question.alpha)
    verdict = replace(
        blank,
        outcome=outcome,
        estimate=test.estimate,
        lower=test.lower,
        upper=test.upper,
        threshold=question.threshold,
        p_pass=test.p_pass,
        p_fail=test.p_fail,
        clusters=test.clusters,
        effective=test.effective if test.clusters else None,
        method=test.method,
        won=won,
        lost=lost,
    )
    if outcome is Outcome.INCONCLUSIVE and not question.labels:  # of which there would have to be more, too
        discordance = (len(won) + len(lost)) / len(question.ours)
        needed = rows_needed(test, question.threshold, question.alpha, discordance)
        verdict = _open(verdict, needed, len(question.ours) / test.n)
    return replace(verdict, why=_why(verdict, question))


def _open(verdict: Verdict, needed: Needed | None, each: float) -> Verdict:
    """Return a verdict with the rows that are needed, of so many `each` as stand behind what was counted."""
    if needed is None:
        return verdict
    rows, least, most = (x and math.ceil(x * each) for x in (needed.rows, needed.least, needed.most))
    return replace(verdict, rows_needed=rows, rows_range=None if least is None else (least, most))


def _outcome(p_pass: float, p_fail: float, alpha: float) -> Outcome:
    if p_pass <= alpha:
        return Outcome.PASS
    return Outcome.FAIL if p_fail <= alpha else Outcome.INCONCLUSIVE


# -- slices ----------------------------------------------------------------------------------------


def _each(case: _Case, whole: Question, blank: Verdict, parts: dict[str, list[Sample]]) -> Verdict:
    """Judge every slice by itself: large ones must prove the claim, small ones may only show that it is broken.

    Raises ValueError when no row changed, or when no slice can say anything.
    """
    if whole.theirs is not None and not whole.changed():
        whole.refuse_ties()
    asked: dict[str, _Part] = {}
    mute: list[str] = []
    for name, rows in parts.items():
        question = case.question(rows)
        try:
            asked[name] = case.part(rows, question)
        except ValueError as error:
            if len(question.ours) >= case.gate.min_n or (name in case.gate.slices and not question.ours):
                raise ValueError(f"{name}: {error}") from None
            mute.append(name)
    if not asked:
        raise ValueError(f"none of {len(parts)} slices has rows enough to say anything")
    slices, outcome, p_fail = _judged(case, asked)
    driver = _driver(slices, asked)
    here = asked[driver.name].verdict
    must = [asked[s.name].answer.test.p_pass for s in slices if not s.alarm]
    verdict = replace(here, value=blank.value, baseline=blank.baseline, n=blank.n, weightless=blank.weightless)
    verdict = replace(verdict, outcome=outcome, slices=tuple(slices), driver=driver.name)
    verdict = replace(verdict, p_pass=max(must, default=1.0), p_fail=p_fail)
    if not (must and outcome is Outcome.INCONCLUSIVE):
        verdict = replace(verdict, rows_needed=None, rows_range=None)
    return replace(verdict, why=_why_slices(verdict, driver, mute, case.gate.min_n))


def _judged(case: _Case, asked: dict[str, _Part]) -> tuple[list[Slice], Outcome, float]:
    """Return every slice's outcome, the gate's, and the p-value of none being broken.

    That all large slices pass needs no correction for being several; that one of all is broken does, by Holm.
    Alarms prove nothing, so without a large slice the gate is not proven.
    """
    harm = holm([part.answer.test.p_fail for part in asked.values()])
    slices = []
    for (name, part), p_fail in zip(asked.items(), harm, strict=True):
        n, test = part.verdict.n, part.answer.test
        outcome = _outcome(test.p_pass, p_fail, case.alpha)
        slices.append(Slice(name, n, outcome, n < case.gate.min_n, part.verdict.why, test.lower, test.upper))
    if any(s.outcome is Outcome.FAIL for s in slices):
        return slices, Outcome.FAIL, min(harm)
    large = [s.outcome for s in slices if not s.alarm]
    return slices, Outcome.PASS if set(large) == {Outcome.PASS} else Outcome.INCONCLUSIVE, min(harm)


def _driver(slices: Sequence[Slice], asked: dict[str, _Part]) -> Slice:
    """Return the slice that decides: the worst by its upper bound of those that failed or of alarms alone, else the
    worst by its lower bound of those that must prove the claim."""
    failed = [s for s in slices if s.outcome is Outcome.FAIL]
    large = [s for s in slices if not s.alarm]
    if failed or not large:
        return min(failed or slices, key=lambda s: asked[s.name].answer.upper)
    return min(large, key=lambda s: asked[s.name].answer.lower)


def _worst(case: _Case, verdict: Verdict, covered: Sequence[Sample], columns: Sequence[str]) -> str:
    """Name the slice that is worst by its upper bound, where the whole was not proven and the test is quick."""
    if (
        case.labels
        or verdict.outcome is Outcome.PASS
        or verdict.method in ("point", "failures counted", "cluster bootstrap")
    ):
        return ""
    found: list[tuple[float, str]] = []
    for column in columns:
        groups: dict[str, list[Sample]] = {}
        for sample in covered:
            groups.setdefault(f"{column}={sample.row.get(column)}", []).append(sample)
        for name, rows in groups.items() if len(groups) > 1 else ():
            question = case.question(rows)
            few = question.clusters is not None and len(set(question.clusters)) < tests.FEW_CLUSTERS
            if len(question.ours) < case.gate.min_n or few:
                continue
            with suppress(ValueError):  # a slice of which nothing can be said drives nothing
                part = case.part(rows, question)
                found.append((part.answer.upper, f"{name}: {part.verdict.why.partition('; ')[0]}"))
    return min(found)[1] if found else ""


# -- words -----------------------------------------------------------------------------------------


def _why(verdict: Verdict, question: Question) -> str:
    """Say estimate, interval, rows and method; for an inconclusive one how many rows would decide it."""
    if verdict.method == "failures counted":
        return _why_failures(verdict, question)
    estimate, lower, upper = (float(x or 0.0) for x in (verdict.estimate, verdict.lower, verdict.upper))
    if question.theirs is not None:
        text = f"{_number(verdict.value)} against {_number(verdict.baseline)}, "
        text += _change(question, verdict, estimate, lower, upper)
        if question.metric.scale == "proportion" and (verdict.won or verdict.lost):
            text += f", {len(verdict.won)} won and {len(verdict.lost)} lost"
    else:
        text = _interval(question, estimate, lower, upper)
    if verdict.method == "point":
        return text.partition(" [")[0]
    text += f", n={verdict.n}{_clusters(verdict, question)}, {verdict.method}"
    text += _sizes(verdict, question)
    if verdict.weightless:
        text += f"; {verdict.weightless} rows of weight 0 do not count"
    if verdict.outcome is Outcome.INCONCLUSIVE and question.labels:
        return f"{text}; more labels would decide it" + (
            "" if question.metric.scale == "agreement" else ", or more rows"
        )
    return text + (f"; {more_rows(verdict)}" if verdict.outcome is Outcome.INCONCLUSIVE else "")


def more_rows(verdict: Verdict, unit: str = "rows") -> str:
    """Return how many rows would decide an inconclusive verdict, in words."""
    if verdict.rows_needed is None:
        return "more rows like these would not decide it"
    if verdict.rows_range is None:
        return f"too close to call: more than {CLOSE} times these rows would be needed"
    least, most = verdict.rows_range
    if most is None:
        return f"at least {_about(least)} {unit} would be needed"
    rows = dict.fromkeys([_about(least), _about(most)])
    return f"about {' to '.join(rows)} {unit} would decide it"


def _about(rows: int) -> str:
    """Write a number of rows with two digits that count, rounded up."""
    step = 10 ** max(len(str(rows)) - 2, 0)
    return f"{-(-rows // step) * step:,}"


def _change(question: Question, verdict: Verdict, estimate: float, lower: float, upper: float) -> str:
    if question.gate.relative and question.metric.scale != "perplexity":
        share = (verdict.value or 0.0) / verdict.baseline - 1 if verdict.baseline else math.nan
        rest = f"{estimate:+.3g} [{lower:+.3g}, {upper:+.3g}]"
        return f"{share:+.1%}, {rest} from {question.factor:g} of the baseline"
    return _interval(question, estimate, lower, upper)


def _interval(question: Question, estimate: float, lower: float, upper: float) -> str:
    said, low, high = (_figure(question, x) for x in (estimate, lower, upper))
    return f"{said} [{low}, {high}]"


def _figure(question: Question, x: float) -> str:
    """Write a number on the claim's scale: the metric's value, or a difference of two."""
    perplexity = question.metric.scale == "perplexity"
    if question.theirs is None:
        return _number(math.exp(x) if perplexity else x)
    if perplexity:
        return f"{math.expm1(x):+.1%}"
    return f"{x:+.3f}" if question.metric.scale == "proportion" else f"{x:+.4g}"


def _clusters(verdict: Verdict, question: Question) -> str:
    """Return on how many clusters a verdict rests, and that they are few or uneven, in words."""
    alike = question.gate.estimand == "clusters"
    if not verdict.clusters or not (alike or question.clusters):
        return ""  # what is made from all rows at once is resampled row by row
    few = verdict.clusters < tests.FEW_CLUSTERS
    text = f"few clusters ({verdict.clusters})" if few else f"{verdict.clusters} clusters"
    text += f", so uneven that they count as {verdict.effective:.0f}" if verdict.effective else ""
    return f", mean over {text}" if alike else f" in {text}"


def _sizes(verdict: Verdict, question: Question) -> str:
    """Return that clusters that count alike, and rows that do, lie on two sides of the threshold, or nothing."""
    other = question.otherwise
    if other is None or verdict.estimate is None or verdict.threshold is None:
        return ""
    apart = (verdict.estimate - verdict.threshold) * (other - verdict.threshold) < 0
    inside = (verdict.lower or 0.0) <= other <= (verdict.upper or 0.0)
    kind = "rows" if question.gate.estimand == "clusters" else "clusters"
    return f"; {SIZES}: the mean over {kind} is {_figure(question, other)}" if apart and not inside else ""


def _why_failures(verdict: Verdict, question: Question) -> str:
    failed, n = int(verdict.estimate or 0), verdict.n
    text = f"{failed or 'no'} {'row' if failed <= 1 else 'rows'} of {n} failed"
    unit = f"clusters have one, n={n} in {verdict.clusters} clusters" if verdict.clusters else "rows do"
    return f"{text}; at {1 - question.alpha:.0%} confidence at most {verdict.upper:.2%} of such {unit}"


def _why_slices(verdict: Verdict, driver: Slice, mute: Sequence[str], min_n: int) -> str:
    large, alarms = [s for s in verdict.slices if not s.alarm], [s for s in verdict.slices if s.alarm]
    parts = [f"{driver.name}: {driver.why.partition('; ')[0]}"]
    if len(large) > 1:
        said = [f"{n} {o}" for o in Outcome if (n := sum(s.outcome is o for s in large))]
        parts.append(f"{len(large)} slices: {', '.join(said)}")
    if alarms:
        raised = [s.name for s in alarms if s.outcome is Outcome.FAIL]
        what = f"{'a slice' if len(alarms) == 1 else f'{len(alarms)} slices'} below {min_n} rows"
        parts.append(f"{what}: {'harm in ' + ', '.join(raised) if raised else 'no significant harm'}")
    if mute:
        parts.append(f"{len(mute)} too small to say anything")
    if not large and not any(s.outcome is Outcome.FAIL for s in alarms):
        parts.append(f"no slice has {min_n} rows (min_n), so nothing is proven; add rows, or lower min_n")
    if told := told_by_sizes(driver.why):
        parts.append(told)
    if verdict.rows_needed:
        parts.append(more_rows(verdict, "such rows"))
    return "; ".join(parts)


def _number(x: Any) -> str:
    if x is None:
        return "–"
    return f"{x:.3f}" if abs(x) < 10 else f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.2f}"
