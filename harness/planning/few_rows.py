"""Limits of few rows of scores, and ways around them.

They are known before any row is bought.
"""

from __future__ import annotations

import math

from harness.planning.power import GatePower
from harness.stats.rule_of_three import rule_of_three

FEW_ROWS = 60  # rows, or clusters, from which on a score in a range of 2 proves a margin of five points


def describe_few_rows(case: GatePower) -> str:
    """Describe the least margin or gain that few scores prove.

    It holds against a baseline, however good the rows are; alternative claims are named. Empty for enough rows, for
    rows that an earlier run has seen to be 0 or 1, and if the margin is large enough.
    """
    gate, low, high = case.gate, *case.gate.row_range(case.metric)
    reach = min(high - low, math.inf if gate.cap is None else gate.cap)
    seen = case.past is not None and case.is_binary
    if (
        not gate.versus
        or gate.relative
        or case.metric.is_log
        or case.count >= FEW_ROWS
        or seen
        or not math.isfinite(reach)
    ):
        return ""
    share, units = rule_of_three(case.count, case.alpha), "clusters" if case.clustered else "rows"
    least, margin = share * reach, abs(case.gate.kind.oriented(gate, case.metric)[1])
    what = f"if scores are not 0 or 1, {case.count} {units} prove no margin below {least:.2g}, even if none changes"
    if gate.worse_by_at_most is None:
        least = reach * (1 / (1 - share) - 1)
        what = f"if scores are not 0 or 1, {case.count} {units} prove no gain below about {least:.2g}"
    if margin >= least:
        return ""
    cap = math.floor(100 * margin / share) / 100
    ways = [f"cap = {cap:g}, where no row differs by more"] if 0 < margin < cap < reach else []
    rate = f"worse_by_more_than with on_at_most = {math.ceil(100 * share) / 100:g}, a claim about the share of rows"
    return f"{what}; instead declare or claim: {'; or '.join([*ways, rate])}"
