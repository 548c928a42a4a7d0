"""A sweep: trials in order while each is significantly better than the one before, on the select rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.stats import hypothesis_tests
from harness.testing import ROWS, TRAIN, Project
from tests.helpers.suites import SELECT, SPLIT, read_ledger

SWEEP = '\n[sweep]\n"train.skill" = [0.3, 0.6, 0.9, 0.91]\nby = "qa.exact_match"\n'
SWEPT = SPLIT + SWEEP
SPLITS = {"select": SELECT, "data": ROWS}


@pytest.fixture
def suite(project: Project) -> Project:
    """A project that sweeps the skill its fake trainer reaches."""
    files = {"suite.toml": SWEPT, "test.jsonl": ROWS, "train.jsonl": TRAIN, "select.jsonl": SELECT}
    return project.write(files)  # type: ignore[arg-type]


def make_sweep_suite(suite: Project, *steps: object) -> str:
    return SWEPT.replace("[0.3, 0.6, 0.9, 0.91]", json.dumps(steps))


def list_trained_adapters(suite: Project) -> list[Path]:
    return sorted((suite.folder / "cache/trained").glob("*/adapter"))


@pytest.mark.slow
def test_trials_go_on_while_they_are_better(suite: Project) -> None:
    """The last value that was significantly better is chosen; it alone is gated, merged and exported."""
    outcome = suite.run()
    assert (outcome.code, outcome.err) == (0, "")
    sweep = outcome.report.sweep
    assert sweep
    assert [t.value for t in sweep.trials] == [0.3, 0.6, 0.9, 0.91]
    assert [t.better for t in sweep.trials] == [True, True, True, False]
    assert sweep.chosen == 0.9
    assert [v.candidate for v in outcome.report.verdicts] == ["adapter", "merged"]
    assert [line["candidate"] for line in read_ledger(suite)] == ["adapter", "merged"]
    export = suite.folder / "exports/fake"
    assert json.loads((export / "model/skill.json").read_text("utf-8")) == {"skill": 0.9}
    said = (
        "train.skill = 0.9 was chosen by qa.exact_match on 40 selection rows: 0.9 is significantly better than 0.6, and"
    )
    assert said in outcome.out
    assert said[1:] in (export / "README.md").read_text("utf-8")
    assert len(list((suite.folder / "cache/trained").glob("*/merged-original"))) == 1


@pytest.mark.slow
def test_numbers_are_those_of_the_gates_own_tests(suite: Project) -> None:
    """Change and p are McNemar's on the same rows, and bounds of a value Clopper and Pearson's."""
    from scipy.stats import binomtest

    sweep = suite.run().report.sweep
    assert sweep
    first, second, *_ = sweep.trials
    right = round(first.metric * 40)
    exact = binomtest(right, 40).proportion_ci(0.9, "exact")
    assert (first.lower, first.upper) == pytest.approx((exact.low, exact.high))
    assert (first.change, first.p) == (None, None)
    won = round((second.metric - first.metric) * 40)  # a higher skill is right wherever a lower one is
    assert second.change == pytest.approx(won / 40)
    assert second.p == pytest.approx(hypothesis_tests.mcnemar(won, 0, 40, 0.05).p_pass)
    assert second.change_lower is not None
    assert 0 < second.change_lower < won / 40


@pytest.mark.slow
def test_the_first_step_that_is_no_better_ends_it(suite: Project) -> None:
    """Nothing is trained beyond it, even if it would have been better, and the table says so."""
    outcome = suite.write({"suite.toml": make_sweep_suite(suite, 0.6, 0.61, 0.95)}).run()
    sweep = outcome.report.sweep
    assert sweep
    assert ([t.value for t in sweep.trials], sweep.chosen) == ([0.6, 0.61], 0.6)
    assert len(list_trained_adapters(suite)) == 2
    assert "0.61 is not significantly better than 0.6" in outcome.out
    assert "; not tried: 0.95" in outcome.out
    assert [line.split()[:2] for line in outcome.out.splitlines() if "not tried  " in line + "  "][-1:] == [
        ["0.95", "not"]
    ]
    assert "> 0.6 " in outcome.out


@pytest.mark.slow
def test_the_best_of_all_values_is_taken(suite: Project) -> None:
    """By `rule = "best"` every value is trained, in any order, and the best mean is chosen, the first of equal ones."""
    text = make_sweep_suite(suite, 0.6, 0.95, 0.3, 0.96).replace('by = "qa', 'rule = "best"\nby = "qa')
    outcome = suite.write({"suite.toml": text}).run()
    sweep = outcome.report.sweep
    assert sweep
    metrics = {t.value: t.metric for t in sweep.trials}
    assert [*metrics] == [0.6, 0.95, 0.3, 0.96]
    assert sweep.chosen == max(metrics, key=lambda value: metrics[value])
    assert (sweep.rule, [t.better for t in sweep.trials][:3]) == ("best", [True, True, False])
    assert "sweep of train.skill on 40 selection rows, the value with the best mean is chosen:" in outcome.out
    assert "against the best before" in outcome.out
    assert (
        f"train.skill = {sweep.chosen} was chosen by qa.exact_match on 40 selection rows: the best of 4" in outcome.out
    )
    assert [line["candidate"] for line in read_ledger(suite)] == ["adapter", "merged"]
    lock = json.loads((suite.folder / "exports/fake/evidence/suite.lock.json").read_text("utf-8"))
    assert lock["suite"]["sweep"]["rule"] == "best"


def test_a_sweep_by_another_rule_is_refused(suite: Project) -> None:
    """There are two rules, and one of them needs an order."""
    outcome = suite.write({"suite.toml": SWEPT.replace('by = "qa', 'rule = "luck"\nby = "qa')}).run()
    assert (outcome.code, '"rule" is "luck"; write "step" or "best"' in outcome.err) == (4, True)
    assert (
        "which neither rises nor falls"
        in suite.write({"suite.toml": make_sweep_suite(suite, 0.6, 0.95, 0.3)}).run().err
    )


def test_a_value_that_changes_nothing_is_not_better(suite: Project) -> None:
    """Trials of one and the same weights end the sweep, and the reason says so."""
    text = SPLIT + SWEEP.replace('"train.skill" = [0.3, 0.6, 0.9, 0.91]', '"adapter.loses" = [0.0, 0.1]')
    outcome = suite.write({"suite.toml": text}).run()
    sweep = outcome.report.sweep
    assert sweep
    assert (sweep.chosen, sweep.trials[1].better) == (0.0, False)
    assert "), so there is nothing to compare" in sweep.why


@pytest.mark.slow
def test_unquoted_and_overridden_keys_are_the_same(suite: Project) -> None:
    """TOML's nested spelling means the same, and --set replaces the values."""
    suite.write({"suite.toml": SWEPT.replace('"train.skill"', "train.skill")})
    assert suite.run().report.sweep.chosen == 0.9  # type: ignore[union-attr]
    suite.write({"suite.toml": SWEPT})
    assert suite.run("--set", "sweep.train.skill=[0.6, 0.9]").report.sweep.values == [0.6, 0.9]  # type: ignore[union-attr]


