"""Test of a share of which an instrument classifies every row, and people label a random sample of the rows.

This is two-phase (double) sampling: the labels say how often each class of the instrument is a success, and all rows
say how common each class is. The instrument may err in any way; the worse it is, the less it adds to the labels alone.

Sources: Tenenbein 1970, Journal of the American Statistical Association 65:1350, for the design; Wilson 1927, JASA
22:209, and Tango 1998, Statistics in Medicine 17:891, for a standard error that holds where the share is the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from harness.stats.binomials import clopper_pearson, student_tail, tail
from harness.stats.inputs import Clusters
from harness.stats.result import Test
from harness.stats.significance import is_significant

TIE = 0.5
MIN_LABELS = 2  # of a class; one with fewer is merged with its neighbour
MIN_EXPECTED = 25  # successes and failures among the labels at the threshold; with fewer, labels alone decide
BISECTIONS = 50
EDGE = 1e-9  # by which a share stays away from 0 and 1


@dataclass(frozen=True)
class Stratum:
    """The rows that an instrument puts in one class, and what people said of the labelled ones.

    Counts need not be whole: a tie is half a success, and weights and clusters change what a row counts.
    """

    rows: float
    labelled: float
    successes: float
    ties: float

    def __add__(self, other: Stratum) -> Stratum:
        return Stratum(
            self.rows + other.rows,
            self.labelled + other.labelled,
            self.successes + other.successes,
            self.ties + other.ties,
        )

    def scaled(self, factor: float) -> Stratum:
        return Stratum(self.rows * factor, self.labelled * factor, self.successes * factor, self.ties * factor)

    @property
    def mean(self) -> float:
        return self.successes / self.labelled

    def label_variance(self, mean: float) -> float:
        """Return the variance of a label with this mean, E[y²] = E[y] - P(tie)/4.

        Ties are taken to be a little rarer than they are among few labels, and no more frequent than the mean allows.
        """
        ties = min(self.ties / (self.labelled + 2), 2 * mean, 2 * (1 - mean))
        return mean * (1 - mean) - ties / 4


def two_phase_test(
    classes: Sequence[float],
    labels: Sequence[float | None],
    threshold: float,
    alpha: float,
    weights: Sequence[float] | None = None,
    clusters: Clusters | None = None,
) -> Test:
    """Test a share of successes against a threshold.

    `classes` (n,) are the instrument's values in [0, 1] of all rows; below, at and above one half are told apart.
    `labels` (n,) are 1, 0, one half for a tie, or None. Those that are there must be a random sample of the rows.

    The statistic is the poststratified estimate less the threshold, over its standard error where the share is the
    threshold, with Student's t on the labels. Where labels are few it is the exact binomial test of the labels alone,
    as where the instrument adds nothing, since all rows are labelled or all in one class.

    Raises ValueError for fewer than two labels, or labels of one cluster.
    """
    weights = weights or [1.0] * len(labels)
    known = [i for i, label in enumerate(labels) if label is not None]
    independent = len(known) if clusters is None else len({clusters[i] for i in known})
    seen = None if clusters is None else independent
    strata = _make_tested_strata(known, independent, classes, labels, threshold, weights, clusters)
    if strata is None:
        alone = _LabelsAlone(known, labels, weights, clusters)
        p_pass, p_fail = alone.p_values(threshold)
        method = f"exact binomial of {len(known)} labels"
        return Test(alone.share, *alone.bounds(alpha), p_pass, p_fail, method, len(labels), seen)
    estimate, df = estimate_share(strata), independent - 1
    lower = _find_end(lambda share: bool(is_significant(_p_values(strata, share, df)[0], alpha)), 0.0, estimate)
    upper = _find_end(lambda share: not is_significant(_p_values(strata, share, df)[1], alpha), estimate, 1.0)
    p_pass, p_fail = _p_values(strata, threshold, df)
    return Test(estimate, lower, upper, p_pass, p_fail, f"poststratified by {len(known)} labels", len(labels), seen)


def two_phase_p_values(
    classes: Sequence[float], labels: Sequence[float | None], threshold: float
) -> tuple[float, float]:
    """Return p_pass and p_fail of `two_phase_test`, of independent rows with equal weights."""
    weights, known = [1.0] * len(labels), [i for i, label in enumerate(labels) if label is not None]
    strata = _make_tested_strata(known, len(known), classes, labels, threshold, weights, None)
    if strata is None:
        return _LabelsAlone(known, labels, weights, None).p_values(threshold)
    return _p_values(strata, threshold, len(known) - 1)


def _p_values(strata: Sequence[Stratum], share: float, df: int) -> tuple[float, float]:
    distance = standardized_distance(strata, share)
    return student_tail(distance, df), student_tail(-distance, df)


def _make_tested_strata(
    known: Sequence[int],
    independent: int,
    classes: Sequence[float],
    labels: Sequence[float | None],
    threshold: float,
    weights: Sequence[float],
    clusters: Clusters | None,
) -> list[Stratum] | None:
    """Return the strata to test, as of independent rows; None where the labels alone decide.

    `known` are the places of the labels, of which so many are independent.
    """
    if len(known) < MIN_LABELS:
        raise ValueError(f"only {len(known)} of {len(labels)} rows are labelled; label at least {MIN_LABELS}")
    if independent < MIN_LABELS:
        raise ValueError(f"all labelled rows are in one cluster; label rows of at least {MIN_LABELS}")
    if independent * min(threshold, 1 - threshold) < MIN_EXPECTED:
        return None
    groups = group_rows_by_class(classes, labels)
    if len(groups) == 1 or len(known) == len(labels):
        if clusters is None and max(weights) == min(weights) and all(labels[i] != TIE for i in known):
            return None
        groups = [[*known]]
    effect = estimate_design_effect(groups, labels, weights, clusters)
    return [stratum.scaled(1 / effect) for stratum in make_strata(groups, labels, weights)]


class _LabelsAlone:
    """The exact binomial of the labels alone.

    Labels of one cluster count as copies of one (Kish 1965). Where ties, weights or clusters make parts of a label,
    these count against either conclusion.
    """

    def __init__(
        self,
        known: Sequence[int],
        labels: Sequence[float | None],
        weights: Sequence[float],
        clusters: Clusters | None,
    ) -> None:
        own = [weights[i] for i in known]
        total = math.fsum(own)
        self.share = math.fsum(weights[i] * (labels[i] or 0.0) for i in known) / total
        within = range(len(known)) if clusters is None else [clusters[i] for i in known]
        count = total**2 / _sum_squares(own, within)
        self.won, self.lost = (math.floor(share * count + EDGE) for share in (self.share, 1 - self.share))
        self.count = math.ceil(count - EDGE)

    def p_values(self, threshold: float) -> tuple[float, float]:
        return tail(self.won, self.count, threshold), tail(self.lost, self.count, 1 - threshold)

    def bounds(self, alpha: float) -> tuple[float, float]:
        lower = clopper_pearson(self.won, self.count, alpha)[0]
        return lower, clopper_pearson(self.count - self.lost, self.count, alpha)[1]


def estimate_labelled_share(
    classes: Sequence[float], labels: Sequence[float | None], weights: Sequence[float]
) -> float:
    """Return the poststratified share of successes. Raises ValueError without labels."""
    if all(label is None for label in labels):
        raise ValueError("no row is labelled")
    return estimate_share(make_strata(group_rows_by_class(classes, labels), labels, weights))


def count_labels_worth(classes: Sequence[float], labels: Sequence[float | None]) -> float:
    """Return how many labels alone would estimate the share as well as these with the instrument's classes.

    Of independent rows with equal weights. NaN where all labels are the same, or fewer than two rows have one.
    """
    if sum(label is not None for label in labels) < MIN_LABELS:
        return math.nan
    strata = make_strata(group_rows_by_class(classes, labels), labels, [1.0] * len(labels))
    share = estimate_share(strata)
    rows, labelled = (math.fsum(getattr(s, name) for s in strata) for name in ("rows", "labelled"))
    ties = math.fsum(stratum.ties for stratum in strata)
    alone = share * (1 - share) - ties / labelled / 4
    error = _estimate_variance(strata, [(s.rows / rows, s.mean) for s in strata], share)
    return alone / error if error > 0 else math.nan


def group_rows_by_class(classes: Sequence[float], labels: Sequence[float | None]) -> list[list[int]]:
    """Return the places of the rows of each class, from the lowest.

    A class with fewer than MIN_LABELS labels joins its smaller neighbour. That depends on no label's value.
    """
    groups = [
        [i for i, value in enumerate(classes) if value < TIE],
        [i for i, value in enumerate(classes) if value == TIE],
        [i for i, value in enumerate(classes) if value > TIE],
    ]
    groups = [group for group in groups if group]

    def count_labels(group: Sequence[int]) -> int:
        return sum(labels[i] is not None for i in group)

    while len(groups) > 1 and min(map(count_labels, groups)) < MIN_LABELS:
        fewest = min(range(len(groups)), key=lambda i: count_labels(groups[i]))
        neighbours = [i for i in (fewest - 1, fewest + 1) if 0 <= i < len(groups)]
        neighbour = min(neighbours, key=lambda i: len(groups[i]))
        first = min(fewest, neighbour)
        groups[first : first + 2] = [groups[first] + groups[first + 1]]
    return groups


def make_strata(
    groups: Sequence[Sequence[int]], labels: Sequence[float | None], weights: Sequence[float]
) -> list[Stratum]:
    """Count the rows and labels of each group. Weights are scaled to a mean of 1, of rows as of labels."""
    every = [i for group in groups for i in group]
    unit = math.fsum(weights[i] for i in every) / len(every)
    labelled = [i for i in every if labels[i] is not None]
    label_unit = math.fsum(weights[i] for i in labelled) / len(labelled)
    strata = []
    for group in groups:
        known = [(weights[i] / label_unit, label) for i in group if (label := labels[i]) is not None]
        strata.append(
            Stratum(
                math.fsum(weights[i] for i in group) / unit,
                math.fsum(weight for weight, _ in known),
                math.fsum(weight * label for weight, label in known),
                math.fsum(weight for weight, label in known if label == TIE),
            )
        )
    return strata


def estimate_share(strata: Sequence[Stratum]) -> float:
    """Return the poststratified estimate: each class's mean label, weighted by its share of all rows."""
    rows = math.fsum(stratum.rows for stratum in strata)
    return math.fsum(stratum.rows / rows * stratum.mean for stratum in strata)


