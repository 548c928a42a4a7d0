"""What people's labels make of an instrument's numbers: a share corrected by them, and kappa by cluster."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from bench import judge_rates
from harness.gates.agreement import kappa_test
from harness.gates.decide import decide
from harness.gates.labels import labelled_share_test
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Labels, Result, Sample, Score
from harness.records.verdicts import Outcome, Verdict
from harness.stats.result import Test
from harness.stats.shares import binomial
from harness.stats.two_phase import two_phase_p_values
from tests.helpers.labelled_rows import draw_rows

ALPHA = 0.05
KAPPA = Metric("kappa", "higher", "agreement")


def make_labels(counts: dict[tuple[float, float], int], metric: str = "wins", each: int = 1) -> Labels:
    """Make labels of (people, instrument), `each` of a prompt."""
    pairs = [pair for pair, n in counts.items() for _ in range(n)]
    truth, said = zip(*(pair for pair in pairs for _ in range(each)), strict=True)
    return Labels(metric, truth, said, tuple(i // each for i in range(len(truth))))


GOOD = {(1.0, 1.0): 45, (1.0, 0.0): 5, (0.0, 0.0): 37, (0.0, 1.0): 13}


def share_by_people(values: list[float], truth: list[float], threshold: float = 0.5) -> Test:
    """Test a share of rows of which the first ones are labelled."""
    rows = [Score(str(i), {"wins": value}) for i, value in enumerate(values)]
    return labelled_share_test("wins", rows, None, make_sample(truth), threshold, ALPHA)


def make_sample(truth: list[float]) -> Labels:
    """Make labels of the first rows. What the instrument says of them is in the rows."""
    return Labels("wins", tuple(truth), tuple(truth), tuple(range(len(truth))), tuple(map(str, range(len(truth)))))


def draw_pairs(
    share: float, judge: tuple[float, float], rows: int, labelled: int, seed: int
) -> tuple[list[float], list[float]]:
    """Draw a judge's verdicts of rows, and what people say of the first. `judge` is right of wins, and of losses."""
    values, labels = draw_rows(random.Random(seed), rows, labelled, share, *judge)
    return values, [label for label in labels if label is not None]


def test_labels_of_all_rows_decide_alone() -> None:
    """All 300 rows labelled, 180 of them won, and a judge that is right on two of three: the labels' exact test."""
    truth = [1.0] * 180 + [0.0] * 120
    found = share_by_people([t if i % 3 else 1 - t for i, t in enumerate(truth)], truth)
    alone = binomial(180, 300, 0.5, ALPHA)
    assert (found.p_pass, found.p_fail, found.lower, found.upper) == (
        alone.p_pass, alone.p_fail, alone.lower, alone.upper,
    )  # fmt: skip
    assert found.p_pass < 0.001


@pytest.mark.parametrize("judge", [(1.0, 1.0), (0.0, 0.0), (1.0, 0.0), (0.5, 0.5)])
def test_no_judge_makes_labels_worth_less(judge: tuple[float, float]) -> None:
    """Always right, always wrong, constant, or a coin: its verdicts never take from what 100 labels show."""
    passed = alone = 0
    for seed in range(100):
        values, truth = draw_pairs(0.62, judge, 300, 100, seed)
        labels = [*truth, *[None] * 200]
        passed += two_phase_p_values(values, labels, 0.5)[0] <= ALPHA
        alone += binomial(int(sum(truth)), 100, 0.5, ALPHA).p_pass <= ALPHA
    assert passed >= alone > 60
    assert passed == 100 if judge in [(1.0, 1.0), (0.0, 0.0)] else passed < 95


