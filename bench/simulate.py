"""Measure how often each test of a gate is wrong, and how often it is right; write docs/explanation/statistics-*.md.

python -m bench.simulate [--quick | --long] [--only PAGE] [--to docs/explanation]

Data are drawn so that the claim is exactly on its threshold (false passes, false blocks), then judged
against a threshold 2.5 standard errors away (power). Binomial, McNemar and Tango are summed over every table
of outcomes instead. The judges are the functions the gates call.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import binom
from scipy.stats import t as student

from bench import dependence_rates, draws, judge_rates, plan_rates, power_rates, seed_rates
from bench.draws import CHANGES, MORE_SIZES, NATS, SCORES, SIZES, TOKENS, Data
from harness.stats import eprocess, mean_tests, multiple_testing, power, ratio, rule_of_three, shares, tango
from harness.stats import hypothesis_tests as stats
from harness.stats.multiple_testing import attempt_alpha

ALPHA = 0.05
RUNS, QUICK, LONG = 4_000, 1_000, 20_000
DOUBTED = 110 * ALPHA  # a rate above which LONG fresh runs are drawn
SURE = 2.3263  # standard errors above a rate of LONG runs, for the upper 99 % bound that is held to the bar
BATCH = 500
AWAY = 2.5  # standard errors between truth and threshold where power is measured
START, END = "<!-- simulated: make simulate -->\n", "<!-- /simulated -->\n"

Floats = np.ndarray
P = tuple[Floats, Floats]


# ------------------------------------------------------------------ what a gate does with clusters and means


def judge(data: Data, of: ratio.Ratio, kind: mean_tests.Kind) -> Callable[[float], P]:
    """Return what gives the p-values of `stats.cluster_t` against a number, for many runs at once."""
    changed = None if data.changed is None else data.changed.sum(-1) / data.weights.sum(-1)
    return mean_tests.make_p_function(
        of, kind, ALPHA, discordance=changed, independent=data.rows is not None, support=data.support
    )


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
    runs: int = RUNS


def simulate_cell(where: str, draw: Callable[[int], Data], runs: int, kind: mean_tests.Kind) -> Cell:
    """Simulate one cell; where its false pass is over DOUBTED, once more on LONG fresh runs."""
    found = simulate_once(where, draw, runs, kind)
    if found.passed <= DOUBTED or runs >= LONG:
        return found
    again = simulate_once(where, draw, LONG, kind)
    return replace(again, where=f"{where}; {LONG:,} runs, at first {found.passed:.1f}")


def simulate_once(where: str, draw: Callable[[int], Data], runs: int, kind: mean_tests.Kind) -> Cell:
    """Simulate one cell in batches."""
    found: list[list[P]] = []
    t_at: list[tuple[Floats, Floats]] = []
    bets: list[Floats] = []
    first = draw(BATCH)
    away = AWAY * float(np.std(first.sums.sum(-1) / first.weights.sum(-1)))
    for _ in range(runs // BATCH):
        data = draw(BATCH)
        of = ratio.estimate_ratio(data.sums, data.weights)
        places = (data.truth, data.truth - away)
        found.append(list(map(judge(data, of, kind), places)))
        error = np.where(of.varies(), of.error, np.inf)
        t_at.append(tuple((of.estimate - place) / error for place in places))
        if data.rows is not None:
            low, high = data.support
            scaled = (data.rows - low) / (high - low), (places[1] - low) / (high - low)
            bets.append(log_wealths(*scaled).max(-1) >= np.log(1 / ALPHA))
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
        runs,
    )


def share(hits: Floats) -> float:
    return 100 * float(np.mean(hits))


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
            few = find_fewest_wins(n, changed, sign * margin)
            wins = (discordance + sign * difference) / 2 / discordance
            rates[side] += weight * float(binom.sf(few - 1, changed, wins))
    return 100 * rates[0], 100 * rates[1]


def find_fewest_wins(n: int, changed: int, margin: float, alpha: float = ALPHA) -> int:
    """Return the fewest wins among the changed rows that prove a difference above -margin; changed + 1 if none do."""
    low, high = 0, changed + 1
    if not changed:
        return 0 if margin > 0 and (1 - margin) ** n <= alpha else 1
    while low < high:
        middle = (low + high) // 2
        p = tango.exact_p(middle, changed - middle, n, -margin)[0]
        low, high = (low, middle) if p <= alpha else (middle + 1, high)
    return low


def normal_tango_sizes(n: int, discordance: float, difference: float, margin: float) -> tuple[float, float]:
    """Return the same for the score referred to the normal distribution."""
    changed = np.repeat(np.arange(n + 1), np.arange(1, n + 2))
    wins = np.concatenate([np.arange(k + 1) for k in range(n + 1)])
    chance = binom.pmf(changed, n, discordance) * np.exp(
        np.log(binom.pmf(wins, changed, (discordance + difference) / 2 / discordance).clip(1e-300))
    )
    z = ratio.score_statistics(wins.astype(float), (changed - wins).astype(float), n, -margin)
    return 100 * float(chance[z >= 1.6448536].sum()), 100 * float(chance[z <= -1.6448536].sum())


# ------------------------------------------------------------------ stopping early, sign flips


def log_wealths(x: Floats, m: float) -> Floats:
    """Return `eprocess.log_wealth` of many data sets at once, (..., rows)."""
    logs = [np.cumsum(np.log1p(bet / m * (x - m)), -1) for bet in eprocess.BETS]
    return np.asarray(np.logaddexp.reduce(np.stack(logs), 0) - math.log(len(logs)))


@dataclass(frozen=True)
class Early:
    passed: float
    blocked: float
    decided: float  # rows until decided, on average


def simulate_early_stops(
    rng: np.random.Generator, discordance: float, difference: float, runs: int, rows: int = 1000
) -> Early:
    """Run e-processes on differences of 0/1 rows at a 2-point margin, looked at after every row."""
    m = (1 - 0.02) / 2
    shares = [(discordance - difference) / 2, 1 - discordance, (discordance + difference) / 2]
    first: list[Floats] = []
    for _ in range(runs // BATCH):
        x = rng.choice([0.0, 0.5, 1.0], (BATCH, rows), p=shares)
        crossed = [log_wealths(x, m), log_wealths(1 - x, 1 - m)]
        first.append(np.stack([find_first_hit(w >= np.log(1 / ALPHA), rows) for w in crossed]))
    up, down = np.concatenate(first, 1)
    ended = np.minimum(np.minimum(up, down) + 1, rows)
    return Early(share((up < rows) & (up <= down)), share((down < rows) & (down < up)), float(ended.mean()))


def find_first_hit(hit: Floats, never: int) -> Floats:
    return np.where(hit.any(-1), hit.argmax(-1), never)


def simulate_sign_flips(rng: np.random.Generator, n: int, name: str, runs: int) -> tuple[float, float]:
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
        surely = SURE * (c.passed * (100 - c.passed) / LONG) ** 0.5 if c.runs >= LONG else 0.0
        line = f"| {c.where} | {mark(c.passed, 120 * ALPHA - surely)} | {mark(c.blocked)} | {plain} "
        line += f"| {c.power:.0f} | {c.best:.0f} |"
        yield line + (f" {c.betting:.0f} |" if c.betting is not None else "") + "\n"


def mark(rate: float, bar: float = 120 * ALPHA) -> str:
    """Print a rate, bold where it is over the bar."""
    return f"**{rate:.1f}**" if rate > bar else f"{rate:.1f}"


COUNTS = (20, 50, 200, 1000)


def shares_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    for kind, words in SIZES.items():
        cells = [
            simulate_cell(
                f"{g} clusters, share {p}, correlation {icc}",
                draws.make_share_draw(rng, g, p, icc, kind),
                runs,
                "share",
            )
            for g in COUNTS
            for p in (0.5, 0.8, 0.9, 0.95)
            for icc in (0.0, 0.1, 0.5)
        ]
        yield from table(f"0/1 rows in clusters, {words}, against a number", cells)


def pairs_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    for kind, words in SIZES.items():
        cells = [
            simulate_cell(
                f"{g} clusters, discordance {d}, margin {m}, correlation {icc}",
                draws.make_pairs_draw(rng, g, d, -m, icc, kind),
                runs,
                "pairs",
            )
            for g in COUNTS
            for d, m in ((0.02, 0.02), (0.05, 0.02), (0.1, 0.05), (0.3, 0.05))
            for icc in (0.0, 0.1, 0.5)
        ]
        yield from table(f"0/1 rows in clusters, {words}, against a baseline", cells)


def scores_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    cells = [
        simulate_cell(f"{name}, n = {n}", draws.make_score_draw(rng, n, name), runs, "score")
        for n in (50, 200, 1000)
        for name in SCORES
    ]
    yield from table("Scores in [0, 1], independent rows", cells)
    cells = [
        simulate_cell(f"{what}, n = {n}", draws.make_difference_draw(rng, n, factor), runs, "score")
        for n in (50, 200, 1000)
        for what, factor in (("two scores", 1.0), ("at most 5% worse", 0.95))
    ]
    yield from table("Differences of scores on the same rows, and a relative margin", cells)
    for kind, words in SIZES.items():
        cells = [
            simulate_cell(
                f"{g} clusters, mean {p}, correlation {icc}",
                draws.make_clustered_score_draw(rng, g, p, icc, kind),
                runs,
                "share",
            )
            for g in COUNTS
            for p in (0.5, 0.9)
            for icc in (0.1, 0.5)
        ]
        yield from table(f"Scores of 0, ½ and 1 in clusters, {words}", cells)


def perplexity_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    for lengths in TOKENS:
        cells = [
            simulate_cell(f"{name}, n = {n}", draws.make_perplexity_draw(rng, n, name, lengths), runs, "ratio")
            for n in COUNTS
            for name in NATS
        ]
        yield from table(f"Perplexity: nats per token, lengths {lengths}", cells)


def combine_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """A metric made from all rows at once, one call of `stats.cluster_bootstrap` per run."""
    yield f"\n## Macro-F1 of three classes in clusters of 1 to 12, against a number ({runs // 40} runs a cell)\n\n"
    yield "| | false pass | false block |\n|---|---|---|\n"
    for count in (20, 50, 150):
        for right in (0.7, 0.9):
            passed, blocked = combine(rng, count, right, runs // 40)
            yield f"| {count} clusters, {right:.0%} right | {mark(passed)} | {mark(blocked)} |\n"


def draw_answers(rng: np.random.Generator, count: int, right: float) -> tuple[Floats, Floats, Floats]:
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
    gold, said, _ = draw_answers(rng, 100_000, right)
    truth = macro_f1(gold, said, range(len(gold)))
    hits = [0, 0]
    for _ in range(runs):
        gold, said, clusters = draw_answers(rng, count, right)
        test = stats.cluster_bootstrap(partial(macro_f1, gold, said), clusters.tolist(), truth, ALPHA)
        hits[0] += test.p_pass <= ALPHA
        hits[1] += test.p_fail <= ALPHA
    return 100 * hits[0] / runs, 100 * hits[1] / runs


MARGINS = (0.02, 0.05, 0.1)


def unchanged_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """How many clusters without a change prove a margin, exact for their sizes."""
    yield "\n## Clusters of which none changed: how many prove that at most so much is lost\n\n"
    yield f"| sizes | {' | '.join(f'{m:.0%}' for m in MARGINS)} | 100 clusters prove | 300 |\n" + "|---" * 6 + "|\n"
    for kind, words in MORE_SIZES.items():
        shown = {g: compute_unseen_loss(kind, g) for g in COUNTED}
        needed = [next((g for g in COUNTED if shown[g] <= m), None) for m in MARGINS]
        proven = [f"{100 * compute_unseen_loss(kind, g):.1f} %" for g in (100, 300)]
        yield f"| {words} | {' | '.join(str(g) if g else 'never' for g in needed)} | {' | '.join(proven)} |\n"


COUNTED = [*range(25, 160), *range(160, 600, 10), *range(600, 3000, 100)]


def compute_unseen_loss(kind: str, count: int) -> float:
    """Return the largest share that may be lost where none of so many clusters changed."""
    sizes = draws.draw_sizes(np.random.default_rng(5), kind, (1, count))[0].astype(float)
    return -rule_of_three.unseen_bounds(0.0, sizes, ALPHA, (-1.0, 1.0))[0]


def lost_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Whole clusters are lost: what the worst that few rows may hide does to a test."""
    for pairs, what in ((True, "pairs that nobody wins"), (False, "0/1 rows")):
        for kind, words in MORE_SIZES.items():
            cells = [
                simulate_cell(
                    f"{g} clusters, {100 * m:.0f} % lost, correlation {icc}{', large ones more' if grows else ''}",
                    draws.make_lost_cluster_draw(rng, g, m, icc, kind, pairs=pairs, grows=grows),
                    runs,
                    "pairs" if pairs else "share",
                )
                for g in (50, 100, 200)
                for m in ((0.03,) if pairs else (0.05,))
                for icc, grows in ((0.7, False), (0.7, True), (1.0, False), (1.0, True))
                if not grows or kind != "equal"
            ]
            yield from table(f"Whole clusters lost, {words}: {what}", cells)


