"""Compute how often the gates of others and ours pass a model: what docs/explanation/comparison.md says of them.

python -m bench.peers {invarlock,nemo}

Each wants an environment of its own, with Python 3.12 or 3.13: pip install '.[gate]' and 'invarlock==0.17.1' or
'nemo-evaluator[stats]==0.3.0'. Their side is their own code, called with the outcome of every row; a margin of two
points is allowed by all, and the base is right on 70 % of the rows. All rates are exact: every table of outcomes is
summed, and nothing is drawn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path

from scipy.stats import binom, multinomial

from bench.simulate import find_fewest_wins

MARGIN, RIGHT = 0.02, 0.7
ROWS = (10, 20, 50, 100, 200)
RECORDS = Path("bench/records-peers.json")
LEAST = 1e-9  # chance of a table that is summed
CASES = {  # what is true -> shares of rows that the candidate loses and wins
    "only losses, 5 points worse": (0.05, 0.0),
    "only losses, 2 points worse": (0.02, 0.0),
    "5 % lost and 3 % won, 2 points worse": (0.05, 0.03),
    "5 % lost and 5 % won, equal": (0.05, 0.05),
    "no row differs": (0.0, 0.0),
}


@cache
def passes_nemo(n: int, losses: int, wins: int) -> bool:
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
def passes_invarlock(n: int, losses: int, wins: int, both: int) -> bool:
    """Return whether an exact match with these rows, so many of them right on both sides, is a pass for InvarLock."""
    from invarlock import paired_exact_match as exact

    pairs = [(1, 1)] * both + [(1, 0)] * losses + [(0, 1)] * wins + [(0, 0)] * (n - both - losses - wins)
    found = exact.paired_exact_match_statistics(*zip(*pairs, strict=True))
    return found.effect_size_confidence_interval.lower_pp >= -100 * MARGIN


@cache
def _find_fewest_wins(n: int, changed: int) -> int:
    return find_fewest_wins(n, changed, MARGIN)


def passes_here(n: int, losses: int, wins: int) -> bool:
    """Return whether a gate with `worse_by_at_most = 0.02` passes on these rows."""
    return wins >= _find_fewest_wins(n, losses + wins)


def compute_rate(passes: Callable[..., bool], n: int, lost: float, won: float, *, both: bool = False) -> float:
    """Return how often, in %, a gate passes a candidate on n rows; a gate may look at rows right on `both` sides."""
    share = (RIGHT - lost) / (1 - lost - won)  # of the rows that do not differ, those that both get right
    total = 0.0
    for losses in range(n + 1 if lost else 1):
        for wins in range(n + 1 - losses if won else 1):
            same = n - losses - wins
            chance = float(multinomial.pmf((losses, wins, same), n, [lost, won, 1 - lost - won]))
            if chance <= LEAST:
                continue
            if both:
                counts = binom.pmf(range(same + 1), same, share)
                of_same = sum(c for k, c in enumerate(counts) if c > LEAST and passes(n, losses, wins, k))
                total += chance * float(of_same)
            else:
                total += chance * passes(n, losses, wins)
    return 100 * total


PEERS = {
    "invarlock": ("InvarLock", "invarlock", passes_invarlock, True),
    "nemo": ("NeMo Evaluator", "nemo-evaluator", passes_nemo, False),
}


def compute_rates(passes: Callable[..., bool], *, both: bool = False) -> dict[str, list[float]]:
    """Return how often a gate passes each case, in %, by the number of rows."""
    cases = CASES.items()
    return {case: [round(compute_rate(passes, n, *shares, both=both), 1) for n in ROWS] for case, shares in cases}


def format_table(name: str, theirs: dict[str, list[float]], own: dict[str, list[float]]) -> str:
    """Return the table of a peer's rates beside ours, as the page has it."""
    lines = [f"| | rows | {' | '.join(map(str, ROWS))} |", f"|---|---|{'---|' * len(ROWS)}"]
    for case in CASES:
        for who, rates in ((name, theirs), ("here", own)):
            lines.append(f"| {case} | {who} | {' | '.join(f'{rate:.1f}' for rate in rates[case])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run a peer's gate, record its rates, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    key = parser.parse_args().peer
    name, package, passes, both = PEERS[key]
    known = json.loads(RECORDS.read_text("utf-8")) if RECORDS.is_file() else {}
    known[key] = {
        "name": name,
        "version": version(package),
        "date": date.today().isoformat(),
        "rows": list(ROWS),
        "rates": compute_rates(passes, both=both),
    }
    RECORDS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", "utf-8")
    print(format_table(name, known[key]["rates"], compute_rates(passes_here)), end="")


if __name__ == "__main__":
    main()
