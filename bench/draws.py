"""What `bench.simulate` draws: runs of clusters and rows of which the truth is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.stats import rule_of_three

Floats = np.ndarray


@dataclass(frozen=True)
class Data:
    """Runs of clusters: sums and weights (runs, clusters), the truth, and what the rows are."""

    sums: Floats
    weights: Floats
    truth: float
    changed: Floats | None = None  # rows that differ, of pairs
    rows: Floats | None = None  # the values of independent rows in their range
    support: rule_of_three.Support = (0.0, 1.0)


SIZES = {
    "equal": "6 rows each",
    "1-12": "1 to 12 rows",
    "zipf": "sizes by rank",  # Zipf's, 6 on average
    "pareto": "Pareto sizes",  # 1.5, from 2 to 500
}
MORE_SIZES = SIZES | {
    "two": "half of 2 rows, half of 18",
    "giant": "one of two thirds of the rows",  # the others of one row each
}


MIXED_SIZES = {"tenth": "a tenth with 10 rows, the others with one", "lognormal": "lognormal(1, 1)"}


def draw_sizes(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> Floats:
    """Return how many rows each cluster has, see `MORE_SIZES` and `MIXED_SIZES`."""
    if kind == "tenth":
        return np.broadcast_to(np.repeat([1, 10], [shape[1] - shape[1] // 10, shape[1] // 10]), shape)
    if kind == "lognormal":
        return np.maximum(np.round(rng.lognormal(1, 1, shape)), 1).astype(int)
    if kind == "zipf":
        ranks = np.arange(1, shape[1] + 1)
        sizes = np.maximum(1, np.round(6 * shape[1] / (1 / ranks).sum() / ranks))
        return np.broadcast_to(sizes.astype(int), shape)
    if kind == "two":
        return np.broadcast_to(np.repeat([2, 18], [(shape[1] + 1) // 2, shape[1] // 2]), shape)
    if kind == "giant":
        return np.broadcast_to(np.repeat([1, 2 * shape[1]], [shape[1] - 1, 1]), shape)
    if kind == "pareto":
        return np.minimum(np.ceil(2 * (1 + rng.pareto(1.5, shape))), 500).astype(int)
    return np.full(shape, 6) if kind == "equal" else rng.integers(1, 13, shape)


def make_share_draw(rng: np.random.Generator, count: int, p: float, icc: float, kind: str) -> Callable[[int], Data]:
    """0/1 rows, beta-binomial clusters."""

    def draw(runs: int) -> Data:
        sizes = draw_sizes(rng, kind, (runs, count))
        rate = rng.beta(p * (1 - icc) / icc, (1 - p) * (1 - icc) / icc, (runs, count)) if icc else p
        return Data(rng.binomial(sizes, rate).astype(float), sizes.astype(float), p)

    return draw


def make_clustered_score_draw(
    rng: np.random.Generator, count: int, p: float, icc: float, kind: str
) -> Callable[[int], Data]:
    """Scores of 0, ½ and 1, two draws of a cluster's rate each."""

    def draw(runs: int) -> Data:
        data = make_share_draw(rng, count, p, icc, kind)(runs)
        sizes = data.weights.astype(int)
        rate = rng.beta(p * (1 - icc) / icc, (1 - p) * (1 - icc) / icc, (runs, count))
        return Data(rng.binomial(2 * sizes, rate) / 2, data.weights, p)

    return draw


