"""What a gate can prove, before any row is scored: power, the smallest margin, the rows needed.

`truth`, `threshold` and `difference` are turned so that larger is better, as in `harness.stats`; all at a
one-sided level alpha. Rows in clusters count as n / `design_effect` independent ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import NormalDist

DISCORDANCE = 0.2  # share of rows on which two models differ, where nothing better is known
POWER = 0.8
MOST_ROWS = 10_000_000


def share_power(truth: float, threshold: float, n: float, alpha: float) -> float:
    """Return how often the exact binomial test proves a share of `truth` to be above `threshold` on n rows.

    Fractions of rows, as effective ones are, round down.
    """
    from scipy.stats import binom

    rows = math.floor(n)
    if rows < 1 or not 0 <= threshold < 1:
        return 0.0
    # the fewest right answers that prove it: P(at least k | threshold) <= alpha
    k = int(binom.isf(alpha, rows, threshold)) + 1
    return float(binom.sf(k - 1, rows, truth))


def pairs_power(difference: float, margin: float, discordance: float, n: float, alpha: float) -> float:
    """Return how often two paired shares that differ by `difference` are proven to differ by more than `-margin`.

    `discordance` is the share of rows on which they differ. Margin 0 is McNemar's exact test; else the normal
    power of Tango's score, (n·(difference + margin) - z_alpha·√(n·v0))/√(n·v1) in normal deviates, v1 =
    discordance - difference² and v0 the variance fitted under the hypothesis.
    """
    import numpy as np
    from scipy.stats import binom

    if not abs(difference) <= discordance <= 1:
        raise ValueError(f"a difference of {difference:g} does not fit a discordance of {discordance:g}")
    wins, losses = (discordance + difference) / 2, (discordance - difference) / 2
    if margin == 0:
        rows = math.floor(n)
        changed = np.arange(1, rows + 1)
        proves = binom.isf(alpha, changed, 0.5)  # more wins than this of the rows that differ
        share = wins / discordance if discordance else 0.5
        return float((binom.pmf(changed, rows, discordance) * binom.sf(proves, changed, share)).sum())
    from harness import pairs

    d0 = -margin
    fitted = 2 * float(pairs.losses_fitted(wins * n, losses * n, n, d0)) + d0 * (1 - d0)
    return _normal_power(difference - d0, math.sqrt(fitted / n), math.sqrt((discordance - difference**2) / n), alpha)


def mean_power(
    truth: float, threshold: float, spread: float, n: float, alpha: float, clusters: int | None = None
) -> float:
    """Return how often the t-test proves a mean of `truth` to be above `threshold` on n rows.

    `spread` is the standard deviation of a row's value, or of its difference from the baseline's; for a
    perplexity in nats per token, with n = `effective_rows` of the token counts. Noncentral t, with the degrees
    of freedom that few `clusters` leave it.
    """
    from scipy.stats import nct, t

    df = (n if clusters is None else min(n, clusters)) - 1
    if df <= 0:
        return 0.0
    if not spread > 0:
        raise ValueError(f"spread is {spread:g}, want more than 0")
    return float(nct.sf(t.isf(alpha, df), df, (truth - threshold) / spread * math.sqrt(n)))


def design_effect(sizes: Sequence[int], icc: float) -> float:
    """Return by how much clusters of these sizes multiply the rows needed, at an intra-class correlation.

    1 + (Σm²/Σm - 1)·icc. Source: Kish 1965, Survey Sampling, 8.2; the mean size where sizes vary is the rows'.
    """
    return 1 + (sum(m * m for m in sizes) / sum(sizes) - 1) * icc


def effective_rows(weights: Sequence[float]) -> float:
    """Return how many rows of equal weight have the same error: (Σw)²/Σw². Source: Kish 1965, 11.7."""
    return math.fsum(weights) ** 2 / math.fsum(w * w for w in weights)


def smallest_margin(power: Callable[[float], float], most: float, wanted: float = POWER) -> float | None:
    """Return the smallest margin above 0 whose power is the wanted one, to 1e-5; None when `most` is not enough."""
    if power(most) < wanted:
        return None
    low, high = 0.0, most
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= wanted else (middle, high)
    return high


def rows_for(power: Callable[[int], float], wanted: float = POWER) -> int | None:
    """Return the fewest rows whose power is the wanted one, where power grows with rows; None above MOST_ROWS."""
    high = 2
    while power(high) < wanted:
        high *= 2
        if high > MOST_ROWS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= wanted else (middle, high)
    return high


def joint_power(powers: Iterable[float]) -> tuple[float, float, float]:
    """Return the chance that all gates pass: if they are independent, and the least and most it can be otherwise.

    Five independent gates of 80 % pass together 33 % of the time. Gates on the same rows lie in between.
    """
    powers = list(powers)
    return math.prod(powers), max(0.0, 1 - sum(1 - p for p in powers)), min(powers, default=1.0)


def _normal_power(distance: float, error0: float, error1: float, alpha: float) -> float:
    normal = NormalDist()
    reach = distance - normal.inv_cdf(1 - alpha) * error0
    if error1 <= 0:
        return float(reach > 0)
    return normal.cdf(reach / error1)
