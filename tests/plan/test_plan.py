"""`harness plan`: what a run can prove, asks, takes and needs, told before anything is trained."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.cli.plan_report import _iterate_joint_power_lines
from harness.gates.decide import decide
from harness.planning.joint_power import JointPower
from harness.planning.power import ASSUMED_ICC
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample, Score
from harness.records.verdicts import Outcome
from harness.stats import power
from harness.testing import ROWS, SUITE, TRAIN, Project

MARGIN = """
[[gate]]
id = "no worse"
metric = "qa.exact_match"
versus = "base"
worse_by_at_most = 0.1
"""
GAIN = MARGIN.replace("no worse", "better").replace("worse_by_at_most = 0.1", "better_by = 0.0")


@pytest.fixture
def suite(project: Project) -> Project:
    """A suite with a bound, a margin and a gain."""
    return project.write({"suite.toml": SUITE + MARGIN + GAIN, "test.jsonl": ROWS, "train.jsonl": TRAIN})


@pytest.mark.slow
def test_the_peak_of_memory_is_that_of_the_process_which_measures() -> None:
    """Whoever started it may hold far more, which Linux counts among what its child had at most."""
    held = b"x" * (400 << 20)
    code = "from harness.pipeline.record import peak_memory; print(peak_memory()[''])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0 < int(told) < len(held)


def forecast(suite: Project, *flags: str, code: int = 0) -> dict[str, Any]:
    """Run `harness plan --json` and return what it says."""
    words = ["plan", str(suite.folder / "suite.toml"), "--out", str(suite.folder / "reports"), "--json", *flags]
    outcome = suite.harness(*words)
    assert outcome.code == code, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def find_odds(found: dict[str, Any], gate: str, candidate: str = "merged") -> dict[str, Any]:
    """Return what a forecast says of one gate."""
    return next(o for o in found["odds"] if (o["gate"], o["candidate"]) == (gate, candidate))


def told(suite: Project, *flags: str) -> str:
    """Run `harness plan` and return what it prints."""
    outcome = suite.harness("plan", str(suite.folder / "suite.toml"), "--out", str(suite.folder / "reports"), *flags)
    assert outcome.code == 0, outcome.err
    return outcome.out


@pytest.mark.parametrize(("factor", "said"), [(1.26, "1.3"), (29.4, "29"), (846.2, "846"), (1000.0, "1,000")])
def test_many_times_the_rows_are_a_plain_number(factor: float, said: str) -> None:
    """850 is not 8.5e+02."""
    joint = JointPower("merged", 1, 0.1, None, 0.03, factor=factor, rows={"qa": 1700})
    assert [*_iterate_joint_power_lines(joint)] == [f"80% needs {said} times the rows: 1,700 of qa"]


# -- gates -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_defaults_are_assumed_and_said_where_nothing_is_known(suite: Project) -> None:
    """An equal model at a discordance of 20 %, and the models that a bound and a gain are proven of."""
    found = forecast(suite)
    margin = find_odds(found, "no worse")
    assert margin["power"] == pytest.approx(power.pairs_power(0.0, 0.1, 0.2, 60, 0.05))
    assert (margin["truth"], margin["assumed"]) == ("if the candidate equals base", ["20.0% of rows differ, assumed"])
    assert power.pairs_power(0.0, 0.1, 0.2, margin["needed"], 0.05) >= 0.8
    assert power.pairs_power(0.0, 0.1, 0.2, margin["needed"] - 1, 0.05) < 0.8
    smallest = float(margin["proves"].removeprefix("a margin of "))
    assert power.pairs_power(0.0, smallest, 0.2, 60, 0.05) == pytest.approx(0.8, abs=0.01)
    floor = find_odds(found, "floor")
    assert floor["power"] >= 0.8
    assert power.share_power(float(floor["proves"]), 0.5, 60, 0.05) == pytest.approx(0.8, abs=0.02)
    assert find_odds(found, "better")["truth"].startswith("if it is +0.")


@pytest.mark.slow
def test_power_that_is_told_is_how_often_the_gate_passes(suite: Project) -> None:
    """Put to 400 draws of equal models that differ on 20 % of 60 rows, the gate passes as often as was said."""
    said = find_odds(forecast(suite), "no worse")["power"]
    gate, metric = Gate("g", "qa.acc", versus="base", worse_by_at_most=0.1), Metric("acc", "higher", "proportion")
    samples, draw, passed = [Sample(str(i)) for i in range(60)], random.Random(5), 0
    outcomes: dict[tuple[int, int], Outcome] = {}  # which depends on how many were won and lost
    for _ in range(400):
        changes = draw.choices((0, 1, -1), (0.8, 0.1, 0.1), k=60)
        table = changes.count(1), changes.count(-1)
        base = [1.0 if c < 0 else 0.0 if c > 0 else float(draw.random() < 0.5) for c in changes]
        sides = [
            Result(name, "qa", tuple(Score(s.id, {"acc": v}) for s, v in zip(samples, values, strict=True)), {}, name)
            for name, values in (("merged", [b + c for b, c in zip(base, changes, strict=True)]), ("base", base))
        ]
        if table not in outcomes:
            outcomes[table] = decide(gate, metric, *sides, samples, 0.05, name="merged").outcome
        passed += outcomes[table] is Outcome.PASS
    assert passed / 400 == pytest.approx(said, abs=0.08)


EVALS = """
[[eval]]
name = "more{i}"
use = "exact_match"
data = "test.jsonl"