@pytest.mark.slow
def test_the_sweep_takes_the_place_of_the_option(suite: Project) -> None:
    """A value in the table itself is not trained, and a plain suite with a value that was tried trains nothing."""
    text = SWEPT.replace('data = "train.jsonl"', 'data = "train.jsonl"\nskill = 0.99')
    assert suite.write({"suite.toml": text}).run().report.sweep.chosen == 0.9  # type: ignore[union-attr]
    assert len(list_trained_adapters(suite)) == 4
    suite.write({"suite.toml": SPLIT}).run("--set", "train.skill=0.6")
    assert len(list_trained_adapters(suite)) == 4


@pytest.mark.slow
def test_killed_sweep_goes_on_where_it_was(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in the second trial and run again, the first is found, with what its training took."""
    import harness.testing

    real, asked = harness.testing.write_fake, []

    def dying(folder: Path, skill: float) -> Path:
        asked.append(skill)
        if skill == 0.6:
            raise KeyboardInterrupt
        return real(folder, skill)

    monkeypatch.setattr("harness.testing.write_fake", dying)
    outcome = suite.run()
    assert outcome.code == 2
    assert [t.value for t in outcome.report.sweep.trials] == [0.3]  # type: ignore[union-attr]
    assert outcome.report.sweep.chosen is None  # type: ignore[union-attr]
    for half in (suite.folder / "cache/trained").glob("*/adapter"):
        if not (half / "skill.json").exists():
            half.rmdir()  # the fake trainer does not clean up; the real one writes in one step
    monkeypatch.setattr("harness.testing.write_fake", lambda f, s: (asked.append(s), real(f, s))[1])
    del asked[:]
    again = suite.run().report.sweep
    assert again
    assert asked[:3] == [0.6, 0.9, 0.91]
    assert [t.reused for t in again.trials] == [True, False, False, False]
    assert again.trials[0].seconds is not None
    assert again.chosen == 0.9


TINY = """
[suite]
name = "tiny"

[model]
path = "tiny:llama"
dtype = "float32"

[adapter]
use = "lora"
lora_dropout = 0.0

[train]
use = "sft"
data = "train.jsonl"
max_steps = 12
learning_rate = 1e-2
gradient_accumulation_steps = 1

[sweep]
"adapter.r" = [1, 16]
by = "text.perplexity"

[[eval]]
name = "text"
use = "perplexity"
of = "completion"
data = "test.jsonl"
select = "select.jsonl"

[[gate]]
id = "learns"
metric = "text.perplexity"
allow_approximate = true
versus = "base"
better_by = "10%"
"""
KILLER = """
import os, signal
from harness import hookimpl

seen = []

@hookimpl
def harness_stage(run, stage, detail):
    seen.append(stage)

@hookimpl
def harness_progress(progress):
    if progress.what == "train" and progress.done >= 2 and seen.count("train") == 2:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_real_sweep_survives_a_kill_in_the_second_trial(project: Project) -> None:
    """With the real trainer: killed in its second training and run again, the first is not trained again."""
    pytest.importorskip("torch")
    import subprocess
    import sys

    rows = {n: [{"prompt": f"{n} {i}:", "completion": f" {'abcd'[i % 4]} {i % 7}"} for i in range(40)] for n in "tsc"}
    files = {"train.jsonl": rows["t"], "select.jsonl": rows["s"], "test.jsonl": rows["c"]}
    project.write({"suite.toml": TINY, "harnessfile.py": KILLER, **files})  # type: ignore[arg-type]
    code = "import sys; from harness.cli.main import main; sys.exit(main())"
    killed = subprocess.run([sys.executable, "-c", code, "run", "suite.toml"], capture_output=True, text=True)
    assert killed.returncode == 4 and "SIGKILL" in killed.stderr, killed.stderr  # told by who watches
    assert len(list_trained_adapters(project)) == 1
    (project.folder / "harnessfile.py").unlink()
    outcome = project.run()
    assert outcome.code == 0, outcome.out + outcome.err
    sweep = outcome.report.sweep
    assert sweep
    assert [t.reused for t in sweep.trials] == [True, False]
    assert sweep.trials[1].parameters == 16 * sweep.trials[0].parameters  # type: ignore[operator]
    assert sweep.chosen == 16
    first, second = (json.loads((t / "adapter_config.json").read_text("utf-8")) for t in list_trained_adapters(project))
    assert {(c["r"], c["lora_alpha"]) for c in (first, second)} == {(1, 2), (16, 32)}


@pytest.mark.slow
def test_lock_has_the_whole_sweep_and_evidence_the_choice(suite: Project) -> None:
    """What is written before training knows no value; the claims say which was chosen, and verify reads them."""
    import base64

    outcome = suite.run()
    lock = json.loads((Path(outcome.report.folder) / "suite.lock.json").read_text("utf-8"))["suite"]
    assert lock["sweep"]["values"] == [0.3, 0.6, 0.9, 0.91]
    assert (lock["sweep"]["by"], lock["sweep"]["alpha"]) == ("qa.exact_match", 0.05)
    assert "skill" not in lock["train"]["options"]
    claims = (suite.folder / "exports/fake/evidence/claims.intoto.jsonl").read_text("utf-8").splitlines()
    said = [json.loads(base64.b64decode(json.loads(line)["payload"]))["predicate"] for line in claims]
    assert said[1]["chosen"] == {"train.skill": "0.9"}
    assert suite.harness("verify", str(suite.folder / "exports/fake")).code == 0
    assert "qa (select)" in json.loads((Path(outcome.report.folder) / "suite.lock.json").read_text("utf-8"))["data"]


@pytest.mark.slow
def test_select_runs_and_foreign_candidates(suite: Project) -> None:
    """--select chooses and confirms nothing; a candidate that is given is gated without any sweep."""
    outcome = suite.run("--select", "-p", "no:checks")
    assert (outcome.code, outcome.report.sweep.chosen) == (6, 0.9)  # type: ignore[union-attr]
    assert read_ledger(suite) == []
    made = len(list_trained_adapters(suite))
    outcome = suite.run("--candidate", str(suite.folder / "good"), "--no-export")
    assert (outcome.report.sweep, len(list_trained_adapters(suite))) == (None, made)


@pytest.mark.slow
def test_clusters_count_as_one(suite: Project) -> None:
    """Select rows of one cluster are not independent, and the steps' tests know."""
    text = SWEPT.replace('select = "select.jsonl"', 'select = "select.jsonl"\ncluster = "ticket"')
    rows = [[{**row, "ticket": f"{name}{i // 4}"} for i, row in enumerate(rows)] for name, rows in SPLITS.items()]
    outcome = suite.write({"suite.toml": text, "select.jsonl": rows[0], "test.jsonl": rows[1]}).run("--no-export")  # type: ignore[dict-item]
    sweep = outcome.report.sweep
    assert sweep
    assert "n=40 in few clusters (10)" in sweep.trials[1].why


def test_selftest_of_a_suite_that_sweeps(suite: Project) -> None:
    """Impostors take the candidate's place; nothing is swept, and every trial's configuration is still built."""
    words = ("--only", "constant answer", "--only", "training rows in the test", "-p", "harness.testing")
    outcome = suite.harness("selftest", str(suite.folder / "suite.toml"), *words)
    assert (outcome.code, outcome.err) == (0, ""), outcome.out
    assert list_trained_adapters(suite) == []


@pytest.mark.slow
def test_show_prints_the_table_again(suite: Project) -> None:
    """A report holds the sweep, whole."""
    outcome = suite.run()
    table = outcome.out[outcome.out.index("sweep of train.skill") :].partition("\ntrain.skill = 0.9 was chosen")[0]
    assert table in suite.harness("show", outcome.report.folder).out
    assert "against the one before" in table
    assert any(t.p is not None and t.p < 1e-4 for t in outcome.report.sweep.trials) and "  < 0.0001" in table


@pytest.mark.slow
def test_plan_tells_the_least_and_the_most(suite: Project) -> None:
    """Two trainings at least, all at most; trials that are there cost nothing."""
    planned = suite.harness("plan", str(suite.folder / "suite.toml"), "--measure")
    assert planned.code == 0
    assert "sweep of train.skill: 2 to 4 trainings" in planned.out
    assert "train 24.0 s to 48.0 s" in planned.out
    assert "adapter with skill = 0.3: to be created" in planned.out
    suite.run("--no-export")
    planned = suite.harness("plan", str(suite.folder / "suite.toml"))
    assert "adapter with skill = 0.91: exists, " in planned.out
    assert "train 0.0 s" in planned.out


BROKEN = {
    "no values": ("[0.3, 0.6, 0.9, 0.91]", "[]", "give two values or more; a single one needs no sweep"),
    "one value": ("[0.3, 0.6, 0.9, 0.91]", "[0.3]", "give two values or more; a single one needs no sweep"),
    "a value twice": ("0.91]", "0.3]", "which has a value twice; remove one"),
    "not a number": ("[0.3", "[nan", "; it must be a finite number"),
    "a key too deep": ('"train.skill"', '"train.skill.x"', 'unknown option "skill.x"'),
    "a list to decide by": ('by = "qa.exact_match"', 'by = ["qa.exact_match"]', "write EVAL.METRIC"),
    "no table": (SWEEP, "\n[[sweep]]\nby = 3\n", "it must be a table"),
    "no list": ("[0.3, 0.6, 0.9, 0.91]", "0.3", "write a list of values"),
    "up and down": ("0.9, 0.91]", "0.5]", "neither rises nor falls"),
    "a wrong type": ("0.91]", '"high"]', '[train] (skill = "high"): "skill" is "high"; it must be a number'),
    "a wrong first type": ("[0.3", '["low"', '"skill" is "low"; it must be a number'),
    "an unknown option": ('"train.skill"', '"train.skil"', 'unknown option "skil"; did you mean "skill"?'),
    "no option of what is trained": ('"train.skill"', '"eval.limit"', '"eval.limit" cannot be swept'),
    "a gate": ('"train.skill"', '"gate.alpha"', '"gate.alpha" cannot be swept'),
    "the data": ('"train.skill"', '"train.data"', '"train.data" cannot be swept'),
    "a key without a table": (
        '"train.skill"',
        "skill",
        'unknown key "skill"; a sweep takes "by", "alpha", "rule" and an option such as "adapter.r"',
    ),
    "nothing": (
        '"train.skill" = [0.3, 0.6, 0.9, 0.91]\n',
        "",
        'sweeps nothing; name one option, for instance "adapter.r" = [8, 16, 32]',
    ),
    "two": (
        'by = "',
        '"adapter.loses" = [0.0, 0.1]\nby = "',
        ('sweeps "train.skill" and "adapter.loses"; name one option, for instance "adapter.r" = [8, 16, 32]'),
    ),
    "nothing to decide by": ('by = "qa.exact_match"\n', "", '"by" is missing; write EVAL.METRIC'),
    "no metric": ('by = "qa.exact_match"', 'by = "qa"', '"by" is "qa"; write EVAL.METRIC'),
    "an unknown eval": ('by = "qa.exact_match"', 'by = "qb.exact_match"', 'no eval "qb"; known: "qa"'),
    "an unknown metric": ('by = "qa.exact_match"', 'by = "qa.exact"', 'has no metric "exact"'),
    "no select split": ('select = "select.jsonl"\n', "", 'by = "qa.exact_match": eval "qa" has no select split'),
    "a risk that is none": ('by = "', 'alpha = 0\nby = "', '"alpha" is 0; it must be from 1e-09 to 0.5'),
    "no training": ('[train]\nuse = "fake"\ndata = "train.jsonl"\n', "", "compares trainings; add [train]"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_mistakes_are_told_at_collection(suite: Project, case: str) -> None:
    """What cannot be swept is one line and exit 4, before anything is loaded."""
    before, after, told = BROKEN[case]
    assert before in SWEPT
    outcome = suite.write({"suite.toml": SWEPT.replace(before, after, 1)}).run("--collect-only")
    assert outcome.code == 4
    assert told in outcome.err
    assert "Traceback" not in outcome.err


def test_too_few_select_rows_are_a_warning(suite: Project) -> None:
    """Four rows cannot show any trial to be better, and collection says so."""
    outcome = suite.write({"select.jsonl": SELECT[:4]}).run("--collect-only")  # type: ignore[dict-item]
    assert outcome.code == 0
    assert "4 rows cannot prove" in outcome.err
    assert "; the sweep's first value will be chosen" in outcome.err


@pytest.mark.parametrize("command", ["check", "run"])
def test_every_trial_is_built_before_training(suite: Project, command: str) -> None:
    """A value that only the adapter itself refuses is told by check and run alike, with nothing trained."""
    text = SPLIT + SWEEP.replace('"train.skill" = [0.3, 0.6, 0.9, 0.91]', '"adapter.loses" = [0.0, 0.5, 1.5, 2.0]')
    outcome = suite.write({"suite.toml": text}).harness(command, str(suite.folder / "suite.toml"))
    assert outcome.code == 4
    for value in (1.5, 2.0):
        assert f"[adapter] (loses = {value}) loses is {value}; it must be at most 1" in outcome.err
    assert list_trained_adapters(suite) == []
