"""What people's labels make of an instrument's numbers: a share corrected by them, and kappa by cluster."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench import judge_rates
from harness.gates.agreement import kappa_test
from harness.gates.decide import decide
from harness.gates.labels import label_corrected_test
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Labels, Result, Sample, Score
from harness.records.verdicts import Outcome, Verdict
from harness.stats.hypothesis_tests import Test

ALPHA = 0.05
KAPPA = Metric("kappa", "higher", "agreement")


def make_labels(counts: dict[tuple[float, float], int], metric: str = "wins", each: int = 1) -> Labels:
    """Make labels of (people, instrument), `each` of a prompt."""
    pairs = [pair for pair, n in counts.items() for _ in range(n)]
    truth, said = zip(*(pair for pair in pairs for _ in range(each)), strict=True)
    return Labels(metric, truth, said, tuple(i // each for i in range(len(truth))))


GOOD = {(1.0, 1.0): 45, (1.0, 0.0): 5, (0.0, 0.0): 37, (0.0, 1.0): 13}


def compute_corrected_share(values: list[float], given: Labels, threshold: float = 0.5, alpha: float = ALPHA) -> Test:
    return label_corrected_test(values, [1.0] * len(values), None, given, threshold, alpha)


def test_estimate_is_that_of_rogan_and_gladen() -> None:
    """(mean - m0)/(m1 - m0), where m1 and m0 are the instrument's means of what people prefer and do not."""
    many = make_labels({pair: 100 * n for pair, n in GOOD.items()})
    found = compute_corrected_share([1.0] * 180 + [0.0] * 120, many)
    assert found.estimate == pytest.approx((0.6 - 0.26) / (0.9 - 0.26), abs=0.001)
    assert found.lower < found.estimate < found.upper
    assert found.method == "corrected by 10000 labels"


def test_ties_are_told_apart_from_wins() -> None:
    """Where the instrument gives every tie to the candidate, rows full of ties prove no win rate above one half."""
    given = make_labels({(1.0, 1.0): 60, (0.0, 0.0): 60, (0.5, 1.0): 60})
    assert compute_corrected_share([1.0] * 200 + [0.0] * 100, given).p_pass > 0.1
    assert (
        compute_corrected_share([1.0] * 200 + [0.0] * 100, make_labels({(1.0, 1.0): 60, (0.0, 0.0): 60})).p_pass < 0.001
    )


@pytest.mark.parametrize("each", [1, 4])
def test_labels_of_one_prompt_count_once(each: int) -> None:
    """Four labels alike on every prompt say about what one does, of the share and of kappa."""
    values = [1.0] * 180 + [0.0] * 120
    one, more = (compute_corrected_share(values, make_labels(GOOD, each=k)) for k in (1, each))
    assert more.p_pass == pytest.approx(one.p_pass, abs=0.01)
    one, more = (kappa_test(make_labels(GOOD, each=k), 0.5, ALPHA) for k in (1, each))
    assert (more.lower, more.p_pass) == pytest.approx((one.lower, one.p_pass))


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_bounds_invert_the_test(alpha: float) -> None:
    """At each bound the p-value is alpha, so that a gate and its interval say the same."""
    values = [1.0] * 180 + [0.5] * 20 + [0.0] * 120
    for given in (make_labels(GOOD), make_labels(GOOD | {(0.5, 0.5): 12, (0.5, 1.0): 6})):
        found = compute_corrected_share(values, given, alpha=alpha)
        assert compute_corrected_share(values, given, found.lower).p_pass == pytest.approx(alpha, rel=1e-3)
        assert compute_corrected_share(values, given, found.upper).p_fail == pytest.approx(alpha, rel=1e-3)
        agreed = kappa_test(given, 0.5, alpha)
        assert kappa_test(given, agreed.lower, alpha).p_pass == pytest.approx(alpha)
        assert kappa_test(given, agreed.upper, alpha).p_fail == pytest.approx(alpha)


def test_instrument_that_knows_nothing_proves_nothing() -> None:
    """Labels by which it says the same of what people prefer and do not: neither side is proven, whatever the rows."""
    blind = make_labels({(1.0, 1.0): 40, (1.0, 0.0): 10, (0.0, 1.0): 40, (0.0, 0.0): 10})
    for values in ([1.0] * 300, [0.0] * 300):
        found = compute_corrected_share(values, blind)
        assert min(found.p_pass, found.p_fail) > 0.4
        assert (found.lower, found.upper) == (0.0, 1.0)
    with pytest.raises(ValueError, match="of one kind cover only 0 prompts"):
        compute_corrected_share([1.0, 0.0], make_labels({(1.0, 1.0): 40}))


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
UNLABELLED: dict[str, tuple[Labels | None, dict[str, Any], str]] = {
    "no labels": (None, {"min": 0.5}, "there are no labels that correct wins"),
    "a difference": (
        make_labels(GOOD),
        {"versus": "base", "better_by": 0.1},
        ", since the judge may err differently on the other model",
    ),
    "failures": (make_labels(GOOD), {"max_failures": 9}, 'labels correct a single model\'s wins; claim "min" or "max"'),
    "a slice": (make_labels(GOOD), {"min": 0.5, "slice": "kind=a"}, "cover all rows and cannot correct slices alone"),
}


