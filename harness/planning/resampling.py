"""Simulated data sets, and how often gates pass on them.

Everything is oriented so that larger is better. The same seed draws the same data, so that two calls differ only by
their arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from harness.stats import mean_tests, power, ratio
from harness.stats.arrays import Bools, Counts, Floats, np
from harness.stats.significance import is_significant

DRAWN_RUNS = 4000
BATCH_DRAWS = 100
MAX_CLUSTERS = 600  # clusters that are drawn; of more, so many, at a distance that makes it as hard


@dataclass(frozen=True)
class PowerClaim:
    """Claim that a share or difference is above a bound.

    The difference is from the baseline `against`. The claim may be about some rows only.
    """

    bound: float
    alpha: float
    against: int | None = None
    rows: tuple[int, ...] | None = None  # their numbers; None for all
    crossing: float = 1.0  # by how much clusters of other kinds raise the error


@dataclass(frozen=True)
class BinomialRows:
    """Simulated 0/1 rows of a candidate and its baselines.

    Clusters are Dirichlet-multinomial. The candidate is right on the share `right`; `against` holds for each baseline
    the difference of the shares and the share of rows on which the two differ. `clusters` has a name per row, `icc` is
    the correlation of rows in one cluster.
    """

    right: float
    against: tuple[tuple[float, float], ...]
    clusters: tuple[str, ...]
    icc: float

    @lru_cache(maxsize=256)  # noqa: B019 -- kept as long as the process, which asks the same of candidates alike
    def simulate_passes(
        self, claims: tuple[PowerClaim, ...], seed: int, runs: int = DRAWN_RUNS, factor: float = 1.0
    ) -> Bools:
        """Return (runs, claims): which of them pass on `factor` times the rows, every claim on the same draws."""
        layout = _RowParts(self.clusters, claims, factor)
        rng = np.random.default_rng(seed)
        rates = self.outcome_probabilities
        if self.icc and layout.clustered:
            strength = (1 - self.icc) / self.icc
            drawn = rng.gamma(rates * strength, size=(runs, layout.cluster.max() + 1, len(rates)))
            rates = (drawn / np.maximum(drawn.sum(-1, keepdims=True), 1e-300))[:, layout.cluster]
        sizes = np.broadcast_to(layout.size, (runs, len(layout.size)))
        counts = rng.multinomial(sizes, rates)  # (runs, parts, outcomes)
        return np.stack([self.simulate_claim(c, counts, layout, i) for i, c in enumerate(claims)], axis=1)

    @cached_property
    def outcome_probabilities(self) -> Floats:
        """Every outcome of a row: bit 0 that the candidate is right, bit k + 1 that baseline k is; independent given
        the candidate's."""
        found = np.array([1 - self.right, self.right])
        for difference, discordance in self.against:
            wins, losses = (discordance + difference) / 2, (discordance - difference) / 2
            here = losses / (1 - self.right) if self.right < 1 else 0.0, 1 - (wins / self.right if self.right else 0.0)
            beside = np.resize(np.clip(here, 0.0, 1.0), len(found))
            found = np.concatenate([found * (1 - beside), found * beside])
        return np.asarray(found / found.sum())

    def simulate_claim(self, claim: PowerClaim, counts: Counts, layout: _RowParts, number: int) -> Bools:
        """Decide one claim on every draw, as `harness.gates.inference` chooses the test."""
        asked, outcome = layout.asked[:, number], np.arange(counts.shape[-1])
        ours = outcome & 1
        theirs = 0 * outcome if claim.against is None else outcome >> (claim.against + 1) & 1
        won, lost = (counts[:, asked][..., hit].sum(-1) for hit in (ours > theirs, ours < theirs))  # (runs, parts)
        size, cluster = layout.size[asked], layout.cluster[asked]
        truth = self.right if claim.against is None else self.against[claim.against][0]
        bound = truth - (truth - claim.bound) * layout.scale / claim.crossing
        bound = min(max(bound, 0.0 if claim.against is None else -1 + 1e-9), 1 - 1e-9)
        if not layout.clustered_in[number]:
            n, wins, losses = int(size.sum()), won.sum(-1), lost.sum(-1)
            if claim.against is None:
                return np.asarray(wins >= power.min_right(n, bound, claim.alpha))
            changed, back = np.unique(wins + losses, return_inverse=True)
            fewest = np.array(power.min_wins(changed.tolist(), n, -bound, claim.alpha))
            return np.asarray(wins >= fewest[back])
        starts = np.flatnonzero(np.diff(cluster, prepend=-1))
        won, lost, weight = (np.add.reduceat(x, starts, axis=-1) for x in (won, lost, size))
        sums, weights = (won - lost).astype(float), np.broadcast_to(weight.astype(float), won.shape)
        if claim.against is None:
            return _flag_significant_runs(sums, weights, bound, claim.alpha, kind="share")
        return _flag_significant_runs(
            sums, weights, bound, claim.alpha, (won + lost).sum(-1) / weight.sum(), kind="pairs"
        )


