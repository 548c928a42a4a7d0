"""Phase 2 of a verdict: the hypothesis, a gate's claim about some rows, turned so that larger is better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from harness.gates import labels as by_people
from harness.gates.clusterings import KINDS, Labels, cluster_labels, coarsest_clusterings, is_nested
from harness.gates.gate_input import GateInput
from harness.records.claims.gate import Units
from harness.records.metrics import Metric
from harness.records.samples import Sample, Score
from harness.stats.result import Test
from harness.stats.values import Bounds, Range


class Hypothesis:
    """A gate's claim about rows of candidate and baseline.

    The baseline has the same rows, and is there only in a comparison. The claim is that sign · (candidate - factor ·
    baseline) is above `margin`; `threshold` is that margin on the metric's own scale.
    """

    def __init__(
        self, case: GateInput, runs: Sequence[Sequence[Score]], baselines: Sequence[Sequence[Score]],
        labels: Sequence[Labels],
    ) -> None:  # fmt: skip
        """Select the rows with weight, and the units to test.

        Rows of weight 0, which say nothing of the metric, are dropped unless their value was lost. With several `runs`,
        those of a recipe's seeds, the claim is about their mean; there is one of `baselines` for all of them, one for
        each, or none. `labels` hold the cluster of each row by kind, see `clusterings.cluster_labels`. If several
        claims share the risk, by Holm's method, their p-values are compared with alpha / their number and above.
        """
        ours, theirs = (_average_runs(several, case.metric) if several else None for several in (runs, baselines))
        assert ours is not None
        self.case, self.gate, self.metric, self.alpha, self.early = case, case.gate, case.metric, case.alpha, case.early
        self.levels = [case.alpha / i for i in range(1, max(case.gate.among, len(case.slices)) + 1)]
        weightless, name, self.labels = set[int](), case.metric.name, case.labels
        if not (case.metric.combine or case.metric.is_count):
            rows = zip(*([ours] if theirs is None else [ours, theirs]), strict=True)
            weightless = {i for i, row in enumerate(rows) if not any(s.weight_of(name) or s.lost for s in row)}
        self.ours, self.theirs, self.kinds, self.weightless = ours, theirs, list(labels), len(weightless)
        # the claim of each run by itself, where there are several
        own = [[b] for b in baselines] if len(baselines) > 1 else [baselines] * len(runs)
        pairs = zip(runs, own, strict=True) if len(runs) > 1 else ()
        self.runs = [Hypothesis(case, [run], base, labels) for run, base in pairs]
        if weightless:
            keep = [i for i in range(len(ours)) if i not in weightless]
            self.ours, self.kinds = [ours[i] for i in keep], [[kind[i] for i in keep] for kind in labels]
            self.theirs = None if theirs is None else [theirs[i] for i in keep]
        self.sign, self.margin, self.factor = case.gate.kind.oriented(case.gate, case.metric)
        self.threshold = self.sign * self.margin
        self.clusterings = coarsest_clusterings(self.kinds)
        # clusters of the kind that has fewest, or None
        self.clusters = min(self.clusterings, key=lambda c: len(set(c)), default=None)
        # what counts alike in a mean that is not over rows, or would in another one
        alike = KINDS[0] if self.gate.estimand == "rows" and len(set(self.kinds[0])) < len(ours) else self.gate.estimand
        self.group_kind = alike if alike in KINDS else KINDS[-1]
        self.groups = self.kinds[KINDS.index(self.group_kind)]
        # what is tested of candidate and baseline: the rows, or the mean of each group; and the clusters of these
        self.tested_in = self.clusterings
        self.units: Units = self.ours, self.theirs, self.clusters
        if self.gate.estimand != "rows":
            self._weight_groups_equally()
        elif not self.early and not self.gate.kind.has_test and self._has_draws_on_both_sides():
            self._expand_draws_to_units()

    def _weight_groups_equally(self) -> None:
        """Have every group count once: as its mean, or by the weights of its rows where clusters cross groups."""
        outer = [c for c in self.clusterings if not is_nested(c, self.groups)]
        if all(is_nested(self.groups, c) for c in outer):
            first = {group: i for i, group in reversed([*enumerate(self.groups)])}
            members = [first[group] for group in dict.fromkeys(self.groups)]
            self.tested_in = coarsest_clusterings([[c[i] for i in members] for c in outer])
            make = self._make_group_mean_rows
        else:
            make = self._normalize_group_weights
        clusters = min(self.tested_in, key=lambda c: len(set(c)), default=None)
        self.units = make(self.ours), None if self.theirs is None else make(self.theirs), clusters

    def _has_draws_on_both_sides(self) -> bool:
        """Return whether rows have draws, as many on both sides.

        Every draw must have the metric.
        """
        name, pairs = self.metric.name, zip(self.ours, self.theirs or self.ours, strict=True)
        drawn = (len(o.draws) == len(t.draws) and all(name in d.values for d in (*o.draws, *t.draws)) for o, t in pairs)
        return any(s.draws for s in self.ours) and all(drawn)

    def _expand_draws_to_units(self) -> None:
        """Test every draw by itself, clustered by row. Testing only the rows' means has less power."""
        counts = [len(s.draws) for s in self.ours]

        def repeat(labels: Labels) -> list[str]:
            return [label for label, n in zip(labels, counts, strict=True) for _ in range(n)]

        sides = [None if rows is None else [a for s in rows for a in s.answers] for rows in (self.ours, self.theirs)]
        self.tested_in = [repeat(c) for c in self.clusterings or [[s.id for s in self.ours]]]
        self.units = sides[0] or [], sides[1], min(self.tested_in, key=lambda c: len(set(c)))

    @cached_property
    def has_missing(self) -> bool:
        """Whether some row's value is lost, wholly or in part."""
        return any(s.lost or s.partly_lost for rows in (self.ours, self.theirs or ()) for s in rows)

    def with_missing_as(self, best: bool | None) -> Hypothesis:
        """Return the claim with lost values filled in or dropped.

        With `best` true they are as good for the claim as possible, with false as bad. With None lost rows are left
        out, and a partly lost value counts as it is.
        """
        pairs = zip(self.ours, self.theirs or self.ours, strict=True)
        keep = [i for i, (s, t) in enumerate(pairs) if best is not None or not (s.lost or t.lost)]
        good = float(bool(best) == (self.sign > 0))
        each = self.runs or [self]
        runs = [[_fill_lost_value(run.ours[i], best, good) for i in keep] for run in each]
        theirs = [
            [_fill_lost_value(run.theirs[i], best, 1 - good) for i in keep] for run in each if run.theirs is not None
        ]
        return Hypothesis(self.case, runs, theirs, [[kind[i] for i in keep] for kind in self.kinds])

    def bounds_minus_margin(self, test: Test) -> Bounds:
        """Return a test's bounds minus the margin. Oriented so that larger is better."""
        low, high = sorted((self.sign * test.lower, self.sign * test.upper))
        return Bounds(low - self.margin, high - self.margin)

    @cached_property
    def value(self) -> float:
        """The candidate's metric on these rows, corrected by any labels.

        With another estimand it is that of the cluster means. For a recipe the runs are averaged on the scale of the
        test.
        """
        if values := [self.metric.to_test_scale(run.value) for run in self._hypothesis_on_known_rows.runs]:
            return self.metric.from_test_scale(math.fsum(values) / len(values))
        known = self._hypothesis_on_known_rows
        return by_people.value_with_labels(self.metric, known.ours if self.labels else known.units[0], self.labels)

    @cached_property
    def baseline(self) -> float | None:
        """The baseline's metric on these rows, never corrected by labels. See `value`."""
        if values := [
            self.metric.to_test_scale(b)
            for run in self._hypothesis_on_known_rows.runs
            if (b := run.baseline) is not None
        ]:
            return self.metric.from_test_scale(math.fsum(values) / len(values))
        theirs = self._hypothesis_on_known_rows.units[1]
        return None if theirs is None else self.metric.value(theirs)

    @cached_property
    def _hypothesis_on_known_rows(self) -> Hypothesis:
        """The same claim about the rows known on both sides. The estimate is computed from them."""
        return self.with_missing_as(None) if self.has_missing else self

    @property
    def support(self) -> Range | None:
        """The known range of a row's contribution to the claim. Oriented, and clipped to the cap."""
        if self.metric.combine:
            return None
        low, high = self.gate.row_range(self.metric)
        if self.theirs is not None:  # of a factor of 0 the baseline counts nothing, however large it may be
            low, high = (low - self.factor * high, high - self.factor * low) if self.factor else (low, high)
        low, high = (low, high) if self.sign > 0 else (0.0 - high, 0.0 - low)  # -0.0 as an end would turn a sign
        cap = math.inf if self.gate.cap is None else self.gate.cap
        low, high = max(low, -cap), min(high, cap)
        return Range(low, high) if math.isfinite(low) and math.isfinite(high) else None

    @property
    def alternative_estimate(self) -> float | None:
        """The estimate with the other weighting of clusters.

        Clusters count alike, or, if they do already, rows do. None if the metric is not a plain mean.
        """
        if self.metric.combine or self.metric.is_count or self.gate.kind.counts or self.gate.cap is not None:
            return None
        results = [rows for rows in (self.ours, self.theirs) if rows is not None]
        means = [
            self._compute_weighted_mean(rows if self.gate.estimand != "rows" else self._make_group_mean_rows(rows))
            for rows in results
        ]
        return means[0] - self.factor * means[1] if len(means) > 1 else means[0]

    def _make_group_mean_rows(self, rows: Sequence[Score]) -> list[Score]:
        """Return each cluster's weighted mean as a row. All rows have the same weight."""
        members: dict[str, list[Score]] = {}
        for group, score in zip(self.groups, rows, strict=True):
            members.setdefault(group, []).append(score)
        return [Score(group, {self.metric.name: self._compute_weighted_mean(own)}) for group, own in members.items()]

    def _normalize_group_weights(self, rows: Sequence[Score]) -> list[Score]:
        """Scale the rows' weights to sum to 1 per group."""
        total: dict[str, float] = {}
        for group, score in zip(self.groups, rows, strict=True):
            total[group] = total.get(group, 0.0) + score.weight_of(self.metric.name)
        pairs = zip(self.groups, rows, strict=True)
        return [
            replace(s, weights={}, weight=s.weight_of(self.metric.name) / (total[group] or 1.0)) for group, s in pairs
        ]

    def _compute_weighted_mean(self, rows: Sequence[Score]) -> float:
        return replace(self.metric, scale="mean").value(rows)


