"""The binomial distribution in plain Python: for one table of 0/1 rows, no array library is needed.

Probabilities have a relative error of about 1e-13, up to ten million trials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from harness.stats.values import Bounds

FRACTION_TERMS = 100_000  # of a continued fraction, which converges in about √n terms
NEWTON_STEPS = 100
TINY = 1e-300
MAX_SHRINKAGE = 1e-3  # of a tail, by steps that each subtract a part of it, before it is computed anew


def probability(successes: int, trials: int, share: float) -> float:
    """Return the probability of so many successes.

    Source: Loader 2000, Fast and accurate computation of binomial probabilities.
    """
    if not 0 <= successes <= trials:
        return 0.0
    if share <= 0 or share >= 1:
        return float(successes == (trials if share >= 1 else 0))
    failures = trials - successes
    if not successes:
        return math.exp(trials * math.log1p(-share))
    if not failures:
        return math.exp(trials * math.log(share))
    correction = _stirling_error(trials) - _stirling_error(successes) - _stirling_error(failures)
    deviance = _deviance(successes, trials * share) + _deviance(failures, trials * (1 - share))
    return math.exp(correction - deviance) * math.sqrt(trials / (2 * math.pi * successes * failures))


def probabilities(counts: range, trials: int, share: float) -> list[float]:
    """Return the probability of each of these numbers of successes, which follow one another."""
    mode = min(max(math.floor((trials + 1) * share), counts[0]), counts[-1])
    here = probability(mode, trials, share)
    if not 0 < share < 1:
        return [probability(count, trials, share) for count in counts]
    odds = share / (1 - share)
    below, chance = list[float](), here
    for count in range(mode, counts[0], -1):
        chance *= count / ((trials - count + 1) * odds)
        below.append(chance)
    above, chance = list[float](), here
    for count in range(mode, counts[-1]):
        chance *= (trials - count) * odds / (count + 1)
        above.append(chance)
    return [*reversed(below), here, *above]


@lru_cache(maxsize=10_000)
def _stirling_error(n: int) -> float:
    """Return log(n!) less Stirling's approximation of it."""
    if n <= 15:
        return math.log(math.factorial(n)) - (n + 0.5) * math.log(n) + n - 0.5 * math.log(2 * math.pi)
    square = n * n
    return (1 / 12 - (1 / 360 - (1 / 1260 - (1 / 1680 - 1 / 1188 / square) / square) / square) / square) / n


def _deviance(count: float, mean: float) -> float:
    """Return count·log(count/mean) + mean - count, without cancellation."""
    if abs(count - mean) >= 0.1 * (count + mean):
        return count * math.log(count / mean) + mean - count
    ratio = (count - mean) / (count + mean)
    total, term, power = (count - mean) * ratio, 2 * count * ratio, 1
    while True:
        term *= ratio * ratio
        power += 2
        next_total = total + term / power
        if next_total == total:
            return total
        total = next_total


def tail(successes: int, trials: int, share: float) -> float:
    """Return the probability of at least so many successes: the incomplete beta function.

    Source: Press et al. 2007, Numerical Recipes, 6.4, for the continued fraction.
    """
    if successes <= 0:
        return 1.0
    if successes > trials or share <= 0:
        return 0.0
    if share >= 1:
        return 1.0
    failures = trials - successes + 1
    if share < (successes + 1) / (trials + 3):
        front = probability(successes, trials, share) * (1 - share)
        return front * _continued_fraction(successes, failures, share)
    front = probability(successes - 1, trials, share) * share
    return 1 - front * _continued_fraction(failures, successes, 1 - share)


def tails(trials: range, successes: Sequence[int], share: float) -> list[float]:
    """Return the tail of each number of trials, which follow one another, from its own number of successes on.

    Each follows from the one before: another trial adds to a tail, and another success takes from it. A tail is
    computed by itself at the edges of the distribution, and where it shrank so much that rounding shows.
    """
    found = list[float]()
    wins, value, largest = -1, 0.0, 0.0
    edge = 0.0  # the probability of just so many successes
    for n, fewest in zip(trials, successes, strict=True):
        follows = 0 < share < 1 and 1 <= wins < n and edge > TINY and fewest in (wins, wins + 1)
        if follows:
            value += edge * wins * (1 - share) / (n - wins)
            edge *= n * (1 - share) / (n - wins)
            if fewest > wins:
                value -= edge
                edge *= (n - wins) * share / ((wins + 1) * (1 - share))
            largest = max(largest, value)
        if not follows or value < MAX_SHRINKAGE * largest:
            value = largest = tail(fewest, n, share)
            edge = probability(fewest, n, share)
        found.append(value)
        wins = fewest
    return found


def student_tail(t: float, df: float) -> float:
    """Return the probability that Student's t exceeds a number: the incomplete beta function of df / (df + t²)."""
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    share, a, b = df / (df + t * t), df / 2, 0.5
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(share)
    front = math.exp(log_front) * math.sqrt(1 - share) if t else 0.0
    if share < (a + 1) / (a + b + 2):
        both = front * _continued_fraction(a, b, share) / a
    else:
        both = 1 - front * _continued_fraction(b, a, 1 - share) / b
    return both / 2 if t > 0 else 1 - both / 2


def _continued_fraction(a: float, b: float, x: float) -> float:
    """Return the continued fraction of the incomplete beta function, by Lentz's method."""
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    total = d
    for m in range(1, FRACTION_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / _away_from_zero(1 + even * d)
        c = _away_from_zero(1 + even / c)
        total *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / _away_from_zero(1 + odd * d)
        c = _away_from_zero(1 + odd / c)
        step = d * c
        total *= step
        if abs(step - 1) < 1e-15:
            break
    return total


def _away_from_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY


def likely_counts(trials: int, share: float) -> range:
    """Return the numbers of successes outside of which the probability is below 1e-9 in all."""
    reach = 7 * math.sqrt(trials * share * (1 - share)) + 10
    return range(max(math.floor(trials * share - reach), 0), min(math.ceil(trials * share + reach), trials) + 1)


def min_successes(trials: int, share: float, alpha: float) -> int:
    """Return the fewest successes whose tail is at most alpha; trials + 1 if none."""
    low, high = 0, trials + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if tail(middle, trials, share) <= alpha else (middle + 1, high)
    return low


def clopper_pearson(successes: int, trials: int, alpha: float) -> Bounds:
    """Return exact bounds of a share, one-sided at alpha each. Source: Clopper, Pearson 1934, Biometrika 26:404."""
    return Bounds(_solve_tail(successes, trials, alpha), 1 - _solve_tail(trials - successes, trials, alpha))


def _solve_tail(successes: int, trials: int, alpha: float) -> float:
    """Return the share at which the tail is alpha, by Newton's method inside of a bracket. 0 without a success."""
    if not successes:
        return 0.0
    if successes == trials:
        return float(alpha ** (1 / trials))
    low, high, share = 0.0, 1.0, successes / trials
    for _ in range(NEWTON_STEPS):
        error = tail(successes, trials, share) - alpha
        low, high = (low, share) if error > 0 else (share, high)
        slope = probability(successes, trials, share) * successes / share
        step = error / slope if slope else math.inf
        next_share = share - step if low < share - step < high else (low + high) / 2
        if abs(next_share - share) <= 1e-15 * share:
            return next_share
        share = next_share
    return share
