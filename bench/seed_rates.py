"""False passes and power of gates of a recipe: several seeds on the same rows, which differ by a known spread.

Seeds and rows have normal effects on a latent scale, so that seeds are skewed near 0 and 1; no test here assumes that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from harness.planning.recipe_power import RecipeRows, SeedSpread, estimate_spread
from harness.stats import mean_tests, ratio
from harness.stats.seeds import seed_reach

ALPHA, BATCH = 0.05, 250
SURELY, DOUBTED = 20_000, 6.0  # runs of a cell that was over so many percent at first
MARGIN, SEEDS, SPREADS = 0.02, (3, 5, 8), (0.0, 0.01, 0.02, 0.04)
SHARED, LUCK, ALIKE = 0.6, 0.5, 0.3  # of a row's variance: with the baseline, of the rest a seed's, in a cluster
PARTS = 4  # of a row that has a score
COLLAPSED, LOST = 0.1, 0.2  # of seeds, and of their right rows
Floats = np.ndarray


@dataclass(frozen=True)
class Drawn:
    """Scores of the seeds (runs, seeds, rows) and of the baseline (runs, seeds or 1, rows); the cluster of each row."""

    seeds: Floats
    baseline: Floats
    clusters: Floats | None = None


Draw = Callable[[int], Drawn]


def latent_effects(mean: float, spread: float) -> tuple[float, float]:
    """Return mean and standard deviation of the latent effect of seeds whose rates have this mean and spread."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)

    def spread_of(scale: float) -> float:
        rates = norm.cdf(norm.ppf(mean) * np.sqrt(1 + scale**2) + scale * nodes)
        return float(np.sqrt(weights @ (rates - mean) ** 2 / weights.sum()))

    scale = brentq(lambda s: spread_of(s) - spread, 0.0, 5.0) if spread else 0.0
    return float(norm.ppf(mean) * np.sqrt(1 + scale**2)), scale


def make_scored_draw(
    rng: np.random.Generator, seeds: int, rows: int, rate: float, margin: float, spread: float, *,
    better: float = 0.0, clusters: int = 0, score: bool = False, luck: float = LUCK, trained: bool = False,
    collapse: bool = False,
) -> Draw:  # fmt: skip
    """0/1 rows, or scores, of a recipe whose mean lies `better` above the margin's edge, and of its baseline.

    A baseline that is `trained` has as many seeds; with `collapse` a share of seeds loses rows, beyond any spread.
    """
    at, scale = latent_effects(rate, spread)
    other, other_scale = latent_effects(min(rate + margin - better, 1 - 1e-9), spread if trained else 0.0)
    label = np.arange(rows) % clusters if clusters else None

    def normal(shape: tuple[int, ...]) -> Floats:
        drawn = rng.standard_normal(shape)
        if label is None:
            return drawn
        shared = rng.standard_normal((*shape[:-1], clusters))[..., label]
        return np.asarray(np.sqrt(ALIKE) * shared + np.sqrt(1 - ALIKE) * drawn)

    def side(runs: int, number: int, hard: Floats, effect: Floats) -> Floats:
        mixed = np.sqrt(1 - luck) * normal((runs, 1, rows)) + np.sqrt(luck) * rng.standard_normal((runs, number, rows))
        latent = hard[:, None] + np.sqrt(1 - SHARED) * mixed
        if not score:
            return np.asarray(latent < effect, dtype=float)
        parts = (np.sqrt(0.7) * latent + np.sqrt(0.3) * rng.standard_normal(latent.shape) for _ in range(PARTS))
        return np.asarray(np.mean([part < effect for part in parts], 0))

    def draw(runs: int) -> Drawn:
        hard, number = np.sqrt(SHARED) * normal((runs, rows)), seeds if trained else 1
        effects = at + scale * rng.standard_normal((runs, seeds, 1))
        ours = side(runs, seeds, hard, effects)
        theirs = side(runs, number, hard, other + other_scale * rng.standard_normal((runs, number, 1)))
        if collapse:  # the others are better by what keeps the mean
            gone = rng.random((runs, seeds, 1)) < COLLAPSED
            chance = COLLAPSED * LOST * rate / ((1 - COLLAPSED) * (1 - rate))
            kept, won = rng.random(ours.shape) >= LOST, rng.random(ours.shape) < chance
            ours = np.where(gone, ours * kept, np.maximum(ours, won))
        return Drawn(ours, theirs, label)

    return draw