def standardized_distance(strata: Sequence[Stratum], share: float) -> float:
    """Return the estimate's distance from a share, in standard errors that hold if the share is true."""
    share = min(max(share, EDGE), 1 - EDGE)
    distance = estimate_share(strata) - share
    error = math.sqrt(_estimate_variance(strata, fit_at_share(strata, share), share))
    if not error:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / error


def _estimate_variance(strata: Sequence[Stratum], fitted: Sequence[tuple[float, float]], share: float) -> float:
    """Return the estimate's variance, where classes have the fitted sizes and mean labels and the share is given."""
    rows = math.fsum(stratum.rows for stratum in strata)
    between = math.fsum(size * (mean - share) ** 2 for size, mean in fitted) / rows
    within = math.fsum(
        size**2 * stratum.label_variance(mean) / stratum.labelled
        for stratum, (size, mean) in zip(strata, fitted, strict=True)
    )
    return between + within


def fit_at_share(strata: Sequence[Stratum], share: float) -> list[tuple[float, float]]:
    """Return the size and mean label of each class that fit best, of those whose overall share is the given one.

    Maximizes the likelihood, Σ rows·log(size) + successes·log(mean) + (labelled - successes)·log(1 - mean), by
    Lagrange's multiplier of Σ size·(mean - share) = 0. The multiplier of Σ size = 1 is the number of rows.
    """
    rows = math.fsum(stratum.rows for stratum in strata)
    low, high = -rows / (1 - share), rows / share
    fitted: list[tuple[float, float]] = []
    for _ in range(BISECTIONS):
        multiplier = (low + high) / 2
        means = [_fit_mean(stratum, rows, share, multiplier) for stratum in strata]
        fitted = [
            (stratum.rows / (rows + multiplier * (mean - share)), mean)
            for stratum, mean in zip(strata, means, strict=True)
        ]
        excess = math.fsum(size * (mean - share) for size, mean in fitted)
        low, high = (multiplier, high) if excess > 0 else (low, multiplier)
    return fitted


