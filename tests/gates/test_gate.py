"""Gates: which test, which verdict, and what is an error."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.gates.decide import decide
from harness.gates.prerequisites import find_export_obstacles
from harness.records import metrics
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.parts.needed import RowsNeeded
from harness.records.samples import Caveat, Result, Sample, Score
from harness.records.verdict_text import format_claim
from harness.records.verdicts import Outcome, Verdict
from harness.stats import hypothesis_tests
from tests.helpers.speed import count_loop_rounds

ACC = Metric("acc", "higher", "proportion")
BY_TWO = {"versus": "base", "worse_by_at_most": 0.02}
LOSS = Metric("loss", "lower", "mean")
PPL = Metric("ppl", "lower", "perplexity")


def make_result(values: list[float], name: str = "merged", metric: str = "acc", weight: float = 1.0) -> Result:
    scores = tuple(Score(str(i), {metric: v}, weight) for i, v in enumerate(values))
    return Result(name, "e", scores, {}, f"digest of {name}")


def make_gate(**claim: object) -> Gate:
    metric = claim.pop("metric", "e.acc")
    return Gate("g", str(metric), "suite.toml", **claim)  # type: ignore[arg-type]


def decide_gate(
    claim: Gate, metric: Metric, ours: Result | None, theirs: Result | None = None, **kw: object
) -> Verdict:
    rows = len(ours.scores) if ours else 3
    samples = kw.pop("samples", [Sample(str(i)) for i in range(rows)])
    return decide(claim, metric, ours, theirs, samples, 0.05, name="merged")  # type: ignore[arg-type]


def make_zeros_and_ones(right: int, n: int) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


@pytest.mark.parametrize(("right", "outcome"), [(80, "PASS"), (50, "FAIL"), (63, "INCONCLUSIVE")])
def test_floor(right: int, outcome: str) -> None:
    """A proportion against a number is an exact binomial test, and says when it does not know."""
    found = decide_gate(make_gate(min=0.65), ACC, make_result(make_zeros_and_ones(right, 100)))
    assert (found.outcome, found.method) == (outcome, "exact binomial")


def test_rows_that_changed_are_counted_whole() -> None:
    """Of a metric that changes on every row 20 each are named, and all are counted; of a share all are named."""
    base, ours = [1.0] * 100, [0.0 if i < 70 else 2.0 for i in range(100)]
    losses = make_result(base, "base", "loss"), make_result(ours, metric="loss")
    found = decide_gate(make_gate(versus="base", better_by=0.0, metric="e.loss"), LOSS, losses[1], losses[0])
    assert (len(found.won), len(found.lost), found.won_count, found.lost_count) == (20, 20, 70, 30)
    right = decide_gate(
        make_gate(**BY_TWO),
        ACC,
        make_result(make_zeros_and_ones(50, 100)),
        make_result(make_zeros_and_ones(90, 100), "base"),
    )
    assert (len(right.won), len(right.lost), right.won_count, right.lost_count) == (0, 40, 0, 40)
    alone = decide_gate(make_gate(min=0.5), ACC, make_result(make_zeros_and_ones(80, 100)))
    assert (alone.won_count, alone.lost_count) == (0, 0)


@pytest.mark.parametrize(("wrong", "outcome"), [(2, "PASS"), (60, "FAIL")])
def test_ceiling(wrong: int, outcome: str) -> None:
    """`max` on a proportion is the same test on the other side, told on the metric's own scale."""
    found = decide_gate(make_gate(max=0.2), ACC, make_result(make_zeros_and_ones(wrong, 100)))
    assert found.outcome == outcome
    assert found.estimate == pytest.approx(wrong / 100)
    assert found.lower < found.estimate < found.upper  # type: ignore[operator]


def test_margin_zero_is_mcnemar_and_counts_flips() -> None:
    """Better than the baseline on the same rows: McNemar's test, with the rows that changed both ways."""
    ours, theirs = (
        make_result(make_zeros_and_ones(60, 100)),
        make_result([0.0] * 2 + make_zeros_and_ones(38, 98), "base"),
    )
    found = decide_gate(make_gate(versus="base", better_by=0.0), ACC, ours, theirs)
    assert (found.outcome, found.method) == ("PASS", "McNemar unconditional")
    assert (len(found.won), len(found.lost)) == (22, 0)


def test_margin_is_tango_and_few_rows_prove_nothing() -> None:
    """Two all but identical models on 50 rows do not prove "no worse by 2 points"; a bootstrap would say they do."""
    ours, theirs = make_result(make_zeros_and_ones(26, 50)), make_result(make_zeros_and_ones(25, 50), "base")
    found = decide_gate(make_gate(versus="base", worse_by_at_most=0.02), ACC, ours, theirs)
    assert (found.outcome, found.method) == ("INCONCLUSIVE", "Tango score")
    assert found.parts["rows_needed"].rows > 50


@pytest.mark.parametrize(
    ("right", "of", "says"),
    [
        (168, 200, "; about 270 to 2,500 rows would decide it, probably as PASS"),
        (165, 200, "; at least 470 rows would be needed, probably to PASS"),
        (164, 200, "; at least 580 rows would be needed, probably to PASS"),
        (161, 200, "; too close to call: more than 20 times these rows would be needed"),
        (9, 11, "; 11 rows are too few to decide: more than 220 would be needed"),
        (160, 200, "; more rows like these would not decide it"),
    ],
)
def test_rows_that_would_decide_are_a_range(right: int, of: int, says: str) -> None:
    """The nearer the estimate is to the threshold, the less is promised; the number at the estimate is kept."""
    found = decide_gate(make_gate(min=0.8), ACC, make_result(make_zeros_and_ones(right, of)))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert says in found.why
    needed = found.get(RowsNeeded)
    assert (needed is None or needed.rows is None) == (right == 160)
    assert (needed is None or needed.range is None) == (right <= 161)


def test_lower_is_better_is_oriented() -> None:
    """A loss that falls is better, without a sign in the suite."""
    ours, theirs = make_result([1.0 + 0.01 * (i % 7) for i in range(200)], metric="loss"), None
    theirs = make_result([1.5 + 0.02 * (i % 5) for i in range(200)], "base", "loss")
    found = decide_gate(
        make_gate(metric="e.loss", versus="base", better_by=0.2, allow_approximate=True), LOSS, ours, theirs
    )
    assert found.outcome is Outcome.PASS
    assert found.estimate is not None
    assert found.estimate < 0


