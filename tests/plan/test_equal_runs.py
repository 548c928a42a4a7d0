"""`harness aa`: how often rows and verdicts of one model differ by chance."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.errors import ExitCode
from harness.planning.equal_runs import EqualRuns, VerdictFlips
from harness.testing import ROWS, SUITE, TRAIN, CommandOutcome, Project, write_fake
from harness.testing.judge import StubJudge
from tests.helpers.sampling import HARNESSFILE

KEPT = """
[[gate]]
id = "kept"
metric = "qa.exact_match"
versus = "base"
worse_by_at_most = 0.15
"""
BETTER = """
[[gate]]
id = "better"
metric = "qa.exact_match"
versus = "base"
better_by = 0.0
"""
SAMPLED = SUITE.replace('data = "test.jsonl"', 'data = "test.jsonl"\ntemperature = 0.7\nrepeats = 2')
STUB = 'backend = "openai"\nmodel = "stub-judge"\nmax_new_tokens = 20\ntrust_judge = true\nadversaries = 0\n'
JUDGED = SUITE.replace('use = "exact_match"', 'use = "judge"').replace("qa.exact_match", "qa.win_rate")
JUDGED = JUDGED.replace('slices = ["kind"]', f"{STUB}# options").replace("min = 0.5", "min = 0.4")
MANY = [{"id": f"q{i}", "input": f"question {i} say w{i}", "target": f"w{i}"} for i in range(100)]


def write(project: Project, suite: str, rows: list[dict[str, Any]] = ROWS) -> Project:
    """Write a suite whose models sample."""
    suite = suite.replace('use = "fake"\npath', 'use = "sampling"\npath')
    return project.write({"suite.toml": suite, "test.jsonl": rows, "train.jsonl": TRAIN, "harnessfile.py": HARNESSFILE})


def compare(project: Project, suite: str, *words: str) -> CommandOutcome:
    """Run the command on a suite whose models sample."""
    return write(project, suite).harness("aa", "suite.toml", "-p", "harness.testing", *words)


def test_greedy_answers_do_not_differ(project: Project) -> None:
    """A model that answers by the prompt alone has equal rows in every run, and a deterministic suite says so."""
    done = compare(project, SUITE + KEPT, "--runs", "3")
    assert done.code == 0, done.err
    assert "3 runs of the base, each with its rows in another order\n" in done.out
    assert "note: seed does not vary: greedy answers are equal by construction" in done.out
    assert "qa.exact_match  0.300 to 0.300; no row differs between two runs\n" in done.out
    assert "this suite is deterministic: no run gave any row another value" in done.out
    assert "kept: PASS 100.0% of 400 pairs; wrong 0.0% (alpha 0.05); at the margin " in done.out
    assert "another verdict in 0 of pairs (0 to 0.018)" in done.out


def test_sampled_answers_differ_by_their_seed(project: Project) -> None:
    """Row flips are counted over all pairs of runs, and a gate is wrong on equal models no more often than its risk."""
    done = compare(project, SAMPLED + KEPT + BETTER, "--runs", "4", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    [mean] = [row for row in found["rows"] if row["metric"] == "qa.exact_match"]
    # two of two values in {0, 1/2, 1} by chance 0.3: they differ with probability 1 - Σ p² = 0.566
    assert mean["rows"] == 60 and len({*mean["values"]}) > 1 and mean["share"] == pytest.approx(0.566, abs=0.12)
    assert mean["low"] < mean["share"] < mean["high"] and mean["share"] < mean["in_any"]
    gates = {gate["gate"]: gate for gate in found["gates"]}
    assert gates["floor"]["wrong"] is None and gates["floor"]["outcomes"] == {"FAIL": 1.0}
    assert gates["better"]["wrong"] <= 0.1 and 0 < gates["kept"]["at_margin"] <= 0.1
    assert gates["kept"]["outcomes"]["PASS"] > gates["kept"]["at_margin"]
    assert gates["floor"]["flips"] == 0 and gates["kept"]["low"] < gates["kept"]["flips"] < gates["kept"]["high"]
    assert found["sources"] == ["seed", "company"]
    assert not [*project.folder.glob("reports/*")]
    kept = json.loads((project.folder / "suite.aa.json").read_text("utf-8"))["evals"]["qa"]
    assert (kept["metrics"], kept["gates"]) == (found["rows"], found["gates"])


def test_only_what_is_named_varies(project: Project) -> None:
    """With another order alone drawn answers are the same, and a base of another dtype is another load."""
    done = compare(project, SAMPLED, "--runs", "2", "--vary", "company, dtype, judge, processes", "--json")
    found = json.loads(done.out)
    assert found["sources"] == ["company", "dtype"] and {row["share"] for row in found["rows"]} == {0.0}
    assert [line.partition(":")[0] for line in found["skipped"]] == ["judge does not vary", "processes does not vary"]
    done = compare(project, SAMPLED, "--runs", "2", "--vary", "processes", "--on", "local:1", "--limit", "10")
    assert "2 runs of the base, each with every other one in this process alone" in done.out
    assert "no row differs between two runs" in done.out and "not kept: --limit leaves rows out" in done.out


@pytest.mark.slow
def test_a_judge_that_tosses_a_coin_is_measured(project: Project) -> None:
    """Of a judge that tosses a coin on 30 % of pairs, 30 ± 5 % of rows do not keep their value."""
    write_fake(project.folder / "base", 0.0)  # whose answers are all wrong, and another one with each seed
    with StubJudge("noisy", seed=5) as stub:
        suite = JUDGED.replace("# options", f'temperature = 0.7\nbase_url = "{stub.openai_url}"')
        write(project, suite, MANY).write({"harnessfile.py": HARNESSFILE.replace("{seed % 2}", "{seed}")})
        done = project.harness("aa", "suite.toml", "-p", "harness.testing", "--vary", "judge", "--json")
        coins = sum(stub.is_uncertain(str(row["input"])) for row in MANY) / len(MANY)
        assert (done.code, len(stub.log)) == (0, 8 * 2 * 100)  # each run anew, in both orders
    [win_rate] = [row for row in json.loads(done.out)["rows"] if row["metric"] == "qa.win_rate"]
    assert win_rate["in_any"] == pytest.approx(0.3, abs=0.05) and win_rate["in_any"] == pytest.approx(coins, abs=0.01)
    # of a coin in each order: 1, ½ and 0 with the chances ¼, ½ and ¼, which differ with probability ⅝
    assert win_rate["share"] == pytest.approx(5 / 8 * coins, abs=0.05)
    refused = project.harness("aa", "suite.toml", "-p", "harness.testing", "--vary", "seed,company")
    assert refused.code == 4 and '"qa" was not run: its judge does not vary' in refused.err
    write(project, suite.replace("temperature = 0.7", ""), MANY)
    refused = project.harness("aa", "suite.toml", "-p", "harness.testing")
    assert '"qa" was not run: greedy answers of equal models are equal' in refused.err


def test_a_gate_that_is_wrong_too_often_fails_the_command() -> None:
    """Exit 1 says that a gate is wrong on equal models, or at its margin, more often than its risk."""

    def exit_code(wrong: float | None, at_margin: float | None) -> ExitCode:
        return EqualRuns(8, (), (VerdictFlips("g", 0.05, 400, {}, wrong, at_margin),), ()).exit_code

    assert exit_code(0.08, None) == exit_code(None, None) == exit_code(0.0, 0.08) == ExitCode.OK
    assert exit_code(0.09, None) == exit_code(0.0, 0.09) == ExitCode.FAILED


@pytest.mark.parametrize(
    ("suite", "words", "says"),
    [
        (SUITE, ("--runs", "1"), "--runs is 1; it must be 2 or more"),
        (SUITE.replace("[[gate]]", "[[gates]]"), (), 'unknown table "gates"'),
        (
            SUITE.replace('"exact_match"\n', '"latency"\n')
            .replace("qa.exact_match", "qa.seconds")
            .replace("min", "max"),
            (),
            "has no gate on an evaluation that can be repeated",
        ),
    ],
)
def test_what_cannot_be_repeated_is_refused(project: Project, suite: str, words: tuple[str, ...], says: str) -> None:
    """A mistake is one line before the base is loaded."""
    done = compare(project, suite, *words)
    assert done.code == 4 and says in done.err


def test_plan_takes_what_was_measured(project: Project) -> None:
    """Rows that differ by chance cost power: their share takes the place of the assumed one where it is larger."""
    drawn, greedy = SAMPLED.replace("repeats = 2", "") + BETTER, SUITE + BETTER

    def plan() -> str:
        return " ".join(project.harness("plan", "suite.toml").out.split())

    assert compare(project, drawn, "--runs", "4").code == 0
    [kept] = json.loads((project.folder / "suite.aa.json").read_text("utf-8"))["evals"].values()
    [flips] = [one for one in kept["metrics"] if one["metric"] == "qa.exact_match"]
    # two answers that are right by chance 0.3 differ with probability 0.42
    assert flips["discordance"] == flips["share"] == pytest.approx(0.42, abs=0.1)
    share = f"{flips['share']:.1%}"
    assert f"{share} of rows differ, measured by harness aa ({share} between equal runs)" in plan()
    assert compare(project, greedy, "--runs", "2").code == 0
    assert "20.0% of rows differ, assumed (0.0% between equal runs)" in plan()
    write(project, greedy, ROWS[:-1])
    assert "20.0% of rows differ, assumed" in plan() and "equal runs" not in plan()
    (project.folder / "suite.aa.json").write_text("{}", "utf-8")
    assert (
        "suite.aa.json: is not a record of this version's harness aa; remove it"
        in project.harness("plan", "suite.toml").err
    )
