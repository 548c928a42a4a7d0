"""The one rule for comparing a p-value with a risk."""

from __future__ import annotations

from typing import Any

RELATIVE_TOLERANCE = 1e-9  # relative; processors sum in other orders, which moves a p-value by about 1e-13


def is_significant(p: Any, alpha: float) -> Any:
    """Return whether p-values are at most alpha, alike on every processor.

    A p-value that equals alpha in exact arithmetic (an exact test of few rows) comes out a little above it on one
    processor and a little below it on another: both are significant. Costs at most 1e-9 of alpha.
    """
    return p <= alpha * (1 + RELATIVE_TOLERANCE)
