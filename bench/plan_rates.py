"""Measure whether `harness plan` tells the power that gates have: its number beside how often the gate passes.

A cell draws runs of rows afresh and puts them to `harness.gates.decide.decide`, one by one. The forecast knows 100,000
rows of an earlier run, drawn alike, the truth, and the sizes of the clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from harness.gates.decide import decide
from harness.planning.history import PastRows
from harness.planning.power import GatePower
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.run import Run
from harness.records.samples import Result, Sample, Score
from harness.records.verdicts import Outcome

ALPHA = 0.05
KNOWN = 100_000  # rows of the earlier run
AGREES = 3.0  # points
RUN = Run("suite", "suite.toml", "", 0, ALPHA, "model", "2026-01-01T00:00:00Z", "0", folder="suite-20260101T000000Z")

Floats = np.ndarray
Draw = Callable[[np.random.Generator, Floats], tuple[Floats, Floats, Floats]]  # candidate, baseline, weights by cluster


@dataclass(frozen=True)
class Cell:
    """A gate on rows in clusters of these sizes, and how the rows come about."""

    where: str
    gate: Gate
    metric: Metric
    sizes: tuple[int, ...]
    draw: Draw
    truth: float  # turned so that larger is better

    def told(self, rng: np.random.Generator, known: int = KNOWN) -> float:
        """Return what the plan says that knows so many rows of an earlier run, in %."""
        case = self.case(rng, known)
        return 100 * case.power(self.truth, case.bound)

    def case(self, rng: np.random.Generator, known: int) -> GatePower:
        often = -(-known // sum(self.sizes))
        clusters = np.repeat(np.arange(often * len(self.sizes)), self.sizes * often)
        ours, theirs, weights = (column.tolist() for column in self.draw(rng, clusters))
        rows, both = samples(clusters), (ours, theirs if self.gate.versus else None)
        sides = [values and {s.id: (v, w) for s, v, w in zip(rows, values, weights, strict=True)} for values in both]
        past = PastRows(RUN, rows, *sides)
        return GatePower(
            self.gate, self.metric, tuple(s.cluster or s.id for s in self.samples()), None, ALPHA, past, None
        )

    def seen(self, rng: np.random.Generator, runs: int) -> float:
        """Return how often the gate passes, in %."""
        rows, clusters, passed = self.samples(), np.repeat(np.arange(len(self.sizes)), self.sizes), 0
        for _ in range(runs):
            ours, theirs = self.results(rng, clusters)
            sides = (ours, theirs if self.gate.versus else None)
            told = decide(self.gate, self.metric, *sides, rows, ALPHA, name="merged")
            passed += told.outcome is Outcome.PASS
        return 100 * passed / runs

    def samples(self) -> list[Sample]:
        return samples(np.repeat(np.arange(len(self.sizes)), self.sizes))

    def results(self, rng: np.random.Generator, clusters: Floats) -> tuple[Result, Result]:
        ours, theirs, weights = self.draw(rng, clusters)
        made = []
        for name, values in (("merged", ours), ("base", theirs)):
            rows = zip(values.tolist(), weights.tolist(), strict=True)
            scores = tuple(Score(str(i), {self.metric.name: v}, w) for i, (v, w) in enumerate(rows))
            made.append(Result(name, "qa", scores, {}, name))
        return made[0], made[1]


def samples(clusters: Floats) -> list[Sample]:
    return [Sample(str(i), cluster=f"c{c}") for i, c in enumerate(clusters.tolist())]


# ------------------------------------------------------------------ rows


def make_binary_draw(right: float, difference: float, discordance: float, icc: float) -> Draw:
    """Draw whether candidate and baseline are right: alike within clusters by a Dirichlet distribution."""
    won, lost = (discordance + difference) / 2, (discordance - difference) / 2
    shares = np.array([won, lost, right - won, 1 - right - lost])  # only ours right, only theirs, both, neither

    def draw(rng: np.random.Generator, clusters: Floats) -> tuple[Floats, Floats, Floats]:
        rates = np.tile(shares, (clusters.max() + 1, 1))
        if icc:
            rates = np.maximum(rng.gamma(rates * (1 - icc) / icc), 1e-300)
        edges = np.cumsum(rates / rates.sum(1, keepdims=True), axis=1)[clusters]
        kind = np.minimum((rng.random(len(clusters))[:, None] > edges).sum(1), 3)
        return np.isin(kind, (0, 2)).astype(float), np.isin(kind, (1, 2)).astype(float), np.ones(len(clusters))

    return draw


def values(make: Callable[[np.random.Generator, int], Floats]) -> Draw:
    """Draw independent values of a candidate; the baseline is 0."""

    def draw(rng: np.random.Generator, clusters: Floats) -> tuple[Floats, Floats, Floats]:
        n = len(clusters)
        return make(rng, n), np.zeros(n), np.ones(n)

    return draw


def make_document_draw(make: Callable[[np.random.Generator, Floats], Floats], better: float) -> Draw:
    """Draw nats per token of documents of log-normal length: the candidate's are `better` less, and vary."""

    def draw(rng: np.random.Generator, clusters: Floats) -> tuple[Floats, Floats, Floats]:
        tokens = np.round(rng.lognormal(4, 0.8, len(clusters))) + 1
        base = rng.gamma(9, 0.3, len(clusters))
        apart = make(rng, tokens) + rng.normal(0, 0.05, clusters.max() + 1)[clusters]
        return base - better - apart, base, tokens

    return draw