def _flag_significant_runs(
    sums: Floats, weights: Floats, bound: float, alpha: float, changed: Floats | None = None, **how: Any
) -> Bools:
    """Return (runs,): which data sets prove a claim, BATCH_DRAWS at a time, which fit the cache."""
    found = []
    for at in (slice(i, i + BATCH_DRAWS) for i in range(0, len(sums), BATCH_DRAWS)):
        discordance = None if changed is None else changed[at]
        judged = mean_tests.make_p_function(
            ratio.estimate_ratio(sums[at], weights[at]), alpha=alpha, discordance=discordance, **how
        )
        found.append(judged(bound)[0])
    proven: Bools = is_significant(np.concatenate(found), alpha)
    return proven


class _RowParts:
    """Rows in parts that are alike to every claim: of one cluster (where there are any), asked by the same claims."""

    def __init__(self, clusters: Sequence[str], claims: Sequence[PowerClaim], factor: float) -> None:
        number, n = np.unique(np.asarray(clusters), return_inverse=True)[1], len(clusters)
        asked = np.zeros((n, len(claims)), dtype=bool)
        for i, claim in enumerate(claims):
            asked[slice(None) if claim.rows is None else list(claim.rows), i] = True
        self.clustered_in = tuple(len(np.unique(number[a])) < a.sum() for a in asked.T)  # by claim
        count = int(number.max()) + 1
        self.clustered = count < n
        self.scale = 1.0  # by how much farther a bound lies, because clusters were left out
        keys = np.column_stack([number if self.clustered else np.zeros_like(number), asked])
        parts, size = np.unique(keys, axis=0, return_counts=True)
        cluster = parts[:, 0]
        if not self.clustered:
            size = np.maximum(np.rint(size * factor).astype(np.int64), 1)
        elif (wanted := max(round(count * factor), 2)) != count or count > MAX_CLUSTERS:
            taken = min(wanted, MAX_CLUSTERS)
            # by size, so that all sizes are among those taken
            order = np.argsort(np.bincount(cluster, size), kind="stable")
            kept = order[((np.arange(taken) + 0.5) * count / taken).astype(int)]
            rows = [np.flatnonzero(cluster == c) for c in kept]
            cluster, chosen = np.repeat(np.arange(taken), [len(r) for r in rows]), np.concatenate(rows)
            parts, size, self.scale = parts[chosen], size[chosen], math.sqrt(wanted / taken)
        self.size, self.cluster = size, cluster  # of every part, in order
        self.asked = parts[:, 1:].astype(bool)  # (parts, claims)


