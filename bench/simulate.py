"""Measure how often each test of a gate is wrong, and how often it is right; write docs/explanation/statistics-*.md.

python -m bench.simulate [--quick] [--to docs/explanation]

Data are drawn so that the claim is exactly on its threshold (false passes, false blocks), then judged
against a threshold 2.5 standard errors away (power). Binomial, McNemar and Tango are summed over every table
of outcomes instead. The judges are the functions the gates call.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import binom
from scipy.stats import t as student

from bench import judge_rates, plan_rates
from harness.stats import eprocess, means, power, ratio, tango, unseen
from harness.stats import tests as stats

ALPHA = 0.05
RUNS, QUICK = 4_000, 1_000
BATCH = 500
AWAY = 2.5  # standard errors between truth and threshold where power is measured
START, END = "<!-- simulated: make simulate -->\n", "<!-- /simulated -->\n"

Floats = np.ndarray
P = tuple[Floats, Floats]


@dataclass(frozen=True)
class Data:
    """Runs of clusters: sums and weights (runs, clusters), the truth, and what the rows are."""

    sums: Floats
    weights: Floats
    truth: float
    changed: Floats | None = None  # rows that differ, of pairs
    rows: Floats | None = None  # the values of independent rows in their range
    support: unseen.Support = (0.0, 1.0)


# ------------------------------------------------------------------ what a gate does with clusters and means


def judge(data: Data, of: ratio.Ratio, kind: means.Kind) -> Callable[[float], P]:
    """Return what gives the p-values of `stats.cluster_t` against a number, for many runs at once."""
    changed = None if data.changed is None else data.changed.sum(-1) / data.weights.sum(-1)
    return means.judged(of, kind, ALPHA, discordance=changed, independent=data.rows is not None, support=data.support)


@dataclass(frozen=True)
class Cell:
    """One line of a table: where, how often wrong on either side, how often right, and the same of others (in %)."""

    where: str
    passed: float
    blocked: float
    plain: tuple[float, float]  # Student's t, for comparison
    power: float
    best: float  # Student's t with the critical value that would have made it right in this very cell
    betting: float | None = None


def cell(where: str, draw: Callable[[int], Data], runs: int, kind: means.Kind) -> Cell:
    """Simulate one cell in batches."""
    found: list[list[P]] = []
    t_at: list[tuple[Floats, Floats]] = []
    bets: list[Floats] = []
    first = draw(BATCH)
    away = AWAY * float(np.std(first.sums.sum(-1) / first.weights.sum(-1)))
    for _ in range(runs // BATCH):
        data = draw(BATCH)
        of = ratio.ratio(data.sums, data.weights)
        places = (data.truth, data.truth - away)
        found.append(list(map(judge(data, of, kind), places)))
        error = np.where(of.varies(), of.error, np.inf)
        t_at.append(tuple((of.estimate - place) / error for place in places))
        if data.rows is not None:
            low, high = data.support
            scaled = (data.rows - low) / (high - low), (places[1] - low) / (high - low)
            bets.append(eprocess.wealth(*scaled).max(-1) >= np.log(1 / ALPHA))
    at, off = (tuple(np.concatenate([f[k][i] for f in found]) for i in (0, 1)) for k in (0, 1))
    t0, t1 = (np.concatenate([t[k] for t in t_at]) for k in (0, 1))
    reach = student.isf(ALPHA, of.clusters - 1)
    fair = max(float(np.quantile(t0, 1 - ALPHA, method="higher")), 0.0)
    return Cell(
        where,
        share(at[0] <= ALPHA),
        share(at[1] <= ALPHA),
        (share(t0 >= reach), share(t0 <= -reach)),
        share(off[0] <= ALPHA),
        share(t1 > fair),
        share(np.concatenate(bets)) if bets else None,
    )


def share(hits: Floats) -> float:
    return 100 * float(np.mean(hits))


# ------------------------------------------------------------------ data


def sizes_of(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> Floats:
    """Return how many rows each cluster has: all 6, 1 to 12, by rank (6 on average), or Pareto's 1.5 up to 500."""
    if kind == "zipf":
        ranks = np.arange(1, shape[1] + 1)
        sizes = np.maximum(1, np.round(6 * shape[1] / (1 / ranks).sum() / ranks))
        return np.broadcast_to(sizes.astype(int), shape)
    if kind == "pareto":
        return np.minimum(np.ceil(2 * (1 + rng.pareto(1.5, shape))), 500).astype(int)
    return np.full(shape, 6) if kind == "equal" else rng.integers(1, 13, shape)


