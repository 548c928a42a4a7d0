"""How often looks at a training stop it, rightly and wrongly; write docs/explanation/statistics-loop.md.

python -m bench.loop [--runs 500] [--to docs/explanation/statistics-loop.md]

A training is a walk of the true loss of a guard metric over its looks, on the same rows each time. Rows that are lost
at one look are mostly lost at the next. The judge is `InterimAnalysis`, which `GateCallback` calls.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from bench.simulate import END, START
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample, Score
from harness.training.interim import InterimAnalysis

ROWS, LOOKS, MARGIN, ALPHA = 450, 20, 0.05, 0.05
RIGHT, DISCORDANCE = 0.6, 0.2  # of the base's answers, and of rows on which an unharmed model differs
STICKS = 0.9  # correlation of what a row says from one look to the next
WORST = 3 * MARGIN - 1e-9  # the loss before which a collapse should be stopped
SPEEDS = (0.01, 0.02, 0.025, 0.05, 0.1)  # points of accuracy that a collapse loses from look to look
Floats = np.ndarray
Walk = Callable[[np.random.Generator], Floats]


def main() -> int:
    """Simulate, and write the tables into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--to", type=Path, default=Path("docs/explanation/statistics-loop.md"))
    args = parser.parse_args()
    before, _, rest = args.to.read_text("utf-8").partition(START)
    first, second = (np.random.default_rng(seed) for seed in (17, 18))  # a table alone is the same
    lines = [*make_false_stop_table(first, args.runs), "", *make_true_stop_table(second, args.runs)]
    args.to.write_text(before + START + "\n" + "\n".join(lines) + "\n\n" + END + rest.partition(END)[2], "utf-8")
    print("\n".join(lines))
    return 0


def make_false_stop_table(rng: np.random.Generator, runs: int) -> list[str]:
    """Return the table of trainings that never lose more than the margin."""
    walks: dict[str, Walk] = {
        "the loss is the margin at every look": lambda _: np.full(LOOKS, MARGIN),
        "a random walk that ends at the margin": lambda rng: np.linspace(0, MARGIN, LOOKS) + _draw_bridge(rng),
        "a random walk around no loss": lambda rng: _draw_walk(rng, 0.01),
    }
    lines = ["## Trainings that should go on", "", f"Percent of {runs} trainings that were stopped.", ""]
    lines += ["| true loss | spent over the looks | each look at the full risk |", "|---|---|---|"]
    for name, walk in walks.items():
        found = [find_first_stops(rng, np.minimum(walk(rng), MARGIN)) for _ in range(runs)]
        shares = [100 * np.mean([f[i] is not None for f in found]) for i in (0, 1)]
        lines.append(f"| {name} | {shares[0]:.1f} | {shares[1]:.1f} |")
    return lines


def make_true_stop_table(rng: np.random.Generator, runs: int) -> list[str]:
    """Return the table of trainings that collapse after a random look, by how fast."""
    lines = ["## Trainings that collapse", ""]
    lines += [f"Percent of {runs} trainings that were stopped before the true loss was three times the margin,"]
    lines += ["at that look at the latest, and in all; and the loss at the stop, in the mean."]
    lines += ["Each training loses that much before its last look.", ""]
    lines += ["| points lost per look | before | by then | in all | loss at the stop |", "|---|---|---|---|---|"]
    for speed in SPEEDS:
        before, by_then, losses = 0, 0, list[float]()
        for _ in range(runs):
            truth = _draw_collapse(rng, speed)
            while truth.max() < WORST:
                truth = _draw_collapse(rng, speed)
            at, _ = find_first_stops(rng, truth)
            third = int(np.argmax(truth >= WORST))
            before += at is not None and at < third
            by_then += at is not None and at <= third
            losses += [] if at is None else [float(truth[at])]
        rates = [100 * count / runs for count in (before, by_then, len(losses))]
        cells = " | ".join(f"{rate:.1f}" for rate in rates)
        lines.append(f"| {100 * speed:g} | {cells} | {100 * np.mean(losses):.1f} points |")
    return lines


def find_first_stops(rng: np.random.Generator, truth: Floats) -> tuple[int | None, int | None]:
    """Return the first look that refutes the guard, with its risk spent over the looks, and with all of it each."""
    base = rng.random(ROWS) < RIGHT
    noise = rng.standard_normal(ROWS)
    found: list[int | None] = [None, None]
    for number, loss in enumerate(truth):
        if number:
            noise = STICKS * noise + np.sqrt(1 - STICKS**2) * rng.standard_normal(ROWS)
        differ = max(DISCORDANCE, loss)
        lost = (differ + loss) / 2 / RIGHT  # of the base's right answers
        won = (differ - loss) / 2 / (1 - RIGHT)  # of its wrong ones
        turned = noise < np.where(base, _quantile(lost), _quantile(won))
        for i, looks in enumerate((LOOKS, 1)):
            if found[i] is None and is_refuted(int((turned & ~base).sum()), int((turned & base).sum()), looks):
                found[i] = number
        if None not in found:
            break
    return found[0], found[1]


@cache
def is_refuted(won: int, lost: int, looks: int) -> bool:
    """Return whether a look refutes the guard where so many rows were won and lost against the base."""
    base = [float(i < ROWS - won) for i in range(ROWS)]
    live = [float(i >= lost) for i in range(ROWS)]
    results = [
        Result("m", "qa", tuple(Score(str(i), {"right": v}) for i, v in enumerate(values)), {}, digest)
        for values, digest in ((base, "base"), (live, "live"))
    ]
    gate = Gate("guard", "qa.right", versus="base", worse_by_at_most=MARGIN)
    suite: Any = SimpleNamespace(gates=(gate,), header=SimpleNamespace(alpha=ALPHA))
    rows = tuple(Sample(str(i)) for i in range(ROWS))
    metric = Metric("right", "higher", "proportion")
    task: Any = SimpleNamespace(metrics={"right": metric}, rows_of=lambda *_, **__: rows)
    analysis = InterimAnalysis(suite, {"qa": task}, {"qa": results[0]}, looks)
    return bool(analysis.look(1, {"qa": results[1]}, {"qa.right": 0.0}).refuted)


def _draw_collapse(rng: np.random.Generator, speed: float) -> Floats:
    """Return a walk around no loss that loses `speed` a look from a random look in the first half on."""
    start = int(rng.integers(0, min(LOOKS // 2, LOOKS - round(3 * MARGIN / speed))))
    fall = np.maximum(np.arange(LOOKS) - start + rng.random(), 0) * speed
    return np.clip(np.minimum(_draw_walk(rng, 0.005), 0.02) + fall, -DISCORDANCE, RIGHT - 0.02)


def _draw_walk(rng: np.random.Generator, step: float) -> Floats:
    return np.clip(np.cumsum(rng.normal(0, step, LOOKS)), -DISCORDANCE / 2, None)


def _draw_bridge(rng: np.random.Generator) -> Floats:
    walk = _draw_walk(rng, 0.01)
    return walk - np.linspace(walk[0], walk[-1], LOOKS)


def _quantile(share: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(min(max(share, 0.0), 1.0)))


if __name__ == "__main__":
    raise SystemExit(main())
