"""Power of a recipe's gates, by seeds and rows.

It is simulated from normal effects: of rows on all seeds, of a seed on all rows, and of its luck on each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from harness.stats.arrays import Floats, np, special
from harness.stats.seeds import seed_reach

DRAWN_RUNS = 20_000
SPREADS = (0.01, 0.02)  # standard deviations over seeds, where no run has shown one
SEED_VARIANCE_SHARE = 0.5  # of the variance of a row, what is a seed's own, where no run has shown it
SEED_COUNTS = (3, 5, 8)
ROW_FACTORS = (1, 2, 4)  # the rows


@dataclass(frozen=True)
class SeedSpread:
    """How far runs of a recipe lie apart: the standard deviation over seeds, and the share of `luck` on single rows."""

    spread: float
    luck: float = SEED_VARIANCE_SHARE


@dataclass(frozen=True)
class RecipePower:
    """The power of a recipe's gate, by seeds and rows.

    It is for one spread, and for the model that `truth` describes.
    """

    gate: str
    truth: str
    spread: str
    rows: tuple[int, ...]
    seeds: tuple[int, ...]
    power: tuple[tuple[float, ...], ...]  # of each number of seeds, by rows
    where: str


@dataclass(frozen=True)
class RecipeRows:
    """Rows and seeds of a recipe: the variance of a row, independent rows, their clusters, and how far runs differ.

    `rate` is the candidate's proportion, turned so that larger is better; None of what is none. Rows that are `paired`
    are differences from a baseline.
    """

    variance: float
    rows: float
    count: int
    seeds: int
    apart: SeedSpread
    rate: float | None = None
    paired: bool = False

    def power(self, truth: float, bound: float, alpha: float, factor: float = 1.0) -> float:
        """Return the power to prove a mean over seeds above a bound. The rows are multiplied by `factor`."""
        normal, chi = _draw_normals(self.seeds)
        rows, luck, seeds = self.rows * factor, self.apart.luck, self.seeds
        common = math.sqrt(self.variance * (1 - luck) / rows) * normal[:, 0]  # of all runs
        runs = math.sqrt(self.variance * luck / rows) * normal[:, 1 : 1 + seeds]  # (draws, seeds)
        runs = runs + self.apart.spread * self._standardize_seed_effects(normal[:, 1 + seeds :])
        away, error = truth - bound + common + runs.mean(-1), runs.std(-1, ddof=1) / math.sqrt(self.seeds)
        df = max(round(self.count * factor) - 1, 1)
        reach = -float(special.stdtrit(df, alpha)) * math.sqrt(self.variance * (1 - luck + luck / self.seeds) / rows)
        spread = np.sqrt(1 + (chi * math.sqrt(2 / df)).clip(-0.9))  # of the reach over rows, which is estimated
        # half of what a difference varies by is the baseline's
        own = common / 2 if self.paired else common
        rate = None if self.rate is None else np.clip(self.rate + own + runs.mean(-1), 0.0, 1.0)
        far = seed_reach(error, seeds, alpha, rate, away)
        return float(((away > 0) & (away**2 >= (reach * spread) ** 2 + far**2)).mean())

    def _standardize_seed_effects(self, normal: Floats) -> Floats:
        """Return effects of seeds with mean 0 and variance 1: of a proportion those that are normal in log-odds."""
        if self.rate is None or not 0 < self.rate < 1 or not self.apart.spread:
            return normal
        odds = np.log(self.rate / (1 - self.rate)) + normal * self.apart.spread / (self.rate * (1 - self.rate))
        rates = 1 / (1 + np.exp(-odds))
        return np.asarray((rates - rates.mean()) / rates.std())


@lru_cache(maxsize=8)
def _draw_normals(seeds: int) -> tuple[Floats, Floats]:
    """Draw standard normals for rows, seeds and the error.

    The error is that over rows. Shapes are (DRAWN_RUNS, 1 + 2 seeds) and (DRAWN_RUNS,).
    """
    rng = np.random.default_rng([20101, seeds])
    return rng.standard_normal((DRAWN_RUNS, 1 + 2 * seeds)), rng.standard_normal(DRAWN_RUNS)


def estimate_spread(values: Floats) -> SeedSpread | None:
    """Estimate the spread of runs from values (seeds, rows).

    By the analysis of variance of a table without repeats: Searle, Casella, McCulloch 1992, Variance Components, 4.5.
    None with fewer than two seeds or rows.
    """
    seeds, rows = values.shape
    if seeds < 2 or rows < 2:
        return None
    by_seed, by_row = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    cell = float(((values - by_seed - by_row + values.mean()) ** 2).sum()) / (seeds - 1) / (rows - 1)
    of_rows = max(float(by_row.var(ddof=1)) - cell / seeds, 0.0)
    of_seeds = max(float(by_seed.var(ddof=1)) - cell / rows, 0.0)
    return SeedSpread(math.sqrt(of_seeds), cell / (cell + of_rows) if cell + of_rows > 0 else 0.0)
