"""False passes and power of a gate of a recipe: several seeds on the same rows, which differ by a known spread.

Seeds and rows have normal effects on a latent scale, so that near 0 and 1 seeds are skewed; nothing is drawn from the
model that the test assumes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from harness.stats import mean_tests, ratio
from harness.stats.seeds import seed_reach

ALPHA, BATCH = 0.05, 250
RUNS, DOUBTED, SURELY = 2_000, (6.0, 6.7), 20_000
SHARED = 0.6  # of the variance of a row: what candidate and baseline have in common
LUCK = 0.5  # of the rest: what is a seed's own on a row
Floats = np.ndarray


@dataclass(frozen=True)
class Drawn:
    """Scores of the seeds (runs, seeds, rows) and of the baseline (runs, rows), and the cluster of each row."""

    seeds: Floats
    baseline: Floats
    clusters: Floats | None = None


Draw = Callable[[int], Drawn]


def effects(mean: float, spread: float) -> tuple[float, float]:
    """Return mean and standard deviation of the latent effect of seeds whose rates have this mean and spread."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def spread_of(scale: float) -> float:
        rates = norm.cdf(norm.ppf(mean) * np.sqrt(1 + scale**2) + scale * nodes)
        return float(np.sqrt(weights @ (rates - mean) ** 2))

    scale = brentq(lambda s: spread_of(s) - spread, 0.0, 5.0) if spread else 0.0
    return float(norm.ppf(mean) * np.sqrt(1 + scale**2)), scale


def scored_rows(
    rng: np.random.Generator, seeds: int, rows: int, rate: float, margin: float, spread: float,
    *, better: float = 0.0, clusters: int = 0, score: bool = False, luck: float = LUCK,
) -> Draw:  # fmt: skip
    """0/1 rows, or scores, of a recipe whose mean lies `better` above the margin's edge, and of its baseline."""
    at, scale = effects(rate, spread)
    other = float(norm.ppf(min(rate + margin - better, 1 - 1e-9)))

    def draw(runs: int) -> Drawn:
        label = np.arange(rows) % clusters if clusters else np.arange(rows)
        hard = np.sqrt(SHARED) * latent((runs, rows), 0.3)
        own = latent((runs, rows), 0.3)
        noise = rng.standard_normal((runs, seeds, rows))
        mixed = np.sqrt(1 - luck) * own[:, None] + np.sqrt(luck) * noise
        effect = at + scale * rng.standard_normal((runs, seeds, 1))
        ours = hard[:, None] + np.sqrt(1 - SHARED) * mixed
        theirs = hard + np.sqrt(1 - SHARED) * latent((runs, rows), 0.3)
        if score:  # the share right of a row's four parts, which share most of its difficulty
            parts = [np.sqrt(0.7) * ours + np.sqrt(0.3) * rng.standard_normal(ours.shape) < effect for _ in range(4)]
            rest = [np.sqrt(0.7) * theirs + np.sqrt(0.3) * rng.standard_normal(theirs.shape) < other for _ in range(4)]
            return Drawn(np.mean(parts, 0), np.mean(rest, 0), label if clusters else None)
        return Drawn((ours < effect).astype(float), (theirs < other).astype(float), label if clusters else None)

    def latent(shape: tuple[int, int], icc: float) -> Floats:
        if not clusters:
            return rng.standard_normal(shape)
        label = np.arange(shape[1]) % clusters
        return np.sqrt(icc) * rng.standard_normal((shape[0], clusters))[:, label] + np.sqrt(
            1 - icc
        ) * rng.standard_normal(shape)

    return draw


def is_proven(data: Drawn, margin: float) -> Floats:
    """Return which runs a gate of the recipe passes: that its mean is above the baseline's less a margin."""
    means, each = data.seeds.mean(1) - data.baseline, (data.seeds - data.baseline[:, None]).mean(-1)
    seeds, rate, away = data.seeds.shape[1], data.seeds.mean((1, 2)), each.mean(-1) + margin
    error = each.std(-1, ddof=1) / np.sqrt(seeds)
    left = away**2 - seed_reach(error, seeds, ALPHA, rate, away) ** 2  # of the squared distance, what rows may reach
    hit = (away > 0) & (left > 0)
    return np.asarray(hit & (_row_p(means, data.clusters, each.mean(-1) - np.sqrt(np.maximum(left, 0.0))) <= ALPHA))


def _row_p(values: Floats, clusters: Floats | None, threshold) -> Floats:
    weights = np.ones(values.shape[-1])
    if clusters is not None:
        count = clusters.max() + 1
        member = np.zeros((count, values.shape[-1]))
        member[clusters, np.arange(values.shape[-1])] = 1
        values, weights = values @ member.T, np.bincount(clusters).astype(float)
    of = ratio.estimate_ratio(values, np.broadcast_to(weights, values.shape).copy())
    return mean_tests.make_p_function(of, "score", ALPHA, independent=clusters is None, support=(-1.0, 1.0))(threshold)[
        0
    ]
