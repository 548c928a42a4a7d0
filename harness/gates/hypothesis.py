"""One claim about rows, turned so that larger is better, and the test that statistics.md chooses for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from harness.gates import labels as by_people
from harness.records.gates import Gate
from harness.records.metrics import Metric
from harness.records.samples import Labels, Score
from harness.stats import tests
from harness.stats.eprocess import EProcess

SHOWN = 20  # rows with the largest changes that are kept of a metric which changes on every row


@dataclass(frozen=True)
class Answer:
    """A question's test: `test` on the claim's own scale, and how far each bound lies beyond the threshold,
    oriented, so that less is worse."""

    test: tests.Test
    lower: float
    upper: float


class Question:
    """A gate's claim, put to some rows of a candidate and, in a comparison, to the same rows of its baseline."""

    def __init__(
        self,
        gate: Gate,
        metric: Metric,
        ours: Sequence[Score],
        theirs: Sequence[Score] | None,
        clusters: Sequence[str],
        alpha: float,
        *,
        early: bool = False,
        labels: Labels | None = None,
    ) -> None:
        """`early`: the rows stand in a random order, and were looked at while they came; `labels`: the metric's.

        Rows of weight 0, which say nothing of the metric, are left out.
        """
        self.gate, self.metric, self.alpha, self.early = gate, metric, alpha, early
        weightless, self.labels = _weightless(metric, ours, theirs), labels
        keep = [i for i in range(len(ours)) if i not in weightless]
        self.ours = [ours[i] for i in keep]
        self.theirs = None if theirs is None else [theirs[i] for i in keep]
        self.groups, self.weightless = [clusters[i] for i in keep], len(weightless)
        self.clusters = self.groups if len(set(self.groups)) < len(self.groups) else None
        self.factor = 1.0  # a relative margin is a claim about candidate - factor · baseline, which divides by nothing
        if gate.versus:
            self.sign = 1 if metric.better == "higher" else -1
            self.margin = gate.margin
            if metric.scale == "perplexity":
                self.margin = self.sign * math.log1p(self.sign * self.margin)
            elif gate.relative:
                self.factor, self.margin = 1 + self.sign * self.margin, 0.0
        else:
            bound = gate.min if gate.min is not None else gate.max
            self.sign = 1 if gate.min is not None else -1
            bound = float(gate.max_failures or 0) if bound is None else bound
            self.margin = self.sign * (math.log(bound) if metric.scale == "perplexity" else bound)
        self.threshold = self.sign * self.margin

    @cached_property
    def units(self) -> tuple[Sequence[Score], Sequence[Score] | None, list[str] | None]:
        """What is tested of candidate and baseline, and its clusters: the rows, or the mean of each cluster."""
        if self.gate.estimand == "clusters":
            return self._means(self.ours), None if self.theirs is None else self._means(self.theirs), None
        return self.ours, self.theirs, self.clusters

    @cached_property
    def value(self) -> float:
        """The metric of the candidate on these rows, or of the means of their clusters; corrected where labels are."""
        return by_people.measured(self.metric, self.units[0], self.units[2], self.labels)

    @cached_property
    def baseline(self) -> float | None:
        """The metric of the baseline on these rows, or of the means of their clusters."""
        return None if self.units[1] is None else self.metric.value(self.units[1])

    @property
    def otherwise(self) -> float | None:
        """The estimate as it is where clusters count alike, or, of a gate that counts them so, where rows do."""
        if self.clusters is None or self.metric.combine or self._point() or self.gate.max_failures is not None:
            return None
        both = [rows for rows in (self.ours, self.theirs) if rows is not None]
        found = [self._mean(rows if self.gate.estimand == "clusters" else self._means(rows)) for rows in both]
        return found[0] - self.factor * found[1] if len(found) > 1 else found[0]

    def answer(self, ties: bool = False) -> Answer:
        """Run the test. Raises ValueError when it cannot be run, or when nothing varies; `ties` allows rows
        of which none changed."""
        if self.labels is not None or self.metric.labelled or self.metric.scale == "agreement":
            return self._labelled()
        if self.gate.max_failures is not None:
            return Answer(self._failures(self.gate.max_failures), 0.0, 0.0)
        if self._point():
            test = tests.point(self._all(range(len(self.ours))), self.margin, len(self.ours))
        else:
            self._refuse(ties)
            test = self._test()
            if self.gate.estimand == "clusters":
                test = replace(test, clusters=test.n)
            if math.isinf(test.lower) and math.isinf(test.upper) and test.p_pass == test.p_fail == 1:
                raise ValueError(f"nothing varies over {len(self.ours)} rows, so nothing can be inferred from them")
        oriented = test.lower - self.margin, test.upper - self.margin
        if self.sign < 0:
            test = replace(test, estimate=-test.estimate, lower=-test.upper, upper=-test.lower)
        return Answer(test, *oriented)

    def _labelled(self) -> Answer:
        """Test what people's labels make of the rows, or how far instrument and people agree on them."""
        if self.labels is None:
            raise ValueError(f"there are no labels that tell {self.metric.name}")
        if self.theirs is not None or self.gate.max_failures is not None:
            what = f'labels correct the share that {self.metric.name} is; claim "min" or "max"'
            raise ValueError(f"{what}, since its instrument may err otherwise on the other model")
        if self.metric.scale == "agreement":
            test = by_people.kappa(self.labels, self.threshold, self.alpha)
        else:
            values, weights = self._values()
            values = [self.sign * v for v in values]
            test = by_people.corrected(values, weights, self.clusters, self.labels, self.threshold, self.alpha)
        ends = (test.lower, test.upper) if self.sign > 0 else (test.upper, test.lower)
        if self.sign < 0:
            test = replace(test, p_pass=test.p_fail, p_fail=test.p_pass)
        return Answer(test, *(self.sign * end - self.margin for end in ends))

    def flips(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the ids of the rows won and lost against the baseline, the largest change first.

        All of them where most rows stay as they are (0/1, shares), else the SHOWN largest each.
        """
        if self.theirs is None or self.metric.combine:
            return (), ()
        name = self.metric.name
        change = [
            (self.sign * (o.values[name] - t.values[name]) * o.weight_of(name), o.id)
            for o, t in zip(self.ours, self.theirs, strict=True)
        ]
        kept = None if self.metric.scale == "proportion" else SHOWN
        won = sorted((c for c in change if c[0] > 0), key=lambda c: -c[0])[:kept]
        lost = sorted((c for c in change if c[0] < 0), key=lambda c: c[0])[:kept]
        return tuple(i for _, i in won), tuple(i for _, i in lost)

    # -- what cannot be asked ----------------------------------------------------------------------

    def _point(self) -> bool:
        return self.metric.scale == "count"

    def _refuse(self, ties: bool) -> None:
        rows = len(self.ours)
        if rows < 2:
            raise ValueError("there is one row; one row proves nothing" if rows else "every row has weight 0")
        if self.clusters and len(set(self.clusters)) == 1:
            raise ValueError(f"all {rows} rows are of one cluster; it says nothing about others")
        if self.theirs is not None and not (ties and self._support()) and not self.changed():
            self.refuse_ties()
        if self.baseline is not None and self.factor != 1 and self.baseline <= 0:
            raise ValueError(
                f"{self.metric.name} of the baseline is {self.baseline:g}; a share of that is no "
                "margin, write it in the metric's units"
            )

    def refuse_ties(self) -> None:
        """Raise ValueError unless rows of which none changed can prove that few others would.

        That takes a margin, and a known range of what another row could lose.
        """
        found = f"no row of {len(self.ours)} changed against the baseline: nothing to compare"
        if self.gate.margin >= 0:
            raise ValueError(f'{found}; allow a margin with "worse_by_at_most", or claim "min" or "max_failures"')
        if self._support() is None:
            raise ValueError(f"{found}; {self.metric.name} has no known range, so another row could lose any amount")

    def changed(self) -> bool:
        name = self.metric.name
        for o, t in zip(self.ours, self.theirs or (), strict=True):
            if name not in o.values or name not in t.values:  # a metric made from all rows at once
                if o.values != t.values or o.answer != t.answer:
                    return True
            elif o.values[name] != t.values[name]:
                return True
        return False

    # -- the test ----------------------------------------------------------------------------------

    def _test(self) -> tests.Test:
        if self.early:
            return self._sequential()
        if self.metric.combine:
            return self._bootstrap()
        values, weights = self._values()
        if self._binary(weights):
            return self._binary_test()
        self._refuse_constant(values)
        ours, theirs, clusters = self.units
        if self._level(weights):
            cand, base = ([self.sign * s.values[self.metric.name] for s in r] for r in (ours, theirs or ()))
            return tests.sign_flip(cand, base, clusters, self.alpha, support=self._support())
        test = tests.cluster_t(values, weights, clusters, self.margin, self.alpha, support=self._support())
        share = self.factor != 1 and self._support() is not None and test.method != "t"
        return self._unseen(test, weights) if share else test

    def _unseen(self, test: tests.Test, weights: Sequence[float]) -> tests.Test:
        """Allow a claim about a share of the baseline for what no row or cluster showed, by the rule of three.

        It varies with the baseline, whatever the candidate, so that where few rows change a t is sure too soon; of
        independent rows `stats.cluster_t` allows for that itself. The weaker test counts.
        """
        flat = [test.estimate] * len(weights)
        rule = tests.cluster_t(flat, weights, self.units[2], self.margin, self.alpha, support=self._support())
        lower, upper = min(test.lower, rule.lower), max(test.upper, rule.upper)
        p_pass, p_fail = max(test.p_pass, rule.p_pass), max(test.p_fail, rule.p_fail)
        return replace(test, lower=lower, upper=upper, p_pass=p_pass, p_fail=p_fail)

    def _sequential(self) -> tests.Test:
        values, weights = self._values()
        if len(set(weights)) > 1:
            raise ValueError("rows have different weights, and a test that may stop early counts them alike")
        clustered = self.clusters is not None
        return EProcess(self.margin, self.alpha, self._support(), clustered=clustered).update(values)

    def _level(self, weights: Sequence[float]) -> bool:
        """Say whether the claim is "better at all" about rows that count alike."""
        return self.theirs is not None and self.margin == 0 and self.factor == 1 and len(set(weights)) == 1

    def _refuse_constant(self, values: Sequence[float]) -> None:
        """Refuse rows that all say the same; of a 0/1 metric that is possible, of any other it is a broken one.

        That no score changed is possible too, and allowed where it can prove something, see `refuse_ties`.
        """
        low, high = min(values), max(values)
        if self.theirs is not None and low == high == 0 and self._support():
            return
        if high - low <= 1e-12 * max(abs(low), abs(high)) and not self._zeros_and_ones():
            what = "has the same value" if self.theirs is None else "differs from the baseline by the same"
            raise ValueError(
                f"every row {what}, {self.sign * values[0]:g}; where nothing varies nothing can be inferred"
            )

    def _zeros_and_ones(self) -> bool:
        if self.metric.scale != "proportion":
            return False
        ours, theirs, _ = self.units
        return all(s.values[self.metric.name] in (0, 1) for s in (*ours, *(theirs or ())))

    def _binary(self, weights: Sequence[float]) -> bool:
        plain = self.units[2] is None and self.factor == 1 and len(set(weights)) == 1
        return plain and self._zeros_and_ones()

    def _binary_test(self) -> tests.Test:
        (ours, theirs, _), name = self.units, self.metric.name
        n = len(ours)
        if theirs is None:
            right = sum(int(s.values[name]) for s in ours)
            if self.sign > 0:
                return tests.binomial(right, n, self.threshold, self.alpha)
            test = tests.binomial(n - right, n, 1 - self.threshold, self.alpha)
            return replace(test, estimate=test.estimate - 1, lower=test.lower - 1, upper=test.upper - 1)
        pairs = zip(ours, theirs, strict=True)
        changes = [self.sign * (o.values[name] - t.values[name]) for o, t in pairs]
        wins, losses = sum(c > 0 for c in changes), sum(c < 0 for c in changes)
        if self.margin == 0:
            return tests.mcnemar(wins, losses, n, self.alpha)
        return tests.tango(wins, losses, n, -self.margin, self.alpha)

    def _values(self) -> tuple[list[float], list[float]]:
        """Return what each row or cluster says of the claim, and its weight: the value, or the paired difference."""
        name = self.metric.name
        self._refuse_weights()
        ours, theirs, _ = self.units
        weights = [s.weight_of(name) for s in ours]
        if theirs is None:
            return [self.sign * s.values[name] for s in ours], weights
        pairs = zip(ours, theirs, strict=True)
        return [self.sign * (o.values[name] - self.factor * t.values[name]) for o, t in pairs], weights

    def _refuse_weights(self) -> None:
        """Refuse rows that weigh here what they do not in the baseline."""
        for o, t in () if self.theirs is None else zip(self.ours, self.theirs, strict=True):
            here, there = o.weight_of(self.metric.name), t.weight_of(self.metric.name)
            if here != there and not math.isclose(here, there, rel_tol=1e-9):
                unit = "tokens" if self.metric.scale == "perplexity" else "weight"
                raise ValueError(
                    f'row "{o.id}" has {here:g} {unit} here and {there:g} in the baseline; '
                    "with different tokenizers compare bits_per_byte"
                )

    def _means(self, rows: Sequence[Score]) -> list[Score]:
        """Return the weighted mean of each cluster as a row of its own, all of them alike."""
        found: dict[str, list[Score]] = {}
        for group, score in zip(self.groups, rows, strict=True):
            found.setdefault(group, []).append(score)
        return [Score(group, {self.metric.name: self._mean(own)}) for group, own in found.items()]

    def _mean(self, rows: Sequence[Score]) -> float:
        return replace(self.metric, scale="mean").value(rows)

    def _all(self, rows: Iterable[int]) -> float:
        """Return the oriented claim's quantity, computed on some of the rows."""
        chosen = list(rows)
        metric = self.metric
        ours = metric.value([self.ours[i] for i in chosen])
        theirs = metric.value([self.theirs[i] for i in chosen]) if self.theirs is not None else None
        if metric.scale == "perplexity":
            ours, theirs = math.log(ours), None if theirs is None else math.log(theirs)
        return self.sign * (ours if theirs is None else ours - self.factor * theirs)

    def _bootstrap(self) -> tests.Test:
        clusters = self.clusters or [s.id for s in self.ours]
        support = self._support()
        return tests.cluster_bootstrap(self._all, clusters, self.margin, self.alpha, support=support)

    def _support(self) -> tuple[float, float] | None:
        """Return the range a row's value can have, oriented, where it is known."""
        if self.metric.scale != "proportion" or self.metric.combine:
            return None
        if self.theirs is not None:
            return (-self.factor, 1.0) if self.sign > 0 else (-1.0, self.factor)
        return (0.0, 1.0) if self.sign > 0 else (-1.0, 0.0)

    def _failures(self, allowed: int) -> tests.Test:
        """Count the rows, or clusters with a row, that failed; the bounds are Clopper and Pearson's on their share."""
        name, bad = self.metric.name, 0.0 if self.metric.better == "higher" else 1.0
        if len(self.ours) < 2:
            raise ValueError("there is one row; one row proves nothing")
        if odd := next((s for s in self.ours if s.values[name] not in (0, 1)), None):
            raise ValueError(f'{name} of row "{odd.id}" is {odd.values[name]:g}; failures are counted of a 0/1 metric')
        failed = [s.values[name] == bad for s in self.ours]
        rows = sum(failed)
        units = self.clusters or [s.id for s in self.ours]
        if len(set(units)) == 1:
            raise ValueError(f"all {len(units)} rows are of one cluster; it says nothing about others")
        hit = len({u for u, f in zip(units, failed, strict=True) if f})
        bounds = tests.binomial(hit, len(set(units)), 0.5, self.alpha)
        p = (0.0, 1.0) if rows <= allowed else (1.0, 0.0)
        clusters = len(set(units)) if self.clusters else None
        return tests.Test(float(rows), bounds.lower, bounds.upper, *p, "failures counted", len(self.ours), clusters)


def _weightless(metric: Metric, ours: Sequence[Score], theirs: Sequence[Score] | None) -> frozenset[int]:
    """Return the numbers of the rows that have weight 0 for a metric which is a weighted mean, in all results."""
    if metric.combine or metric.scale == "count":
        return frozenset()
    both = [ours] if theirs is None else [ours, theirs]
    weights = zip(*([s.weight_of(metric.name) for s in rows] for rows in both), strict=True)
    return frozenset(i for i, each in enumerate(weights) if not any(each))
