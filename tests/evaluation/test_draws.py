"""Several answers a row: sampled with seeds of their own, merged to one score, tested in the cluster of their row."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from typing import Any

import pytest

from harness.collection.collection import Task
from harness.evaluation.draws import SampledSubject, expected_best
from harness.gates.decide import decide
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Draw, Result, Sample, Score
from harness.suite.tables import Eval
from harness.testing import ROWS, SUITE, TRAIN, Project
from tests.helpers.sampling import HARNESSFILE

SAMPLED = SUITE.replace('use = "fake"\npath', 'use = "sampling"\npath').replace(
    'data = "test.jsonl"', 'data = "test.jsonl"\ntemperature = 0.7\nrepeats = 4\npass_at = [1, 2, 4]'
)
VERSUS = """
[[gate]]
id = "better"
metric = "qa.exact_match"
versus = "base"
better_by = 0.1
"""


def sampling(project: Project, suite: str = SAMPLED) -> Project:
    """Write a suite whose models sample."""
    return project.write({"suite.toml": suite, "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": HARNESSFILE})


def read_newest_rows(project: Project, subject: str) -> list[dict[str, Any]]:
    """Read the newest samples file of a subject."""
    path = max(project.folder.glob(f"reports/*/{subject}/samples_*"), key=lambda p: p.stat().st_mtime_ns)
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# -- the numbers


@pytest.mark.parametrize("n", [1, 2, 5, 8, 64])
def test_pass_at_k_is_exact(n: int) -> None:
    """Over all numbers of right answers it is 1 - C(n - c, k) / C(n, k), which is 1 for k above the wrong ones."""
    for right in range(n + 1):
        for k in range(1, n + 1):
            exact = 1 - Fraction(math.comb(n - right, k), math.comb(n, k))
            assert abs(expected_best([1.0] * right + [0.0] * (n - right), k) - exact) <= 1e-12


def test_pass_at_k_is_unbiased() -> None:
    """Its expectation over the draws is the chance that one of k is right: 0.3439 at p = 0.1, n = 8, k = 4."""
    p, n, k = 0.1, 8, 4
    chances = (math.comb(n, c) * p**c * (1 - p) ** (n - c) * expected_best([1.0] * c + [0.0] * (n - c), k)
               for c in range(n + 1))  # fmt: skip
    assert abs(math.fsum(chances) - (1 - (1 - p) ** k)) <= 1e-12


def test_the_best_of_k_shares_is_their_mean_maximum() -> None:
    """Of values between 0 and 1 it is the mean of the largest over all ways to choose k."""
    values = [0.2, 0.9, 0.5, 0.5, 0.0]
    each = [max(some) for some in combinations(values, 3)]
    assert expected_best(values, 3) == pytest.approx(sum(each) / len(each), abs=1e-15)


# -- a run


def test_a_row_has_the_numbers_of_its_answers(project: Project) -> None:
    """Mean, best, worst, vote and spread of a row are those of the answers that its line lists."""
    done = sampling(project).run()
    assert done.code == 0, done.err + done.out
    for line in read_newest_rows(project, "merged"):
        right = [draw["values"]["exact_match"] for draw in line["draws"]]
        [said] = line["resps"]
        assert right == [float(text == line["target"]) for text in said] and len(said) == 4
        assert line["exact_match"] == line["exact_match.pass@1"] == sum(right) / 4
        assert line["exact_match.pass@4"] == max(right) and line["exact_match.all@4"] == min(right)
        assert line["exact_match.pass@2"] == pytest.approx(1 - math.comb(4 - int(sum(right)), 2) / 6, abs=1e-12)
        first_most = max(said, key=said.count)
        assert line["exact_match.maj@4"] == float(first_most == line["target"])
        assert line["finish_reason"] == ("length" if "length" in {d["finish_reason"] for d in line["draws"]} else "eos")
    assert 0 < sum(line["exact_match.spread"] > 0 for line in read_newest_rows(project, "base")) < 60
    item = next(r for r in done.report.results if r.subject == "base")
    assert sum(item.finish_reasons.values()) == item.requests == 240


def test_a_person_sees_every_answer(project: Project) -> None:
    """`harness show --flips` lists the answers of a row, `harness plan` counts them, and a run may stop early."""
    suite = SAMPLED.replace("repeats = 4", 'repeats = 4\nstop = "early"').replace('slices = ["kind"]', "limit = 40")
    sampling(project, suite + VERSUS)
    assert re.search(r"base::qa +40 +160 +0 ", project.harness("plan", "suite.toml").out)
    assert project.run().code == 0
    shown = project.harness("show", "--flips", "-n", "1").out
    assert re.search(r"^base +1\. \w+\n +2\. \w+\n +3\. \w+\n +4\. \w+$", shown, re.MULTILINE), shown
    assert all(len(line["draws"]) == 4 for line in read_newest_rows(project, "merged"))


def test_more_answers_ask_only_for_those(project: Project) -> None:
    """Eight answers after four ask for four, and the first four stay; nothing is asked of another name or order."""

    def requests(suite: str) -> tuple[int, int]:
        item = next(r for r in sampling(project, suite).run().report.results if r.subject == "base")
        return item.requests, item.cache_hits

    assert requests(SAMPLED) == (240, 0)
    first = [line["resps"][0] for line in read_newest_rows(project, "base")]
    assert requests(SAMPLED.replace("repeats = 4", "repeats = 8")) == (480, 240)
    assert [line["resps"][0][:4] for line in read_newest_rows(project, "base")] == first
    assert requests(SAMPLED.replace('name = "qa"', 'name = "other"').replace('"qa.', '"other.')) == (240, 240)
    assert requests(SAMPLED.replace("temperature = 0.7", "temperature = 0.8")) == (240, 0)
    assert requests(SAMPLED.replace('name = "fake"', 'name = "fake"\nseed = 7')) == (240, 0)


def test_seeds_are_shared_or_each_models_own(project: Project) -> None:
    """A model against its twin draws the same answers with shared seeds, and others with its own."""

    def differ(suite: str) -> int:
        sampling(project, suite).write({"base/other.json": "{}"})
        assert project.run().code in (0, 1)
        ours, theirs = ([line["resps"] for line in read_newest_rows(project, name)] for name in ("twin", "base"))
        return sum(o != t for o, t in zip(ours, theirs, strict=True))

    twin = SAMPLED + '\n[subject.twin]\nuse = "sampling"\npath = "base"\n'
    assert differ(twin) == 0
    assert differ(twin.replace("repeats = 4", 'repeats = 4\nseeds = "own"')) > 40


def test_evidence_recomputes_gates_on_draws(project: Project) -> None:
    """The verdicts on mean, best, worst and vote follow from the evidence alone, and its rows can be replayed."""
    gate = '[[gate]]\nid = "{0}"\nmetric = "qa.exact_match.{0}"\nmin = 0.5\n'
    gates = "".join(map(gate.format, ("pass@2", "all@4", "maj@4")))
    cut = '[[gate]]\nid = "cut"\nmetric = "qa.cut"\nmax = 0.5\n'
    done = sampling(project, SAMPLED + VERSUS + gates + cut).run()
    assert done.code == 0, done.out
    assert "6 of 6 decided again from their rows" in project.harness("verify", "exports/fake").out
    words = ("--replay", "9", "--suite", "suite.toml", "-p", "harness.testing")
    played = project.harness("verify", "exports/fake", *words)
    assert "9 rows" in played.out, played.out + played.err


def test_a_guard_counts_answers(project: Project) -> None:
    """Of 240 answers those that were cut are counted, not the rows that have one."""
    done = sampling(project, SAMPLED.replace("min = 0.5", "min = 0.5\ncut_at_most = 0.1")).run()
    [why] = [v.why for v in done.report.verdicts if v.candidate == "merged" and v.gate == "floor"]
    assert "of 240 answers were truncated, more than the allowed share of 0.1" in why


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("repeats = 4", "repeats = 0", "repeats is 0; it must be 1 or more"),
        ("temperature = 0.7", "temperature = -1", "temperature is -1; it must be 0 (greedy) or more"),
        ("temperature = 0.7", "", "repeats needs sampled answers; set temperature above 0"),
        ("repeats = 4", "repeats = 4\ntop_p = 0", "top_p is 0; it must be more than 0 and at most 1"),
        ("repeats = 4", "repeats = 4\ntop_k = -1", "top_k is -1; it must be 0 (all tokens) or more"),
        ("[1, 2, 4]", "[1, 16]", "pass_at names 16, but each row has 4 answers; give numbers from 1 to repeats"),
        ("[1, 2, 4]", "[0]", "pass_at names 0, but each row has 4 answers"),
        ('"exact_match"', '"multiple_choice"', '"multiple_choice" generates no answers that could be sampled'),
        ("min = 0.5", "max_failures = 3", "exact_match is a mean of answers; claim qa.exact_match.all@4"),
        ("qa.exact_match", "qa.exact_match.spread", "says how answers differ within a row; claim"),
        ("qa.exact_match", "qa.exact_match.maj@8", 'has no metric "exact_match.maj@8"; did you mean'),
        ("repeats = 4", 'repeats = 4\nseeds = "x"', '"seeds" is "x"; it must be "shared" or "own"'),
    ],
)
def test_what_cannot_be_sampled_is_refused(project: Project, old: str, new: str, says: str) -> None:
    """A mistake in how answers are sampled is one line at collection."""
    done = sampling(project, SAMPLED.replace(old, new, 1)).run()
    assert done.code == 4 and says in done.err, done.err


# -- the test


def judge_draws(draws: Sequence[Sequence[float]], base: Sequence[Sequence[float]], **gate: Any) -> Any:
    """Judge a comparison of draws, a list a row."""

    def result(name: str, values: Sequence[Sequence[float]]) -> Result:
        scores = [
            Score(str(i), {"right": sum(row) / len(row)}, draws=tuple(Draw({"right": v}) for v in row))
            for i, row in enumerate(values)
        ]
        return Result(name, "qa", tuple(scores), {}, name, rows="same")

    samples = [Sample(str(i)) for i in range(len(draws))]
    made = Gate("g", "qa.right", versus="base", **gate)
    metric = Metric("right", "higher", "proportion")
    return decide(made, metric, result("new", draws), result("base", base), samples, 0.05, name="new")


def test_draws_are_tested_in_the_cluster_of_their_row() -> None:
    """A verdict has as many rows and clusters as there are rows, whatever the answers of each."""
    base = [[1.0, 0.0, 1.0, 1.0]] * 80
    found = judge_draws([[1.0, 1.0, 1.0, 1.0]] * 60 + [[0.0, 0.0, 1.0, 1.0]] * 20, base, worse_by_at_most=0.1)
    assert (found.n, found.units) == (80, 80)
    assert found.estimate == pytest.approx(0.25 * 60 / 80 - 0.25 * 20 / 80)


def test_rows_that_break_wholly_are_not_diluted() -> None:
    """Four answers a row are no four rows: six of 80 rows that lose all theirs do not pass as 24 of 320 would."""
    base = [[1.0] * 4] * 80
    lost = [[0.0] * 4] * 2 + [[1.0] * 4] * 78
    as_rows = [[row[0]] for row in lost for _ in range(4)]
    assert judge_draws(lost, base, worse_by_at_most=0.05).outcome == "INCONCLUSIVE"
    assert judge_draws(as_rows, [[1.0]] * 320, worse_by_at_most=0.05).outcome == "PASS"


class Echo:
    """A subject that keeps the seeds it was asked with."""

    name, digest = "base", "d"

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def generate(self, prompts: Sequence[str], *, sampling: Any = None, **_: Any) -> list[str]:
        """Answer with the prompt."""
        self.seeds += sampling.seeds
        return list(prompts)


def collect_call_seeds(asked: Sequence[Sequence[str]], samples: Mapping[str, str], draw: int = 0) -> list[int]:
    """Return the seeds of calls for rows, by id and prompt."""
    spec = Eval("qa", "x", "x", temperature=1.0, repeats=2)
    echo = Echo()
    sampled = SampledSubject(echo, replace(Task(spec, lambda: None, {}, ()), seed=3))  # type: ignore[arg-type]
    sampled.start_draw([Sample(i, text) for i, text in samples.items()], draw)
    for prompts in asked:
        sampled.generate(prompts)
    return echo.seeds


def test_a_seed_is_of_the_row_and_the_draw() -> None:
    """Company and order change no seed; rows with one prompt have seeds of their own, and so has a second question."""
    both = collect_call_seeds([["p", "q"]], {"a": "p", "b": "q"})
    assert collect_call_seeds([["q"], ["p"]], {"b": "q", "a": "p"}) == both[::-1]
    assert collect_call_seeds([["p", "q"]], {"a": "p", "b": "q"}, draw=1)[0] not in both
    assert collect_call_seeds([["p", "p"]], {"a": "p", "b": "p"})[0] == both[0]
    assert len({*collect_call_seeds([["p", "p"], ["p"], ["more p"]], {"a": "p", "b": "p"})}) == 4
