"""Gate + rows -> Verdict, in phases: eligibility, hypothesis, inference, outcome, notes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace

from harness.claims.eligibility import Case, Unjudgeable, case_of, failed, unjudged
from harness.claims.gate import Gate
from harness.claims.hypothesis import Hypothesis, hypothesis_on
from harness.claims.inference import infer, infer_slices
from harness.claims.notes import found, repeated_notes, together, with_notes
from harness.claims.outcome import admitted, conclude, conclude_slices
from harness.records.about import FEW_CLUSTERS, Note
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample
from harness.records.verdicts import Outcome, Verdict
from harness.records.words import noted, written

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
    """Apply a gate to the candidate `name` at risk `alpha`; what is missing, not finite or not paired is an ERROR.

    `columns` are the eval's slices, of which the worst is named when the claim was not proven; `without` holds ids
    of rows that are left out (`harness.claims.contamination`).
    """
    case = case_of(gate, metric, candidate, baseline, samples, alpha, without)
    blank = unjudged(gate, name, "", alpha, metric)
    if isinstance(case, Unjudgeable):
        return failed(replace(blank, outcome=case.outcome, n=case.n, digest=case.digest), case.why)
    whole = hypothesis_on(case, case.rows)
    blank = replace(blank, digest=case.digest, repeated=case.repeated.get("rows", 0))
    blank = replace(blank, value=whole.value, baseline=whole.baseline, n=len(whole.ours), weightless=whole.weightless)
    blank = replace(blank, risk=gate.risk(case.metric), labelled=case.labelled)
    try:
        if len(case.slices) > 1 or (gate.slice and blank.n < gate.min_n):
            return admitted(gate, noted(_decide_slices(case, whole, blank), *repeated_notes(case)))
        verdict = conclude(blank, infer(whole), whole)
    except ValueError as error:
        return failed(blank, str(error))
    told = [Note("labelled", {"rows": case.labelled, "of": len(samples)})] if case.labelled else []
    verdict = noted(verdict, *found(verdict, whole), *told, *repeated_notes(case), *together(whole))
    return admitted(gate, replace(verdict, driver=_worst_slice(case, blank, verdict, columns)))


def _decide_slices(case: Case, whole: Hypothesis, blank: Verdict) -> Verdict:
    """Decide every slice by itself, and the gate by them. Raises ValueError when that cannot be done."""
    hypotheses = {name: hypothesis_on(case, rows) for name, rows in case.slices.items()}
    tested = infer_slices(whole, hypotheses)
    verdict, parts = conclude_slices(blank, case.gate, case.alpha, hypotheses, tested)
    return with_notes(verdict, parts, hypotheses, len(hypotheses) - len(tested), case.gate.min_n)


def _worst_slice(case: Case, blank: Verdict, verdict: Verdict, columns: Sequence[str]) -> str:
    """Return the slice that is worst by its upper bound, where the whole was not proven and the test is quick."""
    whole = case.gate.slice is None and not case.early and not case.labels
    if not whole or verdict.outcome is Outcome.PASS or verdict.method in SLOW:
        return ""
    worst: list[tuple[float, str]] = []
    parts = [replace(case.gate, slice=f"{column}=*").parts(case.rows) for column in columns]
    for name, rows in (one for part in parts if len(part) > 1 for one in part.items()):
        hypothesis = hypothesis_on(case, rows)
        few = hypothesis.clusters is not None and len(set(hypothesis.clusters)) < FEW_CLUSTERS
        if len(hypothesis.ours) < case.gate.min_n or few:
            continue
        with suppress(ValueError):  # a slice of which nothing can be said drives nothing
            test = infer(hypothesis, ties=True)
            note = Note("slice", {"name": name, **found(conclude(blank, test, hypothesis), hypothesis)[0].told})
            worst.append((hypothesis.beyond(test)[1], written(blank.about, [note])))
    return min(worst)[1] if worst else ""
