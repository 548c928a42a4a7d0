"""How often a gate on the mean of several answers a row passes falsely, and rightly: python -m bench.repeat_rates.

Rows and their answers are drawn so that the candidate's loss is exactly the margin, or none, and judged by the gates'
own `decide`: with answers in the cluster of their row, with the mean of each row, with one answer a row, and, which is
wrong, with every answer as a row of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from harness.gates.decide import decide
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Draw, Result, Sample, Score
from harness.records.verdicts import Outcome

ROWS, REPEATS, MARGIN, ALPHA = 80, 4, 0.05, 0.05
METRIC = Metric("right", "higher", "proportion")
Chances = tuple[np.ndarray, np.ndarray]  # of each row to be right, for the base and the candidate: (N), (N)
Answers = np.ndarray  # 0 or 1: (N, K)


def few_broken(rng: np.random.Generator, drop: float) -> Chances:
    """Draw rows that are always right, of which the candidate breaks some wholly."""
    return np.ones(ROWS), (rng.random(ROWS) >= drop).astype(float)


def sure(rng: np.random.Generator, drop: float) -> Chances:
    """Draw rows that are nearly always right or wrong, of which some turn."""
    right = rng.random(ROWS) < 0.5
    turned = right & (rng.random(ROWS) < drop / 0.48)
    return np.where(right, 0.98, 0.02), np.where(right & ~turned, 0.98, 0.02)


def beta(rng: np.random.Generator, drop: float) -> Chances:
    """Draw rows of every difficulty, all of which the candidate finds harder."""
    base = rng.beta(0.6, 0.4, ROWS)
    return base, base * (1 - drop / 0.6)


def score_rows(answers: Answers, how: str) -> list[Score]:
    """Return answers (N, K) as a result would have them."""
    if how == "answers as rows":
        return [Score(f"{i}-{k}", {"right": v}) for i, row in enumerate(answers) for k, v in enumerate(row)]
    kept = answers[:, :1] if how == "one answer" else answers
    draws = how == "row is the cluster"
    return [
        Score(str(i), {"right": float(row.mean())}, draws=tuple(Draw({"right": v}) for v in row) if draws else ())
        for i, row in enumerate(kept)
    ]


WAYS = ("row is the cluster", "mean of a row", "one answer", "answers as rows")


def judge(base: Answers, candidate: Answers, how: str) -> bool:
    """Return whether "worse by at most the margin" passes."""
    sides = [
        Result(name, "qa", tuple(score_rows(answers, how)), {}, name)
        for name, answers in (("base", base), ("new", candidate))
    ]
    gate = Gate("g", "qa.right", versus="base", worse_by_at_most=MARGIN)
    samples = [Sample(score.id) for score in sides[0].scores]
    return decide(gate, METRIC, sides[1], sides[0], samples, ALPHA, name="new").outcome is Outcome.PASS


def simulate_pass_rates(draw: Callable[[np.random.Generator], Chances], runs: int, seed: int) -> list[float]:
    """Return the share of runs that pass, in %, by the way answers are judged."""
    rng, passed = np.random.default_rng(seed), np.zeros(len(WAYS))
    for _ in range(runs):
        base, candidate = (rng.random((ROWS, REPEATS)) < chance[:, None] for chance in draw(rng))
        passed += [judge(base.astype(float), candidate.astype(float), how) for how in WAYS]
    return list(100 * passed / runs)


def main(words: Sequence[str] | None = None) -> None:
    """Print a table of the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=4000)
    runs = parser.parse_args(words).runs
    print(f"{ROWS} rows, {REPEATS} answers, margin {MARGIN}, alpha {ALPHA}, {runs:,} runs; % that pass")
    print(f"{'rows':<12}{'true loss':<11}" + "".join(f"{how:<20}" for how in WAYS))
    for seed, (draw, drop) in enumerate((draw, drop) for draw in (few_broken, sure, beta) for drop in (MARGIN, 0.0)):
        rates = simulate_pass_rates(partial(draw, drop=drop), runs, seed)
        print(f"{draw.__name__:<12}{drop:<11g}" + "".join(f"{rate:<20.1f}" for rate in rates), flush=True)


if __name__ == "__main__":
    main()
