"""Validation of rows, weights, clusters and levels, before any test."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence

from harness.stats.arrays import Floats, Ints, np
from harness.stats.rule_of_three import Support

ROUNDING = 1e-12  # relative; weights of a cluster that differ by less are equal
Clusters = Sequence[Hashable]  # of each row, which it is in


def as_rows(values: Sequence[float], weights: Sequence[float], support: Support | None) -> tuple[Floats, Floats]:
    """Return values and weights as arrays, (rows,) each. Raises ValueError for what cannot be averaged."""
    v, w = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if v.ndim != 1 or v.shape != w.shape or not len(v):
        raise ValueError(
            f"there must be as many weights as values, and at least one; got {v.shape} values, {w.shape} weights"
        )
    if not (np.isfinite(v).all() and np.isfinite(w).all()):
        odd = next(x for x in (*v, *w) if not np.isfinite(x))
        raise ValueError(f"a row's value or weight is {odd:g}; it must be a finite number")
    if (w < 0).any() or not w.sum() > 0:
        raise ValueError(f"a row's weight is {w.min():g}; weights must be 0 or more, and one above 0")
    if support and (v.min() < support[0] or v.max() > support[1]):
        odd = v.min() if v.min() < support[0] else v.max()
        what = f"a row's value is {odd:g}, outside the metric's range {support[0]:g} to {support[1]:g}"
        raise ValueError(f"{what}; check the evaluator or its scale")
    return v, w


def as_groups(clusters: Iterable[Hashable] | None, n: int) -> tuple[Ints, int]:
    """Return each row's cluster number, (rows,), and the number of clusters.

    Without clusters each row is its own. Raises ValueError when there is not one cluster per row, or no row.
    """
    groups = np.arange(n) if clusters is None else number_clusters(clusters)
    if len(groups) != n or not n:
        raise ValueError(f"there must be one cluster per row, and at least one row; got {len(groups)} for {n} rows")
    return groups, int(groups.max()) + 1


def sum_weights(groups: Ints, weights: Floats, count: int) -> Floats:
    """Return the weight of each cluster, (clusters,).

    Sums that only rounding tells apart become equal: of clusters that are equally large another test may be the right
    one, so a verdict would depend on the order of the rows, or on the unit of their weights.
    """
    found = np.bincount(groups, weights, minlength=count).astype(np.float64)
    order = np.argsort(found)
    ordered = found[order]
    apart = np.diff(ordered, prepend=-np.inf) > ROUNDING * ordered
    found[order] = ordered[np.maximum.accumulate(np.where(apart, np.arange(count), 0))]
    return found


def number_clusters(clusters: Iterable[Hashable]) -> Ints:
    """Return each row's cluster number, from 0 in order of appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(c, len(numbers)) for c in clusters], dtype=np.intp)


def check_counts(n: float, *counts: float) -> None:
    """Raise ValueError for counts that cannot be parts of n rows.

    They must be whole, 0 or more, and together at most n, which must be at least 1.
    """
    if not all(float(x).is_integer() for x in (n, *counts)) or n < 1:
        raise ValueError(f"counts must be integers of 1 or more rows; got {counts} of {n}")
    if min(counts) < 0 or sum(counts) > n:
        raise ValueError(f"counts must be from 0 to {n} and consistent; got {counts}")


def check_level(threshold: float, alpha: float) -> None:
    """Raise ValueError for a non-finite threshold or an invalid level.

    A one-sided alpha is more than 0 and at most 0.5.
    """
    require_finite("threshold", threshold)
    if not 0 < alpha <= 0.5:
        raise ValueError(f"alpha is {alpha}; it must be more than 0 and at most 0.5")


def require_finite(name: str, value: float) -> float:
    """Return a number. Raises ValueError when it is not finite."""
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; it must be a finite number")
    return float(value)
