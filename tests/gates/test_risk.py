"""Whether a gate's risk is exact or only approximate, which a declaration decides and never the values."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.gates.decide import decide
from harness.init import table
from harness.pipeline.session import Options, prepare_collection
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric, metric
from harness.records.samples import Result, Sample, Score
from harness.records.verdicts import Outcome, Verdict
from harness.release.policy import read_policy
from harness.testing import Project

ROOT = Path(__file__).parents[2]
RATING = Metric("rating", "higher")
SHARE = Metric("acc", "higher", "proportion")
NATS = Metric("ppl", "lower", "perplexity")


def make_result(values: list[float], subject: str = "merged", name: str = "rating") -> Result:
    scores = tuple(Score(str(i), {name: v}) for i, v in enumerate(values))
    return Result(subject, "e", scores, {}, f"digest of {subject}", rows="rows")


def verdict(gate: Gate, of: Metric, ours: list[float], theirs: list[float] | None = None) -> Verdict:
    base = None if theirs is None else make_result(theirs, "base", of.name)
    samples = [Sample(str(i)) for i in range(len(ours))]
    return decide(gate, of, make_result(ours, name=of.name), base, samples, 0.05, name="merged")


def draw_ratings(seed: int, n: int = 200) -> list[float]:
    luck = random.Random(seed)
    return [float(luck.choice([3, 4, 4, 5])) for _ in range(n)]


AT_LEAST = Gate("g", "e.rating", min=3.0)


def test_a_mean_without_a_range_passes_no_blocking_gate() -> None:
    """The claim would be proven by its t, but its risk is approximate: INCONCLUSIVE, which says what to declare."""
    found = verdict(AT_LEAST, RATING, draw_ratings(1))
    assert (found.outcome, found.risk) == (Outcome.INCONCLUSIVE, "approximate")
    assert found.p_pass is not None
    assert found.p_pass <= 0.05
    assert "approximate risk" in found.why.partition(";")[0]
    assert 'declare "range" or "cap", or write allow_approximate = true' in found.why


@pytest.mark.parametrize(
    "said", [{"severity": "warn"}, {"allow_approximate": True}], ids=["a warning", "one that allows it"]
)
def test_an_approximate_risk_passes_where_it_may(said: dict[str, Any]) -> None:
    """A gate that only warns, or says that it takes an approximate risk, passes, and the verdict still says so."""
    found = verdict(replace(AT_LEAST, **said), RATING, draw_ratings(1))
    assert (found.outcome, found.risk) == (Outcome.PASS, "approximate")
    assert "approximate risk" in found.why


def test_a_refuted_claim_needs_no_range() -> None:
    """A FAIL holds nothing open, so it stays one."""
    assert verdict(replace(AT_LEAST, min=4.9), RATING, draw_ratings(1)).outcome is Outcome.FAIL


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sign", ["higher", "lower"])
def test_a_declared_range_is_exact(seed: int, sign: Any) -> None:
    """By the gate or by the evaluator, about a number or a baseline, the range is that of the rows."""
    own = Metric("rating", sign, range=(1.0, 5.0))
    claim = AT_LEAST if sign == "higher" else Gate("g", "e.rating", max=4.9)
    versus = Gate("g", "e.rating", versus="base", worse_by_at_most=1.0)
    for of, limits in ((own, None), (Metric("rating", sign), [1.0, 5.0])):
        for gate, theirs in ((claim, None), (versus, draw_ratings(seed + 9))):
            found = verdict(replace(gate, range=limits), of, draw_ratings(seed), theirs)
            assert (found.outcome, found.risk) == (Outcome.PASS, "exact")
            assert "approximate" not in found.why


def test_a_range_is_declared_and_never_seen() -> None:
    """Scores between 0 and 1 of a mean have no range; what lies outside a declared one is an ERROR."""
    inside = [x / 5 for x in draw_ratings(2)]
    assert verdict(replace(AT_LEAST, min=0.5), RATING, inside).risk == "approximate"
    assert verdict(replace(AT_LEAST, min=0.5, range=[0.0, 1.0]), RATING, inside).risk == "exact"
    beyond = verdict(replace(AT_LEAST, range=[1.0, 4.0]), RATING, draw_ratings(2))
    assert beyond.outcome is Outcome.ERROR
    assert "rating is outside its range 1 to 4 on" in beyond.why


def test_what_is_made_of_all_rows_at_once_is_approximate() -> None:
    """A mean that is written as a `combine` gains nothing by it."""
    made = Metric("rating", "higher", "other", combine=lambda s: sum(x.values["rating"] for x in s) / len(s))
    assert verdict(AT_LEAST, made, draw_ratings(1)).risk == "approximate"
    share = Metric("rating", "higher", "proportion", combine=lambda s: sum(x.values["rating"] for x in s) / len(s))
    assert verdict(replace(AT_LEAST, min=0.5), share, [x / 5 for x in draw_ratings(1)]).risk == "approximate"


def test_a_cap_prints_both_differences() -> None:
    """The capped estimate is tested; the raw one and how many rows are beyond the cap stand beside it."""
    base, ours = [2.0] * 100, [1.9] * 97 + [6.0] * 3
    found = verdict(Gate("g", "e.ppl", versus="base", worse_by_at_most="5%", cap=0.5), NATS, ours, base)
    assert found.risk == "exact"
    assert found.estimate == pytest.approx((-0.1 * 97 + 0.5 * 3) / 100)
    assert found.parts["uncapped"].estimate == pytest.approx((-0.1 * 97 + 4.0 * 3) / 100)
    assert "without the cap (3 rows beyond it)" in found.why


def test_a_cap_may_bound_a_number() -> None:
    """A row counts as at most the cap; a cap that alone would make the claim true, or impossible, is a mistake."""
    drift = Metric("kl", "lower", range=(0.0, float("inf")))
    capped = Gate("g", "e.kl", max=0.5, cap=1.0)
    found = verdict(capped, drift, [0.1] * 150 + [9.0])
    assert (found.outcome, found.risk) == (Outcome.PASS, "exact")
    assert found.estimate == pytest.approx((15 + 1) / 151)
    assert verdict(replace(capped, cap=None), drift, [0.1, 0.2] * 75).risk == "approximate"
    assert any(
        "in each row's units; raise the cap above that" in m
        for m in replace(capped, cap=0.5).find_metric_mistakes(drift)
    )
    assert any(
        "at an end of their range" in m for m in replace(AT_LEAST, range=[3.0, 5.0]).find_metric_mistakes(RATING)
    )


COUNTED = [("ppl", NATS, 2, Outcome.FAIL), ("ppl", NATS, 3, Outcome.PASS), ("rating", RATING, 3, Outcome.PASS)]


@pytest.mark.parametrize(("name", "of", "most", "outcome"), COUNTED)
def test_rows_that_lose_more_than_a_cap_are_counted(name: str, of: Metric, most: int, outcome: Outcome) -> None:
    """ "At most k documents worse than the baseline by more than the cap" is exact, whichever way is better."""
    sign = 1 if of.better == "lower" else -1
    base, ours = [2.0] * 50, [2.0] * 40 + [2.0 + sign * 0.4] * 7 + [2.0 + sign * 0.6] * 3
    gate = Gate("g", f"e.{name}", versus="base", max_failures=most, cap=0.5)
    assert gate.find_mistakes() == gate.find_metric_mistakes(of, 50) == []
    found = verdict(gate, of, ours, base)
    assert (found.outcome, found.risk, found.method) == (outcome, "exact", "failures counted")
    assert f"worse than base by more than 0.5 on at most {most} rows" in found.claim
    assert "3 rows of 50 failed" in found.why


BAD = {
    "no cap": (
        Gate("g", "e.acc", versus="base", max_failures=1),
        '"max_failures" with "versus" counts rows that lose more than a cap; add "cap"',
    ),
    "one end": (replace(AT_LEAST, range=[1.0]), "range is 1; give two numbers, the lower one first"),
    "turned": (replace(AT_LEAST, range=[5.0, 1.0]), "range is 5, 1; give two numbers, the lower one first"),
    "infinite": (
        replace(AT_LEAST, range=[0.0, float("inf")]),
        "an end of range is not finite; declare the values that a row can have, or a cap",
    ),
    "a count": (
        Gate("g", "e.acc", max_failures=1, range=[0.0, 1.0]),
        '"max_failures" is an exact count without a risk; remove "range" and "allow_approximate"',
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_ranges_that_are_none_are_mistakes(case: str) -> None:
    """What declares nothing is said before anything is measured."""
    gate, told = BAD[case]
    assert any(told in m for m in gate.find_mistakes())


def test_a_proportion_has_its_range_already() -> None:
    """Of a proportion and of a number made from all rows nothing is left to declare; an evaluator is held to it too."""
    gate = Gate("g", "e.acc", min=0.5, range=[0.0, 1.0])
    assert any(
        'of acc is known, since it is a proportion; remove "range"' in m for m in gate.find_metric_mistakes(SHARE)
    )
    with pytest.raises(ValueError, match="range limits the mean of rows, but the metric is a proportion"):
        metric("acc", better="higher", scale="proportion", range=(0.0, 1.0))
    with pytest.raises(ValueError, match="; give two numbers, the lower one first"):
        metric("rating", better="higher", range=(5.0, 1.0))


def test_a_gate_that_allows_an_approximate_risk_meets_no_claim_that_does_not() -> None:
    """A policy's claim takes a gate with the same range, and no approximate one unless it says so."""
    loose = replace(AT_LEAST, allow_approximate=True)
    assert loose.implies(loose, RATING)
    assert AT_LEAST.implies(loose, RATING)
    assert not loose.implies(AT_LEAST, RATING)
    assert not AT_LEAST.implies(replace(AT_LEAST, range=[1.0, 5.0]), RATING)