def _fit_mean(stratum: Stratum, rows: float, share: float, multiplier: float) -> float:
    """Return a class's mean label that fits best, given the multiplier.

    The derivative of the likelihood is 0 at a root of a quadratic, of which one lies between 0 and 1 where labels of
    both kinds are there. Where they are not, the best mean may be at the edge.
    """
    rest = rows - multiplier * share
    a = multiplier * (stratum.rows - stratum.labelled)
    b = multiplier * (stratum.successes - stratum.rows) - stratum.labelled * rest
    c = stratum.successes * rest
    root = math.sqrt(max(b * b - 4 * a * c, 0.0))
    q = -(b + math.copysign(root, b)) / 2
    for top, bottom in ((q, a), (c, q)):
        if bottom and EDGE**2 < (mean := top / bottom) < 1 - EDGE**1.5:
            return mean
    return min(max(stratum.mean, 0.0), 1.0)


def estimate_design_effect(
    groups: Sequence[Sequence[int]],
    labels: Sequence[float | None],
    weights: Sequence[float],
    clusters: Clusters | None,
) -> float:
    """Return by how much weights and clusters enlarge the estimate's variance; never below 1.

    It is the variance of the linearized estimate by clusters, over that of equal, independent rows. Where no label
    differs from its class's mean there is no such ratio, and rows of a cluster count as copies (Kish 1965).
    """
    equal = max(weights) == min(weights)
    if equal and clusters is None:
        return 1.0
    clusters = clusters or range(len(labels))
    independent = _sum_squares(_linearize(groups, labels, [1.0] * len(labels)), range(len(labels)))
    dependent = _sum_squares(_linearize(groups, labels, weights), clusters)
    if independent <= EDGE or dependent <= EDGE:
        return max(len(labels) * _sum_squares(weights, clusters) / math.fsum(weights) ** 2, 1.0)
    return max(dependent / independent, 1.0)


def _linearize(
    groups: Sequence[Sequence[int]], labels: Sequence[float | None], weights: Sequence[float]
) -> list[float]:
    """Return what each row adds to the estimate's deviation from its mean, (n,)."""
    strata = make_strata(groups, labels, weights)
    estimate = estimate_share(strata)
    total = math.fsum(weights)
    shifts = [0.0] * len(labels)
    for group, stratum in zip(groups, strata, strict=True):
        heaviness = math.fsum(weights[i] for i in group)
        labelled = math.fsum(weights[i] for i in group if labels[i] is not None)
        for i in group:
            shifts[i] = weights[i] / total * (stratum.mean - estimate)
            if (label := labels[i]) is not None:
                shifts[i] += heaviness / total * weights[i] / labelled * (label - stratum.mean)
    return shifts


def _sum_squares(values: Sequence[float], clusters: Clusters) -> float:
    """Return the sum of squares of the clusters' sums."""
    sums = dict[Hashable, float]()
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value
    return math.fsum(x * x for x in sums.values())


def _find_end(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return the share up to which a condition holds; the ends, if it holds at none or all."""
    if holds(high):
        return high
    if not holds(low):
        return low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
