"""Compute how often a rule on the numbers as they are ships a worse model; write docs/explanation/paired-rows.md.

python -m bench.point_rule [--to docs/explanation/paired-rows.md]

Two models answer the same n rows. They differ on a share of them, the discordance, and of these the candidate wins so
many that its share of right answers is lower by a difference. All rates are exact: every table of outcomes is summed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import binom

from bench.simulate import ALPHA, tango_sizes, write_tables
from harness.stats import power

PAGE = Path(__file__).parent.parent / "docs/explanation/paired-rows.md"
BASE, WORSE, MARGIN = 0.8, 0.05, 0.02
UNRELATED = BASE * (1 - (BASE - WORSE)) + (1 - BASE) * (BASE - WORSE)  # discordance of models that err independently


def compute_ship_rate(n: int, discordance: float, difference: float, slack: float = 0.0) -> float:
    """Return how often, in %, a candidate that differs by `difference` is at most `slack` worse on n rows."""
    changed = np.arange(n + 1)
    fewest = np.ceil((changed - slack * n) / 2 - 1e-9)
    enough = binom.sf(fewest - 1, changed, (discordance + difference) / 2 / discordance)
    return float(100 * (binom.pmf(changed, n, discordance) * enough).sum())


def iterate_discordance_lines() -> Iterator[str]:
    yield "| discordance | not worse on 200 rows | at most 2 points worse on them | gate, at most 2 points worse |\n"
    yield "|---|---|---|---|\n"
    for d in (0.1, 0.2, 0.3, UNRELATED, 0.4):
        rates = (
            compute_ship_rate(200, d, -WORSE),
            compute_ship_rate(200, d, -WORSE, MARGIN),
            tango_sizes(200, d, -WORSE, MARGIN)[0],
        )
        yield f"| {d:.2f} | {' | '.join(f'{rate:.1f}' for rate in rates)} |\n"


def iterate_row_count_lines() -> Iterator[str]:
    yield "| rows | point rule, 5 points worse | gate, 5 points worse | gate, equal models | equal, not proven |\n"
    yield "|---|---|---|---|---|\n"
    for n in (100, 200, 500, 1000):
        worse, (equal, refuted) = tango_sizes(n, 0.2, -WORSE, MARGIN)[0], tango_sizes(n, 0.2, 0.0, MARGIN)
        left = 100 - equal - refuted
        yield f"| {n:,} | {compute_ship_rate(n, 0.2, -WORSE, MARGIN):.1f} | {worse:.1f} | {equal:.1f} | {left:.1f} |\n"


def iterate_claim_lines() -> Iterator[str]:
    """What a gate on few rows proves of a better model, and of an equal one."""
    yield "| rows | discordance | 3 points better | 5 points better | equal, margin of 2 | 3 | 5 | 10 "
    yield "| margin that 80 % prove |\n" + "|---" * 9 + "|\n"
    for n in (100, 150, 200):
        for d in (0.05, 0.1, 0.2):
            better = [power.pairs_power(more, 0.0, d, n, ALPHA) for more in (0.03, 0.05)]
            equal = [power.pairs_power(0.0, margin, d, n, ALPHA) for margin in (0.02, 0.03, 0.05, 0.1)]
            least = power.search_power(partial(_compute_equal_power, n, d), 0.0, 0.5) or 0.0
            told = " | ".join(f"{100 * chance:.0f}" for chance in (*better, *equal))
            yield f"| {n} | {d} | {told} | {100 * least:.1f} |\n"


def _compute_equal_power(n: int, discordance: float, margin: float) -> float:
    return power.pairs_power(0.0, margin, discordance, n, ALPHA)


def format_tables() -> str:
    """Return what stands between the marks of the page."""
    return "".join(["\n", *iterate_discordance_lines(), "\n", *iterate_row_count_lines(), "\n", *iterate_claim_lines()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=PAGE, metavar="PAGE")
    write_tables(parser.parse_args().to, format_tables())
    print(format_tables())


if __name__ == "__main__":
    main()
