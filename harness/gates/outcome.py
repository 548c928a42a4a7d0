"""Phase 4 of a verdict: from p-values to an outcome, and to how many rows would decide what these did not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypedDict

from harness.gates.hypothesis import Hypothesis
from harness.gates.inference import count_capped_rows, estimate_without_cap
from harness.gates.sample_size import estimate_sample_size
from harness.records.claims.gate import Gate
from harness.records.parts.cap import Uncapped
from harness.records.parts.clusters import Clusters
from harness.records.parts.needed import RowsNeeded
from harness.records.parts.part import Part
from harness.records.parts.rows import WeightlessRows
from harness.records.verdicts import Outcome, Verdict
from harness.stats.hypothesis_tests import Test, adjust_holm, has_few_drawn_sizes
from harness.stats.significance import is_significant

SHOWN_CHANGES = 20  # rows with the largest changes that are kept of a metric which changes on every row


def decide_outcome(p_pass: float, p_fail: float, alpha: float) -> Outcome:
    """Return the outcome of two p-values at level alpha.

    PASS if the claim is proven, FAIL if it is refuted, else INCONCLUSIVE.
    """
    if is_significant(p_pass, alpha):
        return Outcome.PASS
    return Outcome.FAIL if is_significant(p_fail, alpha) else Outcome.INCONCLUSIVE


def make_verdict(blank: Verdict, test: Test, hypothesis: Hypothesis) -> Verdict:
    """Return the verdict of one test, but for its reason."""
    outcome = decide_outcome(test.p_pass, test.p_fail, hypothesis.alpha)
    # of a share of the baseline, c - f·b is tested, and c - b with its limit (f - 1)·b is what is said
    allowed = (hypothesis.factor - 1) * (hypothesis.baseline or 0.0)
    verdict = replace(
        blank,
        outcome=outcome,
        value=hypothesis.value,
        baseline=hypothesis.baseline,
        estimate=test.estimate + allowed,
        lower=test.lower + allowed,
        upper=test.upper + allowed,
        threshold=hypothesis.threshold + allowed,
        risk="approximate" if has_few_drawn_sizes(test.effective) else blank.risk,
        p_pass=test.p_pass,
        p_fail=test.p_fail,
        n=len(hypothesis.ours),
        method=test.method,
        **list_changed_rows(hypothesis),
    )
    return verdict.with_parts(*list_test_parts(test, hypothesis))


def list_test_parts(test: Test, hypothesis: Hypothesis) -> list[Part]:
    """Return the parts that a test adds to its result."""
    parts = list[Part]()
    alike = hypothesis.gate.estimand != "rows"
    if test.clusters:
        named = bool(alike or hypothesis.clusters or hypothesis.gate.kind.counts)  # else resampled row by row
        parts.append(Clusters(test.clusters, test.effective, test.crossed, alike, named))
    if (uncapped := estimate_without_cap(hypothesis)) is not None:
        parts.append(Uncapped(uncapped, count_capped_rows(hypothesis)))
    if hypothesis.weightless:
        parts.append(WeightlessRows(hypothesis.weightless))
    return parts


def predict_rows_needed(verdict: Verdict, test: Test, hypothesis: Hypothesis) -> RowsNeeded:
    """Predict how many rows would decide an inconclusive verdict."""
    likely = Outcome.PASS if test.p_pass < test.p_fail else Outcome.FAIL
    discordance = (len(verdict.won) + len(verdict.lost)) / verdict.n
    needed = estimate_sample_size(test, hypothesis.threshold, hypothesis.alpha, discordance)
    if needed is None:
        return RowsNeeded(n=verdict.n, likely=likely)
    each = verdict.n / test.n  # the rows behind each of the test's rows or pairs
    rows = math.ceil(needed.rows * each)
    if needed.least is None:
        return RowsNeeded(rows, n=verdict.n, likely=likely)
    most = None if needed.most is None else math.ceil(needed.most * each)
    return RowsNeeded(rows, (math.ceil(needed.least * each), most), verdict.n, likely)


class SliceVerdicts(NamedTuple):
    """The verdict of a gate on slices, without its words: `driver` is the slice that decides."""

    verdict: Verdict
    driver: str
    by_slice: dict[str, Verdict]
    outcomes: dict[str, Outcome]


def make_slice_verdict(
    blank: Verdict, gate: Gate, alpha: float, hypotheses: Mapping[str, Hypothesis], tested: Mapping[str, Test]
) -> SliceVerdicts:
    """Combine tests of slices into a verdict.

    `blank` holds the values measured on all rows. Large slices must prove the claim, small ones may only show that it
    is broken.
    """
    by_slice = {name: make_verdict(blank, test, hypotheses[name]) for name, test in tested.items()}
    harm = adjust_holm([test.p_fail for test in tested.values()])
    # That all large slices pass needs no correction for being several; that one of all is broken does, by Holm.
    outcomes = {
        name: decide_outcome(test.p_pass, p, alpha) for (name, test), p in zip(tested.items(), harm, strict=True)
    }
    large = [name for name, verdict in by_slice.items() if verdict.n >= gate.min_n]
    failed = [name for name, outcome in outcomes.items() if outcome is Outcome.FAIL]
    # the worst by its upper bound of those that failed or of alarms alone, else by its lower bound of the large ones
    bound, among = (1, failed or list(by_slice)) if failed or not large else (0, large)
    driver = min(among, key=lambda name: hypotheses[name].bounds_minus_margin(tested[name])[bound])
    is_approximate = any(verdict.risk == "approximate" for verdict in by_slice.values())
    verdict = replace(
        by_slice[driver],
        outcome=combine_slice_outcomes([(outcome, name not in large) for name, outcome in outcomes.items()]),
        value=blank.value,
        baseline=blank.baseline,
        n=blank.n,
        risk="approximate" if is_approximate else blank.risk,
        p_pass=max((tested[name].p_pass for name in large), default=1.0),
        p_fail=min(harm),
    )
    whole = {name: part for name, part in verdict.parts.items() if name != WeightlessRows.name}
    return SliceVerdicts(replace(verdict, parts={**whole, **blank.parts}), driver, by_slice, outcomes)


class Changed(TypedDict):
    """Ids and counts of rows won and lost against the baseline.

    The largest change comes first.
    """

    won: tuple[str, ...]
    lost: tuple[str, ...]
    won_count: int
    lost_count: int


def list_changed_rows(h: Hypothesis) -> Changed:
    """List the rows that changed against the baseline.

    Empty for a metric computed from all rows at once. All ids for 0/1 metrics and shares, since most of their rows do
    not change, else the SHOWN_CHANGES largest each.
    """
    name = h.metric.name
    pairs = () if h.theirs is None or h.metric.combine else zip(h.ours, h.theirs, strict=True)
    known = [(o, t) for o, t in pairs if name not in o.lost and name not in t.lost]
    change = [(h.sign * (o.values[name] - t.values[name]) * o.weight_of(name), o.id) for o, t in known]
    kept = None if h.metric.is_share else SHOWN_CHANGES
    won = [i for _, i in sorted((c for c in change if c[0] > 0), key=lambda c: -c[0])]
    lost = [i for _, i in sorted((c for c in change if c[0] < 0), key=lambda c: c[0])]
    return {"won": tuple(won[:kept]), "lost": tuple(lost[:kept]), "won_count": len(won), "lost_count": len(lost)}


def combine_slice_outcomes(slices: Sequence[tuple[Outcome, bool]]) -> Outcome:
    """Combine the outcomes of a gate's slices.

    Each comes with whether it is an alarm. Alarms prove nothing, so without a large slice the claim is not proven.
    """
    if any(outcome is Outcome.FAIL for outcome, _ in slices):
        return Outcome.FAIL
    large = {outcome for outcome, alarm in slices if not alarm}
    return Outcome.PASS if large == {Outcome.PASS} else Outcome.INCONCLUSIVE
