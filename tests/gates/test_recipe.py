"""Gates of a recipe: the mean over seeds, rows and seeds both random."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import pytest

from harness.gates.decide import decide
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample, Score
from harness.records.verdicts import Outcome, Verdict
from harness.stats.result import Test
from harness.stats.seeds import add_seed_spread, seed_reach

ACC = Metric("acc", "higher", "proportion")
GATE = Gate("g", "qa.acc", versus="base", better_by=0.0, of="recipe")
N = 200


def make_result(subject: str, right: int, *, digest: str = "", shift: int = 0) -> Result:
    """Return a result that is right on so many rows, the first of them or those behind a shift."""
    scores = tuple(Score(str(i), {"acc": float((i - shift) % N < right)}) for i in range(N))
    return Result(subject, "qa", scores, {}, digest or subject, rows="rows")


def judge(rights: list[int], *, gate: Gate = GATE, base: int = 100) -> Verdict:
    """Decide a gate of a recipe whose runs are right on so many rows."""
    first, *others = (make_result(f"seed-{i}", right) for i, right in enumerate(rights))
    samples = [Sample(str(i)) for i in range(N)]
    baseline = make_result("base", base) if gate.versus else None
    first = replace(first, other_runs=tuple(others))
    return decide(gate, ACC, first, baseline, samples, 0.05, name="merged")


def test_a_recipe_whose_runs_agree_is_proven_as_one_run_is() -> None:
    """Of runs that are right equally often on the same rows nothing but the rows is random."""
    run = replace(GATE, of="run")
    one = decide(
        run, ACC, make_result("m", 120), make_result("base", 100), [Sample(str(i)) for i in range(N)], 0.05, name="m"
    )
    recipe = judge([120] * 5)
    assert recipe.outcome is one.outcome is Outcome.PASS
    assert (recipe.lower, recipe.p_pass) == pytest.approx((one.lower, one.p_pass))


def test_runs_that_lie_apart_do_not_prove_what_their_rows_would() -> None:
    """The mean is the same, and so is every row's share; what differs is how far the runs lie apart."""
    near, far = judge([118, 119, 120, 121, 122]), judge([90, 105, 120, 135, 150])
    assert (near.estimate, far.estimate) == (pytest.approx(0.1), pytest.approx(0.1))
    assert (near.outcome, far.outcome) == (Outcome.PASS, Outcome.INCONCLUSIVE)
    assert far.run_values == (0.45, 0.525, 0.6, 0.675, 0.75)
    assert "runs of 5 seeds between 0.450 and 0.750, 0.450 ships" in far.why
    assert "; more seeds would help most" in far.why
    assert "seeds vary initialisation, order and held-out rows, not data, hardware or versions" in near.why


def test_the_run_that_ships_may_fail_what_its_recipe_proves() -> None:
    """A gate of the recipe is about the mean, one of the run about the weights that ship."""
    verdict = judge([95, 125, 130, 128, 127])
    assert (verdict.outcome, verdict.run_values[0], verdict.baseline) == (Outcome.PASS, 0.475, 0.5)


@pytest.mark.parametrize(
    ("rights", "why"),
    [([120], "1 run of the recipe, but at least 3 are needed"), ([120, 121], "2 runs of the recipe")],
)
def test_fewer_than_three_runs_are_an_error(rights: list[int], why: str) -> None:
    """Two runs hardly tell how far others would lie apart."""
    verdict = judge(rights)
    assert (verdict.outcome, why in verdict.why) == (Outcome.ERROR, True)


def test_runs_with_the_same_weights_are_an_error() -> None:
    """A trainer that ignores its seed makes one run, however often it is called."""
    runs = [make_result(name, 120, digest="same") for name in ("merged", "merged-seed-2", "merged-seed-3")]
    samples = [Sample(str(i)) for i in range(N)]
    verdict = decide(
        GATE, ACC, replace(runs[0], other_runs=(*runs[1:],)), make_result("base", 100), samples, 0.05, name="merged"
    )
    assert verdict.outcome is Outcome.ERROR
    assert verdict.why == "merged and merged-seed-2 have identical weights, so the trainer does not use its seed"


