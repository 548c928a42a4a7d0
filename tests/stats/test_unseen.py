"""What none or few of some clusters showed, held against enumeration and against numerical optimisation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize

from harness.stats import hypothesis_tests, rule_of_three

ALPHA = 0.05
SIZES = {
    "one giant": [1] * 100 + [200],
    "five large": [1] * 95 + [20] * 5,
    "a tenth large": [2] * 90 + [8] * 10,
    "two sizes": [2] * 50 + [18] * 50,
}


def maximise_unseen_chance(weights: np.ndarray, share: float) -> float:
    """Return the largest chance that no cluster is lost, by numerical optimisation over the clusters' chances."""
    total = weights.sum()

    def minus_log(q: np.ndarray) -> float:
        return -float(np.log1p(-q).sum())

    at_least = {"type": "ineq", "fun": lambda q: weights @ q / total - share}
    start = np.full(len(weights), share)
    found = minimize(minus_log, start, bounds=[(0, 1 - 1e-9)] * len(weights), constraints=at_least, tol=1e-12)
    return float(np.exp(-found.fun))


@pytest.mark.parametrize("share", [0.02, 0.2, 0.6])
@pytest.mark.parametrize("weights", [[1.0] * 8, [1, 1, 2, 5, 9], [1, 2, 3, 4, 5, 6, 7, 8], [0.1, 1, 30]])
def test_none_lost_is_the_largest_chance_of_all(weights: list[float], share: float) -> None:
    """The closed form is what an optimiser finds over every way of losing a share of the weight."""
    assert float(rule_of_three.unseen_chance(weights, 0.0, share)) == pytest.approx(
        maximise_unseen_chance(np.array(weights), share), rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("weights", [[1.0] * 7, [1, 1, 2, 5, 9], [1, 1, 1, 3, 3, 8]])
def test_few_lost_is_never_less_than_a_chance_that_there_is(weights: list[float]) -> None:
    """Whatever clusters lose, and however often, the bound is above the chance of losing so little, summed exactly."""
    rng, w = np.random.default_rng(3), np.array(weights, dtype=float)
    states = np.array(list(itertools.product((0.0, 0.5, 1.0), repeat=len(w))))  # what each loses of itself
    for _ in range(60):
        q = rng.dirichlet(rng.uniform(0.05, 2, 3), len(w))  # chances of the three
        chances = np.prod(q[np.arange(len(w)), (2 * states).astype(int)], -1)
        lost, share = states @ w / w.sum(), float((q @ [0, 0.5, 1]) @ w / w.sum())
        for seen in np.unique(lost):
            exact = chances[lost <= seen + 1e-12].sum()
            assert float(rule_of_three.unseen_chance(w, seen, share)) >= exact - 1e-9


@pytest.mark.parametrize("lost", [0.0, 1e-4, 0.01, 0.2, 0.7, 0.999, 1.0, np.inf, np.nan])
def test_bounds_are_where_the_chance_is_alpha(lost: float) -> None:
    """A little more than the largest share that may be lost is too much, and a little less is not, of any clusters."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        weights, alpha = rng.pareto(rng.uniform(0.5, 4), rng.integers(1, 60)) + 0.01, 10 ** rng.uniform(-6, -0.3)
        lower, upper = rule_of_three.unseen_bounds(0.25, weights, alpha, (0.0, 1.0), (lost, 0.0))
        for share, seen in ((1 - 4 * lower, lost), ((upper - 0.25) / 0.75, 0.0)):
            assert float(rule_of_three.unseen_chance(weights, seen, share + 1e-9)) <= alpha or share == pytest.approx(1)
            assert float(rule_of_three.unseen_chance(weights, seen, share - 1e-9)) > alpha


@pytest.mark.parametrize("together", [1, 200, 1 << 20])
def test_many_clusters_are_computed_a_part_at_a_time(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As more than a million of unequal weight are, of which one tilt is more than is computed in one go."""
    weights = np.arange(1.0, 9.0)

    def numbers() -> list[float]:
        return [
            *rule_of_three.unseen_bounds(0.9, weights, 0.05, (0.0, 1.0), (0.1, 0.0)),
            float(rule_of_three.unseen_chance(weights, 0.1, 0.5)),
        ]

    wanted = numbers()
    monkeypatch.setattr(rule_of_three, "CHUNK_VALUES", together)
    assert numbers() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("sizes", "margin"), [*((name, 0.05) for name in SIZES), ("two sizes", 0.03)])
def test_clusters_that_did_not_change_count_by_what_they_can_prove(sizes: str, margin: float) -> None:
    """As many equal clusters would prove the margin; these may have kept what a large one would lose."""
    weights = SIZES[sizes]
    values, clusters = [0.0] * sum(weights), np.repeat(np.arange(len(weights)), weights).tolist()
    test = hypothesis_tests.cluster_t(values, [1.0] * len(values), clusters, -margin, ALPHA, support=(-1.0, 1.0))
    assert test.p_pass == pytest.approx(maximise_unseen_chance(np.array(weights, dtype=float), margin), rel=1e-3)
    assert test.p_pass > ALPHA > (1 - margin) ** len(weights)
    assert (test.lower < -margin) is (test.p_pass > ALPHA)


def test_equal_clusters_that_did_not_change_are_the_rule_of_three() -> None:
    """Of 100 clusters of six none changed: (1 - margin)^100, and the bound where that is alpha."""
    test = hypothesis_tests.cluster_t(
        [0.0] * 600, [1.0] * 600, [i // 6 for i in range(600)], -0.03, ALPHA, support=(-1.0, 1.0)
    )
    assert (test.p_pass, test.lower) == (pytest.approx(0.97**100), pytest.approx(ALPHA ** (1 / 100) - 1))


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_small_clusters_that_were_lost_say_nothing_of_large_ones(lost: int) -> None:
    """50 clusters of 2 rows and 50 of 18: that no large one is lost at a loss of 3 points has a chance of 22 %."""
    weights = SIZES["two sizes"]
    clusters = np.repeat(np.arange(100), weights)
    values = np.where(clusters < lost, -1.0, 0.0)
    test = hypothesis_tests.cluster_t(
        values.tolist(), [1.0] * len(values), clusters.tolist(), -0.03, ALPHA, support=(-1.0, 1.0)
    )
    assert test.p_pass > 0.18


def test_rows_of_unequal_weight_count_by_what_they_can_prove() -> None:
    """59 rows that are all right prove 95 %, but not where a tenth of their weight lies in one of them."""
    even = hypothesis_tests.cluster_t([1.0] * 59, [1.0] * 59, None, 0.95, ALPHA, support=(0.0, 1.0))
    heavy = hypothesis_tests.cluster_t([1.0] * 59, [1.0] * 58 + [6.0], None, 0.95, ALPHA, support=(0.0, 1.0))
    assert (even.p_pass <= ALPHA, heavy.p_pass) == (
        True,
        pytest.approx(maximise_unseen_chance(np.array([1.0] * 58 + [6]), 0.05), rel=1e-3),
    )
    assert heavy.p_pass > 0.3
