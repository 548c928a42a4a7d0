"""What few rows, few changes and mixed clusters prove, and what is advised where they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from bench import draws
from bench.draws import Data
from harness.gates.sample_size import estimate_sample_size
from harness.stats import hypothesis_tests as stats
from harness.stats import power

ALPHA, SPREAD = 0.05, 0.15
Floats = np.ndarray


def make_disaster_draw(rng: np.random.Generator, n: int, mean: float, share: float) -> Callable[[int], Data]:
    """Differences of scores, N(mean, SPREAD), of which a share is as bad as can be."""

    def draw(runs: int) -> Data:
        rows = np.clip(rng.normal(mean, SPREAD, (runs, n)), -1, 1)
        rows = np.where(rng.random((runs, n)) < share, -1.0, rows)
        return Data(rows, np.ones_like(rows), (1 - share) * mean - share, rows=rows, support=(-1.0, 1.0))

    return draw


def few_scores_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Differences of scores on few rows: what they prove, and the most that any test could."""
    from bench.simulate import AWAY, mark, simulate_cell

    yield "\n## Differences of scores on few rows, N(0, 0.15) in a range of −1 to 1\n\n"
    yield "| rows | claim: above | truth | power | t | any test at most | of the smaller |\n"
    yield "|---" * 7 + "|\n"
    for n in (20, 30, 50, 100):
        away = AWAY * SPREAD / n**0.5
        for claim, truth in ((0.0, away), (-away, 0.0)):
            ours, t = simulate_rates(make_disaster_draw(rng, n, truth, 0.0), claim, runs, "score")
            most = min(100 * ALPHA * ((1 + truth) / (1 + claim)) ** n, 100.0)
            line = f"| {n} | {claim:+.3f} | {truth:+.3f} | {ours:.0f} | {t:.0f} | {most:.0f} "
            yield f"{line}| {ours / min(most, t):.0%} |\n"
    yield "\nThe same with a share of −1 that brings the mean to the claim, which most samples do not show:\n\n"
    yield "| rows | mean of the others | share of −1 | false pass | false block |\n" + "|---" * 5 + "|\n"
    for n in (20, 50, 100):
        for mean in (0.02, 0.05, 0.08, 0.13):
            c = simulate_cell("", make_disaster_draw(rng, n, mean, mean / (1 + mean)), runs, "score")
            yield f"| {n} | {mean} | {mean / (1 + mean):.3f} | {mark(c.passed)} | {mark(c.blocked)} |\n"


def mixed_clusters_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Pairs in clusters most of which are small: level and power, by the correlation within clusters."""
    from bench.simulate import mark, simulate_cell

    yield "\n## Pairs in clusters of mixed sizes, against a baseline\n\n"
    yield "| sizes, clusters, discordance, margin, correlation | false pass | false block | plain t "
    yield "| power, equal models | t |\n" + "|---" * 6 + "|\n"
    for kind, words in draws.MIXED_SIZES.items():
        for g in (50, 100, 200):
            for d, m in ((0.2, 0.05), (0.3, 0.1)):
                for icc in (0.0, 0.2, 0.5):
                    c = simulate_cell("", draws.make_pairs_draw(rng, g, d, -m, icc, kind), runs, "pairs")
                    ours, t = simulate_rates(draws.make_pairs_draw(rng, g, d, 0.0, icc, kind), -m, runs, "pairs")
                    line = f"| {words}, {g}, {d}, {m}, {icc} | {mark(c.passed)} | {mark(c.blocked)} "
                    yield f"{line}| {c.plain[0]:.1f} | {ours:.0f} | {t:.0f} |\n"


def simulate_rates(
    draw: Callable[[int], Data], threshold: float, runs: int, kind: Literal["score", "pairs"]
) -> tuple[float, float]:
    """Return how often what is drawn passes a claim, and how often by Student's t."""
    from scipy.stats import t as student

    from bench.simulate import BATCH, judge, share
    from harness.stats import ratio

    hits: list[tuple[Floats, Floats]] = []
    for _ in range(runs // BATCH):
        data = draw(BATCH)
        of = ratio.estimate_ratio(data.sums, data.weights)
        t = (of.estimate - threshold) / np.where(of.error > 0, of.error, np.inf)
        hits.append((judge(data, of, kind)(threshold)[0] <= ALPHA, t >= student.isf(ALPHA, of.clusters - 1)))
    ours, plain = (share(np.concatenate(side)) for side in zip(*hits, strict=True))
    return ours, plain


def advice_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Of verdicts that are INCONCLUSIVE: how often a range of rows is told, and holds those of the truth."""
    yield "\n## The rows that would decide it: 0/1 rows against a baseline\n\n"
    yield "80 to 400 rows, discordances of 0.05 to 0.3, truths of 0 to +8 points.\n\n"
    yield "| margin | inconclusive | with a range | it holds the rows of the truth | ends apart, median |\n"
    yield "|---" * 5 + "|\n"
    for margin in (0.02, 0.05, 0.1):
        told = [one for d in (0.05, 0.1, 0.2, 0.3) for one in iterate_advised_ranges(rng, margin, d, runs // 500)]
        ranges = [(least, most, needed) for least, most, needed in told if most is not None]
        held = np.mean([least <= needed <= most for least, most, needed in ranges])
        apart = np.median([most / least for least, most, _ in ranges])
        yield f"| {margin} | {len(told)} | {len(ranges) / len(told):.0%} | {held:.0%} | {apart:.1f} |\n"


def iterate_advised_ranges(
    rng: np.random.Generator, margin: float, discordance: float, runs: int
) -> Iterator[tuple[float, float | None, float]]:
    """Yield the ends of the range of each INCONCLUSIVE that leans to the truth, and the rows that decide it."""
    for truth in (t for t in (0.0, 0.02, 0.04, 0.08) if t <= discordance):
        needed = (
            power.search_rows(lambda n, t=truth: power.pairs_power(t, margin, discordance, int(n), ALPHA), 100) or 0
        )
        each = [(discordance + truth) / 2, (discordance - truth) / 2, 1 - discordance]
        for n in (80, 150, 250, 400):
            for wins, losses, _ in rng.multinomial(n, each, runs).tolist():
                test = stats.tango(wins, losses, n, margin, ALPHA)
                if min(test.p_pass, test.p_fail) <= ALPHA:
                    continue
                found = estimate_sample_size(test, -margin, ALPHA, (wins + losses) / n)
                wrong = test.estimate <= -margin
                if found is None or found.least is None or (wrong and found.most is None):
                    yield 0.0, None, needed
                else:
                    yield (found.least, found.most, 0 if wrong else max(needed, n + 1))
