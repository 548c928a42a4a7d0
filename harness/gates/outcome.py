"""Phase 4 of a verdict: from p-values to an outcome, and to how many rows would decide what these did not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

from harness.gates.gate import Gate
from harness.gates.hypothesis import Hypothesis
from harness.gates.inference import estimate_without_cap
from harness.gates.sample_size import estimate_sample_size
from harness.records.claim_spec import Note
from harness.records.verdict_text import add_reason
from harness.records.verdicts import Outcome, Slice, Verdict
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


def bar_approximate_pass(gate: Gate, verdict: Verdict) -> Verdict:
    """Return a verdict as its gate may have it: a PASS that is barred proves nothing."""
    if verdict.outcome is not Outcome.PASS or not gate.forbids_risk(verdict.risk):
        return verdict
    made = verdict.claim_spec.is_of_rows if verdict.claim_spec else False
    few = has_few_drawn_sizes(verdict.effective)
    about = {"versus": bool(gate.versus), "mean": made, "clusters": few}
    about |= {"command": True} if gate.is_of_command else {}
    return add_reason(replace(verdict, outcome=Outcome.INCONCLUSIVE), Note("approximate", about))


def make_verdict(blank: Verdict, test: Test, hypothesis: Hypothesis) -> Verdict:
    """Return the verdict of one test, but for its reason."""
    outcome = decide_outcome(test.p_pass, test.p_fail, hypothesis.alpha)
    found: dict[str, Any] = {"outcome": outcome, "n": len(hypothesis.ours), **list_changed_rows(hypothesis)}
    found |= {name: getattr(hypothesis, name) for name in ("value", "baseline", "weightless")}
    found |= {name: getattr(test, name) for name in ("p_pass", "p_fail", "method")}
    # of a share of the baseline, c - f·b is tested, and c - b with its limit (f - 1)·b is what is said
    allowed = (hypothesis.factor - 1) * (hypothesis.baseline or 0.0)
    found |= {name: getattr(test, name) + allowed for name in ("estimate", "lower", "upper")}
    found["threshold"] = hypothesis.threshold + allowed
    found |= {
        "clusters": test.clusters,
        "effective": test.effective if test.clusters else None,
        "crossed": test.crossed,
    }
    found["uncapped"] = estimate_without_cap(hypothesis)
    found["risk"] = "approximate" if has_few_drawn_sizes(test.effective) else blank.risk
    verdict = replace(blank, **found)
    if outcome is not Outcome.INCONCLUSIVE or hypothesis.labels or hypothesis.runs:  # more of these would help, too
        return verdict
    discordance = (len(verdict.won) + len(verdict.lost)) / verdict.n
    if (needed := estimate_sample_size(test, hypothesis.threshold, hypothesis.alpha, discordance)) is None:
        return verdict
    each = verdict.n / test.n  # the rows behind each of the test's rows or pairs
    total, least, most = (x and math.ceil(x * each) for x in (needed.rows, needed.least, needed.most))
    return replace(verdict, rows_needed=total, rows_range=None if least is None else (least, most))


def make_slice_verdict(
    blank: Verdict, gate: Gate, alpha: float, hypotheses: Mapping[str, Hypothesis], tested: Mapping[str, Test]
) -> tuple[Verdict, dict[str, Verdict]]:
    """Combine tests of slices into a verdict without its reason.

    Returns the slices' own verdicts, too. `blank` holds the values measured on all rows, and the verdict's `driver` is
    the slice that decides. Large slices must prove the claim, small ones may only show that it is broken.
    """
    parts = {name: make_verdict(blank, test, hypotheses[name]) for name, test in tested.items()}
    harm = adjust_holm([test.p_fail for test in tested.values()])
    slices = []
    for (name, part), p in zip(parts.items(), harm, strict=True):
        # That all large slices pass needs no correction for being several; that one of all is broken does, by Holm.
        outcome = decide_outcome(tested[name].p_pass, p, alpha)
        slices.append(Slice(name, part.n, outcome, part.n < gate.min_n, "", part.lower, part.upper))
    failed, large = [s for s in slices if s.outcome is Outcome.FAIL], [s for s in slices if not s.alarm]
    # the worst by its upper bound of those that failed or of alarms alone, else by its lower bound of the large ones
    bound, among = (1, failed or slices) if failed or not large else (0, large)
    driver = min(among, key=lambda s: hypotheses[s.name].bounds_minus_margin(tested[s.name])[bound]).name
    outcome, proofs = (
        combine_slice_outcomes([(s.outcome, s.alarm) for s in slices]),
        [tested[s.name].p_pass for s in large],
    )
    whole = {name: getattr(blank, name) for name in ("value", "baseline", "n", "weightless")}
    whole["risk"] = "approximate" if any(part.risk == "approximate" for part in parts.values()) else blank.risk
    told: dict[str, Any] = {"outcome": outcome, "driver": driver, "slices": tuple(slices)}
    verdict = replace(parts[driver], **whole, **told, p_pass=max(proofs, default=1.0), p_fail=min(harm))
    if not (proofs and outcome is Outcome.INCONCLUSIVE):
        verdict = replace(verdict, rows_needed=None, rows_range=None)
    return verdict, parts


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
