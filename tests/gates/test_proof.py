"""What rows cannot prove: closed forms against the tests that decide, and the warning at collection."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import pytest

from harness.gates.min_rows import find_unprovable_error, min_rows
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Sample
from harness.stats import hypothesis_tests
from harness.testing import ROWS, SUITE, TRAIN, Project

ALPHA = 0.05
SHARE = Metric("acc", "higher", "proportion")


def find_first_proof(proves: Callable[[int], float]) -> int:
    """Count up to the first number of rows whose p-value is at most alpha."""
    return next(n for n in itertools.count(2) if proves(n) <= ALPHA)


@pytest.mark.parametrize("bound", [0.5, 0.8, 0.95])
def test_fewest_rows_of_a_bound_are_the_binomials(bound: float) -> None:
    """One row fewer, all of them right, and the exact test does not pass."""
    assert min_rows(bound, ALPHA) == find_first_proof(lambda n: hypothesis_tests.binomial(n, n, bound, ALPHA).p_pass)


@pytest.mark.parametrize("margin", [0.004, 0.02, 0.05, 0.3])
def test_fewest_rows_of_a_margin_are_tangos(margin: float) -> None:
    """An equal model that changes no row needs the rule of three, also where Tango's score is taken as normal."""
    assert min_rows(1 - margin, ALPHA) == find_first_proof(
        lambda n: hypothesis_tests.tango(0, 0, n, margin, ALPHA).p_pass
    )


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.5])
def test_fewest_rows_of_a_gain_are_the_tests(margin: float) -> None:
    """A model that wins every row passes from there on."""
    test = (
        (lambda n: hypothesis_tests.mcnemar(n, 0, n, ALPHA))
        if margin == 0
        else lambda n: hypothesis_tests.tango(n, 0, n, -margin, ALPHA)
    )
    assert min_rows((1 + margin) / 2, ALPHA) == find_first_proof(lambda n: test(n).p_pass)


def test_fewest_clusters_are_the_cluster_tests() -> None:
    """Rows of one cluster count once, however many they are."""

    def p(clusters: int) -> float:
        names = [c for c in range(clusters) for _ in range(3)]
        ones = [1.0] * len(names)
        return hypothesis_tests.cluster_t(ones, ones, names, 0.8, ALPHA, support=(0.0, 1.0)).p_pass

    assert min_rows(0.8, ALPHA) == find_first_proof(p)


GATES = {
    "a bound": (
        Gate("g", "qa.acc", min=0.95),
        "58 rows cannot prove min = 0.95, even if every row is right; at least 59 are needed",
    ),
    "a budget": (
        Gate("g", "qa.acc", max=0.05),
        "58 rows cannot prove max = 0.05, even if it is 0 on every row; at least",
    ),
    "a margin": (
        Gate("g", "qa.acc", versus="base", worse_by_at_most=0.02),
        "58 rows cannot prove worse_by_at_most = 0.02, unless the model is better than base; at least 149 are needed",
    ),
    "no margin": (
        Gate("g", "qa.acc", versus="base", worse_by_at_most=0.0),
        "no number of rows can prove worse_by_at_most = 0, unless the model is better than base",
    ),
    "a gain": (
        Gate("g", "qa.acc", versus="base", better_by=0.95),
        "even if base is worse on every row; at least 119 are needed",
    ),
    "certainty": (Gate("g", "qa.acc", min=1.0), "no number of rows can prove min = 1"),
    "what they can": (Gate("g", "qa.acc", min=0.94), ""),
    "a gain they can": (Gate("g", "qa.acc", versus="base", better_by=0.0), ""),
    "failures counted": (Gate("g", "qa.acc", max_failures=0), ""),
}


@pytest.mark.parametrize("name", GATES)
def test_unprovable_claims_say_what_is_missing(name: str) -> None:
    """58 rows prove no share above 0.95, the equality of no two models, and no margin of 2 points."""
    gate, message = GATES[name]
    found = find_unprovable_error(gate, SHARE, [Sample(str(i)) for i in range(58)], ALPHA)
    assert (message in found) if message else found == ""


def test_a_cap_tells_how_many_documents_it_takes() -> None:
    """75 documents that count half a nat at most can prove 2 %, 74 cannot; without a cap nobody knows."""
    metric, rows = Metric("ppl", "lower", "perplexity"), [Sample(str(i)) for i in range(75)]
    claim = Gate("g", "qa.ppl", versus="base", worse_by_at_most="2%", cap=0.5)
    assert find_unprovable_error(claim, metric, rows, ALPHA) == ""
    told = "74 rows cannot prove worse_by_at_most = 2%, unless the model is better than base; at least 75 are needed"
    assert find_unprovable_error(claim, metric, rows[1:], ALPHA) == told
    assert find_unprovable_error(dataclasses.replace(claim, cap=None), metric, rows[60:], ALPHA) == ""


def test_clusters_and_slices_are_the_rows_that_count() -> None:
    """100 rows of 20 documents are 20; a slice of too few rows is an alarm, with nothing to prove."""
    rows = [Sample(str(i), row={"kind": "ab"[i < 5]}, cluster=str(i % 20)) for i in range(100)]
    assert "clusters cannot prove min = 0.9 where every row is right; at least 29 are needed" in find_unprovable_error(
        Gate("g", "qa.acc", min=0.9), SHARE, rows, ALPHA
    )
    sliced = Gate("g", "qa.acc", min=0.9, slice="kind=*")
    assert find_unprovable_error(sliced, SHARE, rows, ALPHA).startswith("kind=a: 20 clusters cannot prove min = 0.9")
    assert find_unprovable_error(Gate("g", "qa.acc", min=0.9, slice="kind=b"), SHARE, rows, ALPHA) == ""


def test_one_row_and_one_cluster_prove_nothing_of_any_metric() -> None:
    """They are an ERROR when judged, so they are told before."""
    gate, mean = Gate("g", "qa.f1", min=0.5), Metric("f1", "higher")
    assert (
        find_unprovable_error(gate, mean, [Sample("1")], ALPHA)
        == "there is only one row, which proves nothing about others"
    )
    assert "all 3 rows are in one cluster, which proves nothing about other clusters" in find_unprovable_error(
        gate, mean, [Sample(i, cluster="c") for i in "abc"], ALPHA
    )
    assert find_unprovable_error(gate, mean, [Sample(i) for i in "abc"], ALPHA) == ""


def test_collection_warns_of_a_claim_the_rows_cannot_prove(project: Project) -> None:
    """It is told before anything slow, with the line of the gate, and is no mistake."""
    files = {"suite.toml": SUITE.replace("min = 0.5", "min = 0.97"), "test.jsonl": ROWS, "train.jsonl": TRAIN}
    outcome = project.write(files).run("--collect-only")
    assert outcome.code == 0
    told = 'gate "floor": 60 rows cannot prove min = 0.97, even if every row is right; at least 99 are needed'
    assert told in outcome.err