def test_a_row_that_one_run_lost_counts_against_the_claim() -> None:
    """A value that a seed has not is the worst where a claim is to be proven."""
    runs = [make_result(f"s{i}", 120) for i in range(5)]
    lost = tuple(replace(s, lost=("acc",), weights={"acc": 0.0}) if int(s.id) < 60 else s for s in runs[2].scores)
    samples = [Sample(str(i)) for i in range(N)]
    whole = decide(
        GATE, ACC, replace(runs[0], other_runs=(*runs[1:],)), make_result("base", 100), samples, 0.05, name="m"
    )
    runs[2] = replace(runs[2], scores=lost)
    some = decide(
        GATE, ACC, replace(runs[0], other_runs=(*runs[1:],)), make_result("base", 100), samples, 0.05, name="m"
    )
    assert (whole.outcome, some.outcome) == (Outcome.PASS, Outcome.INCONCLUSIVE)
    assert some.lower < whole.lower  # type: ignore[operator]


@pytest.mark.parametrize("bound", [{"min": 0.5}, {"max": 0.7}])
def test_a_bound_is_judged_for_a_recipe_too(bound: dict[str, float]) -> None:
    """A number may take the place of the baseline; below it a claim is as safe as above."""
    gate = Gate("g", "qa.acc", of="recipe", **bound)  # type: ignore[arg-type]
    assert judge([118, 119, 120, 121, 122], gate=gate).outcome is Outcome.PASS
    assert judge([60, 90, 120, 150, 180], gate=gate).outcome is Outcome.INCONCLUSIVE


def test_a_perplexity_is_averaged_in_nats() -> None:
    """The value of a recipe is the geometric mean of its runs' perplexities."""
    metric = Metric("ppl", "lower", "perplexity", range=(0.0, 10.0))
    gate = Gate("g", "t.ppl", max=20.0, of="recipe")
    samples = [Sample(str(i)) for i in range(60)]
    runs = [
        Result(f"s{k}", "t", tuple(Score(str(i), {"ppl": 1 + k / 10 + i / 100}, 5.0) for i in range(60)), {}, f"d{k}")
        for k in range(3)
    ]
    verdict = decide(gate, metric, replace(runs[0], other_runs=(*runs[1:],)), None, samples, 0.05, name="m")
    first, second, third = verdict.run_values
    assert verdict.value == pytest.approx(second) == pytest.approx((first * third) ** 0.5)
    other = replace(runs[1], scores=tuple(replace(s, weight=6.0) for s in runs[1].scores))
    verdict = decide(
        gate,
        metric,
        replace(
            runs[0],
            other_runs=(
                other,
                runs[2],
            ),
        ),
        None,
        samples,
        0.05,
        name="m",
    )
    assert verdict.why == 'row "0" has the weights 5 and 6 in two runs of the recipe'


@pytest.mark.parametrize("rate", [None, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("runs", [[0.1, 0.12, 0.14], [0.05, 0.1, 0.12, 0.13, 0.2]])
def test_bounds_and_p_values_agree(runs: list[float], rate: float | None) -> None:
    """A threshold is excluded by a bound exactly where its p-value is at most alpha."""
    mean = sum(runs) / len(runs)
    normal = NormalDist(mean, 0.03 / NormalDist().inv_cdf(0.95))
    for threshold in (mean - x / 50 for x in range(-8, 9)):
        p = normal.cdf(threshold)
        rows = Test(mean, mean - 0.03, mean + 0.03, p, 1 - p, "t", 300)
        at = add_seed_spread(rows, runs, threshold, 0.05, rate=rate)
        assert (at.p_pass <= 0.05) == (at.lower >= threshold)
        assert (at.p_fail <= 0.05) == (at.upper <= threshold)
        assert at.lower <= rows.lower and at.upper >= rows.upper


def test_near_one_runs_are_taken_to_differ_more_than_they_did() -> None:
    """Runs at 0.99 lie closer together than they would at 0.95; at one half they lie as far apart as they can."""
    plain = float(seed_reach(0.01, 5, 0.05, None, 0.04))
    assert float(seed_reach(0.01, 5, 0.05, 0.99, 0.04)) == pytest.approx(plain * 0.0475 / 0.0099)
    assert float(seed_reach(0.01, 5, 0.05, 0.5, 0.04)) == plain


def test_a_proof_about_a_recipe_is_none_about_the_weights_that_ship() -> None:
    """A policy that wants a claim about either is not met by a gate about the other."""
    run = replace(GATE, of="run")
    assert GATE.implies(replace(GATE, better_by=0.0), ACC)
    assert not GATE.implies(run, ACC)
    assert not run.implies(GATE, ACC)
