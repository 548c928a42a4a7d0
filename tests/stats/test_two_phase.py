"""Labels of a random sample of rows, and an instrument's class of every row."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from harness.stats.binomials import student_tail, tail
from harness.stats.shares import binomial
from harness.stats.two_phase import (
    Stratum,
    count_labels_worth,
    estimate_share,
    fit_at_share,
    group_rows_by_class,
    make_strata,
    standardized_distance,
    two_phase_test,
)
from tests.helpers.labelled_rows import draw_rows


def log_likelihood(strata: Sequence[Stratum], fitted: Sequence[tuple[float, float]]) -> float:
    """Return the log-likelihood of sizes and mean labels."""

    def term(count: float, probability: float) -> float:
        return count * math.log(probability) if count else 0.0

    return math.fsum(
        term(stratum.rows, size) + term(stratum.successes, mean) + term(stratum.labelled - stratum.successes, 1 - mean)
        for stratum, (size, mean) in zip(strata, fitted, strict=True)
    )


@pytest.mark.parametrize("share", [0.03, 0.3, 0.5, 0.8, 0.97])
@pytest.mark.parametrize(
    "strata",
    [
        [Stratum(400, 20, 3, 0), Stratum(600, 30, 27, 0)],
        [Stratum(50, 50, 0, 0), Stratum(50, 10, 10, 0)],
        [Stratum(400, 20, 0, 0), Stratum(100, 10, 5, 4), Stratum(500, 9, 9, 0)],
        [Stratum(900, 2, 1, 0), Stratum(3, 2, 2, 0)],
    ],
)
def test_the_fit_is_the_likeliest_with_that_share(strata: list[Stratum], share: float) -> None:
    """It sums to one, has the share, and no step along the constraints is likelier."""
    fitted = fit_at_share(strata, share)
    assert math.fsum(size for size, _ in fitted) == pytest.approx(1, abs=1e-9)
    assert math.fsum(size * mean for size, mean in fitted) == pytest.approx(share, abs=1e-9)
    best = log_likelihood(strata, fitted)
    random_ = random.Random(3)
    tried = 0
    while tried < 200:
        moved = [
            (size * math.exp(random_.gauss(0, 0.02)), min(max(mean + random_.gauss(0, 0.01), 1e-9), 1 - 1e-9))
            for size, mean in fitted
        ]
        total = math.fsum(size for size, _ in moved)
        moved = [(size / total, mean) for size, mean in moved]
        first_size, first_mean = moved[0]
        rest = math.fsum(size * mean for size, mean in moved[1:])
        moved[0] = (first_size, (share - rest) / first_size)
        if not 0 < moved[0][1] < 1:
            moved[0] = (first_size, first_mean)
            continue
        tried += 1
        assert log_likelihood(strata, moved) <= best + 1e-7


@pytest.mark.parametrize(
    ("rows", "labelled", "share", "sensitivity", "specificity"),
    [
        (300, 30, 0.5, 0.99, 0.8),  # a plain PPI++ interval misses in 16 % of such draws
        (1000, 50, 0.8, 1.0, 0.95),  # 38 %
        (1000, 50, 0.8, 0.9, 0.7),
        (300, 100, 0.5, 0.65, 0.65),
        (300, 40, 0.95, 0.95, 0.5),
    ],
)
def test_false_passes_are_as_rare_as_stated(
    rows: int, labelled: int, share: float, sensitivity: float, specificity: float
) -> None:
    """Of 2,000 draws on the threshold, 5 % pass; four standard errors are 2 points."""
    random_ = random.Random(11)
    passed = 0
    for _ in range(2000):
        classes, labels = draw_rows(random_, rows, labelled, share, sensitivity, specificity)
        groups = group_rows_by_class(classes, labels)
        if len(groups) == 1:
            successes = round(math.fsum(label for label in labels if label is not None))
            passed += binomial(successes, labelled, share, 0.05).p_pass <= 0.05
            continue
        distance = standardized_distance(make_strata(groups, labels, [1.0] * rows), share)
        passed += student_tail(distance, labelled - 1) <= 0.05
    assert passed / 2000 <= 0.07


def test_a_good_instrument_adds_power_and_a_useless_one_costs_little() -> None:
    """Of 400 draws of a share of 0.6 against one half, with 100 labels of 1,000 rows."""

    def count_passes(sensitivity: float, specificity: float) -> tuple[int, int]:
        random_, together, alone = random.Random(5), 0, 0
        for _ in range(400):
            classes, labels = draw_rows(random_, 1000, 100, 0.6, sensitivity, specificity)
            strata = make_strata(group_rows_by_class(classes, labels), labels, [1.0] * 1000)
            together += student_tail(standardized_distance(strata, 0.5), 99) <= 0.05
            successes = round(math.fsum(label for label in labels if label is not None))
            alone += binomial(successes, 100, 0.5, 0.05).p_pass <= 0.05
        return together, alone

    together, alone = count_passes(0.9, 0.9)
    assert together >= alone + 80
    together, alone = count_passes(0.5, 0.5)
    assert together >= alone - 8


def test_where_the_instrument_adds_nothing_the_labels_decide() -> None:
    """All rows labelled, or all in one class: the exact binomial test."""
    labels = [1.0] * 180 + [0.0] * 120
    classes = [float(i % 3 > 0) for i in range(300)]
    exact = binomial(180, 300, 0.5, 0.05)
    assert two_phase_test(classes, labels, 0.5, 0.05) == replace(exact, method="exact binomial of 300 labels")
    some: list[float | None] = [*labels[100:200], *[None] * 200]
    exact = replace(binomial(80, 100, 0.5, 0.05), method="exact binomial of 100 labels", n=300)
    assert two_phase_test([1.0] * 300, some, 0.5, 0.05) == exact


def test_few_labels_decide_alone() -> None:
    """With fewer than 25 successes to be expected at the threshold, even one that is always right adds nothing."""
    classes, labels = draw_rows(random.Random(1), 1000, 99, 0.05, 1.0, 1.0)
    won = sum(label == 1 for label in labels)
    few, more = (two_phase_test(classes, labels, at, 0.05) for at in (0.25, 0.26))
    assert (few.p_pass, few.p_fail) == (tail(won, 99, 0.25), tail(99 - won, 99, 0.75))
    assert more.p_fail < tail(99 - won, 99, 0.74)


def test_parts_of_a_label_count_against_either_side() -> None:
    """A tie is half a success: not one to prove the claim, and one to refute it."""
    labels = [1.0] * 5 + [0.5] + [0.0] * 2 + [None] * 20
    found = two_phase_test([1.0, 0.0] * 14, labels, 0.5, 0.05)
    assert found.estimate == 5.5 / 8
    assert (found.p_pass, found.p_fail) == (tail(5, 8, 0.5), tail(2, 8, 0.5))
    copies = two_phase_test([1.0, 0.0] * 14, labels, 0.5, 0.05, clusters=[i // 4 for i in range(28)])
    assert (copies.p_pass, copies.clusters) == (tail(1, 2, 0.5), 2)


def test_labels_are_worth_more_with_a_judge() -> None:
    """As many as all rows with one that is always right, as many as there are with one that knows nothing."""
    for sensitivity, specificity, low, high in ((1.0, 1.0, 299, 301), (0.5, 0.5, 99, 104), (0.9, 0.8, 140, 220)):
        rows = draw_rows(random.Random(3), 300, 100, 0.5, sensitivity, specificity)
        assert low < count_labels_worth(*rows) < high
    for labels in ([1.0, 1.0, None], [1.0, None, None], [None, None, None]):
        assert math.isnan(count_labels_worth([1.0, 0.0, 1.0], labels))


def test_the_order_of_rows_and_the_unit_of_weights_change_nothing() -> None:
    """Rows are a set, and weights are relative."""
    random_ = random.Random(2)
    classes, labels = draw_rows(random_, 200, 40, 0.7, 0.9, 0.8)
    weights = [random_.choice([1.0, 2.0, 5.0]) for _ in labels]
    clusters = [i // 4 for i in range(200)]
    expected = two_phase_test(classes, labels, 0.6, 0.05, weights, clusters)
    order = list(range(200))
    random_.shuffle(order)
    shuffled = two_phase_test(
        [classes[i] for i in order],
        [labels[i] for i in order],
        0.6,
        0.05,
        [weights[i] * 7 for i in order],
        [clusters[i] for i in order],
    )
    for name in ("estimate", "lower", "upper", "p_pass", "p_fail"):
        assert getattr(shuffled, name) == pytest.approx(getattr(expected, name), abs=1e-9)


def test_copies_of_rows_in_a_cluster_tell_nothing_new() -> None:
    """Each row four times, in a cluster: bounds as wide as those of the rows alone, or a little wider."""
    classes, labels = draw_rows(random.Random(7), 200, 60, 0.7, 0.9, 0.8)
    once = two_phase_test(classes, labels, 0.6, 0.05)
    four = two_phase_test(
        [value for value in classes for _ in range(4)],
        [label for label in labels for _ in range(4)],
        0.6,
        0.05,
        clusters=[i for i in range(200) for _ in range(4)],
    )
    assert four.estimate == pytest.approx(once.estimate)
    assert four.upper - four.lower == pytest.approx(once.upper - once.lower, rel=0.05)
    assert four.clusters == 60


def test_bounds_and_p_values_agree() -> None:
    """A threshold is below the lower bound just where the claim is proven, and above the upper where it is refuted."""
    drawn = [(150, 30, share) for share in (0.2, 0.5, 0.9)] + [(500, 200, share) for share in (0.2, 0.5, 0.8)]
    for seed, (rows, labelled, share) in itertools.product(range(4), drawn):
        classes, labels = draw_rows(random.Random(seed), rows, labelled, share, 0.9, 0.8)
        bounds = two_phase_test(classes, labels, 0.5, 0.05)
        assert bounds.lower <= bounds.estimate <= bounds.upper
        for threshold, proven in ((bounds.lower - 1e-6, True), (bounds.lower + 1e-6, False)):
            if threshold > 0:
                assert (two_phase_test(classes, labels, threshold, 0.05).p_pass <= 0.05) is proven
        for threshold, refuted in ((bounds.upper + 1e-6, True), (bounds.upper - 1e-6, False)):
            if threshold < 1:
                assert (two_phase_test(classes, labels, threshold, 0.05).p_fail <= 0.05) is refuted


@pytest.mark.parametrize("labels", [[None] * 10, [1.0] + [None] * 9])
def test_fewer_than_two_labels_are_refused(labels: list[float | None]) -> None:
    """Nothing follows from them."""
    with pytest.raises(ValueError, match="rows are labelled; label at least 2"):
        two_phase_test([1.0, 0.0] * 5, labels, 0.5, 0.05)


def test_a_small_class_joins_its_neighbour() -> None:
    """Which class has labels depends on no label's value."""
    classes = [0.0] * 10 + [0.5] * 4 + [1.0] * 6
    labels: list[float | None] = [None] * 20
    for i in (0, 1, 2, 10, 14, 15):
        labels[i] = 1.0
    groups = group_rows_by_class(classes, labels)
    assert [len(group) for group in groups] == [10, 10]
    strata = make_strata(groups, labels, [1.0] * 20)
    assert estimate_share(strata) == 1.0