@dataclass(frozen=True)
class EmpiricalRows:
    """Rows of an earlier run, resampled in whole clusters.

    `values` are the rows' contributions to the claim, `support` their range, if known; `clusters` has a name per row,
    or is None if rows are independent.
    """

    values: tuple[float, ...]
    weights: tuple[float, ...]
    clusters: tuple[str, ...] | None
    support: tuple[float, float] | None

    @cached_property
    def mean(self) -> float:
        return math.fsum(v * w for v, w in zip(self.values, self.weights, strict=True)) / math.fsum(self.weights)

    @property
    def spread(self) -> float:
        """The mean's standard error per row or cluster. 0 if there is one, or if all are alike."""
        of = self.ratio
        return float(of.error) * math.sqrt(of.clusters) if of.clusters > 1 and of.varies() else 0.0

    @property
    def icc(self) -> float | None:
        """The intraclass correlation of clusters, by the analysis of variance.

        None if no cluster has two rows, or if nothing varies. Source: Donner 1986, International Statistical Review
        54:67.
        """
        if self.clusters is None:
            return None
        number, v = np.unique(self.clusters, return_inverse=True)[1], np.asarray(self.values)
        sizes = np.bincount(number)
        count, n, means_ = len(sizes), len(v), np.bincount(number, v) / sizes
        between = float((sizes * (means_ - v.mean()) ** 2).sum()) / (count - 1) if count > 1 else 0.0
        within = float(((v - means_[number]) ** 2).sum()) / (n - count)
        typical = (n - float((sizes**2).sum()) / n) / (count - 1) if count > 1 else 1.0
        whole = between + (typical - 1) * within
        return min(max((between - within) / whole, 0.0), 0.99) if whole > 0 else None

    @property
    def cluster_means(self) -> EmpiricalRows:
        """Each cluster's mean as a row. All rows have the same weight."""
        of = self.ratio
        means_ = of.residuals / of.weights + of.estimate
        return EmpiricalRows(tuple(means_.tolist()), (1.0,) * of.clusters, None, self.support)

    @lru_cache(maxsize=256)  # noqa: B019
    def simulate_passes(
        self, truth: float, bound: float, alpha: float, count: int, seed: int, runs: int = DRAWN_RUNS
    ) -> Bools:
        """Return (runs,): on which draws of `count` rows or clusters, with a mean of `truth`, the claim passes."""
        count, bound = min(count, MAX_CLUSTERS), truth - (truth - bound) * math.sqrt(max(count / MAX_CLUSTERS, 1.0))
        of, weights, mean = self.ratio, self.ratio.weights, float(self.ratio.estimate)
        if self.support is None:
            # drawn from `count` clusters, sums vary less than the clusters themselves do
            sums = truth * weights + of.residuals * math.sqrt(of.clusters / (of.clusters - 1))
        else:  # moved to the truth not by a shift, but drawn towards an end of the range
            end = self.support[0] if truth < mean else self.support[1]
            pulled = (end - truth) / (end - mean) if end != mean else 1.0
            sums = end * weights + (of.residuals + (mean - end) * weights) * pulled
        drawn = np.random.default_rng(seed).integers(0, of.clusters, (runs, count))
        sums, weights = sums[drawn], weights[drawn]
        if self.support is None:
            return _flag_significant_runs(sums, weights, bound, alpha, kind="ratio")
        low, high = self.support
        inside = min(max(bound, low + 1e-9 * (high - low)), high - 1e-9 * (high - low))
        independent = self.clusters is None
        kind = "share" if not independent and len(set(self.weights)) == 1 and high - low == 1 else "score"
        return _flag_significant_runs(
            sums, weights, inside, alpha, kind=kind, support=self.support, independent=independent
        )

    @cached_property
    def ratio(self) -> ratio.Ratio:
        v, w = np.asarray(self.values), np.asarray(self.weights)
        number = np.unique(self.clusters if self.clusters is not None else np.arange(len(v)), return_inverse=True)[1]
        return ratio.estimate_ratio(np.bincount(number, v * w).astype(float), np.bincount(number, w).astype(float))