@pytest.mark.parametrize(("truth", "told"), [([1.0], "only 1 of 4 rows are labelled"), ([], "only 0 of 4 rows")])
def test_too_few_labels_are_an_error(truth: list[float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        share_by_people([1.0, 0.0, 1.0, 0.0], truth)


def test_two_labels_and_labels_that_agree_prove_what_they_can() -> None:
    """By the exact test: two that agree prove nothing at one half, six do."""
    assert share_by_people([1.0, 0.0] * 10, [1.0, 1.0]).p_pass == pytest.approx(0.25)
    assert share_by_people([1.0, 0.0] * 10, [1.0] * 6).p_pass == pytest.approx(0.5**6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": ()}, "do not name their rows"),
        ({"rows": ("0", "0")}, "a row has two labels"),
        ({"truth": (5.0, 1.0)}, "is neither 0, 1 nor 0.5"),
    ],
)
def test_labels_that_are_no_sample_of_the_rows_are_an_error(change: dict[str, Any], told: str) -> None:
    rows = [Score(str(i), {"wins": 1.0}) for i in range(4)]
    with pytest.raises(ValueError, match=told):
        labelled_share_test("wins", rows, None, replace(make_sample([1.0, 0.0]), **change), 0.5, ALPHA)


def test_rows_without_a_verdict_count_against_either_side() -> None:
    """A tenth of the rows may all be won or all lost; the bounds hold both."""
    values, truth = draw_pairs(0.7, (0.9, 0.8), 300, 100, 1)
    whole = share_by_people(values, truth)
    rows = [Score(str(i), {"wins": v}) for i, v in enumerate(values)]
    lost = [Score(f"lost {i}", {"wins": 0.0}, weights={"wins": 0.0}, lost=("wins",)) for i in range(30)]
    found = labelled_share_test("wins", [*rows, *lost], None, make_sample(truth), 0.5, ALPHA)
    assert found.estimate == whole.estimate
    assert found.lower == pytest.approx(whole.lower * 10 / 11)
    assert found.upper == pytest.approx(whole.upper * 10 / 11 + 1 / 11)
    assert found.p_pass > whole.p_pass
    assert found.p_pass == pytest.approx(share_by_people(values, truth, 0.55).p_pass)


@pytest.mark.parametrize("each", [1, 4])
def test_labels_of_one_prompt_count_once(each: int) -> None:
    """Four labels alike on every prompt say about what one does."""
    one, more = (kappa_test(make_labels(GOOD, each=k), 0.5, ALPHA) for k in (1, each))
    assert (more.lower, more.p_pass) == pytest.approx((one.lower, one.p_pass))


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_bounds_invert_the_test(alpha: float) -> None:
    """At each bound the p-value is alpha, so that a gate and its interval say the same."""
    values, truth = draw_pairs(0.6, (0.9, 0.75), 320, 120, 2)
    for people in (truth, [*truth[:-20], *[0.5] * 20], truth[:15]):
        rows = [Score(str(i), {"wins": v}) for i, v in enumerate(values)]

        test = partial(labelled_share_test, "wins", rows, None, make_sample(people), alpha=alpha)
        found = test(threshold=0.5)
        few = 25 / len(people)  # with fewer labels of a kind at the bound another test decides
        for bound, side in ((found.lower, "p_pass"), (found.upper, "p_fail")):
            if few <= bound <= 1 - few or len(people) == 15:
                assert getattr(test(threshold=bound), side) == pytest.approx(alpha, rel=1e-3)
        agreed = kappa_test(make_labels(GOOD), 0.5, alpha)
        assert kappa_test(make_labels(GOOD), agreed.lower, alpha).p_pass == pytest.approx(alpha)
        assert kappa_test(make_labels(GOOD), agreed.upper, alpha).p_fail == pytest.approx(alpha)


def test_kappa_is_that_of_statsmodels() -> None:
    """The estimate equals the reference's, and with many labels so does the bound of its standard error."""
    statsmodels = pytest.importorskip("statsmodels.stats.inter_rater")
    table = 10 * np.array([[400, 50, 20], [60, 300, 30], [10, 40, 90]])
    kinds = (0.0, 0.5, 1.0)
    found = kappa_test(
        make_labels({(a, b): int(table[i, j]) for i, a in enumerate(kinds) for j, b in enumerate(kinds)}), 0, ALPHA
    )
    theirs = statsmodels.cohens_kappa(table)
    assert found.estimate == pytest.approx(theirs.kappa)
    assert found.estimate - found.lower == pytest.approx(1.6449 * theirs.std_kappa, rel=0.03)


def test_kappa_of_labels_that_all_agree_is_not_sure() -> None:
    """Ten labels that agree: the bound is the one at which none of ten would differ 5 % of the time."""
    found = kappa_test(make_labels({(1.0, 1.0): 5, (0.0, 0.0): 5}), 0.3, ALPHA)
    assert (found.estimate, found.lower) == (1.0, pytest.approx(2 * 0.05**0.1 - 1))
    assert found.p_pass == pytest.approx(0.65**10)


# -- in a gate -------------------------------------------------------------------------------------


def decide_with_labels(
    metric: Metric, values: list[float], given: Labels | None, alpha: float = ALPHA, **claim: Any
) -> Verdict:
    scores = tuple(Score(str(i), {metric.name: v}) for i, v in enumerate(values))
    ours = Result("merged", "e", scores, {}, "d", labels=(given,) if given else ())
    theirs = Result("base", "e", scores, {}, "other") if "versus" in claim else None
    gate = Gate("g", f"e.{metric.name}", "", **claim)
    return decide(gate, metric, ours, theirs, [Sample(s.id, row={"kind": "a"}) for s in scores], alpha, name="merged")


WINS = Metric("wins", "higher", "proportion", labelled=True)
SIXTY = make_sample([1.0] * 60)
UNLABELLED: dict[str, tuple[Labels | None, dict[str, Any], str]] = {
    "no labels": (None, {"min": 0.5}, "there are no labels that correct wins"),
    "a difference": (
        SIXTY,
        {"versus": "base", "better_by": 0.1},
        ", since the judge may err differently on the other model",
    ),
    "failures": (
        make_sample([1.0] * 60),
        {"max_failures": 9},
        'labels correct a single model\'s wins; claim "min" or "max"',
    ),
    "a slice": (
        make_sample([1.0] * 60),
        {"min": 0.5, "slice": "kind=a"},
        "cover all rows and cannot correct slices alone",
    ),
}


@pytest.mark.parametrize("case", UNLABELLED)
def test_what_labels_cannot_correct_is_an_error(case: str) -> None:
    """A gate on a labelled metric never falls back to the instrument's word."""
    given, claim, told = UNLABELLED[case]
    found = decide_with_labels(WINS, [1.0] * 200 + [0.0] * 100, given, **claim)
    assert found.outcome is Outcome.ERROR
    assert told in found.why


def test_gate_is_about_the_share_by_people() -> None:
    """A judge gives 57.5 %, people one half; a claim from above is the same test turned round."""
    truth = [1.0] * 50 + [0.0] * 50
    said = [1.0] * 45 + [0.0] * 5 + [1.0] * 13 + [0.0] * 37
    values = [*said, *[1.0] * 116, *[0.0] * 84]
    found = decide_with_labels(WINS, values, make_sample(truth), min=0.5)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.value == found.estimate == pytest.approx(0.5, abs=0.01)
    assert found.why.endswith("n=300, poststratified by 100 labels; more labels would decide it, or more rows")
    values = [*said, *[1.0] * 180, *[0.0] * 20]
    high = decide_with_labels(WINS, values, make_sample(truth), min=0.5)
    assert high.outcome is Outcome.PASS
    turned = decide_with_labels(WINS, values, make_sample(truth), max=0.5)
    assert (turned.outcome, turned.p_fail, turned.lower) == (Outcome.FAIL, high.p_pass, high.lower)


def test_kappas_gate_is_at_its_own_risk() -> None:
    """Its p-value is no count's, so a smaller alpha or an attempt makes it harder to pass."""
    given = make_labels(GOOD, "kappa")
    found = decide_with_labels(KAPPA, [0.0] * 5, given, min=0.48)
    assert 0.01 < (found.p_pass or 0) < 0.05
    assert (found.outcome, found.method) == (Outcome.PASS, "kappa of 100 labels")
    assert decide_with_labels(KAPPA, [0.0] * 5, given, alpha=0.01, min=0.48).outcome is Outcome.INCONCLUSIVE
    assert decide_with_labels(KAPPA, [0.0] * 5, None, min=0.5).outcome is Outcome.ERROR


@pytest.mark.parametrize("claim", [{"min": 1.0}, {"max": -2.0}, {"versus": "base", "better_by": 0.1}])
def test_claims_that_are_none_of_an_agreement_are_told(claim: dict[str, Any]) -> None:
    """Kappa is from -1 to 1 and of no model, so it cannot be compared."""
    assert Gate("g", "e.kappa", "", **claim).find_metric_mistakes(KAPPA)


# -- how often they are wrong ----------------------------------------------------------------------


@pytest.mark.parametrize("case", judge_rates.SAMPLED)
def test_share_by_people_keeps_its_risk(case: judge_rates.Sampled) -> None:
    """Equal models, and shares at their threshold: at most 6 % and a standard error, where the judge alone is wrong."""
    passed, failed = judge_rates.simulate_rates(random.Random(7), case, 1000)
    assert max(passed, failed) <= 6.7


@pytest.mark.parametrize(("each", "kappa_"), [(1, 0.8), (4, 0.9)])
def test_kappas_bound_keeps_its_rate(each: int, kappa_: float) -> None:
    """Few disagreements and four labels an answer: once 11 % and 17 %, now at most 6 %."""
    passed, _, _ = judge_rates.simulate_kappa_rates(np.random.default_rng(3), 1000, 50, each, kappa_, 0.7, 2)
    assert passed < 6.5
