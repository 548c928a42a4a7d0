"""Phase 5 of a verdict: what is said of it, as kinds and numbers; `harness.records.verdict_text` writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import variance

from harness.gates.gate_input import GateInput
from harness.gates.hypothesis import Hypothesis
from harness.gates.inference import count_capped_rows, row_differences
from harness.gates.sample_size import MAX_ROWS_FACTOR
from harness.records.claim_spec import Note
from harness.records.verdict_text import add_reason, format_notes
from harness.records.verdicts import Outcome, Verdict
from harness.stats.autocorrelation import lag_one_correlation
from harness.stats.rule_of_three import rule_of_three
from harness.stats.seeds import seed_reach

MAX_P = 0.01  # p-value from which on it is said that neighbouring rows go together


def result_notes(verdict: Verdict, hypothesis: Hypothesis) -> list[Note]:
    """Make the notes on a verdict's result.

    They give estimate, interval, rows and method, then caveats, then for an inconclusive verdict the rows that would
    decide it.
    """
    alike = hypothesis.gate.estimand != "rows"
    shown = alike or hypothesis.clusters or verdict.method == "failures counted"  # else resampled row by row
    told = {name: getattr(verdict, name) for name in ("value", "baseline", "n", "method", "effective")}
    bounds = {name: float(getattr(verdict, name) or 0.0) for name in ("estimate", "lower", "upper")}
    told |= {name: bound if math.isfinite(bound) else None for name, bound in bounds.items()}
    told |= {"clusters": verdict.clusters if shown else None, "alike": alike, "alpha": hypothesis.alpha}
    told |= {"crossed": list(verdict.crossed)} if verdict.crossed else {}
    told |= {"risk": verdict.risk, "uncapped": verdict.uncapped, "beyond": count_capped_rows(hypothesis)}
    told |= {"changed": [len(verdict.won), len(verdict.lost)]}
    notes = [Note("found", told)]
    if verdict.method in ("failures counted", "point"):
        return notes
    other, limit = hypothesis.alternative_estimate if hypothesis.clusters else None, verdict.threshold
    if other is not None and verdict.estimate is not None and limit is not None:
        other += limit - hypothesis.threshold  # of a share of the baseline, see `outcome.make_verdict`
        apart = (verdict.estimate - limit) * (other - limit) < 0  # on two sides of it
        inside = (verdict.lower or 0.0) <= other <= (verdict.upper or 0.0)
        of = "rows" if alike else hypothesis.group_kind
        notes += [Note("sizes", {"of": of, "mean": other})] if apart and not inside else []
    notes += [Note("weightless", {"rows": verdict.weightless})] if verdict.weightless else []
    count = verdict.clusters or verdict.n
    if hypothesis.support is None and hypothesis.labels is None and count >= 2:  # a row may say anything
        of = "clusters" if verdict.clusters and hypothesis.clusters else "rows"
        notes.append(Note("unseen", {"share": rule_of_three(count, hypothesis.alpha), "of": of}))
    if verdict.outcome is Outcome.INCONCLUSIVE and hypothesis.labels:
        notes.append(Note("labels", {"rows": not hypothesis.metric.is_agreement}))
    elif verdict.outcome is Outcome.INCONCLUSIVE and not hypothesis.runs:
        notes.append(_make_rows_needed_note(verdict))
    return [*notes, _make_seeds_note(verdict, hypothesis)] if hypothesis.runs else notes


def _make_seeds_note(verdict: Verdict, hypothesis: Hypothesis) -> Note:
    """Make a note on the spread of a recipe's seeds.

    It includes whether more seeds or more rows would decide the claim.
    """
    runs, more = [run.value for run in hypothesis.runs], ""
    bounds = [b for b in (verdict.lower, verdict.upper) if b is not None and math.isfinite(b)]
    if verdict.outcome is Outcome.INCONCLUSIVE and verdict.estimate is not None and bounds:
        values = [hypothesis.metric.to_test_scale(value) for value in runs]
        far = min(abs(verdict.estimate - bound) for bound in bounds)
        seeds = seed_reach(math.sqrt(variance(values) / len(values)), len(values), hypothesis.alpha, None, 0.0)
        more = "seeds" if 2 * float(seeds) ** 2 > far**2 else "rows"
    return Note("seeds", {"n": len(runs), "low": min(runs), "high": max(runs), "ships": runs[0], "more": more})


def repeated_question_notes(case: GateInput) -> list[Note]:
    """Return a note on repeated questions, if there are any."""
    return [Note("repeated", {**case.repeated, "of": len(case.rows)})] if case.repeated.get("rows") else []


def autocorrelation_note(hypothesis: Hypothesis) -> list[Note]:
    """Return a note if neighbouring rows are correlated.

    Only rows that are taken as independent are tested.
    """
    clustered = hypothesis.units[2] or hypothesis.clusters
    if clustered or hypothesis.early or hypothesis.metric.combine or hypothesis.labels is not None:
        return []
    known = hypothesis.with_missing_as(None) if hypothesis.has_missing else hypothesis
    there = None if known.metric.is_count else lag_one_correlation(row_differences(known, known.gate.cap)[0])
    if there is None or there.p > MAX_P or there.correlation <= 0:  # as where the one row that differs is the last
        return []
    return [Note("neighbours", {"correlation": there.correlation, "p": there.p})]


def add_slice_notes(
    verdict: Verdict, parts: Mapping[str, Verdict], hypotheses: Mapping[str, Hypothesis], untestable: int, min_n: int
) -> Verdict:
    """Add the notes on a gate's slices to its verdict. `untestable` slices were too small to test."""
    told = {name: tuple(result_notes(part, hypotheses[name])) for name, part in parts.items()}
    slices = [
        replace(s, notes=told[s.name], why=format_notes(verdict.claim_spec, told[s.name])) for s in verdict.slices
    ]
    large, alarms = [s for s in slices if not s.alarm], [s for s in slices if s.alarm]
    decides = told[verdict.driver]
    notes = [Note("slice", {"name": verdict.driver, **decides[0].params})]
    if len(large) > 1:
        counts = {str(o): n for o in Outcome if (n := sum(s.outcome is o for s in large))}
        notes.append(Note("slices", {"n": len(large), "outcomes": counts}))
    harm = [s.name for s in alarms if s.outcome is Outcome.FAIL]
    notes += [Note("alarms", {"n": len(alarms), "min_n": min_n, "harm": harm})] if alarms else []
    notes += [Note("untestable", {"n": untestable})] if untestable else []
    notes += [Note("none large", {"min_n": min_n})] if not large and not harm else []
    notes += [note for note in decides if note.kind == "sizes"]
    notes += [_make_rows_needed_note(verdict, such=True)] if verdict.rows_needed else []
    notes += [note for note in decides if note.kind in ("unseen", "seeds")]
    return add_reason(replace(verdict, slices=tuple(slices)), *notes)


def _make_rows_needed_note(verdict: Verdict, *, such: bool = False) -> Note:
    told = {
        "rows": verdict.rows_needed,
        "range": verdict.rows_range,
        "such": such,
        "close": MAX_ROWS_FACTOR,
        "n": verdict.n,
    }
    likely = Outcome.PASS if (verdict.p_pass or 0.0) < (verdict.p_fail or 0.0) else Outcome.FAIL
    return Note("needed", {**told, "likely": str(likely)})
