"""Tests for losses that few or none of the clusters showed.

They ask how often such clusters would come from a population that is worse. Clusters are independent, their weights are
given, and nothing else is assumed: each may lose any part of its weight, as often as it likes, so that the largest
clusters are those that the worst population loses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from harness.stats.arrays import Floats, np
from harness.stats.values import Bounds

Support = tuple[float, float]
TILTS = (0.02, 60.0, 40)  # of Chernoff's bound: least, most and how many, in units of one over the mean weight
CHUNK_VALUES = 1 << 20  # numbers that are computed in one go


def unseen_p(
    value: Any, weights: Any, threshold: float, support: Support | None, lost: Any = (0.0, 0.0)
) -> tuple[Any, Any]:
    """Return p_pass and p_fail of clusters with almost one value.

    `value` (...), `weights` (..., G). `lost` holds the shares of the weight below and above the value, (...) each, as
    shares of the most that could be lost or won there. If the mean were at most the threshold, a share u = (value -
    threshold) / (value - lowest) would be lost on average, and no more than `lost` was. Both are 1 without a support.
    """
    value = np.asarray(value, dtype=np.float64)
    if support is None:
        return np.ones_like(value), np.ones_like(value)
    low, high = support
    with np.errstate(all="ignore"):
        down, up = (value - threshold) / (value - low), (threshold - value) / (high - value)
    return unseen_chance(weights, lost[0], down), unseen_chance(weights, lost[1], up)


def unseen_bounds(
    value: float, weights: Floats, alpha: float, support: Support, lost: tuple[float, float] = (0.0, 0.0)
) -> Bounds:
    """Return the one-sided bounds that invert `unseen_p`. They are at alpha each, of one data set."""
    low, high = support
    least = _find_largest_lost_share(weights, lost[0], alpha)
    most = _find_largest_lost_share(weights, lost[1], alpha) if lost[1] != lost[0] else least
    return Bounds(value - (value - low) * least, value + (high - value) * most)


def unseen_chance(weights: Any, lost: Any, share: Any) -> Floats:
    """Return the chance that clusters lose at most a share `lost`.

    They lose `share` of their weight on average. It is an upper bound, whichever part of its own weight each loses:
    Chernoff's bound with the largest moments that a mean allows (Hoeffding 1963, Journal of the American Statistical
    Association 58:13, lemma 1), the means being those that make it largest, which fill up from the largest cluster.
    Exact where nothing is lost; of equal weights that is (1 - share)^G (Hanley, Lippman-Hand 1983, JAMA 249:1743).
    """
    lost, share = np.broadcast_arrays(np.asarray(lost, dtype=np.float64), np.asarray(share, dtype=np.float64))
    w = np.asarray(weights, dtype=np.float64)
    found = np.where(share > 0, 0.0, 1.0)  # NaN, where there is nothing to lose, is as all of it
    asked, count, shape = (share > 0) & (share < 1), w.shape[-1], share.shape
    lost, share = lost[asked], share[asked]  # (n,)
    if not asked.any():
        return found
    if not lost.any() and (w == w[..., :1]).all():
        found[asked] = (1 - share) ** count
        return found
    w = -np.sort(-w, -1) / w.mean(-1, keepdims=True)
    w = np.broadcast_to(w, (*shape, count))[asked]  # (n, G)
    best = np.where(lost > 0, 0.0, np.minimum(_compute_max_log_level_ratio(w, count * share), 0.0))
    for some, heights in _iterate_tilts(w) if lost.any() else ():
        best = np.minimum(
            best, (some * count * lost + _compute_max_log_level_ratio(heights, count * share)).min(0, initial=0.0)
        )
    found[asked] = np.where(lost < share, np.exp(best), 1.0)
    return found


def _iterate_tilts(w: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Yield Chernoff's tilts (T, 1) and their heights (T, n, G).

    A chunk has about CHUNK_VALUES heights. Weights (n, G) are descending.
    """
    tilts = np.geomspace(*TILTS)[:, None]
    for some in np.array_split(tilts, min(len(tilts), 1 + tilts.size * w.size // CHUNK_VALUES)):
        yield some, w / -np.expm1(-some[..., None] * w)


def _compute_max_log_level_ratio(heights: Floats, need: Floats) -> Floats:
    """Return the log of the largest Π(level / height) above a level.

    Heights above it exceed it by `need` in all. `heights` (..., n, G) are descending, `need` is (n,).
    """
    level = (np.cumsum(heights, -1) - need[:, None]) / np.arange(1, heights.shape[-1] + 1)
    last = np.maximum((heights > level).sum(-1, keepdims=True) - 1, 0)
    level = np.take_along_axis(level, last, -1)[..., 0]
    logs = np.take_along_axis(np.cumsum(np.log(heights), -1), last, -1)[..., 0]
    return np.asarray((last[..., 0] + 1) * np.log(np.maximum(level, 1e-300)) - logs)


def _find_largest_lost_share(weights: Floats, lost: float, alpha: float) -> float:
    """Return the largest average loss compatible with so small a loss.

    It is a share of the weight: `unseen_chance` = alpha, solved for it.
    """
    if not lost and (weights == weights[0]).all():
        return rule_of_three(len(weights), alpha)
    if not lost < 1:  # NaN where there was nothing to lose
        return 1.0
    w, count = (-np.sort(-weights) / weights.mean())[None], len(weights)
    if not lost:
        return _find_least_need_for_log(w, np.log([[alpha]])) / count
    need = min(
        _find_least_need_for_log(heights[:, 0], math.log(alpha) - some * count * lost)
        for some, heights in _iterate_tilts(w)
    )
    return min(max(lost, need / count), 1.0)


def _find_least_need_for_log(heights: Floats, log: Floats) -> float:
    """Return the least `need` for a log level ratio.

    `_compute_max_log_level_ratio` of heights (T, G) is `log` (T, 1), below 0, at it.
    """
    sizes, logs = np.arange(1, heights.shape[-1] + 1), np.cumsum(np.log(heights), -1)
    level = np.exp((log + logs) / sizes)  # of so many filled ones
    last = (heights > level).sum(-1, keepdims=True) - 1
    need = np.cumsum(heights, -1) - sizes * level
    return float(np.take_along_axis(need, last, -1).min())


def rule_of_three(n: int, alpha: float) -> float:
    """Return the upper bound, at alpha, of the share of bad rows.

    None of n rows is bad; bad ones may be as bad as they like.
    """
    return 1.0 - float(alpha ** (1 / n))