def make_pairs_draw(
    rng: np.random.Generator, count: int, discordance: float, difference: float, icc: float, kind: str
) -> Callable[[int], Data]:
    """Differences of 0/1 rows, Dirichlet-multinomial clusters."""
    shares = np.array([(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance])

    def draw(runs: int) -> Data:
        sizes = draw_sizes(rng, kind, (runs, count))
        if icc:
            gammas = rng.gamma(np.broadcast_to(shares * (1 - icc) / icc, (runs, count, 3)))
            rates = gammas / np.maximum(gammas.sum(-1, keepdims=True), 1e-300)
        else:
            rates = np.broadcast_to(shares, (runs, count, 3))
        won = rng.binomial(sizes, rates[..., 0])
        rest = np.clip(rates[..., 1] / np.maximum(1 - rates[..., 0], 1e-12), 0, 1)
        lost = rng.binomial(sizes - won, rest)
        return Data((won - lost).astype(float), sizes.astype(float), difference, (won + lost).astype(float))

    return draw


def make_difference_draw(rng: np.random.Generator, n: int, factor: float) -> Callable[[int], Data]:
    """Differences c - factor·b of two scores in [0, 1] on the same rows, Beta(4, 1) around one difficulty."""

    def draw(runs: int) -> Data:
        hard = rng.beta(4, 1, (runs, n))
        ours, theirs = (rng.beta(8 * hard + 0.2, 8 * (1 - hard) + 0.2) for _ in range(2))
        values = ours - factor * theirs
        return Data(values, np.ones_like(values), truth, rows=values, support=(-factor, 1.0))

    hard = 8 * rng.beta(4, 1, 1_000_000)
    truth = (1 - factor) * float(((hard + 0.2) / 8.4).mean())
    return draw


SCORES: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], Floats], float]] = {
    "symmetric, Beta(2, 2)": (lambda rng, shape: rng.beta(2, 2, shape), 0.5),
    "skewed, Beta(1, 0.1)": (lambda rng, shape: rng.beta(1, 0.1, shape), 1 / 1.1),
    "0, ½ or 1 (10, 10, 80 %)": (lambda rng, shape: rng.choice([0, 0.5, 1], shape, p=[0.1, 0.1, 0.8]), 0.85),
    "rare disasters, 2 % are 0": (
        lambda rng, shape: np.where(rng.random(shape) < 0.02, 0.0, rng.uniform(0.9, 1, shape)),
        0.931,
    ),
}


def make_score_draw(rng: np.random.Generator, n: int, name: str) -> Callable[[int], Data]:
    """Independent rows with a score in [0, 1]."""
    make, truth = SCORES[name]

    def draw(runs: int) -> Data:
        rows = make(rng, (runs, n))
        return Data(rows, np.ones_like(rows), truth, rows=rows)

    return draw


NATS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Floats]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails, t(4)": lambda rng, shape: rng.standard_t(4, shape),
    "skewed, exponential": lambda rng, shape: 1 - rng.exponential(1, shape),
    "very skewed, lognormal(0.8)": lambda rng, shape: np.exp(0.32) - rng.lognormal(0, 0.8, shape),
    "Pareto(3)": lambda rng, shape: 0.5 - rng.pareto(3, shape),
}
TOKENS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Floats]] = {
    "equal": lambda rng, shape: np.full(shape, 100.0),
    "lognormal(0.8)": lambda rng, shape: np.round(rng.lognormal(4, 0.8, shape)) + 1,
    "Pareto(1.5)": lambda rng, shape: np.round(20 * (1 + rng.pareto(1.5, shape))),
}


def make_perplexity_draw(
    rng: np.random.Generator, n: int, name: str, lengths: str = "lognormal(0.8)"
) -> Callable[[int], Data]:
    """Documents of uneven length; differences of nats per token, better is higher, bad documents are rare."""

    def draw(runs: int) -> Data:
        tokens = TOKENS[lengths](rng, (runs, n))
        return Data(NATS[name](rng, tokens.shape) * tokens, tokens, 0.0)

    return draw


def grow_loss_chances(sizes: Floats, share: float) -> Floats:
    """Return chances in proportion to the sizes (runs, clusters), at most 1, that lose `share` of the rows."""
    low, high = np.zeros(sizes.shape[:-1]), np.full(sizes.shape[:-1], 1.0)
    for _ in range(50):
        middle = (low + high) / 2
        lost = (np.minimum(middle[..., None] * sizes, 1.0) * sizes).sum(-1) / sizes.sum(-1)
        low, high = np.where(lost < share, middle, low), np.where(lost < share, high, middle)
    return np.minimum(high[..., None] * sizes, 1.0)


