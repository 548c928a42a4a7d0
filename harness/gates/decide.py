"""Gate + rows -> Verdict, in phases: eligibility, hypothesis, inference, outcome, notes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from harness.gates.gate import Gate
from harness.gates.gate_input import GateInput, Unjudgeable, as_error, error_verdict, make_gate_input
from harness.gates.hypothesis import Hypothesis, make_hypothesis
from harness.gates.inference import run_hypothesis_test, run_slice_tests
from harness.gates.notes import add_slice_notes, autocorrelation_note, repeated_question_notes, result_notes
from harness.gates.outcome import bar_approximate_pass, make_slice_verdict, make_verdict
from harness.records.claim_spec import FEW_CLUSTERS, Note
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample
from harness.records.verdict_text import add_reason, format_notes
from harness.records.verdicts import Outcome, Verdict
from harness.stats.hypothesis_tests import Test, adjust_holm
from harness.stats.significance import is_significant

SLOW = (
    "point",
    "failures counted",
    "cluster bootstrap",
    "crossed bootstrap",
)  # methods after which no slice is looked for


def decide(
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
    """Apply a gate to the candidate `name` at risk `alpha`.

    Input that is missing, not finite or not paired gives an ERROR. `columns` are the eval's slices; the worst one is
    named if the claim is not proven. `without` holds ids of rows that are left out (`harness.gates.contamination`).
    """
    case = make_gate_input(gate, metric, candidate, baseline, samples, alpha, without)
    blank = error_verdict(gate, name, "", alpha, metric)
    if isinstance(case, Unjudgeable):
        return as_error(replace(blank, outcome=case.outcome, n=case.n, digest=case.digest), case.why)
    blank = replace(blank, digest=case.digest, repeated=case.repeated.get("rows", 0))
    try:
        whole = make_hypothesis(case, case.rows)
    except ValueError as error:  # of runs whose rows do not weigh alike
        return as_error(replace(blank, n=len(case.rows)), str(error))
    blank = replace(blank, value=whole.value, baseline=whole.baseline, n=len(whole.ours), weightless=whole.weightless)
    blank = replace(blank, risk=gate.risk(case.metric), labelled=case.labelled)
    blank = replace(blank, runs=tuple(run.value for run in whole.runs))
    try:
        if len(case.slices) > 1 or (gate.slice and blank.n < gate.min_n):
            return bar_approximate_pass(
                gate, add_reason(_decide_slices(case, whole, blank), *repeated_question_notes(case))
            )
        verdict = make_verdict(blank, run_hypothesis_test(whole), whole)
    except ValueError as error:
        return as_error(blank, str(error))
    told = [Note("labelled", {"rows": case.labelled, "of": len(samples)})] if case.labelled else []
    verdict = add_reason(
        verdict, *result_notes(verdict, whole), *told, *repeated_question_notes(case), *autocorrelation_note(whole)
    )
    if verdict.outcome is Outcome.PASS:
        verdict = add_reason(verdict, *_make_refuted_slices_note(case, verdict, columns))
    return bar_approximate_pass(gate, replace(verdict, driver=_describe_worst_slice(case, blank, verdict, columns)))


def _decide_slices(case: GateInput, whole: Hypothesis, blank: Verdict) -> Verdict:
    """Decide every slice by itself, and the gate by them. Raises ValueError when that cannot be done."""
    hypotheses = {name: make_hypothesis(case, rows) for name, rows in case.slices.items()}
    tested = run_slice_tests(whole, hypotheses)
    verdict, parts = make_slice_verdict(blank, case.gate, case.alpha, hypotheses, tested)
    return add_slice_notes(verdict, parts, hypotheses, len(hypotheses) - len(tested), case.gate.min_n)


def _describe_worst_slice(case: GateInput, blank: Verdict, verdict: Verdict, columns: Sequence[str]) -> str:
    """Describe the slice with the lowest upper bound.

    Empty if the claim is proven, or the test too slow to repeat on slices.
    """
    if verdict.outcome is Outcome.PASS:
        return ""
    worst: list[tuple[float, str]] = []
    for name, hypothesis, test in _iterate_slice_tests(case, verdict, columns):
        note = Note(
            "slice", {"name": name, **result_notes(make_verdict(blank, test, hypothesis), hypothesis)[0].params}
        )
        worst.append((hypothesis.bounds_minus_margin(test)[1], format_notes(blank.claim_spec, [note])))
    return min(worst)[1] if worst else ""


def _make_refuted_slices_note(case: GateInput, verdict: Verdict, columns: Sequence[str]) -> list[Note]:
    """Return a note on slices that refute a proven claim.

    Each declared slice is tested by itself, with Holm's correction.
    """
    tested = list(_iterate_slice_tests(case, verdict, columns))
    adjusted = adjust_holm([test.p_fail for _, _, test in tested])
    refuted = [
        {"name": name, "estimate": test.estimate, "p": p}
        for (name, _, test), p in zip(tested, adjusted, strict=True)
        if is_significant(p, case.alpha)
    ]
    return [Note("refuted", {"slices": refuted})] if refuted else []


def _iterate_slice_tests(
    case: GateInput, verdict: Verdict, columns: Sequence[str]
) -> Iterator[tuple[str, Hypothesis, Test]]:
    """Yield each large slice of an evaluation with its test.

    None if the gate names slices itself, or if the test is slow. A slice that cannot be tested is skipped.
    """
    if case.gate.slice is not None or case.early or case.labels or verdict.method in SLOW:
        return
    parts = [replace(case.gate, slice=f"{column}=*").rows_by_slice(case.rows) for column in columns]
    for name, rows in (one for part in parts if len(part) > 1 for one in part.items()):
        hypothesis = make_hypothesis(case, rows)
        few = hypothesis.clusters is not None and len(set(hypothesis.clusters)) < FEW_CLUSTERS
        if len(hypothesis.ours) < case.gate.min_n or few:
            continue
        with suppress(ValueError):  # nothing can be said of it
            yield name, hypothesis, run_hypothesis_test(hypothesis, ties=True)
