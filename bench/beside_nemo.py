"""Compute how often NeMo Evaluator's gate and ours pass a model: what docs/explanation/comparison.md says of both.

python -m bench.beside_nemo

It wants an environment of its own, with Python 3.12 or 3.13: pip install '.[recompute]' 'nemo-evaluator[stats]==0.3.0'.
Their side is their own code, called with the difference of every row; a margin of two points is allowed by both.
All rates are exact: every table of wins and losses is summed, and nothing is drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import cache

from scipy.stats import multinomial

from bench.simulate import fewest

MARGIN = 0.02
ROWS = (10, 20, 50, 100, 200)
CASES = {  # what is true -> shares of rows that the candidate loses and wins
    "only losses, 5 points worse": (0.05, 0.0),
    "only losses, 2 points worse": (0.02, 0.0),
    "5 % lost and 3 % won, 2 points worse": (0.05, 0.03),
    "5 % lost and 5 % won, equal": (0.05, 0.05),
    "no row differs": (0.0, 0.0),
}


@cache
def nemo(n: int, losses: int, wins: int) -> bool:
    """Return whether a benchmark with these rows is a PASS for `nel gate`."""
    from nemo_evaluator.config.gate_policy import BenchmarkGateDefaults, GatePolicy
    from nemo_evaluator.engine import gate

    deltas = [-1.0] * losses + [1.0] * wins + [0.0] * (n - losses - wins)
    lower, upper = gate._paired_delta_ci(deltas)
    result = gate.BenchmarkGateResult(
        baseline_score=0.8, delta=round(sum(deltas) / n, 6), delta_ci_lower=lower, delta_ci_upper=upper, n_paired=n
    )
    policy = GatePolicy(defaults=BenchmarkGateDefaults(max_drop=MARGIN)).resolve("any")
    gate._apply_thresholds(result, policy, allow_point_estimate=False)
    return result.status == "PASS" and n >= gate._MIN_PAIRED_ITEMS


@cache
def _fewest(n: int, changed: int) -> int:
    return fewest(n, changed, MARGIN)


def ours(n: int, losses: int, wins: int) -> bool:
    """Return whether a gate with `worse_by_at_most = 0.02` passes on these rows."""
    return wins >= _fewest(n, losses + wins)


def rate(passes: Callable[[int, int, int], bool], n: int, lost: float, won: float) -> float:
    """Return how often, in %, a gate passes a candidate on n rows."""
    tables = [(losses, wins) for losses in range(n + 1 if lost else 1) for wins in range(n + 1 - losses if won else 1)]
    chances = multinomial.pmf([(*table, n - sum(table)) for table in tables], n, [lost, won, 1 - lost - won])
    likely = [(table, chance) for table, chance in zip(tables, chances, strict=True) if chance > 1e-9]
    return 100 * float(sum(chance for table, chance in likely if passes(n, *table)))


def line(case: str, who: str, passes: Callable[[int, int, int], bool]) -> str:
    """Return the line of the table for a case: how often a gate passes it, by the number of rows."""
    return f"| {case} | {who} | {' | '.join(f'{rate(passes, n, *CASES[case]):.1f}' for n in ROWS)} |\n"


def table() -> Iterator[str]:
    yield f"| | rows | {' | '.join(map(str, ROWS))} |\n|---|---|{'---|' * len(ROWS)}\n"
    for case in CASES:
        yield line(case, "NeMo Evaluator", nemo)
        yield line(case, "here", ours)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("".join(table()), end="")