def test_perplexity_margins_are_relative() -> None:
    """Half of the base's perplexity is a fall of log 2 nats per token; a tenth more is no pass at two percent."""
    theirs = make_result([2.0 + 0.1 * (i % 3) for i in range(100)], "base", "ppl", weight=10)
    nats = [s.values["ppl"] for s in theirs.scores]
    half = make_result([v - 0.8 + 0.01 * (i % 2) for i, v in enumerate(nats)], metric="ppl", weight=10)
    worse = make_result([v + 0.1 + 0.01 * (i % 2) for i, v in enumerate(nats)], metric="ppl", weight=10)
    claim = make_gate(metric="e.ppl", versus="base", better_by=0.5, allow_approximate=True)
    assert decide_gate(claim, PPL, half, theirs).outcome is Outcome.PASS
    assert (
        decide_gate(make_gate(metric="e.ppl", versus="base", worse_by_at_most=0.02), PPL, worse, theirs).outcome
        is Outcome.FAIL
    )


def test_perplexity_of_other_tokens_is_an_error() -> None:
    """Two tokenizers cannot be compared a token: the error says what can be."""
    ours, theirs = make_result([2.0] * 30, metric="ppl", weight=10), make_result([2.5] * 30, "base", "ppl", weight=12)
    found = decide_gate(make_gate(metric="e.ppl", versus="base", better_by=0.0), PPL, ours, theirs)
    assert found.outcome is Outcome.ERROR
    assert "bits_per_byte" in found.why


