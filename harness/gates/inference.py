"""Phase 3 of a verdict: the test of a hypothesis, the one that docs/explanation/statistics.md chooses for its rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from harness.gates import labels as by_people
from harness.gates.agreement import kappa_test
from harness.gates.clusterings import connect_clusters
from harness.gates.hypothesis import Hypothesis
from harness.gates.min_rows import find_one_cluster_error
from harness.records.claims.bound import Bound
from harness.records.samples import Score
from harness.stats import hypothesis_tests
from harness.stats.eprocess import EProcess
from harness.stats.seeds import add_seed_spread


def run_hypothesis_test(hypothesis: Hypothesis, *, ties: bool = False) -> hypothesis_tests.Test:
    """Test a hypothesis, on the metric's own scale.

    Lost values count against each conclusion. `ties` allows rows without any change. Raises ValueError if it cannot be
    tested, or if nothing varies.
    """
    if _is_labelled(hypothesis) or not hypothesis.has_missing:
        return _test_hypothesis(hypothesis, ties)
    # lost values count against whatever is claimed: the worst of them to prove it, and so on
    worst, best, known = (_test_hypothesis(hypothesis.with_missing_as(best), ties) for best in (False, True, None))
    low, high = (worst, best) if hypothesis.sign > 0 else (best, worst)
    return replace(worst, estimate=known.estimate, lower=low.lower, upper=high.upper, p_fail=best.p_fail)


def run_slice_tests(whole: Hypothesis, slices: Mapping[str, Hypothesis]) -> dict[str, hypothesis_tests.Test]:
    """Test each slice by itself, except those too small.

    Raises ValueError if no row of the whole changed, if a slice that must prove the claim cannot be tested, or if none
    can.
    """
    _require_changed_rows_or_range(whole)
    gate = whole.gate
    tested: dict[str, hypothesis_tests.Test] = {}
    for name, hypothesis in slices.items():
        try:
            tested[name] = run_hypothesis_test(hypothesis, ties=True)
        except ValueError as error:
            rows = len(hypothesis.ours)
            if rows >= gate.min_n or (name in gate.slices and not rows):
                raise ValueError(f"{name}: {error}") from None
    if not tested:
        raise ValueError(f"none of {len(slices)} slices has enough rows to decide")
    return tested


def _test_hypothesis(h: Hypothesis, ties: bool) -> hypothesis_tests.Test:
    if _is_labelled(h):
        return _test_labelled(h)
    test = h.gate.kind.test(h.gate, h.metric, h.units, h.alpha)
    if test is None and h.metric.is_count:
        test = hypothesis_tests.compare_exact_value(_compute_statistic(h, range(len(h.ours))), h.margin, len(h.ours))
    elif test is None:
        rows = len(h.ours)
        if rows < 2:
            raise ValueError(
                "there is only one row, which proves nothing about others" if rows else "every row has weight 0"
            )
        if h.clusters and len(set(h.clusters)) == 1:
            raise ValueError(find_one_cluster_error(rows, by_question=len(set(h.kinds[-1])) == 1))
        if not (ties and h.support):
            _require_changed_rows_or_range(h)
        if h.baseline is not None and h.factor != 1 and h.baseline <= 0:
            what = f"{h.metric.name} of the baseline is {h.baseline:g}"
            raise ValueError(f"{what}, so a share of it is not a margin; write the margin in the metric's units")
        test = _add_seed_spread_to_test(h, _test_mean_or_statistic(h)) if h.runs else _test_mean_or_statistic(h)
        if h.gate.estimand != "rows" and test.clusters is None:
            test = replace(test, clusters=test.n)
        if math.isinf(test.lower) and math.isinf(test.upper) and test.p_pass == test.p_fail == 1:
            raise ValueError(f"nothing varies over {rows} rows, so nothing can be inferred from them")
    return test if h.sign > 0 else replace(test, estimate=-test.estimate, lower=-test.upper, upper=-test.lower)


def _add_seed_spread_to_test(h: Hypothesis, rows: hypothesis_tests.Test) -> hypothesis_tests.Test:
    """Widen a recipe's test by the spread of its seeds."""
    every = range(len(h.ours))
    if h.metric.combine:
        runs = [_compute_statistic(run, every) for run in h.runs]
    else:
        pairs = [row_differences(run, h.gate.cap) for run in h.runs]
        runs = [math.fsum(v * w for v, w in zip(*one, strict=True)) / math.fsum(one[1]) for one in pairs]
    rate = (h.value if h.sign > 0 else 1 - h.value) if h.metric.is_share and not h.metric.combine else None
    test = add_seed_spread(rows, runs, h.margin, h.alpha, rate=rate)
    return replace(test, method=f"{rows.method} and t over {len(runs)} seeds")


