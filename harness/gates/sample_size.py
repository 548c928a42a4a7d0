"""How many rows would decide a claim that these did not: a range, because the estimate is not the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

from harness.gates import min_rows
from harness.gates.paired_rows_needed import predict_rows_range
from harness.records.parts.needed import MAX_ROWS_FACTOR
from harness.stats.arrays import special
from harness.stats.hypothesis_tests import T_METHODS, Test
from harness.stats.power import DEFAULT_POWER, MOST_ROWS, pairs_power, search_rows, share_power

MIDDLE_CHANCE = 0.5  # chance of the interval of the truth, at whose ends rows are needed that make the range


@dataclass(frozen=True)
class SampleSize:
    """Total rows that decide a claim with power 0.8.

    `rows` holds if the estimate is the truth. `least` to `most` covers the middle half of the possible truths, or, of
    paired 0/1 rows, the range of `predict_rows_range`. `most` is None if it is beyond MAX_ROWS_FACTOR times the rows at
    hand, or if the nearer end of the possible truths is not beyond the threshold. Both are None if `rows` itself is too
    many: too close to call.
    """

    rows: int
    least: int | None = None
    most: int | None = None


def estimate_sample_size(
    test: Test, threshold: float, alpha: float, discordance: float | None = None
) -> SampleSize | None:
    """Estimate the rows that would decide a claim.

    None if the estimate is the threshold, or if its error is unknown. The rows follow from the power of the exact
    tests, else from the standard error that the bounds imply, growing with rows and with clusters alike; they are never
    fewer than the exact tests need at all. `discordance` is the share of paired 0/1 rows that differ; their range is
    that of `predict_rows_range`.
    """
    distance = test.estimate - threshold
    width = test.estimate - test.lower if distance > 0 else test.upper - test.estimate
    if abs(distance) <= 1e-12 * max(1.0, abs(threshold)) or not math.isfinite(width) or width <= 0:
        return None
    quantile = NormalDist().inv_cdf(1 - alpha)  # by which the test's bounds multiplied a standard error
    if test.method in T_METHODS:
        quantile = -float(special.stdtrit((test.clusters or test.n) - 1, alpha))
    if not quantile:
        return None  # at alpha 0.5 bounds are the estimate, and tell no error
    case = _Estimated(test, threshold, alpha, 1 if distance > 0 else -1, width / quantile, discordance or 0.0)
    far = MAX_ROWS_FACTOR * test.n
    rows = case.rows(test.estimate)
    if rows > far:
        return SampleSize(rows)
    if case.is_paired:
        wins, losses = (round(test.n * (case.discordance + side * test.estimate) / 2) for side in (1, -1))
        low, high = predict_rows_range(wins, losses, test.n, threshold, case.sign, alpha, far)
        return SampleSize(rows, math.ceil(low), math.ceil(high) if math.isfinite(high) else None)
    reach = case.sign * NormalDist().inv_cdf((1 + MIDDLE_CHANCE) / 2) * case.error
    near = test.estimate - reach
    most = case.rows(near) if case.sign * (near - threshold) > 0 else far + 1
    return SampleSize(rows, case.rows(test.estimate + reach), most if most <= far else None)


@dataclass(frozen=True)
class _Estimated:
    """A test with its estimate's side and standard error."""

    test: Test
    threshold: float
    alpha: float
    sign: int
    error: float
    discordance: float

    def rows(self, truth: float) -> int:
        """Return the rows that decide the claim if `truth` holds. Rough if they are far too many."""
        z, test = NormalDist(), self.test
        distance = abs(truth - self.threshold)
        needed = test.n * ((z.inv_cdf(1 - self.alpha) + z.inv_cdf(DEFAULT_POWER)) * self.error / distance) ** 2
        found = math.ceil(min(needed, MOST_ROWS))
        if found <= 2 * MAX_ROWS_FACTOR * test.n:
            exact = self.pairs if self.is_paired else self.binomial if test.method == "exact binomial" else None
            found = search_rows(partial(exact, truth), start=found) or found if exact else max(found, self.fewest)
        return max(found, test.n + 1 if min(test.p_pass, test.p_fail) > self.alpha else 1)

    def binomial(self, truth: float, rows: float) -> float:
        p, p0 = (x if self.sign > 0 else 1 - x for x in (min(max(truth, 0.0), 1.0), self.threshold))
        return share_power(p, p0, int(rows), self.alpha)

    @property
    def is_paired(self) -> bool:
        """Whether the test compares two shares on discordant, independent rows."""
        return self.test.method.startswith(("McNemar", "Tango")) and self.discordance > 0

    def pairs(self, truth: float, rows: float) -> float:
        difference, discordance = self.sign * truth, min(max(self.discordance, abs(truth)), 1.0)
        difference = min(max(difference, -discordance), discordance)
        return pairs_power(difference, -self.sign * self.threshold, discordance, int(rows), self.alpha)

    @property
    def fewest(self) -> int:
        """The fewest rows that prove a difference by Tango's score: all of them won, or where none was, unchanged."""
        if self.test.method != "Tango score":
            return 1
        d0 = self.sign * self.threshold
        won = self.discordance + self.sign * self.test.estimate > 1e-9
        return min_rows.min_rows((1 + d0) / 2 if won or d0 >= 0 else 1 + d0, self.alpha)
