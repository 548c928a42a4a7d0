"""Phase 5 of a verdict: the parts that say what its result rests on."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import variance

from harness.gates.gate_input import GateInput
from harness.gates.hypothesis import Hypothesis
from harness.gates.inference import row_differences
from harness.gates.outcome import SliceVerdicts, predict_rows_needed
from harness.records.parts.clusters import Clusters, ClusterSizes
from harness.records.parts.needed import LabelsNeeded, RowsNeeded
from harness.records.parts.part import Part
from harness.records.parts.recipe import RecipeRuns
from harness.records.parts.rows import CorrelatedNeighbours, RepeatedQuestions, UnseenRows
from harness.records.parts.slices import Slice, Slices
from harness.records.verdicts import Outcome, Verdict
from harness.stats.autocorrelation import lag_one_correlation
from harness.stats.hypothesis_tests import Test
from harness.stats.rule_of_three import rule_of_three
from harness.stats.seeds import seed_reach

MAX_P = 0.01  # p-value from which on it is said that neighbouring rows go together


def list_caveats(verdict: Verdict, test: Test, hypothesis: Hypothesis) -> list[Part]:
    """Return what is to be said of a result, and for an inconclusive one what would decide it."""
    if verdict.method in ("failures counted", "point"):
        return []
    parts = [*_find_related_cluster_sizes(verdict, hypothesis), *_count_unseen_rows(verdict, hypothesis)]
    if hypothesis.runs:
        parts.append(_describe_runs(verdict, hypothesis))
    if verdict.outcome is not Outcome.INCONCLUSIVE:
        return parts
    if hypothesis.labels:
        parts.append(LabelsNeeded(or_rows=not hypothesis.metric.is_agreement))
    elif not hypothesis.runs:  # more of these would help, too
        parts.append(predict_rows_needed(verdict, test, hypothesis))
    return parts


def _find_related_cluster_sizes(verdict: Verdict, hypothesis: Hypothesis) -> list[Part]:
    """Return that the other weighting of clusters is beyond the limit and the interval."""
    other, limit = hypothesis.alternative_estimate if hypothesis.clusters else None, verdict.threshold
    if other is None or verdict.estimate is None or limit is None:
        return []
    other += limit - hypothesis.threshold  # of a share of the baseline, see `outcome.make_verdict`
    is_beyond_limit = (verdict.estimate - limit) * (other - limit) < 0
    is_inside_bounds = (verdict.lower or 0.0) <= other <= (verdict.upper or 0.0)
    unit = "rows" if hypothesis.gate.estimand != "rows" else hypothesis.group_kind
    return [ClusterSizes(unit, other)] if is_beyond_limit and not is_inside_bounds else []


def _count_unseen_rows(verdict: Verdict, hypothesis: Hypothesis) -> list[Part]:
    """Return how many rows may be arbitrarily bad, where nothing limits what a row may be."""
    clusters = verdict.get(Clusters)
    count = clusters.count if clusters else verdict.n
    if hypothesis.support is not None or hypothesis.labels is not None or count < 2:
        return []
    return [UnseenRows(rule_of_three(count, hypothesis.alpha), "clusters" if clusters and clusters.named else "rows")]


def _describe_runs(verdict: Verdict, hypothesis: Hypothesis) -> RecipeRuns:
    """Return the runs of a recipe, and whether more seeds or more rows would decide the claim."""
    runs, more = [run.value for run in hypothesis.runs], ""
    bounds = [b for b in (verdict.lower, verdict.upper) if b is not None and math.isfinite(b)]
    if verdict.outcome is Outcome.INCONCLUSIVE and verdict.estimate is not None and bounds:
        values = [hypothesis.metric.to_test_scale(value) for value in runs]
        far = min(abs(verdict.estimate - bound) for bound in bounds)
        seeds = seed_reach(math.sqrt(variance(values) / len(values)), len(values), hypothesis.alpha, None, 0.0)
        more = "seeds" if 2 * float(seeds) ** 2 > far**2 else "rows"
    return RecipeRuns(tuple(runs), more)


def list_repeated_questions(case: GateInput) -> list[Part]:
    """Return the repeated questions, if there are any."""
    repeated = case.repeated
    if not repeated.get("rows"):
        return []
    return [RepeatedQuestions(repeated["rows"], len(case.rows), repeated["questions"], repeated["most"])]


def find_correlated_neighbours(hypothesis: Hypothesis) -> list[Part]:
    """Return that neighbouring rows are correlated, if they are.

    Only rows that are taken as independent are tested.
    """
    clustered = hypothesis.units[2] or hypothesis.clusters
    if clustered or hypothesis.early or hypothesis.metric.combine or hypothesis.labels is not None:
        return []
    known = hypothesis.with_missing_as(None) if hypothesis.has_missing else hypothesis
    there = None if known.metric.is_count else lag_one_correlation(row_differences(known, known.gate.cap)[0])
    if there is None or there.p > MAX_P or there.correlation <= 0:  # as where the one row that differs is the last
        return []
    return [CorrelatedNeighbours(there.correlation, there.p)]


def make_slice(name: str, verdict: Verdict, alpha: float, *, alarm: bool = False) -> Slice:
    """Return the verdict on a slice as a part of another."""
    return Slice(
        name,
        verdict.outcome,
        alarm,
        verdict.n,
        verdict.value,
        verdict.baseline,
        verdict.estimate,
        verdict.lower,
        verdict.upper,
        alpha,
        verdict.risk,
        verdict.method,
        verdict.won_count,
        verdict.lost_count,
        verdict.parts,
    )


def add_slices(found: SliceVerdicts, tests: dict[str, Test], hypotheses: dict[str, Hypothesis], min_n: int) -> Verdict:
    """Add the slices of a gate to its verdict, and what is to be said of the one that decides."""
    caveats = {name: list_caveats(verdict, tests[name], hypotheses[name]) for name, verdict in found.by_slice.items()}
    slices = [
        make_slice(
            name,
            replace(verdict.with_parts(*caveats[name]), outcome=found.outcomes[name]),
            hypotheses[name].alpha,
            alarm=verdict.n < min_n,
        )
        for name, verdict in found.by_slice.items()
    ]
    verdict, driver = found.verdict, found.driver
    untestable = len(hypotheses) - len(tests)
    parts: list[Part] = [Slices(driver, tuple(slices), min_n, untestable)]
    is_open = verdict.outcome is Outcome.INCONCLUSIVE and not all(s.alarm for s in slices)
    for part in caveats[driver]:
        if isinstance(part, RowsNeeded):
            likely = Outcome.PASS if (verdict.p_pass or 0.0) < (verdict.p_fail or 0.0) else Outcome.FAIL
            part = replace(part, n=verdict.n, likely=likely, of_slice=True)
            parts += [part] if is_open and part.rows is not None else []
        elif isinstance(part, RecipeRuns):
            whole = verdict.get(RecipeRuns)
            parts.append(replace(whole, more=part.more) if whole else part)
        elif not isinstance(part, LabelsNeeded):
            parts.append(part)
    return verdict.with_parts(*parts)