def _test_mean_or_statistic(h: Hypothesis) -> hypothesis_tests.Test:
    """Test a mean, or a metric of all rows at once."""
    if h.metric.combine and not h.early:
        if len(h.clusterings) > 1:
            return hypothesis_tests.crossed_bootstrap(
                partial(_compute_statistic, h), h.clusterings, h.margin, h.alpha, support=h.support
            )
        units = h.clusters or [s.id for s in h.ours]
        return hypothesis_tests.cluster_bootstrap(
            partial(_compute_statistic, h), units, h.margin, h.alpha, support=h.support
        )
    values, weights = row_differences(h, h.gate.cap)
    if h.early:  # looked at one after the other
        if len(set(weights)) > 1:
            raise ValueError("rows have different weights, but a test that may stop early needs equal weights")
        return EProcess(h.margin, h.alpha, h.support, clustered=h.clusters is not None).update(values)
    plain = h.units[2] is None and h.factor == 1 and len(set(weights)) == 1 and h.gate.cap is None
    if plain and _has_only_binary_values(h):
        return _test_binary(h)
    low, high = min(values), max(values)
    # Of a 0/1 metric it is possible that rows all say the same, of any other it is a broken one; that no score changed
    # is possible too, and allowed where it can prove something, see `_require_changed_rows_or_range`.
    unchanged = h.theirs is not None and low == high == 0 and h.support
    if not unchanged and high - low <= 1e-12 * max(abs(low), abs(high)) and not _has_only_binary_values(h):
        what = "has the same value" if h.theirs is None else "differs from the baseline by the same amount"
        raise ValueError(
            f"every row {what}, {h.sign * values[0]:g}; without variation nothing can be "
            "inferred, so check the evaluator"
        )
    crossed = len(h.tested_in) > 1
    if h.theirs is not None and h.margin == 0 and h.factor == 1 and len(set(weights)) == 1 and not crossed:
        equal = [0.0] * len(values)
        return hypothesis_tests.sign_flip(values, equal, h.units[2], h.alpha, support=h.support)
    test = _run_cluster_t_test(h, values, weights)
    if h.factor == 1 or h.support is None or test.method == "t":
        return test
    # A claim about a share of the baseline allows for what no row or cluster showed, by the rule of three: it varies
    # with the baseline, whatever the candidate, so that where few rows change a t is sure too soon; of independent rows
    # `cluster_means.cluster_t` allows for that itself. The weaker test counts.
    rule = _run_cluster_t_test(h, [test.estimate] * len(weights), weights)
    lower, upper = min(test.lower, rule.lower), max(test.upper, rule.upper)
    p_pass, p_fail = max(test.p_pass, rule.p_pass), max(test.p_fail, rule.p_fail)
    return replace(test, lower=lower, upper=upper, p_pass=p_pass, p_fail=p_fail)


def _run_cluster_t_test(h: Hypothesis, values: list[float], weights: list[float]) -> hypothesis_tests.Test:
    if len(h.tested_in) > 1:
        return hypothesis_tests.crossed_t(values, weights, h.tested_in, h.margin, h.alpha, support=h.support)
    return hypothesis_tests.cluster_t(values, weights, h.units[2], h.margin, h.alpha, support=h.support)


def _test_binary(h: Hypothesis) -> hypothesis_tests.Test:
    """Test independent 0/1 rows: a share against a number, or two shares of the same rows."""
    (ours, theirs, _), name = h.units, h.metric.name
    n = len(ours)
    if theirs is None:
        right = sum(int(s.values[name]) for s in ours)
        if h.sign > 0:
            return hypothesis_tests.binomial(right, n, h.threshold, h.alpha)
        test = hypothesis_tests.binomial(n - right, n, 1 - h.threshold, h.alpha)
        return replace(test, estimate=test.estimate - 1, lower=test.lower - 1, upper=test.upper - 1)
    changes = [h.sign * (o.values[name] - t.values[name]) for o, t in zip(ours, theirs, strict=True)]
    wins, losses = sum(c > 0 for c in changes), sum(c < 0 for c in changes)
    if h.margin == 0:
        return hypothesis_tests.mcnemar(wins, losses, n, h.alpha, h.levels)
    return hypothesis_tests.tango(wins, losses, n, -h.margin, h.alpha)


def _is_labelled(h: Hypothesis) -> bool:
    return h.labels is not None or h.metric.labelled or h.metric.is_agreement