[[gate]]
id = "keeps{i}"
metric = "more{i}.exact_match"
versus = "base"
worse_by_at_most = {margin}
"""


@pytest.fixture
def five(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A gain to be proven on 300 rows, of which 10 % differ."""
    monkeypatch.setattr(power, "DISCORDANCE", 0.1)
    bare = SUITE.replace('[[gate]]\nid = "floor"\nmetric = "qa.exact_match"\nmin = 0.5\n', "")
    rows = [{"id": f"q{i}", "input": f"question {i} say w{i}", "target": f"w{i}", "kind": "a"} for i in range(300)]
    return project.write({"suite.toml": bare + GAIN, "test.jsonl": rows, "train.jsonl": TRAIN})


def joined(suite: Project) -> dict[str, Any]:
    return next(j for j in forecast(suite)["joint"] if j["candidate"] == "merged")


@pytest.mark.slow
@pytest.mark.parametrize(("margin", "ships"), [(None, 0.49), (0.05, 0.23), (0.03, 0.027)])
def test_five_gates_ship_a_good_model_seldom(five: Project, margin: float | None, ships: float) -> None:
    """300 rows, 10 % of which differ: 3 points better ships 49 % of the time; with four more gates 23 %, 3 % at 3."""
    if margin:
        more = "".join(EVALS.format(i=i, margin=margin) for i in range(4))
        five.write({"suite.toml": (five.folder / "suite.toml").read_text() + more})
    found = joined(five)
    assert found["better"] == pytest.approx(ships, abs=0.03)
    assert (found["gates"], found["points"]) == (5 if margin else 1, 3.0)
    assert found["costliest"] == ("better" if margin == 0.05 else found["costliest"])


@pytest.mark.slow
def test_gates_are_told_in_80_columns(five: Project) -> None:
    """The chance of shipping, the rows for 80 %, and the gate that costs most, however long the names are."""
    more = "".join(EVALS.format(i=f"_of_a_rather_long_name_{i}", margin=0.05) for i in range(4))
    five.write({"suite.toml": (five.folder / "suite.toml").read_text() + more})
    lines = told(five).partition("gates on ")[2].partition("\ndata: ")[0].splitlines()
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= 80
    assert re.search(r"a model 3 points better than required ships 2\d% of the time with these 5 gates", text)
    assert re.search(r"80% needs 2\.\d times the rows: \d{3} of qa, ", text)
    assert re.search('"better" costs most: (4|5)\\d% without it', text)


