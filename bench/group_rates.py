"""Measure how often a run of several tasks is gated wrongly: by its mean, and by the guards of its tasks.

python -m bench.group_rates [--runs N]

Every task is drawn with its own rate of changes and its own difference. The judges are the functions that gates call.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cache

import numpy as np

from bench.simulate import ALPHA, Floats, passes
from harness.stats import tango
from harness.stats.multiple_testing import adjust_holm

MARGIN = 0.05
RUNS = 4_000
TASKS = {"3 tasks of 100": [100] * 3, "10 tasks of 20 to 400": [20, 30, 50, 60, 80, 100, 150, 200, 300, 400],
         "57 tasks of 100": [100] * 57, "57 tasks of 250": [250] * 57}  # fmt: skip


def draw(rng: np.random.Generator, sizes: list[int], mean: float, spread: float, runs: int) -> tuple[Floats, Floats]:
    """Return wins and losses, (runs, tasks), of tasks whose differences lie around a mean over all rows.

    Of a task 5 to 30 % of the rows change.
    """
    n = np.array(sizes)
    changed = rng.uniform(0.05, 0.3, (runs, len(n)))
    difference = rng.normal(0, spread, (runs, len(n)))
    difference += mean - (difference * n).sum(1, keepdims=True) / n.sum()
    changed = np.maximum(changed, np.abs(difference))
    won = rng.binomial(n, np.clip((changed + difference) / 2, 0, 1))
    lost_rate = np.clip((changed - difference) / 2, 0, 1) / np.clip(1 - (changed + difference) / 2, 1e-9, 1)
    return won, rng.binomial(n - won, lost_rate)


@cache
def compute_refuted_p(won: int, lost: int, n: int) -> float:
    """Return the p-value of a task being worse by no more than the margin."""
    return float(tango.exact_p(won, lost, n, -MARGIN)[1])


def estimate_guard_rate(won: Floats, lost: Floats, sizes: list[int]) -> float:
    """Return how often at least one task fails, by Holm, in per cent."""
    hits = [
        min(adjust_holm([compute_refuted_p(int(w), int(x), n) for w, x, n in zip(ws, ls, sizes, strict=True)])) <= ALPHA
        for ws, ls in zip(won, lost, strict=True)
    ]
    return 100 * float(np.mean(hits))


def estimate_each_pass_rate(won: Floats, lost: Floats, sizes: list[int]) -> float:
    """Return how often each task by itself would pass, in per cent."""
    proven = [passes(won[:, i], lost[:, i], n, MARGIN, ALPHA) for i, n in enumerate(sizes)]
    return 100 * float(np.mean(np.all(proven, 0)))


def iterate_table_lines(runs: int) -> Iterator[str]:
    rng = np.random.default_rng(17)
    yield "| tasks | mean passes at the limit | same, tasks differ by 5 points | a task fails at the limit | equal models: mean passes | a task fails | each task would pass |"  # noqa: E501
    yield "|---|---|---|---|---|---|---|"
    for name, sizes in TASKS.items():
        at, spread = (draw(rng, sizes, -MARGIN, sd, runs) for sd in (0.0, 0.05))
        equal, few = draw(rng, sizes, 0.0, 0.0, runs), max(200, runs // 10)
        rates = [100 * passes(w.sum(1), x.sum(1), sum(sizes), MARGIN, ALPHA).mean() for w, x in (at, spread, equal)]
        guards = [estimate_guard_rate(w[:few], x[:few], sizes) for w, x in (at, equal)]
        cells = [rates[0], rates[1], guards[0], rates[2], guards[1], estimate_each_pass_rate(*equal, sizes)]
        yield f"| {name} | " + " | ".join(f"{x:.1f}" for x in cells) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    for line in iterate_table_lines(parser.parse_args().runs):
        print(line, flush=True)