def _test_labelled(h: Hypothesis) -> hypothesis_tests.Test:
    """Test the share that people would give, or the agreement with their labels.

    Raises ValueError if there are no labels, or if the claim is against a baseline.
    """
    if h.labels is None:
        raise ValueError(f"there are no labels that correct {h.metric.name}")
    if not isinstance(h.gate.kind, Bound):
        what = f'labels correct a single model\'s {h.metric.name}; claim "min" or "max"'
        raise ValueError(f"{what}, since the judge may err differently on the other model")
    if h.metric.is_agreement:
        test = kappa_test(h.labels, h.threshold, h.alpha)
    else:
        clusters = connect_clusters(h.clusterings) if len(h.clusterings) > 1 else h.clusters
        test = by_people.labelled_share_test(h.metric.name, h.ours, clusters, h.labels, h.threshold, h.alpha)
    return test if h.sign > 0 else replace(test, p_pass=test.p_fail, p_fail=test.p_pass)


def _require_changed_rows_or_range(h: Hypothesis) -> None:
    """Raise ValueError if no row changed and that proves nothing.

    Unchanged rows can prove that few others would change, but only with a margin, and a known range for the loss of
    another row.
    """
    name = h.metric.name

    def differ(o: Score, t: Score) -> bool:
        if name in o.values and name in t.values:
            return o.values[name] != t.values[name]
        return o.values != t.values or o.answer != t.answer  # of a metric made from all rows at once

    if h.theirs is None or any(differ(o, t) for o, t in zip(h.ours, h.theirs, strict=True)):
        return
    none_changed = f"none of {len(h.ours)} rows differs from the baseline, so there is nothing to compare"
    if h.gate.margin >= 0:
        raise ValueError(f'{none_changed}; allow a margin with "worse_by_at_most", or claim "min" or "max_failures"')
    if h.support is None:
        raise ValueError(
            f"{none_changed}; {name} has no known range, so another row could lose any "
            'amount: declare the metric\'s scale, or claim "min" or "max_failures"'
        )


def row_differences(h: Hypothesis, cap: float | None) -> tuple[list[float], list[float]]:
    """Return each unit's oriented value or difference, and weight.

    A unit is a row, a cluster or a draw. Values are clipped to `cap` either way. Raises ValueError if a row has another
    weight in the baseline.
    """
    if h.runs:
        found = [row_differences(run, cap) for run in h.runs]
        values = [math.fsum(row) / len(h.runs) for row in zip(*(values for values, _ in found), strict=True)]
        return values, found[0][1]
    name = h.metric.name
    for o, t in () if h.theirs is None else zip(h.ours, h.theirs, strict=True):
        here, there = o.weight_of(name), t.weight_of(name)
        if here != there and not math.isclose(here, there, rel_tol=1e-9):
            unit = "tokens" if h.metric.is_log else "weight"
            what = f'row "{o.id}" has {here:g} {unit} in the candidate and {there:g} in the baseline'
            raise ValueError(f"{what}; with different tokenizers compare bits_per_byte")
    ours, theirs, _ = h.units
    weights = [s.weight_of(name) for s in ours]
    limit = math.inf if cap is None else cap
    if theirs is None:
        said = [h.sign * s.values[name] for s in ours]
    else:
        pairs = zip(ours, theirs, strict=True)
        said = [h.sign * (o.values[name] - h.factor * t.values[name]) for o, t in pairs]
    return [max(-limit, min(limit, x)) for x in said], weights


def estimate_without_cap(h: Hypothesis) -> float | None:
    """Return the estimate without the gate's cap.

    On the metric's own scale; None if there is no cap.
    """
    if h.gate.cap is None or h.gate.kind.counts:
        return None
    values, weights = row_differences(h, None)
    return h.sign * math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(weights)


def count_capped_rows(h: Hypothesis) -> int:
    """Count the rows with a difference beyond the gate's cap."""
    if h.gate.cap is None or h.gate.kind.counts:
        return 0
    return sum(abs(x) > h.gate.cap for x in row_differences(h, None)[0])


def _compute_statistic(h: Hypothesis, rows: Iterable[int]) -> float:
    """Compute the claim's oriented quantity on rows given by index."""
    chosen, sides = list(rows), [side for side in (h.ours, h.theirs) if side is not None]
    if h.runs:
        return math.fsum(_compute_statistic(run, chosen) for run in h.runs) / len(h.runs)
    values = [h.metric.to_test_scale(h.metric.value([side[i] for i in chosen])) for side in sides]
    return h.sign * (values[0] if h.theirs is None else values[0] - h.factor * values[1])


def _has_only_binary_values(h: Hypothesis) -> bool:
    """Return whether every value is 0 or 1, of a proportion."""
    if not h.metric.is_share:
        return False
    ours, theirs, _ = h.units
    return {s.values[h.metric.name] for rows in (ours, theirs or ()) for s in rows} <= {0, 1}
