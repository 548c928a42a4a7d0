"""The fewest rows or clusters that can prove a claim.

They hold however good the model is. All are closed forms, since collection imports neither numpy nor scipy.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence

from harness.gates.clusterings import Labels, cluster_labels, coarsest_clusterings
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.parts.clusters import FEW_CLUSTERS
from harness.records.samples import Sample
from harness.stats.rule_of_three import rule_of_three

MERGE_MARGIN = 0.03  # what a merge may lose against its adapter, in a gate that the harness writes
Sizes = Mapping[str, tuple[int, int]]  # of every slice: rows, and what is independent among them, rows or clusters


def choose_merge_margin(units: int, alpha: float, *, cap: float | None = None) -> float:
    """Return the margin of a gate that compares a merge with its adapter, on a proportion or a perplexity with `cap`.

    It is MERGE_MARGIN, or with fewer rows or clusters the least that they prove if none changes: the rule of three,
    rounded up to a hundredth.
    """
    lost = rule_of_three(units, alpha)
    least = lost if cap is None else math.expm1(cap * lost / (1 - lost))
    return max(MERGE_MARGIN, math.ceil(100 * least) / 100)


def count_units(gate: Gate, rows: Sequence[Sample]) -> Sizes:
    """Count the gate's rows and independent units, by slice."""
    parts = {
        name: (len(part), cluster_labels(part, questions=not gate.kind.counts))
        for name, part in gate.rows_by_slice(rows).items()
    }
    return {name: (count, _count_fewest_clusters(count, labels)) for name, (count, labels) in parts.items()}


def _count_fewest_clusters(rows: int, labels: Sequence[Labels]) -> int:
    return min((len(set(clusters)) for clusters in coarsest_clusterings(labels)), default=rows)


def find_one_cluster_error(rows: int, *, by_question: bool = False) -> str:
    """Return that rows of one cluster prove nothing."""
    if by_question:
        return (
            f"all {rows} rows ask the same question, which proves nothing about other "
            "questions; add questions, or name the input's column"
        )
    return f"all {rows} rows are in one cluster, which proves nothing about other clusters"


def find_unprovable_error(
    gate: Gate, metric: Metric, rows: Sequence[Sample] | None, alpha: float, sizes: Sizes | None = None
) -> str:
    """Explain why no model could prove a claim.

    Empty if it could, else with the rows that could. The best model is right on every row if the claim is about a
    number; against a baseline it wins every row, or is its equal if it may be worse. Rows that were not read yet (None)
    may be any number. `alpha` is the gate's, see `gate_alpha`; `sizes` are those of `count_units`, if computed already.
    """
    if gate.kind.counts or metric.is_count:
        return ""
    if rows is None:
        sizes = {"": (sys.maxsize, sys.maxsize)}
    for name, (count, units) in (sizes or count_units(gate, rows or ())).items():
        small = gate.slice is not None and count < gate.min_n  # an alarm, which has nothing to prove
        if count and not small and (why := _find_unprovable_slice_error(gate, metric, count, units, alpha)):
            return f"{name}: {why}" if name else why
    return ""


def find_few_clusters_error(gate: Gate, metric: Metric, sizes: Sizes) -> str:
    """Explain that a verdict would rest on few clusters. Empty if it would not."""
    if gate.kind.counts or metric.is_count:
        return ""
    for name, (rows, units) in sizes.items():
        if units < min(rows, FEW_CLUSTERS) and not (gate.slice is not None and rows < gate.min_n):
            why = f"there are only {units} clusters; fewer than {FEW_CLUSTERS} prove little"
            return f"{name}: {why}" if name else why
    return ""


def _find_unprovable_slice_error(gate: Gate, metric: Metric, rows: int, units: int, alpha: float) -> str:
    """Explain why a slice cannot prove the claim. Empty if it can. `units` of its rows are independent."""
    if rows == 1:
        return "there is only one row, which proves nothing about others"
    if units == 1:
        return find_one_cluster_error(rows)
    if (best := gate.kind.best_case(gate, metric)) is None:
        return ""
    if best.chance >= 1:
        return f"no number of rows can prove {best.claim}{f', {best.perfect}' if gate.versus else ''}"
    needed = min_rows(best.chance, alpha)
    if units >= needed:
        return ""
    if units < rows:
        return f"{units} clusters cannot prove {best.claim} {best.alike}; at least {needed} are needed"
    return f"{units} rows cannot prove {best.claim}, {best.perfect}; at least {needed} are needed"


def min_rows(chance: float, alpha: float) -> int:
    """Return the least n with chance^n <= alpha.

    This is the rule of three (Hanley, Lippman-Hand 1983, JAMA 249:1743).
    """
    return 1 if chance <= 0 else math.ceil(math.log(alpha) / math.log(chance) - 1e-9)