EXAMPLES = (p for p in (ROOT / "harness/init/examples").glob("*/suite.toml") if (p.parent / "data").exists())
SHIPPED = [*sorted((ROOT / "suites").glob("*.toml")), *sorted(EXAMPLES)]  # the candidate's is made of that of "qa"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_gate_that_is_shipped_is_exact(path: Path) -> None:
    """Gates of suites/ and of `harness init` say 5 % and keep it; where one is capped, the rows beyond are counted."""
    collection = prepare_collection(path, Options(ahead=True))
    for gate in (g for g in collection.suite.gates if g.metric):
        of = collection.tasks[gate.eval].metrics.get(gate.metric_name)
        only_warns = gate.severity == "warn" and of is not None and of.combine
        assert of is None or only_warns or gate.risk(of) == "exact", gate.id
        counts = [g for g in collection.suite.gates if g.max_failures is not None and g.cap == gate.cap]
        assert gate.cap is None or any(g.metric == gate.metric for g in counts), gate.id


def test_a_policy_may_refuse_it(tmp_path: Path) -> None:
    """`approximate = false` is a key of a policy, and of the strict one."""
    path = tmp_path / "policy.toml"
    path.write_text('suites = ["*"]\nbinding = "none"\napproximate = false\n', "utf-8")
    assert read_policy(path).approximate is False
    path.write_text('suites = ["*"]\nbinding = "none"\n', "utf-8")
    assert read_policy(path, strict=False).approximate is True