def test_clusters_never_use_a_test_for_independent_rows() -> None:
    """Rows of one cluster are one observation: copies of them do not make a proof."""
    samples = [Sample(str(i), cluster=str(i // 10)) for i in range(300)]
    found = decide_gate(make_gate(min=0.5), ACC, make_result([1.0] * 200 + [0.0] * 100), samples=samples)
    assert found.method == "cluster t"
    assert found.units == 30
    alone = decide_gate(make_gate(min=0.5), ACC, make_result([1.0] * 200 + [0.0] * 100))
    assert found.upper - found.lower > 2 * (alone.upper - alone.lower)  # type: ignore[operator]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_none_is_an_error(bad: float) -> None:
    """NaN and infinity are errors with the row named, never a pass and never a zero."""
    found = decide_gate(make_gate(min=0.1), ACC, make_result([1.0, bad, 1.0]))
    assert found.outcome is Outcome.ERROR
    assert '"1"' in found.why


def test_missing_results_and_baselines_are_errors() -> None:
    """No result, no baseline, no rows, a baseline that lacks rows: each an error that says so."""
    claim = make_gate(versus="base", better_by=0.0)
    assert "was not evaluated" in decide_gate(claim, ACC, None).why
    assert 'baseline "base" was not evaluated' in decide_gate(claim, ACC, make_result([1.0] * 9)).why
    assert "rows have no score," in decide_gate(claim, ACC, make_result([1.0] * 9), make_result([1.0] * 8, "base")).why
    assert "the evaluation has no rows" in decide_gate(claim, ACC, make_result([]), samples=[]).why


def test_same_digest_is_an_error() -> None:
    """A model compared with itself is an error, whatever its numbers say."""
    ours = make_result([1.0] * 50)
    found = decide_gate(make_gate(versus="base", better_by=0.0), ACC, ours, make_result([0.0] * 50, "merged"))
    assert found.outcome is Outcome.ERROR
    assert "), so there is nothing to compare" in found.why


def test_slice_judges_its_rows_only() -> None:
    """A gate on a slice counts the slice's rows."""
    samples = [Sample(str(i), row={"kind": "ab"[i % 2]}) for i in range(100)]
    ours = make_result([1.0 if i % 2 else 0.0 for i in range(100)])
    found = decide_gate(make_gate(min=0.5, slice="kind=b", min_n=50), ACC, ours, samples=samples)
    assert (found.outcome, found.n) == (Outcome.PASS, 50)


def test_ships_only_on_positive_proof() -> None:
    """Every blocking gate must have passed on this candidate; a warning may fail, silence may not."""
    block, warn = make_gate(min=0.1), Gate("w", "e.acc", "s", min=0.9, severity="warn")
    passed = decide_gate(block, ACC, make_result([1.0] * 50))
    assert find_export_obstacles([passed], [block, warn], "merged") == []
    assert find_export_obstacles([passed], [block], "adapter") != []
    assert find_export_obstacles([], [block], "merged") == ['gate "g" has no verdict on merged']
    assert find_export_obstacles([], [warn], "merged") == ["no blocking gate is on merged"]


def test_budget_is_a_point() -> None:
    """A count is compared as it is: one row, no interval."""
    size = Metric("bytes", "lower", "count")
    found = decide_gate(make_gate(metric="e.bytes", max=1000), size, make_result([999.0], metric="bytes"))
    assert (found.outcome, found.method, found.estimate) == (Outcome.PASS, "point", 999.0)
    assert (
        decide_gate(make_gate(metric="e.bytes", max=1000), size, make_result([1001.0], metric="bytes")).outcome
        is Outcome.FAIL
    )


F1 = Metric("f1", "higher", "mean")
SHARE = Metric("share", "higher", "proportion")


def make_spread_values(mean: float, n: int = 200) -> list[float]:
    """Return values around a mean that vary a little from row to row."""
    return [mean + 0.01 * ((i * 7) % 11 - 5) for i in range(n)]


def test_relative_margin_on_a_mean_divides_by_nothing() -> None:
    """ "2%" of a mean is a claim about candidate - 0.98 x baseline, row by row."""
    theirs = make_result(make_spread_values(0.5), "base", "f1")
    near = make_result([v - 0.005 + 0.002 * (i % 3) for i, v in enumerate(make_spread_values(0.5))], metric="f1")
    far = make_result([v - 0.02 + 0.002 * (i % 3) for i, v in enumerate(make_spread_values(0.5))], metric="f1")
    claim = make_gate(metric="e.f1", versus="base", worse_by_at_most="2%", allow_approximate=True)
    found = decide_gate(claim, F1, near, theirs)
    assert (found.outcome, found.threshold) == (Outcome.PASS, pytest.approx(-0.02 * 0.5, abs=1e-4))
    assert found.estimate == pytest.approx(-0.003, abs=1e-4)
    assert found.value is not None and found.baseline is not None
    assert found.estimate == pytest.approx(found.value - found.baseline)
    assert decide_gate(claim, F1, far, theirs).outcome is Outcome.FAIL


def test_relative_margin_of_a_proportion_is_told_in_points() -> None:
    """ "3%" of 708 of 1,000 rows is 2.1 points, and the claim says so; 0.03 is 3 points as it stands."""
    theirs, ours = (make_result(make_zeros_and_ones(708, 1000), name) for name in ("base", "merged"))
    relative = decide_gate(make_gate(versus="base", worse_by_at_most="3%"), ACC, ours, theirs)
    absolute = decide_gate(make_gate(versus="base", worse_by_at_most=0.03), ACC, ours, theirs)
    assert format_claim(relative) == "e.acc worse than base by at most 3% (3% of 0.708 = 2.1 points)"
    assert format_claim(absolute) == "e.acc worse than base by at most 0.03"


def test_relative_margin_of_a_loss_is_above_the_baseline() -> None:
    """Where less is better, "worse by 10%" allows 1.1 times the baseline."""
    theirs = make_result(make_spread_values(1.0), "base", "loss")
    worse = make_result([v + 0.05 + 0.001 * (i % 3) for i, v in enumerate(make_spread_values(1.0))], metric="loss")
    for margin, outcome in (("10%", "PASS"), ("2%", "FAIL")):
        claim = make_gate(metric="e.loss", versus="base", worse_by_at_most=margin, allow_approximate=True)
        assert decide_gate(claim, LOSS, worse, theirs).outcome == outcome


def test_relative_margin_of_a_perplexity_is_on_the_log_scale() -> None:
    """ "2%" and 0.02 are the same claim about a perplexity: log(1.02) nats per token."""
    theirs = make_result([2.0 + 0.1 * (i % 3) for i in range(100)], "base", "ppl", weight=10)
    ours = make_result(
        [s.values["ppl"] + 0.001 * (i % 2) for i, s in enumerate(theirs.scores)], metric="ppl", weight=10
    )
    for margin in ("2%", 0.02):
        found = decide_gate(make_gate(metric="e.ppl", versus="base", worse_by_at_most=margin), PPL, ours, theirs)
        assert found.threshold == pytest.approx(math.log(1.02))


def test_share_of_a_baseline_that_is_not_positive_is_an_error() -> None:
    """Two percent of zero is no margin."""
    theirs = make_result(make_spread_values(0.0), "base", "f1")
    found = decide_gate(
        make_gate(metric="e.f1", versus="base", worse_by_at_most="2%", allow_approximate=True),
        F1,
        make_result(make_spread_values(0.1), metric="f1"),
        theirs,
    )
    assert found.outcome is Outcome.ERROR
    assert ", so a share of it is not a margin; write the margin in the metric's units" in found.why


@pytest.mark.parametrize(("failed", "outcome"), [(0, "PASS"), (1, "FAIL")])
def test_max_failures_says_what_rate_it_rules_out(failed: int, outcome: str) -> None:
    """ "Never" is a count of rows, and the verdict says how often it may happen all the same: the rule of three."""
    found = decide_gate(make_gate(max_failures=0), ACC, make_result(make_zeros_and_ones(300 - failed, 300)))
    assert (found.outcome, found.estimate) == (outcome, failed)
    if not failed:
        assert found.upper == pytest.approx(3 / 300, rel=0.01)
        assert "no row of 300 failed; at 95% confidence at most 0.99% of such rows do" in found.why


def test_max_failures_of_clusters_bounds_the_clusters() -> None:
    """Rows of one cluster fail together, so the bound is on the share of clusters with a failure."""
    samples = [Sample(str(i), cluster=str(i // 10)) for i in range(300)]
    found = decide_gate(make_gate(max_failures=0), ACC, make_result([1.0] * 300), samples=samples)
    assert found.upper == pytest.approx(1 - 0.05 ** (1 / 30))


def test_max_failures_wants_a_metric_of_zeros_and_ones() -> None:
    """A row that half failed cannot be counted."""
    found = decide_gate(
        make_gate(metric="e.share", max_failures=0), SHARE, make_result([1.0, 0.5, 1.0], metric="share")
    )
    assert found.outcome is Outcome.ERROR
    assert "; max_failures needs a 0/1 metric" in found.why


def test_no_mean_of_rows_is_a_point() -> None:
    """A mean of three rows is a sample of them, and nothing that a gate says makes a budget of it."""
    seconds = Metric("seconds", "lower", "mean")
    claim = make_gate(metric="e.seconds", max=2.0)
    assert decide_gate(claim, seconds, make_result([1.9, 2.2, 1.6], metric="seconds")).outcome is Outcome.INCONCLUSIVE


def make_sliced_rows(rates: dict[str, tuple[int, int]]) -> tuple[list[Sample], Result]:
    """Return rows of several slices: name -> (right, n)."""
    rows = [(name, i < right) for name, (right, n) in rates.items() for i in range(n)]
    samples = [Sample(str(i), row={"kind": name}) for i, (name, _) in enumerate(rows)]
    return samples, make_result([float(right) for _, right in rows])


def test_every_large_slice_must_prove_the_claim() -> None:
    """Slices are judged each; the one that fails drives the verdict, whatever the mean says."""
    samples, ours = make_sliced_rows({"a": (190, 200), "b": (180, 200), "c": (60, 100)})
    found = decide_gate(make_gate(min=0.75, slice="kind=*"), ACC, ours, samples=samples)
    assert (found.outcome, found.where) == (Outcome.FAIL, "kind=c")
    assert [(s.name, s.outcome) for s in found.parts["slices"].slices] == [
        ("kind=a", "PASS"),
        ("kind=b", "PASS"),
        ("kind=c", "FAIL"),
    ]
    assert (
        decide_gate(make_gate(min=0.75, slice=["kind=a", "kind=b"]), ACC, ours, samples=samples).outcome is Outcome.PASS
    )


def test_slice_that_is_named_twice_counts_once() -> None:
    """A slice beside `*` is one of the slices that `*` stands for."""
    samples, ours = make_sliced_rows({"a": (90, 100), "b": (90, 100)})
    found = decide_gate(make_gate(min=0.75, slice=["kind=a", "kind=*"]), ACC, ours, samples=samples)
    assert [(s.name, s.n) for s in found.parts["slices"].slices] == [("kind=a", 100), ("kind=b", 100)]


def test_small_slices_block_only_on_significant_harm() -> None:
    """Slices below min_n need not prove anything, but a broken one is an alarm; by Holm, for there are several."""
    small = {f"s{i}": (8, 10) for i in range(8)}
    samples, ours = make_sliced_rows({"big": (190, 200), **small})
    found = decide_gate(make_gate(min=0.85, slice="kind=*"), ACC, ours, samples=samples)
    assert found.outcome is Outcome.PASS
    assert "8 slices below 60 rows: no significant harm" in found.why
    samples, ours = make_sliced_rows({"big": (190, 200), **small, "s3": (2, 10)})
    found = decide_gate(make_gate(min=0.85, slice="kind=*"), ACC, ours, samples=samples)
    assert (found.outcome, found.where) == (Outcome.FAIL, "kind=s3")
    one_in_twenty = hypothesis_tests.binomial(6, 10, 0.85, 0.05).p_fail  # below 0.05 alone, not among eight
    assert one_in_twenty < 0.06
    samples, ours = make_sliced_rows({"big": (190, 200), **small, "s3": (6, 10)})
    assert decide_gate(make_gate(min=0.85, slice="kind=*"), ACC, ours, samples=samples).outcome is Outcome.PASS


def test_identical_quality_in_many_small_slices_is_not_blocked() -> None:
    """The rule "any slice drops more than 10 points" would refute this candidate; alarms do not, and prove nothing."""
    samples = [Sample(str(i), row={"kind": str(i % 8)}) for i in range(80)]
    theirs = make_result([float(i % 3 > 0) for i in range(80)], "base")
    ours = make_result([float((i + i // 40) % 3 > 0) for i in range(80)])
    found = decide_gate(
        make_gate(versus="base", worse_by_at_most=0.1, slice="kind=*"), ACC, ours, theirs, samples=samples
    )
    assert (found.outcome, found.p_pass) == (Outcome.INCONCLUSIVE, 1.0)
    assert "no slice has 60 rows (min_n), so nothing is proven" in found.why
    assert all(s.alarm for s in found.parts["slices"].slices)


@pytest.mark.parametrize("right", [59, 58, 40])
@pytest.mark.parametrize("kinds", [1, 3])
def test_slices_that_are_all_small_never_pass(right: int, kinds: int) -> None:
    """Alarms prove nothing: one of 59 right rows, or three, do not pass a floor; one row more in one of them may."""
    claim = make_gate(min=0.6, slice="kind=*")
    samples, ours = make_sliced_rows({f"s{i}": (right, 59) for i in range(kinds)})
    assert decide_gate(claim, ACC, ours, samples=samples).outcome is Outcome.INCONCLUSIVE
    samples, ours = make_sliced_rows({"s0": (60, 60), **{f"s{i}": (right, 59) for i in range(1, kinds)}})
    assert decide_gate(claim, ACC, ours, samples=samples).outcome is Outcome.PASS


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    rates=st.lists(st.tuples(st.integers(0, 70), st.integers(1, 70)), min_size=1, max_size=4),
    bound=st.floats(0, 1),
    min_n=st.integers(2, 70),
    whole=st.booleans(),
)
def test_a_pass_is_a_proof(rates: list[tuple[int, int]], bound: float, min_n: int, whole: bool) -> None:
    """No gate, with slices or without, passes unless its p-value is at most alpha."""
    samples, ours = make_sliced_rows({f"s{i}": (min(right, n), n) for i, (right, n) in enumerate(rates)})
    found = decide_gate(
        make_gate(min=bound, min_n=min_n, **({} if whole else {"slice": "kind=*"})), ACC, ours, samples=samples
    )
    assert found.outcome is not Outcome.PASS or (found.p_pass is not None and found.p_pass <= 0.05)


@pytest.mark.parametrize("outcome", ["PASS", "pass", "ERROR"])
def test_a_caveat_opens_no_gate(outcome: str) -> None:
    """An evaluator's caveat keeps a gate shut whatever outcome it names, PASS included."""
    ours = replace(make_result([1.0] * 100), caveats=(Caveat("as I say", outcome),))  # type: ignore[arg-type]
    assert decide_gate(make_gate(min=0.5), ACC, ours).outcome is Outcome.ERROR


def test_slices_of_one_row_each_say_nothing() -> None:
    """Slices of which nothing can be said are counted; where there is no other the gate is an error."""
    samples, ours = make_sliced_rows({f"s{i}": (1, 1) for i in range(40)})
    found = decide_gate(make_gate(min=0.5, slice="kind=*"), ACC, ours, samples=samples)
    assert (found.outcome, found.why) == (Outcome.ERROR, "none of 40 slices has enough rows to decide")
    samples, ours = make_sliced_rows({"big": (190, 200), "s1": (0, 1), "s2": (1, 1)})
    found = decide_gate(make_gate(min=0.5, slice="kind=*"), ACC, ours, samples=samples)
    assert found.outcome is Outcome.PASS
    assert "2 too small to decide" in found.why


def test_slice_in_which_nothing_changed_is_judged() -> None:
    """Ties on all rows are an error, ties on one slice are not: there the exact tests say what they rule out."""
    samples = [Sample(str(i), row={"kind": "ab"[i // 200]}) for i in range(400)]
    theirs = make_result([1.0] * 200 + make_zeros_and_ones(180, 200), "base")
    ours = make_result([1.0] * 200 + make_zeros_and_ones(182, 200))
    found = decide_gate(
        make_gate(versus="base", worse_by_at_most=0.05, slice="kind=*"), ACC, ours, theirs, samples=samples
    )
    assert [s.outcome for s in found.parts["slices"].slices] == ["PASS", "PASS"]
    odd = make_result([1.0] * 399 + [math.nan])
    assert decide_gate(make_gate(min=0.5, slice="kind=*"), ACC, odd, samples=samples).outcome is Outcome.ERROR


def test_slice_that_is_missing_is_an_error() -> None:
    """A declared slice without rows is an error, also beside slices that pass."""
    assert (
        "the evaluation has no rows"
        in decide_gate(make_gate(min=0.5, slice="kind=*"), ACC, make_result([]), samples=[]).why
    )
    samples, ours = make_sliced_rows({"a": (190, 200)})
    found = decide_gate(make_gate(min=0.5, slice=["kind=a", "kind=z"]), ACC, ours, samples=samples)
    assert (found.outcome, found.why) == (Outcome.ERROR, 'slice "kind=z" has no rows')


def test_a_pass_names_a_declared_slice_that_is_refuted() -> None:
    """What is proven of all rows may be refuted on one language by itself; small slices are not looked at."""
    kinds = ["de"] * 100 + ["en"] * 900 + ["fr"] * 20
    samples = [Sample(str(i), row={"lang": kind}) for i, kind in enumerate(kinds)]
    theirs = [*make_zeros_and_ones(80, 100), *make_zeros_and_ones(700, 900), *make_zeros_and_ones(20, 20)]
    ours = [*make_zeros_and_ones(60, 100), *make_zeros_and_ones(740, 900), *make_zeros_and_ones(0, 20)]
    claim = make_gate(versus="base", worse_by_at_most=0.03)
    before = make_result(theirs, "base")
    told = decide(claim, ACC, make_result(ours), before, samples, 0.05, name="merged", columns=["lang"])
    assert told.outcome == "PASS"
    assert "but refuted on lang=de (−0.200, p < 0.0001) alone" in told.why
    assert "lang=fr" not in told.why
    alike = decide(claim, ACC, make_result(theirs), before, samples, 0.05, name="merged", columns=["lang"])
    assert (alike.outcome, "refuted" in alike.why) == ("PASS", False)


def test_failing_comparison_names_its_worst_slice_and_rows() -> None:
    """A gate on everything says which slice of the eval drives its failure, and lists what it lost, worst first."""
    samples = [Sample(str(i), row={"kind": "ab"[i % 2]}) for i in range(400)]
    theirs = make_result([1.0] * 400, "base")
    ours = make_result([0.0 if i % 2 and i < 120 else 1.0 for i in range(400)])
    claim = make_gate(versus="base", worse_by_at_most=0.02)
    found = decide(claim, ACC, ours, theirs, samples, 0.05, name="merged", columns=["kind"])
    assert found.outcome is Outcome.FAIL
    assert found.parts["worst_slice"].worst.name == "kind=b"
    assert found.lost == tuple(str(i) for i in range(1, 120, 2))
    shares = [Metric("share", "higher", "proportion"), make_result([0.2, 0.9, 0.6, 0.5], metric="share")]
    before = make_result([0.9, 0.4, 0.9, 0.5], "base", "share")
    found = decide_gate(make_gate(metric="e.share", versus="base", better_by=0.0), shares[0], shares[1], before)  # type: ignore[arg-type]
    assert (found.won, found.lost) == (("1",), ("0", "2"))


# Bad input: never a verdict ------------------------------------------------------------------------


def read_error_reason(claim: Gate, metric: Metric, ours: Result, theirs: Result | None = None, **kw: object) -> str:
    """Return why a gate is an ERROR."""
    found = decide_gate(claim, metric, ours, theirs, **kw)
    assert found.outcome is Outcome.ERROR
    return found.why


def test_one_cluster_proves_nothing() -> None:
    """All rows from one document say nothing about another."""
    samples = [Sample(str(i), cluster="c") for i in range(100)]
    assert "all 100 rows are in one cluster, which proves nothing about other clusters" in read_error_reason(
        make_gate(min=0.5), ACC, make_result([1.0] * 100), samples=samples
    )
    assert "rows are in one cluster, which proves nothing about other clusters" in read_error_reason(
        make_gate(max_failures=0), ACC, make_result([1.0] * 100), samples=samples
    )


def test_constant_differences_prove_nothing() -> None:
    """A candidate that is better by exactly the same on every row is a broken metric, not a sure thing."""
    theirs = make_result(make_spread_values(0.5), "base", "f1")
    ours = make_result([v + 0.25 for v in make_spread_values(0.5)], metric="f1")
    why = read_error_reason(make_gate(metric="e.f1", versus="base", better_by=0.0), F1, ours, theirs)
    assert "every row differs from the baseline by the same amount, 0.25" in why
    assert "every row has the same value" in read_error_reason(
        make_gate(metric="e.f1", min=0.1), F1, make_result([0.5] * 99, metric="f1")
    )


def test_constant_clusters_prove_nothing() -> None:
    """Rows that vary inside their clusters, but not from one cluster to the next, leave no variance to judge by."""
    samples = [Sample(str(i), cluster=str(i // 2)) for i in range(60)]
    why = read_error_reason(
        make_gate(metric="e.f1", min=0.1), F1, make_result([0.25, 0.75] * 30, metric="f1"), samples=samples
    )
    assert "nothing varies" in why


UNCHANGED = {  # metric, claim, rows, clusters or None: what is said of a candidate that changed none of them
    "better at all": (ACC, {"better_by": 0.0}, 500, None, "ERROR"),
    "better by some": (ACC, {"better_by": 0.05}, 500, None, "ERROR"),
    "no worse at all": (ACC, {"worse_by_at_most": 0.0}, 500, None, "ERROR"),
    "a margin": (ACC, {"worse_by_at_most": 0.01}, 299, None, "PASS"),
    "a margin on one row less": (ACC, {"worse_by_at_most": 0.01}, 298, None, "INCONCLUSIVE"),
    "a margin on many rows": (ACC, {"worse_by_at_most": 0.005}, 598, None, "PASS"),
    "a margin on not so many": (ACC, {"worse_by_at_most": 0.005}, 597, None, "INCONCLUSIVE"),
    "a share": (ACC, {"worse_by_at_most": "5%"}, 200, None, "PASS"),
    "scores": (SHARE, {"worse_by_at_most": 0.01}, 299, None, "PASS"),
    "scores on one row less": (SHARE, {"worse_by_at_most": 0.01}, 298, None, "INCONCLUSIVE"),
    "scores, better": (SHARE, {"better_by": 0.0}, 500, None, "ERROR"),
    "clusters": (ACC, {"worse_by_at_most": 0.1}, 500, 29, "PASS"),
    "a cluster less": (ACC, {"worse_by_at_most": 0.1}, 500, 28, "INCONCLUSIVE"),
    "scores in clusters": (SHARE, {"worse_by_at_most": 0.1}, 500, 28, "INCONCLUSIVE"),
    "a share in clusters": (ACC, {"worse_by_at_most": "5%"}, 500, 20, "INCONCLUSIVE"),
    "a loss": (LOSS, {"worse_by_at_most": 0.1}, 500, None, "ERROR"),
    "a perplexity": (PPL, {"worse_by_at_most": 0.1}, 500, None, "ERROR"),
}


@pytest.mark.parametrize("case", UNCHANGED)
def test_what_no_row_changed_is_bounded_by_the_rule_of_three(case: str) -> None:
    """Rows or clusters of which none changed prove a margin (1 - margin)^n, and nothing without one or without a range.

    As other rows do: one that was lost can only make it harder.
    """
    metric, claim, n, clusters, outcome = UNCHANGED[case]
    values = [float(i % 5 > 0) if metric is ACC else (i % 7) / 8 for i in range(n)]
    samples = [Sample(str(i), cluster=clusters and str(i % clusters)) for i in range(n)]
    ours, theirs = (make_result(values, name, metric.name) for name in ("merged", "base"))
    asked = make_gate(metric=f"e.{metric.name}", versus="base", **claim)  # type: ignore[arg-type]
    found = decide_gate(asked, metric, ours, theirs, samples=samples)
    assert found.outcome == outcome, found.why
    if outcome == "ERROR":
        assert f"none of {n} rows differs from the baseline, so there is nothing to compare" in found.why
        assert ("no known range" in found.why) is (metric in (LOSS, PPL))
    else:
        lost = decide_gate(
            asked, metric, make_result([values[0], 0.0, *values[2:]], metric=metric.name), theirs, samples=samples
        )
        assert found.p_pass <= lost.p_pass  # type: ignore[operator]


def test_a_slice_of_an_unbounded_metric_that_did_not_change_proves_nothing() -> None:
    """A share of the baseline varies with the baseline alone, so a slice without a change is no proof of a margin."""
    samples = [Sample(str(i), row={"kind": "ab"[i // 100]}) for i in range(200)]
    theirs = make_result(make_spread_values(1.0), "base", "loss")
    ours = make_result(
        [*make_spread_values(1.0)[:100], *(v - 0.1 for v in make_spread_values(1.0)[100:])], metric="loss"
    )
    claim = make_gate(metric="e.loss", versus="base", worse_by_at_most="2%", slice="kind=*")
    assert "kind=a: none of 100 rows differs from the baseline, so there is nothing to compare" in read_error_reason(
        claim, LOSS, ours, theirs, samples=samples
    )


def test_scores_of_a_slice_that_did_not_change_are_judged() -> None:
    """Scores that no row of a slice changed prove a margin there as 0/1 rows do, and nothing without one."""
    samples = [Sample(str(i), row={"kind": "ab"[i // 200]}) for i in range(400)]
    theirs = make_result([(i % 7) / 8 for i in range(400)], "base", "share")
    ours = make_result([(i % 7 + (i >= 200) * (1 + i % 2) / 2) / 8 for i in range(400)], metric="share")
    for margin, outcomes in (
        ({"worse_by_at_most": 0.05}, ["PASS", "PASS"]),
        ({"better_by": 0.0}, ["INCONCLUSIVE", "PASS"]),
    ):
        found = decide_gate(
            make_gate(metric="e.share", versus="base", slice="kind=*", **margin), SHARE, ours, theirs, samples=samples
        )
        assert [s.outcome for s in found.parts["slices"].slices] == outcomes, found.why


@pytest.mark.parametrize("claim", [{"min": 0.1}, {"max_failures": 0}, {"versus": "base", "better_by": 0.0}])
def test_one_row_proves_nothing(claim: dict[str, object]) -> None:
    """n = 1 is an error under every claim."""
    assert "there is only one row, which proves nothing about others" in read_error_reason(
        make_gate(**claim), ACC, make_result([1.0]), make_result([0.0], "base")
    )


def test_baseline_on_other_rows_is_refused() -> None:
    """The same ids are not the same rows, and rows that are not the gate's are nobody's."""
    claim = make_gate(versus="base", better_by=0.0)
    ours, theirs = make_result(make_zeros_and_ones(60, 100)), make_result(make_zeros_and_ones(40, 100), "base")
    other = read_error_reason(
        claim, ACC, replace(ours, rows="rows of today"), replace(theirs, rows="rows of yesterday")
    )
    assert '" and the candidate were evaluated on different rows' in other
    assert "rows that are not in the evaluation," in read_error_reason(
        claim, ACC, ours, make_result(make_zeros_and_ones(40, 101), "base")
    )


def test_proportion_beyond_one_is_an_error() -> None:
    """A percentage in place of a share is no proportion."""
    assert "is a proportion, but not between 0 and 1 on 2 rows," in read_error_reason(
        make_gate(min=0.5), ACC, make_result([1.0, 80.0, 90.0])
    )


WRONG = {
    "a percentage for a proportion": (ACC, {"min": 80}, "is a proportion from 0 to 1; did you mean 0.8?"),
    "points for a proportion": (
        ACC,
        {"versus": "base", "worse_by_at_most": 2},
        "worse_by_at_most is 2, but acc is a proportion; write 2 points as 0.02",
    ),
    "a whole number for a perplexity": (
        PPL,
        {"versus": "base", "worse_by_at_most": 2.0},
        'if that is intended, write "200%"',
    ),
    "a perplexity below one": (PPL, {"max": 0.5}, "max is 0.5, but a perplexity is 1 or more"),
    "more than everything": (PPL, {"versus": "base", "better_by": "150%"}, ", which would leave a"),
    "failures of a mean": (F1, {"max_failures": 0}, "max_failures counts rows of a 0/1 metric"),
}


@pytest.mark.parametrize("case", WRONG)
def test_claims_on_another_scale_are_mistakes(case: str) -> None:
    """A claim that cannot be meant for its metric is told at collection."""
    metric, claim, told = WRONG[case]
    assert any(told in m for m in make_gate(metric=f"e.{metric.name}", **claim).find_metric_mistakes(metric))


@pytest.mark.parametrize(
    ("margin", "told"),
    [
        ("2", '"; give a number in the metric\'s units, or a share such as "2%"'),
        ("-2%", "a margin must be 0 or more; its direction is that of the metric"),
        ("2 points", "a share such as"),
    ],
)
def test_margins_of_another_unit_are_mistakes(margin: str, told: str) -> None:
    """A margin is a number or a share, and has no sign."""
    assert any(told in m for m in make_gate(versus="base", better_by=margin).find_mistakes())


@pytest.mark.slow
def test_rows_are_cheap() -> None:
    """Three kinds of tests on 100,000 rows take no longer than some millions of additions."""
    samples = [Sample(str(i)) for i in range(100_000)]
    right = make_result([float(i % 10 > 1) for i in range(100_000)])
    before = make_result([float(i % 10 > 2) for i in range(100_000)], "base")
    nats = make_result([2.0 + 0.01 * (i % 7) for i in range(100_000)], metric="ppl", weight=9)
    for claim, metric, ours, theirs in (
        (make_gate(min=0.7), ACC, right, None),
        (make_gate(versus="base", worse_by_at_most=0.01), ACC, right, before),
        (make_gate(metric="e.ppl", max=9.0, allow_approximate=True), PPL, nats, None),
    ):
        decide = partial(decide_gate, claim, metric, ours, theirs, samples=samples)
        assert decide().outcome is Outcome.PASS
        assert count_loop_rounds(decide) < 250  # 25 on a quiet machine


def test_better_at_all_of_scores_is_sign_flips() -> None:
    """A margin of 0 on scores flips signs, of clusters where there are some; a margin goes to the t."""
    ours = make_result([1.2 + 0.1 * (i % 7) for i in range(60)], metric="loss")
    theirs = make_result([1.4 + 0.1 * (i % 5) for i in range(60)], "base", "loss")
    better = make_gate(metric="e.loss", versus="base", better_by=0.0, allow_approximate=True)
    found = decide_gate(better, LOSS, ours, theirs)
    assert (found.outcome, found.method, found.units) == ("PASS", "sign flips", found.n)
    samples = [Sample(str(i), cluster=str(i // 6)) for i in range(60)]
    together = decide_gate(better, LOSS, ours, theirs, samples=samples)
    assert (together.method, together.units) == ("sign flips", 10)
    assert decide_gate(make_gate(metric="e.loss", versus="base", better_by=0.05), LOSS, ours, theirs).method == "t"


@pytest.mark.slow
def test_few_clusters_are_quick_however_many_rows() -> None:
    """20,000 rows in 15 clusters are judged from 15 sums, not by drawing rows again."""
    samples = [Sample(str(i), cluster=str(i % 15)) for i in range(20_000)]
    decide = partial(
        decide_gate, make_gate(min=0.5), ACC, make_result([float(i % 3 > 0) for i in range(20_000)]), samples=samples
    )
    found = decide()
    assert (found.method, found.units) == ("cluster t", 15)
    assert count_loop_rounds(decide) < 80


# Weights --------------------------------------------------------------------------------------------


def make_weighted_result(rows: list[tuple[float, float]], name: str = "merged", metric: str = "acc") -> Result:
    """Return a result of values and weights."""
    scores = tuple(Score(str(i), {metric: v}, w) for i, (v, w) in enumerate(rows))
    return Result(name, "e", scores, {}, f"digest of {name}")


@pytest.mark.parametrize("weight", [1.0, 2.0, 0.3])
@pytest.mark.parametrize("claim", [{"min": 0.6}, {"versus": "base", "better_by": 0.0}, BY_TWO, {"max_failures": 30}])
def test_rows_of_weight_0_are_left_out_of_exact_tests(claim: dict[str, object], weight: float) -> None:
    """Rows that say nothing of a metric change no verdict on the others, whose equal weights all count as one."""
    theirs = make_zeros_and_ones(60, 100)
    ours = [*theirs[:-20], *[1.0] * 15, *[0.0] * 5]
    alone = decide_gate(make_gate(**claim), ACC, make_result(ours), make_result(theirs, "base"))
    both = [
        make_weighted_result([(v, w) for value in values for v, w in ((value, weight), (0.5, 0.0))], name)
        for name, values in (("merged", ours), ("base", theirs))
    ]
    samples = [Sample(str(i), cluster=str(i // 2)) for i in range(200)]  # of two rows of a cluster one counts
    found = decide_gate(make_gate(**claim), ACC, *both, samples=samples)
    assert (found.n, found.parts["weightless"].rows, found.units) == (100, 100, 100)
    for key in ("outcome", "estimate", "lower", "upper", "p_pass", "p_fail", "method"):
        assert getattr(found, key) == getattr(alone, key), key
    assert [int(i) // 2 for i in found.won] == [int(i) for i in alone.won]
    assert "100 rows have weight 0 and do not count" in found.why


def test_slices_count_the_rows_that_have_a_weight() -> None:
    """A slice of 100 rows of which 50 count is an alarm, and one of which none counts is missing."""
    samples = [Sample(str(i), row={"kind": "ab"[i // 100]}) for i in range(200)]
    ours = make_weighted_result([(1.0, 1.0)] * 100 + [(1.0, float(i % 2)) for i in range(100)])
    found = decide_gate(make_gate(min=0.6, slice="kind=*"), ACC, ours, samples=samples)
    assert [(s.name, s.n, s.alarm) for s in found.parts["slices"].slices] == [
        ("kind=a", 100, False),
        ("kind=b", 50, True),
    ]
    assert (found.n, found.parts["weightless"].rows) == (150, 50)
    ours = make_weighted_result([(1.0, 1.0)] * 100 + [(1.0, 0.0)] * 100)
    assert "kind=b: every row has weight 0" in read_error_reason(
        make_gate(min=0.6, slice=["kind=a", "kind=b"]), ACC, ours, samples=samples
    )


def test_a_weight_on_one_side_alone_is_an_error() -> None:
    """A row that counts for one of two models is no pair."""
    ours, theirs = (
        make_weighted_result([(1.0, 1.0)] * 50),
        make_weighted_result([(0.0, 1.0)] * 49 + [(0.0, 0.0)], "base"),
    )
    assert 'row "49" has 1 weight in the candidate and 0 in the baseline' in read_error_reason(
        make_gate(versus="base", better_by=0.0), ACC, ours, theirs
    )


def test_stopping_early_counts_rows_alike() -> None:
    """The test that may stop early is about a plain mean, so rows of different weights are an error."""
    ours = replace(make_weighted_result([(1.0, 1.0 + i % 2) for i in range(50)]), order=tuple(map(str, range(50))))
    assert "rows have different weights" in read_error_reason(make_gate(min=0.6), ACC, ours)


# Clusters -------------------------------------------------------------------------------------------


def make_clustered_rows(
    sizes: list[int], rates: list[float], metric: str = "acc", name: str = "merged"
) -> tuple[list[Sample], Result]:
    """Return rows in clusters of these sizes, of which a share is 1, and their tokens as weights."""
    rows = [
        (c, float(i < round(rate * n))) for c, (n, rate) in enumerate(zip(sizes, rates, strict=True)) for i in range(n)
    ]
    samples = [Sample(str(i), cluster=f"d{c}") for i, (c, _) in enumerate(rows)]
    return samples, make_result([v for _, v in rows], name, metric)


SIZES, RATES = [2] * 30 + [30] * 10, [0.5] * 30 + [0.9] * 10  # large clusters are right more often
MEANS = [0.1 + 0.8 * ((i * 7) % 10) / 10 for i in range(40)]


def test_sizes_that_tell_of_the_outcome_are_told() -> None:
    """Where long documents are right more often, the mean over rows and that over documents are two claims."""
    samples, ours = make_clustered_rows(SIZES, RATES)
    by_rows = decide_gate(make_gate(min=0.7, allow_approximate=True), ACC, ours, samples=samples)
    assert by_rows.outcome is Outcome.PASS
    assert "; cluster size is related to the outcome: the mean over clusters is 0.600" in by_rows.why
    assert "cluster size is related" not in decide_gate(make_gate(min=0.5), ACC, ours, samples=samples).why
    base = make_clustered_rows(SIZES, [0.5 + 0.5 * (i < 30) for i in range(40)], name="base")[1]
    change = decide_gate(make_gate(versus="base", better_by=0.0), ACC, ours, base, samples=samples)
    assert "the mean over clusters is −0.275" in change.why


def test_both_means_near_the_threshold_are_no_news() -> None:
    """Two estimates that only noise puts on two sides of the threshold say nothing of sizes."""
    samples, ours = make_clustered_rows([2, 3] * 20, [0.5, 0.66] * 20)
    found = decide_gate(make_gate(min=0.59), ACC, ours, samples=samples)
    assert (found.outcome, "cluster size is related" in found.why) == (Outcome.INCONCLUSIVE, False)


@pytest.mark.parametrize(("clusters", "said"), [(19, "in few clusters (19), "), (20, "in 20 clusters, ")])
@pytest.mark.parametrize("claim", [{"min": 0.5}, {"versus": "base", "better_by": 0.0}, {"min": 0.5, "slice": "kind=a"}])
def test_few_clusters_are_told(clusters: int, said: str, claim: dict[str, object]) -> None:
    """A verdict that rests on fewer than 20 clusters says so, slices too."""
    samples = [Sample(str(i), row={"kind": "a"}, cluster=str(i % clusters)) for i in range(100)]
    theirs = make_result([float(i % 2) for i in range(100)], "base")
    assert (
        said
        in decide_gate(make_gate(**claim), ACC, make_result(make_zeros_and_ones(70, 100)), theirs, samples=samples).why
    )


def test_rows_that_are_in_no_clusters_are_not_called_so() -> None:
    """A metric made of all rows at once resamples rows, which are no clusters."""
    share = Metric("acc", "higher", "other", lambda scores: sum(s.values["acc"] for s in scores) / len(scores))
    assert "cluster" not in decide_gate(
        make_gate(min=0.5), share, make_result(make_zeros_and_ones(12, 15))
    ).why.replace("cluster bootstrap", "")


ESTIMANDS = {
    "failures": ({"max_failures": 0}, ACC, '"max_failures" counts rows'),
    "a count": ({"max": 9}, Metric("bytes", "lower", "count"), "bytes is a count over all rows, not a mean over"),
    "all rows at once": (
        {"min": 0.5},
        Metric("f1", "higher", "other", lambda s: 0.5),
        "f1 is computed from all rows at once",
    ),
}


@pytest.mark.parametrize("case", ESTIMANDS)
def test_what_has_no_mean_over_questions_is_a_mistake(case: str) -> None:
    """Counts and what is made from all rows at once have none."""
    claim, metric, told = ESTIMANDS[case]
    asked = make_gate(estimand="questions", **claim)
    assert any(told in m for m in (*asked.find_mistakes(), *asked.find_metric_mistakes(metric)))


# What no row showed, where a row may say anything ------------------------------------------------------


def make_perplexity_results(n: int, changes: dict[int, float]) -> tuple[Result, Result]:
    """Return the nats of two models on documents of which some changed."""
    theirs = [3.0 + 0.1 * (i % 5) for i in range(n)]
    ours = [v + changes.get(i, 0.0) for i, v in enumerate(theirs)]
    return make_result(ours, metric="ppl", weight=9), make_result(theirs, "base", "ppl", weight=9)


def test_a_verdict_on_documents_says_what_they_cannot_rule_out() -> None:
    """Without a range, 50 documents cannot tell of a disaster in one of twenty; with a cap none is left to tell of."""
    ours, theirs = make_perplexity_results(50, {i: -0.01 * (i % 7) for i in range(50)})
    claim = make_gate(metric="e.ppl", versus="base", worse_by_at_most="2%", allow_approximate=True)
    found = decide_gate(claim, PPL, ours, theirs)
    assert (found.outcome, found.why.partition("; ")[2]) == (
        "PASS",
        "up to 5.8% of all rows could be arbitrarily bad",
    )
    assert "as bad as" not in decide_gate(replace(claim, cap=0.5), PPL, ours, theirs).why
    assert "as bad as" not in decide_gate(make_gate(min=0.5), ACC, make_result(make_zeros_and_ones(48, 50))).why


@pytest.mark.parametrize(("n", "outcome"), [(75, "PASS"), (74, "INCONCLUSIVE")])
def test_documents_that_count_at_most_half_a_nat_are_bounded_by_the_rule_of_three(n: int, outcome: str) -> None:
    """With a cap an unchanged document is worth what a row of a known range is: (1 - log 1.02 / 0.5)^n."""
    claim = make_gate(metric="e.ppl", versus="base", worse_by_at_most="2%", cap=0.5)
    found = decide_gate(claim, PPL, *make_perplexity_results(n, {}))
    assert (found.outcome, found.p_pass) == (outcome, pytest.approx((1 - math.log(1.02) / 0.5) ** n))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_document_counts_at_most_its_cap_either_way(sign: int) -> None:
    """One that lost, or won, 40 nats per token counts as one that lost or won half a nat."""
    claim = make_gate(metric="e.ppl", versus="base", worse_by_at_most="2%", cap=0.5)
    found = decide_gate(claim, PPL, *make_perplexity_results(200, {7: sign * 40.0}))
    assert found.estimate == pytest.approx(sign * 0.5 / 200)
    assert claim.claim() == "worse than base by at most 2%, no row counted as more than 0.5"


CAPS = {
    "none": (
        make_gate(versus="base", better_by=0.0, cap=0.0),
        "cap is 0; it must be more than 0 (the most that a row counts)",
    ),
    "negative": (
        make_gate(versus="base", better_by=0.0, cap=-0.5),
        "cap is -0.5; it must be more than 0 (the most that a row counts)",
    ),
    "no number": (
        make_gate(versus="base", better_by=0.0, cap=math.nan),
        "cap is nan; it must be more than 0 (the most that a row counts)",
    ),
}
CAPS_ON = {
    "all rows": (Metric("f1", "higher", "other", combine=lambda s: 0.0), 0.02, 0.5, "computed from all rows at once"),
    "a count": (Metric("bytes", "lower", "count"), 1.0, 5.0, "is a count"),
    "a share of a mean": (LOSS, "2%", 0.5, "write the margin in units, too"),
    "less than the margin": (
        LOSS,
        0.5,
        0.5,
        "cap is 0.5, and a margin of 0.5 is not below it, so no row could decide; raise the cap",
    ),
    "less than a share": (
        PPL,
        "70%",
        0.5,
        "cap is 0.5, and a margin of 0.531 is not below it, so no row could decide; raise the cap",
    ),
}


@pytest.mark.parametrize("case", CAPS)
def test_caps_that_cut_nothing_are_mistakes(case: str) -> None:
    """A cap is more than 0, and of a claim about rows."""
    claim, told = CAPS[case]
    assert any(told in m for m in claim.find_mistakes())


def test_a_cap_on_a_proportion_is_for_differences() -> None:
    """A share against a number has its range; 20 differences of at most 0.3 prove more than 20 of at most 1."""
    told = 'cap: acc is a proportion, so its range is known; remove "cap"'
    assert told in make_gate(min=0.8, cap=0.5).find_metric_mistakes(ACC)
    noise = [0.02 * (i % 5 - 2) for i in range(20)]
    ours, theirs = make_result([0.7 + x for x in noise]), make_result([0.7] * 20, "base")
    claim = make_gate(versus="base", worse_by_at_most=0.05)
    assert decide_gate(claim, ACC, ours, theirs).outcome is Outcome.INCONCLUSIVE
    assert decide_gate(replace(claim, cap=0.3), ACC, ours, theirs).outcome is Outcome.PASS
    better = replace(claim, worse_by_at_most=None, better_by=0.0, cap=0.25)
    won = decide_gate(better, ACC, make_result([1.0] * 10 + [0.9] * 10), theirs)
    assert (won.outcome, won.estimate, won.parts["uncapped"].estimate) == (
        Outcome.PASS,
        pytest.approx(0.225),
        pytest.approx(0.25),
    )


@pytest.mark.parametrize("case", CAPS_ON)
def test_caps_that_do_not_suit_the_metric_are_mistakes(case: str) -> None:
    """A cap within the margin would decide the claim by itself."""
    metric, margin, cap, told = CAPS_ON[case]
    claim = make_gate(metric=f"e.{metric.name}", versus="base", worse_by_at_most=margin, cap=cap)
    assert any(told in m for m in claim.find_metric_mistakes(metric)), claim.find_metric_mistakes(metric)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"better": "high"}, 'better is "high"; it must be "higher" or "lower"'),
        ({"better": "higher", "scale": "percent"}, 'scale is "percent"; it must be one of proportion, mean,'),
        ({"better": "higher", "scale": "proportions"}, 'scale is "proportions"; it must be one of'),
        (
            {"better": "higher", "scale": "other"},
            'a metric of scale "other" needs combine, which computes it from all rows',
        ),
    ],
)
def test_a_metric_is_declared_by_words_that_there_are(told: dict[str, str], why: str) -> None:
    """A scale that nobody knows was taken for a mean, with another test and other bounds."""
    with pytest.raises(ValueError, match=f'metric "right": {why}'):
        metrics.metric("right", **told)  # type: ignore[arg-type]