def _fill_lost_value(score: Score, best: bool | None, value: float) -> Score:
    """Fill in a score's lost value. With `best` None a partly lost value counts as known."""
    if best is None:
        return replace(score, partly_lost={}) if score.partly_lost else score
    return score.with_value(value) if score.lost or score.partly_lost else score


def make_hypothesis(case: GateInput, rows: Sequence[Sample]) -> Hypothesis:
    """Return the claim of a gate about some of its rows."""
    kind = case.gate.kind
    runs, baselines = ([[run[s.id] for s in rows] for run in several] for several in (case.runs, case.baselines))
    each = baselines if len(baselines) > 1 else [*baselines, None][:1] * len(runs)
    scored = [kind.score_rows(case.gate, case.metric, *pair) for pair in zip(runs, each, strict=True)]
    theirs = [base for _, base in scored if base is not None][: len(baselines)]
    gate, metric = kind.restate(case.gate, case.metric)
    labels = cluster_labels(rows, questions=bool(case.repeated.get("rows")))
    return Hypothesis(replace(case, gate=gate, metric=metric), [run for run, _ in scored], theirs, labels)


def _average_runs(runs: Sequence[Sequence[Score]], metric: Metric) -> Sequence[Score]:
    """Average the scores of several runs, row by row."""
    return runs[0] if len(runs) == 1 else [average_scores(row, metric) for row in zip(*runs, strict=True)]


def average_scores(runs: Sequence[Score], metric: Metric) -> Score:
    """Average the scores of one row over a recipe's runs.

    A value that one of them lost is lost. Raises ValueError if the row has another weight in one of them.
    """
    first, name = runs[0], metric.name
    if lost := [run for run in runs if name in run.lost]:
        return lost[0]
    for run in runs[1:]:
        if not math.isclose(run.weight_of(name), first.weight_of(name), rel_tol=1e-9):
            here, there = run.weight_of(name), first.weight_of(name)
            raise ValueError(f'row "{first.id}" has the weights {there:g} and {here:g} in two runs of the recipe')
    shares = [run.partly_lost[name] for run in runs if name in run.partly_lost]
    partly = {name: max(shares)} if shares else {}
    if metric.combine:  # made of all rows of one run
        return replace(first, partly_lost=partly)
    mean = math.fsum(run.values[name] for run in runs) / len(runs)
    return Score(first.id, {name: mean}, first.weight_of(name), partly_lost=partly)