@pytest.mark.slow
def test_rows_for_all_gates_together_would_do(five: Project) -> None:
    """With as many rows as are said to make it 80 %, the same suite ships such a model 80 % of the time."""
    five.write({"suite.toml": (five.folder / "suite.toml").read_text() + EVALS.format(i=0, margin=0.05)})
    found = joined(five)
    assert found["rows"].keys() == {"qa", "more0"}
    many = [{"id": f"q{i}", "input": f"say w{i}", "target": f"w{i}", "kind": "a"} for i in range(found["rows"]["qa"])]
    assert joined(five.write({"test.jsonl": many}))["better"] == pytest.approx(0.8, abs=0.04)
    assert "80% needs" in told(five) or joined(five)["better"] >= 0.8


@pytest.mark.slow
def test_gates_on_one_baseline_share_their_rows(five: Project) -> None:
    """Two claims about the same rows pass together as often as the harder one; on other rows they would not."""
    gain = (five.folder / "suite.toml").read_text()
    alone, both = joined(five), joined(five.write({"suite.toml": gain + MARGIN.replace("0.1", "0.01")}))
    assert (both["gates"], both["better"]) == (2, alone["better"])


@pytest.mark.slow
def test_candidate_that_ships_nothing_is_not_counted(suite: Project) -> None:
    """What is exported is the merged model; the adapter's gates are told, and decide nothing."""
    assert [j["candidate"] for j in forecast(suite)["joint"]] == ["merged"]


@pytest.mark.slow
def test_last_run_takes_the_place_of_defaults(suite: Project) -> None:
    """Rows that differed then, and the metric as it was then, are what power is told for."""
    run = suite.run().report
    then = next(v for v in run.verdicts if v.gate == "no worse" and v.candidate == "merged")
    changed = (len(then.won) + len(then.lost)) / then.n
    found = forecast(suite)
    assert find_odds(found, "no worse")["power"] == pytest.approx(power.pairs_power(0.0, 0.1, changed, 60, 0.05))
    assert f"{changed:.1%} of rows differ, as in {found['runs'][0]}" in find_odds(found, "no worse")["assumed"]
    floor = next(v for v in run.verdicts if v.gate == "floor" and v.candidate == "merged")
    assert find_odds(found, "floor")["power"] == pytest.approx(power.share_power(floor.estimate or 0, 0.5, 60, 0.05))
    assert find_odds(found, "floor")["truth"] == f"if it is {floor.estimate:.3g} again"


@pytest.mark.slow
def test_model_as_the_last_one_is_told_of_too(suite: Project) -> None:
    """After a run all gates together are told for what the candidate was, on the same draws."""
    assert next(j for j in forecast(suite)["joint"])["again"] is None
    suite.run()
    joint = joined(suite)
    assert joint["again"] > 0.99  # 72 points better than the base, and 90 % right
    assert joint["better"] < 0.2  # 3 points are next to nothing on 60 rows
    assert "all together, for a model as good as in the last run" in told(suite)


@pytest.mark.slow
def test_relative_margin_is_told_for_an_equal_model(suite: Project) -> None:
    """Equal is as far from the bound as the margin is, not on it: the same as the margin in points."""
    share = MARGIN.replace("0.1", '"60%"')
    suite.write({"suite.toml": SUITE + share})
    run = suite.run().report
    base = next(v.baseline for v in run.verdicts if v.gate == "no worse")
    assert base
    near = find_odds(forecast(suite), "no worse")
    assert near["truth"] == "if the candidate equals base"
    suite.write({"suite.toml": SUITE + share.replace("60%", "1%")})
    assert find_odds(forecast(suite), "no worse")["power"] < near["power"]
    assert near["power"] > 0.1
    assert near["proves"].endswith("%")


