"""Measure how often a gate on a perplexity is wrong on real losses: rows of a run, drawn again as if they were all.

python -m bench.losses RUN SUBJECT EVAL [--versus SUBJECT]

RUN is a run's folder. The rows' nats per token are the population, so its mean is the truth, and documents are drawn
from it with replacement. Prints false passes on either side, and power 2.5 standard errors away, with what Student's t
would have done.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from bench.simulate import Data, mark, simulate_cell
from harness.reports.run_folder import metric_value, read_rows

RUNS = 4_000
COUNTS = (20, 50, 100, 200)
METRIC = "perplexity"


def read_losses(folder: Path, subject: str, evaluation: str, versus: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return nats (better is higher) and tokens of every row, against another subject's where one is named."""
    ours = read_rows(folder, subject, evaluation)
    theirs = read_rows(folder, versus, evaluation) if versus else {}
    tokens = np.array([row["weight"] for row in ours.values()])
    base = {i: metric_value(row, METRIC) for i, row in theirs.items()}
    nats = np.array([base.get(i, 0.0) - metric_value(row, METRIC) for i, row in ours.items()])
    return nats[tokens > 0], tokens[tokens > 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("subject")
    parser.add_argument("evaluation")
    parser.add_argument("--versus")
    asked = parser.parse_args()
    nats, tokens = read_losses(asked.run, asked.subject, asked.evaluation, asked.versus)
    truth = float((nats * tokens).sum() / tokens.sum())
    rng = np.random.default_rng(17)
    print(
        f"{len(nats)} documents\n| | false pass | false block | plain t | power | best t |\n|---|---|---|---|---|---|"
    )
    for side, sign in (("better is lower", 1.0), ("better is higher", -1.0)):
        for count in COUNTS:

            def draw(runs: int, count: int = count, sign: float = sign) -> Data:
                chosen = rng.integers(0, len(nats), (runs, count))
                return Data(sign * (nats * tokens)[chosen], tokens[chosen], sign * truth)

            c = simulate_cell(f"{count} of them, {side}", draw, RUNS, "ratio")
            plain = f"{c.plain[0]:.1f} / {c.plain[1]:.1f}"
            print(f"| {c.where} | {mark(c.passed)} | {mark(c.blocked)} | {plain} | {c.power:.0f} | {c.best:.0f} |")


if __name__ == "__main__":
    main()
