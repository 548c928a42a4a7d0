"""How often a gate on a mean is wrong where nothing is known of its rows, and how a declared cap mends that.

`page(rng, runs)` and `capped_page(rng, runs)` yield Markdown. The rows are drawn from laws of losses, of which more is
worse; the claim is that the mean is at most what it is, so that each PASS is a false one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from bench import simulate
from bench.draws import Data

Floats = np.ndarray
Law = tuple[Callable[[np.random.Generator, tuple[int, ...]], Floats], float]
COUNTS = (8, 20, 50, 100)
CAPS = 4.0  # of a row's loss over the mean, in standard deviations
AGAIN, BAR, SURELY = 40_000, 6.0, 6.7  # draws of a cell that is between, and the rates that it is between
TITLE = 'Means without a range, `risk = "approximate"`'
CAPPED = 'The same laws with a cap, `risk = "exact"`'


def _make_mixed_law(share: float, worse: float, spread: float = 0.1) -> Law:
    """Return a law of losses about 1, of which a share is so many times as large."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        return rng.normal(1, spread, shape) * np.where(rng.random(shape) < share, worse, 1.0)

    return draw, 1 + share * (worse - 1)


LAWS: dict[str, Law] = {
    "normal": (lambda rng, shape: rng.standard_normal(shape), 0.0),
    "uniform": (lambda rng, shape: rng.uniform(0, 1, shape), 0.5),
    "Laplace": (lambda rng, shape: rng.laplace(0, 1, shape), 0.0),
    "t(4)": (lambda rng, shape: rng.standard_t(4, shape), 0.0),
    "t(3)": (lambda rng, shape: rng.standard_t(3, shape), 0.0),
    "exponential": (lambda rng, shape: rng.exponential(1, shape), 1.0),
    "gamma(0.3)": (lambda rng, shape: rng.gamma(0.3, 1, shape), 0.3),
    "squared errors of a normal": (lambda rng, shape: rng.standard_normal(shape) ** 2, 1.0),
    "lognormal(0.5)": (lambda rng, shape: rng.lognormal(0, 0.5, shape), float(np.exp(0.125))),
    "lognormal(1)": (lambda rng, shape: rng.lognormal(0, 1, shape), float(np.exp(0.5))),
    "Pareto(3)": (lambda rng, shape: rng.pareto(3, shape), 0.5),
    "Pareto(2.5)": (lambda rng, shape: rng.pareto(2.5, shape), 1 / 1.5),
    "ratings 1 to 5, 5 % are 1": (
        lambda rng, shape: -np.where(rng.random(shape) < 0.05, 1.0, rng.choice([4.0, 5.0], shape)),
        -(0.05 + 0.95 * 4.5),
    ),
    "5 % time-outs, 20 times as long": _make_mixed_law(0.05, 20),
    "1 % cold starts, 30 times as long": _make_mixed_law(0.01, 30),
    "10 % three times as long": _make_mixed_law(0.1, 3),
    "2 % half a nat worse": (
        lambda rng, shape: rng.normal(0, 0.03, shape) + 0.5 * (rng.random(shape) < 0.02),
        0.01,
    ),
}


def make_turned_draw(rng: np.random.Generator, n: int, name: str, cap: float = np.inf) -> Callable[[int], Data]:
    """Return what draws rows of which larger is better, each at most a cap from the law's mean."""
    make, mean = LAWS[name]
    truth = 0.0
    if np.isfinite(cap):
        far = np.random.default_rng(1)
        truth = float(np.clip(mean - make(far, (4_000_000,)), -cap, cap).mean())

    def draw(runs: int) -> Data:
        rows = np.clip(mean - make(rng, (runs, n)), -cap, cap)
        known = {"rows": rows, "support": (-cap, cap)} if np.isfinite(cap) else {}
        return Data(rows, np.ones_like(rows), truth, **known)

    return draw


def page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Yield the false passes of means without a range: approximate, so held to no bar."""
    yield f"\n## {TITLE}\n\n| false pass, % | {' | '.join(f'n = {n}' for n in COUNTS)} |\n" + "|---" * 5 + "|\n"
    for name in LAWS:
        rates = [simulate.simulate_once("", make_turned_draw(rng, n, name), runs, "ratio").passed for n in COUNTS]
        yield f"| {name} | {' | '.join(f'{rate:.1f}' for rate in rates)} |\n"


def capped_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Yield the false passes of the same rows, each counted as at most CAPS standard deviations: at most 6 %."""
    yield f"\n## {CAPPED}\n\nA row counts at most {CAPS:g} standard deviations away from the mean.\n\n"
    yield f"| false pass, % | {' | '.join(f'n = {n}' for n in COUNTS)} |\n" + "|---" * 5 + "|\n"
    for name, (make, _) in LAWS.items():
        cap = CAPS * float(make(np.random.default_rng(2), (1_000_000,)).std())
        rates = [simulate_capped_rate(rng, n, name, cap, runs) for n in COUNTS]
        yield f"| {name} | {' | '.join(simulate.mark(rate) for rate in rates)} |\n"


def simulate_capped_rate(rng: np.random.Generator, n: int, name: str, cap: float, runs: int) -> float:
    """Return the rate of one cell, of AGAIN draws where it is barely over the bar."""
    found = simulate.simulate_once("", make_turned_draw(rng, n, name, cap), runs, "score").passed
    if not BAR < found <= SURELY:
        return found
    return simulate.simulate_once("", make_turned_draw(rng, n, name, cap), AGAIN, "score").passed