# ------------------------------------------------------------------ cells

EXACT = Metric("acc", "higher", "proportion")
MEAN = Metric("reward", "higher", "mean")
NATS = Metric("perplexity", "lower", "perplexity")
ZIPF = {count: tuple(max(round(40 / rank), 1) for rank in range(1, count + 1)) for count in (20, 50)}
UNEVEN = {count: tuple(1 + i % 12 for i in range(count)) for count in (10, 20, 40, 150)}


def list_cells() -> list[Cell]:
    return [
        *_iterate_independent_cells(),
        *_iterate_cluster_cells(),
        *_iterate_mean_cells(),
        *_iterate_document_cells(),
    ]


def _iterate_independent_cells() -> Iterator[Cell]:
    for n, right, least in ((88, 0.9, 0.8), (300, 0.55, 0.5), (200, 0.98, 0.95)):
        yield Cell(
            f"binomial, n = {n}, {right} against {least}",
            _make_min_gate(least),
            EXACT,
            (1,) * n,
            _make_share_draw(right),
            right,
        )
    for n, differ, better in ((60, 0.3, 0.15), (300, 0.1, 0.03), (600, 0.2, 0.04)):
        draw = make_binary_draw(0.6, better, differ, 0.0)
        yield Cell(
            f"McNemar, n = {n}, discordance {differ}, {better} better",
            _make_better_gate(),
            EXACT,
            (1,) * n,
            draw,
            better,
        )
    for n, differ, margin in ((60, 0.1, 0.05), (100, 0.2, 0.1), (200, 0.1, 0.05), (600, 0.2, 0.05)):
        draw = make_binary_draw(0.6, 0.0, differ, 0.0)
        yield Cell(
            f"Tango, n = {n}, discordance {differ}, margin {margin}",
            _make_margin_gate(margin),
            EXACT,
            (1,) * n,
            draw,
            0.0,
        )


def _iterate_cluster_cells() -> Iterator[Cell]:
    for count, right, least in ((10, 0.8, 0.6), (20, 0.8, 0.65), (40, 0.8, 0.7), (40, 0.95, 0.88), (150, 0.9, 0.86)):
        where = f"share in {count} clusters, {right} against {least}"
        yield Cell(where, _make_min_gate(least), EXACT, UNEVEN[count], make_binary_draw(right, 0.0, 0.05, 0.2), right)
    for count, margin in ((10, 0.2), (20, 0.15), (40, 0.1), (150, 0.05)):
        draw = make_binary_draw(0.7, 0.0, 0.2, 0.2)
        yield Cell(
            f"pairs in {count} clusters, margin {margin}", _make_margin_gate(margin), EXACT, UNEVEN[count], draw, 0.0
        )
    for count, icc in ((20, 0.1), (50, 0.1), (50, 0.5)):
        draw = make_binary_draw(0.7, 0.0, 0.2, icc)
        where = f"pairs in {count} clusters of Zipf's sizes, correlation {icc}, margin 0.15"
        yield Cell(where, _make_margin_gate(0.15), EXACT, ZIPF[count], draw, 0.0)