def weights_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Large clusters lose the more, rows of unequal weight, and documents of which few are very bad."""
    cells = [
        simulate_cell(
            f"{MORE_SIZES[kind]}, {g} clusters, {100 * won:.0f} % won and {100 * lost:.0f} % lost, correlation {icc}",
            draws.make_won_lost_draw(rng, g, won, lost, icc, kind),
            runs,
            "pairs",
        )
        for kind in ("1-12", "zipf", "pareto", "two")
        for g in (100, 200)
        for won, lost in ((0.0, 0.05), (0.02, 0.04), (0.02, 0.07))
        for icc in (0.3, 0.7)
    ]
    yield from table("Some rows won, and large clusters lose the more", cells)
    cells = [
        simulate_cell(
            f"{n} rows, share {p}, lognormal({s}){', heavy ones fail more' if grows else ''}",
            draws.make_weighted_draw(rng, n, p, s, grows=grows),
            runs,
            "score",
        )
        for s in (0.5, 1.0)
        for n in (20, 60, 200)
        for p in (0.9, 0.98)
        for grows in (False, True)
    ]
    yield from table("0/1 rows of unequal weight", cells)
    cells = [
        simulate_cell(f"{name}, {n} documents, cap {cap}", draws.make_capped_draw(rng, n, name, cap), runs, "score")
        for name in CHANGES
        for n in (30, 50, 100, 300)
        for cap in (0.2, 0.5)
    ]
    yield from table("Rare disasters of documents, with a `cap`", cells)


def forgotten_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """What passes falsely where a suite does not say what its rows are, and where it does."""
    yield "\n| rows | forgotten | declared |\n|---|---|---|\n"
    for icc in (0.3, 0.5):
        data = draws.make_pairs_draw(rng, 34, 0.1, -0.05, icc, "equal")(5 * runs)
        rows, changed = int(data.weights[0].sum()), data.changed.sum(-1)
        wins = ((changed + data.sums.sum(-1)) / 2).astype(int)
        hits = passes(wins, changed.astype(int) - wins, rows, 0.05, ALPHA)
        known = simulate_cell("", draws.make_pairs_draw(rng, 34, 0.1, -0.05, icc, "equal"), runs, "pairs").passed
        yield f"| {rows} rows, six to a document, correlation {icc}, discordance 0.1, margin of 5 points "
        yield f"| {share(hits):.1f} | `cluster`: {known:.1f} |\n"
    for name in CHANGES:
        for n in (30, 50, 100):
            free = simulate_cell("", draws.make_capped_draw(rng, n, name, np.inf), runs, "ratio").passed
            capped = simulate_cell("", draws.make_capped_draw(rng, n, name, 0.5), runs, "score").passed
            yield f"| {n} documents, {name}, perplexity | {free:.1f} | `cap = 0.5`: {capped:.1f} |\n"
    (wins, losses), at = draw_looks(rng, 0.1, -0.02, 5 * runs), multiple_testing.interim_levels(LOOKS, LOOKS[-1], ALPHA)
    naive, shared = (
        share(np.any([passes(w, b, n, 0.02, a) for w, b, n, a in zip(wins, losses, LOOKS, each, strict=True)], 0))
        for each in ([ALPHA] * len(LOOKS), at)
    )
    yield f"| {', '.join(map(str, LOOKS))} rows until one passes, discordance 0.1, margin of 2 points "
    yield f"| {naive:.1f} | `rows_at_most`: {shared:.1f} |\n"


LOOKS = (200, 400, 800, 1600)
CASES = ((0.1, 0.02, -0.02), (0.1, 0.02, 0.0), (0.1, 0.05, -0.05), (0.1, 0.05, 0.0), (0.2, 0.0, 0.0), (0.2, 0.0, 0.03))


def looks_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """The same weights on more and more rows, until a look passes."""
    yield f"\n## `rows_at_most = {LOOKS[-1]}`: looks at {', '.join(map(str, LOOKS))} rows until one passes\n\n"
    yield "| discordance | margin | truth | passed, at a look | passed by the last | rows on average "
    yield "| looked at four times at 5 % each | with `spend` | one test of all rows |\n" + "|---" * 9 + "|\n"
    for d, margin, truth in CASES:
        wins, losses = draw_looks(rng, d, truth, 5 * runs)
        at = multiple_testing.interim_levels(LOOKS, LOOKS[-1], ALPHA)
        shares_of_alpha = [attempt_alpha(ALPHA, k) for k in range(1, len(LOOKS) + 1)]
        shared, naive, apart = (
            np.stack([passes(w, b, n, margin, a) for w, b, n, a in zip(wins, losses, LOOKS, each, strict=True)])
            for each in (at, [ALPHA] * len(LOOKS), shares_of_alpha)
        )
        by = [share(shared[: i + 1].any(0)) for i in range(len(LOOKS))]
        rows = np.where(shared.any(0), np.array(LOOKS)[shared.argmax(0)], LOOKS[-1]).mean()
        first, last = " / ".join(f"{x:.1f}" for x in by[:-1]), mark(by[-1]) if truth <= -margin else f"{by[-1]:.1f}"
        yield f"| {d} | {margin} | {truth:+.2f} | {first} | {last} | {rows:.0f} "
        yield f"| {share(naive.any(0)):.1f} | {share(apart.any(0)):.1f} | {share(naive[-1]):.1f} |\n"


def draw_looks(
    rng: np.random.Generator, discordance: float, truth: float, runs: int
) -> tuple[list[Floats], list[Floats]]:
    """Return the rows won and lost at each of LOOKS, of nested rows, (runs,) each."""
    each = [(discordance + truth) / 2, (discordance - truth) / 2, 1 - discordance]
    more = np.diff((0, *LOOKS))
    seen = np.cumsum(np.stack([rng.multinomial(n, each, runs) for n in more]), 0)
    return seen[..., 0], seen[..., 1]


def passes(wins: Floats, losses: Floats, n: int, margin: float, alpha: float) -> Floats:
    """Return which of many tables of independent rows a gate passes at a level."""
    changed = wins + losses
    numbers, inverse = np.unique(changed, return_inverse=True)
    if margin:
        few = np.array([find_fewest_wins(n, int(k), margin, alpha) for k in numbers])
    else:
        few = np.array(shares.min_mcnemar_wins(numbers.tolist(), n, alpha))
    return np.asarray(wins >= few[inverse])


def exact_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    yield "\n## 0/1 rows, independent: exact sizes, every table of outcomes summed\n\n"
    yield "| test | | false pass | false block |\n|---|---|---|---|\n"
    for n in (50, 200, 1000):
        for p in (0.5, 0.8, 0.95):
            sizes = binomial_sizes(n, p)
            yield f"| exact binomial | n = {n}, threshold {p} | {sizes[0]:.1f} | {sizes[1]:.1f} |\n"
    for n in (20, 40, 50, 100, 200, 1000):
        for d in (0.05, 0.1, 0.2, 0.3):
            size = 100 * power.pairs_power(0.0, 0.0, d, n, ALPHA)
            name = stats.mcnemar(0, 0, n, ALPHA).method
            yield f"| {name} | n = {n}, discordance {d} | {size:.1f} | {size:.1f} |\n"
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
            found = simulate_early_stops(rng, d, difference, runs)
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
            better, worse = simulate_sign_flips(rng, n, name, runs // 10)
            yield f"| {name}, n = {n} | {better:.1f} | {worse:.1f} |\n"


def plan_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    yield from plan_rates.plan_page(rng, max(runs // 16, 250))  # each run is judged by itself


def means_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    from bench import risk_rates  # which draws by the functions of this module

    yield from risk_rates.page(rng, runs)


def capped_means_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    from bench import risk_rates

    yield from risk_rates.capped_page(rng, runs)


PAGES = {  # a file -> what writes its tables
    "statistics-rows.md": (exact_page, perplexity_page, flips_page, early_page),
    "statistics-scores.md": (scores_page, power_rates.few_scores_page, combine_page),
    "statistics-shares.md": (shares_page,),
    "statistics-pairs.md": (pairs_page,),
    "statistics-sizes.md": (unchanged_page, lost_page),
    "statistics-weights.md": (weights_page, looks_page, power_rates.mixed_clusters_page, power_rates.advice_page),
    "statistics-dependence.md": (
        dependence_rates.sampled_page,
        dependence_rates.sizes_page,
        dependence_rates.crossed_page,
    ),
    "statistics-seeds.md": (seed_rates.level_page, seed_rates.power_page, seed_rates.sweep_page),
    "assumptions.md": (forgotten_page,),
    "statistics-risk.md": (means_page, capped_means_page, judge_rates.gap_page),
    "statistics-judge-and-plan.md": (judge_rates.page, plan_page),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} runs a cell instead of {RUNS}, and print only")
    parser.add_argument("--long", action="store_true", help=f"{LONG} runs a cell, and print only")
    parser.add_argument("--only", choices=PAGES, metavar="PAGE", help=f"one of {', '.join(PAGES)}")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent.parent / "docs/explanation", metavar="FOLDER")
    asked = parser.parse_args()
    runs = LONG if asked.long else QUICK if asked.quick else RUNS
    pages = {asked.only: PAGES[asked.only]} if asked.only else PAGES
    tables, begun = dict.fromkeys(pages, ""), time.process_time()
    for name, parts in pages.items():
        for part in parts:
            began = time.process_time()
            text = "".join(part(np.random.default_rng(17), runs))
            tables[name] += text
            print(text, f"{part.__name__}: {time.process_time() - began:.0f} s", flush=True)
    error = 100 * (0.05 * 0.95 / runs) ** 0.5
    took = f"{(time.process_time() - begun) / 60:.0f} minutes of one core"
    told = f"{runs:,} runs a cell unless a table says otherwise; a rate of 5 % has an error of {error:.2f} points"
    print(took)
    for name, text in tables.items() if runs == RUNS else ():
        what = "This page was" if asked.only else "All pages were"
        write_tables(asked.to / name, f"\n{what} simulated in {took} with {told}.\n{text}")


def write_tables(page: Path, text: str) -> None:
    """Write tables between the marks of a page; what people wrote around them stays."""
    before, _, rest = page.read_text("utf-8").partition(START)
    page.write_text(before + START + text + "\n" + END + rest.partition(END)[2], "utf-8")


if __name__ == "__main__":
    main()
