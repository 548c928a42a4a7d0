"""One gate on its rows before any is scored: how likely it is to be proven, what could be, and what that assumes.

What is not known yet is that of the last run of the suite where there is one, else DISCORDANCE and ICC.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from harness.gates.clusterings import Labels, coarsest_cluster_of_rows, sort_clusterings
from harness.planning.aa_record import RowFlips
from harness.planning.history import PastRows, run_name
from harness.planning.recipe_power import SPREADS, RecipeRows, SeedSpread
from harness.planning.resampling import DRAWN_RUNS, BinomialRows, EmpiricalRows, PowerClaim
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.run import Run
from harness.records.verdicts import Verdict
from harness.stats import crossed, power, ratio
from harness.stats.arrays import Bools, distributions, np
from harness.texts.numbers import typographic_minus

ASSUMED_ICC = 0.2  # correlation of rows in one cluster, where no run has shown it
ASSUMED_GAIN = 0.03  # by how much a model is taken to be better than a gate on 0/1 rows asks, for all gates together
MAX_ROWS = 100_000  # rows; what would need more is not a matter of rows
SEARCH_DRAWS = 1000  # draws where power is searched for
Find = Callable[[Callable[[float], float]], float | None]


class AssumedTruth(NamedTuple):
    """The truth that power is computed for, with a description."""

    truth: float
    words: str


@dataclass
class GatePower:
    """A gate on some rows, turned so that larger is better: how likely the truth is shown to be above `bound`.

    `clusters` are those of all rows of the eval, `chosen` the numbers of the gate's own (None: all). `past` are such
    rows of an earlier run, `before` its verdict.
    """

    gate: Gate
    metric: Metric
    clusters: tuple[str, ...]
    chosen: tuple[int, ...] | None
    alpha: float
    past: PastRows | None
    before: tuple[Verdict, Run] | None
    seeds: int = 0  # of a recipe that the gate is about
    apart: SeedSpread | None = None  # how far its runs lay apart in the last run
    equal_runs: RowFlips | None = None  # of the metric, as `harness aa` measured it on these rows
    crossed: Sequence[Labels] = ()  # clusters of all rows of the eval, of kinds that cross `clusters`

    def __post_init__(self) -> None:
        self.sign, margin, self.factor = self.gate.kind.oriented(self.gate, self.metric)
        self.before = self.before if self.metric.combine else None  # else the rows tell more
        run = self.past.run if self.past else self.before[1] if self.before else None
        self.where = f"as in {run_name(run)}" if run else "assumed"
        # what is added to a turned value: 1 where it is the share of rows that are 0
        self.shift = 1.0 if self.is_binary and not self.gate.versus and self.sign < 0 else 0.0
        self.bound = margin + self.shift
        # the cluster of every row that the gate is about
        self.own = self.clusters if self.chosen is None else tuple(self.clusters[i] for i in self.chosen)
        self.sizes = list(Counter(self.own).values())
        self.n, self.count = len(self.own), len(self.sizes)
        self.clustered = self.count < self.n
        # nothing can be inferred from so few, or the gate may not pass at the risk that its verdict has
        self.cannot_pass = self.n < 2 or self.count == 1 or self.is_barred
        # whether power is drawn; else it is a formula
        self.drawn = not (self.metric.combine or self.seeds) and (self.clustered or not self.is_binary)
        # of the draws: metrics of one eval share the rows of an earlier run, and nothing else
        self.seed = zlib.crc32((self.gate.metric if self.is_binary else self.gate.eval).encode())

    @cached_property
    def is_barred(self) -> bool:
        """Whether the gate blocks, with at best an approximate risk."""
        sizes = np.asarray(self.sizes, dtype=float)
        uneven = self.clustered and self.gate.estimand == "rows" and bool(ratio.are_uneven(sizes))
        few = uneven and ratio.has_few_drawn_sizes(float(ratio.effective_clusters(sizes)))
        return self.gate.forbids_risk("approximate" if few else self.gate.risk(self.metric))

    # -- what is assumed ---------------------------------------------------------------------------

    @cached_property
    def is_binary(self) -> bool:
        """Whether rows are 0/1 and count alike, or are taken to: nothing between 0 and 1 varies more."""
        about_rows = not (self.metric.combine or self.metric.labelled or self.gate.estimand != "rows")
        if not self.metric.is_share or self.gate.relative or not about_rows:
            return False
        rows = [*self.past.ours.values(), *(self.past.theirs or {}).values()] if self.past else []
        return all(value in (0, 1) and weight == 1 for value, weight in rows)

    @cached_property
    def past_rows(self) -> EmpiricalRows | None:
        """The last run's rows, scored for the claim."""
        if self.past is None or self.metric.combine or self.metric.labelled:
            return None
        ours, theirs = self.past.ours, self.past.theirs
        ids, factor = [s.id for s in self.past.samples], self.factor
        others = [theirs[i][0] for i in ids] if theirs is not None else [0.0] * len(ids)
        values = [self.oriented(ours[i][0] - factor * o) for i, o in zip(ids, others, strict=True)]
        support, cap = None, self.gate.cap
        if cap is not None:
            values, support = [max(-cap, min(cap, v)) for v in values], (-cap, cap)
        elif all(map(math.isfinite, ends := self.gate.row_range(self.metric))):
            low, high = ends if theirs is None else (ends[0] - factor * ends[1], ends[1] - factor * ends[0])
            support = min(self.oriented(low), self.oriented(high)), max(self.oriented(low), self.oriented(high))
        clusters = coarsest_cluster_of_rows(self.past.samples)
        rows = EmpiricalRows(tuple(values), tuple(ours[i][1] for i in ids), tuple(clusters), support)
        if self.gate.estimand != "rows":
            return rows.cluster_means
        return rows if len(set(clusters)) < len(clusters) else replace(rows, clusters=None)

    @cached_property
    def share(self) -> float | None:
        """The share of right rows in the last run."""
        if self.past is None:
            return None
        right = sum(self.past.ours[s.id][0] for s in self.past.samples) / len(self.past.samples)
        return right if self.sign > 0 else 1 - right

    @cached_property
    def estimate(self) -> float | None:
        """The estimate of the last run, oriented."""
        if self.past_rows is not None:
            return self.past_rows.mean
        v = self.before[0] if self.before else None
        return None if v is None or v.estimate is None else self.sign * (v.estimate - (v.threshold or 0.0)) + self.bound

    @cached_property
    def spread(self) -> float | None:
        """The last run's standard error per row or cluster. None if unknown."""
        if self.past_rows is not None:
            return self.past_rows.spread * self.crossing or None
        v = self.before[0] if self.before else None
        if v is None or v.lower is None or v.upper is None or v.alpha is None:
            return None
        width, count = (v.upper - v.lower) / 2, v.units
        if not math.isfinite(width) or width <= 0:
            return None
        return width / float(distributions.t.isf(v.alpha, max(count - 1, 1))) * math.sqrt(count)

    @cached_property
    def discordance(self) -> float:
        """The share of 0/1 rows on which candidate and baseline differ."""
        if self.past_rows is None:
            return self.noise or power.DISCORDANCE
        changed = sum(map(abs, self.past_rows.values)) / len(self.past_rows.values)
        return changed or min(3 / len(self.past_rows.values), power.DISCORDANCE)  # the rule of three

    @property
    def noise(self) -> float | None:
        """The discordance of equal models, if above the assumed one.

        Other models differ more than equal ones. A lower discordance by chance says nothing of a candidate, which
        changes rows by itself.
        """
        known = self.equal_runs.discordance if self.equal_runs and self.past_rows is None else 0.0
        return known if known > power.DISCORDANCE else None

    @cached_property
    def icc(self) -> float:
        known = self.past_rows.icc if self.past_rows else None
        return ASSUMED_ICC if known is None else known

    @property
    def effect(self) -> float:
        """By how much clusters multiply the rows needed."""
        return power.design_effect(self.sizes, self.icc) * self.crossing**2 if self.clustered else 1.0

    @cached_property
    def crossing(self) -> float:
        """By how much clusters of other kinds raise the error, as `crossed.crossed_variance` adds theirs."""
        if self.gate.estimand != "rows" or self.metric.combine:
            return 1.0
        if self.past_rows is not None and self.past is not None:
            v, w = np.asarray(self.past_rows.values), np.asarray(self.past_rows.weights)
            kinds = [crossed.crossed_mean(v, w, labels) for labels in sort_clusterings(self.past.samples)]
            if len(kinds) < 2 or not kinds[0].of.error > 0:
                return 1.0
            variance = crossed.crossed_variance(kinds, crossed.crossed_mean(v, w, None).of.error ** 2)
            return math.sqrt(float(variance)) / float(kinds[0].of.error)
        own = power.design_effect(self.sizes, self.icc)
        chosen = range(len(self.clusters)) if self.chosen is None else self.chosen
        each = [Counter(labels[i] for i in chosen).values() for labels in self.crossed]
        return math.sqrt(1 + sum(power.design_effect([*sizes], self.icc) - 1 for sizes in each) / own)

    def notes(self) -> list[str]:
        differ, told = self.format_spread(self.seed_spread), self.where if self.apart else "assumed"
        seeds = [f"{self.seeds} seeds that differ by {differ}, {told}"] if self.seeds else []
        if not self.is_binary:
            error = (self.spread or 0.0) * math.sqrt(self.n / self.count)
            return [f"standard deviation per row {error:.3g}, {self.where}", *seeds]
        where = "measured by harness aa" if self.noise else self.where
        where += f" ({self.equal_runs.share:.1%} between equal runs)" if self.equal_runs and not self.past_rows else ""
        found = [f"{self.discordance:.1%} of rows differ, {where}"] if self.gate.versus else []
        if self.clustered:
            known = self.past_rows is not None and self.past_rows.icc is not None
            where = self.where if known else f"assumed (correlation {ASSUMED_ICC:g})"
            found.append(f"clusters cost a factor {self.effect:.2f}, {where}")
        return found + seeds

    @property
    def seed_spread(self) -> SeedSpread:
        return self.apart or SeedSpread(SPREADS[0])

    def format_spread(self, apart: SeedSpread) -> str:
        """Write the standard deviation over seeds, of a proportion in points."""
        points = f"{100 * apart.spread:.2g}"
        return f"{points} point{'' if points == '1' else 's'}" if self.metric.is_share else f"{apart.spread:.2g}"

    def recipe_rows(self, truth: float) -> RecipeRows:
        """Return the rows and seeds that determine a recipe's power."""
        about: dict[str, Any] = {"count": self.count, "seeds": self.seeds, "apart": self.seed_spread}
        if not self.is_binary:
            return RecipeRows((self.spread or 0.0) ** 2, self.count, **about)
        if self.gate.versus:
            variance = max(self.min_discordance(truth) - truth**2, 1e-6)
            return RecipeRows(variance, self.n / self.effect, rate=self.share, paired=True, **about)
        return RecipeRows(max(truth * (1 - truth), 1e-6), self.n / self.effect, rate=truth, **about)

    def oriented(self, value: float) -> float:
        return self.sign * value + self.shift

    @cached_property
    def chance(self) -> float | None:
        """The probability of passing if `truth` holds. None if unknown."""
        if self.cannot_pass:
            return 0.0
        return self.power(self.truth, self.bound) if self.is_binary or self.spread else None

    # -- power -------------------------------------------------------------------------------------

    def power(self, truth: float, bound: float, factor: float = 1.0, runs: int = DRAWN_RUNS) -> float:
        """Return the power with `factor` times the rows.

        It is how often they prove that the truth is above the bound.
        """
        if self.seeds:
            return self.recipe_rows(truth).power(truth, bound, self.alpha, factor)
        if self.drawn:
            return float(self.simulate_passes(truth, bound, factor, runs).mean())
        n = round(self.n * factor)
        if not self.is_binary:
            return power.mean_power(truth, bound, self.spread or 0.0, round(self.count * factor), self.alpha)
        if not self.gate.versus:
            return power.share_power(truth, bound, n, self.alpha)
        return power.pairs_power(truth, -bound, self.min_discordance(truth), n, self.alpha)

    def simulate_passes(self, truth: float, bound: float, factor: float, runs: int) -> Bools:
        """Return on which of `runs` draws it passes."""
        if not self.is_binary:
            assert self.past_rows is not None
            bound = truth - (truth - bound) / self.crossing
            return self.past_rows.simulate_passes(truth, bound, self.alpha, round(self.count * factor), self.seed, runs)
        versus = self.gate.versus
        right, pairs = ((1 + truth) / 2, ((truth, self.min_discordance(truth)),)) if versus else (truth, ())
        claim = PowerClaim(bound, self.alpha, 0 if versus else None, crossing=self.crossing)
        return BinomialRows(right, pairs, self.own, self.icc).simulate_passes((claim,), self.seed, runs, factor)[:, 0]

    def min_discordance(self, difference: float) -> float:
        """Return the discordance, which is not less than a difference."""
        return min(max(self.discordance, abs(difference)), 1.0)

    def approximate_deviate(self, truth: float, bound: float, factor: float) -> float:
        """Approximate `power` as a normal deviate, from a normal error."""
        if self.seeds:
            return power.power_to_deviate(self.power(truth, bound, factor))
        spread, rows = self.spread or 0.0, self.count * factor
        if self.is_binary:
            middle = (truth + bound) / 2
            square = self.min_discordance(truth) - truth**2 if self.gate.versus else middle * (1 - middle)
            spread, rows = math.sqrt(max(square, 1e-6) * self.effect), self.n * factor
        return power.normal_deviate(truth - bound, spread / math.sqrt(rows), self.alpha)

    def search(self, find: Find, place: Callable[[float], tuple[float, float, float]]) -> float | None:
        """Run a search on power.

        `place` maps the searched value to truth, bound and factor of the rows.
        """
        if not self.drawn:
            return find(lambda x: self.power(*place(x)))
        return power.search_with_correction(
            find, lambda x: self.approximate_deviate(*place(x)), lambda x: self.power(*place(x), SEARCH_DRAWS)
        )

    # -- what follows ------------------------------------------------------------------------------

    @cached_property
    def null_difference(self) -> float:
        """The truth of a model that equals its baseline."""
        if self.factor == 1 or self.past is None or self.past.theirs is None:
            return 0.0
        rows = [self.past.theirs[s.id] for s in self.past.samples]
        mean = math.fsum(v * w for v, w in rows) / math.fsum(w for _, w in rows)
        return self.oriented((1 - self.factor) * mean)

    @cached_property
    def assumed(self) -> AssumedTruth:
        """The truth that power is reported for, with a description.

        It is that of an equal model, of one like the last, or of one just good enough.
        """
        if self.gate.worse_by_at_most is not None:
            return AssumedTruth(self.null_difference, f"if the candidate equals {self.gate.versus}")
        if self.estimate is not None:
            return AssumedTruth(
                self.estimate, f"if it is {self.format_value(self.to_metric_units(self.estimate))} again"
            )
        if (least := self.minimum_detectable) is None:
            return AssumedTruth(self.bound, "for any model")
        return AssumedTruth(least, f"if it is {self.format_value(self.to_metric_units(least))}")

    @property
    def truth(self) -> float:
        return self.assumed[0]

    @cached_property
    def better(self) -> float:
        """The truth that joint power is computed for.

        On 0/1 rows the model is 3 points better than the gate demands, or equal if it may be worse. Otherwise it is
        `truth`.
        """
        if not self.is_binary or self.gate.worse_by_at_most is not None:
            return self.truth
        return min(self.bound + ASSUMED_GAIN, 1.0)

    @property
    def previous_estimate(self) -> float:
        """The truth of a model like the last, else `truth`."""
        return self.truth if self.estimate is None else self.estimate

    @cached_property
    def minimum_detectable(self) -> float | None:
        """The least good truth proven with power 0.8. None if there is none."""
        most = 1.0 - self.bound if self.is_binary else self.search_limit
        found = self.search(lambda at: power.search_power(at, 0.0, most), lambda x: (self.bound + x, self.bound, 1.0))
        return None if found is None else self.bound + found

    @property
    def search_limit(self) -> float:
        """A distance that is proven for sure."""
        return 20 * (self.spread or 0.0) / math.sqrt(self.count)

    def describe_provable(self) -> str:
        """Describe the least claim that is proven with power 0.8.

        It is the smallest margin of an equal model, or the least good model. Empty if there is none.
        """
        if self.gate.worse_by_at_most is None:
            return (
                ""
                if self.minimum_detectable is None
                else self.format_value(self.to_metric_units(self.minimum_detectable))
            )
        most, equal = 0.99 if self.is_binary else self.search_limit, self.null_difference
        margin = self.search(lambda at: power.search_power(at, 0.0, most), lambda x: (equal, equal - x, 1.0))
        if margin is None:
            return ""
        if self.factor != 1:
            return (
                f"a margin of {margin * abs((1 - self.factor) / self.null_difference):.1%}"
                if self.null_difference
                else ""
            )
        return f"a margin of {self.format_value(-self.sign * margin).lstrip('+−')}"

    def needed(self) -> int | None:
        """Return about the fewest rows with power 0.8.

        None if more rows would not help, or if they are more than MAX_ROWS.
        """
        if self.truth <= self.bound:
            return None
        if self.truth == self.minimum_detectable:
            return self.n  # by definition
        found = self.search(power.search_rows, lambda n: (self.truth, self.bound, n / self.n))
        return int(found) if found is not None and found <= MAX_ROWS else None

    def to_metric_units(self, truth: float) -> float:
        return self.sign * (truth - self.shift)

    def format_value(self, value: float) -> str:
        """Format a value in the metric's units. A perplexity's change is a share."""
        if self.metric.is_log:
            return typographic_minus(f"{math.expm1(value):+.1%}") if self.gate.versus else f"{math.exp(value):.4g}"
        return typographic_minus(f"{value:+.3g}" if self.gate.versus else f"{value:.3g}")
