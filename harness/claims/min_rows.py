"""What rows cannot prove however good the model is: closed forms, for collection imports neither numpy nor scipy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.records.about import FEW_CLUSTERS
from harness.records.gates import Gate
from harness.records.metrics import Metric
from harness.records.samples import Sample
from harness.records.words import plain
from harness.stats.shares import LENIENT

Sizes = Mapping[str, tuple[int, int]]  # of every slice: rows, and what is independent among them, rows or clusters


def sizes_of(gate: Gate, rows: Sequence[Sample]) -> Sizes:
    """Return how many rows the gate is about, slice by slice, and how many of them are independent."""
    return {name: (len(part), len({s.cluster or s.id for s in part})) for name, part in gate.parts(rows).items()}


def unprovable_error(
    gate: Gate, metric: Metric, rows: Sequence[Sample] | None, alpha: float, sizes: Sizes | None = None
) -> str:
    """Return why the best of models could not prove a claim on these rows, and what could, or nothing.

    The best of models is right on every row where the claim is about a number; where it is about a baseline it
    wins every row, or is its equal where it may be worse. Of rows that were not read yet (None) there may be any
    number. `alpha` is the gate's, see `alpha_of`; `sizes` are the rows' by `sizes_of`, where they are computed already.
    """
    if gate.any_of or gate.max_failures is not None or metric.is_count:
        return ""
    sizes = sizes or (sizes_of(gate, rows) if rows is not None else {})
    for name, (count, units) in sizes.items():
        small = gate.slice is not None and count < gate.min_n  # an alarm, which has nothing to prove
        if count and not small and (why := _slice_error(gate, metric, count, units, alpha)):
            return f"{name}: {why}" if name else why
    if rows is None and (why := _any_rows_error(gate, metric)):
        return why
    return ""


def few_clusters_error(gate: Gate, metric: Metric, sizes: Sizes) -> str:
    """Return why a verdict would rest on few clusters, or nothing."""
    if gate.any_of or gate.max_failures is not None or metric.is_count:
        return ""
    for name, (rows, units) in sizes.items():
        if units < min(rows, FEW_CLUSTERS) and not (gate.slice is not None and rows < gate.min_n):
            why = f"{units} clusters are few: below {FEW_CLUSTERS} little can be proved"
            return f"{name}: {why}" if name else why
    return ""


def _slice_error(gate: Gate, metric: Metric, rows: int, units: int, alpha: float) -> str:
    """Return why a slice of so many rows, of which `units` are independent, cannot prove the claim, or nothing."""
    unit = "rows" if units == rows else "clusters"
    if rows == 1:
        return "there is one row; one row proves nothing"
    if units == 1:
        return f"all {rows} rows are of one cluster; it says nothing about others"
    if not _closed(gate, metric):
        return ""
    if why := _any_rows_error(gate, metric):
        return why
    claim, chance, best = _best(gate, metric)
    lenient = LENIENT if gate.better_by is not None and not gate.margin and units == rows else 1.0  # by the mid-p
    needed = fewest(chance, lenient * alpha)
    return f"{claim} cannot be proved on {units} {unit}, {best}; {needed} at least" if units < needed else ""


def _closed(gate: Gate, metric: Metric) -> bool:
    """Return whether the claim has a closed form: shares of rows, in the metric's units, or what is cut at a cap."""
    if gate.cap is not None:
        return gate.worse_by_at_most is not None
    return metric.is_share and not metric.combine and not gate.relative


def _any_rows_error(gate: Gate, metric: Metric) -> str:
    """Return that no number of rows can prove the claim, or nothing."""
    if not _closed(gate, metric):
        return ""
    claim, chance, best = _best(gate, metric)
    return f"{claim} cannot be proved by any number of rows{f', {best}' if gate.versus else ''}" if chance >= 1 else ""


def _margin(gate: Gate, metric: Metric) -> float:
    """Return the size of a margin on the scale that rows have."""
    return math.log1p(abs(gate.margin)) if metric.is_log else abs(gate.margin)


def _best(gate: Gate, metric: Metric) -> tuple[str, float, str]:
    """Return the claim, the chance that one row looks perfect although the claim is just wrong, and what perfect is."""
    if gate.min is not None:
        return f"min = {gate.min:g}", gate.min, "even if every row is right"
    if gate.max is not None:
        return f"max = {gate.max:g}", 1 - gate.max, "even if it is 0 on every row"
    if gate.worse_by_at_most is not None:
        return (
            f"worse_by_at_most = {plain(gate.worse_by_at_most)}",
            1 - _margin(gate, metric) / (1.0 if gate.cap is None else gate.cap),
            f"unless the model is better than {gate.versus}",
        )
    return f"better_by = {gate.better_by:g}", (1 + gate.margin) / 2, f"even if {gate.versus} is worse on every row"


def fewest(chance: float, alpha: float) -> int:
    """Return the fewest rows n with chance^n <= alpha, the rule of three (Hanley, Lippman-Hand 1983, JAMA 249:1743)."""
    return 1 if chance <= 0 else math.ceil(math.log(alpha) / math.log(chance) - 1e-9)
