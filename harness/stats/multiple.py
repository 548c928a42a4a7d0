"""Several tests at one risk: of the gates in a group, of slices, and of attempts one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for being several: at most alpha of families with a false claim reject one.

    Whatever their dependence. Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"want p-values from 0 to 1, got {list(p_values)}")
    adjusted, worst, count = [1.0] * len(p_values), 0.0, len(p_values)
    for rank, i in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (count - rank) * p_values[i]))
        adjusted[i] = worst
    return adjusted


def spent(alpha: float, attempt: int) -> float:
    """Return the level of attempt k: alpha·6/(π²k²), which sums to alpha over all attempts there may ever be.

    Bonferroni's inequality with the shares of Σ 1/k² = π²/6 (Euler 1735).
    """
    return alpha * 6 / (math.pi**2 * attempt**2)
