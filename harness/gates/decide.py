"""Gate + rows -> Verdict, in phases: eligibility, hypothesis, inference, outcome, notes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from harness.gates.gate_input import GateInput, Unjudgeable, as_error, error_verdict, make_gate_input
from harness.gates.hypothesis import Hypothesis, make_hypothesis
from harness.gates.inference import run_hypothesis_test, run_slice_tests
from harness.gates.notes import (
    add_slices,
    find_correlated_neighbours,
    list_caveats,
    list_repeated_questions,
    make_slice,
)
from harness.gates.outcome import make_slice_verdict, make_verdict
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.parts import CONDITIONS
from harness.records.parts.clusters import FEW_CLUSTERS
from harness.records.parts.labels import LabelledRows
from harness.records.parts.part import Part
from harness.records.parts.recipe import RecipeRuns
from harness.records.parts.rows import WeightlessRows
from harness.records.parts.slices import RefutedSlice, RefutedSlices, WorstSlice
from harness.records.samples import Result, Sample
from harness.records.verdict_text import complete
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
        return complete(replace(blank, outcome=case.outcome, n=case.n, digest=case.digest), case.part)
    blank = replace(blank, digest=case.digest).with_parts(*list_repeated_questions(case))
    try:
        whole = make_hypothesis(case, case.rows)
    except ValueError as error:  # of runs whose rows do not weigh alike
        return as_error(replace(blank, n=len(case.rows)), str(error))
    blank = replace(blank, value=whole.value, baseline=whole.baseline, n=len(whole.ours), risk=gate.risk(case.metric))
    if case.labelled:
        blank = blank.with_parts(LabelledRows(case.labelled, len(samples)))
    if whole.weightless:
        blank = blank.with_parts(WeightlessRows(whole.weightless))
    if whole.runs:
        blank = blank.with_parts(RecipeRuns(tuple(run.value for run in whole.runs)))
    try:
        if len(case.slices) > 1 or (gate.slice and blank.n < gate.min_n):
            verdict = _decide_slices(case, whole, blank)
            return complete(verdict, *_list_objections(gate, verdict))
        test = run_hypothesis_test(whole)
        verdict = make_verdict(blank, test, whole)
        caveats = [*list_caveats(verdict, test, whole), *find_correlated_neighbours(whole)]
    except ValueError as error:
        return as_error(blank, str(error))
    if verdict.outcome is Outcome.PASS:
        caveats += _find_refuted_slices(case, verdict, columns)
    else:
        caveats += _find_worst_slice(case, blank, verdict, columns)
    return complete(verdict, *caveats, *_list_objections(gate, verdict))


def _list_objections(gate: Gate, verdict: Verdict) -> list[Part]:
    """Return what keeps a tested gate from passing."""
    objections = (condition.find_objection(gate, verdict) for condition in CONDITIONS)
    return [part for part in objections if part is not None]


def _decide_slices(case: GateInput, whole: Hypothesis, blank: Verdict) -> Verdict:
    """Decide every slice by itself, and the gate by them. Raises ValueError when that cannot be done."""
    hypotheses = {name: make_hypothesis(case, rows) for name, rows in case.slices.items()}
    tested = run_slice_tests(whole, hypotheses)
    verdicts = make_slice_verdict(blank, case.gate, case.alpha, hypotheses, tested)
    return add_slices(verdicts, tested, hypotheses, case.gate.min_n)


def _find_worst_slice(case: GateInput, blank: Verdict, verdict: Verdict, columns: Sequence[str]) -> list[Part]:
    """Return the slice with the lowest upper bound, unless the test is too slow to repeat on slices."""
    worst: list[tuple[float, str, WorstSlice]] = []
    for name, hypothesis, test in _iterate_slice_tests(case, verdict, columns):
        found = make_slice(name, make_verdict(blank, test, hypothesis), case.alpha)
        worst.append((hypothesis.bounds_minus_margin(test)[1], name, WorstSlice(found)))
    return [min(worst, key=lambda one: one[:2])[2]] if worst else []


def _find_refuted_slices(case: GateInput, verdict: Verdict, columns: Sequence[str]) -> list[Part]:
    """Return the slices that refute a proven claim.

    Each declared slice is tested by itself, with Holm's correction.
    """
    tested = list(_iterate_slice_tests(case, verdict, columns))
    adjusted = adjust_holm([test.p_fail for _, _, test in tested])
    refuted = [
        RefutedSlice(name, test.estimate, p)
        for (name, _, test), p in zip(tested, adjusted, strict=True)
        if is_significant(p, case.alpha)
    ]
    return [RefutedSlices(tuple(refuted))] if refuted else []


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