def is_proven(data: Drawn, margin: float) -> Floats:
    """Return which runs a gate of the recipe passes: that its mean is above the baseline's less a margin."""
    rows, seeds = data.seeds - data.baseline, data.seeds.shape[1]  # (runs, seeds, rows)
    each, rate = rows.mean(-1), data.seeds.mean((1, 2))
    away, error = each.mean(-1) + margin, each.std(-1, ddof=1) / np.sqrt(seeds)
    left = away**2 - seed_reach(error, seeds, ALPHA, rate, away) ** 2  # of the squared distance, what rows may reach
    threshold = each.mean(-1) - np.sqrt(np.maximum(left, 0.0))
    return np.asarray((away > 0) & (left > 0) & (_compute_row_p(rows.mean(1), data.clusters, threshold) <= ALPHA))


def _compute_row_p(values: Floats, clusters: Floats | None, threshold: Any) -> Floats:
    """Return p_pass of every run against its own threshold, of rows (runs, rows) in clusters."""
    weights = np.ones_like(values)
    if clusters is not None:
        member = np.eye(clusters.max() + 1)[clusters]
        values, weights = values @ member, weights @ member
    of, independent = ratio.estimate_ratio(values, weights), clusters is None
    judged = mean_tests.make_p_function(of, "score", ALPHA, independent=independent, support=(-1.0, 1.0))
    return judged(threshold)[0]


def is_proven_by_one_run(data: Drawn, margin: float) -> Floats:
    """Return which runs the gate of the first seed passes, which is about the weights that ship."""
    from bench.simulate import passes  # which imports this module

    rows = data.seeds[:, 0] - data.baseline[:, 0]
    if data.clusters is not None or not np.isin(rows, (-1.0, 0.0, 1.0)).all():
        return np.asarray(_compute_row_p(rows, data.clusters, -margin) <= ALPHA)
    return passes((rows > 0).sum(-1), (rows < 0).sum(-1), rows.shape[-1], margin, ALPHA)


