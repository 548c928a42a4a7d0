"""Rows that an instrument classifies and people label in part."""

from __future__ import annotations

import random

Rows = tuple[list[float], list[float | None]]


def draw_rows(
    random_: random.Random, rows: int, labelled: int, share: float, sensitivity: float, specificity: float
) -> Rows:
    """Draw an instrument's classes of all rows, and the labels of the first ones."""
    truth = [float(random_.random() < share) for _ in range(rows)]
    right = [random_.random() < (sensitivity if value else specificity) for value in truth]
    classes = [value if is_right else 1 - value for value, is_right in zip(truth, right, strict=True)]
    return classes, [*truth[:labelled], *[None] * (rows - labelled)]