@pytest.mark.slow
def test_correlation_within_clusters_is_learned(suite: Project) -> None:
    """Rows of one cluster that go right or wrong together cost more than was assumed, as the last run showed."""
    rows = [{**row, "group": i // 6} for i, row in enumerate(ROWS)]
    text = SUITE.replace('slices = ["kind"]', 'cluster = "group"')
    suite.write({"suite.toml": text, "test.jsonl": rows})
    suite.run()
    (note,) = find_odds(forecast(suite), "floor")["assumed"]
    assert note.startswith("clusters cost a factor ")
    assert ", as in " in note


@pytest.mark.slow
def test_run_of_another_model_or_on_few_rows_says_nothing(suite: Project) -> None:
    """What ten rows showed, or another base, is no better than the defaults."""
    suite.run("--limit", "10")
    assert find_odds(forecast(suite), "no worse")["assumed"] == ["20.0% of rows differ, assumed"]
    suite.run()
    assert "as in" in find_odds(forecast(suite), "no worse")["assumed"][0]
    found = forecast(suite, "--set", f"model.path={suite.folder / 'good'}")
    assert (found["runs"], find_odds(found, "no worse")["assumed"]) == ([], ["20.0% of rows differ, assumed"])


@pytest.mark.slow
def test_broken_report_is_passed_over(suite: Project) -> None:
    """A report that cannot be read, or is of another version, costs the plan nothing."""
    for number, text in enumerate(("{", '{"format": 1}', '{"format": 1, "results": 3}')):
        suite.write({f"reports/fake-2026010{number}T000000Z/report.json": text})
    assert forecast(suite)["runs"] == []


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["", "{", '{"id": "q0"}', "[]"])
def test_rows_that_cannot_be_read_are_not_known(suite: Project, rows: str) -> None:
    """Where a run's rows were cut or lost, the defaults are assumed."""
    folder = Path(suite.run().report.folder)
    for path in folder.glob("base/samples_*"):
        path.write_text(rows)
    assert find_odds(forecast(suite), "no worse")["assumed"] == ["20.0% of rows differ, assumed"]


@pytest.mark.slow
def test_clusters_cost_rows(suite: Project) -> None:
    """Six rows a cluster, at a correlation that is assumed and said, are as good as fewer that are independent."""
    rows = [{**row, "group": i // 6} for i, row in enumerate(ROWS)]
    text = SUITE.replace('slices = ["kind"]', 'cluster = "group"') + MARGIN
    found = find_odds(forecast(suite.write({"suite.toml": text, "test.jsonl": rows})), "no worse")
    effect = 1 + 5 * ASSUMED_ICC
    assert (found["clusters"], found["effective"]) == (10, pytest.approx(60 / effect))
    assert found["power"] < power.pairs_power(0.0, 0.1, 0.2, 60, 0.05)
    assert f"clusters cost a factor {effect:.2f}, assumed (correlation {ASSUMED_ICC:g})" in found["assumed"]


SPREAD = """
[[gate]]
id = "fits"
metric = "fit.perplexity"
allow_approximate = true
versus = "base"
better_by = 0.01

[[eval]]
name = "fit"
use = "perplexity"
of = "completion"
data = "test.jsonl"
"""


@pytest.mark.slow
def test_spread_of_a_perplexity_is_not_invented(suite: Project) -> None:
    """Before a run it is not known, and the joint power says that it leaves the gate out; after one it is."""
    suite.write({"suite.toml": SUITE + SPREAD})
    before = forecast(suite)
    assert find_odds(before, "fits")["power"] is None
    assert find_odds(before, "fits")["missing"] == "the variance of perplexity is unknown before a first run"
    assert before["joint"][-1]["unknown"] == ["fits"]
    suite.run("--limit", "20")  # which is no run of 30 rows
    assert find_odds(forecast(suite), "fits")["missing"].endswith(
        "is unknown: no earlier run here evaluated it on 30 rows"
    )
    assert suite.run().code == 0
    after = find_odds(forecast(suite), "fits")
    assert after["power"] > 0.99
    assert after["proves"].startswith("−")
    assert "standard deviation per row " in after["assumed"][0]


OTHERS = """
[[gate]]
id = "never wrong"
metric = "qa.exact_match"
max_failures = 3

[[gate]]
id = "every kind"
metric = "qa.exact_match"
min = 0.5
slice = "kind=*"
min_n = 30

[[gate]]
id = "small kinds"
metric = "qa.exact_match"
min = 0.5
slice = "kind=*"

[[gate]]
id = "small"
metric = "size.bytes"
max = 2000

[[eval]]
name = "size"
use = "size"
"""


@pytest.mark.slow
def test_gates_that_are_no_matter_of_power(suite: Project) -> None:
    """Counts and budgets are decided as they are, small slices are alarms."""
    found = forecast(suite.write({"suite.toml": SUITE + MARGIN + OTHERS}))
    kinds = {name: find_odds(found, name)["kind"] for name in ("never wrong", "small", "small kinds")}
    assert kinds == {"never wrong": "counted", "small": "point", "small kinds": "alarm"}
    assert (
        "no failure in 60 rows shows that at most 4.87% of such rows fail" in find_odds(found, "never wrong")["missing"]
    )
    joint = next(j for j in found["joint"] if j["candidate"] == "merged")
    assert (joint["better"], joint["factor"], joint["costliest"]) == (0.0, None, "small kinds")
    assert joint["unknown"] == ["never wrong", "small"]
    sliced, floor, margin = (find_odds(found, name) for name in ("every kind", "floor", "no worse"))
    assert (sliced["rows"], sliced["assumed"][0]) == (30, "2 slices must all pass; the smallest is kind=a")
    assert sliced["power"] == pytest.approx(power.share_power(float(sliced["proves"]), 0.5, 30, 0.05) ** 2, abs=0.05)
    assert floor["alpha"] == margin["alpha"] == 0.05
    assert floor["blocking"]


@pytest.mark.slow
def test_what_rows_cannot_prove_is_a_warning(suite: Project) -> None:
    """A margin that an equal model would not reach is told with the rows it takes; one that none can, as such."""
    found = forecast(suite)
    needed = find_odds(found, "no worse")["needed"]
    assert find_odds(found, "no worse")["power"] == pytest.approx(0.496, abs=0.001)
    assert found["warnings"] == [
        f'gate "no worse": {candidate} passes 50% of the time if the candidate equals base; '
        f"{needed} rows would make it 80%"
        for candidate in ("adapter", "merged")
    ]
    tight = SUITE + MARGIN.replace("0.1", "0.06")
    found = forecast(suite.write({"suite.toml": tight}))
    chance = find_odds(found, "no worse")["power"]
    warning = f'gate "no worse": merged passes {chance:.0%} of the time if the candidate equals base; '
    assert warning + f"{find_odds(found, 'no worse')['needed']:,} rows would make it 80%" in found["warnings"]
    assert find_odds(found, "no worse")["needed"] > needed
    suite.write({"suite.toml": tight.replace("0.06", "0.02")})
    assert "60 rows cannot prove worse_by_at_most = 0.02, " in told(suite)


@pytest.mark.slow
def test_attempts_that_are_spent_cost_power(suite: Project) -> None:
    """With attempts = "spend" the next one is tested at its share of alpha, and the plan knows which it is."""
    spend = ("--set", 'suite.attempts="spend"')
    assert suite.run(*spend).code == 0
    found = find_odds(forecast(suite, *spend), "floor")
    assert found["assumed"][0] == "attempt 2, tested at alpha 0.0076"


# -- requests, time and memory ---------------------------------------------------------------------


@pytest.mark.slow
def test_requests_are_counted_and_nothing_is_loaded(suite: Project) -> None:
    """Before a run nothing is remembered and nothing made; planning makes nothing either."""
    found = forecast(suite)
    base = next(a for a in found["workloads"] if a["subject"] == "base")
    words = sum(len(str(row["input"]).split()) for row in ROWS)
    assert (base["requests"], base["cache_hits"], base["tokens"], base["answers"]) == (60, 0, words, 60 * 32)
    assert [m["there"] for m in found["artifacts"]] == [False, False]
    assert not (suite.folder / "cache/trained").exists()
    assert not (suite.folder / "reports").exists()


@pytest.mark.slow
def test_requests_that_are_remembered_are_told(suite: Project) -> None:
    """After a run all of them are, and the trained adapter is there; with another seed it is not."""
    assert suite.run().code == 0
    found = forecast(suite)
    assert {(a["requests"], a["cache_hits"]) for a in found["workloads"]} == {(60, 60)}
    assert all(m["there"] for m in found["artifacts"])
    assert "adapter: exists, " in told(suite)
    other = forecast(suite, "--set", "suite.seed=5")
    assert [m["there"] for m in other["artifacts"]] == [False, False]
    assert {a["subject"]: a["cache_hits"] for a in other["workloads"]} == {"base": 60, "adapter": 0, "merged": 0}
    assert {a["cache_hits"] for a in forecast(suite, "--no-cache")["workloads"]} == {0}


SHOTS = """
[subject.fewshot]
shots = 2

[[eval]]
name = "choice"
use = "multiple_choice"
data = "choice.jsonl"
fewshot_data = "train.jsonl"
"""


def test_shared_prompts_are_counted_once(suite: Project) -> None:
    """Three choices after one prompt, and the examples in front of all prompts, are computed once a call."""
    rows = [
        {"id": f"c{i}", "input": f"pick {i}", "choices": ["one", "two", "three"], "target": "one"} for i in range(10)
    ]
    found = forecast(suite.write({"suite.toml": SUITE + SHOTS, "choice.jsonl": rows}))
    asked = {a["subject"]: a for a in found["workloads"] if a["eval"] == "choice"}
    assert (asked["base"]["requests"], asked["base"]["tokens"], asked["base"]["unique"]) == (30, 90, 50)
    shots = (asked["fewshot"]["tokens"] - asked["base"]["tokens"]) // 30  # tokens of the examples
    assert asked["fewshot"]["unique"] == asked["base"]["unique"] + shots


MARKING = """
from harness import Score, evaluator, hookimpl, metric

@evaluator(marks="answers")
@metric("right", better="higher", scale="proportion")
def marked(samples, answers, baseline_answers, *, marking, max_new_tokens: int = 8):
    for s, answer in zip(samples, answers):
        yield Score(s.id, {"right": float(answer == s.target)})

@hookimpl
def harness_evaluators():
    return {"marked": marked}
"""


@pytest.mark.slow
def test_requests_of_marked_answers_are_counted(project: Project) -> None:
    """Of models that do not exist yet, too."""
    marked = SUITE.replace('"exact_match"', '"marked"').replace("qa.exact_match", "qa.right")
    project.write({"suite.toml": marked, "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": MARKING})
    assert {w["requests"] for w in forecast(project)["workloads"]} == {len(ROWS)}


@pytest.mark.slow
def test_evaluator_that_refuses_its_rows_is_a_mistake(suite: Project) -> None:
    """What a run would stumble over after loading a model is told here, with exit code 4."""
    suite.write({"test.jsonl": [{**row, "target": "?"} for row in ROWS]})
    outcome = suite.harness("plan", str(suite.folder / "suite.toml"), "--set", "eval.0.ignore_punctuation=true")
    assert outcome.code == 4
    assert 'eval "qa": row "q0": a target has only punctuation; set ignore_punctuation = false' in outcome.err


def test_mistakes_end_with_exit_code_4(suite: Project) -> None:
    """As everywhere: one line each, no traceback."""
    outcome = suite.harness("plan", str(suite.folder / "suite.toml"), "--set", "eval.0.use=exact_mach")
    assert outcome.code == 4
    assert 'did you mean "exact_match"?' in outcome.err
    assert "Traceback" not in outcome.err


def test_time_and_memory_are_not_known_before_they_are_measured(suite: Project) -> None:
    """The flag that measures is named instead of a number; it takes the time of a few steps."""
    assert "time and memory are unknown until measured: harness plan" in told(suite)
    assert "the whole run" not in told(suite)


@pytest.mark.slow
def test_measurements_are_kept_for_model_and_recipe(suite: Project) -> None:
    """Three steps a second and 27 more of them make twelve seconds, told again until the recipe changes."""
    first = told(suite, "--measure")
    assert "fake (this suite)" in first
    assert "30.0" in first
    assert "12.0 s, 30 steps" in first
    assert "train 12.0 s" in first
    assert told(suite).partition("training: ")[2] == first.partition("training: ")[2]
    found = forecast(suite)
    assert found["measured"]["full"]["trainable"] == 10
    assert found["measured"]["evaluation"]["peak"] > 1e6
    assert set(found["measured"]["evaluation"]["rows"]) == {"base::qa"}
    assert "fake" not in forecast(suite, "--set", "train.skill=0.8")["measured"]
    ran = suite.run()
    assert (ran.code, "train  fake, 20 rows; about 12.0 s, as measured by harness plan\n" in ran.out) == (0, True)
    assert next(s for s in forecast(suite)["stages"] if s["name"] == "train")["seconds"] == 0


@pytest.mark.slow
def test_busy_machine_is_told(suite: Project) -> None:
    """Two processors that worked a second on a tenth of the training take five seconds for all of it, undisturbed."""
    told(suite, "--measure")
    for path in (suite.folder / "cache/measured").glob("*.json"):
        one = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps({**one, "load": 2.0, "threads": 2}), "utf-8")
    assert "measured while the machine was busy; when idle the training by fake may take 5.0 s" in told(suite)


HARNESSFILE = """
import os
from harness import UsageError, hookimpl
from harness.testing import train


def broken(ref, adapter, rows, out, *, progress, seed, skill: float = 0.9):
    return train(ref, adapter, rows, out, progress=progress, seed=seed, skill=skill)


def measure(ref, adapter, rows, *, seed, skill=0.9):
    if adapter is None:
        raise UsageError("needs more than 2.2 GB")
    os.kill(os.getpid(), 9)


broken.measure = measure


@hookimpl
def harness_trainers():
    return {"broken": broken}
"""


@pytest.mark.slow
def test_measurement_that_fails_is_told_and_not_kept(suite: Project) -> None:
    """A process that is killed, or says that it does not fit, costs its own line and nothing else."""
    text = SUITE.replace('[train]\nuse = "fake"', '[train]\nuse = "broken"')
    out = told(suite.write({"suite.toml": text, "harnessfile.py": HARNESSFILE}), "--measure")
    assert "fake: was killed, probably because the system ran out of memory" in out
    assert "full fine-tune: needs more than 2.2 GB" in out
    assert set(forecast(suite)["measured"]) == {"evaluation"}


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_measured_steps_are_those_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the tiny model: the same steps and tokens as a real training, for QLoRA, LoRA and all weights."""
    pytest.importorskip("torch")
    from harness.pipeline.measurements import read_measurements
    from harness.pipeline.run import Options, open_run
    from harness.planning import benchmark

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    smoke = Path(__file__).parents[2] / "suites/smoke.toml"
    options = Options(overrides=("train.max_steps=-1", "train.num_train_epochs=2", "train.validation=0.1"))
    session = open_run(smoke, options).session
    found = benchmark.measure_suite(session)
    assert list(found) == ["qlora", "lora", "full", "evaluation"]
    assert [one.error for one in found.values()] == [""] * 4
    training = session.suite.train
    assert training and session.collection.training
    trainer = session.collection.plugins.find("trainer", "sft").function
    out = trainer(
        session.base,
        session.opened.adapter,
        list(session.collection.training),
        tmp_path / "run/adapter",
        progress=lambda _: None,
        seed=17,
        **training.options,
    )
    facts = json.loads((out / "harness-adapter.json").read_text("utf-8"))["facts"]
    for name in ("qlora", "lora", "full"):
        one = found[name]
        assert (one.whole_steps, one.whole_tokens) == (facts["steps"], 2 * facts["tokens"]), name
        assert 0 < one.extra < 5
        assert 1e8 < one.peak < 4e9
    assert found["full"].trainable > found["lora"].trainable == facts["trainable_parameters"]
    assert "fewshot::answer" in found["evaluation"].rows
    assert read_measurements(session) == found
