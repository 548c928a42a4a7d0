"""Phase 4 of a verdict: from p-values to an outcome, and to how many rows would decide what these did not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.claims.hypothesis import Hypothesis
from harness.claims.inference import Inference
from harness.claims.needed import rows_needed
from harness.records.gates import Gate
from harness.records.verdicts import Outcome, Slice, Verdict
from harness.stats.tests import holm

SHOWN = 20  # rows with the largest changes that are kept of a metric which changes on every row


@dataclass(frozen=True)
class SlicedOutcome:
    """A gate on slices, each judged by itself: the gate's verdict, those of the slices, and the slice that decides."""

    verdict: Verdict
    parts: dict[str, Verdict]
    slices: list[Slice]
    driver: Slice


def outcome_of(p_pass: float, p_fail: float, alpha: float) -> Outcome:
    """Return PASS where the claim is proven at level alpha, FAIL where it is refuted, else INCONCLUSIVE."""
    if p_pass <= alpha:
        return Outcome.PASS
    return Outcome.FAIL if p_fail <= alpha else Outcome.INCONCLUSIVE


def conclude(blank: Verdict, inference: Inference, hypothesis: Hypothesis) -> Verdict:
    """Return the verdict of one test, but for its reason."""
    test = inference.test
    changed = changed_rows(hypothesis)
    outcome = outcome_of(test.p_pass, test.p_fail, hypothesis.alpha)
    verdict = replace(
        blank,
        outcome=outcome,
        value=inference.value,
        baseline=inference.baseline,
        estimate=test.estimate,
        lower=test.lower,
        upper=test.upper,
        threshold=hypothesis.threshold,
        p_pass=test.p_pass,
        p_fail=test.p_fail,
        clusters=test.clusters,
        effective=test.effective if test.clusters else None,
        method=test.method,
        n=len(hypothesis.ours),
        weightless=hypothesis.weightless,
        won=changed.won,
        lost=changed.lost,
        won_count=changed.won_count,
        lost_count=changed.lost_count,
    )
    if outcome is Outcome.INCONCLUSIVE and not hypothesis.labels:  # of which there would have to be more, too
        return _with_rows_needed(verdict, inference, hypothesis)
    return verdict


def conclude_slices(
    blank: Verdict, gate: Gate, alpha: float, hypotheses: Mapping[str, Hypothesis], tested: Mapping[str, Inference]
) -> SlicedOutcome:
    """Return the verdict of a gate on slices, but for its reason; `blank` holds what was measured on all rows.

    Large slices must prove the claim, small ones may only show that it is broken.
    """
    parts = {name: conclude(blank, inference, hypotheses[name]) for name, inference in tested.items()}
    harm = holm([inference.test.p_fail for inference in tested.values()])
    slices = [_slice(part, name, p, gate, alpha) for (name, part), p in zip(parts.items(), harm, strict=True)]
    driver, outcome = _driver(slices, tested), _outcome_of_slices(slices)
    proofs = [tested[s.name].test.p_pass for s in slices if not s.alarm]
    verdict = replace(
        parts[driver.name],
        value=blank.value,
        baseline=blank.baseline,
        n=blank.n,
        weightless=blank.weightless,
        outcome=outcome,
        driver=driver.name,
        p_pass=max(proofs, default=1.0),
        p_fail=min(harm),
    )
    if not (proofs and outcome is Outcome.INCONCLUSIVE):
        verdict = replace(verdict, rows_needed=None, rows_range=None)
    return SlicedOutcome(verdict, parts, slices, driver)


@dataclass(frozen=True)
class Changed:
    """The ids of the rows won and lost against the baseline, the largest change first, and how many there are.

    All ids where most rows stay as they are (0/1, shares), else the SHOWN largest each.
    """

    won: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    won_count: int = 0
    lost_count: int = 0


def changed_rows(h: Hypothesis) -> Changed:
    """Return which rows of a comparison changed; none of a metric that is made from all rows at once."""
    if h.theirs is None or h.metric.combine:
        return Changed()
    name = h.metric.name
    change = [
        (h.sign * (o.values[name] - t.values[name]) * o.weight_of(name), o.id)
        for o, t in zip(h.ours, h.theirs, strict=True)
    ]
    kept = None if h.metric.is_share else SHOWN
    won, lost = (
        sorted((c for c in change if c[0] > 0), key=lambda c: -c[0]),
        sorted((c for c in change if c[0] < 0), key=lambda c: c[0]),
    )
    return Changed(tuple(i for _, i in won[:kept]), tuple(i for _, i in lost[:kept]), len(won), len(lost))


def _with_rows_needed(verdict: Verdict, inference: Inference, h: Hypothesis) -> Verdict:
    """Add how many rows would decide the claim: the test's rows or pairs, times the rows behind each."""
    test, rows = inference.test, len(h.ours)
    discordance = (len(verdict.won) + len(verdict.lost)) / rows
    needed = rows_needed(test, h.threshold, h.alpha, discordance)
    if needed is None:
        return verdict
    each = rows / test.n
    total, least, most = (x and math.ceil(x * each) for x in (needed.rows, needed.least, needed.most))
    return replace(verdict, rows_needed=total, rows_range=None if least is None else (least, most))


def _slice(part: Verdict, name: str, adjusted_p_fail: float, gate: Gate, alpha: float) -> Slice:
    """Return the outcome of one slice, refuted by a p-value that is adjusted for there being several.

    That all large slices pass needs no correction for being several; that one of all is broken does, by Holm (1979).
    """
    assert part.p_pass is not None
    outcome = outcome_of(part.p_pass, adjusted_p_fail, alpha)
    return Slice(name, part.n, outcome, part.n < gate.min_n, "", part.lower, part.upper)


def _outcome_of_slices(slices: Sequence[Slice]) -> Outcome:
    """Return the gate's outcome; alarms prove nothing, so without a large slice the claim is not proven."""
    if any(s.outcome is Outcome.FAIL for s in slices):
        return Outcome.FAIL
    large = {s.outcome for s in slices if not s.alarm}
    return Outcome.PASS if large == {Outcome.PASS} else Outcome.INCONCLUSIVE


def _driver(slices: Sequence[Slice], tested: Mapping[str, Inference]) -> Slice:
    """Return the slice that decides: the worst by its upper bound of those that failed or of alarms alone, else the
    worst by its lower bound of those that must prove the claim."""
    failed = [s for s in slices if s.outcome is Outcome.FAIL]
    large = [s for s in slices if not s.alarm]
    if failed or not large:
        return min(failed or slices, key=lambda s: tested[s.name].upper)
    return min(large, key=lambda s: tested[s.name].lower)