def estimate_pass_rate(
    draw: Draw, margin: float, runs: int, judge: Callable[[Drawn, float], Floats] = is_proven
) -> float:
    """Return how often a gate passes, in percent."""
    return 100 * float(np.mean(np.concatenate([judge(draw(BATCH), margin) for _ in range(runs // BATCH)])))


def _format_level(draw: Draw, runs: int) -> str:
    """Return the rate of a gate whose recipe lies on the margin; drawn again where it is in doubt, bold where over."""
    if (first := estimate_pass_rate(draw, MARGIN, runs)) <= DOUBTED or runs >= SURELY:
        return f"{first:.1f}"
    again = estimate_pass_rate(draw, MARGIN, SURELY)
    return f"{f'**{again:.1f}**' if again > DOUBTED + 0.7 else f'{again:.1f}'} (at first {first:.1f})"


# ------------------------------------------------------------------ the page

Cell = tuple[str, dict[str, Any]]


def _iterate_cells() -> Iterator[Cell]:
    for rows in (300, 1000):
        for rate in (0.03, 0.5, 0.95):
            yield f"0/1, {rows} rows, {rate:.0%} right", {"rows": rows, "rate": rate}
    yield "scores, 300 rows, mean 0.8", {"rows": 300, "rate": 0.8, "score": True}
    for rate in (0.5, 0.95):
        yield f"0/1, 60 clusters of 5, {rate:.0%} right", {"rows": 300, "rate": rate, "clusters": 60}
    yield "0/1, 300 rows, 50% right, runs alike but for the spread", {"rows": 300, "rate": 0.5, "luck": 0.05}


def level_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    yield "\n## A recipe on the margin: how often it passes\n\n"
    yield f"| | spread, points | {' | '.join(f'{s} seeds' for s in SEEDS)} | gate of one run |\n{'|---' * 6}|\n"
    for where, about in _iterate_cells():
        for spread in SPREADS:
            make = partial(make_scored_draw, rng, margin=MARGIN, spread=spread, **about)
            found = [_format_level(make(seeds=s), runs // 2) for s in SEEDS]
            alone = estimate_pass_rate(make(seeds=3), MARGIN, runs // 2, is_proven_by_one_run)
            yield f"| {where} | {100 * spread:.0f} | {' | '.join(found)} | {alone:.1f} |\n"
    make = partial(make_scored_draw, rng, rows=300, rate=0.8, margin=MARGIN, spread=0.01, collapse=True)
    found = [f"{estimate_pass_rate(make(seeds=s), MARGIN, runs // 2):.1f}" for s in SEEDS]
    alone = estimate_pass_rate(make(seeds=3), MARGIN, runs // 2, is_proven_by_one_run)
    what = f"0/1, 300 rows, 80% right; {COLLAPSED:.0%} of runs lose {LOST:.0%} of their right rows"
    yield f"| {what} | 1 | {' | '.join(found)} | {alone:.1f} |\n"


def power_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    yield "\n## A recipe that is better: how often it passes\n\n"
    yield f"| | spread, points | {' | '.join(f'{s} seeds' for s in SEEDS)} | gate of one run | planned, 5 seeds |\n"
    yield f"{'|---' * 7}|\n"
    for rate, better in ((0.5, 0.07), (0.8, 0.05), (0.95, 0.04)):
        for spread in SPREADS[:3]:
            make = partial(make_scored_draw, rng, rows=300, rate=rate, margin=MARGIN, spread=spread, better=better)
            found = [f"{estimate_pass_rate(make(seeds=s), MARGIN, runs // 2):.0f}" for s in SEEDS]
            alone = estimate_pass_rate(make(seeds=3), MARGIN, runs // 2, is_proven_by_one_run)
            where = f"300 rows, {rate:.0%} right, {100 * better:.0f} points above the margin's edge"
            plan = 100 * compute_planned_power(make(seeds=5), rate, spread, better - MARGIN)
            yield f"| {where} | {100 * spread:.0f} | {' | '.join(found)} | {alone:.0f} | {plan:.0f} |\n"


def compute_planned_power(draw: Draw, rate: float, spread: float, truth: float) -> float:
    """Return the power that `harness plan` tells, where it knows how rows and runs differ."""
    data = draw(BATCH)
    rows = data.seeds - data.baseline
    luck = float(np.mean([found.luck for found in map(estimate_spread, rows[:50]) if found]))
    variance, (_, seeds, count) = float(rows.var(-1).mean()), rows.shape
    own = RecipeRows(variance, count, count, seeds, SeedSpread(spread, luck), rate, paired=True)
    return own.power(truth, -MARGIN, ALPHA)


def sweep_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    yield "\n## A sweep between two equal recipes: how often it goes on to the second\n\n"
    yield f"| select rows | spread, points | one run each | {' | '.join(f'{s} seeds each' for s in SEEDS)} |\n"
    yield f"{'|---' * 6}|\n"
    for rows in (300, 1000):
        for spread in SPREADS:
            make = partial(make_scored_draw, rng, rows=rows, rate=0.8, margin=0.0, spread=spread, trained=True)
            alone = estimate_pass_rate(make(seeds=3), 0.0, runs // 2, is_proven_by_one_run)
            found = [f"{estimate_pass_rate(make(seeds=s), 0.0, runs // 2):.1f}" for s in SEEDS]
            yield f"| {rows} | {100 * spread:.0f} | {alone:.1f} | {' | '.join(found)} |\n"
