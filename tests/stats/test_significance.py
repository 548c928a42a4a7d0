"""A p-value that equals alpha is significant on every processor, whichever way its last digit was rounded."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.gates.outcome import decide_outcome
from harness.records.verdicts import Outcome
from harness.stats.shares import mcnemar
from harness.stats.significance import is_significant


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.2])
def test_rounding_does_not_move_a_tie_across_alpha(alpha: float) -> None:
    """One step of the last digit up or down is the same outcome; a millionth more is not significant."""
    for p in (alpha, math.nextafter(alpha, 0), math.nextafter(alpha, 1), alpha * (1 + 1e-13)):
        assert decide_outcome(p, 1.0, alpha) is Outcome.PASS
        assert decide_outcome(1.0, p, alpha) is Outcome.FAIL
    assert decide_outcome(alpha * (1 + 1e-6), 1.0, alpha) is Outcome.INCONCLUSIVE


def test_an_exact_tie_of_few_rows_passes() -> None:
    """Five wins and no loss have an exact p of 2^-5: at that alpha the claim is proven, and its bound says so too."""
    test = mcnemar(5, 0, 5, 2.0**-5 * (1 - 1e-12))
    assert decide_outcome(test.p_pass, test.p_fail, 2.0**-5 * (1 - 1e-12)) is Outcome.PASS
    assert test.lower >= 0


def test_arrays_are_compared_by_element() -> None:
    """Planning compares thousands of drawn p-values by the same rule."""
    drawn = np.array([0.04, 0.05 * (1 + 1e-12), 0.051])
    assert is_significant(drawn, 0.05).tolist() == [True, True, False]
