"""Prediction of the rows that decide a paired 0/1 comparison.

It is a range, as probable as the rows seen so far allow.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from harness.stats.arrays import Floats, np
from harness.stats.power import DEFAULT_POWER
from harness.stats.values import Range

PRIOR_MEAN, PRIOR_SPREAD = 0.03, 0.04  # of how much better candidates are, before any row was seen
MAX_RANGE_RATIO = 5.0  # of the upper to the lower end
MIN_PROBABILITY = 0.75  # that the number is inside the range
LOW_CHANCE = 0.1  # chance that fewer rows than the least are needed, where no such range is probable enough


def predict_rows_range(wins: int, losses: int, n: int, threshold: float, sign: int, alpha: float, most: int) -> Range:
    """Predict the range of total rows that decide a claim.

    The claim is decided to the side of `sign`, with more than n rows. The number of rows is computed for each possible
    difference and discordance, weighted by their likelihood and the prior: estimates from few rows are too uncertain by
    themselves. The upper end is infinite if no range within MAX_RANGE_RATIO and `most` has MIN_PROBABILITY.
    """
    rows, weight = _compute_needed_rows_posterior(wins, losses, n, threshold, sign, alpha)
    order = np.argsort(rows)
    rows, chance = rows[order], np.zeros(len(rows) + 1)
    np.cumsum(weight[order], out=chance[1:])

    for wide in np.arange(2.0, MAX_RANGE_RATIO + 1):
        least = np.geomspace(n + 1, max(most / wide, n + 1), 60)
        inside = chance[np.searchsorted(rows, np.minimum(least * wide, most), side="right")]
        inside = inside - chance[np.searchsorted(rows, least)]
        if inside.max() >= MIN_PROBABILITY:
            found = float(least[inside.argmax()])
            return Range(found, min(found * wide, most))
    first = min(int(np.searchsorted(chance[1:], LOW_CHANCE)), len(rows) - 1)
    return Range(float(rows[first]), math.inf)


def _compute_needed_rows_posterior(
    wins: int, losses: int, n: int, threshold: float, sign: int, alpha: float
) -> tuple[Floats, Floats]:
    """Return the needed rows and their probabilities, (N,) each.

    Each belongs to a possible truth on the given side of the threshold.
    """
    changed, estimate = wins + losses, (wins - losses) / n
    error = math.sqrt(max((changed + 1) / n - estimate**2, 1e-4) / n)
    about, reach = (changed + 0.5) / n, math.sqrt(changed + 1) / n
    discordance = np.linspace(max(about - 3 * reach, 0.2 / n), min(about + 4 * reach, 0.999), 25)[:, None]
    truth = np.linspace(estimate - 4.5 * error, estimate + 4.5 * error, 91)[None, :]
    discordance, truth = np.broadcast_arrays(discordance, truth)
    possible = (np.abs(truth) < 0.999 * discordance) & (sign * (truth - threshold) > 0)
    if not possible.any():
        return np.array([math.inf]), np.ones(1)
    d, t = discordance[possible], truth[possible]
    likely = wins * np.log((d + t) / 2) + losses * np.log((d - t) / 2) + (n - changed) * np.log1p(-d)
    likely -= ((t - PRIOR_MEAN) / PRIOR_SPREAD) ** 2 / 2
    weight = np.exp(likely - likely.max())
    z = NormalDist()
    null, true = np.maximum(d, abs(threshold)) - threshold**2, d - t**2  # variances of a row's difference
    needed = (z.inv_cdf(1 - alpha) * np.sqrt(null) + z.inv_cdf(DEFAULT_POWER) * np.sqrt(true)) / (t - threshold)
    return np.maximum(np.ceil(needed**2), n + 1.0), weight / weight.sum()