def make_lost_cluster_draw(
    rng: np.random.Generator, count: int, share: float, icc: float, kind: str, *, pairs: bool, grows: bool
) -> Callable[[int], Data]:
    """Clusters of which a share of the rows is lost, whole ones at a correlation of 1; of large ones more if it grows.

    Differences of pairs that nobody wins, or 0/1 rows of which the rest is right.
    """

    def draw(runs: int) -> Data:
        sizes = draw_sizes(rng, kind, (runs, count)).astype(float)
        chance = grow_loss_chances(sizes, share) if grows else np.full(sizes.shape, share)
        if icc < 1:
            spread = (1 - icc) / icc
            chance = rng.beta(np.maximum(chance * spread, 1e-9), np.maximum((1 - chance) * spread, 1e-9))
            lost = rng.binomial(sizes.astype(int), chance).astype(float)
        else:
            lost = sizes * (rng.random(sizes.shape) < chance)
        return Data(-lost, sizes, -share, lost) if pairs else Data(sizes - lost, sizes, 1 - share)

    return draw


def make_won_lost_draw(
    rng: np.random.Generator, count: int, won: float, lost: float, icc: float, kind: str
) -> Callable[[int], Data]:
    """Pairs in clusters of which large ones lose the more, and some rows are won, Dirichlet-multinomial."""

    def draw(runs: int) -> Data:
        sizes = draw_sizes(rng, kind, (runs, count))
        chance = np.minimum(grow_loss_chances(sizes.astype(float), lost), 0.98 - won)
        truth = float(won - (chance * sizes).sum() / sizes.sum())
        shares = np.stack([np.full(sizes.shape, won), chance, 1 - won - chance], -1) * (1 - icc) / icc
        gammas = rng.gamma(np.maximum(shares, 1e-12))
        rates = gammas / np.maximum(gammas.sum(-1, keepdims=True), 1e-300)
        wins = rng.binomial(sizes, rates[..., 0])
        losses = rng.binomial(sizes - wins, np.clip(rates[..., 1] / np.maximum(1 - rates[..., 0], 1e-12), 0, 1))
        return Data((wins - losses).astype(float), sizes.astype(float), truth, (wins + losses).astype(float))

    return draw


def make_weighted_draw(
    rng: np.random.Generator, n: int, share: float, sigma: float, *, grows: bool
) -> Callable[[int], Data]:
    """Independent 0/1 rows of lognormal weight; heavy ones fail more if it grows."""

    def draw(runs: int) -> Data:
        weights = rng.lognormal(0, sigma, (runs, n))
        failed = rng.random((runs, n)) < (grow_loss_chances(weights, 1 - share) if grows else 1 - share)
        right = 1.0 - failed
        return Data(right * weights, weights, share, rows=right)

    return draw


CHANGES: dict[str, Callable[[np.random.Generator, tuple[int, int]], Floats]] = {
    "2 % half a nat worse": lambda rng, shape: rng.normal(0, 0.03, shape) - 0.5 * (rng.random(shape) < 0.02),
    "5 % worse, 0.3 on average": (
        lambda rng, shape: rng.normal(0, 0.03, shape) - rng.exponential(0.3, shape) * (rng.random(shape) < 0.05)
    ),
}


def make_capped_draw(rng: np.random.Generator, n: int, name: str, cap: float) -> Callable[[int], Data]:
    """Changes of nats per token of documents of lognormal length, each counted as at most a cap."""
    make = CHANGES[name]
    drawn = np.clip(make(np.random.default_rng(1), (1, 4_000_000)), -cap, cap)
    truth = float(drawn.mean())

    def draw(runs: int) -> Data:
        tokens = TOKENS["lognormal(0.8)"](rng, (runs, n))
        change = np.clip(make(rng, tokens.shape), -cap, cap)
        known = {"rows": change, "support": (-cap, cap)} if np.isfinite(cap) else {}
        return Data(change * tokens, tokens, truth, **known)

    return draw
