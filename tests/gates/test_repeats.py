"""Rows that ask what others ask, and neighbours that go together."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from harness.claims.decide import decide
from harness.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample, Score
from harness.records.verdicts import Verdict
from harness.stats.neighbours import correlation
from harness.testing import ROWS, SUITE, TRAIN, Project

ACC = Metric("acc", "higher", "proportion")
CLAIM = Gate("g", "e.acc", versus="base", better_by=0.0)


def decided(
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
    """40 rows that prove nothing prove nothing 20 times over, and the verdict says how many there are."""
    ours, theirs = [1.0] * 6 + [0.0] * 34, [0.0] * 4 + [1.0] * 2 + [0.0] * 32 + [1.0] * 2
    keys = [f"k{i}" for i in range(40)]
    once, often = (decided(CLAIM, ours * n, theirs * n, keys * n) for n in (1, 20))
    assert often.outcome == once.outcome == "INCONCLUSIVE"
    assert (often.p_pass, often.n, often.copies, often.clusters) == (once.p_pass, 40, 760, None)
    assert often.why.startswith(once.why.partition("; ")[0])
    assert "; 760 of 800 rows are copies, and count once" in often.why


def test_what_is_answered_otherwise_the_next_time_is_a_cluster() -> None:
    """Rows of one question that scored differently are no copies, and no independent rows either."""
    keys = [f"k{i // 2}" for i in range(120)]
    ours, theirs = [float(i % 3 > 0) for i in range(120)], [float(i % 4 > 1) for i in range(120)]
    found = decided(CLAIM, ours, theirs, keys)
    assert found.clusters == 60
    assert found.copies + found.n == 120
    assert f"; {found.joined} rows ask what others ask, and are in a cluster with these" in found.why


def test_clusters_that_a_question_connects_are_one() -> None:
    """Two documents with the same question, answered in two ways, are one cluster; a third stays apart."""
    clusters = [f"d{i // 4}" for i in range(120)]
    keys = ["same" if i in (0, 5) else f"k{i}" for i in range(120)]
    ours, theirs = [float(i % 3 > 0) for i in range(120)], [0.0] + [float(i % 4 > 1) for i in range(1, 120)]
    assert decided(CLAIM, ours, theirs, [f"k{i}" for i in range(120)], clusters).clusters == 30
    assert decided(CLAIM, ours, theirs, keys, clusters).clusters == 29


def test_copies_in_other_slices_stay_in_theirs() -> None:
    """A row that two slices have in common is in both, and one cluster."""
    keys = ["k0", "k0", *(f"k{i}" for i in range(2, 200))]
    ours = [1.0] * 200
    found = decided(replace(CLAIM, slice="kind=*"), ours, [float(i % 5 > 0) for i in range(200)], keys)
    assert [s.n for s in found.slices] == [100, 100]
    whole = decided(CLAIM, ours, [1.0, 1.0, *(float(i % 5 > 0) for i in range(2, 200))], keys)
    assert (whole.n, whole.copies) == (199, 1)


def test_failures_are_counted_on_all_rows() -> None:
    """A copy that failed is a row that failed: leaving it out would let more of them through."""
    gate = Gate("g", "e.acc", max_failures=1)
    keys = ["k0", "k0", *(f"k{i}" for i in range(2, 50))]
    found = decided(gate, [0.0, 0.0] + [1.0] * 48, [1.0] * 50, keys)
    assert (found.outcome, found.estimate, found.copies) == ("FAIL", 2.0, 0)


def test_rows_that_were_doubled_are_told_at_collection(project: Project) -> None:
    """`cat a a > b` is a warning before anything is asked, and one row of forty in the verdict."""
    doubled = [{**row, "id": f"{n}-{row['id']}"} for n in range(2) for row in ROWS]
    project.write({"suite.toml": SUITE, "test.jsonl": doubled, "train.jsonl": TRAIN})
    told = f"{len(ROWS)} of {2 * len(ROWS)} rows ask what others ask, {len(ROWS)} are distinct"
    assert told in " ".join(project.run("--collect-only").err.split())
    done = project.run()
    assert [(v.n, v.copies) for v in done.report.verdicts] == [(len(ROWS), len(ROWS))] * 2
    early = SUITE.replace('data = "test.jsonl"', 'data = "test.jsonl"\nstop = "early"')
    refused = project.write({"suite.toml": early}).run("--collect-only")
    assert (refused.code, f'{told}; leave them out, or leave out stop = "early"' in refused.err) == (4, True)


def test_evidence_of_copies_is_recomputed(project: Project) -> None:
    """Who verifies finds the copies again, by the keys of the rows."""
    doubled = [{**row, "id": f"{n}-{row['id']}"} for n in range(2) for row in ROWS]
    project.write({"suite.toml": SUITE, "test.jsonl": doubled, "train.jsonl": TRAIN})
    assert project.run().code == 0
    export = project.folder / "exports/fake"
    assert project.harness("verify", "--recompute", str(export)).code == 0
    items = export / "evidence/items.jsonl"
    lines = [json.loads(line) for line in items.read_text("utf-8").splitlines()]
    assert {len([x for x in lines if x["key"] == line["key"]]) for line in lines} == {
        2 * len({x["item"] for x in lines})
    }


def test_neighbours_that_go_together_are_told() -> None:
    """Blocks of ten rows that won or lost together are noticed, rows in a random order are not."""
    luck = random.Random(3)
    blocks = [value for value in luck.choices([0.0, 1.0], k=20) for _ in range(10)]
    keys = [f"k{i}" for i in range(200)]
    base = [0.5 for _ in range(200)]
    told = decided(replace(CLAIM, better_by=None, worse_by_at_most=0.3), blocks, [0.0] * 200, keys)
    assert "; neighbouring rows go together (correlation 0." in told.why
    luck.shuffle(blocks)
    assert "neighbouring" not in decided(replace(CLAIM, better_by=None, worse_by_at_most=0.3), blocks, base, keys).why


@pytest.mark.slow
@pytest.mark.parametrize("n", [60, 6_000])
def test_rows_in_a_random_order_seldom_go_together(n: int) -> None:
    """Of 300 orders about one in a hundred has a p-value of 0.01, whichever way it is found."""
    luck = random.Random(5)
    values = [luck.random() ** 3 for _ in range(n)]
    found = [correlation(luck.sample(values, n)) for _ in range(300)]
    assert sum(p <= 0.05 for _, p in filter(None, found)) == pytest.approx(15, abs=11)


def test_too_few_or_equal_rows_say_nothing_of_neighbours() -> None:
    """Nineteen rows, and rows that are all alike, have no correlation."""
    assert correlation([float(i) for i in range(19)]) is None
    assert correlation([0.1] * 100) is None