FILES = {
    name: "id,input,score\n" + "".join(f"q{i},question {i},{(i * k) % 5 + 1}\n" for i in range(300))
    for name, k in (("base.csv", 2), ("candidate.csv", 3))
}
RATED = ("gate", "base.csv", "candidate.csv", "--higher", "--worse-by-at-most", "0.9")


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize(
    ("said", "code", "risk"),
    [
        ((), 6, "approximate"),
        (("--scale", "mean"), 6, "approximate"),
        (("--range", "1", "5"), 0, "exact"),
        (("--cap", "4"), 0, "exact"),
    ],
)
def test_ratings_of_another_tool_want_a_range(project: Project, said: tuple[str, ...], code: int, risk: str) -> None:
    """Ratings from 1 to 5 pass with --range or --cap; without either the verdict, JSON and evidence say approximate."""
    for name, text in FILES.items():
        (project.folder / name).write_text(text, "utf-8")
    outcome = project.harness(*RATED, *said, "--json")
    assert outcome.code == code
    (one,) = json.loads(outcome.out)["run"]["results"][-1]["verdicts"]
    assert one["risk"] == risk
    folder = project.folder / json.loads(outcome.out)["run"]["folder"]
    page = (folder / "report.html").read_text("utf-8")
    assert ("approximate risk" in page) is (risk == "approximate")
    assert json.loads((folder / "report.json").read_text("utf-8"))["results"][-1]["verdicts"][0]["risk"] == risk


def test_the_label_decides_no_level(project: Project) -> None:
    """The same 0/1 files read as a mean prove no more than as a proportion."""
    for name, right in (("base.csv", 5), ("candidate.csv", 5)):
        lines = "".join(f"q{i},question {i},{int(i % right > 0)}\n" for i in range(300))
        (project.folder / name).write_text("id,input,score\n" + lines.replace("q7,question 7,1", "q7,question 7,0"))
    (project.folder / "base.csv").write_text(
        "id,input,score\n" + "".join(f"q{i},question {i},{int(i % 5 > 0)}\n" for i in range(300))
    )
    claim = ("gate", "base.csv", "candidate.csv", "--worse-by-at-most", "0.05")
    assert project.harness(*claim).code == 0
    assert project.harness(*claim, "--scale", "mean").code == 6


def test_table_init_has_no_gate_on_a_mean() -> None:
    """`harness init --data` writes gates on shares alone."""
    assert "perplexity" not in (table.TEMPLATES / "suite.toml").read_text("utf-8")


def test_few_clusters_of_very_uneven_sizes_are_approximate() -> None:
    """Where sizes are drawn with the rows, clusters that count as 12 keep no level of 6 %: such a PASS is barred."""
    sizes = [60, 50, 40, 30, 20, *[2] * 25]
    samples = [Sample(f"{c}.{i}", cluster=f"d{c}") for c, size in enumerate(sizes) for i in range(size)]
    scores = tuple(Score(s.id, {"acc": float(i % 10 > 0)}) for i, s in enumerate(samples))
    found = Result("merged", "e", scores, {}, "digest")
    for allowed, outcome in ((False, Outcome.INCONCLUSIVE), (True, Outcome.PASS)):
        gate = Gate("g", "e.acc", min=0.5, allow_approximate=allowed)
        verdict = decide(gate, SHARE, found, None, samples, 0.05, name="merged")
        assert (verdict.risk, verdict.outcome) == ("approximate", outcome)
        assert ("few clusters of very uneven sizes" in verdict.why) is not allowed
