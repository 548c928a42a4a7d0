"""Rows that ask what others ask, and neighbours that go together."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from harness.gates.decide import decide
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample, Score
from harness.records.verdicts import Verdict
from harness.stats.autocorrelation import lag_one_correlation
from harness.testing import ROWS, SUITE, TRAIN, Project

ACC = Metric("acc", "higher", "proportion")
CLAIM = Gate("g", "e.acc", versus="base", better_by=0.0)


def decide_repeats(
    gate: Gate, ours: list[float], theirs: list[float], keys: list[str], clusters: list[str | None] | None = None
) -> Verdict:
    """Judge 0/1 rows with these keys."""
    named = clusters or [None] * len(keys)
    samples = [Sample(f"r{i}", key=key, cluster=named[i], row={"kind": "ab"[i % 2]}) for i, key in enumerate(keys)]

    def result(name: str, values: list[float]) -> Result:
        scores = tuple(Score(s.id, {"acc": v}) for s, v in zip(samples, values, strict=True))
        return Result(name, "e", scores, {}, f"digest of {name}")

    return decide(gate, ACC, result("merged", ours), result("base", theirs), samples, 0.05, name="merged")


def test_a_file_twenty_times_is_the_file() -> None:
    """40 rows that prove nothing prove nothing 20 times over: all are kept, and 40 questions are all there are."""
    ours, theirs = [1.0] * 6 + [0.0] * 34, [0.0] * 4 + [1.0] * 2 + [0.0] * 32 + [1.0] * 2
    keys = [f"k{i}" for i in range(40)]
    once, often = (decide_repeats(CLAIM, ours * n, theirs * n, keys * n) for n in (1, 20))
    assert often.outcome == once.outcome == "INCONCLUSIVE"
    assert (often.n, often.parts["repeated"].rows, often.units) == (800, 800, 40)
    assert (often.value, often.baseline, often.estimate) == pytest.approx((once.value, once.baseline, once.estimate))
    assert (
        "; 800 of 800 rows repeat another row's question (40 questions, up to 20 times): each question is a cluster"
    ) in often.why


def test_a_question_that_is_failed_each_time_counts_each_time() -> None:
    """One question asked 300 times of 1,000 rows and failed each time is a loss of 0.3, which nothing makes a PASS."""
    keys = ["often"] * 300 + [f"k{i}" for i in range(700)]
    gate = replace(CLAIM, better_by=None, worse_by_at_most=0.05)
    found = decide_repeats(gate, [0.0] * 300 + [1.0] * 700, [1.0] * 1000, keys)
    assert (found.value, found.baseline, found.estimate) == pytest.approx((0.7, 1.0, -0.3))
    assert found.outcome != "PASS" and found.n == 1000
    by_question = decide_repeats(replace(gate, estimand="questions"), [0.0] * 300 + [1.0] * 700, [1.0] * 1000, keys)
    assert by_question.estimate == pytest.approx(-1 / 701)
    assert by_question.claim.endswith("in the mean over questions") and by_question.outcome == "PASS"


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "limit", "outcome"), [(0.10, 0.05, "FAIL"), (0.04, 0.08, "PASS")])
def test_sampled_answers_are_judged_by_what_they_are(loss: float, limit: float, outcome: str) -> None:
    """600 questions with 4 answers each: what is 10 points worse fails a limit of 5, and 4 worse passes one of 8."""
    luck = random.Random(8)
    keys = [f"k{i // 4}" for i in range(2400)]
    rates = [luck.betavariate(3, 1) for _ in range(600)]
    theirs = [float(luck.random() < rates[i // 4]) for i in range(2400)]
    ours = [float(luck.random() < rates[i // 4] * (1 - loss / 0.75)) for i in range(2400)]
    found = decide_repeats(replace(CLAIM, better_by=None, worse_by_at_most=limit), ours, theirs, keys)
    assert (found.outcome, found.n, found.units) == (outcome, 2400, 600)
    assert found.estimate == pytest.approx((sum(ours) - sum(theirs)) / 2400)


def test_questions_that_cross_clusters_are_clusters_of_their_own_kind() -> None:
    """30 documents x 30 questions are no one cluster: the sum of both variances counts, and 30 of each."""
    luck = random.Random(9)
    clusters: list[str | None] = [f"d{i // 30}" for i in range(900)]
    keys = [f"k{i % 30}" for i in range(900)]
    theirs = [float(luck.random() < 0.8) for _ in range(900)]
    lost = [luck.random() < 0.1 for _ in range(30)]
    ours = [0.0 if lost[i % 30] and luck.random() < 0.5 else t for i, t in enumerate(theirs)]
    gate = replace(CLAIM, better_by=None, worse_by_at_most=0.15)
    crossed, alone, asked = (
        decide_repeats(gate, ours, theirs, k, c)
        for k, c in ((keys, clusters), ([f"k{i}" for i in range(900)], clusters), (keys, None))
    )
    assert (crossed.method, crossed.units, crossed.parts["clusters"].crossed, crossed.n) == (
        "crossed t",
        30,
        (30, 30),
        900,
    )
    assert crossed.lower is not None and alone.lower is not None and asked.lower is not None
    assert crossed.lower < min(alone.lower, asked.lower)
    assert crossed.estimate == alone.estimate == asked.estimate
    assert "in 30 clusters (crossed, 30 × 30)" in crossed.why


def test_questions_inside_a_cluster_change_nothing() -> None:
    """Where rows of one question are all of one document, the documents are the clusters, as if all were distinct."""
    clusters: list[str | None] = [f"d{i // 6}" for i in range(240)]
    ours, theirs = [float(i % 7 > 0) for i in range(240)], [float(i % 5 > 0) for i in range(240)]
    gate = replace(CLAIM, better_by=None, worse_by_at_most=0.1)
    same, distinct = (
        decide_repeats(gate, ours, theirs, [f"k{i // by}" for i in range(240)], clusters) for by in (3, 1)
    )
    assert (same.p_pass, same.lower, same.units, same.parts["clusters"].crossed) == (
        distinct.p_pass,
        distinct.lower,
        40,
        (),
    )


def test_one_shared_question_costs_little_power() -> None:
    """Two documents of 40 with one question in common: the bound moves by less than a quarter of its distance."""
    luck, clusters = random.Random(6), [f"d{i // 6}" for i in range(240)]
    rates = [luck.betavariate(8, 2) for _ in range(40)]
    ours, theirs = ([float(luck.random() < rates[i // 6]) for i in range(240)] for _ in range(2))
    gate = replace(CLAIM, better_by=None, worse_by_at_most=0.1)
    shared = ["same" if i in (0, 9) else f"k{i}" for i in range(240)]
    found, plain = (decide_repeats(gate, ours, theirs, k, clusters) for k in (shared, [f"k{i}" for i in range(240)]))
    assert found.parts["clusters"].crossed == (40, 239) and found.estimate is not None and plain.estimate is not None
    assert found.lower is not None and plain.lower is not None
    assert found.estimate - found.lower == pytest.approx(plain.estimate - plain.lower, rel=0.25)


def test_rows_that_all_ask_the_same_prove_nothing() -> None:
    """400 answers to one question are an error that says so, in clusters or not."""
    for clusters in (None, [f"d{i // 10}" for i in range(400)]):
        found = decide_repeats(CLAIM, [1.0] * 400, [float(i % 3 > 0) for i in range(400)], ["k"] * 400, clusters)
        assert found.outcome == "ERROR" and "all 400 rows ask the same question" in found.why


def test_a_cluster_for_each_row_is_none() -> None:
    """A column of clusters that equals the id leaves rows independent, and their tests exact."""
    ours, theirs, keys = [1.0] * 200, [float(i % 9 > 0) for i in range(200)], [f"k{i}" for i in range(200)]
    own = decide_repeats(CLAIM, ours, theirs, keys, [f"r{i}" for i in range(200)])
    assert own == decide_repeats(CLAIM, ours, theirs, keys)
    assert own.method.startswith("McNemar")


def test_the_mean_over_questions_may_be_in_clusters() -> None:
    """Questions of one document are units in its cluster; those that cross documents share their weight."""
    clusters: list[str | None] = [f"d{i // 6}" for i in range(240)]
    ours, theirs = [float(i % 7 > 0) for i in range(240)], [float(i % 5 > 0) for i in range(240)]
    gate = replace(CLAIM, better_by=None, worse_by_at_most=0.1, estimand="questions")
    inside, across = (
        decide_repeats(gate, ours, theirs, keys, clusters)
        for keys in ([f"k{i // 3}" for i in range(240)], [f"k{i % 50}" for i in range(240)])
    )
    assert (inside.units, inside.parts["clusters"].crossed, across.parts["clusters"].crossed) == (40, (), (40, 50))
    mean = sum(sum(ours[i] - theirs[i] for i in range(240) if i % 50 == k) / (5 - (k >= 40)) for k in range(50)) / 50
    assert across.estimate == pytest.approx(mean)
    assert across.value is not None and across.baseline is not None
    assert across.value - across.baseline == pytest.approx(across.estimate)


@pytest.mark.parametrize("names", ["{}", "x{}", "{:04d}", "z{}"])
def test_names_of_clusters_decide_nothing(names: str) -> None:
    """Documents renamed, and rows in another order, come to the same p-values."""
    luck = random.Random(4)
    sizes = [luck.randint(1, 9) for _ in range(60)]
    rows = [(i, float(luck.random() < 0.9), float(luck.random() < 0.93)) for i, n in enumerate(sizes) for _ in range(n)]
    gate = replace(CLAIM, better_by=None, worse_by_at_most=0.08)

    def verdict(rows: list[tuple[int, float, float]], names: str) -> Verdict:
        keys = [f"k{i}" for i in range(len(rows))]
        return decide_repeats(
            gate, [r[1] for r in rows], [r[2] for r in rows], keys, [names.format(r[0]) for r in rows]
        )

    first, again = verdict(rows, "doc{}"), verdict(sorted(rows, key=lambda r: hash((names, r[0] * 7919 % 61))), names)
    assert (first.p_pass, first.p_fail, first.lower) == pytest.approx((again.p_pass, again.p_fail, again.lower), abs=0)


def test_failures_are_counted_on_all_rows() -> None:
    """A copy that failed is a row that failed: leaving it out would let more of them through."""
    gate = Gate("g", "e.acc", max_failures=1)
    keys = ["k0", "k0", *(f"k{i}" for i in range(2, 50))]
    found = decide_repeats(gate, [0.0, 0.0] + [1.0] * 48, [1.0] * 50, keys)
    assert (found.outcome, found.estimate, "repeated" in found.parts) == ("FAIL", 2.0, False)


def test_rows_that_were_doubled_are_told_at_collection(project: Project) -> None:
    """`cat a a > b` is a warning before anything is asked, and as many questions as before in the verdict."""
    doubled = [{**row, "id": f"{n}-{row['id']}"} for n in range(2) for row in ROWS]
    project.write({"suite.toml": SUITE, "test.jsonl": doubled, "train.jsonl": TRAIN})
    told = f"{len(ROWS)} of {2 * len(ROWS)} rows repeat another row's question, {len(ROWS)} are distinct"
    assert told in " ".join(project.run("--collect-only").err.split())
    done = project.run()
    assert [(v.n, v.parts["repeated"].rows, v.units) for v in done.report.verdicts] == [
        (2 * len(ROWS),) * 2 + (len(ROWS),)
    ] * 2
    early = SUITE.replace('data = "test.jsonl"', 'data = "test.jsonl"\nstop = "early"')
    refused = project.write({"suite.toml": early}).run("--collect-only")
    assert (refused.code, f'{told}; remove the repeated rows, or stop = "early"' in refused.err) == (4, True)


def test_evidence_of_repeated_questions_is_recomputed(project: Project) -> None:
    """Who verifies finds the questions again, by the keys of the rows."""
    doubled = [{**row, "id": f"{n}-{row['id']}"} for n in range(2) for row in ROWS]
    project.write({"suite.toml": SUITE, "test.jsonl": doubled, "train.jsonl": TRAIN})
    assert project.run().code == 0
    export = project.folder / "exports/fake"
    assert project.harness("verify", str(export)).code == 0
    items = export / "evidence/items.jsonl"
    lines = [json.loads(line) for line in items.read_text("utf-8").splitlines()]
    assert {len([x for x in lines if x["key"] == line["key"]]) for line in lines} == {
        2 * len({x["item"] for x in lines})
    }


def test_two_columns_of_clusters_are_recomputed(project: Project) -> None:
    """A suite names two columns, its verdict counts both kinds, and whoever verifies finds them again."""
    rows = [{**row, "doc": f"d{i // 8}", "form": f"f{i % 8}"} for i, row in enumerate(ROWS)]
    suite = SUITE.replace('data = "test.jsonl"', 'data = "test.jsonl"\ncluster = ["doc", "form"]')
    project.write({"suite.toml": suite, "test.jsonl": rows, "train.jsonl": TRAIN})
    done = project.run()
    assert {v.parts["clusters"].crossed for v in done.report.verdicts} == {(8, 8)}
    export = project.folder / "exports/fake"
    assert project.harness("verify", str(export)).code == 0
    project.write({"suite.toml": suite.replace('["doc", "form"]', '["doc", "form", "kind"]')})
    assert "cluster names 3 columns; name one, or two different ones" in project.run("--collect-only").err


@pytest.mark.parametrize("place", [0, -1])
def test_one_row_that_differs_is_no_correlation(place: int) -> None:
    """At an end of the file it has one neighbour, which few other orders have, and that is no correlation."""
    ours = [1.0] * 300
    ours[place] = 0.0
    claim = replace(CLAIM, better_by=None, worse_by_at_most=0.3)
    assert "correlated" not in decide_repeats(claim, ours, [1.0] * 300, [f"k{i}" for i in range(300)]).why


def test_neighbours_that_go_together_are_told() -> None:
    """Blocks of ten rows that won or lost together are noticed, rows in a random order are not."""
    luck = random.Random(3)
    blocks = [value for value in luck.choices([0.0, 1.0], k=20) for _ in range(10)]
    keys = [f"k{i}" for i in range(200)]
    base = [0.5 for _ in range(200)]
    told = decide_repeats(replace(CLAIM, better_by=None, worse_by_at_most=0.3), blocks, [0.0] * 200, keys)
    assert "neighbouring rows are correlated (0.86, p = 0.001)" in told.why
    luck.shuffle(blocks)
    assert (
        "neighbouring"
        not in decide_repeats(replace(CLAIM, better_by=None, worse_by_at_most=0.3), blocks, base, keys).why
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "changed"), [(60, 60), (300, 30), (6_000, 6_000), (10_000, 950)], ids=["means", "few", "many", "tenth"]
)
def test_rows_in_a_random_order_seldom_go_together(n: int, changed: int) -> None:
    """Of 300 orders about one in twenty has a p-value of 0.05, whichever way it is found."""
    luck = random.Random(5)
    values = [luck.random() ** 3 if n == changed else luck.choice((-1.0, 1.0)) for _ in range(changed)]
    values += [0.0] * (n - changed)
    found = [lag_one_correlation(luck.sample(values, n)) for _ in range(300)]
    assert sum(p <= 0.05 for _, p in filter(None, found)) == pytest.approx(15, abs=11)


def test_few_rows_that_carry_the_variance_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The normal distribution stands for orders of 1,000 equal changes, and not of values with one far away."""
    monkeypatch.setattr("harness.stats.autocorrelation.RANDOM_ORDERS", 0)  # after which the p-value is 1
    luck = random.Random(9)
    changes = [luck.choice((-1.0, 1.0)) for _ in range(1_000)]
    values = luck.sample([*changes, *[0.0] * 9_000], 10_000)
    assert lag_one_correlation(values).p < 1  # type: ignore[union-attr]
    assert lag_one_correlation([*values[1:], 1e20]).p == 1  # type: ignore[union-attr]


def test_too_few_or_equal_rows_say_nothing_of_neighbours() -> None:
    """Nineteen rows, and rows that are all alike, have no correlation."""
    assert lag_one_correlation([float(i) for i in range(19)]) is None
    assert lag_one_correlation([0.1] * 100) is None
    assert lag_one_correlation([1e200, *range(100)]) is None  # whose square is no number