def _iterate_mean_cells() -> Iterator[Cell]:
    for n, least in ((50, 0.8), (200, 0.86)):
        draw = values(lambda rng, n: rng.beta(1, 0.1, n))
        yield Cell(
            f"score, Beta(1, 0.1), n = {n}, 0.909 against {least}",
            _make_min_gate(least),
            EXACT,
            (1,) * n,
            draw,
            1 / 1.1,
        )
    draw = values(lambda rng, n: rng.choice([0.0, 0.5, 1.0], n, p=[0.1, 0.1, 0.8]))
    yield Cell("score, 0, ½ or 1, n = 200, 0.85 against 0.8", _make_min_gate(0.8), EXACT, (1,) * 200, draw, 0.85)
    draw = values(lambda rng, n: np.where(rng.random(n) < 0.02, 0.0, rng.uniform(0.9, 1, n)))
    yield Cell("score, 2 % are 0, n = 200, 0.931 against 0.9", _make_min_gate(0.9), EXACT, (1,) * 200, draw, 0.931)
    for n, least in ((50, -0.45), (200, -0.2), (1000, -0.08)):
        draw = values(lambda rng, n: np.exp(0.32) - rng.lognormal(0, 0.8, n))
        yield Cell(
            f"mean, log-normal(0.8), n = {n}, 0 against {least}", _make_min_gate(least), MEAN, (1,) * n, draw, 0.0
        )
    for n, better in ((30, 0.5), (100, 0.25)):
        draw = values(lambda rng, n, up=better: up + np.exp(0.32) - rng.lognormal(0, 0.8, n))
        yield Cell(f"mean, sign flips, n = {n}, {better} better", _make_better_gate(), MEAN, (1,) * n, draw, better)


def _iterate_document_cells() -> Iterator[Cell]:
    def skewed(rng: np.random.Generator, tokens: Floats) -> Floats:
        return (1 - rng.exponential(1, tokens.shape)) / np.sqrt(tokens)

    def heavy(rng: np.random.Generator, tokens: Floats) -> Floats:
        return rng.standard_t(4, tokens.shape) * 0.1

    for name, make in (("exponential/√tokens", skewed), ("t(4)", heavy)):
        for where, sizes, better in (
            ("n = 50", (1,) * 50, 0.06),
            ("n = 200", (1,) * 200, 0.03),
            ("in 40 clusters", UNEVEN[40], 0.03),
        ):
            yield Cell(
                f"perplexity, {name}, {where}",
                _make_better_gate(),
                NATS,
                sizes,
                make_document_draw(make, better),
                better,
            )


def _make_share_draw(share: float) -> Draw:
    return make_binary_draw(share, 0.0, 0.0, 0.0)


def _make_min_gate(bound: float) -> Gate:
    return Gate("g", "qa.acc", min=bound, allow_approximate=True)


def _make_better_gate() -> Gate:
    return Gate("g", "qa.acc", versus="base", better_by=0.0, allow_approximate=True)


def _make_margin_gate(margin: float) -> Gate:
    return Gate("g", "qa.acc", versus="base", worse_by_at_most=margin, allow_approximate=True)


# ------------------------------------------------------------------ the page


def plan_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Write what the plan tells beside what is seen, bold where they are more than AGREES points apart."""
    yield f"\n## `harness plan`: the power it tells, and how often the gate passes ({runs:,} runs)\n\n"
    yield "| | told | passes |\n|---|---|---|\n"
    for cell in list_cells():
        told, seen = cell.told(rng), cell.seen(rng, runs)
        yield f"| {cell.where} | {mark(told, seen)} | {seen:.1f} |\n"


def mark(told: float, seen: float) -> str:
    return f"**{told:.1f}**" if abs(told - seen) > AGREES else f"{told:.1f}"


def find(where: str) -> Cell:
    """Return the cell whose name begins so."""
    return next(cell for cell in list_cells() if cell.where.startswith(where))
