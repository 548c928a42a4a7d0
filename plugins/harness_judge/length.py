"""Win rates that do not pay for length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness import Score
from harness_judge.calibration import LONGER_BY

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RIDGE = 0.1  # of both coefficients: where all rows agree they stay finite, and n = 60 moves by less than a point
STEPS = 100


def controlled_win_rate(scores: Sequence[Score]) -> float:
    """Return the win rate at equal lengths, fitted to the scores of all rows."""
    values = [s.values["win_rate"] for s in scores], [s.values[LONGER_BY] for s in scores]
    return controlled(*values, [s.weight_of("win_rate") for s in scores])


def controlled(scores: Sequence[float], longer_by: Sequence[float], weights: Sequence[float]) -> float:
    """Return the win rate at equal lengths: sigmoid(a) of the fit P(win) = sigmoid(a + b·tanh(d/s)).

    One score in [0, 1], one difference in length (candidate minus baseline, any unit) and one weight per row; s is the
    standard deviation of the differences. After Dubois et al. 2024, arXiv:2404.04475, eq. 2, with the terms of one
    model against one baseline and a ridge. Where lengths do not differ it is the plain mean. NaN without rows.
    """
    import numpy as np

    w = np.asarray(weights, dtype=np.float64)
    y, d = np.asarray(scores, dtype=np.float64)[w > 0], np.asarray(longer_by, dtype=np.float64)[w > 0]
    w = w[w > 0]
    if not len(y) or not np.isfinite(y).all() or not np.isfinite(d).all():
        return math.nan
    spread = float(d.std())
    if spread == 0:
        return float((w * y).sum() / w.sum())
    return _fit(y, np.tanh(d / spread), w)


def _fit(y: Floats, z: Floats, w: Floats) -> float:
    """Return sigmoid of the intercept by Newton's method, each step halved until the likelihood grows."""
    import numpy as np

    x = np.stack([np.ones_like(z), z], axis=1)
    beta = np.zeros(2)

    def loss(b: Floats) -> float:
        eta = x @ b
        return float((w * (np.logaddexp(0, eta) - y * eta)).sum() + RIDGE / 2 * b @ b)

    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-(x @ beta)))
        gradient = x.T @ (w * (p - y)) + RIDGE * beta
        hessian = (x * (w * p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(2)
        step, here, size = np.linalg.solve(hessian, gradient), loss(beta), 1.0
        while loss(beta - size * step) > here and size > 1e-8:
            size /= 2
        beta = beta - size * step
        if float(np.abs(size * step).max()) < 1e-9:
            break
    return float(1 / (1 + np.exp(-beta[0])))