def clustered_share(rng: np.random.Generator, count: int, p: float, icc: float, kind: str) -> Callable[[int], Data]:
    """0/1 rows, beta-binomial clusters."""

    def draw(runs: int) -> Data:
        sizes = sizes_of(rng, kind, (runs, count))
        rate = rng.beta(p * (1 - icc) / icc, (1 - p) * (1 - icc) / icc, (runs, count)) if icc else p
        return Data(rng.binomial(sizes, rate).astype(float), sizes.astype(float), p)

    return draw


def clustered_scores(rng: np.random.Generator, count: int, p: float, icc: float, kind: str) -> Callable[[int], Data]:
    """Scores of 0, ½ and 1, two draws of a cluster's rate each."""

    def draw(runs: int) -> Data:
        data = clustered_share(rng, count, p, icc, kind)(runs)
        sizes = data.weights.astype(int)
        rate = rng.beta(p * (1 - icc) / icc, (1 - p) * (1 - icc) / icc, (runs, count))
        return Data(rng.binomial(2 * sizes, rate) / 2, data.weights, p)

    return draw


def clustered_pairs(
    rng: np.random.Generator, count: int, discordance: float, difference: float, icc: float, kind: str
) -> Callable[[int], Data]:
    """Differences of 0/1 rows, Dirichlet-multinomial clusters."""
    shares = np.array([(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance])

    def draw(runs: int) -> Data:
        sizes = sizes_of(rng, kind, (runs, count))
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


def score_differences(rng: np.random.Generator, n: int, factor: float) -> Callable[[int], Data]:
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


def scores(rng: np.random.Generator, n: int, name: str) -> Callable[[int], Data]:
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


def perplexity(rng: np.random.Generator, n: int, name: str, lengths: str = "lognormal(0.8)") -> Callable[[int], Data]:
    """Documents of uneven length; differences of nats per token, better is higher, bad documents are rare."""

    def draw(runs: int) -> Data:
        tokens = TOKENS[lengths](rng, (runs, n))
        return Data(NATS[name](rng, tokens.shape) * tokens, tokens, 0.0)

    return draw


# ------------------------------------------------------------------ tables of outcomes, summed


def binomial_sizes(n: int, p: float) -> tuple[float, float]:
    """Return the exact false-pass and false-block rates of a share against a number."""
    k = np.arange(n + 1)
    passes = binom.sf(k - 1, n, p) <= ALPHA
    fails = binom.cdf(k, n, p) <= ALPHA
    return tuple(100 * float(binom.pmf(k, n, p)[hits].sum()) for hits in (passes, fails))


def tango_sizes(n: int, discordance: float, difference: float, margin: float) -> tuple[float, float]:
    """Return how often `stats.tango` passes and blocks, by the outermost wins that do, for every number of changes."""
    rates = [0.0, 0.0]
    for side in (0, 1):
        sign = 1 - 2 * side
        for changed in range(n + 1):
            weight = binom.pmf(changed, n, discordance)
            if weight < 1e-9:
                continue
            few = fewest(n, changed, sign * margin)
            wins = (discordance + sign * difference) / 2 / discordance
            rates[side] += weight * float(binom.sf(few - 1, changed, wins))
    return 100 * rates[0], 100 * rates[1]


def fewest(n: int, changed: int, margin: float) -> int:
    """Return the fewest wins among the changed rows that prove a difference above -margin; changed + 1 if none do."""
    low, high = 0, changed + 1
    if not changed:
        return 0 if margin > 0 and (1 - margin) ** n <= ALPHA else 1
    while low < high:
        middle = (low + high) // 2
        p = tango.fitted_p(middle, changed - middle, n, -margin)[0]
        low, high = (low, middle) if p <= ALPHA else (middle + 1, high)
    return low


def normal_tango_sizes(n: int, discordance: float, difference: float, margin: float) -> tuple[float, float]:
    """Return the same for the score referred to the normal distribution."""
    changed = np.repeat(np.arange(n + 1), np.arange(1, n + 2))
    wins = np.concatenate([np.arange(k + 1) for k in range(n + 1)])
    chance = binom.pmf(changed, n, discordance) * np.exp(
        np.log(binom.pmf(wins, changed, (discordance + difference) / 2 / discordance).clip(1e-300))
    )
    z = tango.statistic(wins.astype(float), (changed - wins).astype(float), n, -margin)
    return 100 * float(chance[z >= 1.6448536].sum()), 100 * float(chance[z <= -1.6448536].sum())


# ------------------------------------------------------------------ stopping early, sign flips


@dataclass(frozen=True)
class Early:
    passed: float
    blocked: float
    decided: float  # rows until decided, on average


def early(rng: np.random.Generator, discordance: float, difference: float, runs: int, rows: int = 1000) -> Early:
    """Run e-processes on differences of 0/1 rows at a 2-point margin, looked at after every row."""
    m = (1 - 0.02) / 2
    shares = [(discordance - difference) / 2, 1 - discordance, (discordance + difference) / 2]
    first: list[Floats] = []
    for _ in range(runs // BATCH):
        x = rng.choice([0.0, 0.5, 1.0], (BATCH, rows), p=shares)
        crossed = [eprocess.wealth(x, m), eprocess.wealth(1 - x, 1 - m)]
        first.append(np.stack([when(w >= np.log(1 / ALPHA), rows) for w in crossed]))
    up, down = np.concatenate(first, 1)
    ended = np.minimum(np.minimum(up, down) + 1, rows)
    return Early(share((up < rows) & (up <= down)), share((down < rows) & (down < up)), float(ended.mean()))


def when(hit: Floats, never: int) -> Floats:
    return np.where(hit.any(-1), hit.argmax(-1), never)


def flips(rng: np.random.Generator, n: int, name: str, runs: int) -> tuple[float, float]:
    """Return how often `stats.sign_flip` calls equal models better, and worse; by itself, a call per run."""
    values = NATS[name](rng, (2, runs, n))
    tests = [stats.sign_flip(c, b, None, ALPHA) for c, b in zip(*values, strict=True)]
    return share(np.array([t.p_pass <= ALPHA for t in tests])), share(np.array([t.p_fail <= ALPHA for t in tests]))


# ------------------------------------------------------------------ the page


def table(title: str, cells: list[Cell]) -> Iterator[str]:
    betting = any(c.betting is not None for c in cells)
    yield f"\n## {title}\n\n"
    yield "| | false pass | false block | plain t | power | best t |" + (" betting |" if betting else "") + "\n"
    yield "|---|---|---|---|---|---|" + ("---|" if betting else "") + "\n"
    for c in cells:
        plain = f"{c.plain[0]:.1f} / {c.plain[1]:.1f}"
        line = f"| {c.where} | {mark(c.passed)} | {mark(c.blocked)} | {plain} | {c.power:.0f} | {c.best:.0f} |"
        yield line + (f" {c.betting:.0f} |" if c.betting is not None else "") + "\n"


def mark(rate: float, bar: float = 120 * ALPHA) -> str:
    """Print a rate, bold where it is over the bar."""
    return f"**{rate:.1f}**" if rate > bar else f"{rate:.1f}"


SIZES = {"equal": "6 rows each", "1-12": "1 to 12 rows", "zipf": "sizes by rank", "pareto": "Pareto sizes"}
COUNTS = (20, 50, 200, 1000)


def shares_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    for kind, words in SIZES.items():
        cells = [
            cell(f"{g} clusters, share {p}, correlation {icc}", clustered_share(rng, g, p, icc, kind), runs, "share")
            for g in COUNTS
            for p in (0.5, 0.8, 0.9, 0.95)
            for icc in (0.0, 0.1, 0.5)
        ]
        yield from table(f"0/1 rows in clusters, {words}, against a number", cells)


def pairs_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    for kind, words in SIZES.items():
        cells = [
            cell(
                f"{g} clusters, discordance {d}, margin {m}, correlation {icc}",
                clustered_pairs(rng, g, d, -m, icc, kind),
                runs,
                "pairs",
            )
            for g in COUNTS
            for d, m in ((0.02, 0.02), (0.05, 0.02), (0.1, 0.05), (0.3, 0.05))
            for icc in (0.0, 0.1, 0.5)
        ]
        yield from table(f"0/1 rows in clusters, {words}, against a baseline", cells)


def scores_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    cells = [cell(f"{name}, n = {n}", scores(rng, n, name), runs, "score") for n in (50, 200, 1000) for name in SCORES]
    yield from table("Scores in [0, 1], independent rows", cells)
    cells = [
        cell(f"{what}, n = {n}", score_differences(rng, n, factor), runs, "score")
        for n in (50, 200, 1000)
        for what, factor in (("two scores", 1.0), ("at most 5% worse", 0.95))
    ]
    yield from table("Differences of scores on the same rows, and a relative margin", cells)
    for kind, words in SIZES.items():
        cells = [
            cell(f"{g} clusters, mean {p}, correlation {icc}", clustered_scores(rng, g, p, icc, kind), runs, "share")
            for g in COUNTS
            for p in (0.5, 0.9)
            for icc in (0.1, 0.5)
        ]
        yield from table(f"Scores of 0, ½ and 1 in clusters, {words}", cells)


def perplexity_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    for lengths in TOKENS:
        cells = [
            cell(f"{name}, n = {n}", perplexity(rng, n, name, lengths), runs, "ratio") for n in COUNTS for name in NATS
        ]
        yield from table(f"Perplexity: nats per token, lengths {lengths}", cells)


def combine_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """A metric made from all rows at once, one call of `stats.cluster_bootstrap` per run."""
    yield f"\n## Macro-F1 of three classes in clusters of 1 to 12, against a number ({runs // 10} runs a cell)\n\n"
    yield "| | false pass | false block |\n|---|---|---|\n"
    for count in (20, 50, 150):
        for right in (0.7, 0.9):
            passed, blocked = combine(rng, count, right, runs // 10)
            yield f"| {count} clusters, {right:.0%} right | {mark(passed)} | {mark(blocked)} |\n"


def answers(rng: np.random.Generator, count: int, right: float) -> tuple[Floats, Floats, Floats]:
    """Draw gold labels and answers of three classes, 70, 20 and 10 %, and clusters that share a rate."""
    sizes = rng.integers(1, 13, count)
    clusters = np.repeat(np.arange(count), sizes)
    gold = rng.choice(3, len(clusters), p=[0.7, 0.2, 0.1])
    hit = rng.random(len(clusters)) < rng.beta(9 * right, 9 * (1 - right), count)[clusters]
    return gold, np.where(hit, gold, (gold + rng.integers(1, 3, len(gold))) % 3), clusters


def macro_f1(gold: Floats, said: Floats, rows: Sequence[int]) -> float:
    chosen = np.asarray(rows)
    table = np.bincount(3 * gold[chosen] + said[chosen], minlength=9).reshape(3, 3)
    return float(np.mean(2 * np.diag(table) / np.maximum(table.sum(0) + table.sum(1), 1)))


def combine(rng: np.random.Generator, count: int, right: float, runs: int) -> tuple[float, float]:
    """Return how often a macro-F1 exactly on its threshold is passed, and blocked."""
    gold, said, _ = answers(rng, 100_000, right)
    truth = macro_f1(gold, said, range(len(gold)))
    hits = [0, 0]
    for _ in range(runs):
        gold, said, clusters = answers(rng, count, right)
        test = stats.cluster_bootstrap(partial(macro_f1, gold, said), clusters.tolist(), truth, ALPHA)
        hits[0] += test.p_pass <= ALPHA
        hits[1] += test.p_fail <= ALPHA
    return 100 * hits[0] / runs, 100 * hits[1] / runs


def exact_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    yield "\n## 0/1 rows, independent: exact sizes, every table of outcomes summed\n\n"
    yield "| test | | false pass | false block |\n|---|---|---|---|\n"
    for n in (50, 200, 1000):
        for p in (0.5, 0.8, 0.95):
            sizes = binomial_sizes(n, p)
            yield f"| exact binomial | n = {n}, threshold {p} | {sizes[0]:.1f} | {sizes[1]:.1f} |\n"
    for n in (50, 200, 1000):
        for d in (0.05, 0.1, 0.2, 0.3):
            size = 100 * power.pairs_power(0.0, 0.0, d, n, ALPHA)
            yield f"| exact McNemar | n = {n}, discordance {d} | {size:.1f} | {size:.1f} |\n"
    yield "\n| Tango | false pass | false block | normal score instead | power, equal models | normal score's |\n"
    yield "|---|---|---|---|---|---|\n"
    for n in (50, 60, 100, 200, 1000):
        for d, m in ((0.05, 0.02), (0.1, 0.02), (0.1, 0.05), (0.2, 0.05), (0.3, 0.05)):
            ours, normal = tango_sizes(n, d, -m, m), normal_tango_sizes(n, d, -m, m)
            able, able_too = tango_sizes(n, d, 0.0, m)[0], normal_tango_sizes(n, d, 0.0, m)[0]
            yield (
                f"| n = {n}, discordance {d}, margin {m} | {mark(ours[0])} | {mark(ours[1])} "
                f"| {normal[0]:.1f} / {normal[1]:.1f} | {able:.0f} | {able_too:.0f} |\n"
            )


def early_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    yield '\n## `stop = "early"`: 1000 rows at a 2-point margin, looked at after every row\n\n'
    yield "| discordance | difference | passed | blocked | rows until decided | a test of all 1000 passes |\n"
    yield "|---|---|---|---|---|---|\n"
    for d in (0.05, 0.1, 0.2, 0.3):
        for difference in (-0.02, 0.0, 0.05, -0.15):
            if abs(difference) > d:
                continue
            found = early(rng, d, difference, runs)
            all_rows = 100 * power.pairs_power(difference, 0.02, d, 1000, ALPHA)
            yield (
                f"| {d} | {difference:+.2f}{' (on the margin)' if difference == -0.02 else ''} | {found.passed:.1f} "
                f"| {found.blocked:.1f} | {found.decided:.0f} | {all_rows:.1f} |\n"
            )


def flips_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    yield "\n## Sign flips: equal models, margin 0 (a tenth of the runs)\n\n"
    yield "| differences | called better | called worse |\n|---|---|---|\n"
    for n in (12, 50):
        for name in NATS:
            better, worse = flips(rng, n, name, runs // 10)
            yield f"| {name}, n = {n} | {better:.1f} | {worse:.1f} |\n"


def estimand_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """The mean over clusters, whatever their sizes: each cluster's mean is an independent score."""
    cells = [
        cell(f"{words}, {g} clusters, share {p}", cluster_means(rng, g, p, 0.3, kind), runs, "score")
        for kind, words in SIZES.items()
        for g in (20, 50, 200)
        for p in (0.5, 0.9)
    ]
    yield from table('0/1 rows in clusters, correlation 0.3, `estimand = "clusters"`', cells)


def cluster_means(rng: np.random.Generator, count: int, p: float, icc: float, kind: str) -> Callable[[int], Data]:
    """Means of the rows of each cluster, all of them alike."""

    def draw(runs: int) -> Data:
        data = clustered_share(rng, count, p, icc, kind)(runs)
        rows = data.sums / data.weights
        return Data(rows, np.ones_like(rows), p, rows=rows)

    return draw


def plan_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    yield from plan_rates.plan_page(rng, max(runs // 4, 500))  # each run is judged by itself


PAGES = {  # a file -> what writes its tables
    "statistics-rows.md": (exact_page, perplexity_page, flips_page, early_page),
    "statistics-scores.md": (scores_page, estimand_page, combine_page),
    "statistics-shares.md": (shares_page,),
    "statistics-pairs.md": (pairs_page,),
    "statistics-judge-and-plan.md": (judge_rates.page, plan_page),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} runs a cell instead of {RUNS}, and print only")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent.parent / "docs/explanation", metavar="FOLDER")
    asked = parser.parse_args()
    runs, tables, begun = QUICK if asked.quick else RUNS, dict.fromkeys(PAGES, ""), time.process_time()
    for name, parts in PAGES.items():
        for part in parts:
            began = time.perf_counter()
            text = "".join(part(np.random.default_rng(17), runs))
            tables[name] += text
            print(text, f"{part.__name__}: {time.perf_counter() - began:.0f} s", flush=True)
    error = 100 * (0.05 * 0.95 / runs) ** 0.5
    took = f"{(time.process_time() - begun) / 60:.0f} minutes of one core"
    told = f"{runs:,} runs a cell unless a table says otherwise; a rate of 5 % has an error of {error:.2f} points"
    print(took)
    for name, text in tables.items() if not asked.quick else ():
        write_tables(asked.to / name, f"\nAll pages were simulated in {took} with {told}.\n{text}")


def write_tables(page: Path, text: str) -> None:
    """Write tables between the marks of a page; what people wrote around them stays."""
    before, _, rest = page.read_text("utf-8").partition(START)
    page.write_text(before + START + text + "\n" + END + rest.partition(END)[2], "utf-8")


if __name__ == "__main__":
    main()
