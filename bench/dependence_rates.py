"""False passes where rows are not independent in ways that nobody fixed: answers sampled several times to a question,
unequal numbers of them, clusters whose sizes are drawn and tell of the outcome, and clusters of two kinds that cross.

No cell draws from what a test assumes: effects are normal on a latent scale, sizes lognormal, losses in proportion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from harness.stats import crossed, mean_tests, ratio

ALPHA, BATCH = 0.05, 500
DOUBTED, SURELY = (6.0, 6.7), 40_000  # between these rates (in %) a cell is drawn again, so many times
AWAY = 2.5  # standard errors between truth and threshold where power is measured
Floats = np.ndarray


@dataclass(frozen=True)
class Drawn:
    """Runs of means in clusters of one kind, or of those that are tested of several; the truth, and a range."""

    of: ratio.Ratio
    truth: float
    kind: mean_tests.Kind
    support: tuple[float, float] = (0.0, 1.0)
    changed: Floats | None = None  # share of rows that differ, of pairs
    tested: Sequence[ratio.Ratio] = ()  # of several kinds, see `crossed.decisive_means`
    independent: bool = False


Draw = Callable[[int], Drawn]


def p_values(data: Drawn, threshold: float) -> tuple[Floats, Floats]:
    """Return p_pass and p_fail of every run, as `cluster_t` and `crossed_t` give them one by one."""
    if not data.tested:
        about = {"discordance": data.changed, "independent": data.independent, "support": data.support}
        return mean_tests.make_p_function(data.of, data.kind, ALPHA, **about)(threshold)
    found = []
    for of in data.tested:
        tests = mean_tests.select_tests(of, data.kind, ALPHA, discordance=data.changed, support=data.support)
        found += [test.p(threshold) for test in tests]
    up, down = (np.maximum.reduce([p[i] for p in found]) for i in (0, 1))
    return up, down


@dataclass(frozen=True)
class Cell:
    """How often a claim on its threshold is passed and blocked, one kind of clusters alone would, and power (in %)."""

    where: str
    passed: float
    blocked: float
    alone: float | None
    power: float

    def line(self) -> str:
        alone = "" if self.alone is None else f"{self.alone:.1f}"
        passed = f"**{self.passed:.1f}**" if self.passed > DOUBTED[0] else f"{self.passed:.1f}"
        return f"| {self.where} | {passed} | {self.blocked:.1f} | {alone} | {self.power:.0f} |\n"


def simulate_cell(where: str, draw: Draw, runs: int) -> Cell:
    """Simulate a cell; where its rate of false passes is in doubt, once more with more runs."""
    found = _simulate_once(where, draw, runs)
    if not DOUBTED[0] < found.passed <= DOUBTED[1] or runs >= SURELY:
        return found
    again = _simulate_once(where, draw, SURELY)
    return replace(again, where=f"{where}; {SURELY:,} runs, at first {found.passed:.1f}")


def _simulate_once(where: str, draw: Draw, runs: int) -> Cell:
    hits: list[list[Floats]] = []
    first = draw(BATCH)
    away = AWAY * float(np.std(first.of.estimate))
    for _ in range(runs // BATCH):
        data = draw(BATCH)
        up, down = p_values(data, data.truth)
        found = [up, down, p_values(data, data.truth - away)[0]]
        if data.tested:
            found.append(p_values(replace(data, tested=()), data.truth)[0])
        hits.append(found)
    rates = [100 * float(np.mean(np.concatenate(each) <= ALPHA)) for each in zip(*hits, strict=True)]
    return Cell(where, rates[0], rates[1], rates[3] if len(rates) > 3 else None, rates[2])


def _draw_differences(rng: np.random.Generator, effects: Floats, won: float, lost: float) -> Floats:
    """Return rows won, lost and equal (runs, rows), at these rates, of normal effects with a variance below 1."""
    latent = effects + rng.standard_normal(effects.shape)
    latent /= np.sqrt(1 + effects.var())
    return (latent > norm.isf(won)).astype(np.float64) - (latent < norm.ppf(lost))


# ------------------------------------------------------------------ several answers to a question


def make_sampled_draw(
    rng: np.random.Generator, questions: int, difference: float, spread: float, answers: int = 8
) -> Draw:
    """So many answers to each question, of both models; a question has a normal effect."""

    def draw(runs: int) -> Drawn:
        effect = spread * rng.standard_normal((runs, questions))
        rows = [_draw_differences(rng, effect, 0.15 + difference / 2, 0.15 - difference / 2) for _ in range(answers)]
        sums, changed = np.sum(rows, 0), np.abs(rows).mean((0, 2))
        of = ratio.estimate_ratio(sums, np.full(sums.shape, float(answers)))
        return Drawn(of, difference, "pairs", (-1.0, 1.0), changed)

    return draw


def make_repeated_draw(rng: np.random.Generator, rows: int, right: float, hidden: float) -> Draw:
    """Rows of 1 to 5 answers, fewer where they are hard, each row once; a share of the candidate's failures is missing,
    and counts as failed.

    A row is the difference of two means; both models are right equally often.
    """

    def draw(runs: int) -> Drawn:
        rate = rng.beta(4 * right, 4 * (1 - right), (runs, rows))
        times = 1 + rng.binomial(4, rate)
        ours, theirs = (rng.binomial(times, rate) for _ in range(2))
        gone = rng.binomial(times - ours, hidden)
        known = times - gone  # of which so many are right: what is missing counts as wrong
        values = np.where(known > 0, ours / np.maximum(known, 1), 0.0) * known / times - theirs / times
        of = ratio.estimate_ratio(values, np.ones_like(values))
        return Drawn(of, 0.0, "score", (-1.0, 1.0), independent=True)

    return draw


# ------------------------------------------------------------------ sizes that are drawn


def make_sizes_draw(
    rng: np.random.Generator, count: int, sigma: float, lost: float, icc: float, *, pairs: bool
) -> Draw:
    """Clusters of lognormal size, 8 rows on average, of which large ones lose the more, in proportion to their size."""

    def sizes_of(luck: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        return np.maximum(1.0, np.round(luck.lognormal(np.log(8) - sigma**2 / 2, sigma, shape)))

    many = sizes_of(np.random.default_rng(1), (1_000_000,))
    low, high = 0.0, 1.0
    for _ in range(50):  # by how much a row more makes a loss likelier
        middle = (low + high) / 2
        less = float((np.minimum(middle * many, 1.0) * many).sum() / many.sum()) < lost
        low, high = (middle, high) if less else (low, middle)

    def draw(runs: int) -> Drawn:
        sizes = sizes_of(rng, (runs, count))
        chance, strength = np.minimum(high * sizes, 1.0), (1 - icc) / icc
        rate = rng.beta(np.maximum(chance * strength, 1e-9), np.maximum((1 - chance) * strength, 1e-9))
        gone = rng.binomial(sizes.astype(int), rate).astype(np.float64)
        if pairs:
            changed = gone.sum(-1) / sizes.sum(-1)
            return Drawn(ratio.estimate_ratio(-gone, sizes), -lost, "pairs", (-1.0, 1.0), changed)
        return Drawn(ratio.estimate_ratio(sizes - gone, sizes), 1 - lost, "share")

    return draw


# ------------------------------------------------------------------ clusters that cross


def make_crossed_draw(
    rng: np.random.Generator, first: Floats, second: Floats, spread: tuple[float, float], rate: float, *, pairs: bool
) -> Draw:
    """Rows in clusters of two kinds, (rows,) each, both with normal effects; 0/1, or differences on a margin of 5."""

    def draw(runs: int) -> Drawn:
        effects = np.zeros((runs, len(first)))
        for labels, scale in zip((first, second), spread, strict=True):
            numbers = np.unique(labels, return_inverse=True)[1]
            effects += scale * rng.standard_normal((runs, numbers.max() + 1))[:, numbers]
        latent = effects + rng.standard_normal(effects.shape)
        latent /= np.sqrt(1 + spread[0] ** 2 + spread[1] ** 2)
        if pairs:
            values = (latent > norm.isf(rate)).astype(np.float64) - (latent < norm.ppf(rate + 0.05))
        else:
            values = (latent < norm.ppf(rate)).astype(np.float64)
        weights = np.ones(len(first))
        kinds = [crossed.crossed_mean(values, weights, labels.tolist()) for labels in (first, second)]
        tested = crossed.decisive_means(kinds, ratio.estimate_ratio(values, weights).error)
        one = kinds[0].of
        if pairs:
            return Drawn(one, -0.05, "pairs", (-1.0, 1.0), np.abs(values).mean(-1), tested)
        return Drawn(one, rate, "share", tested=tested)

    return draw


def make_grid(first: int, second: int) -> tuple[Floats, Floats]:
    """Return the clusters of rows of which there is one for each pair."""
    return np.repeat(np.arange(first), second), np.tile(np.arange(second), first)


def draw_shared_questions(
    rng: np.random.Generator, documents: int, rows: int, share: float, questions: int
) -> tuple[Floats, Floats]:
    """Return documents of so many rows, a share of which ask one of a few questions, the others one of their own."""
    n = documents * rows
    asked = np.arange(n) + questions
    some = rng.permutation(n)[: round(share * n)]
    asked[some] = np.resize(np.arange(questions), len(some))
    return np.repeat(np.arange(documents), rows), asked


# ------------------------------------------------------------------ the page


def _format_table(title: str, alone: str, cells: Iterator[Cell]) -> Iterator[str]:
    yield f"\n## {title}\n\n| | false pass | false block | {alone} | power |\n|---|---|---|---|---|\n"
    yield from (one.line() for one in cells)


def sampled_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    cells = (
        simulate_cell(f"{n} questions, {'equal' if not d else f'{-100 * d:.0f} points worse'}, effect {s}",
             make_sampled_draw(rng, n, d, s), runs)
        for n in (50, 200) for d in (0.0, -0.05) for s in (0.5, 1.0)
    )  # fmt: skip
    yield from _format_table("Eight answers to a question: the question is the cluster", "", cells)
    cells = (
        simulate_cell(f"{n} rows, {p:.0%} right, {h:.0%} of failures missing", make_repeated_draw(rng, n, p, h), runs)
        for n in (50, 200) for p in (0.6, 0.9) for h in (0.0, 0.3)
    )  # fmt: skip
    yield from _format_table("One to five answers to a row, each row once; what is missing counts as failed", "", cells)


def sizes_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    cells = (
        simulate_cell(
            f"{'pairs' if pairs else '0/1 rows'}, {g} clusters, sigma {s}, {lost:.0%} lost, correlation {icc}",
            make_sizes_draw(rng, g, s, lost, icc, pairs=pairs), runs)
        for pairs in (True, False) for g in (60, 80) for s in (0.5, 0.7, 0.8) for lost, icc in ((0.2, 0.02), (0.2, 0.3))
    )  # fmt: skip
    yield from _format_table("Sizes that are drawn, lognormal, and losses in proportion to them", "", cells)


def crossed_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    cells = (
        simulate_cell(f"{'pairs, 10 % won' if pairs else f'share {p}'}, {a} x {b}, effects {s}",
             make_crossed_draw(rng, *make_grid(a, b), (s, s), p, pairs=pairs), runs)
        for a, b in ((30, 30), (40, 6), (60, 60)) for pairs, p in ((True, 0.1), (False, 0.9)) for s in (0.3, 1.0)
    )  # fmt: skip
    yield from _format_table("Two kinds of clusters, every pair of them a row", "the first alone", cells)
    cells = (
        simulate_cell(f"{'pairs, 10 % won' if pairs else f'share {p}'}, {share:.0%} of 300 rows ask {q} questions, "
             f"effects 0.7 and {s}",
             make_crossed_draw(rng, *draw_shared_questions(rng, 50, 6, share, q), (0.7, s), p, pairs=pairs), runs)
        for share, q in ((0.05, 1), (0.2, 3), (0.5, 5), (0.5, 30)) for pairs, p in ((True, 0.1), (False, 0.9))
        for s in (0.7, 1.5)
    )  # fmt: skip
    yield from _format_table("50 documents of 6 rows, some of which ask the same", "the document alone", cells)