@pytest.mark.parametrize("case", UNLABELLED)
def test_what_labels_cannot_correct_is_an_error(case: str) -> None:
    """A gate on a labelled metric never falls back to the instrument's word."""
    given, claim, told = UNLABELLED[case]
    found = decide_with_labels(WINS, [1.0] * 200 + [0.0] * 100, given, **claim)
    assert found.outcome is Outcome.ERROR
    assert told in found.why


@pytest.mark.slow
def test_gate_is_about_the_corrected_share() -> None:
    """57.5 % by a judge of 90 and 74 % is one half by people; a claim from above is the same test turned round."""
    found = decide_with_labels(WINS, [1.0] * 174 + [0.0] * 126, make_labels(GOOD), min=0.5)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.value == found.estimate == pytest.approx(0.5, abs=0.01)
    assert found.why.endswith("n=300, corrected by 100 labels; more labels would decide it, or more rows")
    high = decide_with_labels(WINS, [1.0] * 240 + [0.0] * 60, make_labels(GOOD), min=0.5)
    assert high.outcome is Outcome.PASS
    turned = decide_with_labels(WINS, [1.0] * 240 + [0.0] * 60, make_labels(GOOD), max=0.5)
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


@pytest.mark.slow
def test_simulation_corrects_as_a_gate_does() -> None:
    """Many data sets at once get the same p-values as one by one."""
    rng = np.random.default_rng(2)
    judge_ = judge_rates.JUDGES[3]
    for side in ("", "longer_by"):
        where = [rng.integers(0, 2, shape) if side else np.zeros(shape) for shape in ((20, 60), (20, 90))]
        rows = judge_rates.Pairs(*judge_rates.draw_judgements(rng, judge_, (20, 60), 0.6, 0.2), where[0])
        some = judge_rates.Pairs(*judge_rates.draw_judgements(rng, judge_, (20, 90), 0.5, 0.2), where[1])
        found = judge_rates.p_values(rows, some, 0.5)
        for run in range(20):
            sides = tuple(int(x) for x in some.sides[run]) if side else ()
            given = Labels("wins", tuple(some.people[run]), tuple(some.said[run]), tuple(range(90)), side, sides)
            one = label_corrected_test(
                rows.said[run], [1.0] * 60, None, given, 0.5, ALPHA, rows.sides[run] if side else None
            )
            assert (one.p_pass, one.p_fail) == pytest.approx((found[0][run], found[1][run]))


@pytest.mark.parametrize("of_labels", [0.5, 0.3, 0.7])
def test_favoured_model_that_is_no_better_does_not_pass(of_labels: float) -> None:
    """Equal models, sensitivity 0.9, specificity 0.75, 300 prompts, 100 labels, also of other pairs: 81 % to 5 %."""
    rng = np.random.default_rng(7)
    how = {"share": 0.5, "of_labels": of_labels, "ties": 0.0}
    p_pass, _, word = judge_rates.simulate_rates(rng, judge_rates.FAVOURS, 100, 2000, **how)
    assert (word <= ALPHA).mean() > 0.75
    assert (p_pass <= ALPHA).mean() < 0.065  # 6 %, and one standard error


@pytest.mark.slow
def test_judge_that_likes_the_longer_answer_does_not_pass_equal_models() -> None:
    """Rows of which 80 % are longer, and labels of which 30 % are: 93 % without a look at lengths, at most 5 with."""
    _, judges = judge_rates.LENGTHS[1]
    at = {"share": 0.5, "longer": 0.8, "of_labels": 0.3}
    p_pass, _, without = judge_rates.simulate_by_length(np.random.default_rng(7), judges, 100, 2000, **at)
    assert (without <= ALPHA).mean() > 0.85
    assert (p_pass <= ALPHA).mean() < 0.065


def test_labels_of_a_side_without_rows_tell_nothing_of_it() -> None:
    """Where no row is longer, only the labels of answers that are not are asked."""
    both = make_labels({(1.0, 1.0): 40, (0.0, 0.0): 40}), make_labels({(1.0, 1.0): 20, (1.0, 0.0): 20, (0.0, 0.0): 40})
    truth, said = (tuple(x for given in both for x in getattr(given, name)) for name in ("truth", "said"))
    given = Labels("wins", truth, said, tuple(range(160)), "longer_by", (1,) * 80 + (0,) * 80)
    values = [1.0] * 90 + [0.0] * 110
    one = label_corrected_test(values, [1.0] * 200, None, given, 0.5, ALPHA, [0] * 200)
    alone = compute_corrected_share(values, both[1])
    assert (one.estimate, one.p_pass) == pytest.approx((alone.estimate, alone.p_pass), rel=0.05)


@pytest.mark.parametrize(("each", "kappa_"), [(1, 0.8), (4, 0.9)])
def test_kappas_bound_keeps_its_rate(each: int, kappa_: float) -> None:
    """Few disagreements and four labels an answer: once 11 % and 17 %, now at most 6 %."""
    passed, _, _ = judge_rates.simulate_kappa_rates(np.random.default_rng(3), 1000, 50, each, kappa_, 0.7, 2)
    assert passed < 6.5
